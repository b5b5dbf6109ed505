//! Shared by the fuzz targets: a repository whose content comes from the fuzzer.

use pgark::error::{Error, Result};
use pgark::postgres::SystemIdentifier;
use pgark::repository::Repository;
use pgark::store::{Listing, ObjectInfo, ObjectKey, ObjectReader, ObjectVisitor, ObjectWriter, Store};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The system of the stored samples, whose objects are the seeds.
pub const SYSTEM: u64 = 7_312_345_678_901_234_567;

/// Size of the pieces that readers return; small, so that objects arrive in several pieces.
const PIECE_BYTES: usize = 1 << 10;

/// A read-only store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore(BTreeMap<String, Arc<Vec<u8>>>);

impl MemoryStore {
    /// A store with these objects.
    pub fn holding(objects: impl IntoIterator<Item = (ObjectKey, Vec<u8>)>) -> MemoryStore {
        let named = |(key, content): (ObjectKey, Vec<u8>)| (key.as_str().to_owned(), Arc::new(content));
        MemoryStore(objects.into_iter().map(named).collect())
    }
}

/// The repository of the samples' system in `store`.
pub fn repository(store: MemoryStore) -> Repository {
    let system = SystemIdentifier::new(SYSTEM).expect("not zero");
    Repository::new(Arc::new(store), "main", system).expect("a good name")
}

fn read_only<T>() -> Result<T> {
    Err(Error::unavailable("this store can only be read"))
}

impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn create(&self, _: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
        read_only()
    }

    fn replace(&self, _: &ObjectKey, _: &[u8]) -> Result<()> {
        read_only()
    }

    fn open(&self, key: &ObjectKey, from: u64) -> Result<Option<Box<dyn ObjectReader>>> {
        let Some(content) = self.0.get(key.as_str()) else { return Ok(None) };
        let position = usize::try_from(from).unwrap_or(usize::MAX).min(content.len());
        Ok(Some(Box::new(MemoryReader { content: content.clone(), position })))
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        Ok(self.0.get(key.as_str()).map(|content| ObjectInfo { length_bytes: content.len() as u64 }))
    }

    fn list(&self, _: Option<&ObjectKey>) -> Result<Listing> {
        Ok(Listing::default())
    }

    fn walk(&self, _: &ObjectKey, _: Option<&ObjectKey>, _: ObjectVisitor<'_>) -> Result<()> {
        Ok(())
    }

    fn still_holds(&self, key: &ObjectKey) -> Result<bool> {
        Ok(self.0.contains_key(key.as_str()))
    }

    fn make_durable(&self, _: &ObjectKey) -> Result<()> {
        read_only()
    }

    fn delete(&self, _: &ObjectKey) -> Result<()> {
        read_only()
    }

    fn sweep(&self) -> Result<u64> {
        read_only()
    }
}

struct MemoryReader {
    content: Arc<Vec<u8>>,
    position: usize,
}

impl ObjectReader for MemoryReader {
    fn read(&mut self, buffer: &mut Vec<u8>) -> Result<usize> {
        let rest = self.content.get(self.position..).unwrap_or_default();
        let piece = rest.get(..PIECE_BYTES).unwrap_or(rest);
        buffer.extend_from_slice(piece);
        self.position += piece.len();
        Ok(piece.len())
    }
}
