//! Starts an agent.

use super::path::Spool;
use super::protocol::{Answer, read_answer};
use super::wait::{Waiting, readable};
use crate::config::Config;
use crate::error::{Context, Error, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::env;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a non-resident agent may take to end.
const TRANSIENT_END_MAX: Duration = Duration::from_secs(1);
/// How long to wait for a child that has died during its start.
const REAP_MAX: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(1);

/// The result of starting an agent.
#[derive(Debug)]
pub(super) enum Started {
    /// An agent listens: this one, or one that was faster. A non-resident one ends when the value is dropped.
    Listens(Option<Transient>),
    /// It ended without a message: it was killed, or has a defect.
    Ended(Error),
}

/// An agent that lives as long as the call that started it. It stays our child, so that the server never
/// adopts it.
#[derive(Debug)]
pub(super) struct Transient(Child);

impl Drop for Transient {
    fn drop(&mut self) {
        let Ok(process) = i32::try_from(self.0.id()) else { return };
        let _ = kill(Pid::from_raw(process), Signal::SIGTERM);
        let started = Instant::now();
        // Transfers that hang in the repository are not waited for: the agent gives them up and
        // exits with 0.
        while matches!(self.0.try_wait(), Ok(None)) && started.elapsed() < TRANSIENT_END_MAX {
            thread::sleep(PAUSE);
        }
    }
}

/// Starts an agent for this configuration, and returns when it listens. A resident agent is detached from
/// this process.
///
/// The agent inherits no descriptor, no working directory and none of the `PG*` environment, since it
/// outlives the server that called us. It reports over a pipe, its standard output, that it listens or why it
/// cannot.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when the program is missing, the agent's own error
/// when it could not start, [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) when the start
/// takes too long.
pub(super) fn start(config: &Config, spool: &Spool, waiting: &mut dyn Waiting) -> Result<Started> {
    let program = program(config)?;
    let handover = config.handover()?;
    let mut command = Command::new(&program);
    command
        .arg("agent")
        .arg(if config.agent.resident { "--detach" } else { "--announce" })
        .args(handover.arguments)
        .envs(handover.variables)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    for (name, _) in env::vars_os() {
        // PGDATA, PGPASSWORD and the like are this server's; PGARK_* are ours.
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(b"PG") && !bytes.starts_with(b"PGARK_") {
            command.env_remove(&name);
        }
    }
    let what = || format!("could not start the agent \"{}\"", program.display());
    let mut child = command.spawn().context(what)?;
    // A resident agent is never waited for. The init process reaps the process between us and it after we
    // have ended.
    let Some(mut said) = child.stdout.take() else { return Err(Error::unavailable(what())) };
    if !readable(said.as_fd(), waiting).context(what)? {
        return Err(Error::unavailable("the agent did not start before the deadline").hint(log_hint(spool)));
    }
    match read_answer(&mut said).context(what)? {
        Some(Answer::Failed(error)) => Err(error.context("the agent could not start")),
        Some(_) => Ok(Started::Listens((!config.agent.resident).then(|| Transient(child)))),
        None => {
            reap(&mut child);
            Ok(Started::Ended(Error::unavailable("the agent exited during startup").hint(log_hint(spool))))
        }
    }
}

/// Waits briefly for a child that has closed its output: a killed child must not become the server's.
fn reap(child: &mut Child) {
    let started = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && started.elapsed() < REAP_MAX {
        thread::sleep(PAUSE);
    }
}

/// The configured program, or the `pgark` next to our own. Never one from `PATH`, which is the server's.
fn program(config: &Config) -> Result<PathBuf> {
    let program = match &config.agent.program {
        Some(program) => program.clone(),
        None => env::current_exe()
            .context(|| "could not determine the path of this program")?
            .with_file_name("pgark"),
    };
    if program.is_file() {
        return Ok(program);
    }
    Err(Error::usage(format!("the agent's program \"{}\" does not exist", program.display())).hint(
        "Install pgark beside archive-push and archive-get, or set agent.program to its absolute path.",
    ))
}

fn log_hint(spool: &Spool) -> String {
    format!("Its log is {}.", spool.log())
}
