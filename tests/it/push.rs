//! `archive-push`: the files that it accepts and rejects, and its answers to PostgreSQL.

use crate::support::checker::{Acknowledged, Tree, expect_sound};
use crate::support::{
    Archive, Cluster, FakeWal, PATIENCE, Run, Site, Stop, history, pgark_program, wait_until,
};
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

/// A stopped cluster with one more segment in its `pg_wal`; returns the segment's name.
fn cluster_with_segment(site: &Site) -> (Cluster, String) {
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let name = wal.name(SEGMENT);
    cluster.put_wal(&name, wal.bytes(SEGMENT, 1));
    (cluster, name)
}

fn push(cluster: &Cluster, name: &str) -> crate::support::Outcome {
    cluster.push(&format!("pg_wal/{name}"))
}

fn is_empty(archive: &Archive) -> bool {
    archive.names().is_empty()
}

#[test]
fn a_running_server_archives() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.append_conf("wal_keep_size = '64MB'\n"); // the segments stay, to be compared
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    let segments: Vec<String> = (0..3)
        .map(|round| {
            primary.psql(&format!("INSERT INTO t SELECT generate_series(1, 1000) + {round}"));
            primary.switch_wal()
        })
        .collect();
    primary.wait_archived(&segments[2]);
    assert_eq!(primary.psql("SELECT archived_count >= 3, failed_count FROM pg_stat_archiver"), "t|0");
    let archive = site.archive_of(&primary);
    for name in &segments {
        assert_eq!(archive.raw(name), primary.read(&format!("pg_wal/{name}")), "{name}");
    }
}

#[test]
fn every_codec_can_be_read_with_stock_tools() {
    for method in ["lz4", "zstd", "none"] {
        let site = Site::without_server();
        let (mut cluster, name) = cluster_with_segment(&site);
        cluster.config.set("compression.method", method);
        push(&cluster, &name).expect(0);
        let archive = site.archive_of(&cluster);
        assert_eq!(archive.raw(&name), cluster.read(&format!("pg_wal/{name}")), "{method}");
        let (stored, raw) = (archive.stored(&name).len(), archive.raw(&name).len());
        assert_eq!(stored < raw * 3 / 4, method != "none", "{method}: {stored} of {raw} bytes");
    }
}

#[test]
fn the_same_bytes_again_succeed() {
    let site = Site::without_server();
    let (cluster, name) = cluster_with_segment(&site);
    push(&cluster, &name).expect(0);
    let before = site.archive_of(&cluster).stored(&name);
    push(&cluster, &name).expect(0);
    cluster.agent().kill(); // another agent knows it from the repository alone
    push(&cluster, &name).expect(0);
    assert_eq!(site.archive_of(&cluster).stored(&name), before);
}

#[test]
fn other_bytes_under_a_stored_name_are_refused_and_the_first_stay() {
    let site = Site::without_server();
    let (cluster, name) = cluster_with_segment(&site);
    push(&cluster, &name).expect(0);
    let before = site.archive_of(&cluster).stored(&name);
    cluster.put_wal(&name, cluster.fake_wal().bytes(SEGMENT, 2));
    push(&cluster, &name).expect(4).says(&name).says("HINT:");
    assert_eq!(site.archive_of(&cluster).stored(&name), before);
    // The right content again: the error concerned that content, not the name.
    cluster.put_wal(&name, cluster.fake_wal().bytes(SEGMENT, 1));
    push(&cluster, &name).expect(0);
}

#[test]
fn two_pushes_of_one_segment_at_once_both_succeed() {
    let site = Site::without_server();
    let (cluster, name) = cluster_with_segment(&site);
    let start = || cluster.program("archive-push").arg(format!("pg_wal/{name}")).spawn();
    let (one, two) = (start(), start());
    one.wait().expect(0);
    two.wait().expect(0);
    let archive = site.archive_of(&cluster);
    assert_eq!(archive.names(), [name.as_str()]);
    let others: Vec<_> = archive.files().into_iter().filter(|path| *path != archive.path(&name)).collect();
    assert!(others.iter().all(|path| path.ends_with("format.json")), "{others:?}");
}

