//! What every store can do by means of the port.

use super::{NewObject, ObjectKey, PutOutcome, ReadRange, Store};
use crate::error::Result;

/// Conveniences for every [`Store`].
pub trait StoreExt: Store {
    /// Stores `parts`, one after the other, as one object.
    fn put_new(&self, key: &ObjectKey, parts: &[&[u8]]) -> Result<PutOutcome> {
        let mut writer = self.create(key, NewObject::default())?;
        for part in parts {
            writer.write(part)?;
        }
        writer.finish()
    }

    /// Reads the whole of a small object; `None` if the store has confirmed that it does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if it has more than `bytes_max` bytes.
    fn read_small(&self, key: &ObjectKey, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        let reader = self.open(key, ReadRange::WHOLE)?;
        reader.map(|mut reader| reader.read_rest(key, bytes_max)).transpose()
    }

    /// Where an object is, for messages.
    fn locate(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.location())
    }

    /// Whether an object that this process has stored still exists, as far as no request over a network is needed: a
    /// file system that was unmounted meanwhile must not be taken for the repository.
    fn still_holds(&self, key: &ObjectKey) -> Result<bool> {
        Ok(!self.capabilities().can_be_unmounted || self.stat(key)?.is_some())
    }
}

impl<S: Store + ?Sized> StoreExt for S {}
