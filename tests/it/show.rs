//! `pgark info`, `status`, `check` and `config`: their output for an operator.

use crate::support::{Cluster, Outcome, Run, Site, pgark_program};
use serde_json::Value;

/// The JSON output of a command.
#[track_caller]
fn json(outcome: &Outcome) -> Value {
    let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(value["schema"], 1);
    value
}

/// The finding of `check` on a subject.
fn found<'a>(findings: &'a Value, what: &str) -> &'a Value {
    let found = findings["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == what);
    found.unwrap_or_else(|| panic!("{what} was not looked at: {findings}"))
}

fn verdict<'a>(findings: &'a Value, what: &str) -> &'a str {
    found(findings, what)["verdict"].as_str().unwrap()
}

fn archiving(site: &Site) -> Cluster {
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.append_conf("archive_timeout = 60");
    primary.start();
    primary
}

#[test]
fn help_is_grouped_and_says_what_exit_statuses_mean() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let help = |arguments: &[&str]| cluster.pgark(arguments).run().expect(0).stdout;
    for command in
        ["base-backup", "combine", "recover", "info", "check", "status", "config", "agent", "version"]
    {
        let (short, long) = (help(&[command, "-h"]), help(&[command, "--help"]));
        assert!(short.contains("-v, --verbose..."), "{short}");
        assert!(short.contains("General:") && !short.contains("--assume-version"), "{short}");
        assert!(long.contains("Exit status:") && long.contains("Example"), "{long}");
        assert!(long.contains("--assume-version") && !short.contains("Example"), "{command}");
    }
    for (alias, command) in [("backup", "base-backup"), ("restore", "recover")] {
        assert_eq!(help(&[alias, "-h"]), help(&[command, "-h"]));
    }
    let recover = help(&["recover", "-h"]);
    let places: Vec<_> = ["Target:", "Standby:", "Where:", "What:", "Server:", "General:"]
        .map(|head| recover.find(head))
        .into();
    assert!(places.iter().all(Option::is_some), "{recover}");
}

#[test]
fn version_says_how_pgark_was_built() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let version = |arguments: &[&str]| cluster.pgark(arguments).run().expect(0).stdout;
    let line = version(&["version"]);
    assert_eq!(line, version(&["--version"]));
    assert_eq!(line, format!("pgark {}\n", env!("CARGO_PKG_VERSION")));
    let long = version(&["version", "--verbose"]);
    assert!(long.starts_with(&line), "{long}");
    for part in
        ["features     s3", "-linux-", "rustls", "13, 14, 15", "format 1", "lz4, zstd, none", "directory, s3"]
    {
        assert!(long.contains(part), "{part} is missing: {long}");
    }
    let json = json(&cluster.pgark(&["version", "--json"]).run().expect(0));
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&json["repository_format"], &json["postgresql"][0]), (&Value::from(1), &Value::from(13)));
    // A wrong configuration does not hide it.
    let wrong = Run::new(pgark_program("pgark")).args(["version", "--config", "/nonexistent.toml"]).run();
    assert_eq!(wrong.expect(0).stdout, line);
}

