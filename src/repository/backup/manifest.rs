//! `manifest.json`: describes a backup and proves that it is complete. Written last.

pub use super::collations::{RecordedCollation, StoredCollations};
use super::framed::StoredObject;
use super::index::StoredIndex;
use super::label::Label;
use super::text::{StoredText, crc32_digits};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::postgres::cluster::control_file::{ControlFile, ServerLimits, WalLevel};
use crate::postgres::{
    BlockNumber, Lsn, MajorVersion, Oid, SegmentName, SegmentSize, ServerVersion, SystemIdentifier,
    TimelineId, TimelineSwitch, WalRange, Xid,
};
use crate::repository::version::check_version;
use crate::repository::{Repository, object};
use crate::store::{PutOutcome, StoreExt, json_text};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The newest version. All versions from 1 on are read. A backup is written in the oldest version that can hold it, so
/// that an older pgark can read full backups.
const VERSION: u32 = 2;
/// Version 2 added incremental backups.
const VERSION_INCREMENTAL: u32 = 2;
const VERSION_FULL: u32 = 1;

/// More than any server is built with; the usual number is 131,072. Bounds the memory for reading an incremental file.
const PAGES_PER_FILE_MAX: u32 = 1 << 24;

/// Far more than a manifest has: ten thousand packs take one megabyte.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// An existing backup. Nothing in it grows with the number of files.
///
/// Fields that a later version adds are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBackup {
    /// The version of this format.
    pub version: u32,
    /// The backup's name.
    pub label: Label,
    /// Whether it is full or incremental.
    #[serde(rename = "type")]
    pub kind: BackupKind,
    /// The program that took it, and its version.
    pub created_by: String,
    /// The cluster's name.
    pub cluster: String,
    /// The system that it is a copy of.
    pub system_identifier: SystemIdentifier,
    /// The server from which it was taken.
    pub server: StoredServer,
    /// Whether that server was a standby.
    pub from_standby: bool,
    /// Where its recovery begins, and when the backup began.
    pub start: BackupPoint,
    /// The position after the last WAL that it needs. Recovery can end here or later.
    pub stop: BackupPoint,
    /// The WAL from start to stop: a range for each timeline, oldest first.
    pub wal_ranges: Vec<StoredWalRange>,
    /// The ancestors of the stop point's timeline, oldest first, and where each ends.
    pub timeline_history: Vec<StoredSwitch>,
    /// The databases at the beginning of the copy.
    pub databases: Vec<StoredDatabase>,
    /// The tablespaces at the beginning of the copy, without `pg_default` and `pg_global`.
    pub tablespaces: Vec<StoredTablespace>,
    /// The library versions that sorted text; `None` in backups of an older pgark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collations: Option<StoredCollations>,
    /// Settings of the server that recovery must respect or an operator may need, as `SHOW` prints them.
    pub settings: BTreeMap<String, String>,
    /// Copies of the configuration files outside the data directory.
    pub configuration_files: Vec<StoredConfigurationFile>,
    /// The content of `backup_label`, also in the last pack.
    pub backup_label: StoredText,
    /// The content of `tablespace_map`, also in the last pack; `None`: there is no such file.
    pub tablespace_map: Option<StoredText>,
    /// Amounts of packed data.
    pub totals: BackupTotals,
    /// The packs, numbered consecutively.
    pub packs: Vec<StoredPack>,
    /// The index `files`.
    pub index: StoredIndex,
    /// The object `backup_manifest`.
    pub postgres_manifest: StoredObject,
    /// Pages with a wrong checksum that no WAL will replace.
    pub damaged_pages: DamagedPages,
}

/// How much of the data a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// All data.
    Full,
    /// Changes since another backup.
    Incremental(ParentLink),
}

/// The parent of an incremental backup. Labels can be reused; the other fields identify the same backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentLink {
    /// Its label.
    pub parent: Label,
    /// Its start point: pages that have not changed since are not stored.
    pub parent_start_lsn: Lsn,
    /// The timeline of that point.
    pub parent_start_timeline: TimelineId,
    /// BLAKE3 of the content of its index.
    pub parent_index_digest: crate::codec::Digest,
}

