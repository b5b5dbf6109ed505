//! Errors for unknown keys: they suggest the nearest name, or list the choices.

use super::keys::{KEYS, Key, list};
use super::value::with_unit;
use crate::error::Error;
use toml::de::DeValue;

/// Names of units as the end of a key's name, and the same unit in a value.
const UNITS_IN_NAMES: [(&str, &str); 17] = [
    ("us", "us"),
    ("ms", "ms"),
    ("s", "s"),
    ("sec", "s"),
    ("seconds", "s"),
    ("min", "min"),
    ("minutes", "min"),
    ("h", "h"),
    ("hours", "h"),
    ("d", "d"),
    ("days", "d"),
    ("bytes", "B"),
    ("kib", "kB"),
    ("mb", "MB"),
    ("mib", "MB"),
    ("gb", "GB"),
    ("gib", "GB"),
];

/// The error for `name`, the full name of a key that is not in the table, with its value.
pub(super) fn unknown_key(name: &str, value: &DeValue<'_>) -> Error {
    let number = match value {
        DeValue::Integer(digits) => digits.as_str(),
        DeValue::String(text) => text,
        _ => "",
    };
    let with_unit = unit_in_value(name, number, |key| key.name.to_owned());
    let hint = match (with_unit, suggestions(name).as_slice()) {
        (Some((key, value)), _) => format!("The unit is part of the value: {} = \"{value}\".", key.name),
        (None, []) => choices(name),
        (None, [only]) if name.contains('.') && !only.contains('.') => {
            format!("Did you mean \"{only}\"? It belongs above the first section.")
        }
        (None, several) => did_you_mean(several),
    };
    Error::usage(format!("unknown key \"{name}\"")).hint(hint)
}

/// The error for `name`, a variable that is neither a setting nor another variable of pgark, with its value.
pub(super) fn unknown_variable(name: &str, value: &str) -> Error {
    let hint = match unit_in_value(name, value, Key::variable) {
        Some((key, value)) => format!("The unit is part of the value: {}={value}.", key.variable()),
        None => match nearest(name, KEYS.iter().map(Key::variable)).as_slice() {
            [] => "The variable of push.deadline is PGARK_PUSH_DEADLINE; pgark config lists all settings."
                .to_owned(),
            near => format!("Did you mean {}?", list(near, "or")),
        },
    };
    Error::usage(format!("unknown variable {name}")).hint(hint)
}

/// The key that `name` means if it ends in a unit, and `number` with this unit: `push.deadline_s = 60` is
/// `push.deadline = "60s"`. `spelled` is how a key is named.
fn unit_in_value(
    name: &str,
    number: &str,
    spelled: impl Fn(&Key) -> String,
) -> Option<(&'static Key, String)> {
    let (stem, end) = name.rsplit_once('_')?;
    let (_, unit) = UNITS_IN_NAMES.iter().find(|(found, _)| *found == end.to_ascii_lowercase())?;
    let keys = KEYS.iter().filter(|key| key.kind.units().iter().any(|(name, _)| name == unit));
    let exact = keys.clone().find(|key| spelled(key) == stem);
    // `s3.part_mib` is `s3.part_size`.
    let longer =
        || keys.clone().find(|key| spelled(key).strip_prefix(stem).is_some_and(|rest| rest.starts_with('_')));
    let key = exact.or_else(longer)?;
    Some((key, with_unit(key, number, unit)))
}

/// The error for `name`, an empty section that is not in the table.
pub(super) fn unknown_section(name: &str) -> Error {
    let near = nearest(name, Key::sections().into_iter());
    let hint = if near.is_empty() { choices(name) } else { did_you_mean(&near) };
    Error::usage(format!("unknown section \"{name}\"")).hint(hint)
}

/// The names with the smallest edit distance from `name`, if it is at most a third of its letters.
fn nearest<T: AsRef<str>>(name: &str, names: impl Iterator<Item = T>) -> Vec<T> {
    let limit = (name.chars().count() / 3).max(1);
    let mut best = limit;
    let mut found = Vec::new();
    for candidate in names {
        let distance = strsim::osa_distance(name, candidate.as_ref());
        if distance < best {
            found.clear();
            best = distance;
        }
        if distance == best {
            found.push(candidate);
        }
    }
    found
}

