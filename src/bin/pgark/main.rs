//! `pgark`: the companion that an operator calls. Arguments → one use case → exit status.

mod agent;
mod base_backup;
mod check;
mod combine;
mod config;
mod info;
mod memory;
mod output;
mod recover;
mod status;
mod wal;

use clap::{Parser, Subcommand};
use output::Output;
use pgark::config::Config;
use pgark::error::{Error, ErrorKind, Result};
use pgark::postgres::MajorVersion;
use pgark::store::Store;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::{env, panic};

/// WAL archiving and point-in-time recovery for PostgreSQL.
///
/// PostgreSQL itself calls archive-push and archive-get; this is the program for people.
#[derive(Parser, Debug)]
#[command(name = "pgark", version, max_term_width = 100, arg_required_else_help = true)]
struct Arguments {
    /// The configuration [default: $PGARK_CONFIG, else /etc/pgark/pgark.toml]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,

    /// Print JSON for programs instead of text for people, errors too
    #[arg(long, global = true)]
    json: bool,

    /// Show no progress
    #[arg(long, short, global = true)]
    quiet: bool,

    /// Read the files of a server of an unknown major version as those of this one, for this call (assume_version in
    /// the configuration is for the archive programs, too); commands that read none ignore it
    #[arg(long, value_name = "MAJOR", global = true, value_parser = major_version)]
    assume_version: Option<MajorVersion>,

    #[command(subcommand)]
    command: Command,
}

fn major_version(text: &str) -> std::result::Result<MajorVersion, String> {
    let known = || MajorVersion::ALL.map(|version| version.to_string()).join(", ");
    text.parse().ok().and_then(MajorVersion::new).ok_or_else(|| format!("pgark knows {}", known()))
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Take a base backup of the running server
    BaseBackup(base_backup::BaseBackupArguments),
    /// Make a full backup out of an incremental one and those that it builds on
    Combine(combine::CombineArguments),
    /// Bring the cluster back to a moment: restore a backup and tell PostgreSQL how far to recover
    Recover(Box<recover::RecoverArguments>),
    /// Show what the repository holds: backups, WAL with its gaps, what can be reached
    Info(info::InfoArguments),
    /// Single WAL files of the repository
    Wal(wal::WalArguments),
    /// Check whether all of it works: configuration, server, a WAL segment's way there and back
    Check,
    /// Show how archiving goes on this host: what waits, the agent, the last error
    Status,
    /// Print the effective settings and where each comes from
    Config,
    /// Run the agent that archive-push and archive-get start by themselves, or stop it
    Agent(agent::AgentArguments),
}

/// What every command gets.
struct Context {
    location: Option<PathBuf>,
    assumed_version: Option<MajorVersion>,
    output: Output,
}

impl Context {
    /// The configuration that the command line or the environment names.
    fn config(&self) -> Result<Config> {
        let location = Config::locate(self.location.clone(), env::var_os("PGARK_CONFIG"));
        Ok(self.assuming(Config::load(&location.path)?))
    }

    /// The configuration with what the command line assumes.
    fn assuming(&self, config: Config) -> Config {
        match self.assumed_version {
            Some(version) => config.assuming(version),
            None => config,
        }
    }

    /// The store that a configuration names.
    fn store(&self, config: &Config) -> Result<Arc<dyn Store>> {
        open(config)
    }

    /// The store and the configuration of the cluster that the arguments name, or else of the configuration file.
    fn place(&self, arguments: &PlaceArguments) -> Result<(Arc<dyn Store>, Config)> {
        match (&arguments.repository, &arguments.cluster) {
            (Some(url), Some(cluster)) => {
                // The data directory is that of another host, or gone.
                let config = Config::for_recovery(cluster, url, &PathBuf::from("/nonexistent"))?;
                Ok((open(&config)?, self.assuming(config)))
            }
            _ => {
                let config = self.config()?;
                Ok((self.store(&config)?, config))
            }
        }
    }
}

/// A cluster that is named without a configuration file.
#[derive(clap::Args, Debug)]
struct PlaceArguments {
    /// The repository, where there is no configuration file: a directory, or s3://bucket/prefix
    #[arg(long, value_name = "URL", requires = "cluster")]
    repository: Option<String>,

    /// The cluster's name in that repository
    #[arg(long, value_name = "NAME", requires = "repository")]
    cluster: Option<String>,
}

/// The one place where a concrete store is chosen.
fn open(config: &Config) -> Result<Arc<dyn Store>> {
    pgark::repository::open_store(config, pgark::durable::disk())
}

fn main() -> ExitCode {
    memory::give_back_what_is_freed();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::command_line(&error),
    };
    let output = Output::new(arguments.json, arguments.quiet);
    let context = Context { location: arguments.config, assumed_version: arguments.assume_version, output };
    panic::set_hook(Box::new(|information| output::say(&format!("pgark failed: {information}"))));
    let ran = panic::catch_unwind(panic::AssertUnwindSafe(|| run(&context, arguments.command)));
    let result = ran.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Damaged, "pgark failed in a way that it does not know")
            .hint("This is a defect of pgark: please report what was printed above."))
    });
    match result {
        Ok(status) => status,
        Err(error) => context.output.error(&error),
    }
}

fn run(context: &Context, command: Command) -> Result<ExitCode> {
    match command {
        Command::Config => config::run(context),
        Command::BaseBackup(arguments) => base_backup::run(context, arguments),
        Command::Combine(arguments) => combine::run(context, arguments),
        Command::Recover(arguments) => recover::run(context, *arguments),
        Command::Info(arguments) => info::run(context, arguments),
        Command::Wal(arguments) => wal::run(context, arguments),
        Command::Check => check::run(context),
        Command::Status => status::run(context),
        Command::Agent(arguments) => agent::run(context, arguments),
    }
}
