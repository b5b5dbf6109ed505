//! Stores WAL: requested files at once, and ahead of requests every file that the server has marked as ready.
//! Uploads start in PostgreSQL's order, because of two segments the later one proves that the earlier one
//! existed.
//!
//! | file | subject |
//! |---|---|
//! | `machine` | all decisions, pure; `messages` are its events and actions, `file` and `lane` its state |
//! | `task` | feeds the machine and carries out its actions |
//! | `jobs` | what runs on threads |

mod file;
mod jobs;
mod lane;
mod machine;
mod messages;
mod task;

pub use task::{Uploads, UploadsWatch};

#[cfg(test)]
mod tests;
