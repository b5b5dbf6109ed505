//! Injected faults: each operation fails in turn, with the errors of a full disk and of a broken one.

use super::complaint_about_unreadable;
use crate::crash::chosen;
use crate::support::checker::{Acknowledged, Tree, expect_sound};
use crate::support::{
    Cluster, Outcome, PATIENCE, Recording, Run, Site, Stop, Tally, files_below, wait_until, wants_everything,
};
use std::time::Duration;

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

const AT_ONCE: Duration = Duration::from_secs(10);

/// Error names for the variable, with their descriptions in messages.
pub const ERRORS: [(&str, &str); 2] = [("ENOSPC", "no space left on device"), ("EIO", "input/output error")];

/// The run in which this operation fails.
pub fn failing(run: Run, place: &str, error: &str) -> Run {
    run.env("PGARK_FAIL_AT", format!("{place}:{error}"))
}

fn start_agent(cluster: &Cluster, run: Run) -> crate::support::Running {
    let mut agent = run.spawn();
    wait_until("the agent listens or has ended", PATIENCE, || {
        let entries = std::fs::read_dir(cluster.spool()).into_iter().flatten();
        let listens = entries
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|extension| extension == "sock"));
        listens || agent.try_status().is_some()
    });
    agent
}

fn begin_anew(site: &Site, cluster: &Cluster) {
    if let Some(agent) = cluster.find_agent() {
        agent.kill();
    }
    for directory in [site.repository(), cluster.spool()] {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
        }
    }
}

#[test]
fn a_push_tells_of_every_operation_that_fails_and_succeeds_when_it_does_not() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let (name, bytes) = (wal.name(SEGMENT), wal.bytes(SEGMENT, 1));
    let path = format!("pg_wal/{name}");
    cluster.put_wal(&name, &bytes);
    let recording = Recording::new(&site, "record");
    let agent = start_agent(&cluster, recording.of(cluster.pgark(&["agent"])));
    cluster.push(&path).expect(0);
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    agent.wait().expect(0);
    let steps = recording.operations().len();
    let acknowledged = Acknowledged::with_file(&name, &bytes);
    let mut tally = Tally::of("push-faults");
    for (number, step) in (1..=steps).enumerate() {
        // Each step once; in the long form with each error, and with a disk that stays full.
        let errors = if wants_everything() { &ERRORS[..] } else { &ERRORS[number % 2..][..1] };
        for (error, text) in errors {
            begin_anew(&site, &cluster);
            let agent = start_agent(&cluster, failing(cluster.pgark(&["agent"]), &step.to_string(), error));
            let outcome = cluster.push(&path);
            if outcome.code != Some(0) {
                outcome.expect(3).says(text).within(AT_ONCE);
                cluster.push(&path).expect(0).within(AT_ONCE);
            }
            expect_sound(&Tree::read(&site.repository()), &acknowledged, &format!("{error} at step {step}"));
            tally.faults += 1;
            tally.acknowledged += 1;
            drop(agent);
        }
        if wants_everything() {
            begin_anew(&site, &cluster);
            let agent =
                start_agent(&cluster, failing(cluster.pgark(&["agent"]), &format!("{step}+"), "ENOSPC"));
            let outcome = cluster.push(&path);
            if outcome.code == Some(0) {
                expect_sound(
                    &Tree::read(&site.repository()),
                    &acknowledged,
                    &format!("full from step {step} on"),
                );
            } else {
                outcome.expect(3).says(ERRORS[0].1).within(AT_ONCE);
            }
            drop(agent);
            cluster.push(&path).expect(0);
            expect_sound(&Tree::read(&site.repository()), &acknowledged, &format!("after {step}"));
            tally.faults += 1;
        }
    }
}

/// A server file that cannot be read from a broken disk is reported as such, and all other files are stored.
#[test]
fn a_wal_file_that_cannot_be_read_holds_up_no_other() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let names = [SEGMENT, SEGMENT + 1, SEGMENT + 2].map(|number| {
        cluster.put_wal(&wal.name(number), wal.bytes(number, 1));
        cluster.write(&format!("pg_wal/archive_status/{}.ready", wal.name(number)), "");
        wal.name(number)
    });
    for place in ["read-data", "open-data"] {
        begin_anew(&site, &cluster);
        let run = failing(cluster.pgark(&["agent"]), &format!("{place}/{}", names[0]), "EIO");
        let agent = start_agent(&cluster, run);
        let broken = format!("pg_wal/{}", names[0]);
        cluster.push(&broken).expect(3).says("could not read").says(&broken).says("input/output error");
        // The other files are stored before they are requested, and without a pause as in an outage.
        let archive = site.archive_of(&cluster);
        wait_until("the others are stored", AT_ONCE, || names[1..].iter().all(|name| archive.holds(name)));
        cluster.push(&format!("pg_wal/{}", names[2])).expect(0).within(AT_ONCE);
        let status = cluster.pgark(&["status", "--json"]).run().expect(0).stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let upload = &status["agent"]["upload"];
        assert!(upload["outage"].is_null(), "{status}");
        assert_eq!(upload["refused"]["file"], names[0].as_str(), "{status}");
        cluster.push(&broken).expect(3).within(AT_ONCE);
        drop(agent);
    }
}