#[test]
fn two_servers_with_other_bytes_cannot_both_succeed() {
    let site = Site::without_server();
    let (cluster, name) = cluster_with_segment(&site);
    let other = site.cluster("other");
    other.put_wal(&name, other.fake_wal().bytes(SEGMENT, 2));
    let start = |cluster: &Cluster| cluster.program("archive-push").arg(format!("pg_wal/{name}")).spawn();
    let (one, two) = (start(&cluster), start(&other));
    let (one, two) = (one.wait(), two.wait());
    let winner = match (one.code, two.code) {
        (Some(0), Some(4)) => &cluster,
        (Some(4), Some(0)) => &other,
        _ => panic!("one must win and one be refused:\n{one}\n{two}"),
    };
    let archive = site.archive_of(&cluster);
    assert_eq!(archive.names(), [name.as_str()]);
    assert_eq!(archive.raw(&name), winner.read(&format!("pg_wal/{name}")));
}

#[test]
fn segments_that_are_not_what_their_name_says_are_refused() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let archive = site.archive_of(&cluster);
    let wal = cluster.fake_wal();
    let good = wal.bytes(SEGMENT, 1);
    let foreign = FakeWal { system_identifier: wal.system_identifier ^ 1, ..wal };
    let other_magic = FakeWal { magic: 0xD0FF, ..wal };
    let other_size = FakeWal { segment_size: 2 * wal.segment_size, ..wal };
    // Of the same system, but of another major version.
    let other_version = FakeWal { magic: if wal.magic == 0xD10D { 0xD113 } else { 0xD10D }, ..wal };
    let mut wrong_size_in_header = good.clone();
    wrong_size_in_header[32..36].copy_from_slice(&other_size.bytes(0, 1)[32..36]);
    let name = wal.name(SEGMENT);
    let cases: [(&str, &[u8], &str); 10] = [
        ("truncated", &good[..good.len() / 2], ""),
        ("one byte short", &good[..good.len() - 1], ""),
        ("too long", &[good.as_slice(), &[0]].concat(), ""),
        ("without a byte", &[], ""),
        ("of another number", &wal.bytes(SEGMENT + 1, 1), ""),
        ("of a later timeline", &wal.on_timeline(2).bytes(SEGMENT, 1), "timeline"),
        ("of another cluster", &foreign.bytes(SEGMENT, 1), "system"),
        ("without PostgreSQL's magic", &other_magic.bytes(SEGMENT, 1), ""),
        ("of another major version", &other_version.bytes(SEGMENT, 1), "WAL of PostgreSQL"),
        ("of another segment size", &wrong_size_in_header, ""),
    ];
    for (what, bytes, message) in cases {
        cluster.put_wal(&name, bytes);
        let outcome = push(&cluster, &name);
        assert_eq!(outcome.code, Some(4), "a segment {what}:\n{outcome}");
        outcome.says(&name).says(message);
        assert!(is_empty(&archive), "a segment {what} was stored: {:?}", archive.names());
    }
    cluster.put_wal(&name, good);
    push(&cluster, &name).expect(0);
}

#[test]
fn the_first_segment_after_a_promotion_may_begin_on_the_old_timeline() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    // Its first page was copied from the parent's segment, which was written before the switch.
    let name = cluster.fake_wal().on_timeline(2).name(SEGMENT);
    cluster.archive_file("00000002.history", history(&[(1, "0/4000100")]));
    cluster.archive_file(&name, cluster.fake_wal().bytes(SEGMENT, 1));
    assert!(site.archive_of(&cluster).holds(&name));
}

/// If the repository cannot return a history file, the segment is not at fault.
#[test]
fn a_history_that_the_repository_cannot_give_is_not_told_as_an_unreadable_segment() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let name = cluster.fake_wal().on_timeline(2).name(SEGMENT);
    cluster.archive_file("00000002.history", history(&[(1, "0/4000100")]));
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    site.archive_of(&cluster).damage("00000002.history", -1);
    cluster.put_wal(&name, cluster.fake_wal().bytes(SEGMENT, 1));
    let outcome = push(&cluster, &name).expect(4).says("00000002.history");
    assert!(!outcome.stderr.contains("could not read"), "{outcome}");
}

