//! The subscriber for the messages of this process: the log of an agent, `--verbose` of every other command.

use super::CommandContext;
use pgark::config::{Config, LogDestination, LogFormat, LogLevel};
use pgark::durable::Disk;
use pgark::error::{Error, Result};
use pgark::log::{LogSink, RotatingLog, SYSLOG_SOCKET, filter, is_journal, layer};
use pgark::spool::Spool;
use std::env;
use std::sync::Arc;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// A filter for developers instead of `log.level`.
const FILTER_VARIABLE: &str = "PGARK_LOG";

/// Whether an agent has a standard error that someone reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentStderr {
    /// It runs in the foreground.
    Open,
    /// It is detached, or an archive program started it for one call.
    Absent,
}

type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// The level of messages on stderr for this number of `-v`.
pub fn level(verbose: u8) -> Option<LogLevel> {
    match verbose {
        0 => None,
        1 => Some(LogLevel::Debug),
        _ => Some(LogLevel::Trace),
    }
}

/// Shows the messages up to `level` on stderr. Without a level there are none: a command reports in other ways.
pub fn start(level: Option<LogLevel>) {
    install(level.map(on_stderr).into_iter().collect());
}

/// Logs as the configuration says. Messages for `--verbose` appear on stderr, too.
///
/// # Errors
/// The log in the spool cannot be opened. If only another `log.file` cannot, the spool's takes its place.
pub fn start_for_agent(
    context: &CommandContext,
    config: &Config,
    spool: &Spool,
    disk: Arc<dyn Disk>,
    stderr: AgentStderr,
) -> Result<()> {
    let (sink, trouble) = sink(config, spool, disk, stderr)?;
    let verbose = context.verbose.filter(|_| stderr == AgentStderr::Open);
    let is_stderr = matches!(sink, LogSink::Stderr | LogSink::Journal);
    let mut level = config.log.level;
    let mut layers = Vec::new();
    match verbose {
        Some(verbose) if is_stderr => level = level.max(verbose),
        Some(verbose) => layers.push(on_stderr(verbose)),
        None => {}
    }
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| filter(level));
    layers.push(layer(sink, config.log.format, filter));
    install(layers);
    if let Some(error) = trouble {
        tracing::warn!(%error, "logging to the spool instead of log.file");
    }
    tell_files(config);
    Ok(())
}

/// Reports which files the configuration comes from.
pub fn tell_files(config: &Config) {
    let shown =
        |path: Option<&std::path::Path>| path.map_or("none".to_owned(), |path| path.display().to_string());
    tracing::debug!(
        file = shown(config.path.as_deref()),
        defaults_file = shown(config.defaults_file()),
        "read the configuration"
    );
}

/// The sink of an agent, and why it is not `log.file` if that cannot be opened.
fn sink(
    config: &Config,
    spool: &Spool,
    disk: Arc<dyn Disk>,
    stderr: AgentStderr,
) -> Result<(LogSink, Option<Error>)> {
    let has_journal = stderr == AgentStderr::Open && under_journal();
    match config.log.destination {
        None if has_journal => return Ok((LogSink::Journal, None)),
        Some(LogDestination::Stderr) if stderr == AgentStderr::Open => {
            return Ok((LogSink::stderr(has_journal), None));
        }
        _ => {}
    }
    let (file, trouble) = open_file(config, spool, disk)?;
    let sink = match config.log.destination {
        Some(LogDestination::Syslog) => LogSink::syslog(SYSLOG_SOCKET.into(), file),
        _ => LogSink::File(file),
    };
    Ok((sink, trouble))
}

/// Opens `log.file`, or else the log in the spool: archiving must not depend on another directory.
fn open_file(config: &Config, spool: &Spool, disk: Arc<dyn Disk>) -> Result<(RotatingLog, Option<Error>)> {
    let open = |path: &std::path::Path| RotatingLog::open(disk.clone(), path, config.agent.log_max_bytes);
    let own = spool.own_log();
    match open(&config.log.file) {
        Err(error) if config.log.file != own => {
            let file = open(&own).map_err(|error| spool.failed(error))?;
            Ok((file, Some(error)))
        }
        opened => opened.map(|file| (file, None)).map_err(|error| spool.failed(error)),
    }
}

fn on_stderr(level: LogLevel) -> AnyLayer {
    layer(LogSink::stderr(under_journal()), LogFormat::Text, filter(level))
}

fn under_journal() -> bool {
    is_journal(env::var_os("JOURNAL_STREAM").as_deref())
}

fn install(layers: Vec<AnyLayer>) {
    if !layers.is_empty() {
        // Fails only if there is a subscriber already, which then stays.
        let _ = tracing_subscriber::registry().with(layers).try_init();
    }
}
