//! `pgark status`.

use super::CommandContext;
use pgark::agent::FailureStatus;
use pgark::config::LogDestination;
use pgark::error::Result;
use pgark::spool::AgentProcess;
use pgark::status::{OtherAgent, OtherAgentState, Status, gather};
use pgark::terminal::counted;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

pub const MORE_HELP: &str = "\
Exit status:
  0  the state is shown, whatever it is; pgark check reports problems in its exit status
  2  wrong command line or configuration
  3  the data directory cannot be read now
  4  the data directory is damaged

Examples:
  pgark status
  pgark status --json";

pub fn run(context: &CommandContext) -> Result<ExitCode> {
    let status = gather(&context.config()?, SystemTime::now())?;
    context.output.result(&status, || text(&status));
    Ok(ExitCode::SUCCESS)
}

fn text(status: &Status) -> String {
    let mut lines = vec![
        format!("cluster   {}, system {}", status.cluster, status.system_identifier),
        format!("data      {}", status.data_directory.display()),
        match status.server_process_id {
            Some(process) => format!("server    running, process {process}"),
            None => "server    not running".to_owned(),
        },
    ];
    let waiting = &status.waiting;
    lines.push(match (&waiting.first, waiting.longest_s) {
        (Some(first), Some(seconds)) => format!(
            "waiting   {}, {} MiB, the oldest for {}; the next is {first}",
            counted(waiting.files as u64, "WAL file"),
            waiting.bytes >> 20,
            duration(seconds)
        ),
        _ => "waiting   nothing".to_owned(),
    });
    match &status.agent {
        None if !status.other_agents.is_empty() => {}
        None => {
            lines.push("agent     not running; archive-push and archive-get start it on demand".to_owned())
        }
        Some(agent) => {
            lines.push(format!("agent     running, process {}, version {}", agent.process_id, agent.version));
            lines.push(format!(
                "pushed    {} since the agent started, {} of them not yet requested by PostgreSQL{}",
                counted(agent.upload.stored_files, "file"),
                agent.upload.stored_ahead_files,
                agent
                    .upload
                    .last_stored
                    .as_ref()
                    .map(|name| format!("; the last is {name}"))
                    .unwrap_or_default()
            ));
            lines.push(format!(
                "fetched   {}, {} of them ahead; {} waiting in the spool",
                counted(agent.fetch.fetched_files, "file"),
                agent.fetch.fetched_ahead_files,
                agent.fetch.ready_files
            ));
            lines.extend(agent.upload.rival.as_ref().map(|rival| {
                format!(
                    "warning   timeline {} branched off this server's timeline at {}, and both are archived under this name: \
                     stop one of the two servers",
                    rival.timeline, rival.left_at
                )
            }));
            lines.extend(agent.upload.missing.as_ref().map(|missing| {
                format!(
                    "missing   {}, {} to {}: recovery across the timeline switch is not possible; \
                     take a base backup",
                    counted(missing.segments, "WAL segment"),
                    missing.first,
                    missing.last
                )
            }));
            let (upload, fetch) = (&agent.upload, &agent.fetch);
            let failures = [&upload.outage, &upload.trouble, &upload.refused, &fetch.waiting, &fetch.spool];
            lines.extend(failures.into_iter().flatten().map(failure));
        }
    }
    lines.extend(status.spool.iter().map(failure));
    lines.extend(status.other_agents.iter().map(other_agent));
    let file = status.agent_log.display();
    lines.push(match status.agent_log_destination {
        Some(LogDestination::Syslog) => format!("log       syslog; while that is unavailable, {file}"),
        _ => format!("log       {file}"),
    });
    lines.join("\n")
}

fn other_agent(agent: &OtherAgent) -> String {
    let process = AgentProcess(agent.process_id);
    match agent.state {
        OtherAgentState::OtherConfiguration => format!(
            "agent     {process} runs for another configuration or version; the next call replaces it"
        ),
        OtherAgentState::Silent => {
            format!("agent     {process} does not respond\n          HINT: {}", process.stop_hint())
        }
        OtherAgentState::NotListening => {
            format!("agent     {process} is starting or stopping: it does not listen")
        }
    }
}

fn failure(failure: &FailureStatus) -> String {
    let file = failure.file.as_ref().map(|file| format!("{file}: ")).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let since = failure.since_unix_s.map(|since| format!(", for {}", duration(now.saturating_sub(since))));
    let hint = failure.hint.as_ref().map(|hint| format!("\n          HINT: {hint}"));
    format!("error     {file}{}{}{}", failure.message, since.unwrap_or_default(), hint.unwrap_or_default())
}

/// A number of seconds in readable form.
fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
