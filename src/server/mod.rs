//! Connections to the running server.
//!
//! Owns: how to reach the server. Does not own: the queries, which belong to each use case.

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
mod wire;

pub use connection::{Connection, LocalPlace, LocalServer, Row};
pub use replication::{Incoming, ReplicationConnection};
pub use tls::PresentedCertificate;
