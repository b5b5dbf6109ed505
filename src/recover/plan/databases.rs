//! Selects the databases of a cluster to restore.
//!
//! The files of an omitted database are restored empty, so that WAL that refers to them can be replayed. The
//! database is dropped after recovery. `PG_VERSION` and `pg_filenode.map` are restored in full, because the
//! server reads them.

use crate::error::{Error, Result};
use crate::postgres::Oid;
use crate::repository::backup::StoredBackup;
use crate::repository::backup::manifest::StoredDatabase;
use std::collections::BTreeMap;

/// Databases that every complete server has.
const ALWAYS: [&str; 3] = ["postgres", "template0", "template1"];

/// Files of a database that are not relations.
const WHOLE: [&[u8]; 2] = [b"PG_VERSION", b"pg_filenode.map"];

/// The omitted databases by OID; empty if all databases are restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OmittedDatabases {
    databases: BTreeMap<Oid, String>,
}

impl OmittedDatabases {
    /// Omits all databases except the `wanted` ones and the system databases; omits none if `wanted` is
    /// empty.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a name that the backup does not hold, and for a source from whose
    /// WAL a part cannot be recovered.
    pub fn of(backup: &StoredBackup, wanted: &[String]) -> Result<OmittedDatabases> {
        if wanted.is_empty() {
            return Ok(OmittedDatabases::default());
        }
        let names: Vec<_> =
            backup.databases.iter().map(|database| format!("\"{}\"", database.name)).collect();
        for name in wanted {
            if !backup.databases.iter().any(|database| database.name == *name) {
                return Err(Error::usage(format!("backup {} holds no database \"{name}\"", backup.label))
                    .hint(format!("It holds {}.", names.join(", "))));
            }
        }
        if backup.settings.get("full_page_writes").map(String::as_str) != Some("on") {
            return Err(Error::usage(format!(
                "the server of backup {} ran with full_page_writes off, or its setting is unknown",
                backup.label
            ))
            .hint("WAL without full-page images cannot be replayed onto missing pages. Restore the whole cluster."));
        }
        let is_left_out = |database: &&StoredDatabase| {
            !wanted.contains(&database.name) && !ALWAYS.contains(&database.name.as_str())
        };
        let left_out = backup.databases.iter().filter(is_left_out);
        Ok(OmittedDatabases {
            databases: left_out.map(|database| (database.oid, database.name.clone())).collect(),
        })
    }

    /// Whether all databases are restored.
    pub fn is_empty(&self) -> bool {
        self.databases.is_empty()
    }

    /// Names of the omitted databases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.databases.values().map(String::as_str)
    }

    /// Whether the file at this path of the backup is restored empty.
    pub fn is_omitted(&self, path: &[u8]) -> bool {
        let mut parts = path.split(|byte| *byte == b'/');
        let database = match parts.next() {
            Some(b"base") => parts.next(),
            // Skips the tablespace and its version directory.
            Some(b"pg_tblspc") => parts.nth(2),
            _ => None,
        };
        let oid = database.and_then(|oid| std::str::from_utf8(oid).ok()?.parse::<Oid>().ok());
        match (oid, parts.next(), parts.next()) {
            (Some(oid), Some(name), None) => self.databases.contains_key(&oid) && !WHOLE.contains(&name),
            _ => false,
        }
    }

    /// The commands that remove the remains of the omitted databases.
    pub fn commands(&self) -> Vec<String> {
        let drops = self.names().map(|name| format!("DROP DATABASE \"{}\";", name.replace('"', "\"\"")));
        let resets = ["ignore_invalid_pages", "autovacuum"].map(|name| format!("ALTER SYSTEM RESET {name};"));
        drops.chain(resets).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::postgres::Xid;
    use crate::repository::backup::manifest::tests::sample;

    fn backup() -> StoredBackup {
        let mut backup = sample("a");
        let database = |oid, name: &str| StoredDatabase {
            oid: Oid::new(oid),
            name: name.to_owned(),
            tablespace: Oid::PG_DEFAULT,
            xmin: Xid::new(1),
        };
        backup.databases = vec![
            database(1, "template1"),
            database(5, "postgres"),
            database(16400, "a"),
            database(16401, "b\""),
        ];
        backup
    }

    #[test]
    fn only_relations_of_databases_that_are_not_wanted_are_emptied() {
        let left_out = OmittedDatabases::of(&backup(), &["a".to_owned()]).unwrap();
        assert_eq!(left_out.names().collect::<Vec<_>>(), ["b\""]);
        for path in ["base/16401/1259", "base/16401/1259_vm", "pg_tblspc/7/PG_15_202209061/16401/2"] {
            assert!(left_out.is_omitted(path.as_bytes()), "{path}");
        }
        for path in [
            "base/16400/1259",
            "base/5/1259",
            "base/16401/PG_VERSION",
            "base/16401/pg_filenode.map",
            "base/16401",
            "global/16401",
            "pg_tblspc/16401/PG_15_202209061/16400/2",
            "pg_xact/16401/1",
        ] {
            assert!(!left_out.is_omitted(path.as_bytes()), "{path}");
        }
        assert_eq!(left_out.commands()[0], "DROP DATABASE \"b\"\"\";");
        assert!(OmittedDatabases::of(&backup(), &[]).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_restored_in_part_is_refused() {
        let error = OmittedDatabases::of(&backup(), &["c".to_owned()]).unwrap_err();
        assert!(error.report().contains("holds no database \"c\"") && error.report().contains("\"a\""));
        let mut torn = backup();
        torn.settings.insert("full_page_writes".to_owned(), "off".to_owned());
        assert_eq!(OmittedDatabases::of(&torn, &["a".to_owned()]).unwrap_err().kind(), ErrorKind::Usage);
        torn.settings.clear();
        assert_eq!(OmittedDatabases::of(&torn, &["a".to_owned()]).unwrap_err().kind(), ErrorKind::Usage);
    }
}
