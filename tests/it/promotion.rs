//! A standby takes over: its archiving, and recovery across the switch.

use crate::support::{Archive, Cluster, PATIENCE, Site, Stop, segment_name, segment_number, wait_until};

/// A primary, a standby that streams from it and archives once promoted, and a copy from before both.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    copy: Cluster,
    archive: Archive,
}

fn start_pair(site: &Site) -> Pair {
    let mut primary = site.cluster("primary");
    let mut standby = primary.copy("standby");
    let copy = primary.copy("copy");
    let archive = site.archive_of(&primary);
    primary.archive();
    primary.append_conf("wal_keep_size = '64MB'\n");
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    let segment = primary.switch_wal();
    primary.wait_archived(&segment);
    standby.archive();
    standby.stand_by();
    standby.append_conf(&format!("primary_conninfo = '{}'\nwal_keep_size = '64MB'\n", primary.conninfo()));
    standby.start();
    wait_until("the standby streams", PATIENCE, || {
        primary.psql("SELECT count(*) FROM pg_stat_replication") == "1"
    });
    Pair { primary, standby, copy, archive }
}

impl Pair {
    /// Writes rows on the primary in complete segments, and one more into an incomplete segment.
    fn write(&self, rows: std::ops::Range<u32>) -> Vec<String> {
        let mut segments = Vec::new();
        for row in rows.clone() {
            self.primary.psql(&format!("INSERT INTO t VALUES ({row})"));
            segments.push(self.primary.switch_wal());
        }
        self.primary.psql(&format!("INSERT INTO t VALUES ({})", rows.end));
        self.standby.wait_for_row("SELECT max(a) FROM t", &rows.end.to_string());
        segments
    }

    /// Makes archiving fail on the primary.
    fn break_archiving(&self) {
        self.primary.append_conf("archive_command = '/bin/false'\n");
        self.primary.psql("SELECT pg_reload_conf()");
        self.primary.wait_for_row("SHOW archive_command", "/bin/false");
        self.primary.agent().kill(); // it would go on reading ahead
    }

    /// Destroys the primary and promotes the standby. Returns the segment of the switch point.
    fn fail_over(&mut self) -> u64 {
        let size = self.primary.template().segment_size();
        self.primary.kill9();
        self.standby.psql("SELECT pg_promote()");
        self.standby.wait_promoted();
        let history = String::from_utf8(self.standby.read("pg_wal/00000002.history")).unwrap();
        let switch = history.split_whitespace().nth(1).expect("the switch point");
        let (high, low) = switch.split_once('/').expect("an LSN");
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        (number(high) << 32 | number(low)) / size
    }

    fn segment(&self, timeline: u32, number: u64) -> String {
        segment_name(timeline, number, self.primary.template().segment_size())
    }

    /// Recovers the copy from the archive only, along the newest timeline.
    #[track_caller]
    fn expect_recovered_rows(&mut self, rows: &str) {
        self.standby.stop(Stop::Fast);
        self.copy.recover_from_archive();
        self.copy.start();
        self.copy.wait_promoted();
        assert_eq!(self.copy.psql("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t"), rows);
        let calls = self.copy.calls();
        assert!(!calls.iter().any(|(name, _)| name.ends_with(".partial")), "{calls:?}");
        assert!(self.copy.has("pg_wal/00000003.history"), "recovery went along timeline 2");
    }
}

#[test]
fn promotion_archives_history_partial_and_the_new_timeline() {
    let site = Site::with_servers(2);
    let mut pair = start_pair(&site);
    let segments = pair.write(1..3);
    pair.primary.wait_archived(&segments[1]);
    let switch = pair.fail_over();
    wait_until("the new timeline's history is archived", PATIENCE, || pair.archive.holds("00000002.history"));
    let partial = format!("{}.partial", pair.segment(1, switch));
    wait_until("the partial segment is archived", PATIENCE, || pair.archive.holds(&partial));
    pair.standby.psql("INSERT INTO t VALUES (10)");
    let first = pair.standby.switch_wal();
    assert_eq!(first, pair.segment(2, switch));
    pair.standby.wait_archived(&first);
    assert_eq!(pair.standby.psql("SELECT failed_count FROM pg_stat_archiver"), "0");
    for name in [&first, "00000002.history", &partial] {
        assert!(pair.archive.holds(name), "{name} in {:?}", pair.archive.names());
    }
    assert!(!pair.archive.holds(&pair.segment(1, switch)));
    pair.standby.psql("INSERT INTO t VALUES (11)");
    let second = pair.standby.switch_wal();
    pair.standby.wait_archived(&second);
    pair.expect_recovered_rows("1 2 3 10 11");
}

