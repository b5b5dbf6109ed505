//! The plan and the outcome of a recovery, as text and as JSON.

use super::archiving;
use pgark::error::Result;
use pgark::postgres::{Lsn, Oid, PgTimestamp, RecoveryTarget, SegmentName, TargetAction, TargetBound};
use pgark::recover::RecoveryOutcome;
use pgark::recover::place::staging::Found;
use pgark::recover::plan::{COLLATION_REPAIR, RecoveryPlan};
use pgark::recover::restore::DeltaForecast;
use pgark::recover::server::settings::Archiving;
use pgark::recover::server::standby::{Role, StandbySettings};
use pgark::recover::server::{CollationMismatch, MismatchedCollations, ReachedPoint, ReachedState};
use pgark::repository::wal::{TransactionEnd, TransactionOutcome};
use pgark::terminal::{bytes, counted, seconds};
use serde::Serialize;

/// The things that no physical backup can restore, with any tool.
const NOT_RESTORED_NOTE: &str = "PostgreSQL cannot restore these from any physical backup: replication slots (create them again); \
    the positions of subscriptions to this server and of its own (create the subscriptions again, or rows are skipped); the \
    rows of unlogged tables (they are empty); cumulative statistics (run ANALYZE). Sequences may skip up to 32 values.";

/// The plan as JSON.
#[derive(Serialize)]
pub struct PlanDocument {
    backup: String,
    /// The backups to read, the full one first.
    chain: Vec<String>,
    backup_stopped: String,
    system_identifier: String,
    postgresql: u32,
    data_directory: String,
    tablespaces: Vec<TablespaceDocument>,
    files: u64,
    bytes: u64,
    /// The databases whose files are restored empty.
    left_out: Vec<String>,
    standby: Option<StandbyDocument>,
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
    /// With --delta and --dry-run: the files to keep, to fetch and to remove.
    delta: Option<DeltaDocument>,
    archiving: &'static str,
    restore_command: String,
    configuration_file: String,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct DeltaDocument {
    kept_files: u64,
    kept_bytes: u64,
    fetched_files: u64,
    fetched_bytes: u64,
    stored_bytes: u64,
    removed_files: u64,
}

#[derive(Serialize)]
struct TablespaceDocument {
    oid: Oid,
    name: String,
    old: String,
    new: String,
}

#[derive(Serialize)]
struct StandbyDocument {
    /// Without its password.
    primary_conninfo: Option<String>,
    apply_delay: Option<String>,
}

#[derive(Serialize)]
struct TransactionDocument {
    xid: u32,
    outcome: &'static str,
    time: String,
    lsn: Lsn,
}

/// The result as JSON.
#[derive(Serialize)]
pub struct RecoveryDocument {
    plan: PlanDocument,
    restored_files: u64,
    restored_bytes: u64,
    /// With --delta: the files that were already correct.
    kept: Option<KeptDocument>,
    start_command: String,
    reached: Option<ReachedDocument>,
    /// The collations whose version in the started server differs from the one in its catalogs; null: not checked.
    collation_mismatches: Option<Vec<CollationDocument>>,
    #[serde(skip)]
    remarks: Vec<String>,
}

#[derive(Serialize)]
struct KeptDocument {
    files: u64,
    bytes: u64,
    written_bytes: u64,
    removed_files: u64,
}

#[derive(Serialize)]
struct CollationDocument {
    database: String,
    /// One of the affected collations; null: the database's default collation.
    collation: Option<String>,
    /// Number of affected collations.
    count: u64,
    recorded_version: String,
    actual_version: String,
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
            chain: plan.chain.labels().iter().map(ToString::to_string).collect(),
            backup_stopped: plan.backup.stop.time.to_string(),
            system_identifier: plan.system.to_string(),
            postgresql: plan.backup.server.version_num,
            data_directory: plan.destinations.data_directory().display().to_string(),
            tablespaces: plan
                .destinations
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
            bytes: plan.backup.whole_bytes(),
            left_out: plan.left_out.names().map(str::to_owned).collect(),
            standby: standby(plan).map(|standby| StandbyDocument {
                primary_conninfo: standby.primary.as_ref().map(ToString::to_string),
                apply_delay: standby.apply_delay.as_ref().map(ToString::to_string),
            }),
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
            delta: None,
            archiving: archiving(plan),
            restore_command: plan.settings.restore_command.clone(),
            configuration_file: plan.config_path.display().to_string(),
            warnings: plan.warnings.clone(),
        }
    }

    pub fn with_delta(mut self, delta: Option<DeltaForecast>) -> PlanDocument {
        self.delta = delta.map(|delta| DeltaDocument {
            kept_files: delta.kept_files,
            kept_bytes: delta.kept_bytes,
            fetched_files: delta.fetched_files,
            fetched_bytes: delta.fetched_bytes,
            stored_bytes: delta.stored_bytes,
            removed_files: delta.removed,
        });
        self
    }
}

