//! pgark archives PostgreSQL's WAL, takes base backups and recovers a cluster to any point in time.
//!
//! # Journeys
//! * A WAL file is archived: `bin/archive-push` → [`push`] → the socket in [`spool`] → `agent` → `repository`
//!   → `store`.
//! * A WAL file is restored: `bin/archive-get` → [`get`] → the same socket → `agent`, which fetches ahead.
//! * A base backup: `pgark base-backup` → `backup` → `repository`.
//! * A recovery: `pgark recover` → `recover`, which plans, restores and configures; PostgreSQL then calls
//!   `archive-get`.
//!
//! # Layers
//! Imports point downwards only; `tests/architecture.rs` enforces this order. [`error`] → [`postgres`] →
//! [`config`] → [`failpoint`] → [`durable`], [`data_directory`] → [`spool`] → [`push`], [`get`] ═ the small
//! programs end here ═ `log`, `monitor`, `interruption`, `pace` → `server` → `codec` → `store` → `repository` → `agent`, `backup`,
//! `recover` and the other use cases → `terminal` → `bin`.
//!
//! Start reading at [`postgres`] for the terms, then at the use case that interests you.

#[cfg(feature = "companion")]
pub mod agent;
#[cfg(feature = "companion")]
pub mod backup;
#[cfg(feature = "companion")]
pub mod check;
#[cfg(feature = "companion")]
pub mod codec;
pub mod config;
pub mod data_directory;
pub mod durable;
pub mod error;
#[cfg(feature = "companion")]
pub mod extract;
pub mod failpoint;
pub mod get;
#[cfg(feature = "companion")]
pub mod info;
#[cfg(feature = "companion")]
pub mod interruption;
#[cfg(feature = "companion")]
pub mod log;
#[cfg(feature = "companion")]
pub mod monitor;
#[cfg(feature = "companion")]
pub mod pace;
pub mod postgres;
pub mod push;
#[cfg(feature = "companion")]
pub mod recover;
#[cfg(feature = "companion")]
pub mod repository;
#[cfg(feature = "companion")]
pub mod server;
pub mod spool;
#[cfg(feature = "companion")]
pub mod status;
#[cfg(feature = "companion")]
pub mod store;
#[cfg(feature = "companion")]
pub mod terminal;
