//! `pgark base-backup`.

use super::CommandContext;
use clap::{Args, ValueEnum};
use pgark::backup::stream::{self, StreamRequest};
use pgark::backup::{self, BackupRequest, BackupSummary, BackupType};
use pgark::config::{Checkpoint, Config, PaceSettings, Rate};
use pgark::data_directory::DataDirectory;
use pgark::error::{Context as _, Error, ErrorKind, Result};
use pgark::pace::Pace;
use pgark::postgres::{PgTimestamp, SystemIdentifier};
use pgark::repository::Repository;
use pgark::repository::backup::NewLabel;
use pgark::terminal::{Progress, counted};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub const MORE_HELP: &str = "\
Exit status:
  0  the backup is complete, and the WAL that it needs is in the repository
  2  wrong command line, configuration or setting of the server
  3  the server, the repository or another resource is unavailable, or the backup was interrupted
  4  damaged or foreign data, or the label exists already
A backup that fails is never listed.

Examples:
  pgark base-backup
  pgark base-backup --type incremental --max-rate 100MB
  pgark base-backup --method stream --checkpoint fast";

/// Arguments of `pgark base-backup`.
#[derive(Args, Debug)]
pub struct BaseBackupArguments {
    /// The name of the backup [default: the current time, such as 20260115T143000Z, with a number
    /// appended if that name exists]
    #[arg(long)]
    label: Option<String>,

    /// How much to store: everything, or the changes since an earlier backup
    ///
    /// With --method stream, incremental and differential backups require PostgreSQL 17 or later and summarize_wal = on.
    #[arg(long = "type", value_enum, default_value = "full")]
    kind: TypeArgument,

    /// How to read the cluster
    #[arg(long, default_value = "files")]
    method: MethodArgument,

    /// The speed of the checkpoint that starts the backup [default: backup.checkpoint]
    #[arg(long)]
    checkpoint: Option<CheckpointArgument>,

    /// The number of packs to write in parallel, with --method files [default: backup.workers]
    #[arg(long)]
    workers: Option<NonZeroUsize>,

