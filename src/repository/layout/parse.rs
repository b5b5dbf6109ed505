//! The kind of the object under a key.

use super::Layout;
use super::kind::ObjectKind;
use crate::config::ClusterName;
use crate::postgres::{SegmentName, TimelineId, WalFileName};
use crate::repository::backup::Label;
use crate::store::ObjectKey;

/// The kind of the object under a key; `None` if no object of this version of pgark has this name. Other versions may know
/// it, so that a reader ignores it and nothing removes it.
pub fn kind_of(key: &ObjectKey) -> Option<ObjectKind> {
    let mut parts = key.as_str().splitn(3, '/');
    let (cluster, system, rest) = (ClusterName::new(parts.next()?)?, parts.next()?, parts.next()?);
    let layout = Layout::new(cluster.as_str(), system.parse().ok()?).ok()?;
    let rest: Vec<&str> = rest.split('/').collect();
    match rest.as_slice() {
        ["format.json"] => (layout.format().ok()? == *key).then_some(ObjectKind::Format),
        ["encryption.json"] => Some(ObjectKind::Encryption),
        ["keys", name] => {
            let id = name.strip_suffix(".json").or_else(|| name.strip_suffix(".age"))?;
            is_word(id).then_some(ObjectKind::Key)
        }
        ["configuration", time] => is_word(time).then_some(ObjectKind::Configuration),
        ["wal", timeline, range] if is_timeline(timeline) => of_range(range),
        ["wal", timeline, log, name] if is_timeline(timeline) && name.starts_with("notes-") => {
            (is_digits(log, 8) && is_word(name)).then_some(ObjectKind::WalNotes)
        }
        ["wal", .., name] => {
            let name: WalFileName = name.parse().ok()?;
            (layout.wal_file(name).ok()? == *key).then_some(match name {
                WalFileName::History(_) => ObjectKind::WalHistory,
                WalFileName::Segment(_) => ObjectKind::WalSegment,
                WalFileName::Partial(_) | WalFileName::FurtherPartial(..) => ObjectKind::WalPartial,
                WalFileName::BackupHistory(..) => ObjectKind::WalBackupHistory,
            })
        }
        ["chunk", timeline, segment, offset] => {
            let segment: SegmentName = segment.parse().ok()?;
            let is_placed = segment.timeline().file_digits() == *timeline && is_digits(offset, 8);
            is_placed.then_some(ObjectKind::Chunk)
        }
        ["backup", label, name] => of_backup(&layout, &label.parse().ok()?, name, key),
        ["log", "backup", name] => {
            let label: Option<Label> = name.strip_suffix(".json")?.parse().ok();
            label.map(|_| ObjectKind::BackupLog)
        }
        ["dump", name, time, "content"] => (is_word(name) && is_word(time)).then_some(ObjectKind::Dump),
        ["dump", name, time, "manifest.json"] => {
            (is_word(name) && is_word(time)).then_some(ObjectKind::DumpManifest)
        }
        ["drill", report] => is_word(report.strip_suffix(".json")?).then_some(ObjectKind::DrillReport),
        ["state", "verify.json"] => Some(ObjectKind::Ledger),
        ["state", "retention.json"] => Some(ObjectKind::RetentionState),
        ["finding", name] => ended(name, ".gone", ObjectKind::Finding, ObjectKind::FindingGone),
        ["task", kind, name] if is_word(kind) => {
            ended(name, ".result", ObjectKind::Task, ObjectKind::TaskResult)
        }
        _ => None,
    }
}

fn of_backup(layout: &Layout, label: &Label, name: &str, key: &ObjectKey) -> Option<ObjectKind> {
    let (place, kind) = match name {
        "running" => (layout.backup_running(label), ObjectKind::BackupRunning),
        "files" => (layout.backup_index(label), ObjectKind::BackupIndex),
        "backup_manifest" => (layout.postgres_manifest(label), ObjectKind::BackupPostgresManifest),
        "manifest.json" => (layout.stored_backup(label), ObjectKind::BackupManifest),
        "configuration" => return Some(ObjectKind::BackupConfiguration),
        numbered => {
            let (what, number) = numbered.split_once('-')?;
            let kind = match what {
                "pack" => {
                    let place = layout.backup_pack(label, number.parse().ok()?).ok()?;
                    return (place == *key).then_some(ObjectKind::BackupPack);
                }
                "child" => return number.parse::<Label>().ok().map(|_| ObjectKind::BackupChild),
                "expired" => ObjectKind::BackupExpired,
                "end" => ObjectKind::BackupExpiryEnd,
                "pin" => ObjectKind::BackupPin,
                "unpin" => ObjectKind::BackupPinEnd,
                _ => return None,
            };
            return is_number(number).then_some(kind);
        }
    };
    (place.ok()? == *key).then_some(kind)
}

/// A range of segments, each as the last 16 digits of its name.
fn of_range(name: &str) -> Option<ObjectKind> {
    let mut parts = name.split('-');
    let kind = match parts.next()? {
        "removed" => ObjectKind::WalRemoved,
        "gap" => ObjectKind::WalGap,
        _ => return None,
    };
    let (first, last) = (parts.next()?, parts.next()?);
    let is_range = is_digits(first, 16) && is_digits(last, 16) && first <= last && parts.next().is_none();
    is_range.then_some(kind)
}

/// One of two kinds: the second has a name with this ending.
fn ended(name: &str, ending: &str, without: ObjectKind, with: ObjectKind) -> Option<ObjectKind> {
    let (name, kind) = name.strip_suffix(ending).map_or((name, without), |name| (name, with));
    is_word(name).then_some(kind)
}

fn is_timeline(text: &str) -> bool {
    let timeline = u32::from_str_radix(text, 16).ok().and_then(TimelineId::new);
    timeline.is_some_and(|timeline| timeline.file_digits() == text)
}

/// Whether it is as many hexadecimal digits as PostgreSQL writes in names of WAL files.
fn is_digits(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte))
}

/// Whether it is a decimal number from 1, without leading zeros.
fn is_number(text: &str) -> bool {
    text.parse::<u32>().is_ok_and(|number| number > 0 && number.to_string() == text)
}

/// Whether it is a part of a key without a suffix: letters, digits, `_` and `-`.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}
