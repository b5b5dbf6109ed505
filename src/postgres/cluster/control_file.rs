//! `global/pg_control`: the identity and state of a cluster.

use crate::error::{Error, Result};
use crate::postgres::value::little_endian::{i64_at, u8_at, u32_at, u64_at};
use crate::postgres::value::lsn::{Lsn, SegmentSize};
use crate::postgres::value::system_identifier::SystemIdentifier;
use crate::postgres::value::timeline::TimelineId;
use crate::postgres::version::major::MajorVersion;
use crate::postgres::version::server::no_release;
use std::fmt;

/// Number of bytes of `pg_control` that hold its content; the rest of the file is zero.
///
/// Source: `catalog/pg_control.h`, `PG_CONTROL_MAX_SAFE_SIZE`.
pub const CONTROL_FILE_BYTES: usize = 512;

/// The content of `pg_control`.
///
/// Source: PostgreSQL `catalog/pg_control.h`, `ControlFileData`, of versions 1300 (13 to 16), 1700, 1800 and 1905.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// The system identifier of the cluster.
    pub system: SystemIdentifier,
    /// The major version of PostgreSQL, derived from the catalog version; for an unknown version, the assumed one.
    pub version: MajorVersion,
    /// The catalog version.
    pub catalog_version: u32,
    /// The state of the server when it last wrote the file.
    pub state: ClusterState,
    /// Time of the last write, in seconds since 1970.
    pub written_unix_s: i64,
    /// The position of the last checkpoint record.
    pub checkpoint: Lsn,
    /// The redo point of the last checkpoint, where recovery begins.
    pub redo: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: TimelineId,
    /// The previous timeline if the checkpoint began a new one; otherwise the same as `timeline`.
    pub previous_timeline: TimelineId,
    /// Whether `full_page_writes` was on at the last checkpoint.
    pub full_page_writes: bool,
    /// The next transaction ID at the last checkpoint, with the epoch in the upper half, as in `pg_current_xact_id`.
    pub next_xid: u64,
    /// Time of the last checkpoint, in seconds since 1970.
    pub checkpoint_unix_s: i64,
    /// The position up to which WAL must be replayed before the cluster is consistent; set only during recovery.
    pub min_recovery_point: Option<Lsn>,
    /// The timeline of that point.
    pub min_recovery_timeline: Option<TimelineId>,
    /// The start point of the base backup from which the cluster is being recovered.
    pub backup_start_point: Option<Lsn>,
    /// The end point of that backup, if it was taken from a standby.
    pub backup_end_point: Option<Lsn>,
    /// Whether recovery must reach the backup's end record.
    pub backup_end_required: bool,
    /// The `wal_level` with which the server last ran.
    pub wal_level: WalLevel,
    /// Lower bounds for settings of a server that recovers this cluster.
    pub limits: ServerLimits,
    /// Whether `wal_log_hints` was on.
    pub wal_log_hints: bool,
    /// Whether `track_commit_timestamp` was on.
    pub track_commit_timestamp: bool,
    /// The maximum alignment of data in bytes; 8 on every supported platform.
    pub max_align: u32,
    /// The size of a data page, in bytes.
    pub page_bytes: u32,
    /// Upper limit for the number of data pages in one file of a relation.
    pub pages_per_file: u32,
    /// The size of a WAL page, in bytes.
    pub wal_page_bytes: u32,
    /// The size of a WAL segment.
    pub segment_size: SegmentSize,
    /// Whether data pages have checksums.
    pub data_checksums: bool,
}

