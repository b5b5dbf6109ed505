//! `manifest.json`: what a backup is, and the proof that it is complete. Written last.

pub use super::collations::{RecordedCollation, StoredCollations};
use super::framed::StoredObject;
use super::index::StoredIndex;
use super::label::Label;
use super::text::{StoredText, crc32_digits};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::postgres::control_file::{ControlFile, ServerLimits, WalLevel};
use crate::postgres::{
    Lsn, MajorVersion, SegmentName, SegmentSize, ServerVersion, SystemIdentifier, TimelineId, TimelineSwitch,
    WalRange,
};
use crate::repository::version::check_version;
use crate::repository::{Repository, object};
use crate::store::{PutOutcome, StoreExt, json_text};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The newest version. All from 1 on are read, and a backup is written in the oldest that can hold it, so that an older
/// pgark goes on reading the full ones.
const VERSION: u32 = 2;
/// Version 2 added incremental backups.
const VERSION_INCREMENTAL: u32 = 2;
const VERSION_FULL: u32 = 1;

/// More than any server is built with, whose files have 131,072 pages; so much is read of an incremental file at once.
const PAGES_PER_FILE_MAX: u32 = 1 << 24;

/// Far more than a manifest has: ten thousand packs are one megabyte.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// A backup that exists. Nothing in it grows with the number of files.
///
/// Fields that a later version adds are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBackup {
    /// The version of this format.
    pub version: u32,
    /// The backup's name.
    pub label: Label,
    /// Whether it is complete in itself.
    #[serde(rename = "type")]
    pub kind: BackupKind,
    /// The program that took it, with its version.
    pub created_by: String,
    /// The cluster's name.
    pub cluster: String,
    /// Which system it is a copy of.
    pub system_identifier: SystemIdentifier,
    /// The server that it was taken from.
    pub server: StoredServer,
    /// Whether that server was a standby.
    pub from_standby: bool,
    /// Where recovery of the backup begins, and when the backup did.
    pub start: BackupPoint,
    /// The position after the last WAL that it needs: from here on it can be recovered to.
    pub stop: BackupPoint,
    /// The WAL from start to stop, a range for each timeline, oldest first.
    pub wal_ranges: Vec<StoredWalRange>,
    /// The ancestors of the timeline of the stop point, oldest first, and where each ends.
    pub timeline_history: Vec<StoredSwitch>,
    /// The databases when the copy began.
    pub databases: Vec<StoredDatabase>,
    /// The tablespaces when the copy began, without `pg_default` and `pg_global`.
    pub tablespaces: Vec<StoredTablespace>,
    /// By which versions text was sorted; `None` in backups of a pgark that did not record them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collations: Option<StoredCollations>,
    /// The server's settings that whoever recovers the backup must respect or may want to know, as `SHOW` prints them.
    pub settings: BTreeMap<String, String>,
    /// Copies of the configuration files that lie outside of the data directory.
    pub configuration_files: Vec<StoredConfigurationFile>,
    /// The content of `backup_label`, which is in the last pack too.
    pub backup_label: StoredText,
    /// The content of `tablespace_map`, which is in the last pack too; `None`: there is no such file.
    pub tablespace_map: Option<StoredText>,
    /// What was packed.
    pub totals: BackupTotals,
    /// The packs, by number, without a gap.
    pub packs: Vec<StoredPack>,
    /// The index `files`.
    pub index: StoredIndex,
    /// The object `backup_manifest`.
    pub postgres_manifest: StoredObject,
    /// Pages whose checksum did not hold although no WAL will replace them.
    pub damaged_pages: DamagedPages,
}

/// How much of the data a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// Everything.
    Full,
    /// What changed since another backup.
    Incremental(ParentLink),
}

/// The backup that an incremental one builds on. A label can be used anew; the rest makes sure that it is the same backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentLink {
    /// Its label.
    pub parent: Label,
    /// Its start point: pages that have not changed since then are not stored.
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
    /// The format of the catalogs, in the names of tablespaces' directories too.
    pub catalog_version: u32,
    /// As which major version its files were read, where the pgark that took the backup did not know its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assumed_version: Option<u32>,
    /// The length of a WAL segment.
    pub wal_segment_bytes: u32,
    /// The length of a data page.
    pub page_bytes: u32,
    /// How many pages a file of a relation holds at most.
    pub pages_per_file: u32,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
    /// `wal_level`: replica or logical.
    pub wal_level: String,
    /// `max_connections`; a server that recovers the backup with hot_standby on must not have less, as of the next four.
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
    /// When, by the server's clock.
    pub time: Timestamp,
    /// The position.
    pub lsn: Lsn,
    /// The timeline of the position.
    pub timeline: TimelineId,
    /// `pg_current_snapshot()` then; `None` on a standby.
    pub snapshot: Option<String>,
}

/// A stretch of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredWalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first position that is needed.
    pub start: Lsn,
    /// The position after the last byte that is needed.
    pub end: Lsn,
}

/// Where a timeline ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSwitch {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first position that does not belong to it any more.
    pub switch_point: Lsn,
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDatabase {
    /// Its object identifier, the name of its directory.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// The object identifier of its tablespace.
    pub tablespace: u32,
    /// The transaction that wrote its row in `pg_database`.
    pub xmin: u32,
}

/// A tablespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTablespace {
    /// Its object identifier, the name in `pg_tblspc`.
    pub oid: u32,
    /// Its name; empty when there was none in the catalog.
    pub name: String,
    /// What the link `pg_tblspc/<oid>` pointed to; `None`: it is a directory in place of a link, and its files are in the
    /// packs of the data directory.
    pub path: Option<StoredText>,
}

