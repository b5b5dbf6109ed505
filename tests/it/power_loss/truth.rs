//! Compares the programs' record with the system calls that the kernel saw.

use super::SEGMENT;
use crate::support::{Operation, PATIENCE, Recording, Run, Site, wait_until};
use std::path::Path;

/// The calls on which durability depends.
const CALLS: &str = "fsync,fdatasync,syncfs,sync,sync_file_range,rename,renameat,renameat2,link,linkat,unlink,unlinkat,\
                     rmdir,mkdir,mkdirat,symlink,symlinkat";

/// The operation of a call in the output of `strace -y`, in the words of the record; `None` for a failed call.
fn operation_of(line: &str) -> Option<String> {
    let (call, rest) = line.split_once('(')?;
    let call = call.rsplit(' ').next()?;
    if !line.contains(" = 0") {
        return None;
    }
    let quoted: Vec<&str> = rest.split('"').skip(1).step_by(2).collect();
    let descriptor = || rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path);
    let last = quoted.last().copied().unwrap_or_default();
    Some(match call {
        "fdatasync" => format!("sync-file {}", descriptor()?),
        "fsync" => format!("sync-directory {}", descriptor()?),
        "syncfs" => "sync-file-system".to_owned(),
        "rename" | "renameat" | "renameat2" => {
            let name = if rest.contains("RENAME_NOREPLACE") { "rename-new" } else { "rename-over" };
            format!("{name} {} {last}", quoted.first()?)
        }
        "link" | "linkat" => format!("name {last}"),
        "unlinkat" if rest.contains("AT_REMOVEDIR") => format!("remove-directory {last}"),
        "unlink" | "unlinkat" => format!("remove-file {last}"),
        "rmdir" => format!("remove-directory {last}"),
        "mkdir" | "mkdirat" => format!("create-directory {last}"),
        "symlink" | "symlinkat" => format!("create-link {last}"),
        other => other.to_owned(),
    })
}

/// The same for an entry of the record; `None` for creating a file or writing to it.
fn recorded(operation: &Operation) -> Option<String> {
    let durable = !matches!(
        operation.name.as_str(),
        "create"
            | "write"
            | "write-over-start"
            | "write-at"
            | "set-length"
            | "failed"
            | "create-nameless"
            | "copy"
    );
    let parts = [operation.name.as_str(), &operation.path, &operation.other];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    durable.then(|| parts.join(" "))
}

fn below(line: &str, directory: &Path) -> bool {
    line.contains(&directory.display().to_string())
}

#[test]
fn the_record_is_what_the_kernel_saw() {
    let strace = Path::new("/usr/bin/strace");
    assert!(strace.is_file(), "strace is missing: scripts/test installs it");
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let recording = Recording::new(&site, "record");
    let trace = site.directory().join("record/trace");
    let agent = Run::new(strace)
        .args(["-f", "-y", "-qq", "-s", "4096", "-e"])
        .arg(format!("trace={CALLS}"))
        .arg("-o");
    let agent = agent.arg(&trace).arg(crate::support::pgark_program("pgark"));
    let agent = recording.of(agent.arg("agent").arg("--config").arg(&cluster.config.path)).spawn();
    wait_until("the agent listens", PATIENCE, || {
        let entries = std::fs::read_dir(cluster.spool()).into_iter().flatten();
        entries.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "sock"))
    });
    for number in SEGMENT..SEGMENT + 3 {
        cluster.put_wal(&wal.name(number), wal.bytes(number, 1));
        cluster.push(&format!("pg_wal/{}", wal.name(number))).expect(0);
    }
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    agent.wait().expect(0);

    let repository = site.repository();
    let text = std::fs::read_to_string(&trace).unwrap();
    // If two threads make calls at once, strace splits each call into two lines.
    assert!(!text.contains("<unfinished") || text.contains("resumed>"), "{text}");
    let mut seen: Vec<String> = joined(&text)
        .iter()
        .filter(|line| below(line, &repository))
        .filter_map(|line| operation_of(line))
        .collect();
    let mut told: Vec<String> = recording
        .operations()
        .iter()
        .filter(|operation| operation.is_below(&repository))
        .filter_map(recorded)
        .collect();
    assert!(seen.len() > 20, "{text}");
    seen.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, seen, "what was written down, and what the kernel saw");
}

/// Complete calls, each preceded by its process: joins `call(… <unfinished ...>` and `<... call resumed>…) = 0`.
fn joined(text: &str) -> Vec<String> {
    let mut begun: std::collections::HashMap<&str, String> = std::collections::HashMap::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let process = line.split(' ').next().unwrap_or_default();
        if let Some(start) = line.strip_suffix(" <unfinished ...>") {
            begun.insert(process, start.to_owned());
        } else if let Some((_, rest)) = line.split_once(" resumed>") {
            lines.push(begun.remove(process).unwrap_or_default() + rest);
        } else {
            lines.push(line.to_owned());
        }
    }
    lines
}
