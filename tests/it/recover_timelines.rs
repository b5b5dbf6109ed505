//! `pgark recover` after an earlier recovery: two futures share a past, and each can be reached.

use crate::support::{Archive, Cluster, Site, Stop, segment_name, segment_number};
use std::path::PathBuf;

/// Number of segments written on each side of the switch point.
const SEGMENTS: u32 = 4;

/// A cluster that was recovered to a point in its past, in its own place, and went on from there.
///
/// | rows | on timeline |
/// |---|---|
/// | 1 | 1, before the timelines part |
/// | 2, 3 | 1, after it |
/// | 4, 5 | 2 |
struct TwoFutures {
    site: Site,
    cluster: Cluster,
    archive: Archive,
    /// Between rows 2 and 3.
    time_on_first: String,
    /// Between rows 4 and 5.
    time_on_second: String,
    /// The number of the segment in which the timelines part.
    switch: u64,
}

const ROWS: &str = "SELECT string_agg(a::text, ' ' ORDER BY a) FROM t";

impl TwoFutures {
    fn tell() -> TwoFutures {
        let site = Site::with_servers(1);
        let mut cluster = site.cluster("primary");
        let archive = site.archive_of(&cluster);
        cluster.archive();
        cluster.start();
        cluster.psql("CREATE TABLE t (a int)");
        cluster.back_up("first");
        (1..SEGMENTS).for_each(|_| drop(cluster.switch_wal()));
        cluster.psql("INSERT INTO t VALUES (1)");
        let parting = cluster.now();
        cluster.psql("INSERT INTO t VALUES (2)");
        let time_on_first = cluster.now();
        cluster.psql("INSERT INTO t VALUES (3)");
        // Complete segments of the abandoned future, including that of the switch point.
        (1..SEGMENTS).for_each(|_| drop(cluster.switch_wal()));
        let last = cluster.switch_wal();
        cluster.wait_archived(&last);
        cluster.stop(Stop::Fast);

        cluster.move_data_away("given-up");
        let options = ["--target-time", &parting, "--target-action", "promote", "--archiving", "on"];
        cluster.pgark(&["recover"]).args(options).run().expect(0);
        cluster.start();
        cluster.wait_promoted();
        assert_eq!(cluster.psql(ROWS), "1");
        let first = cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
        assert!(first.starts_with("00000002"), "{first}");
        let switch = segment_number(&first, cluster.template().segment_size());
        cluster.psql("INSERT INTO t VALUES (4)");
        let time_on_second = cluster.now();
        cluster.psql("INSERT INTO t VALUES (5)");
        (1..SEGMENTS).for_each(|_| drop(cluster.switch_wal()));
        let last = cluster.switch_wal();
        cluster.wait_archived(&last);
        TwoFutures { site, cluster, archive, time_on_first, time_on_second, switch }
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.site.directory().join(name)
    }

    fn segment(&self, timeline: u32, number: u64) -> String {
        segment_name(timeline, number, self.cluster.template().segment_size())
    }

    /// Recovers in place; its restore_command logs each call.
    fn recover_in_place(&self, options: &[&str]) {
        self.cluster.pgark(&["recover"]).args(options).run().expect(0);
        self.cluster.note_calls_of_recovered();
    }
}

#[test]
fn a_recovered_cluster_is_recovered_again() {
    let mut story = TwoFutures::tell();
    story.cluster.stop(Stop::Fast);
    let (first, second) = (story.time_on_first.clone(), story.time_on_second.clone());
    for (name, options, rows) in [
        ("second", &["--target-time", &second][..], "1 4"),
        ("second-by-number", &["--target-time", &second, "--target-timeline", "2"], "1 4"),
        ("second-latest", &["--latest"], "1 4 5"),
        ("first", &["--target-time", &first, "--target-timeline", "1"], "1 2"),
        ("first-latest", &["--latest", "--target-timeline", "1"], "1 2 3"),
        ("current", &["--target-time", &first, "--target-timeline", "current"], "1 2"),
    ] {
        assert_eq!(story.cluster.answer_after(&story.directory(name), options, ROWS), rows, "{name}");
    }
    // A time in the abandoned future precedes the first transaction on the path to the other one.
    let into = story.directory("elsewhere");
    assert_eq!(story.cluster.answer_after(&into, &["--target-time", &first], ROWS), "1");

    // Once more in place: the third timeline branches off the second.
    story.cluster.move_data_away("given-up-too");
    let options = ["--target-time", &second, "--target-action", "promote", "--archiving", "on"];
    story.cluster.pgark(&["recover"]).args(options).run().expect(0);
    story.cluster.start();
    story.cluster.wait_promoted();
    story.cluster.psql("INSERT INTO t VALUES (6)");
    let last = story.cluster.switch_wal();
    assert!(last.starts_with("00000003"), "{last}");
    story.cluster.wait_archived(&last);
    assert!(story.archive.holds("00000003.history"));
    story.cluster.stop(Stop::Fast);
    for (name, options, rows) in [
        ("third-latest", &[][..], "1 4 6"),
        ("second-of-three", &["--latest", "--target-timeline", "2"], "1 4 5"),
    ] {
        assert_eq!(story.cluster.answer_after(&story.directory(name), options, ROWS), rows, "{name}");
    }
}

