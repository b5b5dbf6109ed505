//! Reads WAL record by record, as its pages arrive.
//!
//! Owns: assembling records across pages and segments, and finding the end of valid WAL. Does not own: the source of
//! the segments, and the choice of the timeline.

use super::header::{LongPageHeader, WAL_PAGE_BYTES, WalPageHeader};
use super::payload::PayloadDecoder;
use super::record::{RecordHeader, WalPayload, WalRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::value::lsn::{Lsn, SegmentSize};
use crate::postgres::value::system_identifier::SystemIdentifier;
use crate::postgres::value::timeline::TimelineId;
use crate::postgres::value::xid::Xid;
use crate::postgres::version::major::MajorVersion;
use std::fmt;
use std::ops::ControlFlow;

const PAGE: usize = WAL_PAGE_BYTES as usize;

/// Upper limit for the length of a record, in bytes. Source: PostgreSQL `access/xlogrecord.h`, `XLogRecordMaxSize`
/// (1020 MiB, from version 16 on); before, the server's largest allocation, 1 GiB.
const RECORD_BYTES_MAX: u32 = 1 << 30;

/// Reads WAL. Holds a kilobyte in memory, whatever the length of the records, and does not allocate while reading.
///
/// The caller feeds it any number of pages at a time, and it calls back for each record. After a segment switch,
/// [`WalReader::next_page`] lies in the next segment, so the rest need not be fetched.
pub struct WalReader {
    segment_size: SegmentSize,
    system: Option<SystemIdentifier>,
    version: Option<MajorVersion>,
    magic: Option<u16>,
    assumed: Option<MajorVersion>,
    timeline: Option<TimelineId>,
    next_page: u64,
    /// Position of the next record, or the page boundary before it.
    position: u64,
    start: Start,
    previous: Option<Lsn>,
    record: Option<RecordState>,
    decoder: PayloadDecoder,
    end: Option<WalEnd>,
}

/// What begins at the position where reading starts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// The first byte of a record.
    Record,
    /// A page, which may begin with the rest of an earlier record.
    Page,
}

/// Result of [`WalReader::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalProgress {
    /// All pages were read; [`WalReader::next_page`] is the next one.
    NeedsMore,
    /// The visitor stopped. The page with the next record can be fed again.
    Stopped,
    /// Valid WAL ends here.
    Ended(WalEnd),
}

/// The end of valid WAL, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalEnd {
    /// The position after the last complete record.
    pub position: Lsn,
    /// What follows at that position.
    pub cause: WalEndCause,
    detail: String,
}

/// What follows the end of valid WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalEndCause {
    /// Zeros: not written yet.
    Unwritten,
    /// Content from an earlier use of the file.
    Stale,
    /// An invalid record: truncated or damaged.
    Broken,
}

/// An incomplete record.
struct RecordState {
    start: Lsn,
    timeline: TimelineId,
    total_bytes: u32,
    seen_bytes: u32,
    header: [u8; RecordHeader::BYTES],
    checksum: u32,
}

/// The reason why reading cannot continue.
enum Obstacle {
    /// The end of valid WAL: its cause, and a description.
    End(WalEndCause, String),
    /// An error other than the end of WAL.
    Failure(Error),
}

type Step<T> = std::result::Result<T, Obstacle>;

fn unwritten<T>(detail: &str) -> Step<T> {
    Err(Obstacle::End(WalEndCause::Unwritten, detail.to_owned()))
}

fn stale<T>(detail: String) -> Step<T> {
    Err(Obstacle::End(WalEndCause::Stale, detail))
}

fn broken<T>(detail: impl Into<String>) -> Step<T> {
    Err(Obstacle::End(WalEndCause::Broken, detail.into()))
}

impl WalReader {
    /// Creates a reader that begins with the record at `start`. `start` may also be the boundary of a page that begins
    /// with a record.
    pub fn from_record(start: Lsn, segment_size: SegmentSize) -> WalReader {
        WalReader::new(start.as_u64(), Start::Record, segment_size)
    }

