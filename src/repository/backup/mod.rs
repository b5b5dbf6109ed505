//! Base backups as objects: packs of files, an index of the files, and a manifest.
//!
//! | object | content | module |
//! |---|---|---|
//! | `running` | the mark of a running backup, with a heartbeat | [`running`] |
//! | `pack-000001` … | compressed tar archives of whole files | [`pack`] |
//! | `backup_manifest` | PostgreSQL's own list of the files | [`framed`] around `postgres::backup_manifest` |
//! | `files` | the position of each file in the packs | [`index`] |
//! | `manifest.json` | the description of the backup; written last | [`manifest`] |
//!
//! A [`chain`] reads an incremental backup and its ancestors as one.
//!
//! Owns: these formats, specified in `docs/repository-format.md`. Does not own: taking a backup and restoring one.

pub mod chain;
mod collations;
pub mod file_set;
pub mod framed;
pub mod index;
pub mod inventory;
mod label;
pub mod manifest;
mod objects;
pub mod pack;
pub mod running;
mod text;

pub use chain::Chain;
pub use index::{DirectoryEntry, FileEntry, FileForm, FilePlace, IndexEntry, IndexReader, IndexWriter};
pub use inventory::{BackupState, ListedBackup};
pub use label::{Label, NewLabel};
pub use manifest::StoredBackup;
pub use objects::{check_objects, objects_of, open_index};
pub use pack::{PackReader, PackWriter, read_file};
pub use running::Running;
pub use text::StoredText;
