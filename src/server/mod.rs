//! Connections to the running server.
//!
//! Owns: how to reach the server, and how to interrupt a wait for it. Does not own: the queries, which belong to each
//! use case.

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
pub use tls::PresentedCertificate;
pub use watch::Watch;
