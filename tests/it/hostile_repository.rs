//! A repository written by an attacker: nothing is written outside the given directory, nothing in it can be started,
//! and memory use is limited.

use crate::support::hostile::{HostileBackup, after_first_frame, frame, frame_announcing};
use crate::support::{
    Process, Site, Story, create_private_directory, expect_not_startable, files_below, write_file,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A manipulation of a manifest.
type Change<'a> = &'a dyn Fn(&mut Value);

/// The files beside the target directory.
fn surroundings(story: &Story, into: &Path) -> BTreeSet<PathBuf> {
    let logs = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    let own =
        |path: &PathBuf| path.starts_with(into) || logs(path) || path.starts_with(story.primary.spool());
    files_below(story.site.directory()).into_iter().filter(|path| !own(path)).collect()
}

/// Recovers from the manipulated backup: rejected as damaged, without harm.
#[track_caller]
fn expect_refused(story: &Story, name: &str, what: &str) {
    let into = story.directory(name);
    let before = surroundings(story, &into);
    let refused = story.recover(&into, &["--target-immediate", "--backup", "first"]);
    assert_eq!(refused.code, Some(4), "{what}: {refused}");
    assert_eq!(surroundings(story, &into), before, "{what}");
    if into.exists() {
        assert!(!into.join("global/pg_control").exists(), "{what}");
        expect_not_startable(&into);
        fs::remove_dir_all(&into).unwrap();
    }
}

fn a_file<'a>(lines: &'a mut [Value], path: &str) -> &'a mut Value {
    lines.iter_mut().find(|line| line["path"] == path).unwrap()
}

/// An index with its lines sorted again.
fn sorted(lines: &mut [Value]) {
    lines.sort_by_key(|line| line["path"].as_str().unwrap_or_default().as_bytes().to_vec());
}

#[test]
fn no_path_of_a_backup_leads_out_of_the_directory_that_was_named() {
    let story = Story::tell();
    let backup = HostileBackup::of(&story.site.archive_of(&story.primary), "first");
    let outside = story.directory("evil").display().to_string();
    for path in [
        "../evil",
        "base/../../evil",
        "base/./evil",
        "base//evil",
        "base/",
        "..",
        "evil\u{0}",
        outside.as_str(),
        "pg_tblspc/../../evil",
        "PG_VERSION/evil",
        "no/such/directory",
    ] {
        for kind in ["file", "directory"] {
            backup.list(|lines| {
                let mut line = a_file(lines, "PG_VERSION").clone();
                (line["path"], line["kind"]) = (json!(path), json!(kind));
                lines.push(line);
                sorted(lines);
            });
            expect_refused(&story, "into", &format!("{kind} {path:?}"));
        }
    }
    backup.mend();
    story.recover(&story.directory("into"), &["--target-immediate", "--backup", "first"]).expect(0);
}

#[test]
fn an_index_that_lies_about_its_files_is_refused() {
    let story = Story::tell();
    let backup = HostileBackup::of(&story.site.archive_of(&story.primary), "first");
    let lies: [(&str, u64); 9] = [
        ("bytes", u64::MAX),
        ("bytes", 1 << 60),
        ("frame_offset", u64::MAX),
        ("frame_offset", 1),
        ("stored_bytes", u64::MAX),
        ("stored_bytes", 0),
        ("skip_bytes", u64::from(u32::MAX)),
        ("pack", 4_000_000_000),
        ("pack", 0),
    ];
    for (field, value) in lies {
        backup.list(|lines| a_file(lines, "PG_VERSION")[field] = json!(value));
        expect_refused(&story, "into", &format!("{field}: {value}"));
    }
    backup.list(|lines| {
        let twice = a_file(lines, "PG_VERSION").clone();
        lines.push(twice);
        sorted(lines);
    });
    expect_refused(&story, "into", "a path that is listed twice");
    backup.list(|lines| lines.retain(|line| line["path"] != "PG_VERSION"));
    expect_refused(&story, "into", "a file that is not listed");
    backup.list(|lines| a_file(lines, "PG_VERSION")["crc32c"] = json!("00000000"));
    expect_refused(&story, "into", "a checksum of other bytes");
    backup.list(|lines| a_file(lines, "PG_VERSION")["mode"] = json!("07777"));
    expect_refused(&story, "into", "a mode that is none");
    backup.list_one_long_line(256 << 20);
    expect_refused(&story, "into", "one line of 256 MiB");
}

#[test]
fn restored_files_get_no_permissions_beyond_what_postgresql_allows() {
    let story = Story::tell();
    let backup = HostileBackup::of(&story.site.archive_of(&story.primary), "first");
    backup.list(|lines| {
        a_file(lines, "PG_VERSION")["mode"] = json!("6777");
        a_file(lines, "base")["mode"] = json!("7777");
    });
    let into = story.directory("into");
    story.recover(&into, &["--target-immediate", "--backup", "first"]).expect(0);
    let mode = |path: &str| fs::metadata(into.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("PG_VERSION"), mode("base")), (0o640, 0o750));
}