#[test]
fn what_the_old_primary_never_archived_is_filled_in() {
    let site = Site::with_servers(2);
    let mut pair = start_pair(&site);
    pair.break_archiving();
    let before = pair.archive.names();
    let segments = pair.write(1..4);
    assert_eq!(pair.archive.names(), before);
    let switch = pair.fail_over();
    wait_until("what the primary did not archive is there", PATIENCE, || {
        segments.iter().all(|name| pair.archive.holds(name))
    });
    // Not the segment of the switch point itself: on its own timeline it may never have been complete.
    assert!(!pair.archive.holds(&pair.segment(1, switch)));
    for name in segments.iter().filter(|name| segment_number(name, 1024 * 1024) < switch) {
        assert_eq!(pair.archive.raw(name), pair.standby.read(&format!("pg_wal/{name}")), "{name}");
    }
    let first = pair.standby.switch_wal();
    pair.standby.wait_archived(&first);
    pair.expect_recovered_rows("1 2 3 4");
}

/// A segment that is neither in the archive nor in `pg_wal` is lost: this is reported where an operator looks.
#[test]
fn a_gap_that_the_back_fill_cannot_close_is_reported() {
    let site = Site::with_servers(2);
    let mut pair = start_pair(&site);
    pair.break_archiving();
    let segments = pair.write(1..4);
    let lost = &segments[1];
    std::fs::remove_file(pair.standby.data().join("pg_wal").join(lost)).unwrap();
    pair.fail_over();
    wait_until("what the standby still has is there", PATIENCE, || pair.archive.holds(&segments[0]));
    wait_until("the gap is reported", PATIENCE, || {
        let status = pair.standby.pgark(&["status"]).run().expect(0).stdout;
        status.contains(&format!("missing   1 WAL segment, {lost} to {lost}"))
    });
    let info = pair.standby.pgark(&["info"]).run().expect(0).stdout;
    assert!(info.contains(&format!("missing on timeline 1: 1 segment, {lost}")), "{info}");
}

#[test]
fn every_moment_across_a_failover_can_be_recovered() {
    let site = Site::with_servers(2);
    let mut pair = start_pair(&site);
    pair.primary.back_up("before");
    pair.break_archiving();
    let segments = pair.write(1..3);
    let in_what_was_filled_in = pair.primary.now();
    pair.write(4..6);
    let in_the_switch_segment = pair.primary.now();
    pair.primary.psql("INSERT INTO t VALUES (7)");
    pair.standby.wait_for_row("SELECT max(a) FROM t", "7");
    assert!(!segments.iter().any(|name| pair.archive.holds(name)), "archiving is broken");
    pair.fail_over();
    pair.standby.psql("INSERT INTO t VALUES (8)");
    let on_the_new_timeline = pair.standby.now();
    pair.standby.psql("INSERT INTO t VALUES (9)");
    let last = pair.standby.switch_wal();
    pair.standby.wait_archived(&last);
    wait_until("what the primary did not archive is there", PATIENCE, || {
        segments.iter().all(|name| pair.archive.holds(name))
    });
    let rows = "SELECT string_agg(a::text, ' ' ORDER BY a) FROM t";
    for (name, options, expected) in [
        ("filled-in", &["--target-time", &in_what_was_filled_in][..], "1 2 3"),
        ("switch", &["--target-time", &in_the_switch_segment], "1 2 3 4 5 6"),
        ("new", &["--target-time", &on_the_new_timeline], "1 2 3 4 5 6 7 8"),
        ("latest", &["--latest"], "1 2 3 4 5 6 7 8 9"),
    ] {
        let into = site.directory().join(name);
        assert_eq!(pair.primary.answer_after(&into, options, rows), expected, "{name}");
    }
}

#[test]
fn a_standby_takes_over_while_the_repository_does_not_answer() {
    let site = Site::with_servers(2);
    let mut pair = start_pair(&site);
    site.hide_repository();
    let segments = pair.write(1..3);
    let switch = pair.fail_over();
    site.show_repository();
    let first = pair.standby.switch_wal();
    assert_eq!(first, pair.segment(2, switch));
    pair.standby.wait_archived(&first);
    wait_until("what nobody could archive is there", PATIENCE, || {
        segments.iter().all(|name| pair.archive.holds(name))
    });
    pair.expect_recovered_rows("1 2 3");
}