/// The primary's settings that are lower bounds for a server in recovery with `hot_standby` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// `max_connections`
    pub max_connections: u32,
    /// `max_worker_processes`
    pub max_worker_processes: u32,
    /// `max_wal_senders`
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`
    pub max_locks_per_transaction: u32,
}

impl ServerLimits {
    /// The settings by name.
    pub fn named(&self) -> [(&'static str, u32); 5] {
        [
            ("max_connections", self.max_connections),
            ("max_worker_processes", self.max_worker_processes),
            ("max_wal_senders", self.max_wal_senders),
            ("max_prepared_transactions", self.max_prepared_transactions),
            ("max_locks_per_transaction", self.max_locks_per_transaction),
        ]
    }

    /// The larger value of each setting.
    #[must_use]
    pub fn max(self, other: ServerLimits) -> ServerLimits {
        ServerLimits {
            max_connections: self.max_connections.max(other.max_connections),
            max_worker_processes: self.max_worker_processes.max(other.max_worker_processes),
            max_wal_senders: self.max_wal_senders.max(other.max_wal_senders),
            max_prepared_transactions: self.max_prepared_transactions.max(other.max_prepared_transactions),
            max_locks_per_transaction: self.max_locks_per_transaction.max(other.max_locks_per_transaction),
        }
    }
}

/// The state of the server when it last wrote `pg_control`.
///
/// `Display` prints what `pg_controldata` prints. Source: `catalog/pg_control.h`, `DBState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Being initialized.
    StartingUp,
    /// Stopped cleanly.
    ShutDown,
    /// Stopped cleanly while in recovery.
    ShutDownInRecovery,
    /// Stopping.
    ShuttingDown,
    /// Recovering from a crash.
    InCrashRecovery,
    /// Recovering from an archive, or a standby.
    InArchiveRecovery,
    /// Running, or crashed while running.
    InProduction,
}

/// The amount of information in WAL. Source: `access/xlog.h`, `WalLevel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Information for crash recovery only; such WAL cannot be archived.
    Minimal,
    /// Information for archiving and standbys.
    Replica,
    /// Information for logical decoding as well.
    Logical,
}

impl ControlFile {
    /// Parses the content of `global/pg_control`, of which the first [`CONTROL_FILE_BYTES`] suffice.
    ///
    /// A running server may write the file during the read, and not every file system makes the two atomic. The caller
    /// should retry on [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) while the server runs.
    ///
    /// A file of an unknown version is parsed in the format of the `assumed` version. Its checksum must still be
    /// correct, at the offset of that version.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if the checksum is wrong or a value is impossible;
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if the version is not supported and none is assumed, or the
    /// assumed version has another format.
    pub fn parse(bytes: &[u8], assumed: Option<MajorVersion>) -> Result<ControlFile> {
        let format = Format::of(bytes, assumed)?;
        let facts = format.version().facts();
        let checksum_offset = facts.control_checksum_offset;
        let content = bytes.get(..checksum_offset).ok_or_else(|| too_short(bytes))?;
        let stored = u32_at(bytes, checksum_offset).ok_or_else(|| too_short(bytes))?;
        let computed = crc32c::crc32c(content);
        if stored != computed {
            let error =
                Error::damaged(format!("pg_control has checksum {computed:08X}, but contains {stored:08X}"));
            return Err(match format {
                Format::Known(_) => error,
                Format::Assumed(version) => error.hint(format!(
                    "Its version is unknown to pgark and may not have the format of PostgreSQL {version}. Check assume_version."
                )),
            });
        }
        ControlFields { content, insertions: facts.control_insertions }.read(assumed)
    }

    /// The version; `None` if it is unknown and its format is assumed.
    pub fn known_version(&self) -> Option<MajorVersion> {
        (!self.is_assumed()).then_some(self.version)
    }

    /// Whether the version is unknown and its format is assumed.
    pub fn is_assumed(&self) -> bool {
        MajorVersion::of_catalog_version(self.catalog_version).is_none()
    }
}

/// The format of a file, as a version that has it, and how it was determined.
enum Format {
    /// The file names this version.
    Known(MajorVersion),
    /// The file names an unknown version; this one is assumed.
    Assumed(MajorVersion),
}