#[test]
fn a_manifest_that_points_elsewhere_is_refused() {
    let story = Story::tell();
    let backup = HostileBackup::of(&story.site.archive_of(&story.primary), "first");
    let occupied = story.directory("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("theirs"), b"theirs").unwrap();
    let tablespace = |path: &str| json!([{ "oid": 16402, "name": "evil", "path": path }]);
    let changes: [(&str, Change); 7] = [
        ("another label", &|manifest| manifest["label"] = json!("../../evil")),
        ("another system", &|manifest| manifest["system_identifier"] = json!("7")),
        ("a relative tablespace", &|manifest| manifest["tablespaces"] = tablespace("../evil")),
        ("a winding tablespace", &|manifest| manifest["tablespaces"] = tablespace("/tmp/../evil")),
        ("packs without a number", &|manifest| manifest["packs"][0]["number"] = json!(77)),
        ("WAL of nowhere", &|manifest| manifest["wal_ranges"] = json!([])),
        ("an absurd segment", &|manifest| manifest["server"]["wal_segment_bytes"] = json!(3)),
    ];
    for (what, change) in changes {
        backup.tell(change);
        expect_refused(&story, "into", what);
    }
    // A repository must not be able to fill an existing nonempty directory.
    backup.tell(|manifest| manifest["tablespaces"] = tablespace(&occupied.display().to_string()));
    let into = story.directory("into");
    let refused = story.recover(&into, &["--target-immediate", "--backup", "first"]);
    assert!(matches!(refused.code, Some(2..=4)), "{refused}");
    assert_eq!(fs::read(occupied.join("theirs")).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(&occupied).unwrap().count(), 1);
}

#[test]
fn copies_of_configuration_files_stay_beside_the_data_directory() {
    let story = Story::tell();
    let backup = HostileBackup::of(&story.site.archive_of(&story.primary), "first");
    let outside = story.directory("evil.conf").display().to_string();
    backup.tell(|manifest| {
        manifest["configuration_files"] = json!([
            { "path": outside, "content": "evil" },
            { "path": "../../../../evil.conf", "content": "evil" },
        ]);
    });
    let into = story.directory("into");
    let recovered = story.recover(&into, &["--target-immediate", "--backup", "first"]);
    assert!(matches!(recovered.code, Some(0 | 4)), "{recovered}");
    let evil: Vec<PathBuf> =
        files_below(story.site.directory()).into_iter().filter(|path| path.ends_with("evil.conf")).collect();
    let beside = format!("{}.", into.display());
    assert!(evil.iter().all(|path| path.display().to_string().starts_with(&beside)), "{evil:?}");
}

#[test]
fn objects_that_grow_without_end_are_refused_in_bounded_memory() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let name = wal.name(9);
    cluster.archive_file(&name, wal.bytes(9, 1));
    let archive = site.archive_of(&cluster);
    // 4 MiB of zeros in some 16 KiB, a thousand times the announced size of the segment.
    let mut bomb = archive.stored(&name);
    let zeros = frame(&vec![0; 4 << 20]);
    for _ in 0..1000 {
        bomb.extend_from_slice(&zeros);
    }
    archive.replace(&name, &bomb);
    cluster.recover_from_archive();
    cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(126).says("more bytes than it announces");
    assert!(!cluster.has("pg_wal/RECOVERYXLOG"));
    assert!(peak_kib(cluster.agent()) < 100 << 10, "the agent took {} KiB", peak_kib(cluster.agent()));

    // A frame that announces more than the limit is rejected before any allocation for it.
    let mut absurd = archive.stored(&name);
    absurd.truncate(after_first_frame(&absurd));
    absurd.extend_from_slice(&frame_announcing(1 << 40));
    archive.replace(&name, &absurd);
    cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(126).says("more than the");
}

/// A file in place of a directory, and a directory in place of a file: a retry does not help.
#[test]
fn a_repository_of_another_shape_is_damaged() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let (name, next) = (wal.name(9), wal.name(10));
    cluster.archive_file(&name, wal.bytes(9, 1));
    cluster.put_wal(&next, wal.bytes(10, 1));
    cluster.recover_from_archive();
    let archive = site.archive_of(&cluster);
    let place = archive.path(&name);
    let directories: Vec<&Path> =
        place.ancestors().skip(1).take_while(|above| *above != site.repository()).collect();
    assert_eq!(directories.len(), 5, "log, timeline, wal, system and cluster");
    for directory in directories {
        let aside = site.directory().join("aside");
        fs::rename(directory, &aside).unwrap();
        write_file(directory, "a file");
        cluster.pgark(&["agent", "stop"]).run().expect(0);
        let refused = [
            cluster.push(&format!("pg_wal/{next}")).expect(4),
            cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(126),
        ];
        for outcome in refused {
            outcome
                .says(&format!("\"{}\" is not a directory", directory.display()))
                .says("HINT: Another program has written into the repository");
        }
        assert!(!cluster.has("pg_wal/RECOVERYXLOG"));
        fs::remove_file(directory).unwrap();
        fs::rename(&aside, directory).unwrap();
    }
    fs::remove_file(&place).unwrap();
    create_private_directory(&place);
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(126).says("is not a file");
    cluster.push(&format!("pg_wal/{next}")).expect(0);
}

/// The peak memory use of a process, in KiB.
fn peak_kib(process: Process) -> u64 {
    process.status_kib("VmHWM").unwrap()
}
