//! Transaction IDs.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A transaction ID without the epoch; 0 if a WAL record belongs to no transaction.
///
/// Source: PostgreSQL `access/transam.h`; 1 and 2 are reserved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Xid(u32);

impl Xid {
    /// The first ID that a transaction can have.
    const FIRST_NORMAL: u32 = 3;

    /// The transaction with this ID.
    pub const fn new(number: u32) -> Xid {
        Xid(number)
    }

    /// The ID as a number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// Whether a transaction can have this ID.
    pub const fn is_normal(self) -> bool {
        self.0 >= Xid::FIRST_NORMAL
    }
}

/// A transaction ID as entered by an operator, with or without its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedXid {
    /// The transaction ID.
    pub xid: Xid,
    /// The epoch, the number of wraparounds, if given.
    pub epoch: Option<u32>,
}

impl FromStr for WantedXid {
    type Err = Error;

    /// Parses decimal digits. The output of `pg_current_xact_id()` has the epoch in its upper 32 bits; a value below
    /// 2³² has none.
    fn from_str(text: &str) -> Result<WantedXid> {
        let xid = text.parse::<Xid>()?;
        let epoch = text.parse::<u64>().ok().and_then(|number| u32::try_from(number >> 32).ok());
        Ok(WantedXid { xid, epoch: epoch.filter(|epoch| *epoch > 0) })
    }
}

impl Xid {
    /// The epoch of this ID if it was in use when `next` was the next full ID.
    pub fn epoch_near(self, next: u64) -> u32 {
        let (epoch, low) = ((next >> 32) as u32, next as u32);
        // IDs in use lie within half of the range around the next one.
        if self.0.wrapping_sub(low) < 1 << 31 {
            if self.0 < low { epoch.wrapping_add(1) } else { epoch }
        } else if self.0 > low {
            epoch.wrapping_sub(1)
        } else {
            epoch
        }
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Xid {
    type Err = Error;

    /// Parses the ID of a transaction that can have committed: decimal digits, with or without the epoch that
    /// `pg_current_xact_id()` adds in the upper 32 bits. WAL does not contain the epoch, so it is dropped, as in
    /// `recovery_target_xid`.
    fn from_str(text: &str) -> Result<Xid> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number: Option<u64> = if digits { text.parse().ok() } else { None };
        number.map(|number| Xid((number & 0xFFFF_FFFF) as u32)).filter(|xid| xid.is_normal()).ok_or_else(
            || {
                Error::usage(format!("\"{text}\" is not a transaction ID"))
                    .hint("Specify the number that pg_current_xact_id() or txid_current() returned; the first one is 3.")
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_dropped() {
        assert_eq!("731".parse::<Xid>().unwrap(), Xid::new(731));
        assert_eq!("4294968027".parse::<Xid>().unwrap(), Xid::new(731));
        assert_eq!("4294967295".parse::<Xid>().unwrap().to_string(), "4294967295");
        for text in ["", "0", "2", "4294967296", "-1", "+3", "0x10", "18446744073709551616"] {
            assert!(text.parse::<Xid>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_epoch_follows_from_a_number_nearby() {
        let epoch = |xid: u32, next: u64| Xid::new(xid).epoch_near(next);
        assert_eq!(epoch(700, 750), 0);
        assert_eq!(epoch(800, 750), 0, "begun after the checkpoint");
        assert_eq!(epoch(700, (3 << 32) + 750), 3);
        assert_eq!(epoch(u32::MAX - 5, (3 << 32) + 750), 2, "before the numbers wrapped around");
        assert_eq!(epoch(5, (3 << 32) + u64::from(u32::MAX) - 5), 4, "after it");
        let wanted: WantedXid = "12884902588".parse().unwrap();
        assert_eq!((wanted.xid.as_u32(), wanted.epoch), (700, Some(3)));
        let wanted: WantedXid = "700".parse().unwrap();
        assert_eq!((wanted.xid.as_u32(), wanted.epoch), (700, None));
    }
}
