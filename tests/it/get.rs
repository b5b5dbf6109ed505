//! `archive-get`: exactly the archived bytes or nothing, and a status that PostgreSQL cannot misread.

use crate::support::{
    Cluster, Outcome, PATIENCE, Run, Site, Template, backup_history, files_below, history, pgark_program,
    wait_until,
};
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// PostgreSQL's destination for segments.
const DESTINATION: &str = "pg_wal/RECOVERYXLOG";

/// A segment number after those that initdb creates; the third to last of a log file.
const SEGMENT: u64 = 0xFFD;

/// A stopped cluster with this number of archived segments, from [`SEGMENT`] on. A new agent has to fetch them.
fn cluster_with_archive(site: &Site, segments: u64) -> (Cluster, Vec<String>) {
    let cluster = site.cluster("primary");
    let names = archive_segments(&cluster, 1, SEGMENT..SEGMENT + segments);
    stop_agent(&cluster);
    (cluster, names)
}

fn archive_segments(cluster: &Cluster, timeline: u32, numbers: std::ops::Range<u64>) -> Vec<String> {
    let wal = cluster.fake_wal().on_timeline(timeline);
    numbers
        .map(|number| {
            let name = wal.name(number);
            cluster.archive_file(&name, wal.bytes(number, 1));
            name
        })
        .collect()
}

fn stop_agent(cluster: &Cluster) {
    if let Some(agent) = cluster.find_agent() {
        agent.kill();
    }
}

fn get(cluster: &Cluster, name: &str) -> Outcome {
    cluster.get(name, DESTINATION)
}

/// Requests the file twice, because the second request may be answered from the prefetched files; nothing may be at the
/// destination.
#[track_caller]
fn expect_nothing(cluster: &Cluster, name: &str, status: i32) {
    for _ in 0..2 {
        get(cluster, name).expect(status);
        assert!(!cluster.has(DESTINATION), "{name}: something was written");
    }
}

/// Removes the restored file, so that the next call has to write it.
#[track_caller]
fn take(cluster: &Cluster) -> Vec<u8> {
    let bytes = cluster.read(DESTINATION);
    std::fs::remove_file(cluster.data().join(DESTINATION)).unwrap();
    bytes
}

#[test]
fn every_kind_of_file_comes_back_byte_for_byte() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let segment = cluster.fake_wal().bytes(SEGMENT, 1);
    let name = cluster.fake_wal().name(SEGMENT);
    let files = [
        (name.clone(), segment.clone()),
        (format!("{name}.partial"), cluster.fake_wal().bytes(SEGMENT, 2)),
        (format!("{name}.00000028.backup"), backup_history(&name).into_bytes()),
        ("00000002.history".to_owned(), history(&[(1, "0/FFE00100")]).into_bytes()),
        ("0000000A.history".to_owned(), history(&[(1, "0/FFE00100"), (2, "1/0")]).into_bytes()),
    ];
    for (name, content) in &files {
        cluster.archive_file(name, content);
    }
    let archive = site.archive_of(&cluster);
    for (name, content) in &files {
        assert_eq!(&archive.raw(name), content, "{name} as it is stored");
        for _ in 0..2 {
            get(&cluster, name).expect(0);
            assert_eq!(&take(&cluster), content, "{name}");
        }
    }
}

#[test]
fn pg_rewind_gets_the_one_file_that_it_asks_for() {
    let site = Site::without_server();
    let (cluster, names) = cluster_with_archive(&site, 3);
    let before = std::fs::read_dir(cluster.data().join("pg_wal")).unwrap().count();
    cluster.get(&names[0], &format!("pg_wal/{}", names[0])).expect(0);
    assert_eq!(cluster.read(&format!("pg_wal/{}", names[0])), cluster.fake_wal().bytes(SEGMENT, 1));
    assert_eq!(std::fs::read_dir(cluster.data().join("pg_wal")).unwrap().count(), before + 1);
}

