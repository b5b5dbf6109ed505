//! `global/pg_control`: which cluster a data directory holds, and in which state.

use super::little_endian::{i64_at, u8_at, u32_at, u64_at};
use super::lsn::{Lsn, SegmentSize};
use super::major_version::MajorVersion;
use super::system_identifier::SystemIdentifier;
use super::timeline::TimelineId;
use crate::error::{Error, Result};
use std::fmt;

/// How many bytes of `pg_control` are enough to read it; the rest of the file is zero.
///
/// Source: `catalog/pg_control.h`, `PG_CONTROL_MAX_SAFE_SIZE`.
pub const CONTROL_FILE_BYTES: usize = 512;

/// What `pg_control` says.
///
/// Source: PostgreSQL `catalog/pg_control.h`, `ControlFileData`, of versions 1300 (13 to 16), 1700 and 1800.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Which cluster it is.
    pub system: SystemIdentifier,
    /// The major version of PostgreSQL, from the catalog version.
    pub version: MajorVersion,
    /// What the server was doing when it last wrote the file.
    pub state: ClusterState,
    /// When it last wrote the file, in seconds since 1970.
    pub written_unix_s: i64,
    /// Where the last checkpoint's record begins.
    pub checkpoint: Lsn,
    /// Where recovery from the last checkpoint begins.
    pub redo: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: TimelineId,
    /// The timeline before it, if the checkpoint began a new one; else the same.
    pub previous_timeline: TimelineId,
    /// Whether `full_page_writes` was on at the last checkpoint.
    pub full_page_writes: bool,
    /// The next transaction number at the last checkpoint: epoch in the upper half, as `pg_current_xact_id` counts.
    pub next_xid: u64,
    /// When the last checkpoint was made, in seconds since 1970.
    pub checkpoint_unix_s: i64,
    /// How far WAL must be replayed before the cluster is consistent; set during recovery only.
    pub min_recovery_point: Option<Lsn>,
    /// The timeline of that point.
    pub min_recovery_timeline: Option<TimelineId>,
    /// Where the base backup began from which the cluster is being recovered.
    pub backup_start_point: Option<Lsn>,
    /// Where that backup ended, if it was taken from a standby.
    pub backup_end_point: Option<Lsn>,
    /// Whether recovery must meet the backup's end record.
    pub backup_end_required: bool,
    /// The `wal_level` that the server last ran with.
    pub wal_level: WalLevel,
    /// Settings that a server recovering this cluster must not undercut.
    pub limits: ServerLimits,
    /// Whether `wal_log_hints` was on.
    pub wal_log_hints: bool,
    /// Whether `track_commit_timestamp` was on.
    pub track_commit_timestamp: bool,
    /// The alignment of data in bytes, 8 on every supported machine.
    pub max_align: u32,
    /// The length of a data page in bytes.
    pub page_bytes: u32,
    /// How many data pages a file of a relation holds at most.
    pub pages_per_file: u32,
    /// The length of a WAL page in bytes.
    pub wal_page_bytes: u32,
    /// The length of a WAL segment.
    pub segment_size: SegmentSize,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
}

/// The settings of the primary that are lower bounds for a server in recovery with `hot_standby` on.
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

/// What the server was doing when it last wrote `pg_control`.
///
/// `Display` prints what `pg_controldata` prints. Source: `catalog/pg_control.h`, `DBState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Being initialised.
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

/// How much the server writes into WAL. Source: `access/xlog.h`, `WalLevel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Enough for crash recovery only; such WAL cannot be archived.
    Minimal,
    /// Enough for archiving and standbys.
    Replica,
    /// Enough for logical decoding as well.
    Logical,
}

impl ControlFile {
    /// Reads the content of `global/pg_control`, of which [`CONTROL_FILE_BYTES`] are enough.
    ///
    /// A server may be writing the file while it is read, and not every file system keeps the two apart: whoever reads
    /// the file of a running server should read it again after [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged).
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if the checksum does not hold or a value is impossible;
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if no supported version of PostgreSQL wrote it.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile> {
        let checksum_offset = checksum_offset(bytes)?;
        let content = bytes.get(..checksum_offset).ok_or_else(|| too_short(bytes))?;
        let stored = u32_at(bytes, checksum_offset).ok_or_else(|| too_short(bytes))?;
        let computed = crc32c::crc32c(content);
        if stored != computed {
            return Err(Error::damaged(format!(
                "pg_control has checksum {computed:08X}, but says {stored:08X}"
            )));
        }
        Fields(content).read()
    }
}

/// Offset of the checksum, by the format that the file names.
fn checksum_offset(bytes: &[u8]) -> Result<usize> {
    let format = u32_at(bytes, 8).ok_or_else(|| too_short(bytes))?;
    if let Some(version) = MajorVersion::of_control_version(format) {
        return Ok(version.control_checksum_offset());
    }
    if MajorVersion::of_control_version(format.swap_bytes()).is_some() {
        return Err(Error::usage("pg_control is big-endian, which pgark does not support"));
    }
    Err(Error::usage(format!("pg_control has version {format}, which pgark does not know"))
        .hint("pgark supports PostgreSQL 13 to 18."))
}

