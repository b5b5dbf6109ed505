//! `pgark`: the program for operators. Maps arguments to a use case, and its result to an exit status.

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
mod store;
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

const MORE_HELP: &str = "\
Exit status:
  0  success
  1  the repository does not hold the requested data
  2  wrong command line or configuration
  3  the server, the repository or another resource is unavailable now
  4  damaged, conflicting or foreign data, or missing WAL
The help of each command says what these mean for it.

Examples:
  pgark check
  pgark base-backup
  pgark recover --help";

/// WAL archiving and point-in-time recovery for PostgreSQL.
///
/// PostgreSQL itself calls archive-push and archive-get. Operators and scripts call pgark.
#[derive(Parser, Debug)]
#[command(
    name = "pgark",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_long_help = MORE_HELP
)]
struct Arguments {
    /// The configuration file [default: $PGARK_CONFIG, else /etc/pgark/pgark.toml]
    #[arg(long, value_name = "FILE", global = true, help_heading = "General")]
    config: Option<PathBuf>,

    /// Print results and errors as JSON
    #[arg(long, global = true, help_heading = "General")]
    json: bool,

    /// Do not show progress
    #[arg(long, short, global = true, help_heading = "General")]
    quiet: bool,

    /// Read the files of an unknown PostgreSQL version as those of this major version
    ///
    /// This applies to one call; the setting assume_version applies to the archive programs as well. Commands that do
    /// not read the files of a server ignore this option.
    #[arg(long, value_name = "MAJOR", global = true, help_heading = "General", hide_short_help = true, value_parser = major_version)]
    assume_version: Option<MajorVersion>,

    #[command(subcommand)]
    command: Command,
}

fn major_version(text: &str) -> std::result::Result<MajorVersion, String> {
    let known = || MajorVersion::ALL.map(|version| version.to_string()).join(", ");
    text.parse().ok().and_then(MajorVersion::new).ok_or_else(|| format!("pgark supports {}", known()))
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Take a base backup of the running server
    #[command(visible_alias = "backup", after_long_help = base_backup::MORE_HELP)]
    BaseBackup(base_backup::BaseBackupArguments),
    /// Combine an incremental backup and its chain into a new full backup
    ///
    /// This happens inside the repository; the server is not contacted. The new backup restores the same state as the
    /// newest backup of the chain, and the next incremental backup builds on it. The old full backup is no longer needed
    /// once the incremental backups that build on it are gone.
    #[command(after_long_help = combine::MORE_HELP)]
    Combine(combine::CombineArguments),
    /// Restore a backup and configure PostgreSQL to recover to a target
    ///
    /// Without --delta nothing is ever overwritten: the target directory must be empty or absent. A target that cannot be
    /// reached is refused before anything is written, with the nearest point that can be reached. Try --dry-run first: it
    /// prints the plan and writes nothing.
    ///
    /// Run it as the user that runs PostgreSQL. If it is interrupted, run it again. The recovered cluster does not
    /// archive unless --archiving on is given, so that a copy never writes into its original's archive. A standby
    /// archives once it is promoted.
    #[command(visible_alias = "restore", after_long_help = recover::MORE_HELP)]
    Recover(Box<recover::RecoverArguments>),
    /// Show the backups in the repository, its WAL with any gaps, and the recovery windows
    #[command(after_long_help = info::MORE_HELP)]
    Info(info::InfoArguments),
    /// Work with single WAL files of the repository
    Wal(wal::WalArguments),
    /// Check the configuration, the server, the repository, and the round trip of a WAL segment
    ///
    /// For the round trip the server switches to a new WAL segment. Nothing else changes in the server.
    #[command(after_long_help = check::MORE_HELP)]
    Check,
    /// Show the state of archiving on this host: waiting files, the agent, current errors
    ///
    /// This reads the data directory and asks the agent only, so that it also works while the server or the repository is
    /// unavailable.
    #[command(after_long_help = status::MORE_HELP)]
    Status,
    /// Print the effective settings and the source of each
    #[command(after_long_help = config::MORE_HELP)]
    Config,
    /// Run or stop the agent, which archive-push and archive-get start on demand
    #[command(after_long_help = agent::MORE_HELP)]
    Agent(agent::AgentArguments),
}

/// The context of every command.
struct Context {
    location: Option<PathBuf>,
    assumed_version: Option<MajorVersion>,
    output: Output,
}

impl Context {
    /// The configuration selected by the command line or the environment.
    fn config(&self) -> Result<Config> {
        let location = Config::locate(self.location.clone(), env::var_os("PGARK_CONFIG"));
        Ok(self.assuming(Config::load(&location.path)?))
    }

    /// Applies the assumed version from the command line to a configuration.
    fn assuming(&self, config: Config) -> Config {
        match self.assumed_version {
            Some(version) => config.assuming(version),
            None => config,
        }
    }

    /// The store of a configuration.
    fn store(&self, config: &Config) -> Result<Arc<dyn Store>> {
        store::open(config)
    }

    /// The store and the configuration of the cluster named by the arguments, otherwise by the configuration file.
    fn place(&self, arguments: &PlaceArguments) -> Result<(Arc<dyn Store>, Config)> {
        match (&arguments.repository, &arguments.cluster) {
            (Some(url), Some(cluster)) => {
                // The data directory is on another host or no longer exists.
                let config = Config::for_recovery(cluster, url, &PathBuf::from("/nonexistent"))?;
                Ok((self.store(&config)?, self.assuming(config)))
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
    /// The repository, if there is no configuration file: a directory or s3://bucket/prefix
    #[arg(long, value_name = "URL", requires = "cluster", help_heading = "Where")]
    repository: Option<String>,

    /// The name of the cluster in that repository
    #[arg(long, value_name = "NAME", requires = "repository", help_heading = "Where")]
    cluster: Option<String>,
}

fn main() -> ExitCode {
    memory::give_back_what_is_freed();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::command_line(&error),
    };
    let output = Output::new(arguments.json, arguments.quiet);
    let context = Context { location: arguments.config, assumed_version: arguments.assume_version, output };
    panic::set_hook(Box::new(|information| output::say(&format!("pgark: internal error: {information}"))));
    let ran = panic::catch_unwind(panic::AssertUnwindSafe(|| run(&context, arguments.command)));
    let result = ran.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Damaged, "internal error")
            .hint("This is a bug in pgark. Please report it with the output above."))
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
