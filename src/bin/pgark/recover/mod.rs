//! `pgark recover`.

mod arguments;
mod text;

pub use arguments::{MORE_HELP, RecoverArguments};

use super::{CommandContext, output};
use pgark::config::{Config, ConfigRequest, Conninfo, PaceSettings};
use pgark::error::{Context as _, Error, Result};
use pgark::pace::Pace;
use pgark::recover::plan::{RecoverRequest, RecoveryPlan, plan};
use pgark::recover::restore::forecast;
use pgark::recover::server::settings::Archiving;
use pgark::recover::server::{ServerStart, find_pg_ctl, who_listens};
use pgark::recover::{Execution, execute};
use pgark::repository::{Repository, choose_system};
use pgark::terminal::Progress;
use std::env;
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;

pub fn run(context: &CommandContext, arguments: RecoverArguments) -> Result<ExitCode> {
    let (config, data_directory) = configuration(context, &arguments)?;
    let store = context.store(&config)?;
    let wanted = arguments.system()?.or(config.system_identifier);
    let system = choose_system(store.as_ref(), config.cluster.as_str(), wanted)?;
    let repository =
        Repository::new(store, config.cluster.as_str(), system)?.assuming(config.assumed_version);
    let command = arguments::without_target(
        std::iter::once("pgark".to_owned())
            .chain(env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned())),
    );
    let conninfo = config.connection.conninfo.clone();
    let workers = arguments.workers.unwrap_or(config.recover.workers);
    let pace =
        PaceSettings { max_rate: arguments.max_rate.or(config.recover.pace.max_rate), ..config.recover.pace };
    let request = RecoverRequest {
        target: arguments.target(command, &config.recover)?,
        config,
        data_directory,
        spool_directory: arguments.spool_directory.as_deref().map(absolutely).transpose()?,
        mappings: arguments.mappings()?,
        role: arguments.role()?,
        mode: arguments.mode(),
        databases: arguments.database.clone(),
        archiving: arguments.archiving()?,
        archive_get: archive_get()?,
    };
    let monitor = Progress::new(context.verbosity());
    let mut plan = plan(&request, &repository, &monitor)?;
    let start = server_start(&arguments, &plan, conninfo)?;
    plan.warnings.extend(check_port(&arguments, &plan)?);
    if arguments.dry_run {
        let delta = forecast(&plan, &repository, workers)?;
        let document = text::PlanDocument::new(&plan).with_delta(delta);
        context.output.result(&document, || text::plan(&plan, delta));
        return Ok(ExitCode::SUCCESS);
    }
    if !context.output.is_json() && !context.output.is_quiet() {
        output::say(&text::plan(&plan, None));
    }
    let outcome = execute(
        &plan,
        Execution {
            repository: &repository,
            workers,
            pace: &Pace::new(pace),
            disk: pgark::durable::disk().as_ref(),
            monitor: &monitor,
            start,
            wait: arguments.wait,
            archive_get: request.archive_get,
        },
    )?;
    let document = text::RecoveryDocument::new(&plan, outcome);
    context.output.result(&document, || text::summary(&document));
    Ok(ExitCode::SUCCESS)
}

/// The settings of the original, from the file or the command line, and the target directory.
fn configuration(context: &CommandContext, arguments: &RecoverArguments) -> Result<(Config, PathBuf)> {
    let target = arguments.target_directory.as_deref().map(absolutely).transpose()?;
    let request = ConfigRequest { data_directory: target.clone(), ..context.request_of(&arguments.place) };
    if request.is_without_file() && target.is_none() {
        return Err(Error::usage("--target-directory is missing").hint(
            "Without a configuration file this option is required: it names the directory to restore into.",
        ));
    }
    let config = context.resolve(&request)?;
    let target = target.unwrap_or_else(|| config.data_directory.clone());
    Ok((config, target))
}

fn absolutely(path: &Path) -> Result<PathBuf> {
    let path = absolute(path).context(|| format!("could not find \"{}\"", path.display()))?;
    // Removes a trailing slash.
    Ok(path.components().collect())
}

/// The program that `restore_command` calls: the one beside this program.
fn archive_get() -> Result<PathBuf> {
    let program = env::current_exe()
        .context(|| "could not determine the path of this program")?
        .with_file_name("archive-get");
    if program.is_file() {
        return Ok(program);
    }
    Err(Error::usage(format!("\"{}\" does not exist", program.display()))
        .hint("The recovered server calls it to fetch WAL. Install archive-get beside pgark."))
}

fn server_start(
    arguments: &RecoverArguments,
    plan: &RecoveryPlan,
    conninfo: Conninfo,
) -> Result<ServerStart> {
    let version = plan.backup.major_version()?;
    let search: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let pg_ctl = find_pg_ctl(arguments.pg_bin.as_deref(), version, &search)?;
    if arguments.wait && pg_ctl.is_none() {
        return Err(Error::usage(format!("pg_ctl of PostgreSQL {version} was not found on this host"))
            .hint("Install that version, or give the directory of its programs with --pg-bin."));
    }
    let data_directory = plan.destinations.data_directory().to_owned();
    let mut log = data_directory.clone().into_os_string();
    log.push(".log");
    let start = ServerStart {
        pg_ctl: pg_ctl.unwrap_or_else(|| PathBuf::from("pg_ctl")),
        data_directory,
        log: PathBuf::from(log),
        port: arguments.port,
        name_data_directory: false,
        version,
        conninfo,
    };
    if arguments.wait && !start.suits_pg_ctl() {
        return Err(Error::usage(format!(
            "pg_ctl cannot start a server in \"{}\": PostgreSQL's pg_ctl fails on \", $, ` and \\ in a path",
            start.data_directory.display()
        ))
        .hint("Choose another directory, or omit --wait: the printed command then does not use pg_ctl."));
    }
    Ok(start)
}

/// Checks that no process holds the socket of the recovered server; returns a warning if that server is not started
/// now.
fn check_port(arguments: &RecoverArguments, plan: &RecoveryPlan) -> Result<Option<String>> {
    let setting = |name: &str| plan.backup.settings.get(name);
    let port = arguments.port.or_else(|| setting("port")?.parse().ok());
    let (Some(port), Some(sockets)) = (port, setting("unix_socket_directories")) else { return Ok(None) };
    let Some((socket, process)) = who_listens(sockets, port) else { return Ok(None) };
    let what = format!("port {port} is in use: process {process} holds the socket \"{}\"", socket.display());
    if arguments.wait {
        return Err(Error::usage(what).hint("Stop that server, or choose another port with --port."));
    }
    Ok(Some(format!(
        "{what}; stop that server before you start the recovered one, or choose another port with --port"
    )))
}

/// Whether the recovered cluster archives, as a word.
fn archiving(plan: &RecoveryPlan) -> &'static str {
    match plan.settings.archiving {
        Archiving::Off => "off",
        Archiving::On => "on",
    }
}