#[test]
fn nothing_is_restored_but_where_postgres_wants_it() {
    let site = Site::without_server();
    let (cluster, names) = cluster_with_archive(&site, 1);
    let name = names[0].as_str();
    cluster.write("base/PG_VERSION", "precious");
    cluster.write("pg_wal/precious", "precious");
    let absolute = site.directory().join("primary/elsewhere");
    for destination in [
        "../elsewhere",
        "base/PG_VERSION",
        "pg_wal/precious",
        "pg_wal/../base/PG_VERSION",
        "pg_wal/../../elsewhere",
        "RECOVERYXLOG",
        absolute.to_str().unwrap(),
    ] {
        cluster.get(name, destination).expect(126).says("pgark wal get");
    }
    assert!(!absolute.exists() && !cluster.has("RECOVERYXLOG"));
    assert_eq!(
        (cluster.read("base/PG_VERSION"), cluster.read("pg_wal/precious")),
        (b"precious".to_vec(), b"precious".to_vec())
    );
    cluster.write("standby.signal", "");
    cluster.get(name, "pg_wal/precious").expect(1);
}

#[test]
fn a_file_is_taken_out_to_be_looked_at_and_nothing_is_overwritten() {
    let site = Site::without_server();
    let (cluster, names) = cluster_with_archive(&site, 1);
    let (name, output) = (names[0].as_str(), site.directory().join("primary").join(&names[0]));
    let wal_get = |name: &str| cluster.pgark(&["wal", "get", name]).arg("--output").arg(&output);
    wal_get(name).run().expect(0);
    assert!(std::fs::read(&output).unwrap() == cluster.fake_wal().bytes(SEGMENT, 1));
    wal_get(name).run().expect(2).says("already exists");
    std::fs::remove_file(&output).unwrap();
    std::os::unix::fs::symlink("/nonexistent", &output).unwrap();
    wal_get(name).run().expect(2).says("already exists");
    std::fs::remove_file(&output).unwrap();
    let files = files_below(&site.directory().join("primary")).len();
    wal_get(&cluster.fake_wal().name(SEGMENT + 7)).run().expect(1).says("not in the archive");
    wal_get("nonsense").run().expect(2);
    site.archive_of(&cluster).damage(name, -1);
    wal_get(name).run().expect(4);
    site.hide_repository();
    wal_get(name).run().expect(3);
    site.show_repository();
    assert_eq!(files_below(&site.directory().join("primary")).len(), files, "nothing is left");

    // On a host without a configuration file.
    cluster.archive_file("00000002.history", history(&[(1, "0/FFE00100")]));
    let place = ["--repository", site.repository().to_str().unwrap(), "--cluster", "main"].map(str::to_owned);
    let elsewhere = Run::new(pgark_program("pgark")).args(["--json", "wal", "get", "00000002.history"]);
    let told = elsewhere.arg("--output").arg(&output).args(place).run().expect(0).stdout;
    assert!(told.contains("\"name\": \"00000002.history\""), "{told}");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), history(&[(1, "0/FFE00100")]));
}

#[test]
fn what_is_absent_is_said_quickly_and_never_remembered() {
    let site = Site::without_server();
    let (cluster, names) = cluster_with_archive(&site, 1);
    let next = cluster.fake_wal().name(SEGMENT + 1);
    for name in [next.as_str(), "00000002.history", "0000000100000000000000FF.partial"] {
        let outcome = get(&cluster, name).expect(1);
        outcome.within(Duration::from_secs(2));
        assert!(!cluster.has(DESTINATION));
    }
    archive_segments(&cluster, 1, SEGMENT + 1..SEGMENT + 2);
    get(&cluster, &next).expect(0);
    cluster.archive_file("00000002.history", history(&[(1, "0/FFE00100")]));
    cluster.get("00000002.history", "pg_wal/RECOVERYHISTORY").expect(0);
    get(&cluster, &names[0]).expect(0);
}

