//! Time limits for the detection of an unreachable server.
//!
//! Source: PostgreSQL's manual, "Parameter Key Words"; Linux, `tcp(7)`.

use crate::error::{Error, Result};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// The kernel probes an idle connection, and closes it if the peer does not respond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeepaliveSettings {
    on: bool,
    idle_s: u32,
    interval_s: u32,
    count: u32,
    /// Time limit for the acknowledgment of sent data.
    user_timeout_ms: u32,
}

impl Default for KeepaliveSettings {
    /// A dead peer ends a connection within a minute or so.
    fn default() -> KeepaliveSettings {
        KeepaliveSettings { on: true, idle_s: 30, interval_s: 10, count: 3, user_timeout_ms: 60_000 }
    }
}

/// A busy server may need several times as long as the network.
const SILENCE_TIMES: u32 = 3;

/// The parameters read by this module.
const PARAMETERS: [&str; 6] = [
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "keepalives_retries",
    "tcp_user_timeout",
];

impl KeepaliveSettings {
    pub(super) fn knows(name: &str) -> bool {
        PARAMETERS.contains(&name)
    }

    /// Parses the connection's parameters, in libpq's units; 0 and absence select pgark's own defaults, which are
    /// shorter than the system's.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for values that are not numbers.
    pub(super) fn read(parameters: &[(&str, String)]) -> Result<KeepaliveSettings> {
        let mut settings = KeepaliveSettings::default();
        for (name, value) in parameters.iter().filter(|(name, value)| Self::knows(name) && !value.is_empty())
        {
            let number: i32 = value.trim().parse().map_err(|_| {
                Error::usage(format!("invalid value {value:?} for the connection parameter {name}"))
                    .hint("Specify a number.")
            })?;
            let number = u32::try_from(number).unwrap_or_default();
            let target = match *name {
                "keepalives" => {
                    settings.on = number != 0;
                    continue;
                }
                "keepalives_idle" => &mut settings.idle_s,
                "keepalives_interval" => &mut settings.interval_s,
                "tcp_user_timeout" => &mut settings.user_timeout_ms,
                _ => &mut settings.count,
            };
            if number > 0 {
                *target = number;
            }
        }
        Ok(settings)
    }

    /// Time limit for the server's response to a ping.
    pub(super) fn silence_max(self) -> Duration {
        Duration::from_millis(u64::from(self.user_timeout_ms)) * SILENCE_TIMES
    }

    /// Applies the settings to a socket.
    pub(super) fn apply(self, socket: &TcpStream) -> io::Result<()> {
        setsockopt(socket, KeepAlive, &self.on)?;
        if self.on {
            setsockopt(socket, TcpKeepIdle, &self.idle_s)?;
            setsockopt(socket, TcpKeepInterval, &self.interval_s)?;
            setsockopt(socket, TcpKeepCount, &self.count)?;
        }
        setsockopt(socket, TcpUserTimeout, &self.user_timeout_ms)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_libpq() {
        let read = |name, value: &str| KeepaliveSettings::read(&[(name, value.to_owned())]);
        assert_eq!(read("tcp_user_timeout", "1500").unwrap().user_timeout_ms, 1500);
        assert_eq!(read("keepalives_idle", "7").unwrap().idle_s, 7);
        assert_eq!(read("keepalives_count", "2").unwrap().count, 2);
        assert_eq!(read("keepalives_idle", "0").unwrap(), KeepaliveSettings::default());
        assert!(!read("keepalives", "0").unwrap().on);
        assert!(read("keepalives", "no").is_err());
    }

    #[tokio::test]
    async fn a_socket_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        KeepaliveSettings::default().apply(&socket).unwrap();
        use nix::sys::socket::getsockopt;
        assert!(getsockopt(&socket, KeepAlive).unwrap());
        assert_eq!(getsockopt(&socket, TcpKeepIdle).unwrap(), 30);
        assert_eq!(getsockopt(&socket, TcpKeepInterval).unwrap(), 10);
        assert_eq!(getsockopt(&socket, TcpKeepCount).unwrap(), 3);
        assert_eq!(getsockopt(&socket, TcpUserTimeout).unwrap(), 60_000);
    }
}
