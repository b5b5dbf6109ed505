//! `pgark info`.

use super::CommandContext;
use clap::Args;
use pgark::error::Result;
use pgark::info::{ClusterInfo, Gap, RecoveryWindow, SystemInfo, TimelineInfo, Trouble, gather};
use pgark::repository::wal::WalSearch;
use pgark::terminal::{bytes, counted, seconds, table};
use std::process::ExitCode;

pub const MORE_HELP: &str = "\
Exit status:
  0  everything that the repository holds of the cluster is shown
  1  the repository holds nothing of the cluster
  2  wrong command line or configuration, or data of a newer version of pgark in the repository
  3  the repository is unavailable
  4  something in the repository is damaged
If something is unusable, everything else is still shown.

Examples:
  pgark info
  pgark info --quick
  pgark info --repository s3://bucket/prefix --cluster main --json";

/// Arguments of `pgark info`.
#[derive(Args, Debug)]
pub struct InfoArguments {
    #[command(flatten)]
    place: super::PlaceArguments,

    /// Look up only the first and last WAL segment of each timeline
    ///
    /// This takes a handful of requests, however many objects a bucket holds. Missing segments and stored sizes are not
    /// reported.
    #[arg(long)]
    quick: bool,
}

pub fn run(context: &CommandContext, arguments: InfoArguments) -> Result<ExitCode> {
    let (store, config) = context.place(&arguments.place)?;
    let search = if arguments.quick { WalSearch::Ends } else { WalSearch::EverySegment };
    let cluster = config.cluster.as_str();
    let info = gather(&store, cluster, config.assumed_version, search)?;
    context.output.result(&info, || text(&info));
    // The output shows everything usable; the exit status reports to scripts that something is not.
    let troubles = info.systems.iter().flat_map(SystemInfo::troubles);
    let status = troubles.map(|trouble| trouble.kind.companion_status()).max();
    Ok(ExitCode::from(status.unwrap_or_default()))
}

fn text(info: &ClusterInfo) -> String {
    let mut text = format!("cluster {} in {}\n", info.cluster, info.repository);
    for system in &info.systems {
        text.push_str(&system_text(system));
        if !info.every_segment && !system.windows.is_empty() {
            text.push_str("  provided that no WAL is missing; pgark info without --quick checks this\n");
        }
    }
    text
}

fn system_text(system: &SystemInfo) -> String {
    let mut text = format!("\nsystem {}", system.system_identifier);
    if let Some(size) = system.segment_bytes {
        let mut older: Vec<u64> = system.timelines.iter().map(|timeline| timeline.segment_bytes).collect();
        older.retain(|older| *older != size);
        older.dedup();
        text.push_str(&format!(", WAL segments of {}", bytes(size)));
        text.extend(older.into_iter().map(|older| format!(", earlier of {}", bytes(older))));
    }
    if let Some(trouble) = &system.unusable {
        text.push_str(&format!("\n\n  CANNOT BE USED: {}\n", reason(trouble)));
        return text;
    }
    text.push_str("\n\nbackups\n");
    text.push_str(&indented(&if system.backups.is_empty() {
        "none: take one with pgark base-backup".to_owned()
    } else {
        backups(system)
    }));
    for damaged in &system.damaged {
        text.push_str(&format!("  {} CANNOT BE USED: {}\n", damaged.label, reason(&damaged.trouble)));
    }
    for label in &system.running {
        text.push_str(&format!("  {label} is in progress\n"));
    }
    text.push_str("\nWAL\n");
    text.push_str(&indented(&if system.timelines.is_empty() {
        "none".to_owned()
    } else {
        timelines(&system.timelines)
    }));
    for timeline in &system.timelines {
        for gap in timeline.gaps.iter().flatten() {
            text.push_str(&format!("  missing on timeline {}: {}\n", timeline.timeline, segments(gap)));
        }
        for gap in timeline.never_archived.iter().flatten() {
            text.push_str(&format!(
                "  never archived on timeline {}, before the first backup (no recovery needs this WAL): {}\n",
                timeline.timeline,
                segments(gap)
            ));
        }
        for partial in timeline.partials.iter().flatten() {
            text.push_str(&format!("  partial segment {partial}\n"));
        }
    }
    text.push_str(if system.windows.len() > 1 { "\nrecovery windows\n" } else { "\nrecovery window\n" });
    if system.windows.is_empty() {
        text.push_str("  recovery is not possible: no backup has all of its WAL\n");
    }
    text.extend(system.windows.iter().map(window));
    text
}

