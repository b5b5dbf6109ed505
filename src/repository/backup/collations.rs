//! Which library versions sorted text when a backup was taken.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What determines the order of text, and so the structure of indexes on text. With another version, lookups in them
/// may miss rows.
///
/// Older backups lack it; each part may be unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredCollations {
    /// The version of glibc that the server ran with, such as `2.36`. `None`: another C library, or a streamed backup
    /// of a server whose collations have no version of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libc_version: Option<String>,
    /// The version of ICU's root collation, such as `153.120`. `None`: the server was built without ICU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icu_version: Option<String>,
    /// `datcollversion` of each database that has one, by name. From PostgreSQL 15 on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub databases: BTreeMap<String, String>,
    /// `pg_collation` of the connected database, each provider and version once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recorded: Vec<RecordedCollation>,
}

/// A version recorded in the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedCollation {
    /// `collprovider`, such as `c` for the C library and `i` for ICU.
    pub provider: String,
    /// `collversion`
    pub version: String,
}
