//! The settings of a recovered cluster: archiving, names that need quotes, configuration files elsewhere.

use crate::support::{Cluster, Outcome, Run, Site, Stop, Story, create_private_directory, write_file};
use std::fs;
use std::path::Path;

const COUNT: &str = "SELECT count(*) FROM t";

#[test]
fn a_recovered_cluster_does_not_archive_and_check_is_red_until_it_does() {
    let mut story = Story::tell();
    let archive = story.site.archive_of(&story.primary);
    story.primary.move_data_away("destroyed");
    let options = ["--target-name", "ten rows", "--target-action", "promote"];
    let outcome = story.primary.pgark(&["recover"]).args(options).run().expect(0);
    assert!(outcome.stdout.contains("archive_mode is off in postgresql.auto.conf"), "{outcome}");
    let before = archive.names();
    story.primary.start();
    story.primary.wait_promoted();
    assert_eq!(story.primary.psql("SHOW archive_mode"), "off");
    story.primary.psql("INSERT INTO t VALUES (12)");
    story.primary.switch_wal();
    let red = story.primary.pgark(&["check"]).run();
    assert_ne!(red.code, Some(0), "{red}");
    assert!(red.stdout.contains("archive_mode is off"), "{red}");
    assert_eq!(archive.names(), before, "the copy leaves its original's archive alone");

    // Follows the output of recover and the hint of check.
    let auto = String::from_utf8(story.primary.read("postgresql.auto.conf")).unwrap();
    let without: Vec<&str> = auto.lines().filter(|line| !line.starts_with("archive_mode")).collect();
    assert_eq!(without.len() + 1, auto.lines().count());
    story.primary.stop(Stop::Fast);
    story.primary.write("postgresql.auto.conf", without.join("\n") + "\n");
    story.primary.start();
    story.primary.pgark(&["check"]).run().expect(0);

    // It began its timeline while it did not archive, so PostgreSQL never archives the history file, without which
    // recovery along that timeline is impossible.
    assert_eq!(archive.raw("00000002.history"), story.primary.read("pg_wal/00000002.history"));
    let into = story.directory("into");
    story.primary.pgark(&["recover", "--dry-run"]).arg("-D").arg(&into).run().expect(4).says("missing");
    story.primary.back_up("second");
    story.primary.psql("INSERT INTO t VALUES (13)");
    story.primary.stop(Stop::Fast);
    assert_eq!(story.primary.answer_after(&into, &["--latest"], COUNT), "12");
}

#[test]
fn a_cluster_that_archives_from_another_place_does_so_with_a_configuration_of_its_own() {
    let story = Story::tell();
    let archive = story.site.archive_of(&story.primary);
    let into = story.directory("it's new");
    let options = ["--target-name", "ten rows", "--target-action", "promote", "--archiving", "on"];
    let outcome = story.primary.recover(&into, &options).run().expect(0);
    assert!(outcome.stderr.contains("archive_command is adapted to this host and directory"), "{outcome}");
    start_as_printed(&outcome);
    story.primary.wait_promoted();
    let last = story.primary.switch_wal();
    story.primary.wait_archived(&last);
    assert!(archive.holds("00000002.history") && archive.holds(&last) && last.starts_with("00000002"));
    story.primary.stop_recovered(&into);

    // Recovered in place, it archives as before.
    let mut story = story;
    story.primary.move_data_away("destroyed");
    let outcome = story.primary.pgark(&["recover", "--latest", "--archiving", "on"]).run().expect(0);
    assert!(!outcome.stderr.contains("archive_command"), "{outcome}");
    story.primary.start();
    story.primary.wait_promoted();
    let last = story.primary.switch_wal();
    story.primary.wait_archived(&last);
    assert!(last.starts_with("00000003") && archive.holds(&last), "{last}");
}

/// Settings that other hosts inherit (`pg_rewind` copies them) refer to the configuration of each host.
#[test]
fn in_its_own_place_a_server_is_given_the_configuration_of_its_host() {
    let story = Story::tell();
    story.primary.move_data_away("destroyed");
    let options = ["--target-name", "ten rows", "--wait", "--json"];
    let outcome = story.primary.pgark(&["recover"]).args(options).run().expect(0);
    let document: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let own = story.primary.config.path.display().to_string();
    assert_eq!(document["plan"]["configuration_file"], own.as_str());
    assert!(story.primary.psql("SHOW restore_command").contains(&format!("--config {own} ")));
    assert!(!story.primary.data().with_extension("pgark.toml").exists());
    story.primary.psql("SELECT pg_wal_replay_resume()");
    story.primary.wait_promoted();
    story.primary.stop_recovered(&story.primary.data());
}

