//! Objects that fit into memory.

use super::{Reader, Writer};
use crate::error::Result;
use crate::store::{ObjectKey, PutOutcome, Store};

/// Stores an object, unless one of this name exists.
///
/// # Errors
/// Those of the store.
pub fn put(store: &dyn Store, key: &ObjectKey, content: &[u8]) -> Result<PutOutcome> {
    let mut writer = Writer::create(store, key)?;
    writer.write(content)?;
    writer.finish()
}

/// Reads a whole object; `None` if the store has confirmed that it does not exist.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if it has more than `bytes_max` bytes; those of the store.
pub fn read_whole(store: &dyn Store, key: &ObjectKey, bytes_max: u64) -> Result<Option<Vec<u8>>> {
    let reader = Reader::open(store, key)?;
    reader.map(|mut reader| reader.read_rest(key, bytes_max)).transpose()
}
