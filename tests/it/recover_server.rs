//! The server that `pgark recover --wait` starts: reports why it does not start, respond or continue, with advice,
//! which the tests follow.

use crate::support::{Cluster, Outcome, Run, Site, Stop, Story, create_private_directory, write_file};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const COUNT: &str = "SELECT count(*) FROM t";

/// Appends lines to the settings of a recovered cluster.
fn set(data: &Path, lines: &str) {
    let path = data.join("postgresql.auto.conf");
    write_file(&path, fs::read_to_string(&path).unwrap() + lines + "\n");
}

/// pgark's own hint, below those of the server's log.
fn hint(outcome: &Outcome) -> &str {
    outcome.stderr.rsplit_once("\nHINT: ").map(|(_, hint)| hint).unwrap_or_default()
}

/// Runs a command line in a shell.
#[track_caller]
fn type_in(command: &str) {
    Run::new("/bin/sh").arg("-c").arg(command).run().expect(0);
}

#[test]
fn whatever_answers_is_asked_how_far_the_server_is() {
    let mut story = Story::tell();
    let conninfo =
        story.primary.conninfo().replace("user=postgres dbname=postgres", "user=nobody dbname=none");
    story.primary.config.set("connection.conninfo", conninfo.as_str());
    assert_eq!(story.rows_after("into", &["--target-name", "ten rows"]), "10");
}

#[test]
fn what_keeps_a_server_from_starting_is_found_in_the_plan() {
    let mut story = Story::tell();
    let into = story.directory("into");
    let broken = story.directory("line\nbreak");
    story.recover(&broken, &["--wait"]).expect(2).says("path contains a line break");

    let programs = story.directory("programs");
    create_private_directory(&programs);
    let pg_ctl = programs.join("pg_ctl");
    write_file(&pg_ctl, "#!/bin/sh\necho 'pg_ctl (PostgreSQL) 9.6.24'\n");
    fs::set_permissions(&pg_ctl, fs::Permissions::from_mode(0o755)).unwrap();
    let other = programs.display().to_string();
    story
        .recover(&into, &["--wait", "--pg-bin", &other])
        .expect(2)
        .says("is of PostgreSQL 9, but the backup is of");

    let long = story.directory(&"long".repeat(30)).display().to_string();
    story.recover(&into, &["--spool-directory", &long]).expect(2).says("Choose a shorter path");

    story.primary.start();
    story.recover(&into, &["--wait"]).expect(2).says("port 5432 is in use").says("--port");
    let outcome = story.recover(&into, &["--dry-run"]).expect(0);
    assert!(outcome.stdout.contains("port 5432 is in use"), "{outcome}");
    let options = ["--wait", "--port", "5433", "--target-name", "ten rows"];
    story.recover(&into, &options).expect(0);
    story.primary.stop_recovered(&into);
    story.primary.stop(Stop::Fast);
}

#[test]
fn a_setting_that_keeps_the_server_from_starting_is_named_and_can_be_mended() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 3) AS a");
    // The original server has not read it.
    primary.append_conf("shared_preload_libraries = 'absent'\n");
    primary.back_up("one");
    primary.stop(Stop::Fast);
    let into = site.directory().join("into");
    let outcome = primary.recover(&into, &["--latest", "--wait"]).run().expect(4);
    let outcome = outcome.says("could not access file \"absent\"").says("the end of postgresql.auto.conf");
    set(&into, "shared_preload_libraries = ''");
    let command = hint(&outcome).lines().next().and_then(|line| line.split_once("recovery continues: "));
    type_in(command.expect("a command").1);
    primary.wait_promoted();
    assert_eq!(primary.psql(COUNT), "3");
    primary.stop_recovered(&into);
}

/// A cluster whose backup was taken with a lower max_connections than later WAL needs.
fn with_raised_connections(site: &Site) -> Cluster {
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.append_conf("max_connections = 20\n");
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    primary.back_up("one");
    primary.stop(Stop::Fast);
    primary.append_conf("max_connections = 30\n");
    primary.start();
    primary.psql("INSERT INTO t VALUES (1)");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    primary
}

#[test]
fn a_pause_that_is_not_the_target_is_an_error_with_what_ends_it() {
    let site = Site::with_servers(1);
    let mut primary = with_raised_connections(&site);
    // Keeps the plan from finding out.
    primary.config.set("recover.prove_wal", "0MB");
    for (name, options) in [("recovered", &["--latest"][..]), ("standby", &["--standby"])] {
        let into = site.directory().join(name);
        let outcome = primary.recover(&into, &[options, &["--wait"]].concat()).run().expect(4);
        let advice = hint(&outcome).to_owned();
        if primary.is_from(14) {
            let outcome =
                outcome.says("which is not its target").says("max_connections is 20, and the WAL needs 30");
            outcome.says("insufficient parameter settings");
            let mut lines = advice.lines().skip(1);
            set(&into, lines.next().unwrap());
            lines.for_each(type_in);
        } else {
            // This version exits instead.
            let outcome = outcome.says("max_connections").says("the end of postgresql.auto.conf");
            set(&into, "max_connections = 30");
            let command =
                hint(&outcome).lines().next().and_then(|line| line.split_once("recovery continues: "));
            type_in(command.expect("a command").1);
        }
        primary.wait_for_row(COUNT, "1");
        primary.stop_recovered(&into);
    }
}

