//! The major versions of PostgreSQL that pgark supports, and how its files identify them.
//!
//! The differences between versions are in the table of `version_facts`.

use crate::error::{Error, Result};
use std::fmt;

/// A major version of PostgreSQL. Versions are not ordered; compare their rows in the table instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum MajorVersion {
    V13,
    V14,
    V15,
    V16,
    V17,
    V18,
    V19,
}

impl MajorVersion {
    /// The final sentence of a hint about an unknown version.
    pub const HOW_TO_ASSUME: &str = "At your own risk, set assume_version in the configuration (or --assume-version) to the \
                                     version to treat it as.";

    /// The supported versions, for messages.
    pub const SUPPORTED: &str = "13 to 19";

    /// Every supported version, oldest first.
    pub const ALL: [MajorVersion; 7] = [
        MajorVersion::V13,
        MajorVersion::V14,
        MajorVersion::V15,
        MajorVersion::V16,
        MajorVersion::V17,
        MajorVersion::V18,
        MajorVersion::V19,
    ];

    /// The major version number, as in `PG_VERSION`.
    pub const fn as_u32(self) -> u32 {
        self.facts().number
    }

    /// The version for a `server_version_num`; `None` if pgark does not support it.
    pub fn of_version_num(version_num: u32) -> Option<MajorVersion> {
        MajorVersion::new(version_num / 10_000)
    }

    /// The version as which a server with this `server_version_num` is treated: its own, or the `assumed` one if it is
    /// unknown.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for an unknown version if none is assumed.
    pub fn of_server(version_num: u32, assumed: Option<MajorVersion>) -> Result<MajorVersion> {
        MajorVersion::of_version_num(version_num).or(assumed).ok_or_else(|| {
            Error::usage(format!(
                "the server is PostgreSQL {}, which pgark does not know",
                version_num / 10_000
            ))
            .hint(format!(
                "pgark supports PostgreSQL {}. {}",
                MajorVersion::SUPPORTED,
                MajorVersion::HOW_TO_ASSUME
            ))
        })
    }

    /// A version with this format of `pg_control`, which several versions share.
    pub fn of_control_version(control_version: u32) -> Option<MajorVersion> {
        MajorVersion::ALL.into_iter().find(|version| version.facts().control_version == control_version)
    }

    /// The version with this number; `None` if pgark does not support it.
    pub fn new(number: u32) -> Option<MajorVersion> {
        MajorVersion::ALL.into_iter().find(|version| version.as_u32() == number)
    }

    /// The version that writes WAL pages with this magic.
    pub fn of_wal_magic(magic: u16) -> Option<MajorVersion> {
        MajorVersion::ALL.into_iter().find(|version| version.facts().wal_magic == magic)
    }

    /// The version with this catalog version. Development versions of PostgreSQL are not included.
    pub fn of_catalog_version(catalog_version: u32) -> Option<MajorVersion> {
        MajorVersion::ALL.into_iter().find(|version| version.facts().catalog_version == catalog_version)
    }
}

impl fmt::Display for MajorVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_u32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_leads_back_to_its_version() {
        for version in MajorVersion::ALL {
            assert_eq!(MajorVersion::new(version.as_u32()), Some(version));
            assert_eq!(MajorVersion::of_wal_magic(version.facts().wal_magic), Some(version));
            assert_eq!(MajorVersion::of_catalog_version(version.facts().catalog_version), Some(version));
            assert_eq!(MajorVersion::of_version_num(version.as_u32() * 10_000 + 7), Some(version));
            let same_format = MajorVersion::of_control_version(version.facts().control_version).unwrap();
            assert_eq!(same_format.facts().control_checksum_offset, version.facts().control_checksum_offset);
        }
        let ends = [MajorVersion::ALL[0], MajorVersion::ALL[MajorVersion::ALL.len() - 1]];
        assert_eq!(MajorVersion::SUPPORTED, format!("{} to {}", ends[0], ends[1]));
        assert_eq!(MajorVersion::of_version_num(200_000), None);
        assert_eq!(MajorVersion::of_control_version(1902), None);
        assert_eq!(MajorVersion::new(12), None);
        assert_eq!(MajorVersion::of_wal_magic(0xD101), None);
        assert_eq!(MajorVersion::of_catalog_version(0), None);
    }
}
