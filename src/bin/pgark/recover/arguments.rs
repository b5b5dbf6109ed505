//! The arguments of `pgark recover`, converted to typed values.

use clap::ArgGroup;
use jiff::Timestamp;
use pgark::config::{Conninfo, Rate, RecoverSettings};
use pgark::error::{Context as _, Error, Result};
use pgark::postgres::recovery::time::parse_target_time;
use pgark::postgres::{
    Lsn, RecoveryTarget, RestorePointName, SystemIdentifier, TargetAction, TargetBound, TargetTimeline,
    WantedXid,
};
use pgark::recover::place::tablespaces::TablespaceMapping;
use pgark::recover::plan::Mode;
use pgark::recover::server::settings::Archiving;
use pgark::recover::server::standby::{ApplyDelay, Role, StandbySettings};
use pgark::recover::target::{Consent, ForkRule, Goal, TargetRequest};
use std::num::NonZeroUsize;
use std::path::PathBuf;

pub const MORE_HELP: &str = "\
Exit status:
  0  restored; with --wait also recovered as planned; with --dry-run the plan can be carried out
  1  the repository does not hold the cluster or the backup, or its WAL does not reach the target
  2  wrong command line or configuration, or wrong user
  3  the repository, the target directory or the server is unavailable, or lacks space
  4  damaged data, missing WAL, an ambiguous timeline, or a target directory that is in use; with
     --wait also a recovery that ended elsewhere than planned

Examples:
  Recover to a time and compare the point reached with the plan:
    pgark recover --target-time '2026-01-15 14:29:59+00' -D /srv/restore/main --wait
  Recover on a new host, without a configuration file:
    pgark recover --repository /srv/pgark --cluster main --target-directory /srv/restore/main
  Create a standby:
    pgark recover --standby --primary-conninfo 'host=db1 user=replicator'";

/// Arguments of `pgark recover`.
#[derive(clap::Args, Debug)]
#[command(group(ArgGroup::new("target").multiple(false)))]
pub struct RecoverArguments {
    /// Recover all transactions up to this time, given with its time zone: '2026-01-15 14:29:59+00'
    #[arg(long, group = "target", value_name = "TIME", help_heading = "Target")]
    target_time: Option<String>,

    /// Recover up to this position in the WAL (LSN): 0/3000028
    #[arg(long, group = "target", value_name = "LSN", help_heading = "Target")]
    target_lsn: Option<String>,

    /// Recover until this transaction ends; transactions that ended later are lost
    #[arg(long, group = "target", value_name = "XID", help_heading = "Target")]
    target_xid: Option<String>,

    /// Recover up to this restore point, created with pg_create_restore_point
    #[arg(long, group = "target", value_name = "NAME", help_heading = "Target")]
    target_name: Option<String>,

    /// Recover to the end of the backup and no further
    #[arg(long, group = "target", help_heading = "Target")]
    target_immediate: bool,

    /// Recover to the end of the archived WAL [default]
    #[arg(long, group = "target", help_heading = "Target")]
    latest: bool,

    /// Recover to the last transaction at or before this time, even if no later WAL was archived
    #[arg(long, group = "target", value_name = "TIME", help_heading = "Target")]
    latest_before: Option<String>,

    /// Stop just before the target (time, LSN or xid) instead of just after it
    #[arg(long, help_heading = "Target")]
    exclusive: bool,

    /// The timeline to recover to: latest, current (the backup's) or a number
    #[arg(long, value_name = "TIMELINE", default_value = "latest", help_heading = "Target")]
    target_timeline: String,

    /// The action at the target: pause, promote or shutdown; with --latest only promote [default: promote with --latest, else pause]
    #[arg(long, value_name = "ACTION", help_heading = "Target")]
    target_action: Option<String>,

    /// Create a standby that follows the original through the archive, and by streaming with --primary-conninfo
    #[arg(long, conflicts_with_all = ["target", "exclusive", "target_timeline", "target_action"], help_heading = "Standby")]
    standby: bool,

    /// How the standby connects to the primary for streaming, as key=value pairs [default: it only follows the archive]
    #[arg(long, value_name = "CONNINFO", requires = "standby", help_heading = "Standby")]
    primary_conninfo: Option<String>,

    /// How long the standby delays the replay of commits, with a unit (us, ms, s, min, h, d): 30min, 4h
    #[arg(long, value_name = "DELAY", requires = "standby", help_heading = "Standby")]
    apply_delay: Option<String>,

    /// Start from this backup [default: the newest that ended before the target]
    #[arg(long, value_name = "LABEL", help_heading = "Where")]
    backup: Option<String>,

    /// Where to restore; must be empty or absent, except with --delta [default: the configured data_directory]
    #[arg(long, short = 'D', value_name = "DIR", help_heading = "Where")]
    pub target_directory: Option<PathBuf>,

    #[command(flatten)]
    pub place: super::super::PlaceArguments,

    /// The system identifier, if the repository holds several for this cluster
    #[arg(long, value_name = "NUMBER", help_heading = "Where")]
    system_identifier: Option<String>,