    /// The maximum read rate per second, from 128kB to 1TB, such as 50MB [default: backup.max_rate]
    #[arg(long, value_name = "RATE")]
    max_rate: Option<Rate>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum MethodArgument {
    /// Read the data directory, on the server's host
    Files,
    /// Receive the files from the server over the replication protocol, on any host
    Stream,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum TypeArgument {
    /// Everything
    Full,
    /// The changes since the newest backup; everything if there is none to build on
    Incremental,
    /// The changes since the newest full backup; everything if there is none to build on
    Differential,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum CheckpointArgument {
    /// Immediately, with a burst of I/O
    Fast,
    /// Spread over time, like the server's own checkpoints; may take minutes
    Spread,
}

pub fn run(context: &CommandContext, arguments: BaseBackupArguments) -> Result<ExitCode> {
    let config = context.config()?;
    let label = new_label(arguments.label.as_deref())?;
    let checkpoint = match arguments.checkpoint {
        Some(CheckpointArgument::Fast) => Checkpoint::Fast,
        Some(CheckpointArgument::Spread) => Checkpoint::Spread,
        None => config.backup.checkpoint,
    };
    let pace = Pace::new(PaceSettings {
        max_rate: arguments.max_rate.or(config.backup.pace.max_rate),
        ..config.backup.pace
    });
    let monitor = Progress::new(context.verbosity());
    let interrupted = interrupted_by_signals()?;
    let kind = match arguments.kind {
        TypeArgument::Full => BackupType::Full,
        TypeArgument::Incremental => BackupType::Incremental,
        TypeArgument::Differential => BackupType::Differential,
    };
    let summary = if arguments.method == MethodArgument::Stream {
        let conninfo = config.connection.backed_up();
        let repository =
            repository(context, &config, stream::system_of(conninfo, config.assumed_version, &interrupted)?)?;
        let request = StreamRequest {
            label,
            kind,
            chain_max: config.backup.chain_max,
            conninfo,
            primary: config.connection.primary(),
            checkpoint,
            pace,
            compression: config.compression,
            wal_deadline: config.backup.wal_deadline,
        };
        stream::run(&request, &repository, &interrupted, &monitor)?
    } else {
        let data_directory = DataDirectory::open(&config.data_directory)?.assuming(config.assumed_version);
        let repository = repository(context, &config, data_directory.control_file()?.system)?;
        let request = BackupRequest {
            label,
            kind,
            chain_max: config.backup.chain_max,
            data_directory: &data_directory,
            conninfo: config.connection.backed_up(),
            primary: config.connection.primary(),
            checkpoint,
            workers: arguments.workers.unwrap_or(config.backup.workers),
            pace,
            compression: config.compression,
            wal_deadline: config.backup.wal_deadline,
        };
        backup::run(&request, &repository, &interrupted, &monitor)?
    };
    context.output.result(&summary, || text(&summary));
    Ok(ExitCode::SUCCESS)
}

/// The repository of the system to back up.
fn repository(context: &CommandContext, config: &Config, system: SystemIdentifier) -> Result<Repository> {
    if let Some(configured) = config.system_identifier.filter(|configured| *configured != system) {
        return Err(Error::new(
            ErrorKind::Foreign,
            format!("the server has system identifier {system}, but the configuration requires {configured}"),
        )
        .hint("If the cluster was initialized again or upgraded, correct or remove system_identifier."));
    }
    let repository = Repository::new(context.store(config)?, config.cluster.as_str(), system)?;
    Ok(repository.assuming(config.assumed_version))
}

/// The label from the command line, otherwise one derived from the current time.
pub fn new_label(named: Option<&str>) -> Result<NewLabel> {
    match named {
        Some(label) => Ok(NewLabel::Named(label.parse()?)),
        None => {
            let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
            Ok(NewLabel::OfTime(time.parse()?))
        }
    }
}

/// Returns a flag that SIGINT and SIGTERM set from now on; the backup then stops in an orderly way.
pub fn interrupted_by_signals() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let what = || "could not listen for signals";
    let runtime = Builder::new_current_thread().enable_all().build().context(what)?;
    let listen = |kind| {
        let _entered = runtime.enter();
        signal(kind).context(what)
    };
    let (interrupt, terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let set = interrupted.clone();
    // Ends with the process.
    thread::spawn(move || {
        runtime.block_on(first_of(interrupt, terminate));
        set.store(true, Ordering::Release);
    });
    Ok(interrupted)
}

async fn first_of(mut one: Signal, mut other: Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

pub fn text(summary: &BackupSummary) -> String {
    let changed = match &summary.parent {
        Some(parent) => {
            format!(", of which {:.1} MiB changed since backup {parent}", mib(summary.changed_bytes))
        }
        None => String::new(),
    };
    let mut text = format!(
        "{} backup {}{} is complete: {} with {:.1} MiB{changed}, stored in {:.1} MiB, in {:.1} s\n\
         WAL from {} to {} on timeline {} ({}) is in the repository\n\
         recovery is possible to any point from {} on",
        summary.r#type,
        summary.label,
        if summary.from_standby { ", taken from a standby," } else { "" },
        counted(summary.files, "file"),
        mib(summary.file_bytes),
        mib(summary.stored_bytes),
        summary.duration_s,
        summary.start_lsn,
        summary.stop_lsn,
        summary.timeline,
        counted(summary.wal_segments, "segment"),
        PgTimestamp::from_jiff(summary.stopped),
    );
    if summary.damaged_pages.count > 0 {
        text.push_str(&format!(
            "\nWARNING: damage in the cluster itself, and therefore in this backup: {}",
            counted(summary.damaged_pages.count, "damaged page")
        ));
    }
    for note in &summary.notes {
        text.push_str(&format!("\nNOTE: {note}"));
    }
    text
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