#[test]
fn calls_that_postgres_would_not_make_are_usage_errors() {
    let site = Site::without_server();
    let (cluster, name) = cluster_with_segment(&site);
    let path = format!("pg_wal/{name}");
    let elsewhere = site.cluster("elsewhere");
    elsewhere.put_wal(&name, cluster.fake_wal().bytes(SEGMENT, 1));
    let push = || cluster.program("archive-push");
    push().arg(&name).run().expect(2).says("%p");
    push().arg(format!("pg_wal/../pg_wal/{name}")).run().expect(2).says("..");
    push().arg(&path).in_directory("/").run().expect(2);
    push().arg(&path).in_directory(elsewhere.data()).run().expect(2).says("data directory");
    push().arg("pg_wal/000000010000000000000099").run().expect(2);
    push().arg("pg_wal/archive_status").run().expect(2);
    cluster.write(&format!("base/{name}"), cluster.fake_wal().bytes(SEGMENT, 1));
    push().arg(format!("base/{name}")).run().expect(2).says("pg_wal");
    push().run().expect(2);
    push().args([&path, &path]).run().expect(2);
    push().arg("--unknown").arg(&path).run().expect(2).says("--unknown");
    assert!(is_empty(&site.archive_of(&cluster)));
}

#[test]
fn a_wrong_configuration_is_a_usage_error() {
    let site = Site::without_server();
    let (mut cluster, name) = cluster_with_segment(&site);
    let missing = Run::new(pgark_program("archive-push")).arg("--config").arg("/nonexistent/pgark.toml");
    missing
        .arg(format!("pg_wal/{name}"))
        .in_directory(cluster.data())
        .run()
        .expect(2)
        .says("/nonexistent/pgark.toml");
    cluster.config.set("repositry.url", "/tmp");
    push(&cluster, &name).expect(2).says("repository");
    assert!(is_empty(&site.archive_of(&cluster)));
}

#[test]
fn history_files_must_be_readable_ones_of_their_timeline() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let name = "00000003.history";
    for (what, content) in [
        ("empty", String::new()),
        ("not a history", "once upon a time\n".to_owned()),
        ("cut off", "1\t0/30".to_owned() + "\n2\n"),
        ("of a later ancestor", history(&[(1, "0/3000000"), (4, "0/4000000")])),
        ("of ancestors out of order", history(&[(2, "0/4000000"), (1, "0/3000000")])),
        ("its own ancestor", history(&[(3, "0/3000000")])),
    ] {
        cluster.put_wal(name, content);
        let outcome = push(&cluster, name);
        assert_eq!(outcome.code, Some(4), "a history file that is {what}:\n{outcome}");
        outcome.says(name);
    }
    assert!(is_empty(&site.archive_of(&cluster)));
    cluster.archive_file(name, history(&[(1, "0/3000000"), (2, "0/4000000")]));
    cluster.put_wal(name, history(&[(1, "0/3000000"), (2, "0/4000028")]));
    push(&cluster, name).expect(4).says(name);
}

#[test]
fn a_repository_that_does_not_answer_is_reported_in_time() {
    let site = Site::without_server();
    let (mut cluster, name) = cluster_with_segment(&site);
    cluster.config.set("push.deadline", "2s");
    site.hide_repository();
    push(&cluster, &name).expect(3).says(&name).within(Duration::from_secs(15));
    assert!(!site.repository().exists(), "a missing repository may be a missing mount: it is not made anew");
    site.show_repository();
    std::fs::set_permissions(site.repository(), std::fs::Permissions::from_mode(0o500)).unwrap();
    push(&cluster, &name).expect(3).says("permission").within(Duration::from_secs(15));
    std::fs::set_permissions(site.repository(), std::fs::Permissions::from_mode(0o700)).unwrap();
    // Distinguished from damage: it succeeds as soon as the repository answers.
    wait_until("a push succeeds again", PATIENCE, || push(&cluster, &name).code == Some(0));
}

#[test]
fn a_signal_kills_a_waiting_push_as_postgres_expects() {
    let site = Site::without_server();
    let (cluster, name) = cluster_with_segment(&site);
    push(&cluster, &name).expect(0);
    let agent = cluster.agent();
    agent.signal(Signal::SIGSTOP);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let waiting = cluster.program("archive-push").arg(format!("pg_wal/{name}")).spawn();
        wait_until("the push has reached its agent", PATIENCE, || waiting.process().has_socket());
        waiting.signal(signal);
        waiting.wait().killed_by(signal);
    }
    agent.signal(Signal::SIGCONT);
    push(&cluster, &name).expect(0);
}