/// The server that a backup was taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredServer {
    /// `server_version_num`, such as 150014.
    pub version_num: u32,
    /// The version of the catalogs, also part of the names of tablespace directories.
    pub catalog_version: u32,
    /// The major version as which its files were read, if the pgark that took the backup did not know its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assumed_version: Option<u32>,
    /// The length of a WAL segment in bytes.
    pub wal_segment_bytes: u32,
    /// The length of a data page in bytes.
    pub page_bytes: u32,
    /// The maximum number of pages in a file of a relation.
    pub pages_per_file: u32,
    /// Whether data pages have checksums.
    pub data_checksums: bool,
    /// `wal_level`: replica or logical.
    pub wal_level: String,
    /// `max_connections`. A server that recovers the backup with hot_standby on must not have less; this also applies
    /// to the next four.
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

/// One end of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPoint {
    /// The time by the server's clock.
    pub time: Timestamp,
    /// The position.
    pub lsn: Lsn,
    /// The timeline of the position.
    pub timeline: TimelineId,
    /// `pg_current_snapshot()` at that time; `None` on a standby.
    pub snapshot: Option<String>,
}

/// A range of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredWalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first required position.
    pub start: Lsn,
    /// The position after the last required byte.
    pub end: Lsn,
}

/// The end of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSwitch {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first position that no longer belongs to it.
    pub switch_point: Lsn,
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDatabase {
    /// Its object identifier, the name of its directory.
    pub oid: Oid,
    /// Its name.
    pub name: String,
    /// The object identifier of its tablespace.
    pub tablespace: Oid,
    /// The transaction that wrote its row in `pg_database`.
    pub xmin: Xid,
}

/// A tablespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTablespace {
    /// Its object identifier, the name in `pg_tblspc`.
    pub oid: Oid,
    /// Its name; empty if the catalog had none.
    pub name: String,
    /// The target of the link `pg_tblspc/<oid>`; `None`: it is a directory instead of a link, and the packs of the data
    /// directory contain its files.
    pub path: Option<StoredText>,
}

/// A configuration file outside the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredConfigurationFile {
    /// Its absolute path.
    pub path: StoredText,
    /// Its content; `None`: it was unreadable, or longer than 1 MiB.
    pub content: Option<StoredText>,
}

/// Amounts of packed data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupTotals {
    /// Number of files.
    pub files: u64,
    /// Number of directories.
    pub directories: u64,
    /// Total length of the stored files; of an incremental file only its changes.
    pub file_bytes: u64,
    /// For an incremental backup: total length of the restored files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_bytes: Option<u64>,
    /// Total length of the backup's objects without this manifest.
    pub stored_bytes: u64,
}

/// One pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPack {
    /// Its number, from 1.
    pub number: u32,
    /// The tablespace whose directory is the root of its paths; `None`: the data directory.
    pub tablespace: Option<Oid>,
    /// The length of the archive in bytes.
    pub raw_bytes: u64,
    /// The length of the object in bytes.
    pub stored_bytes: u64,
    /// CRC-32 of the object.
    #[serde(with = "crc32_digits")]
    pub crc32: u32,
}

/// Pages that were already damaged in the server's files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPages {
    /// Their number.
    pub count: u64,
    /// The first of them.
    pub listed: Vec<DamagedPage>,
}

/// A damaged page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPage {
    /// The file, relative to the data directory.
    pub path: StoredText,
    /// The page's number within its relation's fork, counted across the fork's files.
    pub block: BlockNumber,
    /// A description of the damage.
    pub problem: String,
}

impl StoredBackup {
    /// The newest version of the format.
    pub const VERSION: u32 = VERSION;

    /// The manifest version for a backup of this kind.
    pub fn version_of(kind: &BackupKind) -> u32 {
        match kind {
            BackupKind::Full => VERSION_FULL,
            BackupKind::Incremental(_) => VERSION_INCREMENTAL,
        }
    }

