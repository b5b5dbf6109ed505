//! Bytes under keys. Knows nothing of WAL.
//!
//! Owns: the port between pgark and wherever bytes are kept, and its implementations. Its calls block: they are made
//! from worker threads, and a store that works asynchronously waits inside. Does not own: what lies where (that is
//! `repository/`), and how often a failed call is tried again (that is its caller).

mod directory;
mod key;
#[cfg(feature = "failpoints")]
mod mutant;
#[cfg(feature = "s3")]
pub mod s3;

pub use directory::DirectoryStore;
pub use key::ObjectKey;
#[cfg(feature = "failpoints")]
pub use mutant::MutantStore;
#[cfg(feature = "s3")]
pub use s3::S3Store;

use crate::codec::Digest;
use crate::error::{Error, Result};
use jiff::Timestamp;
use std::fmt::Debug;
use std::ops::ControlFlow;

/// Takes an object's name, from the key on that was walked below, and says whether to go on.
pub type ObjectVisitor<'a> = &'a mut dyn FnMut(&str, ObjectInfo) -> ControlFlow<()>;

/// The port. Every object is written once, whole, and never changed; only [`Store::replace`] is different.
pub trait Store: Send + Sync + Debug {
    /// Where it is, as the configuration says it: for messages.
    fn location(&self) -> String;

    /// Begins an object that must not exist yet. Nothing is visible before [`ObjectWriter::finish`]; a writer that is
    /// dropped leaves nothing that anybody sees.
    fn create(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>>;

    /// As [`Store::create`]; the digest of what the object holds is kept beside it, where the store can do that, for
    /// whoever looks at objects without reading them.
    fn create_with_digest(&self, key: &ObjectKey, _digest: &Digest) -> Result<Box<dyn ObjectWriter>> {
        self.create(key)
    }

    /// As [`Store::create`], for an object whose first bytes, `header_bytes` of them, are known last. `None` where the
    /// store takes bytes in order only.
    fn create_headed(&self, _key: &ObjectKey, _header_bytes: usize) -> Result<Option<Box<dyn HeadedWriter>>> {
        Ok(None)
    }

    /// Stores an object that may exist already; of two at once, one wins whole. For heartbeats, never for data.
    fn replace(&self, key: &ObjectKey, content: &[u8]) -> Result<()>;

    /// Opens an object, from byte `from` on; `None` when the store has said that it does not exist.
    fn open(&self, key: &ObjectKey, from: u64) -> Result<Option<Box<dyn ObjectReader>>>;

    /// As [`Store::open`], for whoever will read up to byte `until`: a store may fetch as much ahead.
    fn open_until(&self, key: &ObjectKey, from: u64, _until: u64) -> Result<Option<Box<dyn ObjectReader>>> {
        self.open(key, from)
    }

    /// Looks whether an object exists; `None` when the store has said that it does not.
    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>>;

    /// What lies directly below a key, or below the root: sorted by name. Empty when nothing does.
    fn list(&self, below: Option<&ObjectKey>) -> Result<Listing>;

    /// Visits the objects below a key, at whatever depth, in the order of their keys, beginning with `from`, until
    /// `visit` breaks. A bucket is asked once for each thousand of them; memory does not grow with their number.
    fn walk(&self, below: &ObjectKey, from: Option<&ObjectKey>, visit: ObjectVisitor<'_>) -> Result<()>;

    /// Whether an object that this process has stored is still there, as far as that can be told without a request
    /// over a network: a file system that was unmounted meanwhile must not be answered for.
    fn still_holds(&self, key: &ObjectKey) -> Result<bool>;

    /// Makes sure that an object which somebody else created survives a power cut.
    ///
    /// # Errors
    /// [`ErrorKind::Absent`](crate::error::ErrorKind::Absent) when it is gone.
    fn make_durable(&self, key: &ObjectKey) -> Result<()>;

    /// What stands in the way at this moment, when a call takes longer than it should because the store tries again.
    fn trouble(&self) -> Option<Error> {
        None
    }

    /// What time it is by the clock of the store, by which hosts judge the age of each other's objects.
    fn now(&self) -> Result<Timestamp> {
        Ok(Timestamp::now())
    }

    /// Removes an object; that it does not exist is fine.
    fn delete(&self, key: &ObjectKey) -> Result<()>;

    /// What the place allows and guarantees, for whoever checks it; empty where there is nothing to tell.
    fn examine(&self) -> Result<Vec<Observation>> {
        Ok(Vec::new())
    }

    /// Removes what dead writers left behind; returns how many objects that were.
    fn sweep(&self) -> Result<u64>;

    /// Stores `parts`, one after the other, as one object.
    fn put_new(&self, key: &ObjectKey, parts: &[&[u8]]) -> Result<PutOutcome> {
        let mut writer = self.create(key)?;
        for part in parts {
            writer.write(part)?;
        }
        writer.finish()
    }

    /// The whole of a small object; `None` when the store has said that it does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) when it has more than `bytes_max` bytes.
    fn read_small(&self, key: &ObjectKey, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        let Some(mut reader) = self.open(key, 0)? else { return Ok(None) };
        let mut content = Vec::new();
        while reader.read(&mut content)? > 0 {
            if content.len() as u64 > bytes_max {
                return Err(Error::damaged(format!("object \"{key}\" has more than {bytes_max} bytes")));
            }
        }
        Ok(Some(content))
    }
}

/// An object on its way into the store.
pub trait ObjectWriter: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// As [`ObjectWriter::write`], of bytes that a store which keeps them in memory need not copy.
    fn write_owned(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.write(&bytes)
    }

    /// Makes the object durable, confirms what the store holds, and gives it its name unless that name exists.
    ///
    /// When this returns [`PutOutcome::Created`], the object survives a power cut and its bytes were confirmed.
    fn finish(self: Box<Self>) -> Result<PutOutcome>;
}

/// As [`ObjectWriter`], for what follows a header that is known last.
pub trait HeadedWriter: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// As [`ObjectWriter::finish`], with the header in front.
    fn finish(self: Box<Self>, header: &[u8]) -> Result<PutOutcome>;
}

/// An object on its way out of the store.
pub trait ObjectReader: Send {
    /// Appends the next bytes to `buffer`; how many they were, 0 at the object's end.
    fn read(&mut self, buffer: &mut Vec<u8>) -> Result<usize>;
}

/// What an object is, for settings that differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectUse {
    /// A WAL segment.
    Wal,
    /// A pack of a base backup.
    Pack,
    /// Small, and read often.
    Other,
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is ours.
    Created,
    /// An object of this name exists, and nothing was changed.
    Exists,
}

/// What a store says of an object without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its length in bytes.
    pub length_bytes: u64,
}

/// One thing that a store allows or guarantees, or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What, in a word or two.
    pub what: &'static str,
    /// How it is.
    pub detail: String,
    /// What to do about it, where it is less than one would wish.
    pub advice: Option<String>,
}

impl Observation {
    /// As it should be.
    pub fn good(what: &'static str, detail: impl Into<String>) -> Observation {
        Observation { what, detail: detail.into(), advice: None }
    }

    /// It works, and not as one would wish.
    pub fn weak(what: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Observation {
        Observation { what, detail: detail.into(), advice: Some(advice.into()) }
    }
}

/// What lies directly below a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The last parts of longer keys, each once, sorted.
    pub directories: Vec<String>,
    /// The last parts of objects' keys with what is known of them, sorted.
    pub objects: Vec<(String, ObjectInfo)>,
}
