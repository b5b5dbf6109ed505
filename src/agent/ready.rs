//! The files that the server has marked as ready to be archived.

use crate::durable::Disk;
use crate::error::{Context, Result};
use crate::postgres::WalFileName;
use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use std::collections::BinaryHeap;
use std::io;
use std::path::Path;

/// Buffer size for one read of inotify events: several hundred names.
const EVENT_BYTES: usize = 16 << 10;

/// The ready files of a server.
#[derive(Debug, PartialEq, Eq)]
pub struct ReadyFiles {
    /// The first ones, in archive order.
    pub first: Vec<WalFileName>,
    /// Whether there are more.
    pub more: bool,
}

/// Lists the files that are marked ready, at most `files_max` of them.
///
/// # Errors
/// The operating system's.
pub fn scan(disk: &dyn Disk, archive_status: &Path, files_max: usize) -> Result<ReadyFiles> {
    let what = || format!("could not list \"{}\"", archive_status.display());
    let mut first: BinaryHeap<WalFileName> = BinaryHeap::new();
    let mut more = false;
    for entry in disk.list_data(archive_status).context(what)? {
        let name = entry.context(what)?.file_name();
        let Some(name) = name.to_str().and_then(ready_name) else { continue };
        first.push(name);
        if first.len() > files_max {
            first.pop();
            more = true;
        }
    }
    Ok(ReadyFiles { first: first.into_sorted_vec(), more })
}

/// Whether a file is still marked ready.
pub fn is_ready(archive_status: &Path, name: WalFileName) -> bool {
    archive_status.join(format!("{name}.ready")).exists()
}

fn ready_name(status_file: &str) -> Option<WalFileName> {
    let name: WalFileName = status_file.strip_suffix(".ready")?.parse().ok()?;
    name.is_of_postgresql().then_some(name)
}

/// Waits for the server to mark files as ready.
pub struct ReadyWatcher {
    events: EventStream<Vec<u8>>,
}

/// One event of a [`ReadyWatcher`].
#[derive(Debug, PartialEq, Eq)]
pub enum ReadyEvent {
    /// The server marked this file.
    Marked(WalFileName),
    /// The kernel lost events: list the directory.
    Overflow,
}

impl ReadyWatcher {
    /// Watches `archive_status`. Must be made within a runtime.
    ///
    /// # Errors
    /// The operating system's: there is a limit on watches per user.
    pub fn new(archive_status: &Path) -> Result<ReadyWatcher> {
        let what = || format!("could not watch \"{}\"", archive_status.display());
        let inotify = Inotify::init().context(what)?;
        inotify.watches().add(archive_status, WatchMask::CREATE | WatchMask::MOVED_TO).context(what)?;
        Ok(ReadyWatcher { events: inotify.into_event_stream(vec![0; EVENT_BYTES]).context(what)? })
    }

    /// Waits for the next mark.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn next(&mut self) -> io::Result<ReadyEvent> {
        loop {
            let event = self.events.next().await.ok_or_else(|| io::Error::other("the watch ended"))??;
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                return Ok(ReadyEvent::Overflow);
            }
            if event.mask.contains(EventMask::IGNORED) {
                return Err(io::Error::other("the directory was removed"));
            }
            if let Some(name) = event.name.and_then(|name| name.to_str().and_then(ready_name)) {
                return Ok(ReadyEvent::Marked(name));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::RealDisk;
    use std::fs;

    #[test]
    fn scans_in_postgresqls_order_and_says_when_there_is_more() {
        let scratch = tempfile::tempdir().unwrap();
        let status = scratch.path();
        for name in [
            "000000020000000000000003.ready",
            "000000010000000000000003.partial.ready",
            "000000010000000000000002.ready",
            "00000002.history.ready",
            "000000010000000000000001.done",
            "nonsense.ready",
            "000000010000000000000003.partial.0123456789abcdef.ready",
        ] {
            fs::write(status.join(name), b"").unwrap();
        }
        let names = |files_max| -> (Vec<String>, bool) {
            let ReadyFiles { first, more } = scan(&RealDisk, status, files_max).unwrap();
            (first.iter().map(ToString::to_string).collect(), more)
        };
        let all = [
            "00000002.history",
            "000000010000000000000002",
            "000000010000000000000003.partial",
            "000000020000000000000003",
        ];
        assert_eq!(names(10), (all.map(str::to_owned).to_vec(), false));
        assert_eq!(names(2), (all[..2].iter().map(|s| (*s).to_owned()).collect(), true));
        assert!(is_ready(status, "00000002.history".parse().unwrap()));
        assert!(!is_ready(status, "000000010000000000000001".parse().unwrap()));
    }

    #[tokio::test]
    async fn wakes_up_for_a_mark_and_for_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let mut watcher = ReadyWatcher::new(scratch.path()).unwrap();
        fs::write(scratch.path().join("000000010000000000000001.done"), b"").unwrap();
        fs::write(scratch.path().join("00000002.history.ready"), b"").unwrap();
        assert_eq!(watcher.next().await.unwrap(), ReadyEvent::Marked("00000002.history".parse().unwrap()));
    }
}
