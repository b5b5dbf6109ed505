//! All that a person reads.
//!
//! Owns: how tables and progress look. Does not own: what is said, and where it goes (that is `bin/`).

mod progress;
mod table;

pub use progress::{Loudness, Progress};
pub use table::{bytes, table};
