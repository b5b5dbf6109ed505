//! Checks the whole setup before it is needed.
//!
//! Owns: the list of findings, from the configuration to the round trip of a WAL segment. Findings are independent: a
//! failed check only skips the checks that depend on it. The only changes are that the server switches to a new WAL
//! segment, and that a bucket is probed if this was not done before.

mod archiving;
mod round_trip;

use crate::config::Config;
use crate::data_directory::DataDirectory;
use crate::error::{Error, ErrorKind, Result};
use crate::interruption::Interruption;
use crate::monitor::Silent;
use crate::postgres::ControlFile;
use crate::repository::backup::inventory;
use crate::repository::wal::{BackupSpan, RepositoryArchive, WalCatalog, forks};
use crate::repository::{Repository, systems};
use crate::server::Connection;
use crate::spool::Spool;
use crate::store::Store;
use serde::Serialize;
use std::sync::Arc;

/// The result of one check.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The subject, in a word or two.
    pub what: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// The details.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The kind of a failure, which determines the exit status.
    #[serde(skip)]
    pub kind: Option<ErrorKind>,
}

/// The verdict of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Passed,
    /// It works but may not be intended.
    Warning,
    /// It does not work.
    Failed,
}

impl Finding {
    fn passed(what: &'static str, detail: impl Into<String>) -> Finding {
        Finding { what, verdict: Verdict::Passed, detail: detail.into(), hint: None, kind: None }
    }

