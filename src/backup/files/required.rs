//! The files that a backup of any cluster must contain. Files may vanish while they are copied; without these, the copy
//! cannot be started.

use super::list::FileList;
use crate::error::{Error, Result};
use crate::interruption::Interruption;
use crate::postgres::{ServerVersion, Xid};
use crate::repository::backup::pack::PlacedFile;
use crate::server::Connection;
use std::collections::BTreeSet;

/// Number of transactions whose status one file of `pg_xact` holds. Source: PostgreSQL `access/transam/clog.c`,
/// `access/slru.h`.
const TRANSACTIONS_PER_FILE: u32 = 8192 * 4 * 32;

/// Selects the current files of the shared catalogs, which a rewrite moves, and the files in each database directory. A
/// database that is being dropped may lack its files.
fn paths_sql(tablespace_directory: &str) -> String {
    format!(
        "SELECT pg_relation_filepath(oid) FROM pg_class WHERE reltablespace = 1664 AND relkind IN ('r', 'i', 't') \
         UNION SELECT CASE dattablespace WHEN 1663 THEN 'base' \
             ELSE 'pg_tblspc/' || dattablespace || '/{tablespace_directory}' END || '/' || oid || '/' || name \
         FROM pg_database, (VALUES ('PG_VERSION'), ('pg_filenode.map')) AS files(name) WHERE datconnlimit <> -2"
    )
}

const TABLESPACES: &str = "SELECT oid FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')";
const TRANSACTIONS: &str = "SELECT next_xid, oldest_xid FROM pg_control_checkpoint()";

/// The required files of the server at one moment.
#[derive(Debug)]
pub struct Required {
    files: BTreeSet<String>,
    directories: BTreeSet<String>,
    next_xid: u64,
    oldest_xid: u32,
}

impl Required {
    /// Queries the server.
    ///
    /// # Errors
    /// Those of [`Connection::query`].
    pub fn query(
        connection: &Connection,
        version: ServerVersion,
        interruption: &Interruption<'_>,
    ) -> Result<Required> {
        let what = "query the files that every backup requires";
        let directory = version.tablespace_directory();
        let mut files = BTreeSet::from(["PG_VERSION", "global/pg_filenode.map"].map(str::to_owned));
        for row in connection.query(what, &paths_sql(&directory), interruption)? {
            files.extend(row.optional(0).map(str::to_owned));
        }
        let mut directories = BTreeSet::new();
        for row in connection.query(what, TABLESPACES, interruption)? {
            directories.insert(format!("pg_tblspc/{}/{directory}", row.text(0)?));
        }
        let row = connection.query_row(what, TRANSACTIONS, interruption)?;
        let next_xid = full_xid(row.text(0)?).ok_or_else(|| {
            Error::damaged(format!(
                "the server's next transaction is {}",
                row.optional(0).unwrap_or_default()
            ))
        })?;
        Ok(Required { files, directories, next_xid, oldest_xid: row.parsed(1)? })
    }

    /// Keeps what exists both before and after the copy, and therefore cannot have vanished in between.
    #[must_use]
    pub fn intersection(self, later: &Required) -> Required {
        let both = |a: BTreeSet<String>, b: &BTreeSet<String>| {
            a.into_iter().filter(|path| b.contains(path)).collect()
        };
        let mut files: BTreeSet<String> = both(self.files, &later.files);
        files.extend(transaction_file(self.next_xid, later.oldest_xid));
        Required { files, directories: both(self.directories, &later.directories), ..self }
    }

    /// Checks that all required files and directories were listed and copied.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged), naming the missing ones.
    pub fn check(mut self, files: &FileList, copied: &[PlacedFile]) -> Result<()> {
        for directory in &files.directories {
            if let Ok(path) = std::str::from_utf8(&directory.path) {
                self.directories.remove(path);
            }
        }
        let mut path = Vec::new();
        for file in copied.iter().filter_map(|placed| files.files.get(placed.number)) {
            path.clear();
            files.path_parts(file).iter().for_each(|part| path.extend_from_slice(part));
            if let Ok(path) = std::str::from_utf8(&path) {
                self.files.remove(path);
            }
        }
        let Some(missing) = self.directories.first().or(self.files.first()) else { return Ok(()) };
        let number = self.directories.len() + self.files.len();
        let more = if number > 1 { format!(", and {} more", number - 1) } else { String::new() };
        Err(Error::damaged(format!("\"{missing}\" is missing from the data directory{more}: the backup would be unusable"))
            .hint("The server is still running because it has read that file before. Recover the file before you stop the server."))
    }
}

/// Parses `epoch:xid`, the form in which the server prints it.
fn full_xid(text: &str) -> Option<u64> {
    let (epoch, xid) = text.split_once(':')?;
    Some(u64::from(epoch.parse::<u32>().ok()?) << 32 | u64::from(xid.parse::<u32>().ok()?))
}

/// The file with the status of the last transaction before `next_xid`; `None` if it may have been removed already.
fn transaction_file(next_xid: u64, oldest_xid: u32) -> Option<String> {
    let last = next_xid.checked_sub(1)? as u32;
    // Right after a wraparound, the previous xid is far away. In a new cluster it is a reserved number.
    let exists = Xid::new(last).is_normal() || next_xid < u64::from(u32::MAX);
    let is_kept = last.wrapping_sub(oldest_xid) as i32 >= 0
        || last / TRANSACTIONS_PER_FILE == oldest_xid / TRANSACTIONS_PER_FILE;
    (exists && is_kept).then(|| format!("pg_xact/{:04X}", last / TRANSACTIONS_PER_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_the_last_transaction_is_asked_for_unless_it_may_be_gone() {
        let file = |next: &str, oldest| transaction_file(full_xid(next).unwrap(), oldest);
        let expected = |name: &str| Some(format!("pg_xact/{name}"));
        assert_eq!(file("0:3", 3), expected("0000"));
        assert_eq!(file("0:734", 727), expected("0000"));
        assert_eq!(
            file("0:1048576", 727),
            expected("0000"),
            "the next file comes with its first transaction"
        );
        assert_eq!(file("0:1048577", 727), expected("0001"));
        assert_eq!(file("7:4294967295", 4_000_000_000), expected("0FFF"));
        assert_eq!(file("8:3", 4_000_000_000), None);
        assert_eq!(file("8:4", 4_000_000_000), expected("0000"));
        assert_eq!(file("0:734", 3_000_000), None, "all of it was frozen since");
        assert_eq!(full_xid("734"), None);
    }

    #[test]
    fn what_was_dropped_meanwhile_is_not_required_and_the_rest_is() {
        let required = |files: &[&str]| Required {
            files: files.iter().map(|file| (*file).to_owned()).collect(),
            directories: BTreeSet::new(),
            next_xid: 734,
            oldest_xid: 727,
        };
        let both = required(&["PG_VERSION", "base/5/PG_VERSION"])
            .intersection(&required(&["PG_VERSION", "base/6/PG_VERSION"]));
        assert_eq!(both.files, BTreeSet::from(["PG_VERSION", "pg_xact/0000"].map(str::to_owned)));
        let error = both.check(&FileList::of_stream(), &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"PG_VERSION\" is missing from the data directory, and 1 more: the backup would be unusable"
        );
    }
}