    /// Creates a reader that begins with the first record that starts on the page of `position` or on a later one.
    pub fn from_page(position: Lsn, segment_size: SegmentSize) -> WalReader {
        let page = position.as_u64() - position.as_u64() % PAGE as u64;
        WalReader::new(page, Start::Page, segment_size)
    }

    /// Makes the reader treat WAL of an unknown version as that of the `assumed` version.
    #[must_use]
    pub fn assuming(mut self, assumed: Option<MajorVersion>) -> WalReader {
        self.assumed = assumed;
        self
    }

    /// Makes the reader report for the end of each transaction whether it includes this subtransaction.
    #[must_use]
    pub fn looking_for(mut self, subtransaction: Option<Xid>) -> WalReader {
        self.decoder.wanted = subtransaction;
        self
    }

    /// Makes the reader accept only WAL of this cluster. Otherwise the first segment determines the cluster.
    #[must_use]
    pub fn of_system(mut self, system: SystemIdentifier) -> WalReader {
        self.system = Some(system);
        self
    }

    fn new(position: u64, start: Start, segment_size: SegmentSize) -> WalReader {
        WalReader {
            segment_size,
            system: None,
            version: None,
            magic: None,
            assumed: None,
            timeline: None,
            next_page: position - position % PAGE as u64,
            position,
            start,
            previous: None,
            record: None,
            decoder: PayloadDecoder::new(),
            end: None,
        }
    }

    /// The address of the next required page.
    pub fn next_page(&self) -> Lsn {
        at(self.next_page)
    }

    /// The position after the last complete record, where the next or an incomplete one begins.
    pub fn position(&self) -> Lsn {
        self.record.as_ref().map_or(at(self.position), |record| record.start)
    }

    /// Reads `pages`, which begin at `address`, and calls `visit` for every complete record. Skips pages before
    /// [`WalReader::next_page`].
    ///
    /// # Errors
    /// [`ErrorKind::Foreign`] for WAL of another cluster, [`ErrorKind::Hole`] if pages before `address` are missing,
    /// [`ErrorKind::Damaged`] if `pages` does not consist of whole pages, or a record has a correct checksum and
    /// impossible content. The end of valid WAL is not an error.
    pub fn read(
        &mut self,
        address: Lsn,
        pages: &[u8],
        visit: &mut dyn FnMut(&WalRecord<'_>) -> ControlFlow<()>,
    ) -> Result<WalProgress> {
        let (whole, rest) = pages.as_chunks::<PAGE>();
        if !rest.is_empty() || !address.as_u64().is_multiple_of(PAGE as u64) {
            return Err(Error::damaged(format!("WAL from {address} on does not consist of whole pages")));
        }
        // Up to two segments before the end of the address space, nothing can overflow.
        let room = pages.len() as u64 + 2 * self.segment_size.as_u64();
        if address.as_u64().checked_add(room).is_none() {
            return Err(Error::damaged(format!("there is no WAL at {address}")));
        }
        for (page, address) in whole.iter().zip((address.as_u64()..).step_by(PAGE)) {
            if let Some(end) = &self.end {
                return Ok(WalProgress::Ended(end.clone()));
            }
            if address < self.next_page {
                continue;
            }
            if address > self.next_page {
                return Err(Error::new(
                    ErrorKind::Hole,
                    format!("WAL from {} to {} is missing", at(self.next_page), at(address)),
                ));
            }
            match self.read_page(address, page, visit) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(WalProgress::Stopped),
                Err(Obstacle::End(cause, detail)) => {
                    let end = WalEnd { position: self.position(), cause, detail };
                    self.end = Some(end.clone());
                    return Ok(WalProgress::Ended(end));
                }
                Err(Obstacle::Failure(error)) => return Err(error),
            }
        }
        Ok(WalProgress::NeedsMore)
    }

