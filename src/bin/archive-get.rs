//! `archive-get %f %p`: PostgreSQL's startup process calls it for each WAL file that it needs.

mod small;

use lexopt::prelude::*;
use pgark::config::{Config, ConfigRequest, Environment};
use pgark::data_directory::recovery_mode;
use pgark::error::{Context, Error, ErrorKind, RecoveryMode, Result};
use pgark::get::Recovery;
use pgark::spool::TargetRule;
use std::cell::Cell;
use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

const HELP: &str = "\
archive-get fetches one WAL file from the repository. PostgreSQL calls it:

    restore_command = 'archive-get %f %p'

Usage: archive-get [OPTIONS] NAME DESTINATION

Arguments:
  NAME             the name of the WAL file, as %f
  DESTINATION      where to write it, as %p; relative to the working directory, which is the data directory

Options:
  --config FILE    the configuration file [default: $PGARK_CONFIG, else /etc/pgark/pgark.toml]
  --cluster NAME   the configuration file /etc/pgark/NAME.toml
  --set KEY=VALUE  override a setting; may be repeated
  --with-target    recovery has a target, and PostgreSQL fails if recovery does not reach it: missing WAL counts as the
                   end of the archive, except up to the segment given with --through
  --through NAME   the last segment that recovery is known to need: missing WAL up to it stops recovery in any case
  --timeline N     the timeline that recovery is to reach
  --help           print this help
  --version        print the version

Exit status:
  0    the file is restored
  1    the repository does not hold the file
  126  any other failure: missing WAL before the end of the archive, a damaged or foreign file, a wrong command line or
       configuration, or a repository that is unavailable for get.deadline; 126 stops recovery with an error, whereas 1
       would end recovery and promote the server
With standby.signal, every failure has exit status 1, and the standby retries.";

fn main() -> ExitCode {
    // Determined from the destination as soon as it is known; PostgreSQL always passes one.
    let mode = Cell::new(recovery_mode(Path::new("pg_wal/RECOVERYXLOG")));
    small::run(
        "archive-get",
        ErrorKind::Damaged.get_status(mode.get()),
        |error| error.kind().get_status(mode.get()),
        || run(&mode),
    )
}

fn run(mode: &Cell<RecoveryMode>) -> Result<()> {
    let mut request =
        ConfigRequest { environment: Environment::new(env::vars_os()), ..ConfigRequest::default() };
    let mut target = TargetRule::NoTarget;
    let mut timeline = None;
    let mut proven_end = None;
    let mut values: Vec<OsString> = Vec::new();
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next().map_err(small::usage)? {
        match argument {
            Long("config") => request.file = Some(arguments.value().map_err(small::usage)?.into()),
            Long("cluster") => {
                request.cluster =
                    Some(arguments.value().map_err(small::usage)?.to_string_lossy().into_owned());
            }
            Long("set") => request.set.push(arguments.value().map_err(small::usage)?),
            Long("with-target") => target = TargetRule::WithTarget,
            Long("through") => {
                let text = arguments.value().map_err(small::usage)?;
                proven_end = Some(text.to_string_lossy().parse()?);
            }
            Long("timeline") => {
                let text = arguments.value().map_err(small::usage)?;
                timeline = Some(text.to_string_lossy().parse()?);
            }
            Long("help") | Short('h') => return small::print(HELP),
            Long("version") | Short('V') => return small::print(small::VERSION),
            Value(value) if values.len() < 2 => values.push(value),
            other => return Err(small::usage(other.unexpected())),
        }
    }
    let [name, destination] = values.as_slice() else {
        return Err(Error::usage("a name and a destination are required")
            .hint("restore_command must pass both: restore_command = 'archive-get %f %p'."));
    };
    let destination = Path::new(destination);
    mode.set(recovery_mode(destination));
    let config = Config::resolve(&request)?;
    let working_directory = env::current_dir().context(|| "could not determine the working directory")?;
    let recovery = Recovery { mode: mode.get(), target, timeline, proven_end };
    pgark::get::restore(
        &config,
        &name.to_string_lossy(),
        destination,
        &working_directory,
        recovery,
        pgark::durable::disk().as_ref(),
        &mut |reason| small::say(&format!("archive-get: {reason}")),
    )
}