#[test]
fn what_the_agent_is_still_storing_is_waited_for() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    cluster.config.set("agent.retry_max", "1s");
    cluster.config.set("get.deadline", "60s");
    let wal = cluster.fake_wal();
    archive_segments(&cluster, 1, SEGMENT..SEGMENT + 2);
    // The last segment of one log file, whose directory rejects writes for a while, and the first of the next one.
    let (earlier, later) = (wal.name(SEGMENT + 2), wal.name(SEGMENT + 3));
    let log = site.archive_of(&cluster).path(&wal.name(SEGMENT)).parent().unwrap().to_owned();
    let allow = |mode| std::fs::set_permissions(&log, std::fs::Permissions::from_mode(mode)).unwrap();
    allow(0o500);
    for (name, number) in [(&earlier, SEGMENT + 2), (&later, SEGMENT + 3)] {
        cluster.put_wal(name, wal.bytes(number, 1));
        cluster.write(&format!("pg_wal/archive_status/{name}.ready"), "");
    }
    cluster.push(&format!("pg_wal/{earlier}")).expect(3);
    let ask = || cluster.program("archive-get").args([earlier.as_str(), DESTINATION]).spawn();
    let waits = || {
        wait_until("the segment is waited for", PATIENCE, || {
            cluster.pgark(&["status"]).run().stdout.contains("is still being stored")
        });
    };
    // At the end of the archive, where recovery would end without it,
    let mut at_the_end = ask();
    waits();
    // and where it looks like a hole.
    cluster.push(&format!("pg_wal/{later}")).expect(0);
    let before_a_later_one = ask();
    let [_, said] = before_a_later_one.output_paths().map(Path::to_owned);
    wait_until("it waits as well", PATIENCE, || {
        std::fs::read_to_string(&said).is_ok_and(|said| said.contains(&format!("waiting for {earlier}")))
    });
    assert_eq!(at_the_end.try_status(), None);
    allow(0o700);
    at_the_end.wait().expect(0);
    before_a_later_one.wait().expect(0);
    assert!(take(&cluster) == wal.bytes(SEGMENT + 2, 1));
    // A segment that no agent will store any more is lost.
    site.archive_of(&cluster).remove(&earlier);
    expect_nothing(&cluster, &earlier, 126);
}

#[test]
fn nothing_is_served_from_a_repository_of_a_newer_format() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    cluster.config.set("get.deadline", "1s");
    let names = archive_segments(&cluster, 1, SEGMENT..SEGMENT + 1);
    stop_agent(&cluster);
    let wal = site.archive_of(&cluster).path(&names[0]);
    let format = wal.ancestors().map(|path| path.join("format.json")).find(|path| path.exists()).unwrap();
    let text = std::fs::read_to_string(&format).unwrap();
    let newer = text.replace("\"format\": 1", "\"format\": 9");
    assert_ne!(newer, text);
    std::fs::write(&format, newer).unwrap();
    expect_nothing(&cluster, &names[0], 126);
    get(&cluster, &names[0]).expect(126).says("has format 9").says("Upgrade pgark on this host");
    let output = site.directory().join("segment");
    let by_hand = cluster.pgark(&["wal", "get", &names[0], "--output", output.to_str().unwrap()]).run();
    by_hand.expect(2).says("has format 9");
    assert!(!output.exists());
    // Damage of that file does not affect intact ones.
    stop_agent(&cluster);
    std::fs::write(&format, "{").unwrap();
    get(&cluster, &names[0]).expect(0);
}

#[test]
fn an_empty_repository_may_be_one_that_is_not_mounted() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    cluster.config.set("get.deadline", "1s");
    // Nothing was archived yet, or the mount is missing: the two cannot be told apart, so nothing is proven absent.
    expect_nothing(&cluster, &cluster.fake_wal().name(SEGMENT), 126);
    expect_nothing(&cluster, "00000002.history", 126);
    // But this file never exists: timeline 1 has no history. A standby requests it during its promotion, when its
    // standby.signal is already gone; any status above 125 would end the promotion and the server.
    expect_nothing(&cluster, "00000001.history", 1);
    cluster.write("standby.signal", "");
    expect_nothing(&cluster, &cluster.fake_wal().name(SEGMENT), 1);
}

