//! Reads an object in order.

use crate::error::Result;
use crate::store::{ObjectKey, ObjectReader, ReadRange, Store};

/// Reads an object in order.
pub struct Reader(Box<dyn ObjectReader>);

impl Reader {
    /// Opens an object at its beginning; `None` if the store has confirmed that it does not exist.
    ///
    /// # Errors
    /// Those of the store, here and in the other functions.
    pub fn open(store: &dyn Store, key: &ObjectKey) -> Result<Option<Reader>> {
        Reader::of(store, key, ReadRange::WHOLE)
    }

    /// As [`Reader::open`], from the offset `from` on. The caller expects to read up to `expected_end`.
    pub fn open_at(
        store: &dyn Store,
        key: &ObjectKey,
        from: u64,
        expected_end: u64,
    ) -> Result<Option<Reader>> {
        Reader::of(store, key, ReadRange { from, expected_end: Some(expected_end) })
    }

    fn of(store: &dyn Store, key: &ObjectKey, range: ReadRange) -> Result<Option<Reader>> {
        Ok(store.open(key, range)?.map(Reader))
    }

    /// Appends the next bytes to `buffer`; returns their number, 0 at the object's end.
    pub fn read(&mut self, buffer: &mut Vec<u8>) -> Result<usize> {
        self.0.read(buffer)
    }

    /// As [`ObjectReader::read_rest`].
    pub(super) fn read_rest(&mut self, key: &ObjectKey, bytes_max: u64) -> Result<Vec<u8>> {
        self.0.read_rest(key, bytes_max)
    }
}
