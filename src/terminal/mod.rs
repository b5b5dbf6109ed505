//! Output for people.
//!
//! Owns: the format of tables and progress, and the sentences for events. Does not own: the texts of commands and their
//! destination (that is `bin/`).

mod progress;
mod sentence;
mod table;

pub use progress::{Progress, Verbosity};
pub use table::{bytes, counted, seconds, table};
