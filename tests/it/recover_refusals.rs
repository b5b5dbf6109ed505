//! The cases that `pgark recover` refuses: before it writes anything if possible, and never leaving a directory that
//! looks like a cluster.

use crate::support::{
    Cluster, Outcome, PATIENCE, Run, Site, Stop, Story, Template, create_private_directory,
    expect_not_startable, give, has_postgres_program, hinted_command, pgark_program, wait_until, write_file,
};
use std::fs;
use std::path::Path;

const COUNT: &str = "SELECT count(*) FROM t";

/// Whether the target is absent or empty, as before anything is written.
fn is_untouched(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn what_cannot_be_reached_is_refused_before_the_first_byte() {
    let story = Story::tell();
    let absent = story.directory("absent");
    let empty = story.directory("empty");
    create_private_directory(&empty);
    for (options, status, says) in [
        (&["--target-time", "2999-01-01 00:00:00+00"][..], 1, "--latest-before"),
        (&["--target-time", "2000-01-01 00:00:00+00"], 1, "no backup ended before"),
        (&["--latest-before", "2000-01-01 00:00:00+00"], 1, "no backup ended before"),
        (&["--target-lsn", "0/100028"], 1, "no backup ended before LSN 0/100028"),
        (&["--target-name", "eleven rows"], 1, "is not in the archived WAL"),
        (&["--target-xid", "4000000000"], 1, "the end of transaction 4000000000 is not in the archived WAL"),
        (&["--target-lsn", "F/0"], 1, "does not reach LSN F/0"),
        (&["--target-timeline", "7"], 1, "timeline 7 is not in the repository"),
        (&["--backup", "second"], 1, "no backup \"second\""),
        (&["--target-time", "2000-01-01 00:00:00+00", "--backup", "first"], 2, "Omit --backup"),
        (&["--target-time", "2026-01-01 00:00:00"], 2, "has no time zone"),
        (&["--latest-before", "2026-01-01 00:00:00"], 2, "has no time zone"),
        (&["--target-time", "yesterday"], 2, "--target-time"),
        (&["--target-immediate", "--exclusive"], 2, "--exclusive has no meaning"),
    ] {
        for into in [&absent, &empty] {
            story.recover(into, options).expect(status).says(says);
            assert!(is_untouched(into), "{options:?}");
        }
    }
    assert!(!absent.exists());
    let left: Vec<_> =
        fs::read_dir(story.site.directory()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("absent")), "{left:?}");
}

#[test]
fn a_time_after_the_last_commit_is_reached_by_the_command_that_is_offered() {
    let story = Story::tell();
    let into = story.directory("it's here");
    let refused = story.recover(&into, &["--target-time", "2999-01-01 00:00:00+00", "--wait"]).expect(1);
    assert!(is_untouched(&into));
    hinted_command(&refused.says("PostgreSQL would not reach this target")).run().expect(0);
    story.primary.try_psql("SELECT FROM t").expect(1).says("does not exist");
    story.primary.stop_recovered(&into);
}

/// Four rows, each in its own segment; the segment of the third row is missing.
fn story_with_a_hole(site: &Site) -> (Cluster, Vec<String>, Vec<String>) {
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    primary.back_up("first");
    let (mut segments, mut positions) = (Vec::new(), Vec::new());
    for row in 1..=4 {
        primary.psql(&format!("INSERT INTO t VALUES ({row})"));
        positions.push(primary.psql("SELECT pg_current_wal_insert_lsn()"));
        segments.push(primary.switch_wal());
    }
    primary.wait_archived(&segments[3]);
    primary.stop(Stop::Fast);
    site.archive_of(&primary).remove(&segments[2]);
    (primary, segments, positions)
}