    fn warning(what: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Finding {
        let (detail, hint) = (detail.into(), Some(hint.into()));
        Finding { what, verdict: Verdict::Warning, detail, hint, kind: None }
    }

    fn failed(what: &'static str, error: &Error) -> Finding {
        Finding {
            what,
            verdict: Verdict::Failed,
            detail: error.to_string(),
            hint: error.hint_text().map(str::to_owned),
            kind: Some(error.kind()),
        }
    }
}

/// Runs all checks and reports each finding at once.
pub fn run(
    config: &Config,
    store: &Arc<dyn Store>,
    interruption: &Interruption<'_>,
    tell: &mut dyn FnMut(Finding),
) {
    // For any user but the owner, the advice below would be wrong.
    let (data_directory, control) = match data_directory(config) {
        Ok(found) => found,
        Err(error) => return tell(Finding::failed("data directory", &error)),
    };
    let shown = config.data_directory.display();
    let (version, system) = (control.version, control.system);
    tell(match control.is_assumed() {
        false => {
            Finding::passed("data directory", format!("\"{shown}\": PostgreSQL {version}, system {system}"))
        }
        true => Finding::warning(
            "data directory",
            format!(
                "\"{shown}\": catalog version {}, which pgark does not know, read as PostgreSQL {version}; system {system}",
                control.catalog_version
            ),
            "Test a recovery before you rely on it, and upgrade pgark once it supports this version.",
        ),
    });
    match spool(config) {
        Ok(spool) => tell(Finding::passed("spool", format!("\"{}\"", spool.directory().display()))),
        Err(error) => tell(Finding::failed("spool", &error)),
    }
    let repository = match repository(config, store, &control) {
        Ok((repository, findings)) => {
            findings.into_iter().for_each(&mut *tell);
            Some(repository)
        }
        Err(error) => {
            tell(Finding::failed("repository", &error));
            None
        }
    };
    let connection = match Connection::open(&config.connection.conninfo, &data_directory, "pgark check") {
        Ok(connection) => connection,
        Err(error) => {
            tell(Finding::failed("server", &error));
            let hint = "The server's settings and the round trip of a WAL segment are checked once the server can be reached.";
            return tell(Finding::warning("archiving", "not tried", hint));
        }
    };
    match archiving::look(config, &control, &connection, interruption) {
        Ok(findings) => findings.into_iter().for_each(&mut *tell),
        Err(error) => return tell(Finding::failed("server", &error)),
    }
    if let Some(repository) = &repository {
        match round_trip::travel(config, &control, repository, &connection, interruption) {
            Ok(finding) => tell(finding),
            Err(error) => tell(Finding::failed("round trip", &error)),
        }
    }
}

fn spool(config: &Config) -> Result<Spool> {
    let spool = Spool::of(config)?;
    spool.prepare(crate::durable::disk().as_ref())?;
    spool.check_cluster(config)?;
    Ok(spool)
}

fn data_directory(config: &Config) -> Result<(DataDirectory, ControlFile)> {
    let data_directory = DataDirectory::open(&config.data_directory)?.assuming(config.assumed_version);
    let control = data_directory.control_file()?;
    match config.system_identifier {
        Some(pinned) if pinned != control.system => Err(Error::new(
            ErrorKind::Foreign,
            format!(
                "the data directory has system identifier {}, but the configuration requires {pinned}",
                control.system
            ),
        )
        .hint("If the cluster was initialized again or upgraded, set system_identifier to the new one.")),
        _ => Ok((data_directory, control)),
    }
}

/// Whether the agent has stored files in this repository before: an empty repository is then not a new one.
fn was_seen(config: &Config, repository: &Repository) -> bool {
    let places = Spool::of(config).map(|spool| std::fs::read_to_string(spool.places()).unwrap_or_default());
    places.is_ok_and(|places| places.lines().any(|place| place == repository.place()))
}

/// Warns of another timeline in use, caused by a forgotten copy or an old primary that still runs.
fn living_timelines(
    config: &Config,
    repository: &Repository,
    control: &ControlFile,
) -> Result<Option<Finding>> {
    let archive = RepositoryArchive::new(repository, control.segment_size, &Silent);
    // Not archived yet, right after a promotion.
    let Some(history) = archive.origin(control.timeline)? else { return Ok(None) };
    let (backups, _) = inventory::read_usable(repository)?;
    let labels: Vec<String> = backups.iter().map(|backup| backup.label.to_string()).collect();
    let spans: Vec<BackupSpan<'_>> = backups
        .iter()
        .zip(&labels)
        .map(|(backup, label)| BackupSpan {
            label,
            timeline: backup.stop.timeline,
            start_point: backup.start.lsn,
            stop_point: backup.stop.lsn,
        })
        .collect();
    let forks = forks(&archive, &history, &spans, None, control.segment_size)?;
    let living = forks.iter().find(|fork| fork.is_ambiguous(config.recover.fork_window));
    Ok(living.map(|fork| {
        let (older, newer) = (fork.taken.min(fork.left), fork.taken.max(fork.left));
        Finding::warning(
            "timelines",
            format!(
                "timelines {older} and {newer} were both in use after they diverged at {}; this server is on timeline {}",
                fork.forked_at, control.timeline
            ),
            "A copy of this cluster, or an old primary, archives under the same name. Stop it, or let it archive elsewhere. \
             Until its backups and WAL are removed, pgark recover requires --target-timeline.",
        )
    }))
}

fn repository(
    config: &Config,
    store: &Arc<dyn Store>,
    control: &ControlFile,
) -> Result<(Repository, Vec<Finding>)> {
    let cluster = config.cluster.as_str();
    let repository = Repository::new(store.clone(), cluster, control.system)?
        .assuming(config.assumed_version)
        .of_version(control.known_version());
    let known = systems(store.as_ref(), cluster)?;
    let mut findings = Vec::new();
    if repository.exists()? {
        findings.push(Finding::passed("repository", format!("\"{}\" holds this cluster", store.location())));
    } else if was_seen(config, &repository) {
        return Err(repository.vanished());
    } else {
        let detail = format!("\"{}\" is reachable and holds nothing of this system yet", store.location());
        findings.push(Finding::passed("repository", detail));
    }
    findings.extend(living_timelines(config, &repository, control)?);
    findings.extend(store.examine()?.into_iter().map(|seen| match seen.advice {
        Some(advice) => Finding::warning(seen.what, seen.detail, advice),
        None => Finding::passed(seen.what, seen.detail),
    }));
    let others: Vec<String> =
        known.iter().filter(|system| **system != control.system).map(ToString::to_string).collect();
    if !others.is_empty() {
        findings.push(Finding::warning(
            "repository",
            format!("it also holds cluster \"{cluster}\" with system identifier {}", others.join(", ")),
            "This is expected after pg_upgrade or initdb. Otherwise two clusters share one name: give each its own.",
        ));
    }
    Ok((repository, findings))
}