    /// Restore the tablespace in directory OLD into NEW; may be repeated
    #[arg(long, value_name = "OLD=NEW", help_heading = "Where")]
    tablespace_mapping: Vec<String>,

    /// Restore over a stopped cluster of the same system and keep files and pages that are already correct
    ///
    /// Everything else in the data directory is replaced or removed, including its log files and WAL.
    #[arg(long, help_heading = "What")]
    delta: bool,

    /// Restore only this database and the system databases; may be repeated
    ///
    /// The files of the other databases are left empty, and these databases must be dropped afterwards. The plan shows
    /// the commands.
    #[arg(long, value_name = "NAME", help_heading = "What")]
    pub database: Vec<String>,

    /// Whether the recovered cluster archives its own WAL; on if it becomes the production server [default: on with --standby, else off]
    #[arg(long, value_name = "off|on", help_heading = "Server")]
    archiving: Option<String>,

    /// The number of packs to restore in parallel [default: recover.workers]
    #[arg(long, value_name = "N", help_heading = "What")]
    pub workers: Option<NonZeroUsize>,

    /// The maximum restore rate per second, from 128kB to 1TB, such as 50MB [default: recover.max_rate]
    #[arg(long, value_name = "RATE", help_heading = "What")]
    pub max_rate: Option<Rate>,

    /// The spool directory of the recovered cluster [default: beside the target directory]
    #[arg(long, value_name = "DIR", help_heading = "Where")]
    pub spool_directory: Option<PathBuf>,

    /// Print the plan and write nothing
    #[arg(long, conflicts_with = "wait", help_heading = "What")]
    pub dry_run: bool,

    /// Start the server, wait until it has recovered, and compare the point reached with the plan
    #[arg(long, help_heading = "Server")]
    pub wait: bool,

    /// The port of the started server, for use beside a running original [default: as configured]
    #[arg(long, value_name = "N", help_heading = "Server")]
    pub port: Option<u16>,

    /// The directory of PostgreSQL's programs [default: the usual directories of packages, else $PATH]
    #[arg(long, value_name = "DIR", help_heading = "Server")]
    pub pg_bin: Option<PathBuf>,

    /// Continue even if it is not proven that the target can be reached
    #[arg(long, help_heading = "Target")]
    accept_unproven: bool,
}

impl RecoverArguments {
    /// The requested target; `command` is this command line without the target.
    pub fn target(&self, command: String, settings: &RecoverSettings) -> Result<TargetRequest> {
        let goal = self.goal()?;
        if self.exclusive
            && !matches!(
                goal,
                Goal::Target(RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_) | RecoveryTarget::Xid(_), _)
            )
        {
            return Err(Error::usage("--exclusive has no meaning for this target")
                .hint("It goes with --target-time, --target-lsn and --target-xid."));
        }
        let action = self.target_action.as_deref().map(str::parse::<TargetAction>).transpose()?;
        self.check_action(&goal, action)?;
        Ok(TargetRequest {
            goal,
            timeline: self.target_timeline.parse::<TargetTimeline>()?,
            action,
            backup: self.backup.clone(),
            consent: if self.accept_unproven { Consent::AcceptUnproven } else { Consent::ProvenOnly },
            command,
            epoch: self.wanted_xid()?.and_then(|wanted| wanted.epoch),
            prove_bytes: settings.prove_wal_bytes,
            forks: if self.standby {
                ForkRule::FollowPrimary
            } else {
                ForkRule::Refuse(settings.fork_window)
            },
        })
    }

    fn wanted_xid(&self) -> Result<Option<WantedXid>> {
        self.target_xid
            .as_deref()
            .map(|text| text.parse::<WantedXid>().context(|| "--target-xid"))
            .transpose()
    }

    /// Rejects an action without a target: at the end of the WAL, PostgreSQL always promotes.
    fn check_action(&self, goal: &Goal, action: Option<TargetAction>) -> Result<()> {
        let is_latest = matches!(goal, Goal::Target(RecoveryTarget::Latest, _));
        match action.filter(|action| is_latest && *action != TargetAction::Promote) {
            None => Ok(()),
            Some(action) => Err(Error::usage(format!("--target-action {action} has no meaning with --latest"))
                .hint(
                    "PostgreSQL promotes at the end of the WAL. Use --latest-before with the current time to recover the \
                     same transactions and choose an action.",
                )),
        }
    }

    fn goal(&self) -> Result<Goal> {
        let bound = if self.exclusive { TargetBound::Exclusive } else { TargetBound::Inclusive };
        if let Some(text) = &self.latest_before {
            return time("--latest-before", text).map(Goal::LatestBefore);
        }
        let target = if let Some(text) = &self.target_time {
            RecoveryTarget::Time(time("--target-time", text)?)
        } else if let Some(text) = &self.target_lsn {
            RecoveryTarget::Lsn(text.parse::<Lsn>().context(|| "--target-lsn")?)
        } else if let Some(text) = &self.target_xid {
            RecoveryTarget::Xid(text.parse::<WantedXid>().context(|| "--target-xid")?.xid)
        } else if let Some(text) = &self.target_name {
            RecoveryTarget::Name(text.parse::<RestorePointName>()?)
        } else if self.target_immediate {
            RecoveryTarget::Immediate
        } else {
            RecoveryTarget::Latest
        };
        Ok(Goal::Target(target, bound))
    }

    /// The requested system.
    pub fn system(&self) -> Result<Option<SystemIdentifier>> {
        self.system_identifier.as_deref().map(str::parse).transpose()
    }

    /// Permitted content of the target directory.
    pub fn mode(&self) -> Mode {
        if self.delta { Mode::Delta } else { Mode::Fresh }
    }

    /// New locations of tablespaces.
    pub fn mappings(&self) -> Result<Vec<TablespaceMapping>> {
        self.tablespace_mapping.iter().map(|text| text.parse()).collect()
    }

    /// The role of the restored cluster.
    pub fn role(&self) -> Result<Role> {
        if !self.standby {
            return Ok(Role::Recovered);
        }
        let conninfo = |text: &String| {
            Conninfo::new(text).ok_or_else(|| {
                // Not repeated in the error: it may contain a password.
                Error::usage("--primary-conninfo is not understood")
                    .hint("Write key=value pairs: 'host=db1 port=5432 user=replicator'.")
            })
        };
        Ok(Role::Standby(StandbySettings {
            primary: self.primary_conninfo.as_ref().map(conninfo).transpose()?,
            apply_delay: self
                .apply_delay
                .as_deref()
                .map(str::parse::<ApplyDelay>)
                .transpose()
                .context(|| "--apply-delay")?,
        }))
    }

    /// Whether the recovered cluster archives; a standby does so only after its promotion.
    pub fn archiving(&self) -> Result<Archiving> {
        match self.archiving.as_deref() {
            None if self.standby => Ok(Archiving::On),
            None | Some("off") => Ok(Archiving::Off),
            Some("on") => Ok(Archiving::On),
            Some(other) => Err(Error::usage(format!("--archiving must be off or on, not \"{other}\""))),
        }
    }
}

