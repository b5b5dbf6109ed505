//! Selects the files that a base backup excludes: exactly those that PostgreSQL's own excludes.
//!
//! The table of versions holds their names. Source of the rest: PostgreSQL `backup/basebackup.c`, `sendDir`;
//! `storage/file/reinit.c`, `parse_filename_for_nontemp_relation`; `storage/file/fd.c`,
//! `looks_like_temp_rel_name`.

use crate::postgres::{ForkName, ServerVersion};

/// How to handle a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Copy the file, or walk the directory.
    Copy,
    /// Exclude it.
    Skip,
    /// Store the directory, or a link to one, as an empty directory.
    KeepEmpty,
    /// Copy the file after everything else.
    CopyLast,
}

/// Files that PostgreSQL does not exclude. A restored copy must not start as a standby, or with a recovery requested on
/// another host. The last name is the marker file of `recover`, which remains if `recover` was killed at the very end;
/// a data directory that contains a file of this name could not be restored.
const SKIPPED_AT_THE_TOP: [&[u8]; 3] = [b"standby.signal", b"recovery.signal", b"pgark-recovery-incomplete"];

/// Names at the top level: configuration files, and the log directory of servers up to 9.6. Every other name
/// that begins with `pg_` is or may be server data.
const HARMLESS_AT_THE_TOP: [&[u8]; 3] = [b"pg_hba.conf", b"pg_ident.conf", b"pg_log"];

/// A parsed relation file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationFile<'a> {
    /// The relation's file number, in digits.
    pub number: &'a [u8],
    /// The fork.
    pub fork: ForkName,
    /// The segment number within the fork, from 0.
    pub segment: u32,
}

/// How to handle `name` in `directory`, a path relative to the data directory (empty for the data directory
/// itself).
pub fn decide(directory: &[u8], name: &[u8], version: ServerVersion) -> Decision {
    let at_the_top = directory.is_empty();
    let facts = version.formats.facts();
    if is_one_of(facts.skipped_files, name)
        || facts.skipped_beginnings.iter().any(|beginning| name.starts_with(beginning.as_bytes()))
        || (at_the_top && SKIPPED_AT_THE_TOP.contains(&name))
    {
        return Decision::Skip;
    }
    if is_tablespace(directory) && name != version.tablespace_directory().as_bytes() {
        return Decision::Skip;
    }
    if is_database(directory, version) && is_temporary_relation(name) {
        return Decision::Skip;
    }
    if is_one_of(facts.emptied_directories, name) || (at_the_top && name == b"pg_wal") {
        return Decision::KeepEmpty;
    }
    if directory == b"global" && name == b"pg_control" {
        return Decision::CopyLast;
    }
    Decision::Copy
}

/// Whether a path is the server's own data, without which a copy is useless. Other paths hold configuration,
/// certificates, logs, and links to them.
pub fn is_data(path: &[u8]) -> bool {
    let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    [b"base".as_slice(), b"global", b"PG_VERSION"].contains(&top)
        || (top.starts_with(b"pg_") && !HARMLESS_AT_THE_TOP.contains(&top))
}

/// Whether a directory may hold relations of one database, possibly unlogged or temporary ones.
pub fn is_database(directory: &[u8], version: ServerVersion) -> bool {
    let (parent, name) = split(directory);
    is_number(name)
        && (parent == b"base"
            || (parent.starts_with(b"pg_tblspc/")
                && parent.ends_with(version.tablespace_directory().as_bytes())))
}

/// Whether a path is the directory of a tablespace, linked or in place.
pub fn is_tablespace(directory: &[u8]) -> bool {
    let (parent, name) = split(directory);
    parent == b"pg_tblspc" && is_number(name)
}

/// Whether a file consists of pages that may have checksums.
pub fn has_pages(directory: &[u8], name: &[u8], version: ServerVersion) -> bool {
    (directory == b"global" || is_database(directory, version)) && relation_file(name).is_some()
}

/// Parses the file name of a non-temporary relation; `None` for any other name.
///
/// Form: digits, then `_fsm`, `_vm` or `_init` except for the main fork, then `.` and a number from 1 except
/// for the first file.
pub fn relation_file(name: &[u8]) -> Option<RelationFile<'_>> {
    let digits = name.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = name.split_at_checked(digits)?;
    let (fork, rest) = match rest.strip_prefix(b"_") {
        None => (ForkName::Main, rest),
        Some(rest) => ForkName::SUFFIXED
            .into_iter()
            .find_map(|fork| rest.strip_prefix(fork.suffix().as_bytes()).map(|rest| (fork, rest)))?,
    };
    let segment = match rest.strip_prefix(b".") {
        None if rest.is_empty() => 0,
        None => return None,
        Some(digits) if is_number(digits) && !digits.starts_with(b"0") => {
            std::str::from_utf8(digits).ok()?.parse().ok()?
        }
        Some(_) => return None,
    };
    (!number.is_empty()).then_some(RelationFile { number, fork, segment })
}

/// Whether a name is a temporary relation's file: `t<backend>_<relation>`, followed by the suffixes of
/// [`relation_file`].
fn is_temporary_relation(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b"t") else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match rest.split_at_checked(digits) {
        Some((backend, rest)) if !backend.is_empty() => {
            rest.strip_prefix(b"_").and_then(relation_file).is_some()
        }
        _ => false,
    }
}

