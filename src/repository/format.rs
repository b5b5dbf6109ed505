//! `format.json`: proves that a place exists, and states the version of its formats.

use super::Layout;
use super::version::check_version;
use crate::error::{Error, Result};
use crate::postgres::SystemIdentifier;
use crate::store::{PutOutcome, Store, StoreExt, json_text};
use serde::{Deserialize, Serialize};

/// The version that this pgark writes. It reads all versions from 1 on.
pub const FORMAT_VERSION: u32 = 1;

/// Far more than the object has.
const FORMAT_BYTES_MAX: u64 = 64 << 10;

/// The content of `format.json`. Fields that a later version adds are ignored.
#[derive(Debug, Serialize, Deserialize)]
struct PlaceFormat {
    /// The version of everything below this place.
    format: u32,
    /// The cluster's name, as in the path.
    cluster: String,
    /// The system identifier, as in the path.
    system_identifier: SystemIdentifier,
    /// The program that created the place.
    created_by: String,
}

/// Creates the place unless it exists, and checks it.
pub fn create(store: &dyn Store, layout: &Layout) -> Result<()> {
    if check(store, layout)? {
        return Ok(());
    }
    let format = PlaceFormat {
        format: FORMAT_VERSION,
        cluster: layout.cluster().to_owned(),
        system_identifier: layout.system(),
        created_by: concat!("pgark ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    match store.put_new(&layout.format()?, &[&json_text(&format, "format.json")?])? {
        PutOutcome::Created => Ok(()),
        // Another process was faster: its object counts.
        PutOutcome::Exists => check(store, layout).map(drop),
    }
}

/// Whether the place exists.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if a newer version created it,
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if it contradicts its path.
pub fn check(store: &dyn Store, layout: &Layout) -> Result<bool> {
    let key = layout.format()?;
    let Some(text) = store.read_small(&key, FORMAT_BYTES_MAX)? else { return Ok(false) };
    let format: PlaceFormat = serde_json::from_slice(&text)
        .map_err(|error| Error::damaged(format!("\"{}\" is damaged", store.locate(&key))).caused_by(error))?;
    check_version(format.format, FORMAT_VERSION, || {
        let (location, cluster) = (store.location(), layout.cluster());
        format!("the repository \"{location}\" has format {} for cluster \"{cluster}\"", format.format)
    })?;
    if format.cluster != layout.cluster() || format.system_identifier != layout.system() {
        return Err(Error::damaged(format!(
            "\"{}\" belongs to cluster \"{}\" with system identifier {}",
            store.locate(&key),
            format.cluster,
            format.system_identifier
        ))
        .hint(
            "Check whether a directory of the repository was renamed or copied. Each system must be stored under its own name.",
        ));
    }
    Ok(true)
}