#[test]
fn a_hole_in_the_wal_is_named_and_what_lies_before_it_can_be_reached() {
    let site = Site::with_servers(1);
    let (primary, segments, positions) = story_with_a_hole(&site);
    let into = site.directory().join("into");
    let refused = |options: &[&str]| -> Outcome {
        let outcome = primary.recover(&into, options).run().expect(4);
        assert!(is_untouched(&into));
        outcome.says(&segments[2]).says("missing").says("The last reachable point is")
    };
    refused(&["--target-lsn", &positions[3], "--wait"]);
    refused(&["--target-time", "2999-01-01 00:00:00+00"]);
    refused(&["--latest-before", "2999-01-01 00:00:00+00"]);
    refused(&["--target-name", "unknown"]);
    let outcome = refused(&["--latest", "--wait", "--target-action", "promote"]);
    hinted_command(&outcome).run().expect(0);
    assert_eq!(primary.psql(COUNT), "2");
    primary.stop_recovered(&into);

    let before = site.directory().join("before");
    assert_eq!(primary.answer_after(&before, &["--target-lsn", &positions[0], "--exclusive"], COUNT), "1");
}

#[test]
fn a_hole_of_several_segments_is_named_from_end_to_end() {
    let site = Site::with_servers(1);
    let (primary, segments, _) = story_with_a_hole(&site);
    site.archive_of(&primary).remove(&segments[1]);
    let into = site.directory().join("into");
    primary
        .recover(&into, &["--latest"])
        .run()
        .expect(4)
        .says(&format!("2 WAL segments are missing, from {} to {}", segments[1], segments[2]));
    assert!(!into.exists());
}

#[test]
fn only_a_free_directory_is_recovered_into() {
    let mut story = Story::tell();
    let into = story.directory("into");
    let precious = |path: &Path| fs::read(path.join("precious")).is_ok();

    create_private_directory(&into);
    fs::write(into.join("precious"), b"x").unwrap();
    story.recover(&into, &[]).expect(4).says("is not empty").says("overwrites a directory only with --delta");
    story.recover(&into.join("precious"), &[]).expect(4).says("is not a directory");
    story.recover(&into.join("precious/below"), &[]).expect(4).says("is not a directory");
    story.recover(&story.directory("no/where"), &[]).expect(2).says("does not exist").says("install -d");
    std::os::unix::fs::symlink("nowhere", story.directory("link")).unwrap();
    story.recover(&story.directory("link"), &[]).expect(4).says("is a dangling symbolic link");
    assert!(precious(&into));

    // The data directory of another cluster, and the cluster's own: stopped, running, partly removed.
    let other = story.site.cluster_of("other", Template { checksums: false, ..Template::default() });
    story.recover(&other.data(), &[]).expect(4).says("holds a data directory");
    story.recover(&story.primary.data(), &[]).expect(4).says("holds a data directory").says("mv ");
    story.primary.start();
    story.recover(&story.primary.data(), &[]).expect(4).says("a server is running in");
    story.primary.pgark(&["recover"]).run().expect(4).says("a server is running in");
    assert_eq!(story.primary.psql("SELECT 1"), "1");
    story.primary.stop(Stop::Fast);

    if nix::unistd::geteuid().is_root() {
        let foreign = story.directory("foreign");
        fs::create_dir(&foreign).unwrap(); // root's
        story.recover(&foreign, &[]).expect(2).says("belongs to another user");
        let place = Run::as_caller(pgark_program("pgark")).arg("recover").arg("--repository");
        let place = place.arg(story.site.repository()).args(["--cluster", "main", "-D"]).arg(&foreign);
        place.run().expect(2).says("must not run as root");
        assert!(is_untouched(&foreign));
    }
}

