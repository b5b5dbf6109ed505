//! `archive-get %f %p`: what PostgreSQL's startup process calls for each WAL file that it wants.

mod small;

use lexopt::prelude::*;
use pgark::config::Config;
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
  NAME             the file's name, as %f
  DESTINATION      where to put it, as %p: relative to the data directory, which is the working directory

Options:
  --config FILE    the configuration [default: $PGARK_CONFIG, else /etc/pgark/pgark.toml]
  --with-target    recovery has a target: PostgreSQL itself fails when it does not reach it, so a hole in the WAL is
                   answered as the end of the archive, unless --through says that recovery needs the segment
  --through NAME   the last segment that recovery is known to need: up to it a hole stops recovery, with a target too
  --timeline N     the timeline that recovery is on the way to
  --help           print this
  --version        print the version

Exit status: 0 restored; 1 the repository does not hold it; 126 it could not be found out, or the file is damaged:
this stops recovery, where 1 would end it. Under standby.signal every failure is 1, and the standby asks again.";

fn main() -> ExitCode {
    // Known as soon as the destination is; PostgreSQL's own calls always have one.
    let mode = Cell::new(recovery_mode(Path::new("pg_wal/RECOVERYXLOG")));
    small::run(
        "archive-get",
        ErrorKind::Damaged.get_status(mode.get()),
        |error| error.kind().get_status(mode.get()),
        || run(&mode),
    )
}

fn run(mode: &Cell<RecoveryMode>) -> Result<()> {
    let mut config = None;
    let mut target = TargetRule::NoTarget;
    let mut timeline = None;
    let mut proven_end = None;
    let mut values: Vec<OsString> = Vec::new();
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next().map_err(small::usage)? {
        match argument {
            Long("config") => config = Some(arguments.value().map_err(small::usage)?.into()),
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
        return Err(Error::usage("a name and a destination are needed")
            .hint("restore_command must pass both: restore_command = 'archive-get %f %p'."));
    };
    let destination = Path::new(destination);
    mode.set(recovery_mode(destination));
    let config = Config::load(&Config::locate(config, env::var_os("PGARK_CONFIG")).path)?;
    let working_directory = env::current_dir().context(|| "could not find the working directory")?;
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
