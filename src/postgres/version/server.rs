//! The version of a server, which may be unknown to pgark.

use super::major::MajorVersion;
use crate::error::{Error, Result};
use std::fmt;

/// The version of a server, and the version whose formats are used to read its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerVersion {
    /// The major version number, as in `PG_VERSION`.
    pub number: u32,
    /// The catalog version; part of directory names in tablespaces.
    pub catalog_version: u32,
    /// The version whose formats and functions are used: its own, or for an unknown version the one that the operator
    /// has chosen to assume.
    pub formats: MajorVersion,
}

impl ServerVersion {
    /// The version of a server with this `server_version_num` and catalog version; `assumed` applies to an unknown one.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for an unknown version if none is assumed, for a
    /// development version of a known version if another version is assumed, and for two numbers that contradict each
    /// other.
    pub fn of(
        version_num: u32,
        catalog_version: u32,
        assumed: Option<MajorVersion>,
    ) -> Result<ServerVersion> {
        let formats = MajorVersion::of_server(version_num, assumed)?;
        match (MajorVersion::of_catalog_version(catalog_version), assumed) {
            (Some(known), _) if known == formats => {}
            (None, Some(assumed)) if assumed == formats => {}
            (None, Some(assumed)) => {
                return Err(Error::usage(format!(
                    "the server is a development version of PostgreSQL {formats}, which cannot be read as {assumed}"
                ))
                .hint(format!("Set assume_version = {formats}.")));
            }
            _ => return Err(no_release("the server", catalog_version)),
        }
        Ok(ServerVersion { number: version_num / 10_000, catalog_version, formats })
    }

    /// Whether the version is unknown and its formats are assumed.
    pub fn is_assumed(self) -> bool {
        MajorVersion::of_catalog_version(self.catalog_version).is_none()
    }

    /// The name of this version's directory in a tablespace. Source: PostgreSQL `common/relpath.h`,
    /// `TABLESPACE_VERSION_DIRECTORY`.
    pub fn tablespace_directory(self) -> String {
        format!("PG_{}_{}", self.number, self.catalog_version)
    }
}

impl fmt::Display for ServerVersion {
    /// Prints `18`, or `20 (catalog version 202709101), read as 19`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_assumed() {
            false => write!(f, "{}", self.number),
            true => {
                write!(
                    f,
                    "{} (catalog version {}), read as {}",
                    self.number, self.catalog_version, self.formats
                )
            }
        }
    }
}

impl From<MajorVersion> for ServerVersion {
    /// The version of a release.
    fn from(version: MajorVersion) -> ServerVersion {
        ServerVersion {
            number: version.as_u32(),
            catalog_version: version.facts().catalog_version,
            formats: version,
        }
    }
}

/// The error for a catalog version of no release; `whose` names its owner.
pub(in crate::postgres) fn no_release(whose: &str, catalog_version: u32) -> Error {
    Error::usage(format!("{whose} has catalog version {catalog_version}, which is not a release")).hint(
        format!(
            "pgark supports the releases of PostgreSQL {}, but no development versions. {}",
            MajorVersion::SUPPORTED,
            MajorVersion::HOW_TO_ASSUME
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_version_is_never_taken_for_another() {
        for version in MajorVersion::ALL {
            for assumed in [None, Some(MajorVersion::V13), Some(MajorVersion::V18)] {
                let found = ServerVersion::of(
                    version.as_u32() * 10_000 + 2,
                    version.facts().catalog_version,
                    assumed,
                );
                assert_eq!(found.unwrap(), version.into());
            }
        }
    }

    #[test]
    fn an_unknown_version_keeps_its_own_names() {
        let refused = ServerVersion::of(200_000, 202_709_101, None).unwrap_err();
        assert_eq!(refused.to_string(), "the server is PostgreSQL 20, which pgark does not know");
        assert!(refused.hint_text().unwrap().contains("assume_version"));
        let found = ServerVersion::of(200_000, 202_709_101, Some(MajorVersion::V19)).unwrap();
        assert_eq!(found.formats, MajorVersion::V19);
        assert!(found.is_assumed() && !ServerVersion::from(MajorVersion::V18).is_assumed());
        assert_eq!(found.tablespace_directory(), "PG_20_202709101");
    }

    #[test]
    fn a_development_version_is_read_as_its_own_major() {
        let of = |assumed| ServerVersion::of(180_000, 202_503_011, assumed);
        assert!(of(None).unwrap_err().to_string().contains("202503011, which is not a release"));
        assert_eq!(of(Some(MajorVersion::V18)).unwrap().tablespace_directory(), "PG_18_202503011");
        assert!(of(Some(MajorVersion::V17)).unwrap_err().hint_text().unwrap().contains("= 18"));
    }

    #[test]
    fn marks_that_contradict_each_other_are_refused() {
        let catalogs = MajorVersion::V15.facts().catalog_version;
        assert!(ServerVersion::of(200_000, catalogs, Some(MajorVersion::V18)).is_err());
        assert!(ServerVersion::of(160_000, catalogs, Some(MajorVersion::V15)).is_err());
    }
}
