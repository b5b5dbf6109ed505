//! Takes base backups, and combines them.
//!
//! A backup is started, copied, stopped, and published once its WAL is in the repository. There are two methods:
//! `local` copies the server's files, [`stream`] receives them from the server. A crash at any moment leaves no backup,
//! and the next run removes the remains.
//!
//! | room | subject |
//! |---|---|
//! | `files` | which files a backup contains, what their paths mean |
//! | `server` | the session, the archiver, the primary of a standby, the wait for WAL |
//! | `increment` | the parent's pages: what has changed since |
//! | `copy` | the packs and lists of a backup |
//! | `stream` | backups that the server sends |
//!
//! Owns: the conditions for a valid backup. Does not own: the stored formats (see `repository/backup`).

mod combine;
mod copy;
mod draft;
mod files;
mod increment;
mod local;
mod parent;
mod publish;
mod running;
mod server;
pub mod stream;
mod summary;

pub use combine::{CombineRequest, combine};
pub use local::{BackupRequest, run};
pub use parent::BackupType;
pub use summary::BackupSummary;
