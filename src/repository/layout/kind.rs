//! The kinds of objects in a repository, and what holds for each.

use Lock::{Locked, Unlocked};
use ObjectClass::{Clear, Data, List};
use Place::{Copied, Local};
use RemovalRule::{AtBackupEnd, ByAge, Never, WithBackup, WithDump, WithSegment, WithWal};
use Verification::{Compared, Header, Manifest, Parsed};
use Writing::{Once, Replaced};

/// Defines the kinds with everything that holds for them, so that no kind lacks anything.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $key:literal, $class:expr, $writing:expr, $lock:expr, $place:expr, $removal:expr,
        $verification:expr;)*) => {
        /// A kind of object. Every key of a repository belongs to exactly one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ObjectKind {
            $($(#[$doc])* $kind,)*
        }

        impl ObjectKind {
            /// All kinds, in the order of the table in `docs/repository-format.md`.
            pub const ALL: &[ObjectKind] = &[$(ObjectKind::$kind,)*];

            /// What holds for its objects.
            pub const fn facts(self) -> KindFacts {
                match self {
                    $(ObjectKind::$kind => KindFacts {
                        key: $key,
                        class: $class,
                        writing: $writing,
                        lock: $lock,
                        place: $place,
                        removal: $removal,
                        verification: $verification,
                    },)*
                }
            }
        }
    };
}

kinds! {
    /// Proves that the place exists, and states its version.
    Format = "format.json", Clear, Once, Locked, Copied, Never, Parsed;
    /// States since when everything new is sealed.
    Encryption = "encryption.json", Clear, Once, Locked, Copied, Never, Parsed;
    /// A public key, or the identity of a replaced key, sealed for the present ones.
    Key = "keys/<id>.<json or age>", Clear, Once, Locked, Copied, Never, Parsed;
    /// A copy of the configuration of a host that writes.
    Configuration = "configuration/<time>", List, Once, Locked, Copied, ByAge, Parsed;
    /// A history file.
    WalHistory = "wal/<timeline>.history", List, Once, Locked, Copied, Never, Header;
    /// A segment.
    WalSegment = "wal/<timeline>/<log number>/<segment>", Data, Once, Locked, Copied, WithWal, Header;
    /// A partial segment, first or further.
    WalPartial = "wal/<timeline>/<log number>/<segment>.partial, …partial.<digest>", Data, Once, Locked, Copied, WithWal, Header;
    /// A backup history file.
    WalBackupHistory = "wal/<timeline>/<log number>/<segment>.<offset>.backup", Data, Once, Locked, Copied, WithWal, Header;
    /// An index of one writer over the header records of the segments of one log number.
    WalNotes = "wal/<timeline>/<log number>/notes-<writer>", List, Replaced, Unlocked, Copied, WithWal, Compared;
    /// A range of segments that retention removed.
    WalRemoved = "wal/<timeline>/removed-<first>-<last>", Clear, Once, Locked, Copied, Never, Parsed;
    /// A range of segments that were never archived.
    WalGap = "wal/<timeline>/gap-<first>-<last>", Clear, Once, Locked, Copied, Never, Parsed;
    /// The beginning of a segment that is not complete yet.
    Chunk = "chunk/<timeline>/<segment>/<offset>", Data, Once, Unlocked, Local, WithSegment, Header;
    /// The mark of a running backup.
    BackupRunning = "backup/<label>/running", Clear, Replaced, Unlocked, Local, AtBackupEnd, Parsed;
    /// Claims a backup as the parent of another one.
    BackupChild = "backup/<label>/child-<label>", Clear, Once, Unlocked, Local, WithBackup, Parsed;
    /// Compressed files.
    BackupPack = "backup/<label>/pack-<number>", Data, Once, Locked, Copied, WithBackup, Manifest;
    /// The index of the files.
    BackupIndex = "backup/<label>/files", List, Once, Locked, Copied, WithBackup, Manifest;
    /// PostgreSQL's own list of the files.
    BackupPostgresManifest = "backup/<label>/backup_manifest", List, Once, Locked, Copied, WithBackup, Manifest;
    /// Configuration files from outside the data directory.
    BackupConfiguration = "backup/<label>/configuration", List, Once, Locked, Copied, WithBackup, Manifest;
    /// Describes the backup, or as a tombstone records that there is none.
    BackupManifest = "backup/<label>/manifest.json", List, Once, Locked, Copied, WithBackup, Parsed;
    /// Marks a backup for removal.
    BackupExpired = "backup/<label>/expired-<number>", Clear, Once, Unlocked, Local, WithBackup, Parsed;
    /// Ends such a mark: the backup is removed, or kept.
    BackupExpiryEnd = "backup/<label>/end-<number>", Clear, Once, Unlocked, Local, WithBackup, Parsed;
    /// Keeps a backup from removal.
    BackupPin = "backup/<label>/pin-<number>", Clear, Once, Unlocked, Copied, WithBackup, Parsed;
    /// Ends a pin.
    BackupPinEnd = "backup/<label>/unpin-<number>", Clear, Once, Unlocked, Copied, WithBackup, Parsed;
    /// The log of a backup that was taken or failed.
    BackupLog = "log/backup/<label>.json", List, Once, Unlocked, Copied, Never, Parsed;
    /// A dump or companion file.
    Dump = "dump/<name>/<time>/content", Data, Once, Locked, Copied, WithDump, Manifest;
    /// Describes a dump, which exists if this object does.
    DumpManifest = "dump/<name>/<time>/manifest.json", List, Once, Locked, Copied, WithDump, Parsed;
    /// The report of a drill.
    DrillReport = "drill/<time>.json", List, Once, Unlocked, Copied, ByAge, Parsed;
    /// What was verified, when, and how deeply.
    Ledger = "state/verify.json", List, Replaced, Unlocked, Local, Never, Parsed;
    /// A finding of the verification.
    Finding = "finding/<id>", List, Once, Unlocked, Local, ByAge, Parsed;
    /// Records that a finding is gone.
    FindingGone = "finding/<id>.gone", List, Once, Unlocked, Local, ByAge, Parsed;
    /// The appointment of a scheduled task.
    Task = "task/<kind>/<time>", Clear, Once, Unlocked, Local, ByAge, Parsed;
    /// The result of a scheduled task.
    TaskResult = "task/<kind>/<time>.result", List, Once, Unlocked, Local, ByAge, Parsed;
    /// What retention did last, and by which policy.
    RetentionState = "state/retention.json", List, Replaced, Unlocked, Local, Never, Parsed;
}

