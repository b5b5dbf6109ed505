//! Bytes under keys. Knows nothing of WAL.
//!
//! Owns: the port between pgark and the place where bytes are kept ([`Store`]), and its implementations. Calls block:
//! they are made from worker threads, and an asynchronous store waits inside. Does not own: the names and formats of
//! objects (that is `repository/`), and whether a failed operation is repeated (that is its caller).

mod directory;
mod ext;
mod json;
mod key;
mod logged;
#[cfg(feature = "failpoints")]
mod mutant;
mod object;
#[cfg(feature = "s3")]
mod s3;
mod service;

pub use directory::DirectoryStore;
pub use ext::StoreExt;
pub use json::json_text;
pub use key::ObjectKey;
pub use logged::LoggedStore;
#[cfg(feature = "failpoints")]
pub use mutant::MutantStore;
pub use object::{
    Listing, NewObject, ObjectInfo, ObjectReader, ObjectUse, ObjectVisitor, ObjectWriter, PutOutcome,
    ReadRange,
};
#[cfg(feature = "s3")]
pub use s3::S3Store;
pub use service::{Observation, StoreService};

use crate::error::Result;

/// The port: objects under keys. An object is written once, whole, and never changes; only [`Store::replace`]
/// overwrites.
///
/// Every method is required, so that a store in front of another one cannot omit one by mistake. What needs nothing of
/// the implementation is in [`StoreExt`].
pub trait Store: StoreService {
    /// What this store can do. Constant; costs no request.
    fn capabilities(&self) -> Capabilities;

    /// Begins an object that must not exist yet, and whose key is neither above nor below that of another object.
    /// Nothing is visible before [`ObjectWriter::finish`], and a dropped writer leaves nothing visible.
    fn create(&self, key: &ObjectKey, object: NewObject) -> Result<Box<dyn ObjectWriter>>;

    /// Stores an object, overwriting an existing one. Of two concurrent calls one wins whole. For heartbeats, never for
    /// data.
    fn replace(&self, key: &ObjectKey, content: &[u8]) -> Result<()>;

    /// Opens an object; `None` if the store has confirmed that it does not exist.
    fn open(&self, key: &ObjectKey, range: ReadRange) -> Result<Option<Box<dyn ObjectReader>>>;

    /// Looks an object up; `None` if the store has confirmed that it does not exist.
    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>>;

    /// Lists what is directly below a key, or below the root; empty if nothing is.
    fn list(&self, below: Option<&ObjectKey>) -> Result<Listing>;

    /// Visits the objects at any depth below a key, in the order of their keys, beginning with `from`, until `visit`
    /// breaks. A bucket takes one request for each thousand of them; memory does not grow with their number.
    fn walk(&self, below: &ObjectKey, from: Option<&ObjectKey>, visit: ObjectVisitor<'_>) -> Result<()>;

    /// Makes sure that an object which another process created survives a power cut.
    ///
    /// # Errors
    /// [`ErrorKind::Absent`](crate::error::ErrorKind::Absent) if it no longer exists.
    fn make_durable(&self, key: &ObjectKey) -> Result<()>;

    /// Removes an object, if it exists.
    fn delete(&self, key: &ObjectKey) -> Result<()>;
}

/// What a store can do that not every store can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether an object's first bytes may be written last: [`NewObject::header_bytes`] may be greater than 0.
    pub header_last: bool,
    /// Whether [`NewObject::digest`] is kept beside the object. Other stores ignore it.
    pub keeps_digest: bool,
    /// Whether the place can disappear while a process uses it, as a file system does that is unmounted.
    pub can_be_unmounted: bool,
}