    /// The parent; `None` for a full backup.
    pub fn parent(&self) -> Option<&ParentLink> {
        match &self.kind {
            BackupKind::Full => None,
            BackupKind::Incremental(link) => Some(link),
        }
    }

    /// Whether it lacks visibility maps, as an incremental backup of a cluster without data checksums does.
    pub fn lacks_visibility_maps(&self) -> bool {
        self.parent().is_some() && !self.server.data_checksums
    }

    /// Identifies this backup as a parent.
    pub fn link(&self) -> ParentLink {
        ParentLink {
            parent: self.label.clone(),
            parent_start_lsn: self.start.lsn,
            parent_start_timeline: self.start.timeline,
            parent_index_digest: self.index.object.raw_digest,
        }
    }

    /// Total length of the restored files.
    pub fn whole_bytes(&self) -> u64 {
        self.totals.whole_bytes.unwrap_or(self.totals.file_bytes)
    }

    /// The server's version, as it was read when the backup was taken.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a version that this pgark does not know and for which none was assumed.
    pub fn server_version(&self) -> Result<ServerVersion> {
        let StoredServer { version_num, catalog_version, assumed_version, .. } = self.server;
        let number = version_num / 10_000;
        let formats = MajorVersion::of_version_num(version_num)
            .or_else(|| assumed_version.and_then(MajorVersion::new))
            .ok_or_else(|| {
                Error::usage(format!("the backup {} is of PostgreSQL {number}", self.label))
                    .hint("Upgrade pgark on this host.")
            })?;
        Ok(ServerVersion { number, catalog_version, formats })
    }

    /// The version whose formats and functions apply to the server: its major version, or the assumed one.
    ///
    /// # Errors
    /// As [`StoredBackup::server_version`].
    pub fn major_version(&self) -> Result<MajorVersion> {
        Ok(self.server_version()?.formats)
    }

    /// The version that must be assumed to read the backup; `None`: this pgark knows the server's own.
    ///
    /// # Errors
    /// As [`StoredBackup::server_version`].
    pub fn assumed_version(&self) -> Result<Option<MajorVersion>> {
        let version = self.server_version()?;
        Ok(version.is_assumed().then_some(version.formats))
    }

    /// The length of a WAL segment.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] for an invalid length.
    pub fn segment_size(&self) -> Result<SegmentSize> {
        SegmentSize::new(self.server.wal_segment_bytes).ok_or_else(|| {
            Error::damaged(format!("{} is not the length of a WAL segment", self.server.wal_segment_bytes))
        })
    }

    /// The segment with the start point.
    ///
    /// # Errors
    /// As [`StoredBackup::segment_size`].
    pub fn start_segment(&self) -> Result<SegmentName> {
        Ok(SegmentName::holding(self.start.timeline, self.start.lsn, self.segment_size()?))
    }

    /// The lower limits for settings of a server that recovers the backup.
    pub fn limits(&self) -> ServerLimits {
        ServerLimits {
            max_connections: self.server.max_connections,
            max_worker_processes: self.server.max_worker_processes,
            max_wal_senders: self.server.max_wal_senders,
            max_prepared_transactions: self.server.max_prepared_transactions,
            max_locks_per_transaction: self.server.max_locks_per_transaction,
        }
    }

    /// Stores the manifest. After success the backup exists, and [`StoredBackup::read`] accepts it.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if it would not accept it, [`ErrorKind::Conflict`] if there is a backup of this label;
    /// those of the store.
    pub fn publish(&self, repository: &Repository) -> Result<()> {
        let text = json_text(self, "manifest.json")?;
        let judged = StoredBackup::parse(&text).and_then(|read| match read == *self {
            true => self.check_place(&self.label, repository),
            false => Err(Error::damaged("it differs from what was written when it is read back")),
        });
        judged.context(|| format!("the backup {} could not be used", self.label))?;
        let key = repository.layout().stored_backup(&self.label)?;
        match object::put(repository.store().as_ref(), &key, &text)? {
            PutOutcome::Created => Ok(()),
            PutOutcome::Exists => Err(Error::new(
                ErrorKind::Conflict,
                format!("the repository already holds a backup {}", self.label),
            )),
        }
    }