fn transaction(end: &TransactionEnd) -> TransactionDocument {
    TransactionDocument {
        xid: end.xid.as_u32(),
        outcome: outcome(end),
        time: rfc3339(end.time),
        lsn: end.start,
    }
}

/// The form of times in JSON.
fn rfc3339(time: PgTimestamp) -> String {
    time.to_jiff().map_or_else(|| time.to_string(), |time| time.to_string())
}

fn outcome(end: &TransactionEnd) -> &'static str {
    match end.outcome {
        TransactionOutcome::Commit => "committed",
        TransactionOutcome::Abort => "aborted",
    }
}

/// The timelines on the path from the backup to the target.
fn timelines(plan: &RecoveryPlan) -> Vec<u32> {
    let history = &plan.target.history;
    let backup = plan.backup.stop.timeline;
    let ancestors = history.switches().iter().map(|switch| switch.timeline);
    ancestors.chain([history.timeline()]).filter(|timeline| *timeline >= backup).map(|t| t.as_u32()).collect()
}

/// The plan as text.
pub fn plan(plan: &RecoveryPlan, delta: Option<DeltaForecast>) -> String {
    let target = &plan.target;
    let mut lines = vec![
        format!("recover cluster {} (system {})", plan.config.cluster, plan.system),
        format!("  into         {}", plan.destinations.data_directory().display()),
        format!(
            "  from backup  {}, which ended {} (LSN {}, timeline {})",
            target.backup,
            seconds(plan.backup.stop.time),
            plan.backup.stop.lsn,
            plan.backup.stop.timeline
        ),
        format!(
            "  restore      {}, {}",
            counted(plan.backup.totals.files, "file"),
            bytes(plan.backup.whole_bytes())
        ),
    ];
    if plan.chain.increments() > 0 {
        let labels: Vec<_> = plan.chain.labels().iter().map(ToString::to_string).collect();
        lines.insert(3, format!("  chain        {}", labels.join(" → ")));
    }
    match delta {
        Some(delta) => {
            lines.push(format!(
                "  keep         {}, {}, that are already correct; remove {} that are not part of the backup",
                counted(delta.kept_files, "file"),
                bytes(delta.kept_bytes),
                delta.removed
            ));
            lines.push(format!(
                "  fetch        {}, at most {} to write, {} from the repository",
                counted(delta.fetched_files, "file"),
                bytes(delta.fetched_bytes),
                bytes(delta.stored_bytes)
            ));
        }
        None if plan.found == Found::Kept => lines.push(
            "  keep         what is already correct; everything else in the data directory is replaced or removed"
                .to_owned(),
        ),
        None => {}
    }
    for tablespace in plan.destinations.tablespaces() {
        lines.push(format!("  tablespace   {} goes to {}", tablespace.name, tablespace.new.display()));
    }
    lines.push(format!(
        "  replay       {}, {} to {}",
        counted(target.segments, "WAL segment"),
        target.first_segment,
        target.last_segment
    ));
    let timelines = timelines(plan);
    if timelines.len() > 1 {
        let chain: Vec<_> = timelines.iter().map(u32::to_string).collect();
        lines.push(format!("  timelines    {}", chain.join(" → ")));
    }
    if let Some(standby) = standby(plan) {
        lines.extend(standby_words(standby));
    } else {
        lines.push(format!("  target       {}", target_words(plan)));
        lines.extend(end_words(plan));
    }
    lines.push(format!(
        "  then         {}",
        match (target.settings.action, &target.settings.target) {
            _ if standby(plan).is_some() =>
                "the server stays in recovery, open for reading; SELECT pg_promote() makes it the primary",
            (TargetAction::Promote, _) | (_, RecoveryTarget::Latest) =>
                "the server opens for writing, on a new timeline",
            (TargetAction::Pause, _) =>
                "the server pauses, open for reading; SELECT pg_wal_replay_resume() opens it for writing",
            (TargetAction::Shutdown, _) =>
                "the server stops; when it is started with recovery_target_action = 'promote', it opens for writing",
        }
    ));
    if plan.settings.archiving == Archiving::Off {
        lines.push(
            "  archiving    off, so that a copy cannot write into the archive of its original cluster"
                .to_owned(),
        );
    }
    for warning in &plan.warnings {
        lines.push(format!("  NOTE         {warning}"));
    }
    lines.join("\n")
}