#[test]
fn a_backup_tells_of_every_operation_that_fails_and_leaves_nothing() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.config.set("backup.workers", 1);
    primary.archive();
    primary.start();
    let base_backup = |label: &str| primary.pgark(&["base-backup", "--checkpoint", "fast", "--label", label]);
    let recording = Recording::new(&site, "record");
    recording.of(base_backup("recorded")).run().expect(0);
    let archive = site.archive_of(&primary);
    std::fs::remove_dir_all(archive.backup("recorded")).unwrap();
    let mut tally = Tally::of("backup-faults");
    for (number, (step, kind)) in chosen(&recording, "faults of a backup").into_iter().enumerate() {
        if number % 3 != 0 && !wants_everything() {
            continue; // the deaths have been at all of them
        }
        let (error, text) = ERRORS[number % 2];
        let outcome = failing(base_backup("one"), &step.to_string(), error).run();
        tally.faults += 1;
        if outcome.code == Some(0) {
            // The failed operation was not essential: a mark or a temporary file remained.
            assert!(archive.backup("one").join("manifest.json").exists(), "{kind}");
        } else {
            let of_the_server = format!("could not read \"{}", primary.data().display());
            assert!(!outcome.stderr.contains(&of_the_server), "the repository's failure: {outcome}");
            outcome.expect(3).says(text);
            expect_sound(&Tree::read(&site.repository()), &Acknowledged::default(), &kind);
            base_backup("one").run().expect(0);
        }
        let mut acknowledged = Acknowledged::default();
        acknowledged.backups.insert("one".to_owned());
        expect_sound(&Tree::read(&site.repository()), &acknowledged, &kind);
        std::fs::remove_dir_all(archive.backup("one")).unwrap();
    }
    primary.stop(Stop::Fast);
}

#[test]
fn what_cannot_be_read_stops_recovery_and_short_reads_do_not() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let (name, bytes) = (wal.name(SEGMENT), wal.bytes(SEGMENT, 1));
    cluster.archive_file(&name, &bytes);
    let get = |place: &str, error: &str| -> Outcome {
        cluster.pgark(&["agent", "stop"]).run().expect(0);
        failing(cluster.program("archive-get").args([name.as_str(), "pg_wal/RECOVERYXLOG"]), place, error)
            .run()
    };
    for place in ["open", "read"] {
        let outcome = get(place, "EIO");
        assert_eq!(complaint_about_unreadable(&outcome), None);
        outcome.says("input/output error");
        assert!(!cluster.has("pg_wal/RECOVERYXLOG"));
    }
    get("open", "EACCES").expect(126).says("permission denied");
    get("read", "SHORT").expect(0);
    assert!(cluster.read("pg_wal/RECOVERYXLOG") == bytes);
}

/// A server file cannot be read from a broken disk: it is named, and there is no backup. The next one, after the
/// repair, succeeds.
#[test]
fn a_backup_that_cannot_read_a_file_of_the_server_names_it_and_leaves_nothing() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT g AS a, repeat('x', 200) AS b FROM generate_series(1, 10000) g");
    let table = primary.psql("SELECT pg_relation_filepath('t')");
    let archive = site.archive_of(&primary);
    let mut acknowledged = Acknowledged::default();
    let mut tally = Tally::of("unreadable");
    for kind in ["full", "incremental"] {
        let backup =
            || primary.pgark(&["base-backup", "--checkpoint", "fast", "--type", kind, "--label", kind]);
        for (place, file) in [
            (format!("read-data/{table}"), table.as_str()),
            (format!("open-data/{table}"), table.as_str()),
            ("read-data/data/PG_VERSION".to_owned(), "PG_VERSION"),
            ("open-data/pg_control".to_owned(), "global/pg_control"),
        ] {
            let path = primary.data().join(file).display().to_string();
            failing(backup(), &place, "EIO").run().expect(3).says("input/output error").says(&path);
            assert_eq!(files_below(&archive.backup(kind)), Vec::<std::path::PathBuf>::new(), "{place}");
            expect_sound(&Tree::read(&site.repository()), &acknowledged, &place);
            tally.faults += 1;
        }
        backup().run().expect(0);
        acknowledged.backups.insert(kind.to_owned());
        expect_sound(&Tree::read(&site.repository()), &acknowledged, kind);
        tally.acknowledged += 1;
        primary.psql("UPDATE t SET b = 'changed' WHERE a % 1000 = 0");
    }
}

#[test]
fn a_backup_is_stored_and_restored_by_short_reads() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) a");
    let backup = primary.pgark(&["base-backup", "--checkpoint", "fast", "--label", "one"]);
    failing(backup, "read-data", "SHORT").run().expect(0);
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    let target = site.directory().join("target");
    failing(primary.recover(&target, &["--latest"]), "read", "SHORT").run().expect(0);
    primary.start_recovered(&target);
    assert_eq!(primary.psql("SELECT count(*) FROM t"), "1000");
    primary.stop_recovered(&target);
}
