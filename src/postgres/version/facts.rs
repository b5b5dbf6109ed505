//! The differences between PostgreSQL's major versions, in a table with a row for each. A new version is a new row; no
//! other code compares versions.
//!
//! A row lists its differences from the previous version.

use super::major::MajorVersion;

/// A row of the table: all that pgark has to know about one major version.
#[derive(Debug)]
pub struct VersionFacts {
    /// The major version number, as in `PG_VERSION`.
    pub number: u32,
    /// The first two bytes of every WAL page. Source: `access/xlog_internal.h`, `XLOG_PAGE_MAGIC`.
    pub wal_magic: u16,
    /// The catalog version. Source: `catalog/catversion.h`, `CATALOG_VERSION_NO`.
    pub catalog_version: u32,
    /// The version of `pg_control`. Source: `catalog/pg_control.h`, `PG_CONTROL_VERSION`.
    pub control_version: u32,
    /// Offset of the checksum in `pg_control`, which is also the size of the content before it. Source:
    /// `catalog/pg_control.h`, `ControlFileData`.
    pub control_checksum_offset: usize,
    /// Fields inserted into `pg_control` since version 13, before the checksum: the offset in version 13's layout
    /// before which they were inserted, and the number of bytes by which they shift all that follows. Source: as above.
    pub control_insertions: &'static [(usize, usize)],
    /// The flags of a page image in WAL each of which marks it as compressed. Source: `access/xlogrecord.h`,
    /// `BKPIMAGE_*`.
    pub compressed_image_flags: u8,
    /// Size of each dropped statistics item in a commit record, in bytes. Source: `access/xact.h`,
    /// `xl_xact_stats_item`, whose object identifiers have 64 bits from version 18 on.
    pub statistics_item_bytes: u64,
    /// The version of the `backup_manifest` that the server writes; from version 2 on it contains the system
    /// identifier.
    pub manifest_version: u32,
    /// Whether the server's parser of `tablespace_map` treats every backslash as an escape character, or only one
    /// before a line end. Source: `access/transam/xlogrecovery.c`, `read_tablespace_map`.
    pub tablespace_map_escapes_backslashes: bool,
    /// The function that starts a backup.
    pub start_backup: &'static str,
    /// The function that stops it.
    pub stop_backup: &'static str,
    /// Further argument of both functions, which requests a non-exclusive backup in versions that support both kinds.
    pub backup_options: &'static str,
    /// The syntax and the response format of the replication protocol's `BASE_BACKUP`.
    pub base_backup: BaseBackupForm,
    /// Whether the server can summarize WAL, and therefore send incremental backups and mark them in the backup label.
    pub has_wal_summaries: bool,
    /// Whether the server has `archive_library`, which excludes `archive_command`.
    pub has_archive_library: bool,
    /// Whether `pg_database` contains the version of each database's collation.
    pub has_database_collation_version: bool,
    /// An SQL expression that returns `paused` while replay is paused.
    pub replay_pause_state: &'static str,
    /// Settings, each with a value, that a recovered copy must override, in addition to those of all versions.
    pub settings_of_recovery: &'static [(&'static str, &'static str)],
    /// Directories whose content the server recreates at startup. Source: `backup/basebackup.c`, `excludeDirContents`.
    pub emptied_directories: &'static [&'static str],
    /// Directories in `pg_wal` that a backup keeps, empty. Source: `backup/basebackup.c`, `sendDir`.
    pub directories_in_pg_wal: &'static [&'static str],
    /// Files that no backup contains. Source: `backup/basebackup.c`, `excludeFiles`.
    pub skipped_files: &'static [&'static str],
    /// Name prefixes of further such files. Source: as above, and `sendDir`.
    pub skipped_beginnings: &'static [&'static str],
}

/// The variants of `BASE_BACKUP`. Source: PostgreSQL's manual, "Streaming Replication Protocol".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseBackupForm {
    /// Keywords; the response has a stream for each archive.
    Words,
    /// A list of options; the response is a single stream of typed messages.
    Options,
}

const V13: VersionFacts = VersionFacts {
    number: 13,
    wal_magic: 0xD106,
    catalog_version: 202007201,
    control_version: 1300,
    control_checksum_offset: 288,
    control_insertions: &[],
    compressed_image_flags: 0x02,
    statistics_item_bytes: 12,
    manifest_version: 1,
    tablespace_map_escapes_backslashes: false,
    start_backup: "pg_start_backup",
    stop_backup: "pg_stop_backup",
    backup_options: ", exclusive => false",
    base_backup: BaseBackupForm::Words,
    has_wal_summaries: false,
    has_archive_library: false,
    has_database_collation_version: false,
    replay_pause_state: "CASE WHEN pg_is_wal_replay_paused() THEN 'paused' END",
    // A trigger file would end the recovery at its pause. The server would also remove the file, which may be meant for
    // the original.
    settings_of_recovery: &[("promote_trigger_file", "")],
    emptied_directories: &[
        "pg_stat_tmp",
        "pg_replslot",
        "pg_dynshmem",
        "pg_notify",
        "pg_serial",
        "pg_snapshots",
        "pg_subtrans",
    ],
    directories_in_pg_wal: &["archive_status"],
    skipped_files: &[
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "backup_label",
        "tablespace_map",
        "backup_manifest",
        "postmaster.pid",
        "postmaster.opts",
    ],
    skipped_beginnings: &["pgsql_tmp", "pg_internal.init"],
};