/// The settings of a standby; `None` if it is not to be one.
fn standby(plan: &RecoveryPlan) -> Option<&StandbySettings> {
    match &plan.settings.role {
        Role::Standby(standby) => Some(standby),
        Role::Recovered => None,
    }
}

fn standby_words(standby: &StandbySettings) -> Vec<String> {
    let mut lines = vec![match &standby.primary {
        Some(primary) => format!(
            "  follows      the primary at \"{primary}\", and the archive when the primary no longer has the WAL"
        ),
        None => "  follows      only the archive, segment by segment; --primary-conninfo adds streaming"
            .to_owned(),
    }];
    if let Some(delay) = &standby.apply_delay {
        lines.push(format!("  delay        the replay of commits is delayed by {delay}"));
    }
    lines
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
        lines.push(format!("  without      transaction {}, and all later ones", said(lost)));
    }
    lines
}

impl RecoveryDocument {
    pub fn new(plan: &RecoveryPlan, outcome: RecoveryOutcome) -> RecoveryDocument {
        let RecoveryOutcome { summary, start, reached, collations } = outcome;
        let mut remarks = Vec::new();
        if summary.wrote_configuration {
            remarks.push(format!(
                "The original's configuration was outside its data directory. A minimal postgresql.conf was written; copies \
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
        if !plan.left_out.is_empty() {
            remarks.push(format!(
                "Once the server is open for writing, drop the databases that were left out, then restart it:\n  {}",
                plan.left_out.commands().join("\n  ")
            ));
        }
        if plan.settings.archiving == Archiving::Off {
            remarks.push(
                "archive_mode is off in postgresql.auto.conf, max_logical_replication_workers is 0 and \
                 synchronous_standby_names is empty. If this server becomes the production server, remove the lines that \
                 pgark recover wrote there, restart it, and take a backup: nothing that it wrote until then is archived. The \
                 recovery_target lines among them would prevent a standby of this server from starting."
                    .to_owned(),
            );
        } else if standby(plan).is_none() {
            remarks.push(
                "synchronous_standby_names is empty in postgresql.auto.conf. Once the server is open for writing, remove the \
                 lines that pgark recover wrote there, but archive_command: the recovery_target lines among them would prevent \
                 a standby of this server from starting."
                    .to_owned(),
            );
        }
        if standby(plan).is_none() {
            remarks.push(NOT_RESTORED_NOTE.to_owned());
        }
        if plan.settings.target.action == TargetAction::Shutdown && standby(plan).is_none() {
            // Without the file, the server would replay the WAL in pg_wal past the target.
            remarks.push(format!(
                "Once it has stopped at its target, leave recovery.signal where it is. To open the server for writing there, \
                 add this line at the end of postgresql.auto.conf, then start it:\n  recovery_target_action = 'promote'\n  {}",
                start.command()
            ));
        }
        let mut document = RecoveryDocument {
            plan: PlanDocument::new(plan),
            restored_files: summary.files,
            restored_bytes: summary.bytes,
            kept: summary.kept.map(|kept| KeptDocument {
                files: kept.files,
                bytes: kept.file_bytes,
                written_bytes: kept.written_bytes,
                removed_files: kept.removed,
            }),
            start_command: start.command(),
            reached: None,
            collation_mismatches: None,
            remarks,
        };
        if let Some(reached) = &reached {
            document.add_reached(reached);
        }
        if let Some(found) = collations {
            document.add_collations(found);
        }
        document
    }

    /// Adds the result of the collation check.
    fn add_collations(&mut self, found: Result<Vec<CollationMismatch>>) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.remarks.push(format!(
                    "NOTE: could not determine whether the collation versions match those that indexes were built with: {error}"
                ));
                return;
            }
        };
        if !found.is_empty() {
            let lines: Vec<String> = found.iter().map(|mismatch| format!("  {mismatch}")).collect();
            self.remarks.push(format!(
                "NOTE: indexes on text may miss rows, because collation versions differ from those they were built with:\n{}\n  \
                 To repair them, {COLLATION_REPAIR}.",
                lines.join("\n")
            ));
        }
        self.collation_mismatches = Some(found.into_iter().map(CollationDocument::from).collect());
    }

