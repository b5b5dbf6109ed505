//! `pgark combine`.

use super::CommandContext;
use super::base_backup::{interrupted_by_signals, new_label, text};
use clap::Args;
use pgark::backup::{CombineRequest, combine};
use pgark::error::Result;
use pgark::repository::Repository;
use pgark::repository::choose_system;
use pgark::terminal::Progress;
use std::num::NonZeroUsize;
use std::process::ExitCode;

pub const MORE_HELP: &str = "\
Exit status:
  0  the new full backup is complete
  1  the repository does not hold the backup
  2  wrong command line or configuration
  3  the repository is unavailable, or the command was interrupted
  4  the chain or its WAL is damaged or incomplete, or the label exists already

Example:
  pgark combine 20260115T143000Z";

/// Arguments of `pgark combine`.
#[derive(Args, Debug)]
pub struct CombineArguments {
    /// The newest backup of the chain to combine
    #[arg(value_name = "LABEL")]
    of: String,

    #[command(flatten)]
    place: super::PlaceArguments,

    /// The name of the new backup [default: the current time, such as 20260115T143000Z, with a number
    /// appended if that name exists]
    #[arg(long)]
    label: Option<String>,

    /// The number of packs to write in parallel [default: backup.workers]
    #[arg(long)]
    workers: Option<NonZeroUsize>,

    /// The system identifier, if the repository holds several for this cluster
    #[arg(long, value_name = "NUMBER")]
    system_identifier: Option<String>,
}

pub fn run(context: &CommandContext, arguments: CombineArguments) -> Result<ExitCode> {
    let (store, config) = context.place(&arguments.place)?;
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
    let interrupted = interrupted_by_signals()?;
    let summary = combine(&request, &repository, &interrupted, &Progress::new(context.verbosity()))?;
    context.output.result(&summary, || text(&summary));
    Ok(ExitCode::SUCCESS)
}