fn segments(gap: &Gap) -> String {
    let count = counted(gap.segments, "segment");
    format!("{count}, {} to {}", gap.first, gap.last)
}

fn window(window: &RecoveryWindow) -> String {
    let mut text = format!(
        "  from {} (end of backup {})\n  to   the end of {}, at the latest {}, on timeline {}\n",
        seconds(window.earliest),
        window.oldest_backup,
        window.last_segment,
        window.end_lsn,
        window.timeline
    );
    if let Some(gap) = &window.interrupted_by {
        text.push_str(&format!("       interrupted there: {} is missing\n", gap.first));
    }
    text
}

fn reason(trouble: &Trouble) -> String {
    match &trouble.hint {
        Some(hint) => format!("{}. {hint}", trouble.reason),
        None => trouble.reason.clone(),
    }
}

fn backups(system: &SystemInfo) -> String {
    let rows: Vec<Vec<String>> = system
        .backups
        .iter()
        .map(|backup| {
            let mut remarks = Vec::new();
            if let Some(parent) = &backup.parent {
                remarks.push(format!("builds on {parent}"));
            }
            if let Some(broken) = &backup.broken_chain {
                remarks.push(format!("CANNOT BE USED: {}", broken.reason));
            }
            if let Some(missing) = backup.missing_wal {
                remarks.push(format!("CANNOT BE USED: WAL is missing from {missing} on"));
            }
            if backup.damaged_pages > 0 {
                remarks.push(counted(backup.damaged_pages, "damaged page"));
            }
            vec![
                backup.label.clone(),
                seconds(backup.stop_time),
                format!("{}", backup.timeline),
                backup.start_lsn.to_string(),
                backup.stop_lsn.to_string(),
                backup.postgresql.to_string(),
                backup.files.to_string(),
                bytes(backup.raw_bytes),
                bytes(backup.stored_bytes),
                remarks.join("; "),
            ]
        })
        .collect();
    table(
        &["label", "stopped", "timeline", "start", "stop", "PostgreSQL", "files", "size", "stored", ""],
        &rows,
    )
}

fn timelines(timelines: &[TimelineInfo]) -> String {
    let mut sizes = timelines.iter().map(|timeline| timeline.segment_bytes);
    let first = sizes.next();
    let has_sizes = sizes.any(|size| Some(size) != first);
    let mut rows: Vec<Vec<String>> = timelines
        .iter()
        .map(|timeline| {
            let segment = |name: Option<pgark::postgres::SegmentName>| {
                name.map_or("-".to_owned(), |name| name.to_string())
            };
            vec![
                format!("{}{}", "  ".repeat(timeline.depth), timeline.timeline),
                match (timeline.parent, timeline.switch_point) {
                    (Some(parent), Some(point)) => format!("{parent} at {point}"),
                    _ if timeline.timeline.as_u32() == 1 => "-".to_owned(),
                    _ => "history file is missing".to_owned(),
                },
                segment(timeline.first),
                segment(timeline.last),
                match timeline.segments {
                    Some(segments) => segments.to_string(),
                    None => format!("up to {}", timeline.span_segments),
                },
                timeline.stored_bytes.map_or("?".to_owned(), bytes),
                match &timeline.gaps {
                    Some(gaps) => gaps.iter().map(|gap| gap.segments).sum::<u64>().to_string(),
                    None => "?".to_owned(),
                },
            ]
        })
        .collect();
    let mut heads =
        vec!["timeline", "branched off", "first segment", "last segment", "segments", "stored", "missing"];
    if has_sizes {
        heads.push("segment size");
        for (row, timeline) in rows.iter_mut().zip(timelines) {
            row.push(bytes(timeline.segment_bytes));
        }
    }
    table(&heads, &rows)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
