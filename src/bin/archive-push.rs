//! `archive-push %p`: PostgreSQL's archiver calls it for each WAL file.

mod small;

use lexopt::prelude::*;
use pgark::config::{Config, ConfigRequest, Environment};
use pgark::error::{Context, Error, ErrorKind, Result};
use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
archive-push stores one WAL file in the repository. PostgreSQL calls it:

    archive_command = 'archive-push %p'

Usage: archive-push [OPTIONS] PATH

Arguments:
  PATH             the WAL file, as %p; relative to the working directory, which is the data directory

Options:
  --config FILE    the configuration file [default: $PGARK_CONFIG, else /etc/pgark/pgark.toml]
  --cluster NAME   the configuration file /etc/pgark/NAME.toml
  --set KEY=VALUE  override a setting; may be repeated
  --help           print this help
  --version        print the version

Exit status:
  0  the file is stored and confirmed
  2  wrong command line or configuration
  3  unavailable now; PostgreSQL retries
  4  the file is damaged or belongs to another cluster, or the repository holds different content under its name";

fn main() -> ExitCode {
    small::run("archive-push", ErrorKind::Damaged.push_status(), |error| error.kind().push_status(), run)
}

fn run() -> Result<()> {
    let mut request =
        ConfigRequest { environment: Environment::new(env::vars_os()), ..ConfigRequest::default() };
    let mut path: Option<PathBuf> = None;
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next().map_err(small::usage)? {
        match argument {
            Long("config") => request.file = Some(arguments.value().map_err(small::usage)?.into()),
            Long("cluster") => {
                request.cluster =
                    Some(arguments.value().map_err(small::usage)?.to_string_lossy().into_owned());
            }
            Long("set") => request.set.push(arguments.value().map_err(small::usage)?),
            Long("help") | Short('h') => return small::print(HELP),
            Long("version") | Short('V') => return small::print(small::VERSION),
            Value(value) if path.is_none() => path = Some(value.into()),
            other => return Err(small::usage(other.unexpected())),
        }
    }
    let path = path.ok_or_else(|| {
        Error::usage("no path was given")
            .hint("archive_command must pass %p: archive_command = 'archive-push %p'.")
    })?;
    let config = Config::resolve(&request)?;
    let working_directory = env::current_dir().context(|| "could not determine the working directory")?;
    pgark::push::archive(&config, &path, &working_directory)
}
