//! Compares the collation version of this host with that of the host where the backup was taken.
//!
//! Owns: the wording of the note. Does not own: determining the versions. [`server`](crate::recover::server) asks the
//! recovered server for the mismatches that it finds itself.

use crate::recover::server::standby::Role;
use crate::repository::backup::manifest::StoredBackup;

/// How to repair indexes that were built with another collation version.
pub const COLLATION_REPAIR: &str = "once the server is open for writing, rebuild the indexes on text (REINDEX DATABASE), then have the \
    catalogs record the new version (ALTER DATABASE ... REFRESH COLLATION VERSION from 15 on, ALTER COLLATION ... REFRESH VERSION)";

/// A note if the C library differs from the original's; `here` is the version on this host. Returns `None` if
/// either version is unknown.
pub fn note(backup: &StoredBackup, here: Option<&str>, role: &Role) -> Option<String> {
    let there = backup.collations.as_ref()?.libc_version.as_deref()?;
    let here = here.filter(|here| *here != there)?;
    let next = match role {
        Role::Recovered => COLLATION_REPAIR.to_owned(),
        Role::Standby(_) => format!(
            "a standby cannot rebuild them, so do not run queries on it that depend on them, or run it where the C library is \
             the same; {COLLATION_REPAIR}"
        ),
    };
    Some(format!(
        "the original cluster ran with the C library glibc {there}, but this host has {here}: it may sort text in another order, and \
         indexes on text may miss rows, unless their collation is C or ICU's: {next}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::server::standby::StandbySettings;
    use crate::repository::backup::manifest::StoredCollations;
    use crate::repository::backup::manifest::tests::sample;

    #[test]
    fn only_what_is_known_to_differ_is_told() {
        let mut backup = sample("a");
        assert_eq!(note(&backup, Some("2.36"), &Role::Recovered), None);
        backup.collations = Some(StoredCollations::default());
        assert_eq!(note(&backup, Some("2.36"), &Role::Recovered), None);
        backup.collations =
            Some(StoredCollations { libc_version: Some("2.31".to_owned()), ..StoredCollations::default() });
        assert_eq!(note(&backup, Some("2.31"), &Role::Recovered), None);
        assert_eq!(note(&backup, None, &Role::Recovered), None);
        let told = note(&backup, Some("2.36"), &Role::Recovered).unwrap();
        assert!(told.contains("glibc 2.31, but this host has 2.36") && told.contains("REINDEX"), "{told}");
        let standby = Role::Standby(StandbySettings { primary: None, apply_delay: None });
        assert!(note(&backup, Some("2.36"), &standby).unwrap().contains("a standby cannot rebuild"));
    }
}
