//! The end of a recovery, and the settings that specify it.

use super::setting::quote_setting;
use crate::error::{Error, Result};
use crate::postgres::value::lsn::Lsn;
use crate::postgres::value::timeline::TimelineId;
use crate::postgres::value::timestamp::PgTimestamp;
use crate::postgres::value::xid::Xid;
use std::fmt;
use std::str::FromStr;

/// The point at which a recovery ends.
///
/// Source: PostgreSQL manual, "Recovery Target"; `access/transam/xlogrecovery.c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// At the end of the archived WAL.
    Latest,
    /// As soon as the base backup is consistent.
    Immediate,
    /// At the last transaction that ended before this time.
    Time(jiff::Timestamp),
    /// At this position.
    Lsn(Lsn),
    /// At this transaction's end. Others with lower numbers may end after it and are lost.
    Xid(Xid),
    /// At this restore point.
    Name(RestorePointName),
}

/// The name of a restore point, as accepted by `pg_create_restore_point`: 1 to 63 bytes.
///
/// Source: `access/xlog_internal.h`, `MAXFNAMELEN`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RestorePointName(String);

/// Whether recovery includes the target itself. Applies only to positions, times and transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetBound {
    /// The target is included; PostgreSQL's default.
    Inclusive,
    /// Recovery ends just before it.
    Exclusive,
}

/// The timeline to which the server recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetTimeline {
    /// The newest timeline with a history in the archive; PostgreSQL's default.
    Latest,
    /// The timeline of the base backup.
    Current,
    /// This timeline.
    Id(TimelineId),
}

/// The server's action when it reaches the target. Without a target it always promotes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetAction {
    /// Pauses, open for read-only queries, until it is promoted or the target is changed.
    Pause,
    /// Ends recovery and begins a new timeline.
    Promote,
    /// Shuts down.
    Shutdown,
}

/// All settings that specify the end of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSettings {
    /// The target.
    pub target: RecoveryTarget,
    /// Whether the target is included.
    pub bound: TargetBound,
    /// The timeline.
    pub timeline: TargetTimeline,
    /// The action at the target.
    pub action: TargetAction,
}

impl TargetSettings {
    /// The lines for `postgresql.auto.conf`, each terminated by a line feed.
    ///
    /// Writes all five target settings, so that none left in `postgresql.conf` takes effect. Empty ones come first: a
    /// server that reads an empty one after the one in use refuses to start with "multiple recovery targets specified"
    /// (measured on 13 to 18).
    ///
    /// # Errors
    /// None for values created by their constructors.
    pub fn render(&self) -> Result<String> {
        let used = self.target.setting();
        let mut lines = String::new();
        for name in TARGET_SETTINGS {
            if used.as_ref().is_none_or(|(used, _)| *used != name) {
                lines.push_str(&line(name, "")?);
            }
        }
        if let Some((name, value)) = used {
            lines.push_str(&line(name, &value)?);
        }
        lines.push_str(&line("recovery_target_inclusive", self.bound.value())?);
        lines.push_str(&line("recovery_target_timeline", &self.timeline.to_string())?);
        lines.push_str(&line("recovery_target_action", self.action.value())?);
        Ok(lines)
    }
}

/// The settings of which at most one may have a value.
const TARGET_SETTINGS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

fn line(name: &str, value: &str) -> Result<String> {
    Ok(format!("{name} = {}\n", quote_setting(value)?))
}

impl RecoveryTarget {
    /// The setting for this target, with its value; `None` for [`RecoveryTarget::Latest`].
    fn setting(&self) -> Option<(&'static str, String)> {
        match self {
            RecoveryTarget::Latest => None,
            RecoveryTarget::Immediate => Some(("recovery_target", "immediate".to_owned())),
            RecoveryTarget::Time(time) => Some(("recovery_target_time", setting_time(*time))),
            RecoveryTarget::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
            RecoveryTarget::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
            RecoveryTarget::Name(name) => Some(("recovery_target_name", name.to_string())),
        }
    }
}

/// Times in WAL have microseconds. The server would round the value; this truncates it.
fn setting_time(time: jiff::Timestamp) -> String {
    PgTimestamp::from_jiff(time).to_string()
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryTarget::Latest => f.write_str("the end of the archived WAL"),
            RecoveryTarget::Immediate => f.write_str("the end of the base backup"),
            RecoveryTarget::Time(time) => f.write_str(&setting_time(*time)),
            RecoveryTarget::Lsn(lsn) => write!(f, "LSN {lsn}"),
            RecoveryTarget::Xid(xid) => write!(f, "transaction {xid}"),
            RecoveryTarget::Name(name) => write!(f, "restore point \"{name}\""),
        }
    }
}

impl RestorePointName {
    /// Upper limit for the length of a name, in bytes.
    pub const BYTES_MAX: usize = 63;

