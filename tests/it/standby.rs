//! A standby that restores through `archive-get`: it follows, and only its operator ends it.

use crate::support::{Cluster, PATIENCE, Site, Stop, wait_until};

/// A primary that archives, and a standby that restores only from the archive; both run.
fn primary_and_standby(site: &Site) -> (Cluster, Cluster) {
    let mut primary = site.cluster("primary");
    let mut standby = primary.copy("standby");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    standby.stand_by();
    standby.start();
    (primary, standby)
}

/// Writes a row and ends its segment.
fn write(primary: &Cluster, row: u32) -> String {
    primary.psql(&format!("INSERT INTO t VALUES ({row})"));
    primary.switch_wal()
}

#[test]
fn a_standby_follows_through_the_archive_alone() {
    let site = Site::with_servers(2);
    let (primary, standby) = primary_and_standby(&site);
    for row in 1..=4 {
        write(&primary, row);
        standby.wait_for_row("SELECT max(a) FROM t", &row.to_string());
    }
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");
}

#[test]
fn a_standby_outlives_a_repository_that_goes_away_for_a_while() {
    let site = Site::with_servers(2);
    let (primary, standby) = primary_and_standby(&site);
    write(&primary, 1);
    standby.wait_for_row("SELECT max(a) FROM t", "1");
    site.hide_repository();
    let calls_before = standby.calls().len();
    wait_until("the standby has asked in vain", PATIENCE, || standby.calls().len() >= calls_before + 4);
    assert!(standby.calls().iter().all(|(_, status)| *status <= 1), "{:?}", standby.calls());
    primary.psql("INSERT INTO t VALUES (2)");
    site.show_repository();
    write(&primary, 3);
    standby.wait_for_row("SELECT max(a) FROM t", "3");
}

#[test]
fn a_standby_waits_at_a_damaged_segment() {
    let site = Site::with_servers(2);
    let (primary, mut standby) = primary_and_standby(&site);
    write(&primary, 1);
    standby.wait_for_row("SELECT max(a) FROM t", "1");
    standby.stop(Stop::Fast);
    let archive = site.archive_of(&primary);
    let name = write(&primary, 2);
    primary.wait_archived(&name);
    let whole = archive.stored(&name);
    archive.damage(&name, -1);
    standby.start();
    wait_until("the standby has asked for it", PATIENCE, || {
        standby.calls().iter().filter(|(asked, status)| *asked == name && *status == 1).count() > 1
    });
    assert_eq!(standby.psql("SELECT max(a) FROM t"), "1");
    archive.replace(&name, &whole);
    standby.wait_for_row("SELECT max(a) FROM t", "2");
}

#[test]
fn a_standby_shuts_down_while_its_agent_hangs() {
    let site = Site::with_servers(2);
    let (_primary, mut standby) = primary_and_standby(&site);
    let agent = standby.agent();
    agent.signal(nix::sys::signal::Signal::SIGSTOP);
    wait_until("an archive-get waits", PATIENCE, || {
        standby
            .processes()
            .iter()
            .any(|process| process.command_line().contains("archive-get") && process.has_socket())
    });
    standby.stop(Stop::Fast);
}
