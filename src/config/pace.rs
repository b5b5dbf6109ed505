//! Limits on a command's use of the machine.

use super::keys::{RATE_MAX, RATE_MIN};
use super::quantity::{parse_size, size_text};
use super::settings::Settings;
use crate::error::{Error, Result};
use std::num::NonZeroU64;
use std::str::FromStr;

/// A rate in bytes per second, from 128 kB to 1 TB.
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

    /// Reads `50MB`: a size per second, with a unit.
    fn from_str(text: &str) -> Result<Rate> {
        let bytes = parse_size(text).filter(|bytes| (RATE_MIN..=RATE_MAX).contains(bytes));
        bytes.and_then(NonZeroU64::new).map(Rate).ok_or_else(|| {
            Error::usage(format!(
                "\"{text}\" is not a rate: give a size per second from {} to {}, such as 500kB, 50MB or 1GB",
                size_text(RATE_MIN),
                size_text(RATE_MAX)
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
        let max_rate = match section {
            "agent" => 0,
            _ => settings.bytes(&format!("{section}.max_rate")),
        };
        PaceSettings {
            max_rate: NonZeroU64::new(max_rate).map(Rate),
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
        assert_eq!(bytes("131072B"), Some(128 << 10));
        assert_eq!(bytes("500kB"), Some(500 << 10));
        assert_eq!(bytes("50MB"), Some(50 << 20));
        assert_eq!(bytes("2GB"), Some(2 << 30));
        for wrong in ["", "MB", "0", "1kB", "-1MB", "1.5MB", "50M", "52428800", "2TB"] {
            assert_eq!(bytes(wrong), None, "{wrong:?}");
        }
    }
}