    /// Checks the name of a restore point.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if it is empty, too long, or contains a NUL byte.
    pub fn new(name: &str) -> Result<RestorePointName> {
        if name.is_empty() {
            Err(Error::usage("the name of a restore point cannot be empty"))
        } else if name.len() > RestorePointName::BYTES_MAX {
            Err(Error::usage(format!(
                "the name of a restore point has at most {} bytes, \"{}\" has {}",
                RestorePointName::BYTES_MAX,
                name.escape_debug(),
                name.len()
            )))
        } else if name.contains('\0') {
            Err(Error::usage("the name of a restore point cannot hold a NUL byte"))
        } else {
            Ok(RestorePointName(name.to_owned()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RestorePointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RestorePointName {
    type Err = Error;

    fn from_str(text: &str) -> Result<RestorePointName> {
        RestorePointName::new(text)
    }
}

impl TargetBound {
    fn value(self) -> &'static str {
        match self {
            TargetBound::Inclusive => "on",
            TargetBound::Exclusive => "off",
        }
    }
}

impl TargetAction {
    fn value(self) -> &'static str {
        match self {
            TargetAction::Pause => "pause",
            TargetAction::Promote => "promote",
            TargetAction::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for TargetAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.value())
    }
}

impl FromStr for TargetAction {
    type Err = Error;

    fn from_str(text: &str) -> Result<TargetAction> {
        match text {
            "pause" => Ok(TargetAction::Pause),
            "promote" => Ok(TargetAction::Promote),
            "shutdown" => Ok(TargetAction::Shutdown),
            _ => Err(Error::usage(format!("\"{text}\" is not a target action"))
                .hint("Use pause, promote or shutdown.")),
        }
    }
}

impl fmt::Display for TargetTimeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetTimeline::Latest => f.write_str("latest"),
            TargetTimeline::Current => f.write_str("current"),
            TargetTimeline::Id(timeline) => write!(f, "{timeline}"),
        }
    }
}

impl FromStr for TargetTimeline {
    type Err = Error;

    fn from_str(text: &str) -> Result<TargetTimeline> {
        match text {
            "latest" => Ok(TargetTimeline::Latest),
            "current" => Ok(TargetTimeline::Current),
            _ => text.parse().map(TargetTimeline::Id).map_err(|_: Error| {
                Error::usage(format!("\"{text}\" is not a target timeline"))
                    .hint("Use latest, current, or a number from 1, such as 2 or 0x0000000A.")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(target: RecoveryTarget) -> String {
        TargetSettings {
            target,
            bound: TargetBound::Inclusive,
            timeline: TargetTimeline::Latest,
            action: TargetAction::Promote,
        }
        .render()
        .unwrap()
    }

    #[test]
    fn writes_every_target_and_the_used_one_last() {
        let time = "2026-01-15T15:30:00.1234567+01:00".parse().unwrap();
        assert_eq!(
            rendered(RecoveryTarget::Time(time)),
            "recovery_target = ''\n\
             recovery_target_lsn = ''\n\
             recovery_target_name = ''\n\
             recovery_target_xid = ''\n\
             recovery_target_time = '2026-01-15 14:30:00.123456+00'\n\
             recovery_target_inclusive = 'on'\n\
             recovery_target_timeline = 'latest'\n\
             recovery_target_action = 'promote'\n"
        );
        for (target, used) in [
            (RecoveryTarget::Immediate, "recovery_target = 'immediate'"),
            (RecoveryTarget::Lsn("16/B374D848".parse().unwrap()), "recovery_target_lsn = '16/B374D848'"),
            (RecoveryTarget::Xid(Xid::new(731)), "recovery_target_xid = '731'"),
            (RecoveryTarget::Name("it's \\ \n".parse().unwrap()), "recovery_target_name = 'it''s \\\\ \\n'"),
        ] {
            let text = rendered(target);
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines[4], used);
            assert!(lines[..4].iter().all(|line| line.ends_with(" = ''")), "{text}");
            assert_eq!(lines.len(), 8);
        }
        assert_eq!(rendered(RecoveryTarget::Latest).matches(" = ''\n").count(), 5);
    }

    #[test]
    fn writes_bound_timeline_and_action() {
        let settings = TargetSettings {
            target: RecoveryTarget::Latest,
            bound: TargetBound::Exclusive,
            timeline: TargetTimeline::Id(TimelineId::new(10).unwrap()),
            action: TargetAction::Pause,
        };
        assert!(settings.render().unwrap().ends_with(
            "recovery_target_inclusive = 'off'\n\
             recovery_target_timeline = '10'\n\
             recovery_target_action = 'pause'\n"
        ));
    }

    #[test]
    fn reads_what_an_operator_writes() {
        assert_eq!("latest".parse::<TargetTimeline>().unwrap(), TargetTimeline::Latest);
        assert_eq!("current".parse::<TargetTimeline>().unwrap(), TargetTimeline::Current);
        assert_eq!("0x0A".parse::<TargetTimeline>().unwrap().to_string(), "10");
        assert!("newest".parse::<TargetTimeline>().unwrap_err().hint_text().unwrap().contains("latest"));
        for action in [TargetAction::Pause, TargetAction::Promote, TargetAction::Shutdown] {
            assert_eq!(action.to_string().parse::<TargetAction>().unwrap(), action);
        }
        assert!("stop".parse::<TargetAction>().is_err());
        for name in ["", &"é".repeat(32), "a\0b"] {
            assert!(name.parse::<RestorePointName>().is_err(), "{name:?}");
        }
        assert!("n".repeat(63).parse::<RestorePointName>().is_ok());
    }
}