fn time(argument: &str, text: &str) -> Result<Timestamp> {
    parse_target_time(text).context(|| argument)
}

/// The options that select a target, each with whether it takes a value.
const TARGET_OPTIONS: [(&str, bool); 9] = [
    ("--target-time", true),
    ("--target-lsn", true),
    ("--target-xid", true),
    ("--target-name", true),
    ("--target-immediate", false),
    ("--latest", false),
    ("--latest-before", true),
    ("--exclusive", false),
    ("--target-timeline", true),
];

/// The command line without its target and with secrets masked; errors complete it to a command that works.
pub fn without_target(arguments: impl IntoIterator<Item = String>) -> String {
    let mut words = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let name = argument.split('=').next().unwrap_or_default();
        match TARGET_OPTIONS.iter().find(|(option, _)| *option == name) {
            None => words.push(quoted(&masked(&argument))),
            Some((_, true)) if !argument.contains('=') => drop(arguments.next()),
            Some(_) => {}
        }
    }
    words.join(" ")
}

/// What may stand before connection parameters in the same word; the last one fits every word.
const BEFORE_CONNINFO: [&str; 6] = [
    "--set=connection.conninfo=",
    "--set=connection.standby=",
    "connection.conninfo=",
    "connection.standby=",
    "--primary-conninfo=",
    "",
];

/// Connection parameters with secrets masked; any other word unchanged.
fn masked(word: &str) -> String {
    let split = BEFORE_CONNINFO.iter().find_map(|before| Some((before, word.strip_prefix(before)?)));
    match split.and_then(|(before, text)| Some((before, Conninfo::new(text)?))) {
        Some((before, conninfo)) => format!("{before}{conninfo}"),
        None => word.to_owned(),
    }
}

fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@,=".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_left_out_of_a_command() {
        let words = "pgark recover --target-time T --exclusive -D /a --target-lsn=0/1 --latest --backup x";
        let command = without_target(words.split(' ').map(str::to_owned));
        assert_eq!(command, "pgark recover -D /a --backup x");
        assert_eq!(without_target(["pgark".to_owned(), "it's".to_owned()]), "pgark 'it'\\''s'");
        let secret = "host=a password=geheim";
        for (word, shown) in [
            (secret.to_owned(), "'host=a password=***'"),
            (format!("connection.conninfo={secret}"), "'connection.conninfo=host=a password=***'"),
            (
                format!("--set=connection.conninfo={secret}"),
                "'--set=connection.conninfo=host=a password=***'",
            ),
            ("--set=agent.nice=1".to_owned(), "--set=agent.nice=1"),
            ("--primary-conninfo=password=geheim".to_owned(), "'--primary-conninfo=password=***'"),
        ] {
            assert_eq!(without_target([word]), shown);
        }
    }
}
