//! `pgark agent`: runs, detaches and stops the agent.

use super::CommandContext;
use super::log::{self, AgentStderr};
use super::output;
use clap::{Args, Subcommand};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, dup2_stdin, dup2_stdout, getppid, setsid};
use pgark::agent::{Acquired, Instance};
use pgark::data_directory::DataDirectory;
use pgark::error::{Context as _, Error, Result};
use pgark::pace::Pace;
use pgark::spool::{AgentProcess, Answer, Request, Spool, Until, ask_running, listener, write_answer};
use serde::Serialize;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::process::{Child, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an agent may take to confirm that it will stop.
const STOP_ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long it may take to finish or abort the transfers in progress.
const STOP_MAX: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(10);

/// Idle timeout of blocking threads; effectively never.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(365 * 86_400);

pub const MORE_HELP: &str = "\
Without a subcommand the agent runs in the foreground. It ends when it has been idle for
agent.idle, or at SIGTERM.

Exit status:
  0  the agent has ended, or another one of this configuration is running; always with --detach
  2  wrong command line or configuration
  3  the spool or another resource is unavailable
  4  internal error

Examples:
  pgark agent
  pgark agent stop";

const STOP_HELP: &str = "\
Exit status:
  0  no agent is running any more
  2  wrong command line or configuration
  3  an agent did not stop within 15 s; the hint says how to end it

Example:
  pgark agent stop";

/// Arguments of `pgark agent`.
#[derive(Args, Debug)]
pub struct AgentArguments {
    #[command(subcommand)]
    command: Option<AgentCommand>,

    /// Detach from the caller: new session, no inherited file descriptors, always exit status 0
    #[arg(long)]
    detach: bool,

    /// Report on stdout, in the protocol of the socket, whether the agent listens
    #[arg(long, hide = true)]
    announce: bool,
}

impl AgentArguments {
    /// Whether this process becomes an agent.
    pub fn serves(&self) -> bool {
        self.command.is_none() && !self.detach
    }
}

#[derive(Subcommand, Debug)]
enum AgentCommand {
    /// Stop every agent of the spool, and wait up to 15 s for the transfers in progress
    #[command(after_long_help = STOP_HELP)]
    Stop,
}

#[derive(Serialize)]
struct Stopped {
    stopped: bool,
}

pub fn run(context: &CommandContext, arguments: AgentArguments) -> Result<ExitCode> {
    match arguments.command {
        Some(AgentCommand::Stop) => stop(context),
        None if arguments.detach => {
            // The process that reaps us may take any other status as a crash of its own child.
            if let Err(error) = detach(context) {
                announce(&Answer::Failed(error));
            }
            Ok(ExitCode::SUCCESS)
        }
        None if arguments.announce => {
            serve_for_parent(context);
            // If our parent has ended, the server receives this status.
            Ok(ExitCode::SUCCESS)
        }
        None => serve(context, AgentStderr::Open, || {}),
    }
}

/// Runs the agent and ends when its parent ends for any reason. In a container it would otherwise become a child of the
/// server, which takes the death of a child by a signal as a crash.
fn serve_for_parent(context: &CommandContext) {
    // These stay pending until they are unblocked. No other signal is blocked, unlike in the parent process.
    let blocked = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    let _ = blocked.thread_set_mask();
    let _ = set_pdeathsig(Signal::SIGTERM);
    // Fails only for the leader of a process group, which has a session or gets one from its shell.
    let _ = setsid();
    let mut announced = false;
    let result = if getppid().as_raw() == 1 {
        Err(Error::unavailable("the program that started the agent has ended"))
    } else {
        close_inherited().context(|| "could not close inherited file descriptors").and_then(|()| {
            serve(context, AgentStderr::Absent, || {
                announced = true;
                announce(&Answer::Ready);
                let _ = blocked.thread_unblock();
            })
        })
    };
    if !announced {
        announce(&match &result {
            Ok(_) => Answer::Ready,
            Err(error) => Answer::Failed(error.replica()),
        });
    }
    if let Err(error) = result {
        tracing::error!(%error, "agent ended");
    }
}

/// Runs the agent in this process.
fn serve(context: &CommandContext, stderr: AgentStderr, listening: impl FnOnce()) -> Result<ExitCode> {
    let config = Arc::new(context.config()?);
    DataDirectory::open(&config.data_directory)?;
    let spool = Spool::of(&config)?;
    let disk = pgark::durable::disk();
    spool.prepare(disk.as_ref())?;
    // Must precede the request to another agent to end: it may belong to another cluster.
    spool.check_cluster(&config)?;
    let Acquired::Ours(instance) = Instance::acquire(&config, &spool, disk.clone())? else {
        output::say("pgark: an agent for this configuration is already running");
        return Ok(ExitCode::SUCCESS);
    };
    // Two clusters that start at the same time both pass the first check.
    spool.claim(&config, disk.as_ref())?;
    log::start_for_agent(context, &config, &spool, disk.clone(), stderr)?;
    if let Err(error) = Pace::new(config.agent.pace).try_give_way() {
        tracing::warn!(%error, "continuing with the current priority");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(config.agent.workers.get() * 2 + 4)
        // If no new thread can be started, an existing one takes the work over; without any, tokio panics.
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .enable_all()
        .build()
        .context(|| "could not start the runtime")?;
    let served = runtime.block_on(pgark::agent::serve(
        config.clone(),
        context.store(&config)?,
        disk,
        instance,
        listening,
    ));
    // A thread that hangs in the repository ends with the process; do not wait for it.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

/// Spawns the agent and stays as its parent, so that neither the agent nor its exit status ever reaches the caller as a
/// child of its own. In a container the caller may be PostgreSQL, which would take it as a crash. For the same reason
/// only SIGKILL ends this process.
fn detach(context: &CommandContext) -> Result<()> {
    let what = || "could not detach the agent";
    // A relative path is valid only in this working directory.
    let handover = context.config()?.handover()?;
    SigSet::all().thread_block().context(what)?;
    // Fails only for the leader of a process group, which has a session or gets one from its shell.
    let _ = setsid();
    close_inherited().context(what)?;
    std::env::set_current_dir("/").context(what)?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").context(what)?;
    let program = std::env::current_exe().context(what)?;
    let mut command = std::process::Command::new(program);
    command.arg("agent").arg("--announce").args(handover.arguments).envs(handover.variables);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context(what)?;
    // From here on only the agent holds the pipe to the program that waits for its first message.
    let _ = dup2_stdin(&null).and_then(|()| dup2_stdout(&null));
    supervise(&mut child);
    Ok(())
}

/// Waits for the end of the agent and forwards requests to stop to it.
fn supervise(child: &mut Child) {
    while matches!(child.try_wait(), Ok(None)) {
        // The end of the agent arrives as a signal as well.
        if let Ok(Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGHUP) = SigSet::all().wait()
        {
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        }
    }
}

/// Closes inherited file descriptors. PostgreSQL's log collector never ends while any process holds its pipe.
fn close_inherited() -> io::Result<()> {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > 2)
        .collect();
    for descriptor in open {
        // The descriptor of the listing itself is closed already.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// Reports the outcome of the start on stdout and releases stdout, because the caller waits until it is closed.
fn announce(answer: &Answer) {
    // If the caller has ended, the report is not needed.
    let _ = write_answer(&mut io::stdout(), answer).and_then(|()| {
        io::Write::flush(&mut io::stdout()).context(|| "could not flush")?;
        let null = File::options().write(true).open("/dev/null").context(|| "could not open /dev/null")?;
        dup2_stdout(&null).context(|| "could not release stdout")
    });
}

/// Ends every agent of the spool that runs at the time of the call, whatever its configuration or version.
fn stop(context: &CommandContext) -> Result<ExitCode> {
    let config = context.config()?;
    DataDirectory::open(&config.data_directory)?;
    let spool = Spool::of(&config)?;
    let deadline = Instant::now() + STOP_MAX;
    let agents = agents(&spool)?;
    let (mut asked, mut silent) = (HashSet::new(), HashSet::new());
    while let Some(left) = agents_left(&spool, &agents)? {
        // An agent that has just started accepts connections a moment later.
        for (place, process) in listeners(&spool)? {
            if agents.contains(&process) && asked.insert(process) {
                let until = deadline.min(Instant::now() + STOP_ANSWER_MAX);
                if ask_running(&place, &Request::Stop, &mut Until(until)).is_err() {
                    silent.insert(process);
                }
            }
        }
        if silent.contains(&left) || Instant::now() >= deadline {
            return Err(Error::unavailable(format!("the agent, {left}, does not stop"))
                .hint(format!("Its log shows what it is doing. {}", left.stop_hint())));
        }
        std::thread::sleep(PAUSE);
    }
    let stopped = Stopped { stopped: !agents.is_empty() };
    context.output.result(&stopped, || {
        if stopped.stopped { "the agent has stopped".to_owned() } else { "no agent is running".to_owned() }
    });
    Ok(ExitCode::SUCCESS)
}

/// The processes that listen in the spool, and the one that holds its lock.
fn agents(spool: &Spool) -> Result<HashSet<AgentProcess>> {
    let listening = listeners(spool)?.into_iter().map(|(_, process)| process);
    Ok(listening.chain(spool.holder()).collect())
}

/// One of these agents that still runs. On a busy server the next agent starts a moment later and does not count.
fn agents_left(spool: &Spool, agents: &HashSet<AgentProcess>) -> Result<Option<AgentProcess>> {
    Ok(self::agents(spool)?.intersection(agents).next().copied())
}

fn listeners(spool: &Spool) -> Result<Vec<(Spool, AgentProcess)>> {
    let places = spool.sockets()?.into_iter().map(|socket| spool.with_socket(socket));
    Ok(places.filter_map(|place| listener(&place).map(|process| (place, process))).collect())
}
