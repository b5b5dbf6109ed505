//! `backup_manifest`: PostgreSQL's own list of the files of a base backup.
//!
//! Owns: the text format, exactly as the server writes it, so that `pg_verifybackup` and `pg_combinebackup` accept
//! pgark's manifests. Does not own: the selection of the files.
//!
//! Source: PostgreSQL `backup/backup_manifest.c` and `common/parse_manifest.c`; manual, "Backup Manifest Format".

mod reader;
mod writer;

pub use reader::BackupManifestReader;
pub use writer::BackupManifestWriter;

use crate::postgres::value::lsn::Lsn;
use crate::postgres::value::system_identifier::SystemIdentifier;
use crate::postgres::value::timeline::TimelineId;
use crate::postgres::version::major::MajorVersion;
use std::borrow::Cow;

/// The version of the format, with the fields that only this version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestVersion {
    /// Version 1, of PostgreSQL 16 and earlier.
    One,
    /// Version 2, of PostgreSQL 17 and later, which identifies the cluster.
    Two(SystemIdentifier),
}

/// One file of a base backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile<'a> {
    /// Path relative to the data directory, separated by `/`; files of a tablespace are below `pg_tblspc/<oid>/`. A
    /// file name may contain any bytes.
    pub path: Cow<'a, [u8]>,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Last modification, in seconds since 1970.
    pub modified_unix_s: i64,
    /// CRC-32C of the content; `None` if the backup was taken without checksums.
    pub crc32c: Option<u32>,
}

/// A range of WAL that the backup needs: from `start` to `end` on `timeline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first required position.
    pub start: Lsn,
    /// The position after the last required byte.
    pub end: Lsn,
}

impl ManifestVersion {
    /// The version that a server of this major version writes.
    pub fn written_by(version: MajorVersion, system: SystemIdentifier) -> ManifestVersion {
        match version.facts().manifest_version {
            1 => ManifestVersion::One,
            _ => ManifestVersion::Two(system),
        }
    }
}