#[test]
fn only_the_owner_of_the_data_directory_may_push() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else than the data directory's owner here");
        return;
    }
    let site = Site::without_server();
    let (cluster, name) = cluster_with_segment(&site);
    let as_root = Run::as_caller(pgark_program("archive-push")).arg("--config").arg(&cluster.config.path);
    as_root.arg(format!("pg_wal/{name}")).in_directory(cluster.data()).run().expect(2).says("postgres");
    assert!(is_empty(&site.archive_of(&cluster)));
    let owned_by_root = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        std::fs::symlink_metadata(path).unwrap().uid() == 0
    };
    assert!(!std::fs::read_dir(cluster.spool()).unwrap().any(|entry| owned_by_root(&entry.unwrap().path())));
}

#[test]
fn what_else_is_ready_is_stored_before_postgres_asks() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let names: Vec<String> = (0..6).map(|step| wal.name(SEGMENT + step)).collect();
    for (step, name) in (0..).zip(&names) {
        cluster.put_wal(name, wal.bytes(SEGMENT + step, 1));
        cluster.write(&format!("pg_wal/archive_status/{name}.ready"), "");
    }
    push(&cluster, &names[0]).expect(0);
    let archive = site.archive_of(&cluster);
    wait_until("all ready segments are stored", PATIENCE, || names.iter().all(|name| archive.holds(name)));
    // Stored in advance does not mean acknowledged: a file that changed since is checked again.
    cluster.put_wal(&names[1], wal.bytes(SEGMENT + 1, 2));
    push(&cluster, &names[1]).expect(4);
    push(&cluster, &names[2]).expect(0);
}

#[test]
fn an_acknowledgement_holds_only_for_what_the_repository_holds_now() {
    let site = Site::without_server();
    let (cluster, name) = cluster_with_segment(&site);
    push(&cluster, &name).expect(0);
    let archive = site.archive_of(&cluster);
    archive.remove(&name);
    push(&cluster, &name).expect(0);
    assert!(archive.holds(&name));
}

/// The name of a further partial segment with this content.
fn further_partial(name: &str, content: &[u8]) -> String {
    format!("{name}.{}", &blake3::hash(content).to_hex()[..16])
}

#[test]
fn a_second_different_partial_segment_is_stored_beside_the_first() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let (wal, archive) = (cluster.fake_wal(), site.archive_of(&cluster));
    let name = format!("{}.partial", wal.name(SEGMENT));
    cluster.archive_file(&name, wal.bytes(SEGMENT, 1));
    let mut names = vec![name.clone()];
    for seed in 2..=8 {
        cluster.put_wal(&name, wal.bytes(SEGMENT, seed));
        push(&cluster, &name).expect(0);
        let further = further_partial(&name, &wal.bytes(SEGMENT, seed));
        assert!(archive.raw(&further) == wal.bytes(SEGMENT, seed), "{further}");
        names.push(further);
    }
    names.sort_unstable();
    assert_eq!(archive.names(), names);
    cluster.put_wal(&name, wal.bytes(SEGMENT, 9));
    push(&cluster, &name).expect(4).says("8 different files");
    // A retry finds its own object, and so does another agent.
    for seed in [2, 8, 1] {
        cluster.put_wal(&name, wal.bytes(SEGMENT, seed));
        push(&cluster, &name).expect(0);
        push(&cluster, &name).expect(0);
        cluster.agent().kill();
        push(&cluster, &name).expect(0);
    }
    assert_eq!(archive.names(), names);
    expect_sound(
        &Tree::read(&site.repository()),
        &Acknowledged::with_file(&name, &wal.bytes(SEGMENT, 8)),
        "eight partial segments",
    );

    cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(0);
    assert!(cluster.read("pg_wal/RECOVERYXLOG") == wal.bytes(SEGMENT, 1), "the first one is given");
    let further = further_partial(&name, &wal.bytes(SEGMENT, 8));
    cluster.get(&further, "pg_wal/RECOVERYXLOG").expect(0);
    assert!(cluster.read("pg_wal/RECOVERYXLOG") == wal.bytes(SEGMENT, 8));
    cluster.put_wal(&further, wal.bytes(SEGMENT, 8));
    push(&cluster, &further).expect(2);
    // An acknowledgment applies to the stored name, not to that of the first segment.
    cluster.put_wal(&name, wal.bytes(SEGMENT, 8));
    push(&cluster, &name).expect(0);
    archive.remove(&further);
    push(&cluster, &name).expect(0);
    assert!(archive.holds(&further));
    archive.replace(&further, &archive.stored(&name));
    cluster.get(&further, "pg_wal/RECOVERYXLOG").expect(126).says("which differs from its name");
}