fn is_one_of(names: &[&str], name: &[u8]) -> bool {
    names.iter().any(|one| one.as_bytes() == name)
}

fn is_number(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::MajorVersion;

    fn decision(path: &str) -> Decision {
        let (directory, name) = split(path.as_bytes());
        decide(directory, name, MajorVersion::V15.into())
    }

    #[test]
    fn leaves_out_what_postgresql_leaves_out() {
        for path in [
            "postmaster.pid",
            "postmaster.opts",
            "backup_label",
            "tablespace_map",
            "backup_manifest",
            "postgresql.auto.conf.tmp",
            "current_logfiles.tmp",
            "standby.signal",
            "recovery.signal",
            "pgark-recovery-incomplete",
            "pg_internal.init",
            "global/pg_internal.init",
            "base/5/pg_internal.init.1234",
            "base/pgsql_tmp",
            "base/pgsql_tmp/pgsql_tmp12.0",
            "pg_tblspc/16402/PG_15_202209061/pgsql_tmp",
            "pg_tblspc/16402/PG_14_202107181",
            "pg_tblspc/16402/lost+found",
            "base/5/t3_16384",
            "base/5/t3_16384_fsm",
            "base/5/t3_16384.1",
            "pg_tblspc/16402/PG_15_202209061/5/t3_16384",
        ] {
            assert_eq!(decision(path), Decision::Skip, "{path}");
        }
        for path in [
            "pg_wal",
            "pg_replslot",
            "pg_dynshmem",
            "pg_notify",
            "pg_serial",
            "pg_snapshots",
            "pg_stat_tmp",
            "pg_subtrans",
        ] {
            assert_eq!(decision(path), Decision::KeepEmpty, "{path}");
        }
        assert_eq!(decision("global/pg_control"), Decision::CopyLast);
    }

    #[test]
    fn copies_what_it_does_not_know() {
        for path in [
            "PG_VERSION",
            "postgresql.auto.conf",
            "backup_label.old",
            "tablespace_map.old",
            "current_logfiles",
            "log/postgresql-Mon.log",
            "base/5/1259",
            "base/5/16384_init",
            "base/5/t3_",
            "base/5/t_16384",
            "base/5/t3_16384_x",
            "global/t3_16384",
            "sub/standby.signal",
            "sub/pg_wal",
            "pg_xact/0000",
            "pg_stat/pgstat.stat",
            "pg_logical/snapshots",
            "pg_tblspc/16402",
            "pg_tblspc/16402/PG_15_202209061",
            "pg_tblspc/16402/PG_15_202209061/5/16384",
            "extension/pg_control",
        ] {
            assert_eq!(decision(path), Decision::Copy, "{path}");
        }
    }

    #[test]
    fn tells_the_servers_data_from_what_people_keep_beside_it() {
        for path in [
            "PG_VERSION",
            "base",
            "base/5/16384",
            "global/1262",
            "pg_xact",
            "pg_xact/0000",
            "pg_tblspc/1/PG_15_1",
        ] {
            assert!(is_data(path.as_bytes()), "{path}");
        }
        for path in [
            "postgresql.conf",
            "pg_hba.conf",
            "server.key",
            "log",
            "pg_log",
            "log/base",
            "conf.d/pg_x",
            "basement",
        ] {
            assert!(!is_data(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn knows_the_files_of_relations() {
        let file = |name: &'static str| relation_file(name.as_bytes());
        let expected = |number: &'static str, fork, segment| {
            Some(RelationFile { number: number.as_bytes(), fork, segment })
        };
        assert_eq!(file("16384"), expected("16384", ForkName::Main, 0));
        assert_eq!(file("16384.12"), expected("16384", ForkName::Main, 12));
        assert_eq!(file("16384_fsm"), expected("16384", ForkName::FreeSpaceMap, 0));
        assert_eq!(file("16384_vm.1"), expected("16384", ForkName::VisibilityMap, 1));
        assert_eq!(file("16384_init"), expected("16384", ForkName::Init, 0));
        for name in [
            "",
            "a",
            "_fsm",
            "16384_",
            "16384_x",
            "16384.",
            "16384.0",
            "16384.01",
            "16384.a",
            "16384x",
            "1.99999999999",
        ] {
            assert_eq!(file(name), None, "{name}");
        }
        assert!(has_pages(b"global", b"1262", MajorVersion::V15.into()));
        assert!(has_pages(b"pg_tblspc/1/PG_15_202209061/5", b"1262", MajorVersion::V15.into()));
        assert!(!has_pages(b"pg_xact", b"0000", MajorVersion::V15.into()));
        let unknown = ServerVersion { number: 20, catalog_version: 202_709_101, formats: MajorVersion::V19 };
        assert!(has_pages(b"pg_tblspc/1/PG_20_202709101/5", b"1262", unknown));
        assert!(!has_pages(b"pg_tblspc/1/PG_18_202506291/5", b"1262", unknown));
        assert_eq!(decide(b"pg_tblspc/1", b"PG_18_202506291", unknown), Decision::Skip);
        assert_eq!(decide(b"pg_tblspc/1", b"PG_20_202709101", unknown), Decision::Copy);
        assert!(!has_pages(b"base/5", b"PG_VERSION", MajorVersion::V15.into()));
    }
}
