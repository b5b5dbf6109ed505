//! Writes an object whose length and checksum are recorded elsewhere.

use super::Writer;
use crate::codec::Crc32;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{ObjectKey, PutOutcome, Store};

/// What a manifest records of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectSum {
    /// Its length.
    pub stored_bytes: u64,
    /// CRC-32 of its bytes.
    pub crc32: u32,
}

/// Writes an object in order, and sums it up.
pub struct SummedWriter {
    object: Writer,
    key: ObjectKey,
    crc: Crc32,
    stored_bytes: u64,
}

impl SummedWriter {
    /// Begins an object.
    ///
    /// # Errors
    /// Those of the store, here and in the other functions.
    pub fn create(store: &dyn Store, key: &ObjectKey) -> Result<SummedWriter> {
        Ok(SummedWriter {
            object: Writer::create(store, key)?,
            key: key.clone(),
            crc: Crc32::new(),
            stored_bytes: 0,
        })
    }

    /// Length so far: the offset of the next byte.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        self.object.write(bytes)?;
        self.stored_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Creates the object, durably.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if an object of this name exists. It stays.
    pub fn finish(self) -> Result<ObjectSum> {
        match self.object.finish()? {
            PutOutcome::Created => Ok(ObjectSum { stored_bytes: self.stored_bytes, crc32: self.crc.value() }),
            PutOutcome::Exists => {
                Err(Error::new(ErrorKind::Conflict, format!("the repository already holds \"{}\"", self.key)))
            }
        }
    }
}