    /// Reads one page. The inner error denotes the end of valid WAL.
    fn read_page(
        &mut self,
        address: u64,
        page: &[u8; PAGE],
        visit: &mut dyn FnMut(&WalRecord<'_>) -> ControlFlow<()>,
    ) -> Step<ControlFlow<()>> {
        let header = self.page_header(address, page)?;
        let mut offset = self.first_offset(address, page, &header)?;
        loop {
            // A record is complete; it may have begun on an earlier page.
            if self.record.as_ref().is_some_and(|record| record.seen_bytes == record.total_bytes) {
                self.position = address + offset as u64;
                if self.finish_record(visit)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                if self.position > address + offset as u64 {
                    // A segment switch.
                    break;
                }
            }
            if offset >= PAGE {
                break;
            }
            offset = self.begin_record(address, offset, page, &header)?;
        }
        self.position = self.position.max(address + PAGE as u64);
        self.next_page = self.position - self.position % PAGE as u64;
        Ok(ControlFlow::Continue(()))
    }

    /// The header of a page, if the page belongs at this address.
    fn page_header(&mut self, address: u64, page: &[u8; PAGE]) -> Step<WalPageHeader> {
        if page.first_chunk() == Some(&[0; 24]) {
            return unwritten("the page was never written");
        }
        let header = match WalPageHeader::parse(page, self.assumed) {
            Ok(header) => header,
            Err(error) => return broken(error.to_string()),
        };
        if header.address.as_u64() != address {
            let detail = format!("the page there has the address {} in its header", header.address);
            return stale(detail);
        }
        if self.magic.is_some_and(|magic| magic != header.magic) {
            let detail = format!("the page there has the magic {:04X}", header.magic);
            return broken(detail);
        }
        if self.timeline.is_some_and(|timeline| header.timeline < timeline) {
            let detail = format!("the page there returns to timeline {}", header.timeline);
            return stale(detail);
        }
        if address.is_multiple_of(self.segment_size.as_u64()) {
            let long = match LongPageHeader::parse(page, self.assumed) {
                Ok(long) => long,
                Err(error) => return broken(error.to_string()),
            };
            if long.segment_size != self.segment_size {
                let detail = format!(
                    "the segment there has a segment size of {} bytes in its header",
                    long.segment_size.as_u32()
                );
                return broken(detail);
            }
            let expected = *self.system.get_or_insert(long.system);
            if long.system != expected {
                return Err(Obstacle::Failure(Error::new(
                    ErrorKind::Foreign,
                    format!(
                        "the WAL segment at {} has system identifier {}, not {expected}",
                        at(address),
                        long.system
                    ),
                )));
            }
        }
        self.version = Some(header.version);
        self.magic = Some(header.magic);
        self.timeline = Some(header.timeline);
        Ok(header)
    }

    /// The offset of the first record of the page, after the rest of an earlier one.
    fn first_offset(&mut self, address: u64, page: &[u8; PAGE], header: &WalPageHeader) -> Step<usize> {
        let header_bytes = header.header_bytes() as usize;
        let body = page.get(header_bytes..).unwrap_or_default();
        // The aligned end of an earlier record's rest, limited to the page.
        let rest_end = || header_bytes + body.len().min(aligned(header.remaining_bytes));
        if let Some(record) = &self.record {
            let missing = record.total_bytes - record.seen_bytes;
            if header.is_overwrite() {
                // The server abandoned the record, because its rest never reached the disk. The next record points back
                // to the record before it.
                self.record = None;
                self.position = address;
                return Ok(header_bytes);
            }
            if !header.is_continued() || header.remaining_bytes != missing {
                let detail =
                    format!("{missing} bytes of a record do not follow on the page at {}", at(address));
                return broken(detail);
            }
            let rest = body.get(..missing as usize).unwrap_or(body);
            self.push(rest)?;
            return Ok(rest_end());
        }
        if self.position > address {
            let offset = (self.position - address) as usize;
            if offset < header_bytes || !offset.is_multiple_of(8) {
                return broken("no record can start there");
            }
            return Ok(offset);
        }
        match (header.is_continued(), self.start) {
            (false, _) => Ok(header_bytes),
            (true, Start::Page) => Ok(rest_end()),
            (true, Start::Record) => broken("the page there continues a record that began earlier"),
        }
    }

    /// Begins the record at `offset` and processes its bytes on this page; returns the aligned offset after them.
    fn begin_record(
        &mut self,
        address: u64,
        offset: usize,
        page: &[u8; PAGE],
        header: &WalPageHeader,
    ) -> Step<usize> {
        self.position = address + offset as u64;
        // After the first record, pages are contiguous.
        self.start = Start::Record;
        let bytes = page.get(offset..).unwrap_or_default();
        // Records begin at multiples of 8, so the length never spans pages.
        let total_bytes = bytes.first_chunk().copied().map_or(0, u32::from_le_bytes);
        if total_bytes == 0 {
            return unwritten("nothing was written there");
        }
        if !(RecordHeader::BYTES as u32..=RECORD_BYTES_MAX).contains(&total_bytes) {
            return broken(format!("a record cannot have {total_bytes} bytes"));
        }
        self.record = Some(RecordState {
            start: at(self.position),
            timeline: header.timeline,
            total_bytes,
            seen_bytes: 0,
            header: [0; RecordHeader::BYTES],
            checksum: 0,
        });
        self.push(bytes.get(..total_bytes as usize).unwrap_or(bytes))?;
        Ok(offset + aligned(total_bytes).min(bytes.len()))
    }

    /// Processes the next bytes of the current record.
    fn push(&mut self, bytes: &[u8]) -> Step<()> {
        let Some(record) = &mut self.record else { return Ok(()) };
        let mut bytes = bytes;
        let seen = record.seen_bytes as usize;
        if seen < RecordHeader::BYTES {
            let taken = (RecordHeader::BYTES - seen).min(bytes.len());
            let (fixed, rest) = bytes.split_at_checked(taken).unwrap_or((bytes, &[]));
            if let Some(place) = record.header.get_mut(seen..seen + taken) {
                place.copy_from_slice(fixed);
            }
            record.seen_bytes += taken as u32;
            bytes = rest;
            if record.seen_bytes as usize == RecordHeader::BYTES {
                let header = RecordHeader::parse(&record.header);
                // A stale record is intact, but points back to another position.
                let follows = match self.previous {
                    Some(previous) => header.previous == previous.as_u64(),
                    None => header.previous < record.start.as_u64(),
                };
                if !follows {
                    let detail = format!("the record there follows the one at {}", at(header.previous));
                    return stale(detail);
                }
                let body_bytes = u64::from(record.total_bytes) - RecordHeader::BYTES as u64;
                if let Some(version) = self.version {
                    self.decoder.begin(&header, body_bytes, version);
                }
            }
        }
        record.checksum = crc32c::crc32c_append(record.checksum, bytes);
        record.seen_bytes += bytes.len() as u32;
        self.decoder.push(bytes);
        Ok(())
    }

    /// Checks the completed record and passes it to the visitor. Sets the position at which the next one may begin.
    fn finish_record(
        &mut self,
        visit: &mut dyn FnMut(&WalRecord<'_>) -> ControlFlow<()>,
    ) -> Step<ControlFlow<()>> {
        let Some(record) = &self.record else { return Ok(ControlFlow::Continue(())) };
        let header = RecordHeader::parse(&record.header);
        let checked = record.header.get(..RecordHeader::CHECKED_BYTES).unwrap_or_default();
        if crc32c::crc32c_append(record.checksum, checked) != header.checksum {
            return broken("the record there has an incorrect checksum");
        }
        let Some(payload) = self.decoder.finish() else {
            let message = format!("the WAL record at {} is invalid for its type", record.start);
            return Err(Obstacle::Failure(Error::damaged(message)));
        };
        if payload == WalPayload::Switch {
            // The rest of the segment is unused, unless the record ends exactly at its end.
            self.position = self.position.next_multiple_of(self.segment_size.as_u64());
        }
        let shown = WalRecord {
            start: record.start,
            end: at(self.position),
            timeline: record.timeline,
            resource_manager: header.resource_manager,
            info: header.info,
            xid: header.xid,
            total_bytes: record.total_bytes,
            payload,
        };
        self.previous = Some(record.start);
        let wish = visit(&shown);
        self.record = None;
        Ok(wish)
    }
}

/// A WAL position. Segment 0 is never written, so position 0 does not occur.
fn at(position: u64) -> Lsn {
    Lsn::new(position.max(1)).expect("it is at least 1")
}

/// The length of a record padded to a multiple of 8. Source: PostgreSQL `c.h`, `MAXALIGN`.
fn aligned(bytes: u32) -> usize {
    (bytes as usize).next_multiple_of(8)
}

impl fmt::Display for WalEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "valid WAL ends at {}: {}", self.position, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::SegmentName;

    const SIZE: u32 = 1 << 20;

    /// Five segments of timeline 1 of PostgreSQL 15, and the first segment of timeline 2, with the output of
    /// `pg_waldump`. They contain a record across two segments, one whose rest was lost in a crash, switches, prepared
    /// transactions, a backup and a promotion.
    macro_rules! sample {
        ($name:literal) => {
            zstd::decode_all(
                &include_bytes!(concat!("../../../tests/fixtures/postgres/15/wal/", $name, ".zst"))[..],
            )
            .unwrap()
        };
    }

    fn size() -> SegmentSize {
        SegmentSize::new(SIZE).unwrap()
    }

    fn address(name: &str) -> Lsn {
        name.parse::<SegmentName>().unwrap().number(size()).unwrap().start(size()).unwrap()
    }

    fn timeline_1() -> Vec<(Lsn, Vec<u8>)> {
        vec![
            (address("000000010000000000000007"), sample!("000000010000000000000007")),
            (address("000000010000000000000008"), sample!("000000010000000000000008")),
            (address("000000010000000000000009"), sample!("000000010000000000000009")),
            (address("00000001000000000000000A"), sample!("00000001000000000000000A")),
            (address("00000001000000000000000B"), sample!("00000001000000000000000B")),
        ]
    }

    fn timeline_2() -> Vec<(Lsn, Vec<u8>)> {
        vec![(address("00000002000000000000000B"), sample!("00000002000000000000000B"))]
    }

    /// Position, length and transaction of a record, and its decoded content.
    #[derive(Clone, Debug, PartialEq)]
    struct Seen {
        start: Lsn,
        total_bytes: u32,
        xid: u32,
        said: String,
    }

    fn seen(record: &WalRecord<'_>) -> Seen {
        let said = match record.payload {
            WalPayload::Commit(end) => format!("COMMIT {} {}", end.xid, end.time),
            WalPayload::Abort(end) => format!("ABORT {} {}", end.xid, end.time),
            WalPayload::RestorePoint { name, .. } => format!("RESTORE_POINT {}", name.escape_ascii()),
            WalPayload::Checkpoint { kind, redo, timeline, previous_timeline, .. } => {
                format!("CHECKPOINT_{kind:?} redo {redo}; tli {timeline}; prev tli {previous_timeline};")
                    .replace("Shutdown", "SHUTDOWN")
                    .replace("Online", "ONLINE")
            }
            WalPayload::EndOfRecovery { time, timeline, previous_timeline } => {
                format!("END_OF_RECOVERY tli {timeline}; prev tli {previous_timeline}; time {time}")
            }
            WalPayload::BackupEnd { start_point } => format!("BACKUP_END {start_point}"),
            WalPayload::Switch => "SWITCH".to_owned(),
            WalPayload::ParameterChange { .. } | WalPayload::TablespaceCreate { .. } | WalPayload::Other => {
                String::new()
            }
        };
        Seen { start: record.start, total_bytes: record.total_bytes, xid: record.xid.as_u32(), said }
    }

    /// Reads in pieces of this length.
    fn read(
        reader: &mut WalReader,
        segments: &[(Lsn, Vec<u8>)],
        piece: usize,
    ) -> (Vec<Seen>, Result<WalProgress>) {
        let mut records = Vec::new();
        let mut progress = Ok(WalProgress::NeedsMore);
        for (address, segment) in segments {
            for (pages, index) in segment.chunks(piece).zip(0..) {
                let address = address.checked_add(index * piece as u64).unwrap();
                progress = reader.read(address, pages, &mut |record| {
                    records.push(seen(record));
                    ControlFlow::Continue(())
                });
                if !matches!(progress, Ok(WalProgress::NeedsMore)) {
                    return (records, progress);
                }
            }
        }
        (records, progress)
    }

    fn reader(segments: &[(Lsn, Vec<u8>)]) -> WalReader {
        WalReader::from_page(segments[0].0, size())
    }

    /// The value after `name` in a line of `pg_waldump`, up to the next comma.
    fn field<'a>(line: &'a str, name: &str) -> &'a str {
        let rest = line.split_once(name).unwrap().1;
        rest.split([',', '/']).next().unwrap().trim()
    }

    /// Compares the records with the output of `pg_waldump`.
    fn assert_printed(records: &[Seen], printed: &[u8]) {
        let printed = String::from_utf8_lossy(printed);
        assert_eq!(records.len(), printed.lines().count());
        for (record, line) in records.iter().zip(printed.lines()) {
            let lsn = line.split_once("lsn: ").unwrap().1.split(',').next().unwrap();
            assert_eq!(record.start, lsn.parse::<Lsn>().unwrap(), "{line}");
            let total = line.split_once("(rec/tot):").unwrap().1.split(['/', ',']).nth(1).unwrap();
            assert_eq!(record.total_bytes, total.trim().parse::<u32>().unwrap(), "{line}");
            assert_eq!(record.xid, field(line, "tx:").parse::<u32>().unwrap(), "{line}");
            let described =
                line.split_once("desc: ").unwrap().1.replace("_PREPARED ", " ").replace(": 2026", " 2026");
            let described = described.replace(" UTC", "+00");
            let described = match described.split_once(' ') {
                Some((end @ ("COMMIT" | "ABORT"), rest)) if record.xid != 0 => {
                    format!("{end} {} {rest}", record.xid)
                }
                _ => described,
            };
            let known = ["COMMIT ", "ABORT ", "RESTORE_", "CHECKPOINT_", "END_OF_", "BACKUP_END", "SWITCH"];
            if known.iter().any(|start| described.starts_with(start)) {
                assert!(described.starts_with(&record.said) && !record.said.is_empty(), "{record:?}\n{line}");
            } else {
                assert_eq!(record.said, "", "{line}");
            }
        }
    }

    #[test]
    fn agrees_with_pg_waldump() {
        let segments = timeline_1();
        let printed = sample!("pg_waldump-timeline-1.txt");
        for piece in [PAGE, 5 * PAGE, SIZE as usize] {
            let (records, progress) = read(&mut reader(&segments), &segments, piece);
            assert_printed(&records, &printed);
            let Ok(WalProgress::Ended(end)) = progress else { panic!("{progress:?}") };
            assert_eq!((end.position.to_string().as_str(), end.cause), ("0/B05258", WalEndCause::Unwritten));
            assert_eq!(end.to_string(), "valid WAL ends at 0/B05258: nothing was written there");
        }
    }

    #[test]
    fn follows_a_timeline_into_the_segment_of_its_switch_point() {
        let segments = timeline_2();
        let (records, _) = read(&mut reader(&segments), &segments, SIZE as usize);
        assert_printed(&records, &sample!("pg_waldump-timeline-2.txt"));
        let mut both = timeline_1();
        both.pop();
        both.extend(segments);
        let (records, progress) = read(&mut reader(&both), &both, SIZE as usize);
        assert!(matches!(progress, Ok(WalProgress::Ended(_))));
        assert!(records.iter().any(|record| record.said.starts_with("END_OF_RECOVERY tli 2; prev tli 1")));
    }

    #[test]
    fn a_switch_leads_to_the_next_segment() {
        let segments = timeline_1();
        let mut reader = reader(&segments);
        let (records, progress) = read(&mut reader, &segments[..2], PAGE);
        assert!(matches!(progress, Ok(WalProgress::NeedsMore)));
        assert_eq!(records.last().unwrap().said, "SWITCH");
        assert_eq!((reader.next_page(), reader.position()), (segments[2].0, segments[2].0));
    }

    #[test]
    fn begins_at_any_record_and_any_page() {
        let segments = timeline_1();
        let (all, _) = read(&mut reader(&segments), &segments, SIZE as usize);
        for first in (0..all.len()).step_by(13) {
            let mut reader = WalReader::from_record(all[first].start, size());
            let (records, _) = read(&mut reader, &segments, SIZE as usize);
            assert_eq!(records, all[first..], "from {}", all[first].start);
        }
        for position in (address("000000010000000000000007").as_u64()..).step_by(PAGE).take(140) {
            let mut reader = WalReader::from_page(at(position), size());
            let (records, _) = read(&mut reader, &segments, SIZE as usize);
            let first = records.first().unwrap();
            assert!(first.start.as_u64() >= position && all.ends_with(&records), "from {}", at(position));
            let skipped = &all[..all.len() - records.len()];
            assert!(skipped.iter().all(|record| record.start.as_u64() < position));
        }
    }

    #[test]
    fn goes_on_after_a_stop() {
        let segments = timeline_1();
        let (all, _) = read(&mut reader(&segments), &segments, SIZE as usize);
        let mut reader = reader(&segments);
        let mut records = Vec::new();
        loop {
            let (address, segment) =
                segments.iter().rfind(|(address, _)| *address <= reader.next_page()).unwrap();
            let progress = reader.read(*address, segment, &mut |record| {
                records.push(seen(record));
                ControlFlow::Break(())
            });
            if let Ok(WalProgress::Ended(_)) = progress {
                break;
            }
        }
        assert_eq!(records, all);
    }

    #[test]
    fn an_incomplete_record_is_where_reading_resumes() {
        let segments = timeline_1();
        let mut reader = reader(&segments);
        let (records, progress) = read(&mut reader, &segments[..1], SIZE as usize);
        assert!(matches!(progress, Ok(WalProgress::NeedsMore)));
        assert!(reader.position() > records.last().unwrap().start && reader.position() < segments[1].0);
        assert_eq!(reader.next_page(), segments[1].0);
    }

    #[test]
    fn damage_ends_wal_and_invents_nothing() {
        let mut segments = timeline_1();
        let (all, _) = read(&mut reader(&segments), &segments, SIZE as usize);
        segments.truncate(1);
        for offset in (0..3 * PAGE).step_by(7) {
            let mut damaged = segments.clone();
            damaged[0].1[offset] ^= 0x41;
            let (records, _) = read(&mut reader(&segments), &damaged, SIZE as usize);
            assert!(all.starts_with(&records), "byte {offset}");
        }
    }

    #[test]
    fn tells_why_wal_ends() {
        let (address, segment) = timeline_1().remove(0);
        let end_of = |page: usize, change: &dyn Fn(&mut [u8])| {
            let mut segment = segment.clone();
            change(&mut segment[page * PAGE..(page + 1) * PAGE]);
            match WalReader::from_page(address, size())
                .read(address, &segment, &mut |_| ControlFlow::Continue(()))
            {
                Ok(WalProgress::Ended(end)) => end,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(end_of(1, &|page| page.fill(0)).cause, WalEndCause::Unwritten);
        let stale = end_of(1, &|page| page[10] = 0x60);
        assert_eq!(stale.cause, WalEndCause::Stale);
        assert!(
            stale.to_string().ends_with("the page there has the address 0/602000 in its header"),
            "{stale}"
        );
        assert_eq!(end_of(1, &|page| page[2] = 0).cause, WalEndCause::Broken);
        assert_eq!(end_of(0, &|page| page[40..44].fill(0)).cause, WalEndCause::Unwritten);
        assert_eq!(end_of(0, &|page| page[40] = 23).cause, WalEndCause::Broken);
        assert_eq!(end_of(0, &|page| page[80] ^= 1).cause, WalEndCause::Broken);
        assert_eq!(end_of(0, &|page| page[40 + 24 + 69] = 1).position.to_string(), "0/700070");
        // The second record's pointer to the previous record.
        assert_eq!(end_of(0, &|page| page[0x70 + 8] ^= 8).cause, WalEndCause::Stale);
    }

    #[test]
    fn refuses_foreign_wal_holes_and_half_pages() {
        let segments = timeline_1();
        let ignore = &mut |_: &WalRecord<'_>| ControlFlow::Continue(());
        let other = SystemIdentifier::new(1).unwrap();
        let foreign = reader(&segments).of_system(other).read(segments[0].0, &segments[0].1, ignore);
        assert_eq!(foreign.unwrap_err().kind(), ErrorKind::Foreign);
        let hole = reader(&segments).read(segments[1].0, &segments[1].1, ignore);
        assert_eq!(hole.unwrap_err().to_string(), "WAL from 0/700000 to 0/800000 is missing");
        let half = reader(&segments).read(segments[0].0, &segments[0].1[..PAGE + 1], ignore);
        assert_eq!(half.unwrap_err().kind(), ErrorKind::Damaged);
        let nowhere = Lsn::new(u64::MAX - u64::MAX % PAGE as u64).unwrap();
        assert!(WalReader::from_page(nowhere, size()).read(nowhere, &segments[0].1, ignore).is_err());
    }

    #[test]
    fn reads_an_unknown_version_as_the_assumed_one_and_no_page_of_another() {
        let mut segments = timeline_1();
        let (known, _) = read(&mut reader(&segments), &segments, PAGE);
        let mark = |page: &mut [u8], magic: u16| page[..2].copy_from_slice(&magic.to_le_bytes());
        for (_, segment) in &mut segments {
            // Unwritten pages have no magic.
            for page in segment.chunks_mut(PAGE).filter(|page| page[0] != 0) {
                mark(page, 0xD1F0);
            }
        }
        let refused = read(&mut reader(&segments), &segments, PAGE);
        assert!(refused.0.is_empty() && matches!(refused.1, Ok(WalProgress::Ended(_))));
        let assumed = MajorVersion::V15;
        let assuming = |segments: &[_]| reader(segments).assuming(Some(assumed));
        let (records, _) = read(&mut assuming(&segments), &segments, PAGE);
        assert_eq!(records, known);
        // Neither another unknown version nor the assumed one may continue this WAL.
        for other in [0xD1F1, assumed.facts().wal_magic] {
            mark(&mut segments[0].1[PAGE..], other);
            let (records, progress) = read(&mut assuming(&segments), &segments, PAGE);
            let Ok(WalProgress::Ended(end)) = progress else { panic!("{progress:?}") };
            assert!(end.cause == WalEndCause::Broken && records.len() < known.len(), "{end}");
        }
    }

    #[test]
    fn survives_noise() {
        let (address, segment) = timeline_1().remove(0);
        let mut noise = 0x2545_F491_4F6C_DD1D_u64;
        for _ in 0..200 {
            let mut page = segment[..2 * PAGE].to_vec();
            for byte in &mut page[40..] {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (noise >> 56) as u8;
            }
            // Plausible lengths, so that more than the first field is checked.
            page[42..44].fill(0);
            page[48..56].fill(0);
            page[PAGE..PAGE + 24].copy_from_slice(&segment[PAGE..PAGE + 24]);
            let mut reader = WalReader::from_page(address, size());
            let _ = reader.read(address, &page, &mut |_| ControlFlow::Continue(()));
        }
    }
}