/// A configuration file outside of the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredConfigurationFile {
    /// Where it lay, an absolute path.
    pub path: StoredText,
    /// Its content; `None`: it could not be read, or was longer than 1 MiB.
    pub content: Option<StoredText>,
}

/// What was packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupTotals {
    /// How many files.
    pub files: u64,
    /// How many directories.
    pub directories: u64,
    /// The length of all files together, as they are stored: of an incremental one only what changed.
    pub file_bytes: u64,
    /// Of an incremental backup: the length of all files together, when they are restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_bytes: Option<u64>,
    /// The length of all objects of the backup together, without this manifest.
    pub stored_bytes: u64,
}

/// One pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPack {
    /// Its number, from 1.
    pub number: u32,
    /// The tablespace whose directory is the root of its paths; `None`: the data directory.
    pub tablespace: Option<u32>,
    /// The length of the archive.
    pub raw_bytes: u64,
    /// The length of the object.
    pub stored_bytes: u64,
    /// CRC-32 of the object.
    #[serde(with = "crc32_digits")]
    pub crc32: u32,
}

/// Pages that were damaged in the server's files already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPages {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub listed: Vec<DamagedPage>,
}

/// A page that was damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPage {
    /// The file, below the data directory.
    pub path: StoredText,
    /// The number of the page within its relation's fork, counted over all files of the fork.
    pub block: u32,
    /// What is wrong with it, in words.
    pub problem: String,
}

impl StoredBackup {
    /// The newest version of the format.
    pub const VERSION: u32 = VERSION;

    /// The version that the manifest of a backup of this kind has.
    pub fn version_of(kind: &BackupKind) -> u32 {
        match kind {
            BackupKind::Full => VERSION_FULL,
            BackupKind::Incremental(_) => VERSION_INCREMENTAL,
        }
    }

    /// The backup that this one builds on; `None` for a full one.
    pub fn parent(&self) -> Option<&ParentLink> {
        match &self.kind {
            BackupKind::Full => None,
            BackupKind::Incremental(link) => Some(link),
        }
    }

    /// Whether it holds no visibility maps: an incremental one of a cluster without data checksums.
    pub fn lacks_visibility_maps(&self) -> bool {
        self.parent().is_some() && !self.server.data_checksums
    }

    /// What names this backup as the parent of another.
    pub fn link(&self) -> ParentLink {
        ParentLink {
            parent: self.label.clone(),
            parent_start_lsn: self.start.lsn,
            parent_start_timeline: self.start.timeline,
            parent_index_digest: self.index.object.raw_digest,
        }
    }

    /// The length of all files together, when they are restored.
    pub fn whole_bytes(&self) -> u64 {
        self.totals.whole_bytes.unwrap_or(self.totals.file_bytes)
    }

    /// The server's version, as what it was read when the backup was taken.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for one that this pgark does not know, and that was not assumed to be like another.
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

    /// The version whose formats and functions the server is taken to have: its major version, unless that is unknown.
    ///
    /// # Errors
    /// As [`StoredBackup::server_version`].
    pub fn major_version(&self) -> Result<MajorVersion> {
        Ok(self.server_version()?.formats)
    }

    /// The version that has to be assumed to read the backup; `None`: this pgark knows the server's own.
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
    /// [`ErrorKind::Damaged`] when it is not one.
    pub fn segment_size(&self) -> Result<SegmentSize> {
        SegmentSize::new(self.server.wal_segment_bytes).ok_or_else(|| {
            Error::damaged(format!("{} is not the length of a WAL segment", self.server.wal_segment_bytes))
        })
    }

    /// The segment that holds the start point.
    ///
    /// # Errors
    /// As [`StoredBackup::segment_size`].
    pub fn start_segment(&self) -> Result<SegmentName> {
        Ok(SegmentName::holding(self.start.timeline, self.start.lsn, self.segment_size()?))
    }

    /// The settings that a server recovering the backup must not undercut.
    pub fn limits(&self) -> ServerLimits {
        ServerLimits {
            max_connections: self.server.max_connections,
            max_worker_processes: self.server.max_worker_processes,
            max_wal_senders: self.server.max_wal_senders,
            max_prepared_transactions: self.server.max_prepared_transactions,
            max_locks_per_transaction: self.server.max_locks_per_transaction,
        }
    }

    /// Stores the manifest. When this returns, the backup exists, and is one that [`StoredBackup::read`] accepts.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when it would not, [`ErrorKind::Conflict`] when there is a backup of this label, and the store's own.
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

    /// The backup of this label; `None` when the store has said that it does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], [`ErrorKind::Usage`] when a newer version wrote it, and the store's own.
    pub fn read(repository: &Repository, label: &Label) -> Result<Option<StoredBackup>> {
        let key = repository.layout().stored_backup(label)?;
        let text = object::read_whole(repository.store().as_ref(), &key, MANIFEST_BYTES_MAX)?;
        let Some(text) = text else { return Ok(None) };
        let what = || format!("\"{}\" cannot be used", repository.store().locate(&key));
        let backup = StoredBackup::parse(&text).context(what)?;
        backup.check_place(label, repository).context(what)?;
        Ok(Some(backup))
    }

    /// That it lies where it says.
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

    /// That it does not contradict itself.
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
    /// What `pg_control` says of a server of this `server_version_num`.
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
    /// How many are listed at most; the rest is only counted.
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
            databases: vec![StoredDatabase { oid: 5, name: "postgres".into(), tablespace: 1663, xmin: 1 }],
            tablespaces: vec![StoredTablespace {
                oid: 16402,
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
    fn a_backup_of_an_unknown_version_says_as_what_it_was_read() {
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
    fn what_would_be_refused_is_not_published() {
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
    fn what_contradicts_itself_is_damage() {
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
