//! Process information from the operating system about a server.

use crate::postgres::SegmentName;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;

/// Whether the process runs. A zombie counts as ended, because a container without an init process may never
/// reap it.
pub(super) fn is_running(process: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{process}/stat")).ok();
    let state = state
        .as_deref()
        .and_then(|stat| stat.rsplit_once(") "))
        .map(|(_, rest)| rest.as_bytes().first().copied());
    match state {
        Some(Some(b'Z' | b'X')) => false,
        // This program started the server, so a process that it may not signal is another one.
        _ => kill(Pid::from_raw(process), None).is_ok(),
    }
}

/// The WAL segment in the title of the server's startup process: the one being replayed or awaited.
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
