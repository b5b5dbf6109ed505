//! Errors for unknown keys: they suggest the nearest name, or list the choices.

use super::keys::{KEYS, Key, list};
use crate::error::Error;

/// The error for `name`, the full name of a key that is not in the table.
pub(super) fn unknown_key(name: &str) -> Error {
    let hint = match suggestions(name).as_slice() {
        [] => choices(name),
        [only] if name.contains('.') && !only.contains('.') => {
            format!("Did you mean \"{only}\"? It belongs above the first section.")
        }
        several => did_you_mean(several),
    };
    Error::usage(format!("unknown key \"{name}\"")).hint(hint)
}

/// The error for `name`, an empty section that is not in the table.
pub(super) fn unknown_section(name: &str) -> Error {
    let near = nearest(name, Key::sections().into_iter());
    let hint = if near.is_empty() { choices(name) } else { did_you_mean(&near) };
    Error::usage(format!("unknown section \"{name}\"")).hint(hint)
}

/// The names with the smallest edit distance from `name`, if it is at most a third of its letters.
fn nearest(name: &str, names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let limit = (name.chars().count() / 3).max(1);
    let mut best = limit;
    let mut found = Vec::new();
    for candidate in names {
        let distance = strsim::osa_distance(name, candidate);
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
        unknown_key(name).hint_text().unwrap().to_owned()
    }

    #[test]
    fn names_the_nearest_key() {
        assert_eq!(hint("repository.ulr"), "Did you mean \"repository.url\"?");
        assert_eq!(hint("repositry.url"), "Did you mean \"repository.url\"?");
        assert_eq!(hint("push_deadline_s"), "Did you mean \"push.deadline_s\"?");
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
            "The keys of [agent] are program, start, resident, idle_s, retry_max_s, workers, log_max_mib, nice and io_priority."
        );
        assert_eq!(hint("repository.encryption"), "The only key of [repository] is url.");
        assert_eq!(
            hint("retention.days"),
            "The sections are repository, connection, spool, compression, push, get, agent, backup, recover and s3."
        );
        assert_eq!(
            hint("x"),
            "The keys above the first section are cluster, data_directory, system_identifier and assume_version. The sections \
             are repository, connection, spool, compression, push, get, agent, backup, recover and s3."
        );
    }

    #[test]
    fn names_the_nearest_section() {
        let error = unknown_section("agnet");
        assert_eq!(error.report(), "unknown section \"agnet\"\nHINT: Did you mean \"agent\"?");
    }
}