#[test]
fn a_backup_leads_only_to_the_futures_of_its_own_past() {
    let mut story = TwoFutures::tell();
    story.cluster.back_up("second");
    story.cluster.psql("INSERT INTO t VALUES (6)");
    let last = story.cluster.switch_wal();
    story.cluster.wait_archived(&last);
    story.cluster.stop(Stop::Fast);
    let into = story.directory("into");
    let options = ["--target-time", &story.time_on_first, "--target-timeline", "1", "--dry-run"];
    let outcome = story.cluster.recover(&into, &options).run().expect(0);
    assert!(outcome.stdout.contains("from backup  first"), "{outcome}");
    let options = [&options[..], &["--backup", "second"]].concat();
    story.cluster.recover(&into, &options).run().expect(1).says("no backup leads to timeline 1");
    let outcome = story.cluster.recover(&into, &["--dry-run"]).run().expect(0);
    assert!(outcome.stdout.contains("from backup  second"), "{outcome}");
    assert!(!into.exists());
    assert_eq!(story.cluster.answer_after(&into, &["--latest"], ROWS), "1 4 5 6");
}

#[test]
fn wal_is_fetched_ahead_across_the_parting_and_never_from_the_wrong_side() {
    let mut story = TwoFutures::tell();
    story.cluster.stop(Stop::Fast);
    story.cluster.move_data_away("given-up-too");
    story.recover_in_place(&["--latest"]);
    story.cluster.start();
    story.cluster.wait_promoted();
    assert_eq!(story.cluster.psql(ROWS), "1 4 5");

    // Complete on both timelines, and only the copy on the path is served.
    let switch = story.switch;
    assert!(story.archive.holds(&story.segment(1, switch)) && story.archive.holds(&story.segment(2, switch)));
    let calls = story.cluster.calls();
    let mut served: Vec<&str> = Vec::new();
    for (name, _) in calls.iter().filter(|(name, status)| *status == 0 && name.len() == 24) {
        if !served.contains(&name.as_str()) {
            served.push(name);
        }
    }
    let first = segment_number(served[0], story.cluster.template().segment_size());
    let expected: Vec<String> = (first..first + served.len() as u64)
        .map(|number| story.segment(if number < switch { 1 } else { 2 }, number))
        .collect();
    assert_eq!(served, expected, "{calls:?}");
    assert!(first < switch && first + served.len() as u64 > switch + 2, "{calls:?}");
    assert!(calls.iter().all(|(_, status)| *status <= 1), "{calls:?}");
}

#[test]
fn without_the_new_timelines_copy_recovery_stops_at_the_parting() {
    let mut story = TwoFutures::tell();
    story.cluster.stop(Stop::Fast);
    story.cluster.move_data_away("given-up-too");
    story.recover_in_place(&["--latest"]);
    let name = story.segment(2, story.switch);
    let stored = story.archive.stored(&name);
    story.archive.remove(&name);
    story.cluster.start_without_waiting();
    assert!(!story.cluster.wait_for_end(), "the server ended well");
    assert!(story.cluster.has("recovery.signal") && !story.cluster.has("pg_wal/00000003.history"));
    let calls = story.cluster.calls();
    assert!(calls.contains(&(name.clone(), 126)), "{calls:?}");
    assert!(!calls.contains(&(story.segment(1, story.switch), 0)), "{calls:?}");

    // The plan comes to the same result.
    let into = story.directory("planned");
    story.cluster.recover(&into, &["--latest"]).run().expect(4).says(&name).says("missing");
    assert!(!into.exists());
    story.archive.replace(&name, &stored);
    story.cluster.start();
    story.cluster.wait_promoted();
    assert_eq!(story.cluster.psql(ROWS), "1 4 5");
}
