//! Determines the system identifier of a cluster from the repository alone.

use crate::error::{Error, Result};
use crate::postgres::SystemIdentifier;
use crate::store::{ObjectKey, Store};

/// The system identifier to recover: the requested one, or the only one in the repository.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if there are several and the request names none;
/// [`ErrorKind::Absent`](crate::error::ErrorKind::Absent) if the repository holds nothing of this cluster, or
/// not the requested system; those of the store.
pub fn choose_system(
    store: &dyn Store,
    cluster: &str,
    wanted: Option<SystemIdentifier>,
) -> Result<SystemIdentifier> {
    let listing = store.list(Some(&ObjectKey::new(cluster)?))?;
    let systems: Vec<SystemIdentifier> =
        listing.directories.iter().filter_map(|name| name.parse().ok()).collect();
    let listed = || systems.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (wanted, systems.as_slice()) {
        (Some(wanted), _) if systems.contains(&wanted) => Ok(wanted),
        (None, [only]) => Ok(*only),
        (_, []) => {
            let known = store.list(None)?.directories;
            let error = Error::absent(format!(
                "the repository \"{}\" holds nothing of cluster \"{cluster}\"",
                store.location()
            ));
            Err(if known.is_empty() {
                error.hint("It holds no clusters. Check that it is the right directory, and that it is mounted.")
            } else {
                error.hint(format!("It holds these clusters: {}.", known.join(", ")))
            })
        }
        (Some(wanted), _) => Err(Error::absent(format!(
            "the repository \"{}\" holds nothing of cluster \"{cluster}\" with system identifier {wanted}",
            store.location()
        ))
        .hint(format!("It holds these system identifiers of that cluster: {}.", listed()))),
        (None, _) => Err(Error::usage(format!(
            "the repository holds several system identifiers of cluster \"{cluster}\": {}",
            listed()
        ))
        .hint(
            "Each initdb or pg_upgrade creates a new one, and the largest is usually the newest. Choose one with \
             --system-identifier.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::RealDisk;
    use crate::error::ErrorKind;
    use crate::store::DirectoryStore;
    use std::sync::Arc;

    #[test]
    fn the_only_one_is_taken_and_several_are_listed() {
        let scratch = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(scratch.path().to_owned(), Arc::new(RealDisk));
        let choose =
            |wanted: Option<u64>| choose_system(&store, "main", wanted.and_then(SystemIdentifier::new));
        assert_eq!(choose(None).unwrap_err().kind(), ErrorKind::Absent);
        std::fs::create_dir_all(scratch.path().join("main/7")).unwrap();
        assert_eq!(choose(None).unwrap(), SystemIdentifier::new(7).unwrap());
        std::fs::create_dir(scratch.path().join("main/8")).unwrap();
        let error = choose(None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().ends_with("of cluster \"main\": 7, 8"), "{error}");
        assert_eq!(choose(Some(8)).unwrap(), SystemIdentifier::new(8).unwrap());
        assert_eq!(choose(Some(9)).unwrap_err().kind(), ErrorKind::Absent);
        let error = choose_system(&store, "mian", None).unwrap_err();
        assert_eq!(error.hint_text(), Some("It holds these clusters: main."));
    }
}