#[test]
fn damaged_objects_are_refused_in_every_codec() {
    for method in ["lz4", "zstd", "none"] {
        for place in ["begin", "header", "middle", "end", "cut", "empty", "other"] {
            let site = Site::without_server();
            let mut cluster = site.cluster("primary");
            cluster.config.set("compression.method", method);
            let names = archive_segments(&cluster, 1, SEGMENT..SEGMENT + 2);
            stop_agent(&cluster);
            let archive = site.archive_of(&cluster);
            let (name, length) = (&names[0], archive.stored(&names[0]).len() as i64);
            match place {
                "begin" => archive.damage(name, 0),
                "header" => archive.damage(name, 60),
                "middle" => archive.damage(name, length / 2),
                "end" => archive.damage(name, -2),
                "cut" => archive.truncate(name),
                "empty" => archive.replace(name, &[]),
                _ => archive.replace(name, &archive.stored(&names[1])),
            }
            eprintln!("{method}, damaged: {place}");
            expect_nothing(&cluster, name, 126);
            cluster.write("standby.signal", "");
            expect_nothing(&cluster, name, 1);
            // Intact files beside it are still served.
            get(&cluster, &names[1]).expect(0);
        }
    }
}

#[test]
fn damaged_history_files_are_refused() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let name = "00000002.history";
    cluster.archive_file(name, history(&[(1, "0/FFD00100")]));
    site.archive_of(&cluster).damage(name, -6);
    expect_nothing(&cluster, name, 126);
}

#[test]
fn a_repository_that_does_not_answer_stops_recovery_but_not_a_standby() {
    let site = Site::without_server();
    let (mut cluster, names) = cluster_with_archive(&site, 2);
    cluster.config.set("get.deadline", "2s");
    let in_time = |outcome: Outcome| outcome.within(Duration::from_secs(15));
    for (name, known) in [(names[0].as_str(), false), ("00000002.history", false), (names[0].as_str(), true)]
    {
        if known {
            // An agent that has already read from this repository gives the same answer.
            get(&cluster, &names[0]).expect(0);
            take(&cluster);
        }
        site.hide_repository();
        in_time(get(&cluster, &cluster.fake_wal().name(SEGMENT + 9)).expect(126));
        if !known {
            in_time(get(&cluster, name).expect(126)).says("HINT:");
        }
        cluster.write("standby.signal", "");
        in_time(get(&cluster, &cluster.fake_wal().name(SEGMENT + 9)).expect(1));
        std::fs::remove_file(cluster.data().join("standby.signal")).unwrap();
        assert!(!cluster.has(DESTINATION));
        site.show_repository();
    }
    get(&cluster, &names[1]).expect(0);
}

#[test]
fn wrong_calls_and_configurations_never_end_a_recovery() {
    let site = Site::without_server();
    let (mut cluster, names) = cluster_with_archive(&site, 1);
    let call = |arguments: &[&str]| cluster.program("archive-get").args(arguments).run();
    call(&[]).expect(126);
    call(&[&names[0]]).expect(126);
    call(&["not-a-wal-file", DESTINATION]).expect(126);
    call(&["--unknown", &names[0], DESTINATION]).expect(126);
    let elsewhere = site.cluster("elsewhere");
    cluster
        .program("archive-get")
        .args([&names[0], DESTINATION])
        .in_directory(elsewhere.data())
        .run()
        .expect(126);
    assert!(!elsewhere.has(DESTINATION));
    cluster.config.set("repositry.url", "/tmp");
    expect_nothing(&cluster, &names[0], 126);
    cluster.write("standby.signal", "");
    expect_nothing(&cluster, &names[0], 1);
}

#[test]
fn a_hole_stops_recovery_unless_it_has_a_target() {
    let site = Site::without_server();
    let (cluster, names) = cluster_with_archive(&site, 4);
    site.archive_of(&cluster).remove(&names[1]);
    expect_nothing(&cluster, &names[1], 126);
    get(&cluster, &names[1]).expect(126).says(&names[1]);
    cluster.program("archive-get").arg("--with-target").args([&names[1], DESTINATION]).run().expect(1);
    // All files before and after it are served.
    get(&cluster, &names[0]).expect(0);
    get(&cluster, &names[2]).expect(0);
    take(&cluster);
    cluster.write("standby.signal", "");
    expect_nothing(&cluster, &names[1], 1);
}

#[test]
fn partial_and_backup_files_prove_no_later_segment() {
    let site = Site::without_server();
    let (cluster, _) = cluster_with_archive(&site, 1);
    let later = cluster.fake_wal().name(SEGMENT + 2);
    cluster.archive_file(&format!("{later}.partial"), cluster.fake_wal().bytes(SEGMENT + 2, 1));
    cluster.archive_file(&format!("{later}.00000028.backup"), backup_history(&later));
    expect_nothing(&cluster, &cluster.fake_wal().name(SEGMENT + 1), 1);
    // Nor is a partial segment served in place of the complete one.
    expect_nothing(&cluster, &later, 1);
}