    /// Reads the backup of this label; `None` if the store has confirmed that it does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], [`ErrorKind::Usage`] if a newer version wrote it; those of the store.
    pub fn read(repository: &Repository, label: &Label) -> Result<Option<StoredBackup>> {
        let key = repository.layout().stored_backup(label)?;
        let text = object::read_whole(repository.store().as_ref(), &key, MANIFEST_BYTES_MAX)?;
        let Some(text) = text else { return Ok(None) };
        let what = || format!("\"{}\" cannot be used", repository.store().locate(&key));
        let backup = StoredBackup::parse(&text).context(what)?;
        backup.check_place(label, repository).context(what)?;
        Ok(Some(backup))
    }

    /// Checks that the manifest matches its location.
    fn check_place(&self, label: &Label, repository: &Repository) -> Result<()> {
        if self.label == *label && self.system_identifier == repository.layout().system() {
            return Ok(());
        }
        Err(Error::damaged(format!(
            "it describes backup {} of system {}",
            self.label, self.system_identifier
        )))
    }

    fn parse(text: &[u8]) -> Result<StoredBackup> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |error| Error::damaged("it is not a manifest").caused_by(error);
        let Version { version } = serde_json::from_slice(text).map_err(damaged)?;
        check_version(version, VERSION, || format!("it has version {version}"))?;
        let backup: StoredBackup = serde_json::from_slice(text).map_err(damaged)?;
        backup.check()?;
        Ok(backup)
    }

    /// Checks that the manifest is consistent.
    fn check(&self) -> Result<()> {
        self.segment_size()?;
        let numbered = self.packs.iter().zip(1..).all(|(pack, number)| pack.number == number);
        if !numbered || self.packs.is_empty() {
            return Err(Error::damaged("its packs are not numbered consecutively from 1"));
        }
        let adjoining =
            self.wal_ranges.iter().zip(self.wal_ranges.iter().skip(1)).all(|(a, b)| a.end == b.start);
        let ends = self.wal_ranges.first().zip(self.wal_ranges.last());
        let whole = ends.is_some_and(|(first, last)| {
            (first.start, first.timeline) == (self.start.lsn, self.start.timeline)
                && (last.end, last.timeline) == (self.stop.lsn, self.stop.timeline)
        });
        if !adjoining || !whole || self.start.lsn >= self.stop.lsn {
            return Err(Error::damaged("its WAL ranges do not lead from its start to its stop point"));
        }
        let follows = self.parent().is_none_or(|link| {
            link.parent != self.label
                && link.parent_start_lsn < self.start.lsn
                && self.version >= VERSION_INCREMENTAL
                && self.totals.whole_bytes.is_some()
                && (1..=PAGES_PER_FILE_MAX).contains(&self.server.pages_per_file)
        });
        if !follows {
            return Err(Error::damaged("it is not a valid incremental backup"));
        }
        Ok(())
    }
}

impl StoredServer {
    /// The facts in `pg_control` of a server with this `server_version_num`.
    pub fn of(control: &ControlFile, version_num: u32) -> StoredServer {
        StoredServer {
            version_num,
            catalog_version: control.catalog_version,
            assumed_version: control.is_assumed().then(|| control.version.as_u32()),
            wal_segment_bytes: control.segment_size.as_u32(),
            page_bytes: control.page_bytes,
            pages_per_file: control.pages_per_file,
            data_checksums: control.data_checksums,
            wal_level: match control.wal_level {
                WalLevel::Minimal => "minimal",
                WalLevel::Replica => "replica",
                WalLevel::Logical => "logical",
            }
            .to_owned(),
            max_connections: control.limits.max_connections,
            max_worker_processes: control.limits.max_worker_processes,
            max_wal_senders: control.limits.max_wal_senders,
            max_prepared_transactions: control.limits.max_prepared_transactions,
            max_locks_per_transaction: control.limits.max_locks_per_transaction,
        }
    }
}

