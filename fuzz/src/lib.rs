//! Shared by the fuzz targets: a repository whose content comes from the fuzzer.

use jiff::Timestamp;
use pgark::error::{Error, Result};
use pgark::postgres::SystemIdentifier;
use pgark::repository::Repository;
use pgark::store::{
    Capabilities, Listing, NewObject, ObjectInfo, ObjectKey, ObjectReader, ObjectVisitor, ObjectWriter, Observation,
    ReadRange, Store, StoreService,
};
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

impl StoreService for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn now(&self) -> Result<Timestamp> {
        Ok(Timestamp::now())
    }

    fn trouble(&self) -> Option<Error> {
        None
    }

    fn examine(&self) -> Result<Vec<Observation>> {
        Ok(Vec::new())
    }

    fn sweep(&self) -> Result<u64> {
        read_only()
    }
}

impl Store for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities { header_last: false, keeps_digest: false, can_be_unmounted: false }
    }

    fn create(&self, _: &ObjectKey, _: NewObject) -> Result<Box<dyn ObjectWriter>> {
        read_only()
    }

    fn replace(&self, _: &ObjectKey, _: &[u8]) -> Result<()> {
        read_only()
    }

    fn open(&self, key: &ObjectKey, range: ReadRange) -> Result<Option<Box<dyn ObjectReader>>> {
        let Some(content) = self.0.get(key.as_str()) else { return Ok(None) };
        let position = usize::try_from(range.from).unwrap_or(usize::MAX).min(content.len());
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

    fn make_durable(&self, _: &ObjectKey) -> Result<()> {
        read_only()
    }

    fn delete(&self, _: &ObjectKey) -> Result<()> {
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