/// A running original whose settings would make a copy affect it.
#[test]
fn a_copy_beside_its_original_leaves_that_alone_and_takes_writes() {
    let site = Site::with_servers(2);
    let mut primary = site.cluster("primary");
    let pid_file = site.directory().join("original.pid");
    primary.append_conf(&format!("external_pid_file = '{}'\n", pid_file.display()));
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    // The running server does not read it.
    primary.append_conf("synchronous_standby_names = 'elsewhere'\n");
    primary.back_up("one");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    let process = fs::read_to_string(&pid_file).unwrap();
    let into = site.directory().join("into");
    primary.recover(&into, &["--latest", "--wait", "--port", "5433"]).run().expect(0);
    let ask = |sql: &str| {
        let psql = primary.postgres_program("psql").args(["-X", "-A", "-t", "-q", "-d"]);
        let outcome =
            psql.arg(format!("{} port=5433", primary.conninfo())).arg("-c").arg(sql).run().expect(0);
        outcome.stdout.trim_end().to_owned()
    };
    let auto = fs::read_to_string(into.join("postgresql.auto.conf")).unwrap();
    assert!(auto.contains("archive_command = ''\n") && !auto.contains("archive-push"), "{auto}");
    assert_eq!(ask("SHOW synchronous_standby_names"), "");
    ask("INSERT INTO t VALUES (1)");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), process);
    primary.stop_recovered(&into);
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), process);
}

/// Creates a standby of the running server with PostgreSQL's own tool, and asserts that it follows.
#[track_caller]
fn expect_standby_follows(primary: &Cluster, data: &Path) {
    let base = primary.postgres_program("pg_basebackup").args(["-c", "fast", "-d", &primary.conninfo()]);
    base.arg("-D").arg(data).run().expect(0);
    // Not with the tool's option -R, which writes settings for a libpq of its own version.
    let auto = fs::read_to_string(data.join("postgresql.auto.conf")).unwrap();
    let conninfo = format!("primary_conninfo = '{}'\n", primary.conninfo());
    write_file(&data.join("postgresql.auto.conf"), auto + &conninfo);
    write_file(&data.join("standby.signal"), "");
    let start = primary.postgres_program("pg_ctl").arg("-D").arg(data).args(["-o", "-p 5434", "-w", "-l"]);
    start.arg(data.with_extension("log")).arg("start").run().expect(0);
    primary.wait_for_row("SELECT state FROM pg_stat_replication", "streaming");
    primary.psql("CREATE TABLE followed ()");
    primary.wait_for_row(
        "SELECT replay_lsn >= sent_lsn AND sent_lsn = pg_current_wal_lsn() FROM pg_stat_replication",
        "t",
    );
    primary.stop_recovered(data);
}

/// A recovery target that was reached is useless, and would conflict with others.
#[test]
fn a_standby_can_be_made_of_a_recovered_server() {
    let mut story = Story::tell();
    let target = ["--target-name", "ten rows", "--target-action", "promote"];
    let into = story.directory("waited");
    story.recover(&into, &[&target[..], &["--wait"]].concat()).expect(0);
    let auto = fs::read_to_string(into.join("postgresql.auto.conf")).unwrap();
    assert!(!auto.contains("recovery_target") && !auto.contains("--timeline"), "{auto}");
    expect_standby_follows(&story.primary, &story.directory("standby-of-waited"));
    story.primary.stop_recovered(&into);

    // Follows the last message and the runbook for a server that becomes the production server.
    let into = story.directory("typed");
    let outcome = story.recover(&into, &target).expect(0).stdout;
    assert!(
        outcome.contains("remove the lines that pgark recover wrote there, restart it, and take a backup")
    );
    story.primary.start_recovered(&into);
    story.primary.wait_promoted();
    story.primary.config.set("data_directory", into.as_path());
    let auto = fs::read_to_string(into.join("postgresql.auto.conf")).unwrap();
    let (kept, _) = auto.split_once("# Written by pgark recover.").unwrap();
    write_file(&into.join("postgresql.auto.conf"), kept);
    story.primary.stop_recovered(&into);
    story.primary.start_recovered(&into);
    story.primary.pgark(&["check"]).run().expect(0);
    story.primary.back_up("production");
    expect_standby_follows(&story.primary, &story.directory("standby-of-typed"));
    story.primary.stop_recovered(&into);
}

