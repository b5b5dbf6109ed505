//! Decodes WAL records as their bytes arrive, without holding a whole record in memory.

use super::record::{CheckpointKind, RecordHeader, ResourceManager, TransactionEndRecord, WalPayload};
use crate::postgres::cluster::control_file::ServerLimits;
use crate::postgres::value::little_endian::{i64_at, u8_at, u16_at, u32_at, u64_at};
use crate::postgres::value::lsn::Lsn;
use crate::postgres::value::relation::Oid;
use crate::postgres::value::timeline::TimelineId;
use crate::postgres::value::timestamp::PgTimestamp;
use crate::postgres::value::xid::Xid;
use crate::postgres::version::major::MajorVersion;

/// Upper limit for the size of the headers before a record's data, in bytes: 33 blocks of at most 27 bytes, the origin,
/// the top-level transaction and the length of the main data.
///
/// Source: PostgreSQL `access/xlogrecord.h`, `XLR_MAX_BLOCK_ID` and `MaxSizeOfXLogRecordBlockHeader`.
const HEADERS_BYTES_MAX: usize = 33 * 27 + 3 + 5 + 5;

/// `wal_level = minimal` as stored in a record. Source: PostgreSQL `access/xlog.h`, `WalLevel`.
const WAL_LEVEL_MINIMAL: u32 = 0;

/// Upper limit for the part of the main data that is kept, in bytes. The largest is that of a new tablespace: a number
/// and a NUL-terminated path. Source: PostgreSQL `pg_config_manual.h`, `MAXPGPATH`.
const KEPT_BYTES_MAX: usize = 4 + 1024;

/// Decodes one record after another.
pub(super) struct PayloadDecoder {
    /// The subtransaction to search for in the ends of transactions.
    pub(super) wanted: Option<Xid>,
    kind: RecordKind,
    version: MajorVersion,
    xid: Xid,
    body_bytes: u64,
    phase: Phase,
    headers: KeptBytes<HEADERS_BYTES_MAX>,
    main: MainData,
}

/// State of the main data: its first bytes, or the parsed end of a transaction.
struct MainData {
    kept: KeptBytes<KEPT_BYTES_MAX>,
    transaction: TransactionWalk,
}

/// Kind of the current record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RecordKind {
    Commit,
    CommitPrepared,
    Abort,
    AbortPrepared,
    RestorePoint,
    Checkpoint(CheckpointKind),
    EndOfRecovery,
    BackupEnd,
    ParameterChange,
    TablespaceCreate,
    Switch,
    Other,
}

#[derive(Clone, Copy)]
enum Phase {
    /// Collecting the headers before the data.
    Headers,
    /// Skipping this number of bytes of block data before the main data.
    Blocks(u64),
    /// Reading the main data.
    Main,
    /// The headers are invalid.
    Broken,
}

impl RecordKind {
    /// Source: PostgreSQL `catalog/pg_control.h`, `XLOG_*`; `access/xact.h`, `XLOG_XACT_*`.
    fn of(header: &RecordHeader) -> RecordKind {
        match (header.resource_manager, header.info & 0xF0) {
            (ResourceManager::XLOG, 0x00) => RecordKind::Checkpoint(CheckpointKind::Shutdown),
            (ResourceManager::XLOG, 0x10) => RecordKind::Checkpoint(CheckpointKind::Online),
            (ResourceManager::XLOG, 0x40) => RecordKind::Switch,
            (ResourceManager::XLOG, 0x50) => RecordKind::BackupEnd,
            (ResourceManager::XLOG, 0x60) => RecordKind::ParameterChange,
            (ResourceManager::XLOG, 0x70) => RecordKind::RestorePoint,
            (ResourceManager::XLOG, 0x90) => RecordKind::EndOfRecovery,
            (ResourceManager::TABLESPACE, 0x00) => RecordKind::TablespaceCreate,
            // The highest bit indicates whether flags follow.
            (ResourceManager::TRANSACTION, info) => match info & 0x70 {
                0x00 => RecordKind::Commit,
                0x20 => RecordKind::Abort,
                0x30 => RecordKind::CommitPrepared,
                0x40 => RecordKind::AbortPrepared,
                _ => RecordKind::Other,
            },
            _ => RecordKind::Other,
        }
    }

