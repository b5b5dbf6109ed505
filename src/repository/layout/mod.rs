//! The names of all objects of one system.

mod kind;
mod parse;

pub use kind::{KindFacts, Lock, ObjectClass, ObjectKind, Place, RemovalRule, Verification, Writing};
pub use parse::kind_of;

use super::backup::Label;
use crate::error::Result;
use crate::postgres::{SegmentName, SystemIdentifier, TimelineId, WalFileName};
use crate::store::{ObjectKey, ObjectUse};

/// The keys of the objects of one system identifier of one cluster.
#[derive(Clone, Debug)]
pub struct Layout {
    cluster: String,
    system: SystemIdentifier,
    root: ObjectKey,
}

impl Layout {
    /// `<cluster>/<system identifier>`.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if the cluster's name cannot be part of a key.
    pub fn new(cluster: &str, system: SystemIdentifier) -> Result<Layout> {
        let root = ObjectKey::new(cluster)?.join(system)?;
        Ok(Layout { cluster: cluster.to_owned(), system, root })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The system identifier.
    pub fn system(&self) -> SystemIdentifier {
        self.system
    }

    /// `format.json`: proves that the place exists, and states its version.
    pub fn format(&self) -> Result<ObjectKey> {
        self.root.join("format.json")
    }

    /// `wal`: contains history files, and a directory per timeline.
    pub fn wal(&self) -> Result<ObjectKey> {
        self.root.join("wal")
    }

    /// `wal/<timeline>`: contains a directory per log number.
    pub fn wal_timeline(&self, timeline: TimelineId) -> Result<ObjectKey> {
        self.wal()?.join(timeline.file_digits())
    }

    /// `wal/<timeline>/<log number>`: contains segments, partial segments and backup history files.
    pub fn wal_log(&self, timeline: TimelineId, log: u32) -> Result<ObjectKey> {
        self.wal_timeline(timeline)?.join(format!("{log:08X}"))
    }

    /// The object of a WAL file.
    pub fn wal_file(&self, name: WalFileName) -> Result<ObjectKey> {
        match name.segment() {
            Some(segment) => self.wal_log(segment.timeline(), segment.log())?.join(name),
            None => self.wal()?.join(name),
        }
    }

    /// The object of a segment.
    pub fn segment(&self, name: SegmentName) -> Result<ObjectKey> {
        self.wal_file(WalFileName::Segment(name))
    }

    /// `backup`: contains a directory per backup.
    pub fn backups(&self) -> Result<ObjectKey> {
        self.root.join("backup")
    }

    /// `backup/<label>`: contains all objects of one backup.
    pub fn backup(&self, label: &Label) -> Result<ObjectKey> {
        self.backups()?.join(label)
    }

    /// `backup/<label>/running`: the mark of a running backup.
    pub fn backup_running(&self, label: &Label) -> Result<ObjectKey> {
        self.backup(label)?.join("running")
    }

    /// `backup/<label>/pack-<number>`: compressed files; numbers begin at 1.
    pub fn backup_pack(&self, label: &Label, number: u32) -> Result<ObjectKey> {
        self.backup(label)?.join(format_args!("pack-{number:06}"))
    }

    /// `backup/<label>/files`: the index.
    pub fn backup_index(&self, label: &Label) -> Result<ObjectKey> {
        self.backup(label)?.join("files")
    }

    /// `backup/<label>/backup_manifest`: PostgreSQL's own list of the files.
    pub fn postgres_manifest(&self, label: &Label) -> Result<ObjectKey> {
        self.backup(label)?.join("backup_manifest")
    }

    /// `backup/<label>/manifest.json`: describes the backup, which exists if this object does.
    pub fn stored_backup(&self, label: &Label) -> Result<ObjectKey> {
        self.backup(label)?.join("manifest.json")
    }
}

/// What the object under a key is, for a store that treats objects differently; `None` if no object of pgark has this
/// name.
pub fn use_of(key: &ObjectKey) -> Option<ObjectUse> {
    Some(match kind_of(key)? {
        ObjectKind::WalSegment | ObjectKind::WalPartial | ObjectKind::WalBackupHistory => ObjectUse::Wal,
        ObjectKind::BackupPack | ObjectKind::Dump => ObjectUse::Pack,
        _ => ObjectUse::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_recognized_by_its_key() {
        let samples = [
            ("<id>.<json or age>", "0123abcd.age"),
            ("<log number>", "00000002"),
            ("<timeline>", "00000001"),
            ("<segment>.<offset>.backup", "0000000100000002000000A1.00000028.backup"),
            ("<segment>.partial, …partial.<digest>", "0000000100000002000000A1.partial.0123456789abcdef"),
            ("<segment>", "0000000100000002000000A1"),
            ("<first>", "0000000200000001"),
            ("<last>", "00000002000000A1"),
            ("<offset>", "00A00000"),
            ("<writer>", "host-1"),
            ("<label>", "20260115-143000F"),
            ("pack-<number>", "pack-000001"),
            ("<number>", "2"),
            ("<name>", "globals"),
            ("<kind>", "verify"),
            ("<time>", "20260115T143000Z"),
            ("<id>", "0123abcd"),
        ];
        for kind in ObjectKind::ALL {
            let pattern = kind.facts().key.to_owned();
            let sample = samples.iter().fold(pattern, |key, (part, sample)| key.replace(part, sample));
            let key = ObjectKey::new(format!("main/7/{sample}")).unwrap();
            assert_eq!(kind_of(&key), Some(*kind), "{sample}");
        }
    }

    #[test]
    fn every_file_has_its_place() {
        let layout = Layout::new("main", SystemIdentifier::new(7).unwrap()).unwrap();
        for (name, key) in [
            ("00000002.history", "main/7/wal/00000002.history"),
            ("0000000100000002000000A1", "main/7/wal/00000001/00000002/0000000100000002000000A1"),
            (
                "0000000100000002000000A1.partial",
                "main/7/wal/00000001/00000002/0000000100000002000000A1.partial",
            ),
        ] {
            let found = layout.wal_file(name.parse().unwrap()).unwrap();
            assert_eq!(found.as_str(), key);
            let small = name.ends_with(".history");
            assert_eq!(use_of(&found), Some(if small { ObjectUse::Other } else { ObjectUse::Wal }));
        }
        let label = "20260115-143000F".parse().unwrap();
        assert_eq!(use_of(&layout.backup_pack(&label, 1).unwrap()), Some(ObjectUse::Pack));
        assert_eq!(use_of(&layout.backup_pack(&label, 12_345_678).unwrap()), Some(ObjectUse::Pack));
        for other in [
            layout.stored_backup(&label),
            layout.backup_running(&label),
            layout.backup_index(&label),
            layout.postgres_manifest(&label),
            layout.format(),
        ] {
            assert_eq!(use_of(&other.unwrap()), Some(ObjectUse::Other));
        }
        for text in [
            "photos/2024.tar",
            "main",
            "main/7",
            "main/7/else",
            "main/07/format.json",
            "main/seven/format.json",
            "main/7/wal",
            "main/7/wal/readme",
            "main/7/wal/00000001/00000003/0000000100000002000000A1",
            "main/7/wal/0000000100000002000000A1",
            "main/7/wal/00000001/00000002.history",
            "main/7/backup/a",
            "main/7/backup/a/pack-1",
            "main/7/backup/a/pack-0000001",
            "main/7/backup/-a/pack-000001",
            "main/7/backup/a/else",
            "main/7/backup/a/child--b",
            "main/7/backup/a/expired-0",
            "main/7/backup/a/end-01",
            "main/7/wal/00000001/removed-0000000100000002",
            "main/7/wal/00000001/removed-0000000100000002-0000000100000001",
            "main/7/wal/00000000/removed-0000000100000001-0000000100000002",
            "main/7/wal/00000001/0000000g/notes-a",
            "main/7/chunk/00000002/0000000100000002000000A1/00000000",
            "main/7/keys/a.b.age",
            "main/7/task/verify",
            "main/7/backup/a/pack-000001/x",
            "x/main/7/backup/a/pack-000001",
        ] {
            assert_eq!(use_of(&ObjectKey::new(text).unwrap()), None, "{text}");
        }
        assert!(Layout::new("../x", SystemIdentifier::new(7).unwrap()).is_err());
    }
}
