//! Reads the records of archived WAL from a repository.

use super::decode::fetch;
use super::inventory::Timelines;
use super::path::{PathWal, RepositoryCatalog, WalCatalog};
use super::records::{Archive, TransactionOutcome, WalEvent, WalMark};
use crate::error::{Context, Result};
use crate::monitor::Monitor;
use crate::postgres::wal::header::WAL_PAGE_BYTES;
use crate::postgres::{
    Lsn, RestorePointName, SegmentName, SegmentNumber, SegmentSize, TimelineHistory, TimelineId, WalFileName,
    WalPayload, WalProgress, WalReader, WalRecord, Xid,
};
use crate::repository::Repository;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;

const PAGE: usize = WAL_PAGE_BYTES as usize;

/// The WAL of a cluster in a repository.
pub struct RepositoryArchive<'a> {
    repository: &'a Repository,
    catalog: RepositoryCatalog<'a>,
    segment_size: SegmentSize,
    monitor: &'a dyn Monitor,
    /// A transaction that may be a subtransaction.
    wanted: Option<Xid>,
    read_bytes: Cell<u64>,
    /// Earlier results: one plan is based on one state of the archive.
    timelines: OnceCell<Timelines>,
    histories: RefCell<BTreeMap<TimelineId, Option<TimelineHistory>>>,
}

impl<'a> RepositoryArchive<'a> {
    /// The WAL in `repository`. `monitor` receives the progress of reading segments.
    pub fn new(
        repository: &'a Repository,
        segment_size: SegmentSize,
        monitor: &'a dyn Monitor,
    ) -> RepositoryArchive<'a> {
        let catalog = RepositoryCatalog::new(repository, segment_size);
        RepositoryArchive {
            repository,
            catalog,
            segment_size,
            monitor,
            wanted: None,
            read_bytes: Cell::new(0),
            timelines: OnceCell::new(),
            histories: RefCell::default(),
        }
    }
}

impl RepositoryArchive<'_> {
    /// The same archive. Finds the end of the transaction to which the subtransaction `wanted` belongs.
    #[must_use]
    pub fn looking_for(self, wanted: Option<Xid>) -> Self {
        RepositoryArchive { wanted, ..self }
    }
}

impl WalCatalog for RepositoryArchive<'_> {
    fn timelines(&self) -> Result<Timelines> {
        if let Some(timelines) = self.timelines.get() {
            return Ok(timelines.clone());
        }
        let timelines = self.catalog.timelines()?;
        Ok(self.timelines.get_or_init(|| timelines).clone())
    }

    fn history(&self, timeline: TimelineId) -> Result<Option<TimelineHistory>> {
        if let Some(known) = self.histories.borrow().get(&timeline) {
            return Ok(known.clone());
        }
        let history = self.catalog.history(timeline)?;
        self.histories.borrow_mut().insert(timeline, history.clone());
        Ok(history)
    }

    fn visit_segments(
        &self,
        from: SegmentName,
        visit: &mut dyn FnMut(SegmentNumber) -> ControlFlow<()>,
    ) -> Result<()> {
        self.catalog.visit_segments(from, visit)
    }

    fn is_of_size(&self, name: SegmentName) -> Result<bool> {
        self.catalog.is_of_size(name)
    }
}

impl Archive for RepositoryArchive<'_> {
    fn visit_records(
        &self,
        wal: &PathWal,
        first: SegmentNumber,
        last: SegmentNumber,
        visit: &mut dyn FnMut(&WalMark) -> ControlFlow<()>,
    ) -> Result<Option<Lsn>> {
        let Some(start) = first.start(self.segment_size) else { return Ok(None) };
        let mut reading = RecordReading {
            reader: WalReader::from_page(start, self.segment_size)
                .of_system(self.repository.layout().system())
                .looking_for(self.wanted)
                .assuming(self.repository.assumed_version()),
            beyond: last.next().start(self.segment_size),
            address: start,
            pending: Vec::new(),
            end: None,
            ended: false,
            failure: None,
            visit,
        };
        let mut segment = first;
        while !reading.ended && (segment <= last || reading.is_within_a_record()) {
            let (Some(name), Some(start)) = (wal.path().name_of(segment), segment.start(self.segment_size))
            else {
                break;
            };
            reading.begin_segment(start);
            let name = WalFileName::Segment(name);
            let fetched = fetch(self.repository, name, Some(self.segment_size), &mut reading);
            if let Some(failure) = reading.failure.take() {
                return Err(failure).context(|| format!("could not read the records of {name}"));
            }
            let Some(fetched) = fetched? else { break };
            self.read_bytes.set(self.read_bytes.get().saturating_add(fetched.stored_bytes));
            self.monitor.advance(fetched.stored_bytes);
            segment = segment.next();
        }
        Ok(reading.end)
    }

    fn read_bytes(&self) -> u64 {
        self.read_bytes.get()
    }
}

