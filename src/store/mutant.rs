//! For tests only: a store with a defect in front of a sound one. See [`Mutant`].

use super::{
    Capabilities, Listing, NewObject, ObjectInfo, ObjectKey, ObjectReader, ObjectVisitor, ObjectWriter,
    Observation, PutOutcome, ReadRange, Store, StoreService,
};
use crate::error::{Error, Result};
use crate::failpoint::{Mutant, mutant};
use jiff::Timestamp;
use std::sync::{Arc, Mutex, PoisonError};

/// The last part of a manifest's key, and how that of a pack begins.
const MANIFEST: &str = "manifest.json";
const PACK: &str = "pack-";

/// An object that is stored only after the manifest: its key, length and writer.
type Late = (ObjectKey, u64, Box<dyn ObjectWriter>);

/// A store with a defect.
pub struct MutantStore {
    inner: Arc<dyn Store>,
    late: Arc<Mutex<Vec<Late>>>,
}

impl MutantStore {
    /// `inner`, or a defective store in front of it if a defect is requested.
    pub fn of(inner: Arc<dyn Store>) -> Arc<dyn Store> {
        let defects = [Mutant::Overwrite, Mutant::SwallowReadError, Mutant::EarlyManifest];
        if !defects.into_iter().any(mutant) {
            return inner;
        }
        Arc::new(MutantStore { inner, late: Arc::default() })
    }
}

impl std::fmt::Debug for MutantStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MutantStore").field(&self.inner).finish()
    }
}

fn last_part(key: &ObjectKey) -> &str {
    key.as_str().rsplit('/').next().unwrap_or_default()
}

/// The result of a failed lookup.
fn swallow<T>(key: &ObjectKey, result: Result<Option<T>>) -> Result<Option<T>> {
    match result {
        Err(_) if mutant(Mutant::SwallowReadError) && key.as_str().contains("/wal/") => Ok(None),
        other => other,
    }
}

impl StoreService for MutantStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn now(&self) -> Result<Timestamp> {
        self.inner.now()
    }

    fn trouble(&self) -> Option<Error> {
        self.inner.trouble()
    }

    fn examine(&self) -> Result<Vec<Observation>> {
        self.inner.examine()
    }

    fn sweep(&self) -> Result<u64> {
        self.inner.sweep()
    }
}

impl Store for MutantStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn create(&self, key: &ObjectKey, object: NewObject) -> Result<Box<dyn ObjectWriter>> {
        if mutant(Mutant::Overwrite) {
            self.inner.delete(key)?;
        }
        let inner = self.inner.create(key, object)?;
        let late =
            mutant(Mutant::EarlyManifest) && (last_part(key).starts_with(PACK) || last_part(key) == MANIFEST);
        if !late {
            return Ok(inner);
        }
        Ok(Box::new(LateWriter { key: key.clone(), bytes: 0, inner, late: self.late.clone() }))
    }

    fn replace(&self, key: &ObjectKey, content: &[u8]) -> Result<()> {
        self.inner.replace(key, content)
    }

    fn open(&self, key: &ObjectKey, range: ReadRange) -> Result<Option<Box<dyn ObjectReader>>> {
        swallow(key, self.inner.open(key, range))
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes, _)) = late.iter().find(|(known, ..)| known == key) {
            return Ok(Some(ObjectInfo { length_bytes: *bytes }));
        }
        swallow(key, self.inner.stat(key))
    }

    fn list(&self, below: Option<&ObjectKey>) -> Result<Listing> {
        self.inner.list(below)
    }

    fn walk(&self, below: &ObjectKey, from: Option<&ObjectKey>, visit: ObjectVisitor<'_>) -> Result<()> {
        self.inner.walk(below, from, visit)
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<()> {
        self.inner.make_durable(key)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.inner.delete(key)
    }
}

/// Claims to have stored a pack, and stores it after the manifest.
struct LateWriter {
    key: ObjectKey,
    bytes: u64,
    inner: Box<dyn ObjectWriter>,
    late: Arc<Mutex<Vec<Late>>>,
}

impl ObjectWriter for LateWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.inner.write(bytes)
    }

    fn write_header(&mut self, header: &[u8]) -> Result<()> {
        self.inner.write_header(header)
    }

    fn finish(self: Box<Self>) -> Result<PutOutcome> {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        if last_part(&self.key) != MANIFEST {
            late.push((self.key, self.bytes, self.inner));
            return Ok(PutOutcome::Created);
        }
        let outcome = self.inner.finish();
        for (_, _, writer) in late.drain(..) {
            writer.finish()?;
        }
        outcome
    }
}
