//! `pgark`: the program for operators. Maps arguments to a use case, and its result to an exit status.

mod agent;
mod base_backup;
mod check;
mod combine;
mod config;
mod info;
mod log;
mod memory;
mod output;
mod recover;
mod status;
mod store;
mod version;
mod wal;

use clap::{ArgAction, Parser, Subcommand};
use output::Output;
use pgark::config::{Config, ConfigRequest, Environment, LogLevel};
use pgark::error::{Error, ErrorKind, Result};
use pgark::postgres::MajorVersion;
use pgark::store::Store;
use pgark::terminal::Verbosity;
use std::ffi::OsString;
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

    /// The configuration file /etc/pgark/NAME.toml; with --repository, the name of the cluster in the repository
    #[arg(long, value_name = "NAME", global = true, help_heading = "General")]
    cluster: Option<String>,

    /// Override a setting; may be repeated
    #[arg(long, value_name = "KEY=VALUE", global = true, help_heading = "General")]
    set: Vec<OsString>,

    /// Print results and errors as JSON
    #[arg(long, global = true, help_heading = "General")]
    json: bool,

    /// Do not show progress
    #[arg(long, short, global = true, help_heading = "General")]
    quiet: bool,

    /// Show debug messages on standard error: files, requests and their duration; -vv shows more
    #[arg(long, short, global = true, help_heading = "General", action = ArgAction::Count)]
    verbose: u8,

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
    /// archive unless --archiving on is given, so that a copy never writes into the archive of its original cluster. A standby
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
    /// For the round trip, pgark creates the restore point "pgark check" and switches to a new WAL segment. Nothing else
    /// changes in the server.
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
    Config(config::ConfigArguments),
    /// Run or stop the agent, which archive-push and archive-get start on demand
    #[command(after_long_help = agent::MORE_HELP)]
    Agent(agent::AgentArguments),
    /// Print the version; with --verbose, also how this pgark was built and what it supports
    #[command(after_long_help = version::MORE_HELP)]
    Version,
}

/// The context of every command.
struct CommandContext {
    request: ConfigRequest,
    assumed_version: Option<MajorVersion>,
    output: Output,
    /// `--verbose`: the level of messages on stderr.
    verbose: Option<LogLevel>,
}

impl CommandContext {
    /// The configuration selected by the command line or the environment.
    fn config(&self) -> Result<Config> {
        self.resolve(&self.request)
    }

    fn resolve(&self, request: &ConfigRequest) -> Result<Config> {
        let config = self.assuming(Config::resolve(request)?);
        log::tell_files(&config);
        Ok(config)
    }

    /// Applies the assumed version from the command line to a configuration.
    fn assuming(&self, config: Config) -> Config {
        match self.assumed_version {
            Some(version) => config.assuming(version),
            None => config,
        }
    }

    /// How much a command shows of its progress.
    fn verbosity(&self) -> Verbosity {
        match (self.output.is_quiet(), self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, Some(_)) => Verbosity::Verbose,
            (false, None) => Verbosity::Normal,
        }
    }

    /// The store of a configuration.
    fn store(&self, config: &Config) -> Result<Arc<dyn Store>> {
        store::open(config)
    }

    /// What the command line says with the arguments of a command that needs the repository only.
    fn request_of(&self, arguments: &PlaceArguments) -> ConfigRequest {
        ConfigRequest { repository: arguments.repository.clone(), ..self.request.clone() }
    }

    /// The store and the configuration for a command that needs the repository only.
    fn place(&self, arguments: &PlaceArguments) -> Result<(Arc<dyn Store>, Config)> {
        let config = self.resolve(&self.request_of(arguments))?;
        Ok((self.store(&config)?, config))
    }
}

/// A repository that may be named without a configuration file.
#[derive(clap::Args, Debug)]
struct PlaceArguments {
    /// The repository: a directory or s3://bucket/prefix; with --cluster, no configuration file is read
    #[arg(long, value_name = "URL", help_heading = "Where")]
    repository: Option<String>,
}

fn main() -> ExitCode {
    memory::return_freed_memory();
    let (words, set) = without_set(env::args_os());
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => Arguments { set, ..arguments },
        Err(error) => return output::command_line(&error),
    };
    let verbose = log::level(arguments.verbose);
    let output = Output::new(arguments.json, arguments.quiet);
    let request = ConfigRequest {
        file: arguments.config,
        cluster: arguments.cluster,
        set: arguments.set,
        environment: Environment::new(env::vars_os()),
        ..ConfigRequest::default()
    };
    let context = CommandContext { request, assumed_version: arguments.assume_version, output, verbose };
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

/// Splits a command line into all other words and the values of `--set`. Of a global option that may be repeated, clap
/// would drop the values before the command if there are others after it.
fn without_set(words: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, Vec<OsString>) {
    let (mut others, mut set) = (Vec::new(), Vec::new());
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--") => {
                others.push(word);
                others.extend(words.by_ref());
            }
            // Without a value, it is left for clap to report.
            Some("--set") if words.peek().is_some() => set.extend(words.next()),
            Some(text) if text.starts_with("--set=") => set.push(text.replacen("--set=", "", 1).into()),
            _ => others.push(word),
        }
    }
    (others, set)
}

fn run(context: &CommandContext, command: Command) -> Result<ExitCode> {
    // An agent knows the destination of its log only after it has read the configuration.
    if !matches!(&command, Command::Agent(arguments) if arguments.serves()) {
        log::start(context.verbose);
    }
    match command {
        Command::Config(arguments) => config::run(context, arguments),
        Command::BaseBackup(arguments) => base_backup::run(context, arguments),
        Command::Combine(arguments) => combine::run(context, arguments),
        Command::Recover(arguments) => recover::run(context, *arguments),
        Command::Info(arguments) => info::run(context, arguments),
        Command::Wal(arguments) => wal::run(context, arguments),
        Command::Check => check::run(context),
        Command::Status => status::run(context),
        Command::Agent(arguments) => agent::run(context, arguments),
        Command::Version => version::run(context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_of_a_command_line_is_lost() {
        let split = |line: &str| {
            let (others, set) = without_set(line.split(' ').map(OsString::from));
            (others.join(" ".as_ref()), set.join(" ".as_ref()))
        };
        assert_eq!(
            split("pgark --set a=1 config --set=b=--set= --json --set c="),
            ("pgark config --json".into(), "a=1 b=--set= c=".into())
        );
        assert_eq!(split("pgark config --set"), ("pgark config --set".into(), "".into()));
        assert_eq!(split("pgark info -- --set a=1"), ("pgark info -- --set a=1".into(), "".into()));
    }
}