#[test]
fn a_timeline_begins_where_its_history_says() {
    let site = Site::without_server();
    let (cluster, parents) = cluster_with_archive(&site, 2);
    // Timeline 2 branched off timeline 1 within the second segment.
    cluster.archive_file("00000002.history", history(&[(1, "0/FFE00100")]));
    let children = archive_segments(&cluster, 2, SEGMENT + 1..SEGMENT + 4);
    let wal = cluster.fake_wal().on_timeline(2);
    // PostgreSQL requests every segment of the child first: below its beginning, absence is no hole.
    expect_nothing(&cluster, &wal.name(SEGMENT), 1);
    get(&cluster, &children[0]).expect(0);
    take(&cluster);
    let on_the_way =
        |name: &str| cluster.program("archive-get").args(["--timeline", "2", name, DESTINATION]).run();
    on_the_way(&parents[0]).expect(0);
    take(&cluster);
    site.archive_of(&cluster).remove(&children[0]);
    stop_agent(&cluster); // it has fetched that one ahead
    expect_nothing(&cluster, &children[0], 126);
    let outcome = on_the_way(&parents[1]);
    assert!(
        outcome.code != Some(0) && !cluster.has(DESTINATION),
        "it may hold records of another history:\n{outcome}"
    );
}

#[test]
fn segments_are_served_in_order_across_a_log_file_s_end() {
    let site = Site::without_server();
    let (cluster, names) = cluster_with_archive(&site, 8);
    assert_eq!(names[2], "000000010000000000000FFF");
    assert_eq!(names[3], "000000010000000100000000");
    for (number, name) in (SEGMENT..).zip(&names) {
        get(&cluster, name).expect(0);
        assert!(take(&cluster) == cluster.fake_wal().bytes(number, 1), "{name} differs");
    }
    // Also out of order.
    for step in [5, 0, 7, 3] {
        get(&cluster, &names[step]).expect(0);
        assert!(
            take(&cluster) == cluster.fake_wal().bytes(SEGMENT + step as u64, 1),
            "{} differs",
            names[step]
        );
    }
    expect_nothing(&cluster, &cluster.fake_wal().name(SEGMENT + 8), 1);
}

#[test]
fn what_was_fetched_ahead_follows_the_repository() {
    let site = Site::without_server();
    let (cluster, names) = cluster_with_archive(&site, 4);
    get(&cluster, &names[0]).expect(0);
    // A killed agent leaves its prefetched files; the next one serves none without checking it.
    cluster.agent().kill();
    take(&cluster);
    for (number, name) in (SEGMENT..).zip(&names) {
        get(&cluster, name).expect(0);
        assert!(take(&cluster) == cluster.fake_wal().bytes(number, 1), "{name} differs");
    }
}

#[test]
fn a_signal_kills_a_waiting_get_as_postgres_expects() {
    let site = Site::without_server();
    let (cluster, names) = cluster_with_archive(&site, 1);
    get(&cluster, &names[0]).expect(0);
    take(&cluster);
    let agent = cluster.agent();
    agent.signal(Signal::SIGSTOP);
    let waiting = cluster.program("archive-get").args([&names[0], DESTINATION]).spawn();
    wait_until("the get has reached its agent", PATIENCE, || waiting.process().has_socket());
    waiting.signal(Signal::SIGTERM);
    waiting.wait().killed_by(Signal::SIGTERM);
    assert!(!cluster.has(DESTINATION));
    agent.signal(Signal::SIGCONT);
    get(&cluster, &names[0]).expect(0);
}