#[test]
fn a_restore_that_was_killed_cannot_be_started_and_is_begun_anew() {
    let story = Story::tell();
    let whole = story.recover(&story.directory("whole"), &[]).expect(0).took;
    let into = story.directory("killed");
    let complete = || into.join("global/pg_control").exists();
    let mut unfinished = 0;
    for part in 1..=10 {
        let running = story.primary.recover(&into, &["--target-name", "ten rows"]).spawn();
        std::thread::sleep(whole * part / 10);
        running.process().kill();
        if complete() {
            break;
        }
        expect_not_startable(&into);
        unfinished += usize::from(into.join("pgark-recovery-incomplete").exists());
    }
    assert!(unfinished > 1, "the kills came too early or too late");
    if !complete() || into.join("pgark-recovery-incomplete").exists() {
        story.recover(&into, &["--target-name", "ten rows"]).expect(0);
    }
    assert!(!into.join("pgark-recovery-incomplete").exists());
    story.primary.start_recovered(&into);
    story.primary.wait_for_row(COUNT, "10");
    story.primary.stop_recovered(&into);
}

#[test]
fn a_new_host_needs_only_the_repository() {
    let story = Story::tell();
    let into = story.directory("new-host");
    let repository = story.site.repository();
    let named = || {
        Run::new(pgark_program("pgark"))
            .arg("recover")
            .arg("--repository")
            .arg(&repository)
            .arg("-D")
            .arg(&into)
    };
    named().args(["--cluster", "elsewhere"]).run().expect(1).says("holds these clusters: main");
    named().args(["--cluster", "main", "--target-name", "ten rows", "--wait"]).run().expect(0);
    assert_eq!(story.primary.psql(COUNT), "10");
    story.primary.stop_recovered(&into);
}

#[test]
fn of_two_systems_under_one_name_one_has_to_be_chosen() {
    let story = Story::tell();
    // The same cluster, recreated by initdb.
    let mut second = story.site.cluster_of("second", Template { checksums: false, ..Template::default() });
    second.archive();
    second.start();
    second.psql("CREATE TABLE t AS SELECT generate_series(1, 3) AS a");
    second.back_up("first");
    second.stop(Stop::Fast);
    let identifiers = [story.primary.system_identifier(), second.system_identifier()];
    assert_ne!(identifiers[0], identifiers[1]);

    let recover = |into: &Path, options: &[&str]| -> Outcome {
        let run = Run::new(pgark_program("pgark")).arg("recover").arg("--repository");
        let run = run.arg(story.site.repository()).args(["--cluster", "main", "-D"]).arg(into);
        run.args(options).run()
    };
    let into = story.directory("neither");
    let refused = recover(&into, &[]).expect(2).says("--system-identifier");
    for identifier in identifiers {
        recover(&into, &["--system-identifier", "17"]).expect(1).says(&identifier.to_string());
        assert!(refused.stderr.contains(&identifier.to_string()), "{refused}");
    }
    assert!(!into.exists());
    for (cluster, options, rows) in
        [(&story.primary, &["--target-name", "ten rows"][..], "10"), (&second, &["--latest"], "3")]
    {
        let identifier = cluster.system_identifier().to_string();
        let into = story.directory(&identifier);
        let options = [options, &["--system-identifier", &identifier, "--wait"]].concat();
        recover(&into, &options).expect(0);
        assert_eq!(cluster.psql(COUNT), rows);
        cluster.stop_recovered(&into);
    }
}

#[test]
fn a_damaged_pack_ends_the_restore() {
    let story = Story::tell();
    let backup = story.site.archive_of(&story.primary).backup("first");
    let mut packs: Vec<_> = fs::read_dir(&backup)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("pack-"))
        .collect();
    packs.sort();
    assert!(!packs.is_empty());
    let into = story.directory("into");
    for pack in &packs {
        let whole = fs::read(pack).unwrap();
        let name = pack.file_name().unwrap().to_str().unwrap();
        for part in [3, 2] {
            let mut damaged = whole.clone();
            let at = damaged.len() / part;
            damaged[at] ^= 0x10;
            fs::write(pack, &damaged).unwrap();
            story.recover(&into, &[]).expect(4).says(name);
            expect_not_startable(&into);
        }
        fs::write(pack, &whole[..whole.len() / 2]).unwrap();
        story.recover(&into, &[]).expect(4).says(name);
        expect_not_startable(&into);
        fs::remove_file(pack).unwrap();
        story.recover(&into, &[]).expect(4).says(name);
        expect_not_startable(&into);
        fs::write(pack, &whole).unwrap();
        give(pack);
    }
    // After the repair, the same command succeeds over the remains.
    let options = ["--target-name", "ten rows"];
    assert_eq!(story.primary.answer_after(&into, &options, COUNT), "10");
}