impl Format {
    /// The format that the file names, otherwise the assumed one.
    fn of(bytes: &[u8], assumed: Option<MajorVersion>) -> Result<Format> {
        let format = u32_at(bytes, 8).ok_or_else(|| too_short(bytes))?;
        if let Some(version) = MajorVersion::of_control_version(format) {
            return Ok(Format::Known(version));
        }
        if MajorVersion::of_control_version(format.swap_bytes()).is_some() {
            return Err(Error::usage("pg_control is big-endian, which pgark does not support"));
        }
        assumed.map(Format::Assumed).ok_or_else(|| {
            Error::usage(format!("pg_control has version {format}, which pgark does not know")).hint(format!(
                "pgark supports PostgreSQL {}. {}",
                MajorVersion::SUPPORTED,
                MajorVersion::HOW_TO_ASSUME
            ))
        })
    }

    fn version(&self) -> MajorVersion {
        match self {
            Format::Known(version) | Format::Assumed(version) => *version,
        }
    }
}

fn too_short(bytes: &[u8]) -> Error {
    Error::damaged(format!("pg_control has only {} bytes", bytes.len()))
}

/// The content before the checksum. Fields are addressed by their offsets in version 13.
struct ControlFields<'a> {
    content: &'a [u8],
    /// See [`VersionFacts::control_insertions`](crate::postgres::version::facts::VersionFacts::control_insertions).
    insertions: &'a [(usize, usize)],
}

impl ControlFields<'_> {
    fn read(&self, assumed: Option<MajorVersion>) -> Result<ControlFile> {
        let catalog_version = self.u32(12)?;
        let version = self.version(catalog_version, assumed)?;
        let segment_bytes = self.u32(228)?;
        Ok(ControlFile {
            system: SystemIdentifier::new(self.u64(0)?).ok_or_else(|| impossible("system identifier", 0))?,
            version,
            catalog_version,
            state: self.state()?,
            written_unix_s: self.i64(24)?,
            checkpoint: self.required_lsn(32, "checkpoint location")?,
            redo: self.required_lsn(40, "redo location")?,
            timeline: self.timeline(48)?.ok_or_else(|| impossible("timeline", 0))?,
            previous_timeline: self.timeline(52)?.ok_or_else(|| impossible("previous timeline", 0))?,
            full_page_writes: self.flag(56)?,
            next_xid: self.u64(64)?,
            checkpoint_unix_s: self.i64(104)?,
            min_recovery_point: self.lsn(136)?,
            min_recovery_timeline: self.timeline(144)?,
            backup_start_point: self.lsn(152)?,
            backup_end_point: self.lsn(160)?,
            backup_end_required: self.flag(168)?,
            wal_level: self.wal_level()?,
            limits: ServerLimits {
                max_connections: self.u32(180)?,
                max_worker_processes: self.u32(184)?,
                max_wal_senders: self.u32(188)?,
                max_prepared_transactions: self.u32(192)?,
                max_locks_per_transaction: self.u32(196)?,
            },
            wal_log_hints: self.flag(176)?,
            track_commit_timestamp: self.flag(200)?,
            max_align: self.u32(204)?,
            page_bytes: self.u32(216)?,
            pages_per_file: self.u32(220)?,
            wal_page_bytes: self.u32(224)?,
            segment_size: SegmentSize::new(segment_bytes)
                .ok_or_else(|| impossible("WAL segment size", segment_bytes))?,
            // Other values denote a change in progress, during which a page may lack a checksum.
            data_checksums: self.u32(252)? == 1,
        })
    }

    /// The version according to the control and catalog versions, which must not contradict each other.
    fn version(&self, catalog_version: u32, assumed: Option<MajorVersion>) -> Result<MajorVersion> {
        let control_version = self.u32(8)?;
        let same_format = |version: &MajorVersion| version.facts().control_version == control_version;
        if let Some(known) = MajorVersion::of_catalog_version(catalog_version) {
            return Some(known).filter(same_format).ok_or_else(|| no_release("pg_control", catalog_version));
        }
        let assumed = assumed.ok_or_else(|| no_release("pg_control", catalog_version))?;
        match MajorVersion::of_control_version(control_version) {
            Some(_) if !same_format(&assumed) => Err(Error::usage(format!(
                "pg_control has version {control_version}, which is not that of PostgreSQL {assumed}"
            ))
            .hint("Set assume_version to the version with the same file format.")),
            _ => Ok(assumed),
        }
    }

    fn state(&self) -> Result<ClusterState> {
        match self.u32(16)? {
            0 => Ok(ClusterState::StartingUp),
            1 => Ok(ClusterState::ShutDown),
            2 => Ok(ClusterState::ShutDownInRecovery),
            3 => Ok(ClusterState::ShuttingDown),
            4 => Ok(ClusterState::InCrashRecovery),
            5 => Ok(ClusterState::InArchiveRecovery),
            6 => Ok(ClusterState::InProduction),
            other => Err(impossible("cluster state", other)),
        }
    }

    fn wal_level(&self) -> Result<WalLevel> {
        match self.u32(172)? {
            0 => Ok(WalLevel::Minimal),
            1 => Ok(WalLevel::Replica),
            2 => Ok(WalLevel::Logical),
            other => Err(impossible("wal_level", other)),
        }
    }

    fn required_lsn(&self, offset: usize, name: &str) -> Result<Lsn> {
        self.lsn(offset)?.ok_or_else(|| impossible(name, 0))
    }

    fn lsn(&self, offset: usize) -> Result<Option<Lsn>> {
        Ok(Lsn::new(self.u64(offset)?))
    }

    fn timeline(&self, offset: usize) -> Result<Option<TimelineId>> {
        Ok(TimelineId::new(self.u32(offset)?))
    }

    fn flag(&self, offset: usize) -> Result<bool> {
        Ok(self.at(offset, u8_at)? != 0)
    }

    fn u32(&self, offset: usize) -> Result<u32> {
        self.at(offset, u32_at)
    }

    fn u64(&self, offset: usize) -> Result<u64> {
        self.at(offset, u64_at)
    }

    fn i64(&self, offset: usize) -> Result<i64> {
        self.at(offset, i64_at)
    }

    /// Reads the field that is at `offset` in version 13.
    fn at<T>(&self, offset: usize, read: fn(&[u8], usize) -> Option<T>) -> Result<T> {
        let before = self.insertions.iter().filter(|(inserted, _)| *inserted <= offset);
        let moved: usize = before.map(|(_, bytes)| bytes).sum();
        read(self.content, offset.saturating_add(moved)).ok_or_else(|| too_short(self.content))
    }
}