/// No recovery reads it automatically, and PostgreSQL archives nothing after a rejected one.
#[test]
fn a_partial_segment_is_stored_beside_a_damaged_one() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let (wal, archive) = (cluster.fake_wal(), site.archive_of(&cluster));
    let name = format!("{}.partial", wal.name(SEGMENT));
    cluster.archive_file(&name, wal.bytes(SEGMENT, 1));
    let whole = archive.stored(&name);
    archive.damage(&name, -1);
    let damaged = archive.stored(&name);
    // A different file, and the original of the damaged one.
    for seed in [2, 1] {
        let further = further_partial(&name, &wal.bytes(SEGMENT, seed));
        cluster.put_wal(&name, wal.bytes(SEGMENT, seed));
        push(&cluster, &name).expect(0);
        assert!(archive.raw(&further) == wal.bytes(SEGMENT, seed), "{further}");
        assert!(archive.stored(&name) == damaged, "the first one stays as it is");
        let log = std::fs::read_to_string(cluster.spool().join("agent.log")).unwrap();
        let warned = |line: &str| {
            line.contains("WARN")
                && line.contains("is damaged")
                && line.contains(&further)
                && line.contains("checksum")
        };
        assert!(log.lines().any(warned), "{log}");
        // A retry, and one through another agent.
        push(&cluster, &name).expect(0);
        cluster.agent().kill();
        push(&cluster, &name).expect(0);
    }
    cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(126).says("cannot be used");
    archive.replace(&name, &whole[..whole.len() / 2]);
    cluster.put_wal(&name, wal.bytes(SEGMENT, 3));
    push(&cluster, &name).expect(0);
    // A complete segment is never stored beside another.
    let segment = wal.name(SEGMENT + 1);
    cluster.archive_file(&segment, wal.bytes(SEGMENT + 1, 1));
    archive.damage(&segment, -1);
    cluster.put_wal(&segment, wal.bytes(SEGMENT + 1, 2));
    push(&cluster, &segment).expect(4).says("cannot be used");
}

/// An incomplete segment, once stored, would block the complete one forever.
#[test]
fn the_segment_that_the_server_writes_to_is_not_pushed_by_hand() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.append_conf("wal_keep_size = '64MB'\n");
    primary.start();
    let name = primary.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    push(&primary, &name).expect(2).says("has not marked").says("pg_switch_wal");
    assert!(!site.archive_of(&primary).holds(&name));
    // As the hint recommends.
    assert_eq!(primary.switch_wal(), name);
    primary.wait_archived(&name);
    push(&primary, &name).expect(0);
    // A segment lost from the archive can be pushed by hand, whatever its mark: it lies before the last checkpoint.
    let lost = primary.read(&format!("pg_wal/{name}"));
    site.archive_of(&primary).remove(&name);
    std::fs::remove_file(primary.data().join(format!("pg_wal/archive_status/{name}.done"))).unwrap();
    push(&primary, &name).expect(2);
    primary.psql("CHECKPOINT");
    primary.put_wal(&name, &lost);
    push(&primary, &name).expect(0);
    assert_eq!(primary.psql("SELECT failed_count FROM pg_stat_archiver"), "0");
}

/// The advice of the runbook for a server that crashed and will be replaced.
#[test]
fn the_last_segment_of_a_crashed_server_can_be_archived_by_hand() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.back_up("one");
    primary.psql("CREATE TABLE t AS SELECT 42 AS a");
    let name = primary.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    primary.stop(Stop::Immediate);
    assert!(!primary.has(&format!("pg_wal/archive_status/{name}.ready")), "the server was writing it");
    let newest = "ls -t pg_wal | grep -E '^[0-9A-F]{24}$' | head -1";
    let shown = Run::new("sh").args(["-c", newest]).in_directory(primary.data()).run().expect(0);
    assert_eq!(shown.stdout.trim(), name);
    push(&primary, &name).expect(0);
    let into = site.directory().join("copy");
    let found = primary.answer_after(&into, &["--latest"], "SELECT a FROM t");
    assert_eq!(found, "42");
}
