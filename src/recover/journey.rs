//! Carries out a plan: restore → start → compare.

use crate::durable::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::Monitor;
use crate::pace::Pace;
use crate::postgres::{RecoveryTarget, TargetAction};
use crate::recover::plan::RecoveryPlan;
use crate::recover::restore::{RecoverySummary, restore};
use crate::recover::server::settings::forget_target;
use crate::recover::server::standby::Role;
use crate::recover::server::{
    Awaited, CollationMismatch, ReachedPoint, ReachedState, ServerStart, deviations,
};
use crate::repository::Repository;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// How to carry out a plan.
pub struct Execution<'a> {
    /// The repository that the plan was made from.
    pub repository: &'a Repository,
    /// Number of threads that restore files.
    pub workers: NonZeroUsize,
    /// The limits on the rate of writing.
    pub pace: &'a Pace,
    /// Receives the files.
    pub disk: &'a dyn Disk,
    /// Receives the progress.
    pub monitor: &'a dyn Monitor,
    /// How to start the recovered server.
    pub start: ServerStart,
    /// Whether to start it and wait until recovery has ended.
    pub wait: bool,
    /// The program that its `restore_command` calls, an absolute path.
    pub archive_get: PathBuf,
}

/// The result of a recovery.
#[derive(Debug)]
pub struct RecoveryOutcome {
    /// What was restored.
    pub summary: RecoverySummary,
    /// How to start the server; adapted to the restored configuration.
    pub start: ServerStart,
    /// The point that the server reached; `None` if it was not started.
    pub reached: Option<ReachedPoint>,
    /// The collations whose version differs from the one in the catalogs, or why they could not be determined; `None` if
    /// no server runs.
    pub collations: Option<Result<Vec<CollationMismatch>>>,
}

/// Restores the cluster. With [`Execution::wait`] also starts the server, waits for the end of recovery, and compares
/// the point reached with the plan.
///
/// # Errors
/// Those of [`restore`] and [`ServerStart::run`]; [`ErrorKind::Damaged`] if recovery ended at another point than planned.
pub fn execute(plan: &RecoveryPlan, execution: Execution<'_>) -> Result<RecoveryOutcome> {
    let Execution { repository, workers, pace, disk, monitor, start, wait, archive_get } = execution;
    let summary = restore(plan, repository, workers, pace, disk, monitor)?;
    let start = ServerStart { name_data_directory: summary.configured_data_directory.is_some(), ..start };
    let mut outcome = RecoveryOutcome { summary, start, reached: None, collations: None };
    if !wait {
        return Ok(outcome);
    }
    let reached = outcome.start.run(awaited(plan), monitor)?;
    compare(plan, &reached, &outcome.start)?;
    if reached.state == ReachedState::Promoted {
        let restore_command = plan.restore_command_of_standby(&archive_get)?;
        forget_target(disk, &outcome.start.data_directory, &restore_command)?;
    }
    if reached.state != ReachedState::ShutDown {
        outcome.collations = Some(outcome.start.collation_mismatches(!plan.left_out.is_empty()));
    }
    outcome.reached = Some(reached);
    Ok(outcome)
}

/// The state to wait for in the started server.
fn awaited(plan: &RecoveryPlan) -> Awaited {
    match &plan.settings.role {
        Role::Standby(standby) if standby.primary.is_some() => Awaited::Streaming,
        Role::Standby(_) => Awaited::Following,
        Role::Recovered if plan.settings.target.action == TargetAction::Shutdown => Awaited::Stop,
        Role::Recovered
            if plan.settings.target.action == TargetAction::Promote
                || plan.settings.target.target == RecoveryTarget::Latest =>
        {
            Awaited::Opening
        }
        Role::Recovered => Awaited::Target,
    }
}

/// Compares the point reached with the plan. A standby follows its primary, so it has no planned end.
fn compare(plan: &RecoveryPlan, reached: &ReachedPoint, start: &ServerStart) -> Result<()> {
    let deviations = match plan.settings.role {
        Role::Standby(_) => Vec::new(),
        Role::Recovered => deviations(&plan.settings.target.target, &plan.target.expected, reached),
    };
    if deviations.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Damaged,
        format!("recovery did not end where the plan expected: {}", deviations.join("; ")),
    )
    .hint(format!(
        "The server is running in \"{}\". Inspect it before you use it.",
        start.data_directory.display()
    )))
}