    /// Adds the point that the server reached.
    fn add_reached(&mut self, reached: &ReachedPoint) {
        let wanted = self.plan.standby.as_ref().is_some_and(|standby| standby.primary_conninfo.is_some());
        if wanted && reached.state != ReachedState::Streaming {
            self.remarks.push(
                "The standby does not stream. Its log shows why it cannot reach the primary; until it can, it follows the \
                 archive."
                    .to_owned(),
            );
        }
        self.reached = Some(ReachedDocument {
            state: match reached.state {
                ReachedState::Following => "following the archive",
                ReachedState::Streaming => "streaming",
                ReachedState::Paused => "paused",
                ReachedState::Promoted => "promoted",
                ReachedState::ShutDown => "shut down",
            },
            lsn: reached.replayed,
            last_transaction_time: reached.last_transaction.map(rfc3339),
            timeline: reached.timeline.map(|timeline| timeline.as_u32()),
        });
    }
}

impl From<CollationMismatch> for CollationDocument {
    fn from(mismatch: CollationMismatch) -> CollationDocument {
        let (count, collation) = match mismatch.which {
            MismatchedCollations::Default => (1, None),
            MismatchedCollations::Named(count, name) => (count, Some(name)),
        };
        CollationDocument {
            database: mismatch.database,
            collation,
            count,
            recorded_version: mismatch.recorded,
            actual_version: mismatch.actual,
        }
    }
}

/// The result as text.
pub fn summary(document: &RecoveryDocument) -> String {
    let mut lines = vec![format!(
        "restored {}, {}, into {}",
        counted(document.restored_files, "file"),
        bytes(document.restored_bytes),
        document.plan.data_directory
    )];
    if let Some(kept) = &document.kept {
        lines.push(format!(
            "{}, {}, already correct; {} written; {} removed that are not part of the backup",
            counted(kept.files, "file"),
            bytes(kept.bytes),
            bytes(kept.written_bytes),
            counted(kept.removed_files, "file")
        ));
    }
    match &document.reached {
        None => lines.push(format!("Start the server: {}", document.start_command)),
        Some(reached) => {
            let mut words = vec![match &document.plan.standby {
                None => format!("the server has recovered as planned and is {}", reached.state),
                Some(_) => format!("the server is a standby and is {}", reached.state),
            }];
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