#[test]
fn damaged_wal_is_found_when_planning_or_stops_recovery() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    primary.back_up("first");
    let mut segments = Vec::new();
    for row in 1..=3 {
        primary.psql(&format!("INSERT INTO t VALUES ({row})"));
        segments.push(primary.switch_wal());
    }
    primary.psql("SELECT pg_create_restore_point('end')");
    let end = primary.psql("SELECT pg_current_wal_insert_lsn()");
    primary.psql("INSERT INTO t VALUES (4)");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    let archive = site.archive_of(&primary);
    let (damaged, whole) = (&segments[1], archive.stored(&segments[1]));
    archive.damage(damaged, -1);

    let into = site.directory().join("planned");
    for options in
        [&["--target-name", "end"][..], &["--target-name", "unknown"], &["--latest"], &["--target-lsn", &end]]
    {
        primary.recover(&into, options).run().expect(4).says(damaged).says("cannot be used");
        assert!(is_untouched(&into));
    }
    let outcome = primary.recover(&into, &["--latest"]).run().expect(4);
    hinted_command(&outcome).run().expect(0);
    // If this much may not be read, an LSN and the end of the WAL are proven without the earlier WAL.
    primary.config.set("recover.prove_wal", "0MB");
    for (name, options) in
        [("latest", &["--latest"][..]), ("lsn", &["--target-lsn", &end, "--target-action", "promote"])]
    {
        let into = site.directory().join(name);
        let options = [options, &["--wait"]].concat();
        primary.recover(&into, &options).run().expect(4).says("exited without reaching its target");
        assert!(!into.join("postmaster.pid").exists());
        assert!(into.join("recovery.signal").exists(), "the server believes to be recovered");
        assert!(!into.join("pg_wal/00000002.history").exists(), "the server promoted itself");
        // After the repair, the same server continues.
        archive.replace(damaged, &whole);
        primary.start_recovered(&into);
        primary.wait_for_row(COUNT, if name == "latest" { "4" } else { "3" });
        primary.wait_promoted();
        primary.stop_recovered(&into);
        archive.damage(damaged, -1);
    }
}

/// One listing detects a missing or truncated pack, index or manifest, before the restore begins.
#[test]
fn a_backup_that_lacks_an_object_is_found_before_the_first_byte() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.back_up("full");
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    primary.pgark(&["base-backup", "--type", "incremental", "--label", "increment"]).run().expect(0);
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    let archive = site.archive_of(&primary);
    let into = site.directory().join("into");
    let info = |status: i32| primary.pgark(&["info"]).run().expect(status).stdout;
    for name in ["pack-000001", "files", "backup_manifest"] {
        let path = archive.backup("full").join(name);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        for (state, of) in [("missing", "increment"), ("bytes instead of", "full")] {
            let outcome = primary.recover(&into, &["--latest", "--backup", of]).run().expect(4);
            outcome.says("cannot be restored").says(&format!("full/{name}")).says(state);
            assert!(is_untouched(&into));
            let info = info(4);
            assert!(info.contains("full CANNOT BE USED") && info.contains("builds on backup full"), "{info}");
            write_file(&path, &whole[..whole.len() - 1]);
        }
        write_file(&path, &whole);
    }
    info(0);
    primary.recover(&into, &["--latest"]).run().expect(0);
}