#[test]
fn info_shows_backups_gaps_and_the_recovery_window() {
    let site = Site::with_servers(1);
    let primary = archiving(&site);
    primary.pgark(&["info"]).run().expect(1).says("holds nothing of cluster");
    let before: Vec<String> = (0..3).map(|_| primary.switch_wal()).collect();
    before.iter().for_each(|segment| primary.wait_archived(segment));
    site.archive_of(&primary).remove(&before[1]);
    let gap_of = |timeline: &Value, kind: &str| timeline[kind][0]["first"].clone();
    let no_backup = json(&primary.pgark(&["--json", "info"]).run().expect(0));
    assert_eq!(gap_of(&no_backup["systems"][0]["timelines"][0], "gaps"), before[1].as_str());
    primary.pgark(&["base-backup", "--checkpoint", "fast", "--label", "one"]).run().expect(0);
    let segments: Vec<String> = (0..4).map(|_| primary.switch_wal()).collect();
    segments.iter().for_each(|segment| primary.wait_archived(segment));

    let whole = json(&primary.pgark(&["--json", "info"]).run().expect(0));
    let system = &whole["systems"][0];
    assert_eq!(system["system_identifier"], primary.system_identifier().to_string());
    assert_eq!(system["segment_bytes"], 1 << 20);
    assert_eq!(system["backups"][0]["label"], "one");
    assert_eq!(system["backups"][0]["missing_wal"], Value::Null);
    assert_eq!(system["timelines"][0]["gaps"], Value::Array(Vec::new()));
    assert_eq!(gap_of(&system["timelines"][0], "never_archived"), before[1].as_str());
    assert_eq!(system["windows"][0]["last_segment"], segments[3].as_str());
    assert_eq!(system["windows"][0]["oldest_backup"], "one");

    site.archive_of(&primary).remove(&segments[1]);
    let holed = json(&primary.pgark(&["--json", "info"]).run().expect(0));
    let system = &holed["systems"][0];
    let gap = &system["timelines"][0]["gaps"][0];
    assert_eq!((&gap["first"], &gap["segments"]), (&Value::from(segments[1].as_str()), &Value::from(1)));
    assert_eq!(
        system["windows"][0]["last_segment"],
        segments[0].as_str(),
        "what is behind the hole is out of reach"
    );
    let text = primary.pgark(&["info"]).run().expect(0);
    assert!(text.stdout.contains("missing on timeline 1: 1 segment"), "{text}");
    assert!(text.stdout.contains("never archived on timeline 1, before the first backup"), "{text}");

    let first = system["backups"][0]["start_lsn"].as_str().unwrap().to_owned();
    let needed = primary.psql(&format!("SELECT pg_walfile_name('{first}')"));
    site.archive_of(&primary).remove(&needed);
    let text = primary.pgark(&["info"]).run().expect(0);
    assert!(text.stdout.contains("CANNOT BE USED") && text.stdout.contains(&needed), "{text}");
    assert!(text.stdout.contains("recovery is not possible"), "{text}");
}

#[test]
fn info_shows_what_is_left_of_a_damaged_backup() {
    let site = Site::with_servers(1);
    let primary = archiving(&site);
    primary.back_up("one");
    primary.back_up("two");
    std::fs::write(site.archive_of(&primary).backup("one").join("manifest.json"), "{").unwrap();
    let system = json(&primary.pgark(&["--json", "info"]).run().expect(4))["systems"][0].clone();
    assert_eq!(
        (&system["damaged"][0]["label"], &system["backups"][0]["label"]),
        (&"one".into(), &"two".into())
    );
    assert_eq!(system["windows"][0]["oldest_backup"], "two");
    let text = primary.pgark(&["info"]).run().expect(4);
    assert!(text.stdout.contains("one CANNOT BE USED: ") && text.stdout.contains("manifest.json"), "{text}");
}

#[test]
fn info_needs_no_configuration_on_a_new_host() {
    let site = Site::with_servers(1);
    let primary = archiving(&site);
    let segment = primary.switch_wal();
    primary.wait_archived(&segment);
    let repository = site.repository();
    let elsewhere = |cluster: &str| {
        let arguments = ["info", "--repository", repository.to_str().unwrap(), "--cluster", cluster];
        Run::new(pgark_program("pgark")).args(arguments).run()
    };
    assert!(elsewhere("main").expect(0).stdout.contains(&segment));
    elsewhere("other").expect(1).says("holds nothing of cluster \"other\"");
}

