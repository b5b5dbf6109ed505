//! `pgark wal`: single WAL files of the repository.

use super::Context;
use clap::{Args, Subcommand};
use pgark::config::Config;
use pgark::data_directory::DataDirectory;
use pgark::error::{Context as _, Result};
use pgark::extract::extract;
use pgark::postgres::{SystemIdentifier, WalFileName};
use pgark::recover::systems::choose_system;
use pgark::repository::Repository;
use pgark::terminal::bytes;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `pgark wal`.
#[derive(Args, Debug)]
pub struct WalArguments {
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Subcommand, Debug)]
enum WalCommand {
    /// Take one WAL file out of the repository, to look at it with pg_waldump; nothing is ever overwritten
    Get(GetArguments),
}

#[derive(Args, Debug)]
struct GetArguments {
    #[command(flatten)]
    place: super::PlaceArguments,

    /// The file's name: a segment, history file, partial segment or backup history file
    #[arg(value_name = "NAME")]
    name: WalFileName,

    /// Where to write it; there must be no such file yet. pg_waldump wants the file to have its own name
    #[arg(long, value_name = "FILE")]
    output: PathBuf,

    /// The system whose file it is, where the repository holds several of this cluster
    #[arg(long, value_name = "IDENTIFIER")]
    system_identifier: Option<SystemIdentifier>,
}

pub fn run(context: &Context, arguments: WalArguments) -> Result<ExitCode> {
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

/// The system of the configured data directory, where there is one.
fn system_here(config: &Config) -> Option<SystemIdentifier> {
    let data_directory = DataDirectory::open(&config.data_directory).ok()?.assuming(config.assumed_version);
    data_directory.control_file().ok().map(|control| control.system)
}
