//! Holds the source to its layers: what may import what, who may make durable, who may print.
//!
//! The rules are the tables at the top. Sources are read as text: comments and literals are dropped, what is left is
//! cut into words, and paths are put together from them. That is less than a compiler knows (a path that a macro
//! pastes together is not seen), and it sees what a compiler forgets: `super::super::`, and paths without a `use`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// From the bottom to the top; a module imports those in the rows above its own, and itself. Modules of one row are
/// strangers to each other, save for [`NEIGHBOURS`].
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["postgres"],
    &["config"],
    &["failpoint"],
    &["durable", "data_directory"],
    &["spool"],
    &["push", "get"],
    // Here stands the wall: what is below needs the feature `companion`.
    &["monitor"],
    &["pace"],
    &["server"],
    &["codec"],
    &["store"],
    &["repository"],
    &["agent", "backup", "recover", "info", "extract", "check", "status", "verify", "retention"],
    &["terminal"],
    &["bin"],
];

/// The last row that the small programs may use.
const WALL: &str = "push";

/// Use cases that may use another one of their row: (who, whom).
const NEIGHBOURS: &[(&str, &str)] = &[
    // It shows what the agent says of itself.
    ("status", "agent"),
];

/// Calls on which durability hangs; only [`DURABLE`] makes them, outside of tests.
const DURABLE_CALLS: &[&str] = &[
    "sync_all",
    "sync_data",
    "fsync",
    "fdatasync",
    "syncfs",
    "renameat",
    "renameat2",
    "hard_link",
    "linkat",
    "unlink",
    "unlinkat",
    "persist",
    "persist_noclobber",
    "fs::rename",
    "fs::remove_file",
    "fs::remove_dir",
    "fs::remove_dir_all",
];

/// Who may make them.
const DURABLE: &str = "src/durable.rs";

/// Other files that may, each with its reason: (file, call).
const DURABLE_EXCEPTIONS: &[(&str, &str)] = &[];

/// What speaks to a person or ends the process: only in `bin/` and `terminal/`.
const LOUD: &[&str] = &["println", "eprintln", "print", "eprint", "dbg", "process::exit", "process::abort"];

/// Other files that may, each with its reason: (file, call).
const LOUD_EXCEPTIONS: &[(&str, &str)] = &[];

#[test]
fn the_source_keeps_to_its_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    collect(root, &root.join("src"), &mut sources);
    assert!(sources.len() > 5, "src/ was not found");
    let broken: Vec<String> = sources
        .iter()
        .flat_map(|(path, text)| violations(path, text))
        .map(|line| format!("  {line}\n"))
        .collect();
    assert!(
        broken.is_empty(),
        "the rules at the top of tests/architecture.rs are broken:\n{}",
        broken.concat()
    );
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    collect(root, &root.join("src"), &mut sources);
    assert_eq!(circles(&sources), Vec::<String>::new(), "move what they share into a file below all of them");
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("src/ is readable") {
        let path = entry.expect("src/ is readable").path();
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            sources.push((name, fs::read_to_string(&path).expect("sources are UTF-8")));
        }
    }
}

/// Every rule that the file `path` (`src/…`) with this content breaks, one line each.
fn violations(path: &str, text: &str) -> Vec<String> {
    let words = words(text);
    let file = SourceFile::new(path);
    let mut found = Vec::new();
    for used in paths(&words) {
        let here = format!("{path}:{}", used.line);
        if let Some(broken) = file.layer_broken_by(&used) {
            found.push(format!("{here}: {broken}"));
        }
        if used.in_test || file.is_test() {
            continue;
        }
        if let Some(call) = used.ends_with_one_of(DURABLE_CALLS)
            && path != DURABLE
            && !DURABLE_EXCEPTIONS.contains(&(path, call))
        {
            found.push(format!("{here}: {call} belongs into {DURABLE}"));
        }
        if let Some(call) = used.ends_with_one_of(LOUD)
            && (used.is_macro || call.contains("::"))
            && !matches!(file.layer(), Some("bin" | "terminal"))
            && !LOUD_EXCEPTIONS.contains(&(path, call))
        {
            found.push(format!("{here}: {call} belongs into bin/ or terminal/"));
        }
    }
    found.dedup();
    found
}