/// `pg_resetwal` changes the segment size of a system; each backup is recovered with its own.
#[test]
fn the_segment_size_is_that_of_the_chosen_backup() {
    if !has_postgres_program("pg_resetwal") {
        eprintln!("skipped: this PostgreSQL has no pg_resetwal");
        return;
    }
    let site = Site::with_servers(1);
    let mut primary = site.cluster_of("primary", Template::with_segments_of(16));
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    primary.back_up("large");
    primary.switch_wal();
    primary.psql("INSERT INTO t VALUES (1)");
    primary.psql("SELECT pg_create_restore_point('large segments')");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    primary
        .postgres_program("pg_resetwal")
        .args(["--wal-segsize", "1", "-D"])
        .arg(primary.data())
        .run()
        .expect(0);
    // The first start restores wal_level in pg_control.
    primary.start();
    primary.back_up("small");
    primary.psql("INSERT INTO t VALUES (2)");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    let info = primary.pgark(&["info"]).run().expect(0);
    assert!(!info.stdout.contains("CANNOT BE USED"), "{info}");
    assert!(info.stdout.contains(", WAL segments of 1.0 MiB, earlier of 16.0 MiB\n"), "{info}");
    primary.stop(Stop::Fast);
    check_sizes_in_info(&primary, &site);
    let small = site.directory().join("small");
    assert_eq!(primary.answer_after(&small, &["--latest"], COUNT), "2");
    let large = site.directory().join("large");
    assert_eq!(primary.answer_after(&large, &["--target-name", "large segments"], COUNT), "1");
    // WAL that continues with another segment size is no hole, for the plan and for the server's requests at the end.
    let end = site.directory().join("end");
    assert_eq!(primary.answer_after(&end, &["--latest", "--backup", "large"], COUNT), "1");
}

/// Each range of segments is shown with its own size and its own gaps.
fn check_sizes_in_info(primary: &Cluster, site: &Site) {
    let archive = site.archive_of(primary);
    let names: Vec<String> = archive.names().into_iter().filter(|name| name.len() == 24).collect();
    let size = |name: &String| u32::from_le_bytes(archive.raw(name)[32..36].try_into().unwrap());
    let (large, small): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| size(name) == 16 << 20);
    assert!(large.len() >= 3 && !small.is_empty(), "{large:?} {small:?}");
    let told = |options: &[&str]| {
        let info = primary.pgark(&["info", "--json"]).args(options).run().expect(0).stdout;
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        info["systems"][0]["timelines"].as_array().unwrap().clone()
    };
    for options in [&[][..], &["--quick"]] {
        let timelines = told(options);
        assert_eq!(timelines.len(), 2, "{timelines:?}");
        for (timeline, (bytes, names)) in timelines.iter().zip([(16 << 20, &large), (1 << 20, &small)]) {
            assert_eq!(timeline["segment_bytes"], bytes);
            assert_eq!(timeline["first"], *names[0]);
            assert_eq!(timeline["last"], *names[names.len() - 1]);
            assert_eq!(timeline["span_segments"], names.len());
            let missing = timeline["gaps"].as_array().map_or(0, Vec::len);
            assert_eq!(missing, 0, "{timeline}");
        }
    }
    let missing = &large[1];
    let stored = archive.stored(missing);
    archive.remove(missing);
    let gaps: Vec<_> = told(&[]).iter().map(|timeline| timeline["gaps"].clone()).collect();
    assert_eq!(
        gaps,
        [serde_json::json!([{ "first": missing, "last": missing, "segments": 1 }]), serde_json::json!([])]
    );
    archive.replace(missing, &stored);
}

#[test]
fn a_copy_is_not_made_inside_of_what_belongs_to_its_original() {
    let story = Story::tell();
    create_private_directory(&story.site.repository().join("inside"));
    for (into, what) in [
        (story.primary.data().join("copy"), "the data directory of the original"),
        (story.site.repository().join("inside/copy"), "the repository"),
    ] {
        story.recover(&into, &["--latest"]).expect(2).says("is inside").says(what);
        assert!(!into.exists());
    }
}

