//! The plan and the outcome of a recovery, for people and for programs.

use super::archiving;
use pgark::postgres::{Lsn, RecoveryTarget, SegmentName, TargetAction, TargetBound};
use pgark::recover::archive::{Outcome, TransactionEnd};
use pgark::recover::configure::Archiving;
use pgark::recover::server::{ReachedPoint, ReachedState, ServerStart};
use pgark::recover::{RecoveryPlan, RecoverySummary};
use pgark::terminal::bytes;
use serde::Serialize;

/// The plan, for programs.
#[derive(Serialize)]
pub struct PlanDocument {
    backup: String,
    backup_stopped: String,
    system_identifier: String,
    postgresql: u32,
    data_directory: String,
    tablespaces: Vec<TablespaceDocument>,
    files: u64,
    bytes: u64,
    target: String,
    inclusive: bool,
    action: String,
    timeline: u32,
    timelines: Vec<u32>,
    first_segment: SegmentName,
    last_segment: SegmentName,
    segments: u64,
    proven: bool,
    end_lsn: Option<Lsn>,
    last_transaction: Option<TransactionDocument>,
    first_lost_transaction: Option<TransactionDocument>,
    archiving: &'static str,
    restore_command: String,
    configuration_file: String,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct TablespaceDocument {
    oid: u32,
    name: String,
    old: String,
    new: String,
}

#[derive(Serialize)]
struct TransactionDocument {
    xid: u32,
    outcome: &'static str,
    time: String,
    lsn: Lsn,
}

/// What was done, for programs.
#[derive(Serialize)]
pub struct RecoveryDocument {
    plan: PlanDocument,
    restored_files: u64,
    restored_bytes: u64,
    start_command: String,
    reached: Option<ReachedDocument>,
    #[serde(skip)]
    remarks: Vec<String>,
}

#[derive(Serialize)]
struct ReachedDocument {
    state: &'static str,
    lsn: Option<Lsn>,
    last_transaction_time: Option<String>,
    timeline: Option<u32>,
}

impl PlanDocument {
    pub fn new(plan: &RecoveryPlan) -> PlanDocument {
        let target = &plan.target;
        let settings = &target.settings;
        PlanDocument {
            backup: target.backup.clone(),
            backup_stopped: plan.backup.stop.time.to_string(),
            system_identifier: plan.system.to_string(),
            postgresql: plan.backup.server.version_num,
            data_directory: plan.places.data_directory().display().to_string(),
            tablespaces: plan
                .places
                .tablespaces()
                .iter()
                .map(|tablespace| TablespaceDocument {
                    oid: tablespace.oid,
                    name: tablespace.name.clone(),
                    old: tablespace.old.display().to_string(),
                    new: tablespace.new.display().to_string(),
                })
                .collect(),
            files: plan.backup.totals.files,
            bytes: plan.backup.totals.file_bytes,
            target: settings.target.to_string(),
            inclusive: settings.bound == TargetBound::Inclusive,
            action: settings.action.to_string(),
            timeline: target.history.timeline().as_u32(),
            timelines: timelines(plan),
            first_segment: target.first_segment,
            last_segment: target.last_segment,
            segments: target.segments,
            proven: target.expected.unproven.is_none(),
            end_lsn: target.expected.end,
            last_transaction: target.expected.last_transaction.as_ref().map(transaction),
            first_lost_transaction: target.expected.first_lost.as_ref().map(transaction),
            archiving: archiving(plan),
            restore_command: plan.settings.restore_command.clone(),
            configuration_file: plan.config_path.display().to_string(),
            warnings: plan.warnings.clone(),
        }
    }
}

fn transaction(end: &TransactionEnd) -> TransactionDocument {
    TransactionDocument {
        xid: end.xid.as_u32(),
        outcome: outcome(end),
        time: end.time.to_string(),
        lsn: end.start,
    }
}

fn outcome(end: &TransactionEnd) -> &'static str {
    match end.outcome {
        Outcome::Commit => "committed",
        Outcome::Abort => "aborted",
    }
}

/// The timelines on the way from the backup to the target.
fn timelines(plan: &RecoveryPlan) -> Vec<u32> {
    let history = &plan.target.history;
    let backup = plan.backup.stop.timeline;
    let ancestors = history.switches().iter().map(|switch| switch.timeline);
    ancestors.chain([history.timeline()]).filter(|timeline| *timeline >= backup).map(|t| t.as_u32()).collect()
}

