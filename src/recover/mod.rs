//! Recovers a cluster to a point in time: the implementation of `pgark recover`.
//!
//! The journey is [`plan()`](plan::plan) → [`restore()`](restore::restore) → start → compare; [`execute`] makes the last
//! three steps. The plan checks everything in the repository and on the host that can fail, and writes nothing.
//!
//! | room | subject |
//! |---|---|
//! | `place` | the destination directories: what exists there, how a restore claims them |
//! | `target` | which backup and which point: what the archived WAL proves |
//! | `server` | the recovered server: its settings, its start, the end of its recovery |
//! | `plan` | survey → decide (pure) → check |
//! | `restore` | the files, and the configuration beside them |
//!
//! Owns: these decisions and their order. Does not own: the formats (see `repository/`).

mod journey;
pub mod place;
pub mod plan;
pub mod restore;
pub mod server;
pub mod target;

pub use journey::{Execution, RecoveryOutcome, execute};
