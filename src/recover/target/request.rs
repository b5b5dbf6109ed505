//! What the operator requests of a recovery target.

use super::forks::ForkRule;
use crate::postgres::{RecoveryTarget, TargetAction, TargetBound, TargetTimeline};

/// The goal of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A target in the server's terms.
    Target(RecoveryTarget, TargetBound),
    /// The last transaction that ended at or before this time, however long before.
    LatestBefore(jiff::Timestamp),
}

/// Whether a recovery with an unproven end may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Only a proven one.
    ProvenOnly,
    /// An unproven one, too: the operator accepts that the server stops with an error if it does not reach
    /// the target.
    AcceptUnproven,
}

/// All inputs for choosing the target, except the archive.
#[derive(Clone, Debug)]
pub struct TargetRequest {
    /// What to reach.
    pub goal: Goal,
    /// The timeline to follow.
    pub timeline: TargetTimeline,
    /// What the server does at the target; `None`: promote at the end of the WAL, pause elsewhere.
    pub action: Option<TargetAction>,
    /// The only backup to use, if the operator named one.
    pub backup: Option<String>,
    /// Whether the target must be proven.
    pub consent: Consent,
    /// The operator's command without its target, for errors that suggest a working command.
    pub command: String,
    /// The epoch of the target transaction, if the operator gave it.
    pub epoch: Option<u32>,
    /// How many bytes of stored WAL may be read to prove the target.
    pub prove_bytes: u64,
    /// How to resolve a fork whose latest timeline is ambiguous.
    pub forks: ForkRule,
}