impl From<TimelineSwitch> for StoredSwitch {
    fn from(switch: TimelineSwitch) -> StoredSwitch {
        StoredSwitch { timeline: switch.timeline, switch_point: switch.switch_point }
    }
}

impl From<StoredWalRange> for WalRange {
    fn from(range: StoredWalRange) -> WalRange {
        WalRange { timeline: range.timeline, start: range.start, end: range.end }
    }
}

impl DamagedPages {
    /// The maximum number of listed pages. Others are only counted.
    pub const LISTED_MAX: usize = 100;

    /// Adds a page.
    pub fn add(&mut self, page: DamagedPage) {
        self.count += 1;
        if self.listed.len() < DamagedPages::LISTED_MAX {
            self.listed.push(page);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::codec::Digest;
    use crate::durable::RealDisk;
    use crate::store::DirectoryStore;
    use std::sync::Arc;

    pub fn sample(label: &str) -> StoredBackup {
        let object =
            StoredObject { raw_bytes: 1, raw_digest: Digest::of(b"x"), stored_bytes: 2, stored_crc32: 0xABC };
        let point = |lsn: &str, time: &str| BackupPoint {
            time: time.parse().unwrap(),
            lsn: lsn.parse().unwrap(),
            timeline: TimelineId::FIRST,
            snapshot: Some("10:20:10,14,15".into()),
        };
        StoredBackup {
            version: 1,
            label: label.parse().unwrap(),
            kind: BackupKind::Full,
            created_by: "pgark 0.1.0".into(),
            cluster: "main".into(),
            system_identifier: SystemIdentifier::new(7).unwrap(),
            server: StoredServer {
                version_num: 150_014,
                catalog_version: 202_209_061,
                assumed_version: None,
                wal_segment_bytes: 16 << 20,
                page_bytes: 8192,
                pages_per_file: 131_072,
                data_checksums: true,
                wal_level: "replica".into(),
                max_connections: 100,
                max_worker_processes: 8,
                max_wal_senders: 10,
                max_prepared_transactions: 0,
                max_locks_per_transaction: 64,
            },
            from_standby: false,
            start: point("0/3000028", "2026-01-15T14:30:00Z"),
            stop: point("0/5000100", "2026-01-15T14:31:00.25Z"),
            wal_ranges: vec![StoredWalRange {
                timeline: TimelineId::FIRST,
                start: "0/3000028".parse().unwrap(),
                end: "0/5000100".parse().unwrap(),
            }],
            timeline_history: vec![],
            databases: vec![StoredDatabase {
                oid: Oid::new(5),
                name: "postgres".into(),
                tablespace: Oid::PG_DEFAULT,
                xmin: Xid::new(1),
            }],
            tablespaces: vec![StoredTablespace {
                oid: Oid::new(16402),
                name: "fast".into(),
                path: Some(StoredText::new(&b"/mnt/\xff"[..])),
            }],
            collations: None,
            settings: BTreeMap::from([("full_page_writes".to_owned(), "on".to_owned())]),
            configuration_files: vec![],
            backup_label: StoredText::new(&b"START WAL LOCATION: \n"[..]),
            tablespace_map: None,
            totals: BackupTotals {
                files: 1,
                directories: 1,
                file_bytes: 1,
                whole_bytes: None,
                stored_bytes: 1,
            },
            packs: vec![StoredPack { number: 1, tablespace: None, raw_bytes: 1, stored_bytes: 1, crc32: 1 }],
            index: StoredIndex { entries: 2, object },
            postgres_manifest: object,
            damaged_pages: DamagedPages::default(),
        }
    }

    #[test]
    fn a_backup_of_an_unknown_version_records_the_assumed_one() {
        let mut backup = sample("a");
        assert_eq!(backup.assumed_version().unwrap(), None);
        assert!(!serde_json::to_string(&backup).unwrap().contains("assumed_version"));
        (backup.server.version_num, backup.server.catalog_version) = (200_001, 202_709_101);
        assert_eq!(backup.major_version().unwrap_err().to_string(), "the backup a is of PostgreSQL 20");
        backup.server.assumed_version = Some(19);
        let backup = StoredBackup::parse(&serde_json::to_vec(&backup).unwrap()).unwrap();
        assert_eq!(backup.assumed_version().unwrap(), Some(MajorVersion::V19));
        assert_eq!(backup.server_version().unwrap().tablespace_directory(), "PG_20_202709101");
    }

    #[test]
    fn a_manifest_round_trips() {
        let mut backup = sample("a");
        let text = serde_json::to_vec_pretty(&backup).unwrap();
        assert_eq!(StoredBackup::parse(&text).unwrap(), backup);
        let mut parent = sample("b");
        parent.start.lsn = "0/1000028".parse().unwrap();
        backup.kind = BackupKind::Incremental(parent.link());
        backup.version = StoredBackup::version_of(&backup.kind);
        backup.totals.whole_bytes = Some(8192);
        let text = serde_json::to_string(&backup).unwrap();
        assert!(text.contains(
            "\"type\":{\"incremental\":{\"parent\":\"b\",\"parent_start_lsn\":\"0/1000028\",\"parent_start_"
        ));
        assert!(
            text.contains("\"crc32\":\"00000001\"") && text.contains("\"time\":\"2026-01-15T14:30:00Z\"")
        );
        assert_eq!(StoredBackup::parse(text.as_bytes()).unwrap(), backup);
    }

    #[test]
    fn an_unreadable_manifest_is_not_published() {
        let scratch = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(scratch.path().to_owned(), Arc::new(RealDisk));
        let repository = Repository::new(Arc::new(store), "main", SystemIdentifier::new(7).unwrap()).unwrap();
        let changes: [fn(&mut StoredBackup); 4] = [
            |backup| std::mem::swap(&mut backup.start.lsn, &mut backup.stop.lsn),
            |backup| backup.system_identifier = SystemIdentifier::new(8).unwrap(),
            |backup| backup.packs.clear(),
            |backup| backup.version = 3,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut backup = sample("a");
            change(&mut backup);
            let error = backup.publish(&repository).unwrap_err();
            assert!(error.to_string().starts_with("the backup a could not be used: "), "{number}: {error}");
            assert_eq!(StoredBackup::read(&repository, &backup.label).unwrap(), None, "{number}");
        }
        sample("a").publish(&repository).unwrap();
    }

    #[test]
    fn an_inconsistent_manifest_is_damage() {
        let text = serde_json::to_string(&sample("a")).unwrap();
        for (from, to) in [
            ("\"number\":1", "\"number\":2"),
            ("\"wal_segment_bytes\":16777216", "\"wal_segment_bytes\":7"),
            ("\"end\":\"0/5000100\"", "\"end\":\"0/5000101\""),
            ("\"lsn\":\"0/5000100\"", "\"lsn\":\"0/2000100\""),
            ("\"label\":\"a\"", "\"label\":\"../a\""),
            ("\"timeline_history\":[]", "\"timeline_history\":[7]"),
            ("{\"version\":1,", "{"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            assert_eq!(
                StoredBackup::parse(changed.as_bytes()).unwrap_err().kind(),
                ErrorKind::Damaged,
                "{from}"
            );
        }
        let mut incremental = sample("a");
        incremental.kind = BackupKind::Incremental(sample("b").link());
        let text_of = |backup: &StoredBackup| serde_json::to_vec(backup).unwrap();
        let error = StoredBackup::parse(&text_of(&incremental)).unwrap_err();
        assert!(
            error.to_string().contains("incremental"),
            "version 1, and a parent that begins where it does"
        );
        let newer = text.replacen("\"version\":1", "\"version\":3", 1);
        assert_eq!(StoredBackup::parse(newer.as_bytes()).unwrap_err().kind(), ErrorKind::Usage);
    }
}
