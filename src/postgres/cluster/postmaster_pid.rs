//! `postmaster.pid`: a running or crashed server's description of itself in its data directory.

/// The content of the file. The caller must determine whether the process still runs.
///
/// Source: PostgreSQL `utils/pidfile.h` (`miscadmin.h` up to 9.6), `LOCK_FILE_LINE_PID` and following. A starting
/// server writes the file line by line, so later lines may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostmasterPid {
    /// The process ID. In single-user mode the file contains it negated.
    pub process_id: i32,
    /// Whether it is in single-user mode.
    pub single_user: bool,
    /// Start time, in seconds since 1970.
    pub started_unix_s: Option<i64>,
    /// The port.
    pub port: Option<u16>,
    /// The directory of the first Unix socket; `None` if there is none, or none yet.
    pub socket_directory: Option<String>,
    /// The first listen address; `*` means all addresses. `None` if there is none, or none yet.
    pub listen_address: Option<String>,
    /// Whether the server is shutting down, in any mode.
    pub stopping: bool,
}

impl PostmasterPid {
    /// Parses the file; `None` if it names no process: the server has just begun to write it, or it is another file.
    pub fn parse(content: &[u8]) -> Option<PostmasterPid> {
        let content = String::from_utf8_lossy(content);
        let lines: Vec<&str> = content.lines().map(str::trim).collect();
        let line = |number: usize| lines.get(number).copied().filter(|line| !line.is_empty());
        let written: i32 = line(0)?.parse().ok()?;
        let process_id = written.checked_abs()?;
        // 0 would denote a process group. In a container, a server may be process 1.
        if process_id < 1 {
            return None;
        }
        Some(PostmasterPid {
            process_id,
            single_user: written < 0,
            started_unix_s: line(2).and_then(|text| text.parse().ok()),
            port: line(3).and_then(|text| text.parse().ok()),
            socket_directory: line(4).map(str::to_owned),
            listen_address: line(5).map(str::to_owned),
            // Source: `PM_STATUS_STOPPING`, on line `LOCK_FILE_LINE_PM_STATUS`.
            stopping: line(7) == Some("stopping"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_server_writes_and_as_far_as_it_has_come() {
        let whole =
            PostmasterPid::parse(b"4711\n/data\n1767225600\n5433\n/run/postgresql\n*\n  1234 0\nready   \n");
        let expected = PostmasterPid {
            process_id: 4711,
            single_user: false,
            started_unix_s: Some(1_767_225_600),
            port: Some(5433),
            socket_directory: Some("/run/postgresql".to_owned()),
            listen_address: Some("*".to_owned()),
            stopping: false,
        };
        assert_eq!(whole, Some(expected.clone()));
        let begun = PostmasterPid {
            started_unix_s: None,
            port: None,
            socket_directory: None,
            listen_address: None,
            ..expected.clone()
        };
        assert_eq!(PostmasterPid::parse(b"4711\n/data\n"), Some(begun));
        let tcp_only = PostmasterPid { socket_directory: None, ..expected };
        assert_eq!(PostmasterPid::parse(b"4711\n/data\n1767225600\n5433\n\n*\n"), Some(tcp_only));
        let stopping =
            PostmasterPid::parse(b"1\n/data\n1767225600\n5433\n/run\n*\n  1234 0\nstopping\n").unwrap();
        assert!(stopping.stopping && stopping.process_id == 1);
        assert!(
            PostmasterPid::parse(b"-4711\n/data\n")
                .is_some_and(|pid| pid.single_user && pid.process_id == 4711)
        );
        for content in ["", "\n", "x\n", "0\n", "-2147483648\n", "99999999999\n"] {
            assert_eq!(PostmasterPid::parse(content.as_bytes()), None, "{content:?}");
        }
    }
}
