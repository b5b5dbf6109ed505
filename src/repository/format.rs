//! `format.json`: the mark that a place exists, and which version its formats have.

use super::Layout;
use super::version::check_version;
use crate::error::{Error, Result};
use crate::postgres::SystemIdentifier;
use crate::store::{PutOutcome, Store, StoreExt, json_text};
use serde::{Deserialize, Serialize};

/// The version that this pgark writes. It reads all from 1 on.
const VERSION: u32 = 1;

/// Far more than the file ever has.
const FORMAT_BYTES_MAX: u64 = 64 << 10;

/// The content of `format.json`. Fields that a later version adds are passed over.
#[derive(Debug, Serialize, Deserialize)]
struct Format {
    /// The version of everything below this place.
    format: u32,
    /// The cluster's name, as it is in the path.
    cluster: String,
    /// The system identifier, as it is in the path.
    system_identifier: SystemIdentifier,
    /// The program that made the place.
    created_by: String,
}

/// Makes the place unless it exists, and checks it.
pub fn create(store: &dyn Store, layout: &Layout) -> Result<()> {
    if check(store, layout)? {
        return Ok(());
    }
    let format = Format {
        format: VERSION,
        cluster: layout.cluster().to_owned(),
        system_identifier: layout.system(),
        created_by: concat!("pgark ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    match store.put_new(&layout.format()?, &[&json_text(&format, "format.json")?])? {
        PutOutcome::Created => Ok(()),
        // Somebody was faster: what counts is what is there.
        PutOutcome::Exists => check(store, layout).map(drop),
    }
}

/// Whether the place exists.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when it was made by a newer version,
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) when it says something else than its path.
pub fn check(store: &dyn Store, layout: &Layout) -> Result<bool> {
    let key = layout.format()?;
    let Some(text) = store.read_small(&key, FORMAT_BYTES_MAX)? else { return Ok(false) };
    let format: Format = serde_json::from_slice(&text)
        .map_err(|error| Error::damaged(format!("\"{}\" is damaged", store.locate(&key))).caused_by(error))?;
    check_version(format.format, VERSION, || {
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
