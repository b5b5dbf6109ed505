//! Drives the built programs against a real PostgreSQL, as a server and an operator would: black box, one scenario a
//! test. Read `support/mod.rs` first: it says how a scenario is set up, and what is cleaned up after it.

// Outside of #[test] functions clippy cannot know that this is test code: here a panic is a failed expectation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr)]

mod agent;
mod get;
mod harness;
mod promotion;
mod push;
mod recovery;
mod snippets;
mod standby;
mod support;
