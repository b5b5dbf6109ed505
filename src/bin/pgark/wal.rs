//! `pgark wal`: single WAL files of the repository.

use super::CommandContext;
use clap::{Args, Subcommand};
use pgark::config::Config;
use pgark::data_directory::DataDirectory;
use pgark::error::{Context as _, Result};
use pgark::extract::extract;
use pgark::postgres::{SystemIdentifier, WalFileName};
use pgark::repository::Repository;
use pgark::repository::choose_system;
use pgark::terminal::bytes;
use std::path::PathBuf;
use std::process::ExitCode;

const GET_HELP: &str = "\
Exit status:
  0  the file is written
  1  the repository does not hold it
  2  wrong command line or configuration, or the output file exists already
  3  the repository or the output directory is unavailable
  4  the file in the repository is damaged

Example:
  pgark wal get 000000010000000000000003 --output /tmp/000000010000000000000003";

/// Arguments of `pgark wal`.
#[derive(Args, Debug)]
pub struct WalArguments {
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Subcommand, Debug)]
enum WalCommand {
    /// Fetch one WAL file from the repository, for example to inspect it with pg_waldump
    ///
    /// An existing file is never overwritten.
    #[command(after_long_help = GET_HELP)]
    Get(GetArguments),
}

#[derive(Args, Debug)]
struct GetArguments {
    #[command(flatten)]
    place: super::PlaceArguments,

    /// The name of the file: a segment, history file, partial segment or backup history file
    #[arg(value_name = "NAME")]
    name: WalFileName,

    /// The file to write, which must not exist yet; pg_waldump requires the name of the segment
    #[arg(long, value_name = "FILE")]
    output: PathBuf,

    /// The system identifier, if the repository holds several for this cluster
    #[arg(long, value_name = "NUMBER")]
    system_identifier: Option<SystemIdentifier>,
}

pub fn run(context: &CommandContext, arguments: WalArguments) -> Result<ExitCode> {
    let WalCommand::Get(arguments) = arguments.command;
    let (store, config) = context.place(&arguments.place)?;
    let wanted = arguments.system_identifier.or(config.system_identifier).or_else(|| system_here(&config));
    let system = choose_system(store.as_ref(), config.cluster.as_str(), wanted)?;
    let repository =
        Repository::new(store, config.cluster.as_str(), system)?.assuming(config.assumed_version);
    let name = arguments.name;
    let extracted = extract(&repository, name, &arguments.output, pgark::durable::disk().as_ref())
        .context(|| format!("could not get {name}"))?;
    context.output.result(&extracted, || {
        format!("\"{}\" holds {name}, {}", extracted.output.display(), bytes(extracted.bytes))
    });
    Ok(ExitCode::SUCCESS)
}

/// The system of the configured data directory, if there is one.
fn system_here(config: &Config) -> Option<SystemIdentifier> {
    let data_directory = DataDirectory::open(&config.data_directory).ok()?.assuming(config.assumed_version);
    data_directory.control_file().ok().map(|control| control.system)
}