    fn is_transaction_end(self) -> bool {
        matches!(
            self,
            RecordKind::Commit | RecordKind::CommitPrepared | RecordKind::Abort | RecordKind::AbortPrepared
        )
    }
}

impl PayloadDecoder {
    pub(super) fn new() -> PayloadDecoder {
        PayloadDecoder {
            wanted: None,
            kind: RecordKind::Other,
            version: MajorVersion::V13,
            xid: Xid::new(0),
            body_bytes: 0,
            phase: Phase::Headers,
            headers: KeptBytes::new(),
            main: MainData { kept: KeptBytes::new(), transaction: TransactionWalk::new() },
        }
    }

    /// Begins a record with `body_bytes` bytes after its fixed header.
    pub(super) fn begin(&mut self, header: &RecordHeader, body_bytes: u64, version: MajorVersion) {
        self.kind = RecordKind::of(header);
        self.version = version;
        self.xid = header.xid;
        self.body_bytes = body_bytes;
        self.phase = Phase::Headers;
        self.headers.length = 0;
        self.main.kept.length = 0;
        self.main.transaction = TransactionWalk::new();
        self.main.transaction.has_flags = header.info & 0x80 != 0;
        self.main.transaction.wanted = self.wanted;
    }

    /// Processes the next bytes of the body.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if matches!(self.kind, RecordKind::Other | RecordKind::Switch) {
            return;
        }
        let mut bytes = bytes;
        if let Phase::Headers = self.phase {
            bytes = self.headers.push(bytes, HEADERS_BYTES_MAX);
            let kept = self.headers.get();
            let seen_bytes = kept.len() as u64;
            if seen_bytes < self.body_bytes.min(HEADERS_BYTES_MAX as u64) {
                return;
            }
            let Some(main_offset) = main_data_offset(kept, self.body_bytes, self.version) else {
                self.phase = Phase::Broken;
                return;
            };
            // The collected bytes may already extend into the main data.
            self.phase = Phase::Blocks(main_offset.saturating_sub(seen_bytes));
            let main = usize::try_from(main_offset).ok().and_then(|offset| kept.get(offset..));
            self.main.push(self.kind, self.version, main.unwrap_or_default());
        }
        if let Phase::Blocks(left) = self.phase {
            let skipped = left.min(bytes.len() as u64);
            bytes = bytes.get(skipped as usize..).unwrap_or_default();
            self.phase = if skipped == left { Phase::Main } else { Phase::Blocks(left - skipped) };
        }
        if let Phase::Main = self.phase {
            self.main.push(self.kind, self.version, bytes);
        }
    }

    /// The decoded content after the last byte; `None` if it is impossible for a record of this kind.
    pub(super) fn finish(&self) -> Option<WalPayload<'_>> {
        let main = self.main.kept.get();
        let lsn = |offset| u64_at(main, offset).and_then(Lsn::new);
        let timeline = |offset| u32_at(main, offset).and_then(TimelineId::new);
        let time = |offset| i64_at(main, offset).map(PgTimestamp::new);
        let transaction = || -> Option<TransactionEndRecord> {
            let prepared = matches!(self.kind, RecordKind::CommitPrepared | RecordKind::AbortPrepared);
            let xid = if prepared { self.main.transaction.prepared? } else { self.xid };
            let holds_wanted = self.main.transaction.holds_wanted;
            Some(TransactionEndRecord { xid, time: self.main.transaction.time?, holds_wanted })
        };
        Some(match self.kind {
            RecordKind::Commit | RecordKind::CommitPrepared => WalPayload::Commit(transaction()?),
            RecordKind::Abort | RecordKind::AbortPrepared => WalPayload::Abort(transaction()?),
            RecordKind::RestorePoint => {
                let name = main.get(8..)?;
                let length = name.iter().position(|byte| *byte == 0)?;
                WalPayload::RestorePoint { time: time(0)?, name: name.get(..length)? }
            }
            RecordKind::Checkpoint(kind) => WalPayload::Checkpoint {
                kind,
                redo: lsn(0)?,
                timeline: timeline(8)?,
                previous_timeline: timeline(12)?,
                // Source: PostgreSQL `catalog/pg_control.h`, `CheckPoint`; the fields in between have the same
                // alignment in all versions.
                next_xid: u64_at(main, 24)?,
            },
            RecordKind::TablespaceCreate => {
                let path = main.get(4..)?;
                let length = path.iter().position(|byte| *byte == 0)?;
                WalPayload::TablespaceCreate { oid: Oid::new(u32_at(main, 0)?), path: path.get(..length)? }
            }
            RecordKind::EndOfRecovery => WalPayload::EndOfRecovery {
                time: time(0)?,
                timeline: timeline(8)?,
                previous_timeline: timeline(12)?,
            },
            RecordKind::BackupEnd => WalPayload::BackupEnd { start_point: lsn(0)? },
            // Source: PostgreSQL `access/xlog_internal.h`, `xl_parameter_change`.
            RecordKind::ParameterChange => WalPayload::ParameterChange {
                limits: ServerLimits {
                    max_connections: u32_at(main, 0)?,
                    max_worker_processes: u32_at(main, 4)?,
                    max_wal_senders: u32_at(main, 8)?,
                    max_prepared_transactions: u32_at(main, 12)?,
                    max_locks_per_transaction: u32_at(main, 16)?,
                },
                is_minimal: u32_at(main, 20)? == WAL_LEVEL_MINIMAL,
            },
            RecordKind::Switch => WalPayload::Switch,
            RecordKind::Other => WalPayload::Other,
        })
    }
}

