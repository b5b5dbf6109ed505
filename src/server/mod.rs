//! The running server, over one connection.
//!
//! Owns: how it is reached, and how a wait for it is ended. Does not own: what is asked (that is each use case's).

mod authentication;
pub mod c_library;
mod connect;
mod connection;
mod failure;
mod keepalive;
mod parameters;
mod password_file;
mod replication;
mod stream;
mod tls;
mod watch;
mod wire;

pub use connection::{Connection, LocalPlace, LocalServer, Row};
pub use replication::{Incoming, ReplicationConnection};
pub use watch::Watch;
