//! Files of a data directory that describe the cluster and its server.

pub mod control_file;
pub mod postmaster_pid;