#[test]
fn an_agent_that_dies_while_a_get_waits_is_replaced() {
    let site = Site::without_server();
    let (mut cluster, names) = cluster_with_archive(&site, 1);
    cluster.config.set("get.deadline", "30s");
    get(&cluster, &names[0]).expect(0);
    take(&cluster);
    let agent = cluster.agent();
    agent.signal(Signal::SIGSTOP);
    let waiting = cluster.program("archive-get").args([&names[0], DESTINATION]).spawn();
    wait_until("the get has reached its agent", PATIENCE, || waiting.process().has_socket());
    agent.kill();
    waiting.wait().expect(0).within(Duration::from_secs(20));
    assert!(take(&cluster) == cluster.fake_wal().bytes(SEGMENT, 1));
}

/// Names are the same in every system.
#[test]
fn what_was_fetched_ahead_of_one_system_is_not_served_to_another() {
    let site = Site::without_server();
    let (cluster, names) = cluster_with_archive(&site, 3);
    let other = site.cluster_of("other", Template { checksums: false, ..Template::default() });
    assert_ne!(cluster.system_identifier(), other.system_identifier());
    archive_segments(&other, 1, SEGMENT..SEGMENT + 3);
    let expected = other.fake_wal().bytes(SEGMENT + 1, 1);
    get(&cluster, &names[0]).expect(0);
    take(&cluster);
    let prefetch = cluster.spool().join("prefetch");
    wait_until("two segments were fetched ahead", PATIENCE, || {
        std::fs::read_dir(&prefetch).unwrap().count() == 2
    });
    // The data directory is replaced by that of the other system.
    std::fs::rename(cluster.data(), site.directory().join("old")).unwrap();
    std::fs::rename(other.data(), cluster.data()).unwrap();
    get(&cluster, &names[1]).expect(0);
    assert!(take(&cluster) == expected, "the other system's segment was served");
    get(&cluster, &names[0]).expect(0);
    wait_until("what was fetched of the first is gone", PATIENCE, || {
        std::fs::read_dir(&prefetch).unwrap().count() <= 2
    });
}

#[test]
fn an_ancestor_of_an_ancestor_is_not_served_either() {
    let site = Site::without_server();
    let (cluster, first) = cluster_with_archive(&site, 2);
    // Timelines 2 and 3 both begin within the second segment; its copy on timeline 1 contains records of neither.
    cluster.archive_file("00000002.history", history(&[(1, "0/FFE00100")]));
    cluster.archive_file("00000003.history", history(&[(1, "0/FFE00100"), (2, "0/FFE00200")]));
    let second = archive_segments(&cluster, 2, SEGMENT + 1..SEGMENT + 2);
    let third = cluster.fake_wal().on_timeline(3).name(SEGMENT + 1);
    let with_target =
        |name: &str| cluster.program("archive-get").args(["--with-target", name, DESTINATION]).run();
    with_target(&first[0]).expect(0);
    take(&cluster);
    // In PostgreSQL's order: the newest timeline first.
    for name in [&third, &second[0], &first[1]] {
        with_target(name).expect(1);
        assert!(!cluster.has(DESTINATION), "{name} was served");
    }
}

/// Up to the proven end, a hole stops recovery with or without a target; after it, PostgreSQL only prefetches.
#[test]
fn a_hole_before_the_proven_end_stops_a_recovery_with_a_target() {
    let site = Site::without_server();
    let (cluster, names) = cluster_with_archive(&site, 4);
    site.archive_of(&cluster).remove(&names[1]);
    let through = |last: &str| {
        cluster
            .program("archive-get")
            .args(["--with-target", "--through", last, &names[1], DESTINATION])
            .run()
    };
    through(&names[3]).expect(126).says("is missing from the archive");
    through(&names[1]).expect(126);
    through(&names[0]).expect(1);
    through("x").expect(126).says("\"x\"");
}

#[test]
fn the_end_of_a_timeline_that_was_left_later_is_a_hole() {
    let site = Site::without_server();
    let (cluster, names) = cluster_with_archive(&site, 2);
    let missing = cluster.fake_wal().name(SEGMENT + 2);
    expect_nothing(&cluster, &missing, 1);
    // Timeline 2 branched off timeline 1 two segments later.
    cluster.archive_file("00000002.history", history(&[(1, "1/100")]));
    archive_segments(&cluster, 2, SEGMENT + 3..SEGMENT + 4);
    for options in [&[][..], &["--timeline", "1"], &["--timeline", "2"]] {
        let outcome = cluster.program("archive-get").args(options).args([&missing, DESTINATION]).run();
        outcome.expect(126).says("timeline 2 began after it");
    }
    // The segment of the switch point itself may never have been complete.
    expect_nothing(&cluster, &cluster.fake_wal().name(SEGMENT + 3), 1);
    get(&cluster, &names[1]).expect(0);
}

