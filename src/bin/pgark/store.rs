//! The choice of the store that a configuration names. No other file outside of `pgark::store` names a concrete one.

use pgark::config::{Config, RepositoryUrl};
use pgark::durable;
#[cfg(not(feature = "s3"))]
use pgark::error::Error;
use pgark::error::Result;
#[cfg(feature = "s3")]
use pgark::repository;
#[cfg(feature = "failpoints")]
use pgark::store::MutantStore;
#[cfg(feature = "s3")]
use pgark::store::S3Store;
use pgark::store::{DirectoryStore, LoggedStore, Store};
use std::sync::Arc;

/// The kinds of stores that this pgark was built with.
pub const STORES: &[&str] = if cfg!(feature = "s3") { &["directory", "s3"] } else { &["directory"] };

/// The store of a configuration. Makes no request.
///
/// # Errors
/// [`ErrorKind::Usage`](pgark::error::ErrorKind::Usage) for a bucket if pgark was built without S3.
pub fn open(config: &Config) -> Result<Arc<dyn Store>> {
    let store: Arc<dyn Store> = match &config.repository.url {
        #[cfg(feature = "s3")]
        RepositoryUrl::S3 { bucket, prefix } => {
            Arc::new(S3Store::new(bucket, prefix, config.s3.clone(), repository::use_of))
        }
        #[cfg(not(feature = "s3"))]
        RepositoryUrl::S3 { .. } => {
            return Err(Error::usage("this pgark was built without S3")
                .hint("Build it with the feature \"s3\", which is on by default."));
        }
        RepositoryUrl::Directory(root) => Arc::new(DirectoryStore::new(root.clone(), durable::disk())),
    };
    #[cfg(feature = "failpoints")]
    let store = MutantStore::of(store);
    tracing::debug!(location = store.location(), "opened the store");
    Ok(LoggedStore::of(store))
}
