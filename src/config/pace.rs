//! Limits on a command's use of the machine.

use super::settings::Settings;
use crate::error::{Error, Result};
use std::num::NonZeroU64;
use std::str::FromStr;

/// Minimum rate. Below it, a single read would delay a command longer than the detection of an interruption.
const RATE_MIN: u64 = 128 << 10;

/// A rate in bytes per second, at least 128 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(NonZeroU64);

/// Limits of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceSettings {
    /// Bytes of the cluster transferred per second; `None` means no limit.
    pub max_rate: Option<Rate>,
    /// Its priority for the processors.
    pub niceness: Niceness,
    /// Its priority for the disks.
    pub io_priority: IoPriority,
}

/// The CPU niceness of a process, from 0 (normal priority) to 19 (lowest). Source: `nice(1)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Niceness(u8);

/// An I/O priority, for disks whose scheduler supports it. Source: `ionice(1)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoPriority {
    /// As the kernel derives it from the niceness.
    Normal,
    /// The lowest priority that is always served: best effort, level 7.
    Low,
    /// Only when the disk is otherwise idle.
    Idle,
}

impl Rate {
    /// The rate in bytes per second.
    pub fn bytes_per_s(self) -> NonZeroU64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = Error;

    /// Reads `50M`: a whole number of bytes a second, of 1024 with `k`, of 1024 of those with `M`, of those with `G`.
    fn from_str(text: &str) -> Result<Rate> {
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit: Option<u64> = match text.strip_prefix(digits) {
            Some("") => Some(1),
            Some("k" | "K") => Some(1 << 10),
            Some("M") => Some(1 << 20),
            Some("G") => Some(1 << 30),
            _ => None,
        };
        let bytes =
            digits.parse().ok().zip(unit).and_then(|(number, unit): (u64, u64)| number.checked_mul(unit));
        bytes.filter(|bytes| *bytes >= RATE_MIN).and_then(NonZeroU64::new).map(Rate).ok_or_else(|| {
            Error::usage(format!(
                "\"{text}\" is not a rate: give bytes per second, at least 128k, such as 500k, 50M or 1G"
            ))
        })
    }
}

impl Niceness {
    /// The number, 0 to 19.
    pub fn as_u8(self) -> u8 {
        self.0
    }
}

impl PaceSettings {
    /// Reads the limits of a section. The agent has no rate limit, because it must keep up with the server.
    pub(super) fn read(settings: &Settings, section: &str) -> PaceSettings {
        let max_rate_mib = match section {
            "agent" => 0,
            _ => settings.number(&format!("{section}.max_rate_mib")),
        };
        PaceSettings {
            max_rate: NonZeroU64::new(max_rate_mib << 20).map(Rate),
            niceness: Niceness(u8::try_from(settings.number(&format!("{section}.nice"))).unwrap_or(u8::MAX)),
            io_priority: match settings.word(&format!("{section}.io_priority")) {
                "low" => IoPriority::Low,
                "idle" => IoPriority::Idle,
                _ => IoPriority::Normal,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        let bytes = |text: &str| text.parse::<Rate>().map(|rate| rate.bytes_per_s().get()).ok();
        assert_eq!(bytes("131072"), Some(128 << 10));
        assert_eq!(bytes("500k"), Some(500 << 10));
        assert_eq!(bytes("50M"), Some(50 << 20));
        assert_eq!(bytes("2G"), Some(2 << 30));
        for wrong in ["", "M", "0", "1k", "-1M", "1.5M", "50MB", "50 M", "99999999999999G"] {
            assert_eq!(bytes(wrong), None, "{wrong:?}");
        }
    }
}