#[test]
fn check_passes_where_everything_works_and_says_what_does_not() {
    let site = Site::with_servers(1);
    let mut primary = archiving(&site);
    let passed = json(&primary.pgark(&["--json", "check"]).run().expect(0));
    assert_eq!(passed["passed"], true);
    assert_eq!(verdict(&passed, "round trip"), "passed", "{passed}");
    primary.pgark(&["check"]).run().expect(0);
    if primary.is_from(19) {
        // The level at which the server actually writes WAL, whatever wal_level is.
        primary.psql("SELECT pg_create_logical_replication_slot('slot', 'test_decoding')");
        let raised = json(&primary.pgark(&["--json", "check"]).run().expect(0));
        assert_eq!(found(&raised, "wal_level")["detail"], "logical", "{raised}");
        primary.psql("SELECT pg_drop_replication_slot('slot')");
    }

    primary.psql("ALTER SYSTEM SET archive_command = 'true'");
    primary.psql("SELECT pg_reload_conf()");
    let failed = json(&primary.pgark(&["--json", "check"]).run().expect(2));
    assert_eq!((verdict(&failed, "archive_command"), &failed["passed"]), ("failed", &Value::from(false)));

    primary.psql("ALTER SYSTEM RESET archive_command");
    primary.psql("ALTER SYSTEM SET archive_mode = off");
    primary.stop(crate::support::Stop::Fast);
    primary.pgark(&["check"]).run().expect(3);
    primary.start();
    let off = json(&primary.pgark(&["--json", "check"]).run().expect(2));
    assert_eq!((verdict(&off, "archive_mode"), verdict(&off, "round trip")), ("failed", "warning"));

    site.hide_repository();
    let away = json(&primary.pgark(&["--json", "check"]).run().expect(3));
    assert_eq!(verdict(&away, "repository"), "failed");
    // An empty mount point is not a new repository.
    crate::support::create_private_directory(&site.repository());
    let unmounted = json(&primary.pgark(&["--json", "check"]).run().expect(3));
    assert_eq!(verdict(&unmounted, "repository"), "failed", "{unmounted}");
    assert!(unmounted.to_string().contains("the repository has disappeared"), "{unmounted}");
}

#[test]
fn status_tells_what_waits_and_why() {
    let site = Site::with_servers(1);
    let primary = archiving(&site);
    let before = json(&primary.pgark(&["--json", "status"]).run().expect(0));
    assert_eq!((&before["agent"], &before["waiting"]["files"]), (&Value::Null, &Value::from(0)));
    assert!(before["server_process_id"].is_u64());

    let segment = primary.switch_wal();
    primary.wait_archived(&segment);
    let working = json(&primary.pgark(&["--json", "status"]).run().expect(0));
    assert_eq!(working["agent"]["process_id"], primary.agent().0);
    assert_eq!(working["agent"]["upload"]["outage"], Value::Null);

    site.hide_repository();
    let stuck = primary.switch_wal();
    crate::support::wait_until("the outage to be told", crate::support::PATIENCE, || {
        let status = json(&primary.pgark(&["--json", "status"]).run());
        status["waiting"]["first"] == stuck.as_str() && status["agent"]["upload"]["outage"].is_object()
    });
    let text = primary.pgark(&["status"]).run().expect(0);
    assert!(text.stdout.contains("does not exist") && text.stdout.contains("HINT:"), "{text}");
    site.show_repository();
    primary.wait_archived(&stuck);
}

#[test]
fn config_prints_every_setting_with_its_origin() {
    let site = Site::without_server();
    let mut primary = site.cluster("primary");
    primary.config.set("s3.connect_timeout", "1500ms");
    primary.config.set("backup.max_rate", "50MB");
    let settings = json(&primary.pgark(&["--json", "config"]).run().expect(0));
    let of = |name: &str| {
        let all = settings["settings"].as_array().unwrap();
        all.iter().find(|setting| setting["name"] == name).unwrap().clone()
    };
    assert_eq!(
        (&of("cluster")["value"], &of("cluster")["origin"]),
        (&Value::from("main"), &Value::from("file"))
    );
    for (name, value, unit, text) in [
        ("agent.log_max", Value::from(10 << 20), Value::from("B"), "10MB"),
        ("get.deadline", Value::from(3), Value::from("s"), "3s"),
        ("s3.connect_timeout", Value::from(1.5), Value::from("s"), "1500ms"),
        ("backup.max_rate", Value::from(50 << 20), Value::from("B/s"), "50MB"),
        ("agent.workers", Value::from(2), Value::Null, "2"),
        ("agent.resident", Value::from(true), Value::Null, "true"),
        ("system_identifier", Value::Null, Value::Null, "any"),
    ] {
        let found = of(name);
        assert_eq!((&found["value"], &found["unit"], found["text"].as_str()), (&value, &unit, Some(text)));
    }
    assert_eq!(of("agent.log_max")["origin"], "default");
    let printed = primary.pgark(&["config"]).run().expect(0).stdout;
    assert!(printed.lines().any(|line| line.starts_with("backup.max_rate ") && line.contains(" 50MB ")));
    let wrong = primary.pgark(&["--json", "config"]).args(["--config", "/nonexistent.toml"]).run().expect(2);
    assert_eq!(json(&wrong)["error"]["exit_status"], 2);
}