/// The plan in plain words.
pub fn plan(plan: &RecoveryPlan) -> String {
    let target = &plan.target;
    let mut lines = vec![
        format!("recover cluster {} (system {})", plan.config.cluster, plan.system),
        format!("  into         {}", plan.places.data_directory().display()),
        format!(
            "  from backup  {}, which ended {} (LSN {}, timeline {})",
            target.backup,
            plan.backup.stop.time.strftime("%Y-%m-%d %H:%M:%S+00"),
            plan.backup.stop.lsn,
            plan.backup.stop.timeline
        ),
        format!(
            "  restore      {} files, {}",
            plan.backup.totals.files,
            bytes(plan.backup.totals.file_bytes)
        ),
    ];
    for tablespace in plan.places.tablespaces() {
        lines.push(format!("  tablespace   {} goes to {}", tablespace.name, tablespace.new.display()));
    }
    lines.push(format!(
        "  replay       {} WAL segments, {} to {}",
        target.segments, target.first_segment, target.last_segment
    ));
    let timelines = timelines(plan);
    if timelines.len() > 1 {
        let chain: Vec<_> = timelines.iter().map(u32::to_string).collect();
        lines.push(format!("  timelines    {}", chain.join(" → ")));
    }
    lines.push(format!("  target       {}", target_words(plan)));
    lines.extend(end_words(plan));
    lines.push(format!(
        "  then         {}",
        match (target.settings.action, &target.settings.target) {
            (TargetAction::Promote, _) | (_, RecoveryTarget::Latest) =>
                "the server opens for writing, on a new timeline",
            (TargetAction::Pause, _) =>
                "the server waits, open for reading; SELECT pg_wal_replay_resume() opens it for writing",
            (TargetAction::Shutdown, _) => "the server stops; remove recovery.signal to open it for writing",
        }
    ));
    if plan.settings.archiving == Archiving::Off {
        lines.push("  archiving    off, so that a copy cannot write into its original's archive".to_owned());
    }
    for warning in &plan.warnings {
        lines.push(format!("  NOTE         {warning}"));
    }
    lines.join("\n")
}

fn target_words(plan: &RecoveryPlan) -> String {
    let settings = &plan.target.settings;
    let bound = match (&settings.target, settings.bound) {
        (RecoveryTarget::Latest | RecoveryTarget::Immediate | RecoveryTarget::Name(_), _) => "",
        (_, TargetBound::Inclusive) => ", inclusive",
        (_, TargetBound::Exclusive) => ", exclusive",
    };
    format!("{}{bound}, on timeline {}", settings.target, plan.target.history.timeline())
}

fn end_words(plan: &RecoveryPlan) -> Vec<String> {
    let expected = &plan.target.expected;
    let mut lines = Vec::new();
    let said = |end: &TransactionEnd| format!("{}, {} {}", end.xid, outcome(end), end.time);
    if let Some(end) = expected.end {
        lines.push(format!("  ends at      LSN {end}"));
    }
    if let Some(last) = &expected.last_transaction {
        lines.push(format!("  with         transaction {}, the last one", said(last)));
    }
    if let Some(lost) = &expected.first_lost {
        lines.push(format!("  without      transaction {}, and all after it", said(lost)));
    }
    lines
}

impl RecoveryDocument {
    pub fn new(plan: &RecoveryPlan, summary: &RecoverySummary, start: &ServerStart) -> RecoveryDocument {
        let mut remarks = Vec::new();
        if summary.wrote_configuration {
            remarks.push(format!(
                "The original's configuration lay outside of its data directory. A minimal postgresql.conf was written; copies \
                 of the original's files are in {}.",
                plan.configuration_copies.display()
            ));
        }
        if let Some(directory) = &summary.configured_data_directory {
            remarks.push(format!(
                "postgresql.conf sets data_directory to \"{}\": change it there, or always start with the options above.",
                directory.display()
            ));
        }
        if plan.settings.archiving == Archiving::Off {
            remarks.push(
                "archive_mode is off in postgresql.auto.conf, and max_logical_replication_workers is 0. If this server \
                 becomes the production server, remove these lines, restart it, and take a backup: nothing that it wrote \
                 until then is archived."
                    .to_owned(),
            );
        }
        RecoveryDocument {
            plan: PlanDocument::new(plan),
            restored_files: summary.files,
            restored_bytes: summary.bytes,
            start_command: start.command(),
            reached: None,
            remarks,
        }
    }

    /// Adds what the server reached.
    pub fn reached(&mut self, reached: &ReachedPoint) {
        self.reached = Some(ReachedDocument {
            state: match reached.state {
                ReachedState::Paused => "paused",
                ReachedState::Promoted => "promoted",
                ReachedState::ShutDown => "shut down",
            },
            lsn: reached.replayed,
            last_transaction_time: reached.last_transaction.map(|time| time.to_string()),
            timeline: reached.timeline.map(|timeline| timeline.as_u32()),
        });
    }
}

/// What was done, in plain words.
pub fn summary(document: &RecoveryDocument) -> String {
    let mut lines = vec![format!(
        "restored {} files, {}, into {}",
        document.restored_files,
        bytes(document.restored_bytes),
        document.plan.data_directory
    )];
    match &document.reached {
        None => lines.push(format!("Start the server: {}", document.start_command)),
        Some(reached) => {
            let mut words = vec![format!("the server has recovered as planned and is {}", reached.state)];
            words.extend(reached.lsn.map(|lsn| format!("at LSN {lsn}")));
            words.extend(reached.timeline.map(|timeline| format!("on timeline {timeline}")));
            if let Some(time) = &reached.last_transaction_time {
                words.push(format!("with the last transaction of {time}"));
            }
            lines.push(words.join(", "));
        }
    }
    lines.extend(document.remarks.iter().cloned());
    lines.join("\n")
}
