//! Prefetching along the timelines, up to a limit in bytes.

use super::{blocking, fetch};
use crate::error::{RecoveryMode, Result};
use crate::postgres::{SegmentName, SegmentNumber, SegmentSize, TimelineHistory, TimelineId, WalFileName};
use crate::repository::Repository;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tempfile::TempPath;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// The segments that recovery will probably request next.
#[derive(Debug)]
pub struct Ahead {
    directory: PathBuf,
    workers: usize,
    max_bytes: u64,
    state: Mutex<State>,
    /// Signals that a fetch in flight has finished, successfully or not.
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Complete and verified.
    ready: HashMap<SegmentName, TempPath>,
    /// In flight.
    coming: HashSet<SegmentName>,
    /// To be fetched, in this order.
    wanted: VecDeque<SegmentName>,
    /// The newest timeline whose history was served: the probable destination of the recovery.
    goes_to: Option<TimelineId>,
    /// The last history that was looked up. A history never changes.
    history: Option<Arc<TimelineHistory>>,
    workers: usize,
    tasks: JoinSet<()>,
    /// Set when no prefetched file is needed any more; files that still arrive are dropped.
    abandoned: bool,
}

impl Ahead {
    pub fn new(directory: PathBuf, workers: usize, max_bytes: u64) -> Ahead {
        Ahead { directory, workers, max_bytes, state: Mutex::default(), arrived: Notify::new() }
    }

    /// The number of prefetched files that have not been requested yet.
    pub fn ready_files(&self) -> usize {
        self.state().ready.len()
    }

    /// Records that the server has read this timeline's history, so that it is probably the destination.
    pub fn goes_to(&self, timeline: TimelineId) {
        let mut state = self.state();
        state.goes_to = state.goes_to.max(Some(timeline));
    }

    /// Takes a prefetched segment, waiting for it if it is in flight; `None` when it is neither.
    pub async fn take(&self, segment: SegmentName, size: SegmentSize) -> Option<TempPath> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut state = self.state();
                if let Some(path) = state.ready.remove(&segment) {
                    // It was complete when it arrived. A file that was truncated in our spool must not be
                    // replayed.
                    let whole = fs::metadata(&path).is_ok_and(|metadata| metadata.len() == size.as_u64());
                    return whole.then_some(path);
                }
                if !state.coming.contains(&segment) {
                    // The current request fetches it.
                    state.wanted.retain(|wanted| *wanted != segment);
                    return None;
                }
            }
            arrived.await;
        }
    }

    /// Fetches the segments that follow `segment` on the way to `destination`, and drops all others.
    ///
    /// # Errors
    /// Those of looking up a history.
    pub async fn follow(
        self: &Arc<Self>,
        repository: Arc<Repository>,
        segment: SegmentName,
        size: SegmentSize,
        destination: Option<TimelineId>,
    ) -> Result<()> {
        let history = self.history(&repository, segment, destination).await?;
        let window = window(segment, size, history.as_deref(), self.max_bytes);
        let mut state = self.state();
        state.ready.retain(|name, _| window.contains(name));
        state.wanted = window
            .into_iter()
            .filter(|name| !state.ready.contains_key(name) && !state.coming.contains(name))
            .collect();
        while state.tasks.try_join_next().is_some() {}
        while state.workers < self.workers.min(state.wanted.len()) {
            state.workers += 1;
            let worker = self.clone().work(repository.clone(), size);
            state.tasks.spawn(worker);
        }
        Ok(())
    }

    /// Drops the prefetched files, and those in flight when they arrive.
    pub fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = true;
        state.wanted.clear();
        state.ready.clear();
    }

    /// Drops the prefetched files to make room.
    pub fn drop_ready(&self) {
        let mut state = self.state();
        state.wanted.clear();
        state.ready.clear();
    }

    /// Stops all fetches and drops the prefetched files.
    pub async fn finish(&self) {
        let mut tasks = {
            let mut state = self.state();
            state.wanted.clear();
            std::mem::take(&mut state.tasks)
        };
        while tasks.join_next().await.is_some() {}
        self.state().ready.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the wanted segments one after the other.
    async fn work(self: Arc<Self>, repository: Arc<Repository>, size: SegmentSize) {
        loop {
            let name = {
                let mut state = self.state();
                let Some(name) = state.wanted.pop_front() else {
                    state.workers -= 1;
                    return;
                };
                state.coming.insert(name);
                name
            };
            let fetched =
                fetch(&repository, WalFileName::Segment(name), size, RecoveryMode::OneShot, &self.directory)
                    .await
                    .and_then(|fetched| fetched);
            {
                let mut state = self.state();
                state.coming.remove(&name);
                match fetched {
                    Ok(Some(path)) if !state.abandoned => drop(state.ready.insert(name, path)),
                    Ok(Some(_)) => {}
                    // The end of the archive for now. The next request for it asks the repository again.
                    Ok(None) => {
                        debug!(%name, "nothing to fetch ahead");
                        state.wanted.clear();
                    }
                    Err(error) => {
                        warn!(%name, %error, "could not be fetched ahead");
                        state.wanted.clear();
                    }
                }
            }
            self.arrived.notify_waiters();
        }
    }

    /// The history of the recovery's destination, if `segment` is on the way there.
    async fn history(
        &self,
        repository: &Arc<Repository>,
        segment: SegmentName,
        destination: Option<TimelineId>,
    ) -> Result<Option<Arc<TimelineHistory>>> {
        let (goes_to, known) = {
            let state = self.state();
            (destination.or(state.goes_to), state.history.clone())
        };
        let Some(timeline) = goes_to.filter(|timeline| *timeline > segment.timeline()) else {
            return Ok(None);
        };
        let history = match known.filter(|history| history.timeline() == timeline) {
            Some(history) => Some(history),
            None => {
                let repository = repository.clone();
                blocking(move || repository.history(timeline)).await?.map(Arc::new)
            }
        };
        self.state().history.clone_from(&history);
        Ok(history.filter(|history| history.contains(segment.timeline())))
    }
}

/// The names of the segments after `segment`, as many as fit into `max_bytes`.
fn window(
    segment: SegmentName,
    size: SegmentSize,
    history: Option<&TimelineHistory>,
    max_bytes: u64,
) -> Vec<SegmentName> {
    let Some(number) = segment.number(size) else { return Vec::new() };
    let first = number.as_u64() + 1;
    (first..first + max_bytes / size.as_u64())
        .map(SegmentNumber::new)
        .filter_map(|number| {
            let timeline =
                history.map_or(segment.timeline(), |history| history.timeline_of_segment(number, size));
            SegmentName::new(timeline, number, size)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_ahead_across_logs_and_timelines_and_no_further_than_allowed() {
        let names = |segment: &str, history: Option<&TimelineHistory>, max_mib: u64| -> Vec<String> {
            window(segment.parse().unwrap(), SegmentSize::DEFAULT, history, max_mib << 20)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(
            names("0000000100000000000000FE", None, 35),
            ["0000000100000000000000FF", "000000010000000100000000"]
        );
        let history = TimelineHistory::parse(TimelineId::new(2).unwrap(), b"1\t0/3000148\tx\n").unwrap();
        assert_eq!(
            names("000000010000000000000001", Some(&history), 48),
            ["000000010000000000000002", "000000020000000000000003", "000000020000000000000004"]
        );
        assert!(names("000000010000000000000001", None, 0).is_empty());
    }
}