/// Suggestions: keys with the same name in another section, else keys with similar spelling.
fn suggestions(name: &str) -> Vec<&'static str> {
    let leaf = name.rsplit_once('.').map_or(name, |(_, leaf)| leaf);
    let same_leaf: Vec<_> = KEYS.iter().filter(|key| key.leaf() == leaf).map(|key| key.name).collect();
    if same_leaf.is_empty() {
        return nearest(name, KEYS.iter().map(|key| key.name));
    }
    let near = nearest(name, same_leaf.iter().copied());
    if near.is_empty() { same_leaf } else { near }
}

fn did_you_mean(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("Did you mean {}?", list(&quoted, "or"))
}

/// The names that are valid in the place of `name`.
fn choices(name: &str) -> String {
    let section = name.split_once('.').map_or("", |(section, _)| section);
    let leaves: Vec<_> = KEYS.iter().filter(|key| key.section() == section).map(Key::leaf).collect();
    match (section, leaves.as_slice()) {
        ("", _) => format!(
            "The keys above the first section are {}. The sections are {}.",
            list(&leaves, "and"),
            list(&Key::sections(), "and")
        ),
        (_, []) => format!("The sections are {}.", list(&Key::sections(), "and")),
        (_, [only]) => format!("The only key of [{section}] is {only}."),
        _ => format!("The keys of [{section}] are {}.", list(&leaves, "and")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(name: &str) -> String {
        unknown_key(name, &DeValue::Boolean(true)).hint_text().unwrap().to_owned()
    }

    #[test]
    fn moves_a_unit_from_the_name_into_the_value() {
        for (line, hint) in [
            ("push.deadline_s = 90", "push.deadline = \"90s\""),
            ("push.deadline_ms = 90000", "push.deadline = \"90000ms\""),
            ("agent.retry_max_seconds = \"10\"", "agent.retry_max = \"10s\""),
            ("get.prefetch_max_mib = 0", "get.prefetch_max = \"0MB\""),
            ("backup.max_rate_mib = 50", "backup.max_rate = \"50MB\""),
            ("s3.part_mib = 16", "s3.part_size = \"16MB\""),
            ("s3.part_mib = 1", "s3.part_size = \"8MB\""),
            ("s3.object_lock_days = 30", "s3.object_lock_retention = \"30d\""),
            ("recover.fork_window_s = 60", "recover.fork_window = \"60s\""),
            ("recover.prove_wal_GiB = 2", "recover.prove_wal = \"2GB\""),
        ] {
            let (name, value) = line.split_once(" = ").unwrap();
            let error = unknown_key(name, DeValue::parse(value).unwrap().get_ref());
            assert_eq!(
                error.report(),
                format!("unknown key \"{name}\"\nHINT: The unit is part of the value: {hint}.")
            );
        }
        assert_eq!(hint("agent.nice_s"), "Did you mean \"agent.nice\"?");
    }

    #[test]
    fn names_the_nearest_key() {
        assert_eq!(hint("repository.ulr"), "Did you mean \"repository.url\"?");
        assert_eq!(hint("repositry.url"), "Did you mean \"repository.url\"?");
        assert_eq!(hint("push_deadline"), "Did you mean \"push.deadline\"?");
        assert_eq!(hint("'repository.url'"), "Did you mean \"repository.url\"?");
        assert_eq!(hint("backupp.workers"), "Did you mean \"backup.workers\"?");
        assert_eq!(hint("clutser"), "Did you mean \"cluster\"?");
    }

    #[test]
    fn names_the_key_of_another_section() {
        assert_eq!(
            hint("workers"),
            "Did you mean \"agent.workers\", \"backup.workers\" or \"recover.workers\"?"
        );
        assert_eq!(
            hint("repository.cluster"),
            "Did you mean \"cluster\"? It belongs above the first section."
        );
    }

    #[test]
    fn lists_the_choices_when_nothing_is_near() {
        assert_eq!(
            hint("agent.colour"),
            "The keys of [agent] are program, start, resident, idle, retry_max, workers, log_max, nice and io_priority."
        );
        assert_eq!(hint("repository.encryption"), "The only key of [repository] is url.");
        assert_eq!(
            hint("retention.days"),
            "The sections are repository, connection, spool, compression, push, get, agent, log, backup, recover and s3."
        );
        assert_eq!(
            hint("x"),
            "The keys above the first section are cluster, data_directory, system_identifier and assume_version. The sections \
             are repository, connection, spool, compression, push, get, agent, log, backup, recover and s3."
        );
    }

    #[test]
    fn names_the_nearest_section() {
        let error = unknown_section("agnet");
        assert_eq!(error.report(), "unknown section \"agnet\"\nHINT: Did you mean \"agent\"?");
    }
}
