//! Injected crashes and faults, for tests only: steps before which the process dies, fails or waits.
//!
//! Without the feature `failpoints`, every function here is empty. Each durable step of pgark is an operation of
//! [`Disk`](crate::durable::Disk), a request to a bucket, or named by [`step`]. All of them are counted across threads,
//! so that a test reaches each one by counting up, without a list of places.
//!
//! | variable | |
//! |---|---|
//! | `PGARK_DIE_BEFORE=7` | dies before the seventh step, as by SIGKILL |
//! | `PGARK_FAIL_AT=7:ENOSPC`, `7+:EIO` | the seventh step fails, or all from the seventh on |
//! | `PGARK_FAIL_AT=open:EIO`, `open/wal:EIO`, `read:SHORT` | all steps of that name fail, or those with that part in their path, or read a few bytes at a time |
//! | `PGARK_FAIL_AT=sync-file/repository:HANG` | the step never returns, as on a frozen file system or a dead file server |
//! | `PGARK_FAIL_AT=read-data/base/5/1259:EIO` | reading this file of the server fails; with `open-data`, opening it |
//! | `PGARK_SLOW_MS=50` | delays every disk operation |
//! | `PGARK_RECORD=DIRECTORY` | records disk operations: see `recorder` |
//! | `PGARK_MUTANT=skip-fsync` | injects a defect: see [`Mutant`] |

#[cfg(feature = "failpoints")]
mod plan;
#[cfg(feature = "failpoints")]
pub mod recorder;

#[cfg(feature = "failpoints")]
pub use plan::{Fault, SHORT_READ_BYTES, count, fault, fault_in, mutant};
#[cfg(feature = "failpoints")]
pub use recorder::step;

/// A defect that can be injected into pgark, to show that the tests would detect it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// `skip-fsync`: written data is not made durable.
    SkipFsync,
    /// `early-acknowledgement`: a file is acknowledged before it is stored.
    EarlyAcknowledgement,
    /// `overwrite`: an object replaces another one of the same name.
    Overwrite,
    /// `swallow-read-error`: a WAL file that cannot be read counts as absent.
    SwallowReadError,
    /// `early-manifest`: a backup's manifest is stored before its last pack.
    EarlyManifest,
}

/// A step that is neither an operation of the disk nor a request. Does nothing in a release.
#[cfg(not(feature = "failpoints"))]
pub const fn step(_what: &str) {}

/// Whether this defect is injected.
#[cfg(not(feature = "failpoints"))]
pub const fn mutant(_mutant: Mutant) -> bool {
    false
}