/// A name with characters that are special in a shell, a setting or TOML.
const ODD: &str = "it's 100% \"a\" \\b $x";

/// The same without characters on which PostgreSQL's own `pg_ctl` fails.
const LESS_ODD: &str = "it's 100% (%f) & new";

#[test]
fn names_that_need_quotes_work_from_end_to_end() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    let repository = site.directory().join(ODD);
    create_private_directory(&repository);
    primary.config.set("repository.url", repository.as_path());
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    primary.back_up("first");
    primary.psql("INSERT INTO t VALUES (1)");
    primary.psql(&format!("SELECT pg_create_restore_point($$ {ODD}$$)"));
    primary.psql("INSERT INTO t VALUES (2)");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);

    let new = site.directory().join(LESS_ODD);
    create_private_directory(&new);
    let name = format!(" {ODD}");
    let by_name = ["--target-name", &name];
    assert_eq!(primary.answer_after(&new.join("data"), &["--latest"], COUNT), "2");
    assert_eq!(primary.answer_after(&new.join(LESS_ODD), &by_name, COUNT), "1");

    // pg_ctl cannot start a server there, but the printed command can.
    let into = new.join(ODD);
    primary.recover(&into, &["--latest", "--wait"]).run().expect(2).says("pg_ctl cannot start a server in");
    assert!(!into.exists());
    for (into, rows) in [(into, "1"), (new.join("typed it's"), "1")] {
        let outcome = primary.recover(&into, &by_name).run().expect(0);
        start_as_printed(&outcome);
        primary.wait_for_row(COUNT, rows);
        primary.stop_recovered(&into);
    }
}

/// Runs the command that `pgark recover` printed.
#[track_caller]
fn start_as_printed(outcome: &Outcome) {
    let command = outcome.stdout.lines().find_map(|line| line.strip_prefix("Start the server: "));
    Run::new("/bin/sh").arg("-c").arg(command.expect("a command")).run().expect(0);
}

#[test]
fn configuration_outside_of_the_data_directory_comes_along() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    let elsewhere = primary.move_configuration();
    primary.archive();
    primary.append_conf("work_mem = '7MB'\n");
    primary.start();
    assert_eq!(primary.psql("SHOW config_file"), elsewhere.join("postgresql.conf").display().to_string());
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 5) AS a");
    primary.back_up("first");
    primary.psql("INSERT INTO t VALUES (6)");
    primary.stop(Stop::Fast);

    let into = site.directory().join("into");
    let outcome = primary.recover(&into, &["--latest"]).run().expect(0);
    let copies = site.directory().join("into.configuration");
    assert!(outcome.stdout.contains(&copies.display().to_string()), "{outcome}");
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        let original = elsewhere.join(name);
        assert!(outcome.stderr.contains(&original.display().to_string()), "{name} in {outcome}");
        let copy = copies.join(original.strip_prefix("/").unwrap());
        assert_eq!(fs::read(copy).unwrap(), fs::read(original).unwrap(), "{name}");
        assert!(into.join(name).exists(), "{name}");
    }
    let hosts = elsewhere.join("pg_hosts.conf");
    assert_eq!(hosts.exists(), primary.is_from(19));
    assert_eq!(copies.join(hosts.strip_prefix("/").unwrap()).exists(), hosts.exists());
    assert_eq!(fs::read(into.join("pg_hba.conf")).unwrap(), fs::read(elsewhere.join("pg_hba.conf")).unwrap());

    // It starts with its settings unchanged, except for the listen address, which could conflict with other servers of
    // this host.
    let mut conf = fs::read_to_string(into.join("postgresql.conf")).unwrap();
    let sockets = primary.socket_directory();
    conf += &format!("listen_addresses = ''\nunix_socket_directories = '{}'\n", sockets.display());
    fs::write(into.join("postgresql.conf"), conf).unwrap();
    start_as_printed(&outcome);
    primary.wait_promoted();
    assert_eq!(primary.psql(COUNT), "6");
    assert_eq!(primary.psql("SHOW data_directory"), into.display().to_string());
    assert_eq!(primary.psql("SHOW archive_mode"), "off");
    primary.stop_recovered(&into);
}