impl MainData {
    fn push(&mut self, kind: RecordKind, version: MajorVersion, bytes: &[u8]) {
        if kind.is_transaction_end() {
            self.transaction.push(bytes, version);
        } else {
            self.kept.push(bytes, KEPT_BYTES_MAX);
        }
    }
}

/// Offset of the main data in the body of a record that begins with `headers`; `None` if the headers are invalid.
///
/// Shape of a body: headers of the blocks; optionally the origin and the top-level transaction; the header of the main
/// data with its length; the data of the blocks; the main data. Source: PostgreSQL `access/xlogrecord.h`;
/// `access/transam/xlogreader.c`, `DecodeXLogRecord`.
fn main_data_offset(headers: &[u8], body_bytes: u64, version: MajorVersion) -> Option<u64> {
    let mut at = 0_usize;
    let mut block_bytes = 0_u64;
    let mut main_bytes = 0_u64;
    while body_bytes.checked_sub(at as u64)? > block_bytes {
        let id = u8_at(headers, at)?;
        at += 1;
        match id {
            // The length of the main data, short or long, always last.
            255 => {
                main_bytes = u8_at(headers, at)?.into();
                at += 1;
                break;
            }
            254 => {
                main_bytes = u32_at(headers, at)?.into();
                at += 4;
                break;
            }
            // The replication origin; the top-level transaction.
            253 => at += 2,
            252 => at += 4,
            // A block.
            0..=32 => {
                let flags = u8_at(headers, at)?;
                block_bytes += u64::from(u16_at(headers, at + 1)?);
                at += 3;
                if flags & 0x10 != 0 {
                    block_bytes += u64::from(u16_at(headers, at)?);
                    let image_flags = u8_at(headers, at + 4)?;
                    at += 5;
                    // The hole's length is stored only for a compressed page.
                    if image_flags & 0x01 != 0 && is_compressed(image_flags, version) {
                        at += 2;
                    }
                }
                // The relation, unless it is the same as that of the previous block; then the block number.
                at += if flags & 0x80 == 0 { 12 + 4 } else { 4 };
            }
            _ => return None,
        }
    }
    let main_offset = at as u64 + block_bytes;
    (main_offset.checked_add(main_bytes)? == body_bytes).then_some(main_offset)
}

/// Whether a page image is compressed.
fn is_compressed(image_flags: u8, version: MajorVersion) -> bool {
    image_flags & version.facts().compressed_image_flags != 0
}