/// PostgreSQL promotes at the end of the WAL, whatever the action.
#[test]
fn an_action_that_the_end_of_the_wal_does_not_have_is_refused() {
    let story = Story::tell();
    let into = story.directory("into");
    for action in ["pause", "shutdown"] {
        story.recover(&into, &["--latest", "--target-action", action]).expect(2).says("--latest-before");
        assert!(!into.exists());
    }
    story.recover(&into, &["--latest", "--target-action", "promote", "--dry-run"]).expect(0);
    // The proposal of the hint.
    let options = ["--latest-before", "2099-01-01 00:00:00+00", "--target-action", "pause"];
    assert_eq!(story.rows_after("before", &["--target-name", "ten rows"]), "10");
    story.recover(&into, &[&options[..], &["--dry-run"]].concat()).expect(0);
}

#[test]
fn restore_points_of_one_name_are_all_told() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    primary.back_up("one");
    let mut positions = Vec::new();
    for row in 1..=3 {
        primary.psql(&format!("INSERT INTO t VALUES ({row})"));
        positions.push(primary.psql("SELECT pg_create_restore_point('release')"));
    }
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    let into = site.directory().join("into");
    let options = ["--target-name", "release"];
    let outcome = primary.recover(&into, &[&options[..], &["--dry-run"]].concat()).run().expect(0);
    assert_eq!(outcome.stdout.matches("(LSN 0/").count(), 4, "{outcome}");
    assert!(outcome.stdout.contains("other restore points of this name"), "{outcome}");
    assert_eq!(primary.answer_after(&into, &options, COUNT), "1", "PostgreSQL stops at the first");
    assert!(positions.iter().all(|position| position.contains('/')));
}

#[test]
fn a_subtransaction_finds_its_transaction_and_an_epoch_is_not_dropped() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    primary.back_up("one");
    primary.psql(
        "BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2); \
         CREATE TABLE ids AS SELECT pg_current_xact_id()::text AS whole, max(xmin::text::int) AS part FROM t; COMMIT",
    );
    let answer = primary.psql("SELECT whole, part FROM ids");
    let (transaction, subtransaction) = answer.trim().split_once('|').unwrap();
    assert_ne!(transaction, subtransaction);
    primary.psql("INSERT INTO t VALUES (3)");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    let into = site.directory().join("into");
    let dry = |xid: &str| primary.recover(&into, &["--target-xid", xid, "--dry-run"]).run();
    assert!(
        dry(subtransaction)
            .expect(0)
            .stdout
            .contains(&format!("subtransaction of transaction {transaction}"))
    );
    let of_epoch = |epoch: u64| (epoch * (1 << 32) + transaction.parse::<u64>().unwrap()).to_string();
    dry(&of_epoch(0)).expect(0);
    dry(&of_epoch(1)).expect(1);
    assert_eq!(primary.answer_after(&into, &["--target-xid", subtransaction], COUNT), "2");
}

/// The first recovery is slowed down; the second waits for its lock, and finds a complete cluster.
#[test]
fn a_recovery_that_waited_for_another_does_not_clear_what_that_has_finished() {
    let story = Story::tell();
    let into = story.directory("into");
    let options = ["--target-name", "ten rows"];
    let first = story.primary.recover(&into, &options).env("PGARK_SLOW_MS", "2").spawn();
    wait_until("the first one works", PATIENCE, || into.join("PG_VERSION").exists());
    let second = story.primary.recover(&into, &options).spawn();
    let marker = into.join("pgark-recovery-incomplete").display().to_string();
    wait_until("the second one waits for its lock", PATIENCE, || {
        second.process().open_files().contains(&marker)
    });
    first.wait().expect(0);
    let outcome = second.wait().expect(4);
    assert!(outcome.stderr.contains("has meanwhile finished in"), "{outcome}");
    story.primary.start_recovered(&into);
    story.primary.wait_for_row(COUNT, "10");
    story.primary.stop_recovered(&into);
}