fn impossible(field: &str, value: u32) -> Error {
    Error::damaged(format!("pg_control has the impossible {field} {value}"))
}

impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClusterState::StartingUp => "starting up",
            ClusterState::ShutDown => "shut down",
            ClusterState::ShutDownInRecovery => "shut down in recovery",
            ClusterState::ShuttingDown => "shutting down",
            ClusterState::InCrashRecovery => "in crash recovery",
            ClusterState::InArchiveRecovery => "in archive recovery",
            ClusterState::InProduction => "in production",
        })
    }
}

impl fmt::Display for WalLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WalLevel::Minimal => "minimal",
            WalLevel::Replica => "replica",
            WalLevel::Logical => "logical",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// `pg_control` of a running server of each version, with the output of its own `pg_controldata`.
    macro_rules! samples {
        ($($major:literal),*) => {
            [$((
                $major,
                include_bytes!(concat!("../../../tests/fixtures/postgres/", $major, "/pg_control")),
                include_str!(concat!("../../../tests/fixtures/postgres/", $major, "/pg_controldata.txt")),
            )),*]
        };
    }
    const SAMPLES: [(u32, &[u8; CONTROL_FILE_BYTES], &str); 7] = samples![13, 14, 15, 16, 17, 18, 19];

    #[test]
    fn agrees_with_pg_controldata() {
        for (major, bytes, printed) in SAMPLES {
            let printed = |label: &str| {
                let line = printed.lines().find(|line| line.starts_with(label));
                line.unwrap_or_else(|| panic!("{label} of {major}"))[label.len()..].trim().to_owned()
            };
            let on = |setting: bool| if setting { "on" } else { "off" }.to_owned();
            // Version 19 prints the lower half with all eight digits.
            let position = |label: &str| {
                let (high, low) =
                    printed(label).split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
                let half = |digits: &str| u64::from_str_radix(digits, 16).unwrap();
                Lsn::new((half(&high) << 32) | half(&low))
            };
            let control = ControlFile::parse(bytes, None).unwrap();
            assert_eq!(control.version.as_u32(), major);
            for (label, found) in [
                ("Latest checkpoint location:", Some(control.checkpoint)),
                ("Latest checkpoint's REDO location:", Some(control.redo)),
                ("Minimum recovery ending location:", control.min_recovery_point),
                ("Backup start location:", control.backup_start_point),
                ("Backup end location:", control.backup_end_point),
            ] {
                assert_eq!(found, position(label), "{label} of {major}");
            }
            for (label, value) in [
                ("pg_control version number:", control.version.facts().control_version.to_string()),
                ("Catalog version number:", control.catalog_version.to_string()),
                ("Database system identifier:", control.system.to_string()),
                ("Database cluster state:", control.state.to_string()),
                ("Latest checkpoint's TimeLineID:", control.timeline.to_string()),
                ("Latest checkpoint's PrevTimeLineID:", control.previous_timeline.to_string()),
                ("Latest checkpoint's full_page_writes:", on(control.full_page_writes)),
                (
                    "Latest checkpoint's NextXID:",
                    format!("{}:{}", control.next_xid >> 32, control.next_xid & 0xFFFF_FFFF),
                ),
                ("wal_level setting:", control.wal_level.to_string()),
                ("wal_log_hints setting:", on(control.wal_log_hints)),
                ("max_connections setting:", control.limits.max_connections.to_string()),
                ("max_worker_processes setting:", control.limits.max_worker_processes.to_string()),
                ("max_wal_senders setting:", control.limits.max_wal_senders.to_string()),
                ("max_prepared_xacts setting:", control.limits.max_prepared_transactions.to_string()),
                ("max_locks_per_xact setting:", control.limits.max_locks_per_transaction.to_string()),
                ("track_commit_timestamp setting:", on(control.track_commit_timestamp)),
                ("Maximum data alignment:", control.max_align.to_string()),
                ("Database block size:", control.page_bytes.to_string()),
                ("Blocks per segment of large relation:", control.pages_per_file.to_string()),
                ("WAL block size:", control.wal_page_bytes.to_string()),
                ("Bytes per WAL segment:", control.segment_size.as_u32().to_string()),
                ("Data page checksum version:", u32::from(control.data_checksums).to_string()),
            ] {
                assert_eq!(value, printed(label), "{label} of {major}");
            }
            assert_eq!(control.min_recovery_timeline, None);
            assert!(!control.backup_end_required);
        }
    }

    #[test]
    fn knows_when_it_was_written() {
        let control = ControlFile::parse(SAMPLES[5].1, None).unwrap();
        // Fri Nov 20 17:15:34 2026 UTC
        assert_eq!((control.written_unix_s, control.checkpoint_unix_s), (1_795_194_934, 1_795_194_934));
        let control = ControlFile::parse(SAMPLES[6].1, None).unwrap();
        // Sun Nov 29 18:32:10 2026 UTC
        assert_eq!((control.written_unix_s, control.checkpoint_unix_s), (1_795_977_130, 1_795_977_130));
    }

    #[test]
    fn checksums_that_are_being_changed_count_for_none() {
        for (major, original, _) in SAMPLES {
            let facts = MajorVersion::new(major).unwrap().facts();
            let moved: usize = facts.control_insertions.iter().map(|(_, bytes)| bytes).sum();
            for (state, expected) in [(0, false), (1, true), (2, false), (3, false)] {
                let mut bytes = *original;
                bytes[252 + moved] = state;
                let end = facts.control_checksum_offset;
                let checksum = crc32c::crc32c(&bytes[..end]);
                bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
                assert_eq!(ControlFile::parse(&bytes, None).unwrap().data_checksums, expected, "{major}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (_, sample, _) = SAMPLES[5];
        for bit in 0..296 * 8 {
            let mut bytes = *sample;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let expected = if (64..96).contains(&bit) { ErrorKind::Usage } else { ErrorKind::Damaged };
            assert_eq!(ControlFile::parse(&bytes, None).unwrap_err().kind(), expected, "bit {bit}");
        }
        for length in 0..296 {
            assert_eq!(ControlFile::parse(&sample[..length], None).unwrap_err().kind(), ErrorKind::Damaged);
        }
    }

    #[test]
    fn refuses_versions_that_it_does_not_know() {
        for version in [1201_u32, 2000] {
            let mut bytes = *SAMPLES[2].1;
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            assert_eq!(ControlFile::parse(&bytes, None).unwrap_err().kind(), ErrorKind::Usage);
        }
        let development = forged(15, 1300, 202_209_060);
        let error = ControlFile::parse(&development, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("202209060"));
        assert!(error.hint_text().unwrap().contains("assume_version"));
    }

    /// The sample of a version with other version numbers.
    fn forged(major: u32, control_version: u32, catalog_version: u32) -> [u8; CONTROL_FILE_BYTES] {
        let (_, sample, _) = SAMPLES[major as usize - 13];
        let end = MajorVersion::new(major).unwrap().facts().control_checksum_offset;
        let mut bytes = *sample;
        bytes[8..12].copy_from_slice(&control_version.to_le_bytes());
        bytes[12..16].copy_from_slice(&catalog_version.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..end]);
        bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn an_unknown_version_is_read_as_the_assumed_one_and_keeps_its_catalog_version() {
        for (major, original, _) in SAMPLES {
            let assumed = MajorVersion::new(major);
            let own = ControlFile::parse(original, None).unwrap();
            for control_version in [2000, own.version.facts().control_version] {
                let bytes = forged(major, control_version, 202_709_101);
                assert_eq!(ControlFile::parse(&bytes, None).unwrap_err().kind(), ErrorKind::Usage);
                let read = ControlFile::parse(&bytes, assumed).unwrap();
                assert!(read.is_assumed() && !own.is_assumed());
                assert_eq!(read, ControlFile { catalog_version: 202_709_101, ..own.clone() });
            }
        }
    }

    #[test]
    fn a_wrong_assumption_is_refused_and_not_misread() {
        for (written, assumed) in [(18, 17), (17, 18), (19, 18), (18, 19)] {
            let bytes = forged(written, 2000, 202_709_101);
            let assumed = MajorVersion::new(assumed).unwrap();
            let error = ControlFile::parse(&bytes, Some(assumed)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged);
            assert!(error.hint_text().unwrap().contains("assume_version"), "{error}");
        }
        // The file itself has the format of another version.
        let error = ControlFile::parse(&forged(18, 1800, 202_503_011), Some(MajorVersion::V17)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert_eq!(error.to_string(), "pg_control has version 1800, which is not that of PostgreSQL 17");
    }

    #[test]
    fn an_assumption_changes_nothing_about_a_known_version() {
        for (_, bytes, _) in SAMPLES {
            for assumed in [MajorVersion::V13, MajorVersion::V18] {
                let read = ControlFile::parse(bytes, Some(assumed)).unwrap();
                assert_eq!(read, ControlFile::parse(bytes, None).unwrap());
            }
        }
        let contradictory = forged(15, 2000, MajorVersion::V15.facts().catalog_version);
        assert!(ControlFile::parse(&contradictory, Some(MajorVersion::V15)).is_err());
    }
}