/// A buffer for the first bytes of the input, up to `N`.
#[derive(Clone, Copy)]
struct KeptBytes<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> KeptBytes<N> {
    const fn new() -> KeptBytes<N> {
        KeptBytes { bytes: [0; N], length: 0 }
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Appends bytes until there are `wanted`; returns the rest.
    fn push<'a>(&mut self, bytes: &'a [u8], wanted: usize) -> &'a [u8] {
        let taken = wanted.min(N).saturating_sub(self.length).min(bytes.len());
        let (kept, rest) = bytes.split_at_checked(taken).unwrap_or((bytes, &[]));
        if let Some(place) = self.bytes.get_mut(self.length..self.length + taken) {
            place.copy_from_slice(kept);
            self.length += taken;
        }
        rest
    }
}

/// Parses the main data of a commit or abort up to the ID of a prepared transaction, which comes after lists of any
/// length.
///
/// Source: PostgreSQL `access/xact.h`, `xl_xact_commit`; `access/rmgrdesc/xactdesc.c`, `ParseCommitRecord`.
struct TransactionWalk {
    has_flags: bool,
    flags: u32,
    part: Option<TransactionPart>,
    kept: KeptBytes<8>,
    skipped_bytes: u64,
    time: Option<PgTimestamp>,
    prepared: Option<Xid>,
    /// The subtransaction to search for, and whether the record lists it.
    wanted: Option<Xid>,
    holds_wanted: bool,
    /// Number of subtransaction IDs still to come.
    subtransactions: u32,
}

/// The parts of the main data in order; all but the first are optional.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TransactionPart {
    Time,
    Flags,
    Database,
    Subtransactions,
    /// A subtransaction ID, if one is searched for.
    Subtransaction,
    Relations,
    Statistics,
    Invalidations,
    Prepared,
}

impl TransactionWalk {
    const fn new() -> TransactionWalk {
        TransactionWalk {
            has_flags: false,
            flags: 0,
            part: Some(TransactionPart::Time),
            kept: KeptBytes::new(),
            skipped_bytes: 0,
            time: None,
            prepared: None,
            wanted: None,
            holds_wanted: false,
            subtransactions: 0,
        }
    }

    fn push(&mut self, bytes: &[u8], version: MajorVersion) {
        let mut bytes = bytes;
        while let Some(part) = self.part {
            let skipped = self.skipped_bytes.min(bytes.len() as u64);
            self.skipped_bytes -= skipped;
            bytes = bytes.get(skipped as usize..).unwrap_or_default();
            let wanted =
                if matches!(part, TransactionPart::Time | TransactionPart::Database) { 8 } else { 4 };
            if self.skipped_bytes == 0 {
                bytes = self.kept.push(bytes, wanted);
            }
            if self.kept.length < wanted {
                return;
            }
            self.take(part, version);
            self.kept.length = 0;
            self.part = self.after(part);
        }
    }

    /// Processes the complete fixed bytes of a part.
    fn take(&mut self, part: TransactionPart, version: MajorVersion) {
        let kept = self.kept.get();
        // A four-byte value, or the count of a list.
        let number = u32_at(kept, 0).unwrap_or_default();
        let element_bytes = match part {
            TransactionPart::Time => {
                self.time = i64_at(kept, 0).map(PgTimestamp::new);
                0
            }
            TransactionPart::Flags => {
                self.flags = number;
                0
            }
            TransactionPart::Prepared => {
                self.prepared = Some(Xid::new(number));
                0
            }
            TransactionPart::Database => 0,
            TransactionPart::Subtransactions if self.wanted.is_some() => {
                self.subtransactions = number;
                0
            }
            TransactionPart::Subtransactions => 4,
            TransactionPart::Subtransaction => {
                self.subtransactions = self.subtransactions.saturating_sub(1);
                self.holds_wanted |= self.wanted == Some(Xid::new(number));
                0
            }
            TransactionPart::Relations => 12,
            TransactionPart::Statistics => version.facts().statistics_item_bytes,
            TransactionPart::Invalidations => 16,
        };
        self.skipped_bytes = u64::from(number) * element_bytes;
    }

