//! Writes an object in order.

use crate::error::Result;
use crate::store::{NewObject, ObjectKey, ObjectWriter, PutOutcome, Store};

/// Writes an object in order.
pub struct Writer(Box<dyn ObjectWriter>);

impl Writer {
    /// Begins an object.
    ///
    /// # Errors
    /// Those of the store, here and in the other functions.
    pub fn create(store: &dyn Store, key: &ObjectKey) -> Result<Writer> {
        Writer::of(store, key, NewObject::default())
    }

    pub(super) fn of(store: &dyn Store, key: &ObjectKey, object: NewObject) -> Result<Writer> {
        store.create(key, object).map(Writer)
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write(bytes)
    }

    pub(super) fn write_owned(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.0.write_owned(bytes)
    }

    pub(super) fn write_header(&mut self, header: &[u8]) -> Result<()> {
        self.0.write_header(header)
    }

    /// Creates the object, durably, unless one of this name exists.
    pub fn finish(self) -> Result<PutOutcome> {
        self.0.finish()
    }
}
