//! The building blocks of the scenarios.
//!
//! ```text
//! let site = Site::with_servers(1);             // a scratch directory, a repository; waits for a free server
//! let mut primary = site.cluster("primary");    // a stopped PostgreSQL with 1 MB segments, and its pgark.toml
//! primary.archive();                            // archive_mode, archive_command
//! primary.start();
//! let segment = primary.switch_wal();
//! primary.wait_archived(&segment);
//! primary.get(&segment, "pg_wal/RECOVERYXLOG").expect(0);
//! ```
//!
//! Under root, everything runs as the user `postgres`, because PostgreSQL refuses to run as root, and pgark runs only
//! as the owner of the data directory. When a [`Site`] is dropped, even after a panic, it kills all processes that the
//! scenario started and removes its files; the reaper ([`run_directory`]) does the same for a killed test run.
//!
//! `PGARK_TEST_PG_BIN` selects the PostgreSQL, `PGARK_TEST_PROGRAMS` selects programs other than those just built,
//! `PGARK_TEST_KEEP=1` keeps the directories.

// Some building blocks are not used yet.
#![allow(dead_code)]

mod account;
mod archive;
mod bucket;
mod certificates;
pub mod checker;
mod cluster;
mod config;
mod delta_scene;
mod fault_proxy;
pub mod hostile;
mod processes;
mod programs;
mod random;
mod recording;
mod run;
mod run_directory;
mod server_slots;
mod site;
mod small_disk;
mod story;
mod tally;
pub mod template;
mod tls_proxy;
mod tls_scene;
mod wait;
mod wal;

pub use account::{create_private_directory, give, write_file};
pub use archive::{Archive, files_below};
pub use bucket::{Bucket, S3Server, s3_server};
pub use cluster::{Cluster, Stop};
pub use delta_scene::DeltaScene;
pub use fault_proxy::{Fault, FaultProxy};
pub use processes::Process;
pub use programs::{faketime, has_postgres_program, old_postgres_program, pgark_program, postgres_program};
pub use random::Random;
pub use recording::{Operation, PowerCuts, Recording};
pub use run::{Outcome, Run, Running};
pub use site::Site;
pub use small_disk::SmallDisk;
pub use story::{Story, expect_not_startable, hinted_command, used_summaries};
pub use tally::Tally;
pub use template::Template;
pub use tls_proxy::{Begin, Proxy};
pub use tls_scene::TlsScene;
pub use wait::{PATIENCE, wait_for, wait_until};
pub use wal::{FakeWal, backup_history, history, segment_name, segment_number};

/// Whether to run the long scenarios: `scripts/test --all`.
pub fn wants_everything() -> bool {
    std::env::var_os("PGARK_TEST_ALL").is_some()
}