/// The circles of files that import each other, outside of tests: `a, b` each, sorted. What a file takes from the file of a
/// folder around it does not count, since that one also holds what its rooms share.
fn circles(sources: &[(String, String)]) -> Vec<String> {
    let module = |path: &str| SourceFile::new(path).module.join("/");
    let known: BTreeSet<String> = sources.iter().map(|(path, _)| module(path)).collect();
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources {
        let file = SourceFile::new(path);
        // A program's own modules are files of another crate.
        if file.is_test() || file.layer() == Some("bin") {
            continue;
        }
        let here = module(path);
        let used = paths(&words(text)).into_iter().filter(|used| !used.in_test);
        let targets = used.filter_map(|used| file.resolve(&used)).filter_map(|names| {
            let prefixes = (1..=names.len())
                .rev()
                .map(|length| names.iter().take(length).cloned().collect::<Vec<_>>().join("/"));
            prefixes.into_iter().find(|name| known.contains(name))
        });
        let around = |target: &str| here == target || here.starts_with(&format!("{target}/"));
        let found: BTreeSet<String> = targets.filter(|target| !around(target)).collect();
        imports.entry(here).or_default().extend(found);
    }
    let reachable = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut ahead = vec![from];
        while let Some(next) = ahead.pop() {
            for target in imports.get(next).into_iter().flatten() {
                if seen.insert(target.clone()) {
                    ahead.push(target);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        imports.keys().map(|name| (name, reachable(name))).collect();
    let leads = |from: &String, to: &String| reached.get(from).is_some_and(|seen| seen.contains(to));
    let circle_of = |name: &String| {
        let members = imports.keys().filter(|other| leads(name, other) && leads(other, name));
        members.map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    let found: BTreeSet<String> = imports.keys().filter(|name| leads(name, name)).map(circle_of).collect();
    found.into_iter().collect()
}

/// Where a file stands.
struct SourceFile {
    /// `["spool", "client"]` for `src/spool/client.rs`; empty for `src/lib.rs`.
    module: Vec<String>,
    small_program: bool,
}

impl SourceFile {
    fn new(path: &str) -> SourceFile {
        let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
        let module = inner.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
        SourceFile {
            module: module.map(str::to_owned).collect(),
            small_program: inner.starts_with("bin/archive-"),
        }
    }

    fn layer(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }

    /// Whether the file is `#[cfg(test)] mod tests;` of another.
    fn is_test(&self) -> bool {
        self.module.last().is_some_and(|name| name == "tests")
    }

    /// What is wrong with using this path here, if it leads into the crate.
    fn layer_broken_by(&self, used: &UsedPath) -> Option<String> {
        let absolute = self.resolve(used)?;
        let layer = self.layer()?;
        let Some(target) = absolute.first() else {
            return Some("imports the whole crate; name the module".to_owned());
        };
        if target == layer || (layer == "bin" && self.is_own_module_of_a_program(used)) {
            return None;
        }
        let Some(own) = row(layer) else {
            return Some(format!("\"{layer}\" has no place in LAYERS"));
        };
        let Some(other) = row(target) else {
            return Some(format!("\"{target}\" has no place in LAYERS"));
        };
        if other > own || (other == own && !NEIGHBOURS.contains(&(layer, target))) {
            return Some(format!("{layer} must not import {target}"));
        }
        if self.small_program && Some(other) > row(WALL) {
            return Some(format!("a small program must not import {target}: it is behind the wall"));
        }
        None
    }

    /// The path from the crate's root, or nothing when it leads elsewhere (or `lib.rs`, the map, names it).
    fn resolve(&self, used: &UsedPath) -> Option<Vec<String>> {
        let (first, mut rest) = used.names.split_first()?;
        if rest.is_empty() {
            return None; // `pub(crate)`
        }
        let mut base = match first.as_str() {
            "crate" | "pgark" => Vec::new(),
            "super" => self.module.iter().chain(&used.inside).cloned().collect(),
            _ => return None,
        };
        if first == "super" {
            base.pop()?;
            while let Some((name, further)) = rest.split_first()
                && name == "super"
            {
                base.pop()?;
                rest = further;
            }
        }
        base.extend(rest.iter().filter(|name| !matches!(name.as_str(), "self" | "*")).cloned());
        Some(base)
    }

    /// In a program, `crate::` and `super::` are the program itself, not the library.
    fn is_own_module_of_a_program(&self, used: &UsedPath) -> bool {
        used.names.first().is_some_and(|first| first != "pgark")
    }
}

fn row(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// A path that a source names: of a `use`, each leaf of its tree, or in an expression or type. A word alone is one too.
#[derive(Debug)]
struct UsedPath {
    names: Vec<String>,
    line: usize,
    is_macro: bool,
    in_test: bool,
    /// The inline modules around it.
    inside: Vec<String>,
}

impl UsedPath {
    /// The first of `calls` (`name` or `module::name`) that this path ends with.
    fn ends_with_one_of(&self, calls: &'static [&'static str]) -> Option<&'static str> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        calls.iter().find(|call| names.ends_with(&call.split("::").collect::<Vec<_>>())).copied()
    }
}

/// A word of the source (a name, or one mark; `::` is one mark) and its line.
type Word = (String, usize);

/// An open block: the inline module it is, and whether it is one of tests.
struct Block {
    module: Option<String>,
    is_test: bool,
}

fn paths(words: &[Word]) -> Vec<UsedPath> {
    let word = |at: usize| words.get(at).map_or("", |(text, _)| text.as_str());
    let is_at =
        |at: usize, marks: &[&str]| marks.iter().enumerate().all(|(step, mark)| word(at + step) == *mark);
    let mut found = Vec::new();
    let mut blocks: Vec<Block> = Vec::new();
    let (mut test_ahead, mut module_ahead) = (false, None);
    let mut at = 0;
    while at < words.len() {
        let in_test = test_ahead || blocks.iter().any(|block| block.is_test);
        if is_at(at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            test_ahead = true;
            at += 7;
            continue;
        }
        match word(at) {
            "mod" if is_name(word(at + 1)) => module_ahead = Some(word(at + 1).to_owned()),
            "{" => {
                blocks.push(Block { module: module_ahead.take(), is_test: test_ahead });
                test_ahead = false;
            }
            "}" => {
                blocks.pop();
            }
            ";" => (test_ahead, module_ahead) = (false, None),
            name if is_name(name) => {
                let mut leaves = Vec::new();
                let end = read_tree(words, at, &[], &mut leaves);
                let inside: Vec<String> = blocks.iter().filter_map(|block| block.module.clone()).collect();
                let is_macro = word(end) == "!";
                found.extend(leaves.into_iter().map(|(names, line)| UsedPath {
                    names,
                    line,
                    is_macro,
                    in_test,
                    inside: inside.clone(),
                }));
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads one path or tree of paths (`a::{b, c::*}`) at `at`; returns where it ends.
fn read_tree(
    words: &[Word],
    mut at: usize,
    before: &[String],
    leaves: &mut Vec<(Vec<String>, usize)>,
) -> usize {
    let word = |at: usize| words.get(at).map_or("", |(text, _)| text.as_str());
    let line = words.get(at).map_or(0, |(_, line)| *line);
    let mut names = before.to_vec();
    loop {
        match word(at) {
            "{" => {
                at += 1;
                while !matches!(word(at), "}" | "") {
                    at = if word(at) == "," { at + 1 } else { read_tree(words, at, &names, leaves) };
                }
                return at + 1;
            }
            name => {
                names.push(name.to_owned());
                at += 1;
            }
        }
        if word(at) == "::" && (is_name(word(at + 1)) || matches!(word(at + 1), "{" | "*")) {
            at += 1;
            continue;
        }
        if word(at) == "as" && !before.is_empty() {
            at += 2;
        }
        leaves.push((names, line));
        return at;
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Cuts a source into words, without comments, literals and lifetimes.
fn words(text: &str) -> Vec<Word> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment_length(rest),
            '"' => string_length(rest),
            'r' | 'b' | 'c' if literal_prefix(rest).is_some() => literal_prefix(rest).unwrap_or(1),
            '\'' => quote_length(rest),
            _ if is_name(rest) => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                found.push((rest[..end].to_owned(), line));
                end
            }
            _ if rest.starts_with("::") => {
                found.push(("::".to_owned(), line));
                2
            }
            _ => {
                if !first.is_whitespace() {
                    found.push((first.to_string(), line));
                }
                first.len_utf8()
            }
        };
        let (read, further) = rest.split_at(length);
        line += read.matches('\n').count();
        rest = further;
    }
    found
}

/// Block comments nest.
fn comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// A string in quotation marks, from its first to behind its last.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"…"`, `br#"…"#`, `b"…"`, `c"…"` or `b'…'`, if the text begins with one.
fn literal_prefix(text: &str) -> Option<usize> {
    let prefix = text.find(|c| !matches!(c, 'r' | 'b' | 'c'))?;
    let (letters, body) = text.split_at(prefix);
    if body.starts_with('\'') {
        return (letters == "b").then(|| prefix + quote_length(body));
    }
    let hashes = body.len() - body.trim_start_matches('#').len();
    if !body[hashes..].starts_with('"') || (hashes > 0 && !letters.ends_with('r')) {
        return None;
    }
    if !letters.ends_with('r') {
        return Some(prefix + string_length(body));
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let inner = hashes + 1;
    Some(body[inner..].find(&end).map_or(text.len(), |at| prefix + inner + at + end.len()))
}

/// A character (`'a'`, `'\''`, `'\u{1F}'`) whole, or only the mark of a lifetime.
fn quote_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => {
            characters.next();
            characters.find(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1)
        }
        Some(_) => match characters.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

// --- The rules themselves can fail: small made-up sources that break each -------------------------------------------

fn assert_breaks(path: &str, text: &str, expected: &str) {
    let found = violations(path, text);
    let only_expected = matches!(found.as_slice(), [only] if only.contains(expected));
    assert!(only_expected, "{path}: {text}\nexpected {expected}, found {found:?}");
}

fn assert_keeps(path: &str, text: &str) {
    assert_eq!(violations(path, text), Vec::<String>::new(), "{path}: {text}");
}

#[test]
fn circles_are_found() {
    let source = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let round = [
        source("src/store/mod.rs", "mod a; mod b; mod c; pub struct Shared;"),
        source("src/store/a.rs", "use super::{Shared, b::B};"),
        source("src/store/b.rs", "fn f() { crate::store::c::g() }"),
        source("src/store/c.rs", "use super::a;"),
        source("src/store/d.rs", "use super::a::A; #[cfg(test)] mod tests { use crate::store::e; }"),
        source("src/store/e.rs", "use super::d;"),
    ];
    assert_eq!(circles(&round), ["store/a, store/b, store/c"]);
    assert_eq!(circles(&round[..3]), Vec::<String>::new());
}

#[test]
fn imports_upwards_are_found() {
    assert_breaks(
        "src/error.rs",
        "use crate::postgres::Lsn;",
        "src/error.rs:1: error must not import postgres",
    );
    assert_breaks(
        "src/postgres/lsn.rs",
        "\n\nuse crate::config::Config;",
        ":3: postgres must not import config",
    );
    assert_breaks("src/spool/client.rs", "fn f() { crate::push::run() }", "spool must not import push");
    assert_breaks(
        "src/store/mod.rs",
        "use crate::{error, repository::{self, wal}};",
        "store must not import repo",
    );
    assert_breaks("src/codec/lz4.rs", "use super::super::store::Store;", "codec must not import store");
    assert_breaks("src/push.rs", "use super::agent;", "push must not import agent");
    assert_breaks("src/push.rs", "mod a { use super::super::agent; }", "push must not import agent");
    assert_breaks(
        "src/monitor.rs",
        "pub(crate) use pgark::terminal as t;",
        "monitor must not import terminal",
    );
    assert_breaks(
        "src/codec/mod.rs",
        "#[cfg(test)] mod tests { use crate::agent::A; }",
        "codec must not import",
    );
    assert_keeps("src/error.rs", "use std::fmt; use super_cool::x; use postgres::x; use nix::agent;");
    assert_keeps("src/agent/upload.rs", "use crate::{error::Result, store::{Store, directory as d}, spool};");
    assert_keeps(
        "src/agent/upload.rs",
        "use super::listener::Listener; mod x { use super::*; use super::super::y; }",
    );
    assert_keeps("src/lib.rs", "pub mod error; pub use crate::error::Error;");
}

#[test]
fn neighbours_and_strangers_are_found() {
    assert_breaks("src/push.rs", "use crate::get::x;", "push must not import get");
    assert_breaks("src/backup/mod.rs", "use crate::recover::Plan;", "backup must not import recover");
    assert_breaks("src/spool/mod.rs", "use crate::utils::Thing;", "\"utils\" has no place in LAYERS");
    assert_breaks("src/utils.rs", "use crate::error::Error;", "\"utils\" has no place in LAYERS");
    assert_breaks("src/agent/mod.rs", "use crate::*;", "imports the whole crate");
}

#[test]
fn the_wall_holds_for_the_small_programs() {
    assert_breaks("src/bin/archive-push.rs", "fn main() { pgark::store::x() }", "behind the wall");
    assert_keeps("src/bin/archive-push.rs", "use pgark::{push, config::Config};");
    assert_keeps(
        "src/bin/pgark/main.rs",
        "mod arguments; use crate::arguments::A; use pgark::agent; use pgark::terminal;",
    );
    assert_keeps("src/bin/pgark/base_backup.rs", "use super::arguments::A; use pgark::backup;");
}

#[test]
fn calls_that_make_durable_are_found_outside_their_place() {
    assert_breaks(
        "src/store/directory.rs",
        "fn f(a: File) { a.sync_all(); }",
        "sync_all belongs into src/durable.rs",
    );
    assert_breaks("src/store/directory.rs", "use std::fs::{self, rename};", "fs::rename belongs");
    assert_breaks(
        "src/store/directory.rs",
        "fn f() { tokio::fs::remove_file(a) }",
        "fs::remove_file belongs",
    );
    assert_breaks("src/spool/mod.rs", "fn f() { nix::fcntl::renameat2(a) }", "renameat2 belongs");
    assert_keeps("src/durable.rs", "fn f() { fs::rename(a, b); file.sync_all(); }");
    assert_keeps(
        "src/store/directory.rs",
        "fn f(disk: &dyn Disk) { disk.remove_file(a); disk.rename_new(a, b); }",
    );
    assert_keeps(
        "src/store/directory.rs",
        "#[cfg(test)] mod tests { fn f() { if a { } fs::remove_file(a) } }",
    );
    assert_breaks(
        "src/spool/mod.rs",
        "#[cfg(test)] mod tests { fn f() {} } fn g() { fs::remove_file(a) }",
        "belongs",
    );
    assert_breaks("src/spool/mod.rs", "#[cfg(test)] use a::b; fn g() { fs::remove_file(a) }", "belongs");
}

#[test]
fn output_and_exits_are_found_below_the_programs() {
    assert_breaks("src/push.rs", "fn f() { println!(\"a\") }", "println belongs into bin/ or terminal/");
    assert_breaks("src/push.rs", "fn f() { std::process::exit(1) }", "process::exit belongs");
    assert_keeps("src/bin/archive-push.rs", "fn f() { eprintln!(\"a\"); std::process::exit(1) }");
    assert_keeps("src/terminal/table.rs", "fn f() { println!(\"a\") }");
    assert_keeps("src/push.rs", "fn print() {} fn f() { page.print(); write!(out, \"println!\") }");
}

#[test]
fn comments_and_literals_are_not_source() {
    assert_keeps(
        "src/error.rs",
        r###"
        //! [`crate::agent`]
        /* a.sync_all() /* nested */ crate::agent */
        const A: &str = "crate::agent \" fs::rename";
        const B: &str = r#"" crate::agent"#;
        const C: char = '"'; const D: u8 = b'\''; const E: char = '\u{22}';
        fn f<'a>(a: &'a str) {}
        const F: &[u8] = b"crate::agent"; const G: &[u8] = br"crate::agent\";
        "###,
    );
    assert_breaks("src/error.rs", "const A: char = '\"'; use crate::agent;", "error must not import agent");
    assert_breaks(
        "src/error.rs",
        "fn f<'a>(a: &'a str) { crate::agent::b() }",
        "error must not import agent",
    );
}