const V14: VersionFacts = VersionFacts {
    number: 14,
    wal_magic: 0xD10D,
    catalog_version: 202107181,
    tablespace_map_escapes_backslashes: true,
    replay_pause_state: "pg_get_wal_replay_pause_state()",
    ..V13
};

const V15: VersionFacts = VersionFacts {
    number: 15,
    wal_magic: 0xD110,
    catalog_version: 202209061,
    // One for each of pglz, lz4 and zstd.
    compressed_image_flags: 0x04 | 0x08 | 0x10,
    start_backup: "pg_backup_start",
    stop_backup: "pg_backup_stop",
    backup_options: "",
    base_backup: BaseBackupForm::Options,
    has_archive_library: true,
    has_database_collation_version: true,
    ..V14
};

const V16: VersionFacts = VersionFacts {
    number: 16,
    wal_magic: 0xD113,
    catalog_version: 202307071,
    settings_of_recovery: &[],
    ..V15
};

const V17: VersionFacts = VersionFacts {
    number: 17,
    wal_magic: 0xD116,
    catalog_version: 202406281,
    control_version: 1700,
    manifest_version: 2,
    has_wal_summaries: true,
    directories_in_pg_wal: &["archive_status", "summaries"],
    ..V16
};

const V18: VersionFacts = VersionFacts {
    number: 18,
    wal_magic: 0xD118,
    catalog_version: 202506291,
    control_version: 1800,
    control_checksum_offset: 292,
    statistics_item_bytes: 16,
    ..V17
};

const V19: VersionFacts = VersionFacts {
    number: 19,
    wal_magic: 0xD122,
    catalog_version: 202610061,
    control_version: 1905,
    control_checksum_offset: 308,
    // In the copy of the checkpoint (`logicalDecodingEnabled`, a wider `nextMulti`, and their padding);
    // `slru_pages_per_segment`; `data_checksum_version_init`.
    control_insertions: &[(64, 8), (224, 4), (252, 4)],
    ..V18
};

impl MajorVersion {
    /// The version's row of the table.
    pub const fn facts(self) -> &'static VersionFacts {
        match self {
            MajorVersion::V13 => &V13,
            MajorVersion::V14 => &V14,
            MajorVersion::V15 => &V15,
            MajorVersion::V16 => &V16,
            MajorVersion::V17 => &V17,
            MajorVersion::V18 => &V18,
            MajorVersion::V19 => &V19,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_version_has_a_row_of_its_own() {
        let facts = MajorVersion::ALL.map(MajorVersion::facts);
        for (one, next) in facts.iter().zip(&facts[1..]) {
            assert_eq!(one.number + 1, next.number);
            // Both increase with every version.
            assert!(one.wal_magic < next.wal_magic && one.catalog_version < next.catalog_version, "{next:?}");
            assert!(one.control_version <= next.control_version, "{next:?}");
        }
        // Detects values copied from the row above by mistake.
        let column = |of: fn(&VersionFacts) -> String| facts.map(of);
        assert_eq!(
            column(|facts| format!("{}({})", facts.start_backup, facts.backup_options)),
            [
                "pg_start_backup(, exclusive => false)",
                "pg_start_backup(, exclusive => false)",
                "pg_backup_start()",
                "pg_backup_start()",
                "pg_backup_start()",
                "pg_backup_start()",
                "pg_backup_start()",
            ]
        );
        for facts in facts {
            assert_eq!(facts.start_backup.contains("_backup_"), facts.stop_backup.ends_with("_backup_stop"));
            assert_eq!(facts.has_wal_summaries, facts.directories_in_pg_wal.contains(&"summaries"));
            assert_eq!(facts.has_wal_summaries, facts.manifest_version == 2);
            assert_eq!(facts.settings_of_recovery.is_empty(), facts.number > 15);
            let names = facts.emptied_directories.iter().chain(facts.skipped_files);
            assert_eq!(names.collect::<BTreeSet<_>>().len(), 14, "{facts:?}");
        }
    }

    /// Compares rows with real servers of each version for which there are fixtures.
    #[test]
    fn the_rows_are_those_of_real_servers() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/postgres");
        for version in MajorVersion::ALL {
            let facts = version.facts();
            let text = fs::read_to_string(fixtures.join(format!("{version}/pg_controldata.txt"))).unwrap();
            for (name, value) in [
                ("pg_control version number:", facts.control_version),
                ("Catalog version number:", facts.catalog_version),
            ] {
                let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                assert_eq!(line.trim(), value.to_string(), "{version}");
            }
        }
    }
}