/// Receives segments while they are decoded, and passes their records on.
struct RecordReading<'a> {
    reader: WalReader,
    /// Records that begin here or later are not visited.
    beyond: Option<Lsn>,
    /// The position of the next byte.
    address: Lsn,
    /// The beginning of an incomplete page.
    pending: Vec<u8>,
    /// The position after the last visited record.
    end: Option<Lsn>,
    /// Whether the rest is irrelevant.
    ended: bool,
    failure: Option<crate::error::Error>,
    visit: &'a mut dyn FnMut(&WalMark) -> ControlFlow<()>,
}

impl RecordReading<'_> {
    fn begin_segment(&mut self, start: Lsn) {
        self.address = start;
        self.pending.clear();
    }

    /// Whether a record to be visited continues in the next segment.
    fn is_within_a_record(&self) -> bool {
        self.beyond.is_some_and(|beyond| self.reader.position() < beyond)
    }

    fn read(&mut self, pages: &[u8]) -> Result<()> {
        let (beyond, end, visit) = (self.beyond, &mut self.end, &mut self.visit);
        let progress = self.reader.read(self.address, pages, &mut |record| {
            if beyond.is_some_and(|beyond| record.start >= beyond) {
                return ControlFlow::Break(());
            }
            *end = Some(record.end);
            visit(&mark(record))
        })?;
        self.ended = progress != WalProgress::NeedsMore;
        if let Some(next) = self.address.checked_add(pages.len() as u64) {
            self.address = next;
        }
        Ok(())
    }
}

impl Write for RecordReading<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The rest of the segment is decoded nevertheless, because its checksum is at the end.
        if self.ended {
            return Ok(bytes.len());
        }
        let result = if self.pending.is_empty() && bytes.len().is_multiple_of(PAGE) {
            self.read(bytes)
        } else {
            self.pending.extend_from_slice(bytes);
            let whole = self.pending.len() - self.pending.len() % PAGE;
            let rest = self.pending.split_off(whole);
            let pages = std::mem::replace(&mut self.pending, rest);
            self.read(&pages)
        };
        match result {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.failure = Some(error);
                Err(io::Error::other("the WAL cannot be read"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn transaction_end(
    end: crate::postgres::wal::record::TransactionEndRecord,
    outcome: TransactionOutcome,
) -> WalEvent {
    WalEvent::TransactionEnd { xid: end.xid, time: end.time, outcome, holds_wanted: end.holds_wanted }
}

fn mark(record: &WalRecord<'_>) -> WalMark {
    let event = match record.payload {
        WalPayload::Commit(end) => transaction_end(end, TransactionOutcome::Commit),
        WalPayload::Abort(end) => transaction_end(end, TransactionOutcome::Abort),
        WalPayload::Checkpoint { next_xid, .. } => WalEvent::Checkpoint { next_xid },
        WalPayload::TablespaceCreate { path, .. } => {
            WalEvent::NewTablespace(String::from_utf8_lossy(path).into_owned())
        }
        WalPayload::RestorePoint { time, name } => WalEvent::RestorePoint {
            name: std::str::from_utf8(name).ok().and_then(|name| RestorePointName::new(name).ok()),
            time,
        },
        WalPayload::ParameterChange { limits, is_minimal } => {
            WalEvent::ParameterChange { limits, is_minimal }
        }
        _ => WalEvent::Other,
    };
    WalMark { start: record.start, end: record.end, event }
}