/// After a standby has waited for an unavailable repository, it does not wait again for each file.
#[test]
fn a_promotion_does_not_wait_for_the_repository_once_more() {
    let site = Site::with_servers(2);
    let mut primary = site.cluster("primary");
    let mut standby = primary.copy("standby");
    standby.config.set("get.standby_segment_deadline", "5s");
    standby.config.set("get.standby_history_deadline", "12s");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    primary.wait_archived(&primary.switch_wal());
    standby.stand_by();
    standby.start();
    standby.wait_for_row("SELECT count(*) FROM pg_class WHERE relname = 't'", "1");
    site.hide_repository();
    let before = standby.calls().len();
    // The first history file gets the full deadline.
    wait_until("a history was waited for", PATIENCE, || {
        standby.calls()[before..].iter().any(|(name, _)| name.ends_with(".history"))
    });
    let asked = standby.calls().len();
    let started = std::time::Instant::now();
    standby.psql("SELECT pg_promote(wait => false)");
    standby.wait_promoted();
    let (took, asked) = (started.elapsed(), standby.calls().len() - asked);
    eprintln!("promotion took {took:?} and asked for {asked} files");
    assert!(took < std::time::Duration::from_secs(10), "promotion took {took:?}");
}

/// During its promotion, a standby removes standby.signal and requests its own timeline's history. Status 126 would end
/// it, and the restart would continue without recovery on the old timeline. Timeline 1 has no history, so this takes a
/// second promotion.
#[test]
fn a_second_take_over_needs_no_repository_either() {
    let site = Site::with_servers(2);
    let mut pair = start_pair(&site);
    pair.write(1..2);
    pair.fail_over();
    let last = pair.standby.switch_wal();
    pair.standby.wait_archived(&last);
    pair.standby.stop(Stop::Fast);
    let mut second = pair.standby.copy("second");
    second.stand_by();
    second.append_conf("primary_conninfo = ''\n");
    second.start();
    assert_eq!(second.psql("SELECT pg_is_in_recovery()"), "t");
    site.hide_repository();
    second.psql("SELECT pg_promote()");
    second.wait_promoted();
    assert_eq!(second.psql("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t"), "1 2");
    let segment = second.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    assert!(segment.starts_with("00000003"), "{segment}");
    // Standby rules apply up to there, and to one call after them.
    let calls = second.calls();
    assert!(calls.iter().all(|(_, status)| *status <= 1), "{calls:?}");
    assert!(calls.contains(&("00000002.history".to_owned(), 1)), "{calls:?}");
}

#[test]
fn a_second_server_may_not_take_the_same_timeline() {
    let site = Site::with_servers(2);
    let mut pair = start_pair(&site);
    let segments = pair.write(1..3);
    pair.primary.wait_archived(&segments[1]);
    pair.fail_over();
    wait_until("the new timeline's history is archived", PATIENCE, || pair.archive.holds("00000002.history"));
    // Another copy promotes itself without querying the archive, and archives into it.
    pair.copy.archive();
    pair.copy.write("standby.signal", "");
    pair.copy.start();
    pair.copy.psql("SELECT pg_promote()");
    pair.copy
        .wait_for_row("SELECT failed_count > 0, last_failed_wal FROM pg_stat_archiver", "t|00000002.history");
    pair.copy.stop(Stop::Immediate);
    let name = "00000002.history";
    assert_eq!(pair.archive.raw(name), pair.standby.read(&format!("pg_wal/{name}")), "the first one stays");
}

/// Two standbys that had reached different positions of one segment are promoted one after the other: both leave a
/// partial segment of the same name, and PostgreSQL archives nothing after a rejected one.
#[test]
fn a_second_promotion_out_of_the_same_segment_does_not_stop_archiving() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    primary.switch_wal();
    let mut copy = |name: &str, row: u32| {
        primary.psql(&format!("INSERT INTO t VALUES ({row})"));
        primary.psql("CHECKPOINT");
        primary.stop(Stop::Fast);
        let copy = primary.copy(name);
        copy.archive();
        copy.stand_by();
        copy.append_conf("recovery_target_timeline = 'current'\n");
        primary.start();
        copy
    };
    let (first, second) = (copy("first", 1), copy("second", 2));
    primary.stop(Stop::Fast);
    let archive = site.archive_of(&primary);
    for (mut standby, timeline) in [(first, 2), (second, 3)] {
        standby.start();
        standby.psql("SELECT pg_promote()");
        standby.wait_promoted();
        let segment = standby.switch_wal();
        assert!(segment.starts_with(&format!("{timeline:08X}")), "{segment}");
        standby.wait_archived(&segment);
        assert_eq!(standby.psql("SELECT failed_count FROM pg_stat_archiver"), "0");
        standby.stop(Stop::Fast);
    }
    let partials: Vec<String> = archive.names().into_iter().filter(|name| name.contains("partial")).collect();
    let [one, other] = partials.as_slice() else { panic!("two partial segments, not {partials:?}") };
    assert!(other.starts_with(&format!("{one}.")) && other.len() == one.len() + 17, "{partials:?}");
    let info = primary.pgark(&["info"]).run().expect(0);
    for name in &partials {
        assert!(info.stdout.contains(&format!("partial segment {name}\n")), "{info}");
    }
}
