//! The state of archiving on this host. Uses only the data directory and the agent, so that it also works while the
//! server or the repository is unavailable.

use crate::agent::{AgentStatus, FailureStatus};
use crate::config::{Config, LogDestination};
use crate::data_directory::DataDirectory;
use crate::durable::{Disk, Symlinks};
use crate::error::{Context, Result};
use crate::postgres::{SystemIdentifier, WalFileName};
use crate::spool::{AgentProcess, Answer, Request, Spool, Until, ask_running, listener};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// Time limit for the agent's answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The same for an agent that no program would use.
const OTHER_ANSWER_MAX: Duration = Duration::from_secs(1);

/// The state of archiving.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The cluster's name.
    pub cluster: String,
    /// The system in its data directory.
    pub system_identifier: SystemIdentifier,
    /// The data directory.
    pub data_directory: PathBuf,
    /// The server's process, if one runs.
    pub server_process_id: Option<u32>,
    /// The files that wait to be archived.
    pub waiting: WaitingFiles,
    /// The agent of this configuration, if one runs and answers.
    pub agent: Option<AgentStatus>,
    /// Every other agent of the spool.
    pub other_agents: Vec<OtherAgent>,
    /// The reason why the spool is not writable, if it is not.
    pub spool: Option<FailureStatus>,
    /// The agent's log file.
    pub agent_log: PathBuf,
    /// Where the agent logs if the configuration says so.
    pub agent_log_destination: Option<LogDestination>,
}

/// An agent that the next call would not use, or that does not respond.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct OtherAgent {
    /// Its process.
    pub process_id: u32,
    /// Its version of pgark, if it reports one.
    pub version: Option<String>,
    /// Its state.
    pub state: OtherAgentState,
}

/// The state of an agent that the next call would not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OtherAgentState {
    /// It listens and answers, for another configuration or version: the next call replaces it.
    OtherConfiguration,
    /// It listens but does not respond.
    Silent,
    /// It holds the spool but does not listen: it is starting or stopping.
    NotListening,
}

/// The files that the server has marked as ready and not yet as archived.
#[derive(Debug, Default, Serialize)]
pub struct WaitingFiles {
    /// Number of files.
    pub files: usize,
    /// Their size, in bytes.
    pub bytes: u64,
    /// The first in PostgreSQL's order.
    pub first: Option<String>,
    /// Age of the oldest mark, in seconds.
    pub longest_s: Option<u64>,
}

/// Reads the state at `now`.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if the configuration is not valid on this host.
pub fn gather(config: &Config, now: SystemTime) -> Result<Status> {
    let data_directory = DataDirectory::open(&config.data_directory)?.assuming(config.assumed_version);
    let control = data_directory.control_file()?;
    let spool = Spool::of(config)?;
    let (agent, other_agents) = agents(&spool)?;
    Ok(Status {
        cluster: config.cluster.to_string(),
        system_identifier: control.system,
        data_directory: config.data_directory.clone(),
        server_process_id: data_directory.server_process_id(),
        waiting: waiting(data_directory.disk(), &config.data_directory.join("pg_wal"), now)?,
        agent,
        other_agents,
        spool: spool.trouble().map(|error| FailureStatus::new(None, &error, None)),
        agent_log: config.log.file.clone(),
        agent_log_destination: config.log.destination,
    })
}

fn waiting(disk: &dyn Disk, pg_wal: &std::path::Path, now: SystemTime) -> Result<WaitingFiles> {
    let archive_status = pg_wal.join("archive_status");
    let what = || format!("could not list \"{}\"", archive_status.display());
    let mut waiting = WaitingFiles::default();
    let mut first: Option<(bool, String)> = None;
    for entry in disk.list_data(&archive_status).context(what)? {
        let entry = entry.context(what)?;
        let Some(name) =
            entry.file_name().to_str().and_then(|name| name.strip_suffix(".ready")).map(str::to_owned)
        else {
            continue;
        };
        let Ok(parsed) = name.parse::<WalFileName>() else { continue };
        // Archived and marked as done in the meantime, so it no longer waits.
        let Ok(marked) = entry.metadata().and_then(|metadata| metadata.modified()) else { continue };
        let age = now.duration_since(marked).unwrap_or_default().as_secs();
        waiting.files += 1;
        waiting.bytes +=
            disk.data_metadata(&pg_wal.join(&name), Symlinks::Follow).map_or(0, |metadata| metadata.len());
        waiting.longest_s = waiting.longest_s.max(Some(age));
        let order = (!matches!(parsed, WalFileName::History(_)), name);
        if first.as_ref().is_none_or(|first| order < *first) {
            first = Some(order);
        }
    }
    waiting.first = first.map(|(_, name)| name);
    Ok(waiting)
}

/// The agent of this configuration, and all others of the spool. Must include one that hangs.
fn agents(spool: &Spool) -> Result<(Option<AgentStatus>, Vec<OtherAgent>)> {
    let (mut agent, mut others) = (None, Vec::new());
    for socket in spool.sockets()? {
        let ours = socket == spool.socket();
        let place = spool.with_socket(socket);
        let Some(AgentProcess(process_id)) = listener(&place) else { continue };
        let limit = if ours { ANSWER_MAX } else { OTHER_ANSWER_MAX };
        match (status_of(&place, limit), ours) {
            (Some(status), true) => agent = Some(status),
            (status, _) => others.push(OtherAgent {
                process_id,
                state: match (&status, ours) {
                    (Some(_), false) => OtherAgentState::OtherConfiguration,
                    _ => OtherAgentState::Silent,
                },
                version: status.map(|status| status.version),
            }),
        }
    }
    if let Some(AgentProcess(process_id)) = spool.holder()
        && agent.as_ref().is_none_or(|agent: &AgentStatus| agent.process_id != process_id)
        && others.iter().all(|other| other.process_id != process_id)
    {
        others.push(OtherAgent { process_id, version: None, state: OtherAgentState::NotListening });
    }
    Ok((agent, others))
}

/// The status that an agent reports; `None` if it does not respond, or answers in the format of another version.
fn status_of(spool: &Spool, limit: Duration) -> Option<AgentStatus> {
    let asked = ask_running(spool, &Request::Status, &mut Until(Instant::now() + limit));
    match asked.ok()??.answer {
        Answer::Status(json) => serde_json::from_str(&json).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::RealDisk;
    use std::fs;

    #[test]
    fn counts_what_waits_in_postgresqls_order() {
        let scratch = tempfile::tempdir().unwrap();
        let archive_status = scratch.path().join("archive_status");
        fs::create_dir(&archive_status).unwrap();
        assert_eq!(waiting(&RealDisk, scratch.path(), SystemTime::now()).unwrap().files, 0);
        for name in ["000000010000000000000002", "000000010000000000000001", "00000002.history"] {
            fs::write(scratch.path().join(name), b"12345").unwrap();
            fs::write(archive_status.join(format!("{name}.ready")), b"").unwrap();
        }
        fs::write(archive_status.join("000000010000000000000000.done"), b"").unwrap();
        let found = waiting(&RealDisk, scratch.path(), SystemTime::now() + Duration::from_secs(60)).unwrap();
        assert_eq!((found.files, found.bytes), (3, 15));
        assert_eq!(found.first.as_deref(), Some("00000002.history"));
        assert!(found.longest_s.unwrap() >= 60);
    }
}
