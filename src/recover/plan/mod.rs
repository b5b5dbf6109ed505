//! Plans a recovery: what is restored where, and how the server is configured. Writes nothing.
//!
//! The sequence: `check` the request, `survey` the repository and the host, `decide` (pure), `check` the result.

mod check;
mod collations;
pub mod databases;
mod decide;
mod host_configuration;
mod planned;
mod request;
mod survey;

pub use collations::COLLATION_REPAIR;
pub use planned::{ConfigFile, RecoveryPlan};
pub use request::{Mode, RecoverRequest};

use crate::error::Result;
use crate::monitor::Monitor;
use crate::repository::Repository;

/// Makes the plan.
///
/// # Errors
/// Everything that would keep the recovery from working, as far as it can be known: see
/// [`plan_target`](crate::recover::target::plan_target), the staging directories and the space for them.
pub fn plan(
    request: &RecoverRequest,
    repository: &Repository,
    monitor: &dyn Monitor,
) -> Result<RecoveryPlan> {
    repository.check()?;
    check::check_options(request)?;
    let found = survey::destination(request)?;
    check::check_surroundings(request)?;
    let survey = survey::survey(request, found, repository, monitor)?;
    let plan = decide::decide(request, survey)?;
    check::check_plan(&plan, repository)?;
    Ok(plan)
}
