//! Queries a recovered server for collations whose version differs from the one their indexes were built
//! with.
//!
//! Source: PostgreSQL's manual, "ALTER DATABASE", "ALTER COLLATION"; `pg_database.datcollversion` exists
//! since version 15.

use super::ServerStart;
use super::queries::{DATABASES, QUERY_MAX, connect};
use crate::error::{Error, Result};
use crate::server::LocalServer;
use std::fmt;

/// Upper limit for the number of databases queried.
const DATABASES_MAX: usize = 100;

/// Collations of a database whose version differs from the recorded one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollationMismatch {
    /// Name of the database.
    pub database: String,
    /// The collations concerned.
    pub which: MismatchedCollations,
    /// The version recorded in the catalog.
    pub recorded: String,
    /// The version that the server finds on this host.
    pub actual: String,
}

/// The collations of a database that have another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MismatchedCollations {
    /// The database's default collation.
    Default,
    /// The number of other collations, and the name of one of them.
    Named(u64, String),
}

impl fmt::Display for CollationMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CollationMismatch { database, which, recorded, actual } = self;
        match which {
            MismatchedCollations::Default => {
                write!(f, "the default collation of database \"{database}\" was")?
            }
            MismatchedCollations::Named(1, name) => {
                write!(f, "the collation \"{name}\" of database \"{database}\" was")?;
            }
            MismatchedCollations::Named(count, name) => {
                write!(f, "{count} collations of database \"{database}\", such as \"{name}\", were")?;
            }
        }
        write!(f, " recorded with version {recorded}, but this host has {actual}")
    }
}

impl ServerStart {
    /// The collations whose version differs from the one in the server's catalogs. For a partial cluster
    /// (`is_part`), only the databases themselves are compared, because some of them must not be connected
    /// to.
    ///
    /// # Errors
    /// Those of querying a running server; [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable)
    /// if it does not respond.
    pub fn collation_mismatches(&self, is_part: bool) -> Result<Vec<CollationMismatch>> {
        let server =
            self.postmaster()?.ok_or_else(|| Error::unavailable("the recovered server has exited"))?;
        let place = self.place(&server)?;
        let mut found = Vec::new();
        if self.version.facts().has_database_collation_version {
            found.extend(self.mismatched_databases(&place)?);
        }
        if !is_part {
            for database in self.databases(&place)? {
                found.extend(self.mismatched_collations(&place, &database)?);
            }
        }
        Ok(found)
    }

    fn mismatched_databases(&self, place: &LocalServer) -> Result<Vec<CollationMismatch>> {
        let sql = "SELECT datname, datcollversion, pg_database_collation_actual_version(oid) FROM pg_database \
                   WHERE datcollversion <> pg_database_collation_actual_version(oid) ORDER BY oid";
        let connection = connect(place, &self.conninfo, &DATABASES)?;
        let rows = connection.query_within("compare the versions of collations", sql, QUERY_MAX)?;
        rows.iter()
            .map(|row| {
                Ok(CollationMismatch {
                    database: row.text(0)?.to_owned(),
                    which: MismatchedCollations::Default,
                    recorded: row.text(1)?.to_owned(),
                    actual: row.text(2)?.to_owned(),
                })
            })
            .collect()
    }

    /// The databases that accept connections.
    fn databases(&self, place: &LocalServer) -> Result<Vec<String>> {
        let sql =
            format!("SELECT datname FROM pg_database WHERE datallowconn ORDER BY oid LIMIT {DATABASES_MAX}");
        let connection = connect(place, &self.conninfo, &DATABASES)?;
        let rows = connection.query_within("list the databases", &sql, QUERY_MAX)?;
        rows.iter().map(|row| Ok(row.text(0)?.to_owned())).collect()
    }

    fn mismatched_collations(&self, place: &LocalServer, database: &str) -> Result<Vec<CollationMismatch>> {
        let sql = "SELECT recorded, actual, count(*), min(name) FROM (\
                   SELECT collname, collprovider, collversion, pg_collation_actual_version(oid) FROM pg_collation \
                   WHERE collversion IS NOT NULL) AS c(name, provider, recorded, actual) \
                   WHERE recorded <> actual GROUP BY provider, recorded, actual ORDER BY 3 DESC LIMIT 10";
        let connection = connect(place, &self.conninfo, &[Some(database)])?;
        let what = format!("compare the versions of the collations in database \"{database}\"");
        let rows = connection.query_within(&what, sql, QUERY_MAX)?;
        rows.iter()
            .map(|row| {
                Ok(CollationMismatch {
                    database: database.to_owned(),
                    which: MismatchedCollations::Named(row.parsed(2)?, row.text(3)?.to_owned()),
                    recorded: row.text(0)?.to_owned(),
                    actual: row.text(1)?.to_owned(),
                })
            })
            .collect()
    }
}
