//! `pgark combine`.

use super::Context;
use super::base_backup::{interrupted_by_signals, new_label, text};
use clap::Args;
use pgark::backup::{CombineRequest, combine};
use pgark::error::Result;
use pgark::recover::systems::choose_system;
use pgark::repository::Repository;
use pgark::terminal::{Loudness, Progress};
use std::num::NonZeroUsize;
use std::process::ExitCode;

/// Makes a full backup out of an incremental one and those that it builds on, inside the repository.
///
/// The server is not asked. The new backup is of the same moment as the newest of the chain, and the next incremental backup
/// builds on it; the old full backup is no longer needed once the incremental ones that build on it are gone.
#[derive(Args, Debug)]
pub struct CombineArguments {
    /// The newest backup of the chain
    #[arg(value_name = "LABEL")]
    of: String,

    /// The name of the full backup [default: the time, such as 20260115T143000Z, with a number
    /// behind it if that is taken]
    #[arg(long)]
    label: Option<String>,

    /// How many packs are written at once [default: backup.workers]
    #[arg(long)]
    workers: Option<NonZeroUsize>,

    /// Which system of the cluster, where the repository holds several
    #[arg(long, value_name = "NUMBER")]
    system_identifier: Option<String>,
}

pub fn run(context: &Context, arguments: CombineArguments) -> Result<ExitCode> {
    let config = context.config()?;
    let store = context.store(&config)?;
    let wanted = arguments.system_identifier.as_deref().map(str::parse).transpose()?;
    let system = choose_system(store.as_ref(), config.cluster.as_str(), wanted.or(config.system_identifier))?;
    let repository =
        Repository::new(store, config.cluster.as_str(), system)?.assuming(config.assumed_version);
    let request = CombineRequest {
        of: arguments.of.parse()?,
        label: new_label(arguments.label.as_deref())?,
        workers: arguments.workers.unwrap_or(config.backup.workers),
        compression: config.compression,
    };
    let loudness = if context.output.is_quiet() { Loudness::Quiet } else { Loudness::Normal };
    let interrupted = interrupted_by_signals()?;
    let summary = combine(&request, &repository, &interrupted, &Progress::new(loudness))?;
    context.output.result(&summary, || text(&summary));
    Ok(ExitCode::SUCCESS)
}