/// The part of a text between two others.
#[track_caller]
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("no \"{before}\" in\n{text}")).1;
    rest.split_once(after).unwrap_or_else(|| panic!("no \"{after}\" in\n{rest}")).0
}

#[test]
fn a_server_opens_at_its_target_as_it_is_told_to() {
    let story = Story::tell();
    let run = |name: &str, action: &str| {
        let into = story.directory(name);
        let options = ["--wait", "--target-name", "ten rows", "--target-action", action];
        (into.clone(), story.recover(&into, &options).expect(0))
    };
    let opened = |into: &Path| {
        story.primary.wait_promoted();
        story.primary.psql("INSERT INTO t VALUES (0)");
        assert_eq!(story.primary.psql(COUNT), "11", "ten rows, and the one that was just written");
        story.primary.stop_recovered(into);
    };
    let (into, outcome) = run("paused", "pause");
    story.primary.psql(between(&outcome.stderr, "open for reading; ", " opens it for writing"));
    opened(&into);

    let (into, outcome) = run("stopped", "shutdown");
    let advice = outcome.stdout.split_once("then start it:\n").expect("advice").1;
    let mut lines = advice.lines();
    set(&into, lines.next().unwrap().trim());
    type_in(lines.next().unwrap());
    opened(&into);

    let (into, _) = run("promoted", "promote");
    opened(&into);
}

/// Checks the statements of the last message against a recovered server.
#[test]
fn what_does_not_come_back_is_told() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.append_conf("wal_level = logical\n");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 3) AS a");
    primary.psql("CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 3) AS a");
    primary.psql("CREATE SEQUENCE s");
    assert_eq!(primary.psql("SELECT nextval('s')"), "1");
    primary.psql("SELECT pg_create_logical_replication_slot('publisher', 'pgoutput')");
    primary.psql("SELECT pg_create_physical_replication_slot('standby', true)");
    primary.back_up("one");
    primary.psql("SELECT nextval('s')");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    let into = site.directory().join("into");
    let outcome = primary.recover(&into, &["--latest", "--wait"]).run().expect(0);
    for said in
        ["replication slots", "subscriptions", "unlogged tables", "statistics", "Sequences may skip up to 32"]
    {
        assert!(outcome.stdout.contains(said), "{said} in {outcome}");
    }
    assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    assert_eq!(primary.psql("SELECT count(*) FROM u"), "0");
    assert_eq!(primary.psql(COUNT), "3");
    let next: i64 = primary.psql("SELECT nextval('s')").parse().unwrap();
    assert!(next > 2 && next <= 2 + 33, "{next}");
    primary.stop_recovered(&into);
}

/// The runbook's procedure for subscriptions to a recovered publisher.
#[test]
fn a_subscription_to_a_recovered_publisher_is_made_anew() {
    let site = Site::with_servers(2);
    let mut publisher = site.cluster("publisher");
    publisher.append_conf("wal_level = logical\n");
    publisher.archive();
    publisher.start();
    let mut subscriber = site.cluster("subscriber");
    subscriber.start();
    for cluster in [&publisher, &subscriber] {
        cluster.psql("CREATE TABLE t (a int)");
    }
    publisher.psql("CREATE PUBLICATION p FOR TABLE t");
    let subscribe = format!("CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p", publisher.conninfo());
    subscriber.psql(&subscribe);
    publisher.psql("INSERT INTO t VALUES (1)");
    subscriber.wait_for_row(COUNT, "1");
    publisher.back_up("one");
    publisher.psql("INSERT INTO t VALUES (2)");
    subscriber.wait_for_row(COUNT, "2");
    let last = publisher.switch_wal();
    publisher.wait_archived(&last);
    publisher.stop(Stop::Fast);

    let into = site.directory().join("into");
    publisher.recover(&into, &["--latest", "--wait"]).run().expect(0);
    publisher.psql("INSERT INTO t VALUES (3)");
    assert_eq!(publisher.psql("SELECT count(*) FROM pg_replication_slots"), "0");
    let anew = [
        "ALTER SUBSCRIPTION s DISABLE",
        "ALTER SUBSCRIPTION s SET (slot_name = NONE)",
        "DROP SUBSCRIPTION s",
        "TRUNCATE t",
    ];
    anew.iter().for_each(|sql| drop(subscriber.psql(sql)));
    subscriber.psql(&subscribe);
    subscriber.wait_for_row(COUNT, "3");
    publisher.psql("INSERT INTO t VALUES (4)");
    subscriber.wait_for_row(COUNT, "4");
    subscriber.stop(Stop::Fast);
    publisher.stop_recovered(&into);
}