/// Who can read the content of an encrypted repository's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectClass {
    /// Everyone with access to the repository; never sealed.
    Clear,
    /// Holders of the list key or of the recovery key.
    List,
    /// Holders of the recovery key alone.
    Data,
}

/// Whether an object can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// Created once; never changed.
    Once,
    /// Replaced as a whole by its writer.
    Replaced,
}

/// Whether an object stays unchanged for the time of a lock that is configured for the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// It does.
    Locked,
    /// It does not: it is replaced or removed in normal operation, which adds a version or a delete marker.
    Unlocked,
}

/// Where an object is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In every copy of the repository.
    Copied,
    /// Only in the repository that it was written to.
    Local,
}

/// When an object is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalRule {
    /// Never.
    Never,
    /// With its backup, manifest first.
    WithBackup,
    /// When the backup is published or ends.
    AtBackupEnd,
    /// With the WAL that no kept backup and no recovery window needs.
    WithWal,
    /// When its segment is stored.
    WithSegment,
    /// With its dump, manifest first.
    WithDump,
    /// After a time that the configuration sets.
    ByAge,
}

/// How the verification proves that an object is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// It is parsed, and agrees with its key.
    Parsed,
    /// Its own header holds the digest of its content.
    Header,
    /// The manifest above it holds the digest of its content.
    Manifest,
    /// It agrees with the objects that it summarizes.
    Compared,
}

/// What holds for all objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindFacts {
    /// The key below `<cluster>/<system identifier>/`.
    pub key: &'static str,
    /// Who can read it.
    pub class: ObjectClass,
    /// Whether it can change.
    pub writing: Writing,
    /// Whether object lock applies to it.
    pub lock: Lock,
    /// Whether a copy of the repository holds it.
    pub place: Place,
    /// When it is removed.
    pub removal: RemovalRule,
    /// How it is verified.
    pub verification: Verification,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as `docs/repository-format.md` prints it.
    fn table() -> String {
        let rows = ObjectKind::ALL.iter().map(|kind| {
            let facts = kind.facts();
            let class = match facts.class {
                Clear => "clear",
                List => "list",
                Data => "data",
            };
            let writing = match facts.writing {
                Once => "once",
                Replaced => "replaced",
            };
            let lock = match facts.lock {
                Locked => "locked",
                Unlocked => "-",
            };
            let place = match facts.place {
                Copied => "copied",
                Local => "-",
            };
            let removal = match facts.removal {
                Never => "never",
                WithBackup => "with its backup",
                AtBackupEnd => "when the backup ends",
                WithWal => "with WAL that nothing needs",
                WithSegment => "when its segment is stored",
                WithDump => "with its dump",
                ByAge => "by age",
            };
            let verification = match facts.verification {
                Parsed => "parsed",
                Header => "digest in its header",
                Manifest => "digest in the manifest",
                Compared => "compared with what it summarizes",
            };
            let key = facts.key.replace(", ", "`, `");
            format!("| `{key}` | {class} | {writing} | {lock} | {place} | {removal} | {verification} |\n")
        });
        let head = "| key | class | written | object lock | copies | removed | verified |\n|---|---|---|---|---|---|---|\n";
        head.to_owned() + &rows.collect::<String>()
    }

    #[test]
    fn the_documentation_has_the_table() {
        let documentation = include_str!("../../../docs/repository-format.md");
        assert!(documentation.contains(&table()), "docs/repository-format.md needs this table:\n{}", table());
    }

    #[test]
    fn kinds_do_not_contradict_themselves() {
        for kind in ObjectKind::ALL {
            let facts = kind.facts();
            let changes = facts.writing == Replaced || matches!(facts.removal, AtBackupEnd | WithSegment);
            assert!(facts.lock == Unlocked || !changes, "object lock would keep {kind:?} from changing");
            let is_needed = matches!(facts.class, Data) && facts.removal != WithSegment;
            assert!(facts.place == Copied || !is_needed, "a copy without {kind:?} is incomplete");
        }
    }
}
