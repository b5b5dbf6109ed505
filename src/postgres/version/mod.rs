//! Versions of PostgreSQL, and what differs between them.

pub mod facts;
pub mod major;
pub mod server;