#[test]
fn a_password_in_an_address_is_never_repeated() {
    let site = Site::without_server();
    let mut primary = site.cluster("primary");
    let url = "s3://admin:geheim@bucket/prefix";
    let given = primary.pgark(&["info", "--repository", url, "--cluster", "main"]).run().expect(2);
    primary.config.set("repository.url", url);
    let configured = primary.pgark(&["info"]).run().expect(2);
    let pushed = primary.push("pg_wal/000000010000000000000001").expect(2);
    for outcome in [given, configured, pushed] {
        assert!(!outcome.stderr.contains("geheim") && !outcome.stderr.contains("admin"), "{outcome}");
        outcome.says("s3://…@bucket/prefix").says("do not put access keys into the URL");
    }
}

#[test]
fn what_a_newer_pgark_wrote_hides_nothing_else() {
    let site = Site::with_servers(1);
    let mut primary = archiving(&site);
    primary.psql("CREATE TABLE t AS SELECT 1 AS a");
    primary.back_up("one");
    primary.back_up("newer");
    let archive = site.archive_of(&primary);
    let manifest = archive.backup("newer").join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replacen("\"version\": 1", "\"version\": 7, \"unknown\": []", 1)).unwrap();
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    let shown = primary.pgark(&["info"]).run().expect(2).stdout;
    assert!(shown.contains("newer CANNOT BE USED: ") && shown.contains("it has version 7"), "{shown}");
    assert!(shown.contains("Upgrade pgark") && shown.contains("(end of backup one)"), "{shown}");
    // An incremental backup builds on a readable one.
    let built =
        primary.pgark(&["--json", "base-backup", "--type", "incremental", "--checkpoint", "fast"]).run();
    assert_eq!(json(&built.expect(0))["parent"], "one");
    primary.stop(crate::support::Stop::Fast);
    let into = site.directory().join("into");
    let planned = primary.recover(&into, &["--dry-run", "--backup", "one"]).run().expect(0);
    assert!(planned.stdout.contains("backup newer is not considered"), "{planned}");
    primary.recover(&into, &["--dry-run", "--backup", "newer"]).run().expect(2).says("it has version 7");
    assert_eq!(primary.answer_after(&into, &["--latest"], "SELECT a FROM t"), "1");

    // Nor does the repository of another system.
    let format = archive.backup("x").parent().unwrap().with_file_name("format.json");
    let other = format.parent().unwrap().with_file_name("7000000000000000001");
    std::fs::create_dir(&other).unwrap();
    let text = std::fs::read_to_string(&format).unwrap().replace("\"format\": 1", "\"format\": 9");
    let system = primary.system_identifier().to_string();
    std::fs::write(other.join("format.json"), text.replace(&system, "7000000000000000001")).unwrap();
    let shown = json(&primary.pgark(&["--json", "info"]).run().expect(2));
    assert!(shown["systems"][0]["unusable"]["reason"].as_str().unwrap().contains("has format 9"), "{shown}");
    assert_eq!(shown["systems"][1]["windows"][0]["oldest_backup"], "one");
}