/// PostgreSQL takes the first number without a history file as a new timeline.
#[test]
fn a_history_file_whose_timeline_is_stored_is_not_absent() {
    let site = Site::without_server();
    let (cluster, _) = cluster_with_archive(&site, 1);
    let get_history = |name: &str| cluster.get(name, "pg_wal/RECOVERYHISTORY");
    get_history("00000002.history").expect(1);
    archive_segments(&cluster, 2, SEGMENT + 1..SEGMENT + 2);
    get_history("00000002.history").expect(126).says("archive-push pg_wal/00000002.history");
    get_history("00000003.history").expect(1);
    cluster.archive_file("00000004.history", history(&[(1, "0/FFE00100"), (3, "0/FFF00100")]));
    get_history("00000003.history").expect(126).says("timeline 4");
    cluster.write("standby.signal", "");
    get_history("00000003.history").expect(1);
}

/// Absence in one recovery does not apply to the next one, which may follow another path.
#[test]
fn what_was_absent_is_forgotten_with_its_recovery() {
    let site = Site::without_server();
    let (cluster, first) = cluster_with_archive(&site, 2);
    cluster.archive_file("00000002.history", history(&[(1, "0/FFE00100")]));
    let begin = |second: u32| {
        let own = std::process::id();
        cluster.write("postmaster.pid", format!("{own}\n{}\n{second}\n5432\n", cluster.data().display()));
    };
    begin(1_767_225_600);
    get(&cluster, &first[0]).expect(0);
    take(&cluster);
    expect_nothing(&cluster, &cluster.fake_wal().on_timeline(2).name(SEGMENT + 1), 1);
    get(&cluster, &first[1]).expect(126).says("not on the path to timeline 2");
    // The next recovery stays on timeline 1, as its command says.
    begin(1_767_229_200);
    let on_first =
        |name: &str| cluster.program("archive-get").args(["--timeline", "1", name, DESTINATION]).run();
    on_first(&first[1]).expect(0);
    take(&cluster);
    // Without that option, it cannot be distinguished from one to timeline 2, of which no WAL is stored yet.
    begin(1_767_232_800);
    get(&cluster, &first[1]).expect(126).says("--timeline 1");
    archive_segments(&cluster, 2, SEGMENT + 1..SEGMENT + 2);
    begin(1_767_236_400);
    get(&cluster, &first[1]).expect(0);
}

/// While recovery waits, the server's log and `pgark status` show the reason.
#[test]
fn who_waits_for_a_repository_that_is_unavailable_learns_why() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    cluster.config.set("get.deadline", "30s");
    let wal = cluster.fake_wal();
    let (name, bytes) = (wal.name(0x40), wal.bytes(0x40, 1));
    cluster.archive_file(&name, &bytes);
    site.hide_repository();
    let get = cluster.program("archive-get").args([name.as_str(), "pg_wal/RECOVERYXLOG"]).spawn();
    let stderr = get.output_paths()[1].to_owned();
    let said = || std::fs::read_to_string(&stderr).unwrap();
    let missing = format!("the repository \"{}\" does not exist", site.repository().display());
    wait_until("a line in the server's log", PATIENCE, || said().contains(&missing));
    let status = cluster.pgark(&["status"]).run().expect(0).stdout;
    assert!(status.contains(&format!("{name}: ")) && status.contains(&missing), "{status}");
    // A single line, however long it takes.
    wait_until("some more attempts", PATIENCE, || {
        let log = std::fs::read_to_string(cluster.spool().join("agent.log")).unwrap();
        log.matches("could not be fetched; retrying").count() >= 7
    });
    assert_eq!(said().trim_end().lines().count(), 1, "{}", said());
    assert!(said().contains(&format!("waiting for {name}")), "{}", said());
    site.show_repository();
    get.wait().expect(0);
    assert!(cluster.read("pg_wal/RECOVERYXLOG") == bytes);
}