    /// The next part; `None` if nothing relevant follows.
    fn after(&self, part: TransactionPart) -> Option<TransactionPart> {
        const OPTIONAL: [(TransactionPart, u32); 6] = [
            (TransactionPart::Database, 1 << 0),
            (TransactionPart::Subtransactions, 1 << 1),
            (TransactionPart::Relations, 1 << 2),
            (TransactionPart::Statistics, 1 << 8),
            (TransactionPart::Invalidations, 1 << 3),
            (TransactionPart::Prepared, 1 << 4),
        ];
        if part == TransactionPart::Time {
            return self.has_flags.then_some(TransactionPart::Flags);
        }
        let part = match part {
            TransactionPart::Subtransactions | TransactionPart::Subtransaction
                if self.subtransactions > 0 =>
            {
                return Some(TransactionPart::Subtransaction);
            }
            TransactionPart::Subtransaction => TransactionPart::Subtransactions,
            other => other,
        };
        let seeks_subtransaction =
            self.wanted.is_some() && matches!(part, TransactionPart::Flags | TransactionPart::Database);
        if self.flags & (1 << 4) == 0 && !seeks_subtransaction {
            return None;
        }
        let mut following = OPTIONAL.iter();
        if part != TransactionPart::Flags {
            following.find(|(other, _)| *other == part)?;
        }
        following.find(|(_, flag)| self.flags & flag != 0).map(|(part, _)| *part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fixed header of a record of this kind.
    fn header(resource_manager: u8, info: u8) -> RecordHeader {
        let mut bytes = [0; RecordHeader::BYTES];
        bytes[4] = 77;
        bytes[16] = info;
        bytes[17] = resource_manager;
        RecordHeader::parse(&bytes)
    }

    /// The decoded content of a body, checked to be independent of the pieces in which it arrives.
    fn decoded(resource_manager: u8, info: u8, body: &[u8], version: MajorVersion) -> Option<String> {
        let whole = decoded_in_pieces(resource_manager, info, body, version, usize::MAX);
        for piece in [1, 3, 8, 1000] {
            assert_eq!(decoded_in_pieces(resource_manager, info, body, version, piece), whole);
        }
        whole
    }

    fn decoded_in_pieces(
        resource_manager: u8,
        info: u8,
        body: &[u8],
        version: MajorVersion,
        piece: usize,
    ) -> Option<String> {
        let mut decoder = PayloadDecoder::new();
        decoder.begin(&header(resource_manager, info), body.len() as u64, version);
        for bytes in body.chunks(piece.min(body.len().max(1))) {
            decoder.push(bytes);
        }
        decoder.finish().map(|payload| format!("{payload:?}"))
    }

    /// The header of main data with this length.
    fn main_header(length: usize) -> Vec<u8> {
        if length < 256 {
            vec![255, length as u8]
        } else {
            [&[254][..], &(length as u32).to_le_bytes()].concat()
        }
    }

    /// The commit of a prepared transaction with all lists, each with this number of elements.
    fn prepared_commit(elements: u32, statistics: Option<usize>) -> Vec<u8> {
        let list =
            |bytes: usize| [&elements.to_le_bytes()[..], &vec![0xAB; bytes * elements as usize]].concat();
        let flags = 0b1_1111_u32 | if statistics.is_some() { 1 << 8 } else { 0 };
        let main = [
            1_000_000_i64.to_le_bytes().to_vec(),
            flags.to_le_bytes().to_vec(),
            vec![0xAB; 8],
            list(4),
            list(12),
            statistics.map(list).unwrap_or_default(),
            list(16),
            4242_u32.to_le_bytes().to_vec(),
        ]
        .concat();
        [main_header(main.len()), main].concat()
    }

    #[test]
    fn finds_the_prepared_transaction_behind_lists_of_any_length() {
        let expected = "Commit(TransactionEndRecord { xid: 4242, time: 2000-01-01 00:00:01.000000+00, holds_wanted: false })";
        let expected = Some(expected.to_owned());
        for (version, statistics) in [
            (MajorVersion::V13, None),
            (MajorVersion::V15, Some(12)),
            (MajorVersion::V17, Some(12)),
            (MajorVersion::V18, Some(16)),
        ] {
            for elements in [0, 1, 3, 1000] {
                let body = prepared_commit(elements, statistics);
                assert_eq!(decoded(1, 0x80 | 0x30, &body, version), expected, "{version}, {elements}");
            }
        }
        let wrong = decoded(1, 0x80 | 0x30, &prepared_commit(3, Some(16)), MajorVersion::V17);
        assert_ne!(wrong, expected, "17 has shorter statistics");
    }

    #[test]
    fn finds_the_main_data_behind_blocks() {
        // One block with data, one of the same relation with a compressed image that has a hole, an origin, a top-level
        // transaction, and main data.
        for (version, image_flags) in [
            (MajorVersion::V13, 0x01 | 0x02),
            (MajorVersion::V14, 0x01 | 0x02),
            (MajorVersion::V15, 0x01 | 0x04),
            (MajorVersion::V18, 0x01 | 0x10),
        ] {
            let main = [0x28, 0, 0x40, 1, 0, 0, 0, 0];
            let body = [
                &[0, 0x20, 5, 0][..],
                &[0; 16],
                &[1, 0x10 | 0x80, 0, 0, 0x2C, 1, 0, 0, image_flags, 9, 9],
                &[0; 4],
                &[253, 1, 0],
                &[252, 1, 0, 0, 0],
                &[255, 8],
                &[0xCD; 305],
                &main,
            ]
            .concat();
            assert_eq!(
                decoded(0, 0x50, &body, version).as_deref(),
                Some("BackupEnd { start_point: 0/1400028 }"),
                "{version}"
            );
        }
    }

    #[test]
    fn reads_settings_and_tablespaces() {
        let numbers: Vec<u8> =
            [130_u32, 8, 10, 0, 99, 1].iter().flat_map(|number| number.to_le_bytes()).collect();
        let mut body = [main_header(26), numbers, vec![0, 1]].concat();
        let found = decoded(0, 0x60, &body, MajorVersion::V15).unwrap();
        assert!(
            found.contains("max_connections: 130") && found.contains("max_locks_per_transaction: 99"),
            "{found}"
        );
        assert!(found.ends_with("is_minimal: false }"), "{found}");
        body[22] = 0;
        assert!(decoded(0, 0x60, &body, MajorVersion::V15).unwrap().ends_with("is_minimal: true }"));
        let main = [&16_402_u32.to_le_bytes()[..], b"/srv/space\0"].concat();
        let body = [main_header(main.len()), main].concat();
        let found = decoded(5, 0x00, &body, MajorVersion::V15).unwrap();
        assert_eq!(found, format!("TablespaceCreate {{ oid: 16402, path: {:?} }}", b"/srv/space"));
    }

    #[test]
    fn finds_a_subtransaction_among_many() {
        let ended = |wanted: u32, subtransactions: &[u32]| {
            let mut main = 1_000_000_i64.to_le_bytes().to_vec();
            main.extend((1_u32 << 1).to_le_bytes());
            main.extend((subtransactions.len() as u32).to_le_bytes());
            main.extend(subtransactions.iter().flat_map(|xid| xid.to_le_bytes()));
            let body = [main_header(main.len()), main].concat();
            let mut decoder = PayloadDecoder::new();
            decoder.wanted = Some(Xid::new(wanted));
            decoder.begin(&header(1, 0x80), body.len() as u64, MajorVersion::V15);
            body.chunks(3).for_each(|bytes| decoder.push(bytes));
            match decoder.finish() {
                Some(WalPayload::Commit(end)) => end.holds_wanted,
                other => panic!("{other:?}"),
            }
        };
        let many: Vec<u32> = (1000..2000).collect();
        assert!(ended(1000, &many) && ended(1999, &many));
        assert!(!ended(2000, &many) && !ended(1000, &[]));
    }

    #[test]
    fn refuses_records_that_are_too_short_or_nonsense() {
        for (resource_manager, info) in
            [(0, 0x00), (0, 0x10), (0, 0x50), (0, 0x70), (0, 0x90), (1, 0x00), (1, 0x20), (1, 0xB0)]
        {
            for body in
                [&[][..], &[255, 0], &[255, 7, 1, 2, 3, 4, 5, 6, 7], &[200, 1, 2], &[254, 255, 255, 255, 255]]
            {
                assert_eq!(decoded(resource_manager, info, body, MajorVersion::V16), None, "{body:?}");
            }
        }
        let unterminated = [main_header(72), vec![b'x'; 72]].concat();
        assert_eq!(decoded(0, 0x70, &unterminated, MajorVersion::V16), None);
        let endless_list = [main_header(16), vec![0xFF; 16]].concat();
        assert_eq!(decoded(1, 0xB0, &endless_list, MajorVersion::V16), None);
    }
}
