//! PostgreSQL recovers through `archive-get`: everything archived, or an error; never silently a part.

use crate::support::{Archive, Cluster, Site, Stop, Template, has_postgres_program};

/// Number of rows in each segment of [`write_history`].
const ROWS: usize = 500;

/// A stopped primary that archived some segments, and a copy from before its first start.
struct Past {
    primary: Cluster,
    copy: Cluster,
    archive: Archive,
    segments: Vec<String>,
}

fn write_history(site: &Site, primary: Cluster, segments: usize) -> Past {
    let mut primary = primary;
    let copy = primary.copy("copy");
    let archive = site.archive_of(&primary);
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    let segments: Vec<String> = (0..segments)
        .map(|_| {
            primary.psql(&format!("INSERT INTO t SELECT generate_series(1, {ROWS})"));
            primary.switch_wal()
        })
        .collect();
    primary.wait_archived(&segments[segments.len() - 1]);
    primary.stop(Stop::Fast);
    Past { primary, copy, archive, segments }
}

/// Asserts the number of rows of a cluster after its recovery.
#[track_caller]
fn expect_rows(cluster: &Cluster, rows: usize) {
    cluster.wait_promoted();
    assert_eq!(cluster.psql("SELECT count(*) FROM t"), rows.to_string());
}

/// Starts a recovery that must fail instead of promoting.
#[track_caller]
fn expect_no_promotion(copy: &mut Cluster, because_of: &str) {
    copy.start_without_waiting();
    assert!(!copy.wait_for_end(), "the server ended well");
    assert!(!copy.has("pg_wal/00000002.history"), "the server promoted itself");
    assert!(copy.has("recovery.signal"), "the server believes to be recovered");
    let calls = copy.calls();
    assert!(calls.contains(&(because_of.to_owned(), 126)), "{calls:?}");
}

#[test]
fn segments_of_every_size_come_back() {
    for size in [1, 16, 64] {
        let site = Site::with_servers(1);
        let primary = site.cluster_of("primary", Template::with_segments_of(size));
        let mut past = write_history(&site, primary, 3);
        past.copy.recover_from_archive();
        past.copy.start();
        expect_rows(&past.copy, 3 * ROWS);
        let name = &past.segments[0];
        assert_eq!(past.archive.raw(name).len() as u64, past.primary.template().segment_size());
    }
}

#[test]
fn recovery_goes_on_behind_the_end_of_a_log_file() {
    if !has_postgres_program("pg_resetwal") {
        eprintln!("skipped: this PostgreSQL has no pg_resetwal");
        return;
    }
    for (size, last, next) in [
        (1, "000000010000000000000FFF", "000000010000000100000000"),
        (16, "0000000100000000000000FF", "000000010000000100000000"),
    ] {
        let site = Site::with_servers(1);
        let mut primary = site.cluster_of("primary", Template::with_segments_of(size));
        // Three segments before the end, where pg_resetwal begins a new one.
        let begin = format!("{}{}", &last[..23], "D");
        primary
            .postgres_program("pg_resetwal")
            .args(["-l", &begin, "-D"])
            .arg(primary.data())
            .run()
            .expect(0);
        // pg_resetwal sets wal_level = minimal in pg_control, which no recovery can pass; the first start corrects it.
        primary.start();
        primary.stop(Stop::Fast);
        let mut past = write_history(&site, primary, 5);
        assert!(past.segments.iter().any(|name| name == last), "{:?}", past.segments);
        assert!(past.segments.iter().any(|name| name == next), "{:?}", past.segments);
        past.copy.recover_from_archive();
        past.copy.start();
        expect_rows(&past.copy, 5 * ROWS);
    }
}

#[test]
fn recovery_ends_where_the_archive_ends() {
    let site = Site::with_servers(1);
    let primary = site.cluster("primary");
    let mut past = write_history(&site, primary, 4);
    // The server archived more segments at shutdown; removes them first, because they would reveal a hole.
    for name in past.archive.names().iter().filter(|name| **name >= past.segments[2]) {
        past.archive.remove(name);
    }
    past.copy.recover_from_archive();
    past.copy.start();
    expect_rows(&past.copy, 2 * ROWS);
    assert!(past.copy.calls().contains(&(past.segments[2].clone(), 1)));
}

#[test]
fn a_damaged_segment_stops_recovery() {
    let site = Site::with_servers(1);
    let primary = site.cluster("primary");
    let mut past = write_history(&site, primary, 3);
    let name = past.segments[1].clone();
    let whole = past.archive.stored(&name);
    past.archive.damage(&name, -1);
    past.copy.recover_from_archive();
    expect_no_promotion(&mut past.copy, &name);
    // The same command again after the repair.
    past.archive.replace(&name, &whole);
    past.copy.start();
    expect_rows(&past.copy, 3 * ROWS);
}

#[test]
fn a_missing_segment_stops_recovery() {
    let site = Site::with_servers(1);
    let primary = site.cluster("primary");
    let mut past = write_history(&site, primary, 3);
    let name = past.segments[1].clone();
    past.archive.remove(&name);
    past.copy.recover_from_archive();
    expect_no_promotion(&mut past.copy, &name);
    assert!(past.copy.log().contains(&name));
}

#[test]
fn a_repository_that_went_away_stops_recovery() {
    let site = Site::with_servers(1);
    let primary = site.cluster("primary");
    let mut past = write_history(&site, primary, 2);
    past.copy.recover_from_archive();
    past.copy.config.set("get.deadline", "1s");
    site.hide_repository();
    // The first request: if it were "absent", timeline 2 would be used twice.
    expect_no_promotion(&mut past.copy, "00000002.history");
    site.show_repository();
    past.copy.start();
    expect_rows(&past.copy, 2 * ROWS);
}

#[test]
fn a_target_that_is_not_reached_is_postgres_s_own_error() {
    let site = Site::with_servers(1);
    let primary = site.cluster("primary");
    let mut past = write_history(&site, primary, 3);
    past.archive.remove(&past.segments[1]);
    past.copy.restore_by_command(&["--with-target"]);
    past.copy.append_conf("recovery_target_name = 'never'\n");
    past.copy.write("recovery.signal", "");
    past.copy.start_without_waiting();
    assert!(!past.copy.wait_for_end());
    assert!(past.copy.log().contains("recovery ended before configured recovery target was reached"));
    assert!(past.copy.calls().iter().all(|(_, status)| *status <= 1), "{:?}", past.copy.calls());
}

#[test]
fn a_killed_agent_does_not_disturb_recovery() {
    let site = Site::with_servers(1);
    let primary = site.cluster("primary");
    let mut past = write_history(&site, primary, 12);
    past.copy.recover_from_archive();
    past.copy.start_without_waiting();
    let mut killed = 0;
    crate::support::wait_until("the end of recovery", crate::support::PATIENCE, || {
        if let Some(agent) = past.copy.find_agent().filter(|_| killed < 5) {
            agent.kill();
            killed += 1;
        }
        past.copy.try_psql("SELECT pg_is_in_recovery()").stdout.trim() == "f"
    });
    expect_rows(&past.copy, 12 * ROWS);
    assert!(killed > 0);
}
