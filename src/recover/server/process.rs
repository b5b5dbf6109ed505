//! What the operating system knows of a server's processes.

use crate::postgres::SegmentName;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;

/// Whether the process runs: one that has ended counts as gone although nobody has collected its status, as in a container
/// without an init.
pub(super) fn is_running(process: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{process}/stat")).ok();
    let state = state
        .as_deref()
        .and_then(|stat| stat.rsplit_once(") "))
        .map(|(_, rest)| rest.as_bytes().first().copied());
    match state {
        Some(Some(b'Z' | b'X')) => false,
        // We have started it: what we may not send a signal to is another process.
        _ => kill(Pid::from_raw(process), None).is_ok(),
    }
}

/// The WAL segment that the server's startup process shows in its title: that which it replays or waits for.
///
/// Source: PostgreSQL `access/transam/xlogutils.c` and `xlogrecovery.c`, `set_ps_display`; not translated.
pub(super) fn replayed_segment(postmaster: i32) -> Option<SegmentName> {
    let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).ok()?;
    children.split_whitespace().find_map(|child| {
        let title = fs::read(format!("/proc/{child}/cmdline")).ok()?;
        let title = String::from_utf8_lossy(&title).into_owned();
        let title = title.trim_end_matches('\0').trim_end();
        title.contains("startup ").then(|| title.rsplit(' ').next()?.parse().ok()).flatten()
    })
}