fn too_short(bytes: &[u8]) -> Error {
    Error::damaged(format!("pg_control has only {} bytes", bytes.len()))
}

/// The content before the checksum; all versions share these offsets.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn read(&self) -> Result<ControlFile> {
        let control_version = self.u32(8)?;
        let catalog_version = self.u32(12)?;
        let version = MajorVersion::of_catalog_version(catalog_version)
            .filter(|version| version.control_version() == control_version)
            .ok_or_else(|| {
                Error::usage(format!(
                    "pg_control has catalog version {catalog_version}, which is not a release"
                ))
                .hint("pgark supports the releases of PostgreSQL 13 to 18, no development versions.")
            })?;
        let segment_bytes = self.u32(228)?;
        Ok(ControlFile {
            system: SystemIdentifier::new(self.u64(0)?).ok_or_else(|| impossible("system identifier", 0))?,
            version,
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
            data_checksums: self.u32(252)? != 0,
        })
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
        Ok(u8_at(self.0, offset).ok_or_else(|| too_short(self.0))? != 0)
    }

    fn u32(&self, offset: usize) -> Result<u32> {
        u32_at(self.0, offset).ok_or_else(|| too_short(self.0))
    }

    fn u64(&self, offset: usize) -> Result<u64> {
        u64_at(self.0, offset).ok_or_else(|| too_short(self.0))
    }

    fn i64(&self, offset: usize) -> Result<i64> {
        i64_at(self.0, offset).ok_or_else(|| too_short(self.0))
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

    /// `pg_control` of a running server of each version, and what the server's own `pg_controldata` printed of it.
    macro_rules! samples {
        ($($major:literal),*) => {
            [$((
                $major,
                include_bytes!(concat!("../../tests/fixtures/postgres/", $major, "/pg_control")),
                include_str!(concat!("../../tests/fixtures/postgres/", $major, "/pg_controldata.txt")),
            )),*]
        };
    }
    const SAMPLES: [(u32, &[u8; CONTROL_FILE_BYTES], &str); 6] = samples![13, 14, 15, 16, 17, 18];

    #[test]
    fn agrees_with_pg_controldata() {
        for (major, bytes, printed) in SAMPLES {
            let printed = |label: &str| {
                let line = printed.lines().find(|line| line.starts_with(label));
                line.unwrap_or_else(|| panic!("{label} of {major}"))[label.len()..].trim().to_owned()
            };
            let on = |setting: bool| if setting { "on" } else { "off" }.to_owned();
            let position = |lsn: Option<Lsn>| lsn.map_or("0/0".to_owned(), |lsn| lsn.to_string());
            let control = ControlFile::parse(bytes).unwrap();
            assert_eq!(control.version.as_u32(), major);
            for (label, value) in [
                ("pg_control version number:", control.version.control_version().to_string()),
                ("Catalog version number:", control.version.catalog_version().to_string()),
                ("Database system identifier:", control.system.to_string()),
                ("Database cluster state:", control.state.to_string()),
                ("Latest checkpoint location:", control.checkpoint.to_string()),
                ("Latest checkpoint's REDO location:", control.redo.to_string()),
                ("Latest checkpoint's TimeLineID:", control.timeline.to_string()),
                ("Latest checkpoint's PrevTimeLineID:", control.previous_timeline.to_string()),
                ("Latest checkpoint's full_page_writes:", on(control.full_page_writes)),
                (
                    "Latest checkpoint's NextXID:",
                    format!("{}:{}", control.next_xid >> 32, control.next_xid & 0xFFFF_FFFF),
                ),
                ("Minimum recovery ending location:", position(control.min_recovery_point)),
                ("Backup start location:", position(control.backup_start_point)),
                ("Backup end location:", position(control.backup_end_point)),
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
        let control = ControlFile::parse(SAMPLES[5].1).unwrap();
        // Fri Nov 20 17:15:34 2026 UTC
        assert_eq!((control.written_unix_s, control.checkpoint_unix_s), (1_795_194_934, 1_795_194_934));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (_, sample, _) = SAMPLES[5];
        for bit in 0..296 * 8 {
            let mut bytes = *sample;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let expected = if (64..96).contains(&bit) { ErrorKind::Usage } else { ErrorKind::Damaged };
            assert_eq!(ControlFile::parse(&bytes).unwrap_err().kind(), expected, "bit {bit}");
        }
        for length in 0..296 {
            assert_eq!(ControlFile::parse(&sample[..length]).unwrap_err().kind(), ErrorKind::Damaged);
        }
    }

    #[test]
    fn refuses_versions_that_it_does_not_know() {
        for version in [1201_u32, 1900] {
            let mut bytes = *SAMPLES[2].1;
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            assert_eq!(ControlFile::parse(&bytes).unwrap_err().kind(), ErrorKind::Usage);
        }
        let mut development = *SAMPLES[2].1;
        development[12..16].copy_from_slice(&202_209_060_u32.to_le_bytes());
        let checksum = crc32c::crc32c(&development[..288]);
        development[288..292].copy_from_slice(&checksum.to_le_bytes());
        let error = ControlFile::parse(&development).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("202209060"));
    }
}
