//! Output for people.
//!
//! Owns: the format of tables and progress. Does not own: the texts and their destination (that is `bin/`).

mod progress;
mod table;

pub use progress::{Progress, Verbosity};
pub use table::{bytes, table};
