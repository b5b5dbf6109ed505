//! Runs the built programs against a real PostgreSQL, as a server and an operator would: black box, one scenario per
//! test. Read `support/mod.rs` first; it describes the setup and the cleanup of a scenario.

// Clippy does not recognize functions without #[test] as test code; a panic here is a failed expectation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr)]

mod agent;
mod assumed_version;
mod backup;
mod backup_links;
mod backup_standby;
mod backup_stream;
mod backup_stream_incremental;
mod combine;
mod configuration;
mod crash;
mod full_disk;
mod get;
mod harness;
mod hostile_repository;
mod hung_repository;
mod incremental;
mod killing;
mod logs;
mod low_impact;
mod mutants;
mod new_system;
mod power_loss;
mod process_one;
mod promotion;
mod push;
mod random_history;
mod recover;
mod recover_collations;
mod recover_databases;
mod recover_delta;
mod recover_forks;
mod recover_leaves_alone;
mod recover_refusals;
mod recover_server;
mod recover_settings;
mod recover_standby;
mod recover_tablespaces;
mod recover_timelines;
mod recover_way;
mod recovery;
mod rendered;
mod s3;
mod s3_chain;
mod s3_faults;
mod s3_hostile;
mod s3_rights;
mod s3_trouble;
mod scale;
mod show;
mod signals;
mod snippets;
mod split_brain;
mod standby;
mod store_conformance;
mod support;
mod timeline_matrix;
mod tls;
mod tls_connection;
