//! `pgark base-backup --method stream`: a backup over the replication protocol is equivalent to one of the files.

use crate::support::{Cluster, PATIENCE, Run, Site, Stop, create_private_directory, wait_until};
use std::collections::BTreeSet;
use std::fs;

/// A running primary that archives, with some rows, and a configuration that does not lead to its files.
fn primary(site: &Site) -> Cluster {
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT g AS a, repeat('x', 100) AS b FROM generate_series(1, 20000) g");
    primary
}

/// Runs as on another host, where there is no such data directory.
pub fn stream(cluster: &Cluster, label: &str) -> Run {
    let mut config = cluster.config.clone();
    config.path = config.path.with_file_name("remote.toml");
    config.set("data_directory", "/nonexistent");
    let run =
        Run::new(crate::support::pgark_program("pgark")).arg("base-backup").arg("--config").arg(&config.path);
    run.args(["--method", "stream", "--checkpoint", "fast", "--label", label])
}

fn objects(site: &Site, cluster: &Cluster, label: &str) -> usize {
    fs::read_dir(site.archive_of(cluster).backup(label)).map_or(0, Iterator::count)
}

#[test]
fn a_streamed_backup_under_load_is_recovered() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    let space = site.directory().join("space");
    create_private_directory(&space);
    primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    primary.psql("CREATE TABLE s TABLESPACE space AS SELECT generate_series(1, 1000) AS a");
    primary.postgres_program("pgbench").arg("-i").arg("-q").arg(primary.conninfo()).run().expect(0);
    let load = primary
        .postgres_program("pgbench")
        .args(["-c", "2", "-T", "4", "-n"])
        .arg(primary.conninfo())
        .spawn();
    primary.wait_for_row("SELECT count(*) > 0 FROM pgbench_history", "t");
    stream(&primary, "one").run().expect(0);
    load.wait().expect(0);
    let count = "SELECT count(*), (SELECT count(*) FROM s), (SELECT count(*) FROM pgbench_history) FROM t";
    let counted = primary.psql(count);
    primary.stop(Stop::Fast);

    let (into, moved) = (site.directory().join("into"), site.directory().join("moved"));
    let mapping = format!("--tablespace-mapping={}={}", space.display(), moved.display());
    primary.recover(&into, &["--latest", "--wait", &mapping]).run().expect(0);
    assert_eq!(primary.psql(count), counted);
    let balances =
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)";
    assert_eq!(primary.psql(balances), "t");
    primary.stop_recovered(&into);
    primary.check_pages(&into);

    // Unpacks it with standard tools; PostgreSQL's own tool finds it complete.
    let copy = site.directory().join("copy");
    let copied = site.directory().join("copied");
    let mapping = format!("--tablespace-mapping={}={}", space.display(), copied.display());
    primary.recover(&copy, &["--target-immediate", &mapping]).run().expect(0);
    let verify = primary.postgres_program("pg_verifybackup").arg("-n").args(
        ["postgresql.auto.conf", "recovery.signal", "tablespace_map"].iter().flat_map(|path| ["-i", path]),
    );
    verify.arg(&copy).run().expect(0);
}

#[test]
fn it_holds_the_same_files_as_a_backup_of_the_files() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    primary.psql("CREATE UNLOGGED TABLE u AS SELECT 1");
    primary.psql("CREATE DATABASE other");
    primary.psql("CHECKPOINT");
    for path in ["standby.signal.bak", "mine"] {
        primary.write(path, "x");
    }
    stream(&primary, "stream").run().expect(0);
    primary.back_up("files");
    let paths = |label: &str| -> BTreeSet<(String, String)> {
        let place = site.archive_of(&primary).backup(label);
        let listed = Run::new("lz4").arg("-dc").arg(place.join("files")).run().expect(0).stdout;
        let lines = listed.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines
            .filter(|line| line["kind"] != "end")
            .map(|line| (line["path"].to_string(), format!("{} {}", line["kind"], line["mode"])))
            .collect()
    };
    assert_eq!(paths("stream"), paths("files"));
    let manifest = |label: &str| -> serde_json::Value {
        let text = fs::read(site.archive_of(&primary).backup(label).join("manifest.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    for field in ["server", "databases", "tablespaces", "settings", "from_standby", "system_identifier"] {
        assert_eq!(manifest("stream")[field], manifest("files")[field], "{field}");
    }
}

#[test]
fn the_server_is_told_who_we_are_by_every_kind_of_password() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    // A loopback address that no other test run uses.
    let process = std::process::id();
    let address = format!("127.{}.{}.7", (process >> 8) & 0xFF, process & 0xFF);
    primary.archive();
    primary.append_conf(&format!("listen_addresses = '{address}'\n"));
    primary.start();
    primary.psql(
        "SET password_encryption = 'md5'; CREATE ROLE md LOGIN REPLICATION PASSWORD 'geheim';
         SET password_encryption = 'scram-sha-256'; CREATE ROLE sc LOGIN REPLICATION PASSWORD 'geheim';
         CREATE ROLE pw LOGIN REPLICATION PASSWORD 'geheim'; CREATE ROLE no LOGIN PASSWORD 'geheim';
         GRANT pg_read_all_settings, pg_monitor TO md, sc, pw, no",
    );
    let rules: String = [("md", "md5"), ("sc", "scram-sha-256"), ("pw", "password"), ("no", "trust")]
        .iter()
        .map(|(user, method)| {
            let places = [
                ("local all", ""),
                ("local replication", ""),
                ("host all", "samehost"),
                ("host replication", "samehost"),
            ];
            places.map(|(database, address)| format!("{database} {user} {address} {method}\n")).concat()
        })
        .collect();
    primary.write("pg_hba.conf", format!("{rules}local all postgres trust\n"));
    primary.psql("SELECT pg_reload_conf()");
    let host = primary.socket_directory().display().to_string();
    let conninfo = |user: &str, rest: &str| format!("host={host} user={user} dbname=postgres {rest}");
    for user in ["md", "sc", "pw"] {
        primary.config.set("connection.conninfo", conninfo(user, "password=geheim").as_str());
        stream(&primary, user).run().expect(0);
    }
    let tcp = format!("host={address} port=5432 user=sc dbname=postgres password=geheim");
    primary.config.set("connection.conninfo", tcp.as_str());
    stream(&primary, "tcp").run().expect(0);
    primary.config.set("connection.conninfo", format!("{tcp} sslmode=require").as_str());
    stream(&primary, "tls").run().expect(2).says("does not support TLS");
    primary.config.set("connection.conninfo", conninfo("sc", "password=wrong").as_str());
    stream(&primary, "wrong").run().expect(2).says("password authentication failed");
    primary.config.set("connection.conninfo", conninfo("no", "").as_str());
    let refused = stream(&primary, "no").run().expect(2).says("replication");
    assert!(!refused.stderr.contains("geheim"), "{refused}");
    assert_eq!(objects(&site, &primary, "no"), 0);
}

#[test]
fn a_server_that_dies_in_the_middle_leaves_nothing_listed() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    let archive = site.archive_of(&primary);
    // The backup waits for its first segment, and the server waits for the receiver.
    primary.psql("ALTER SYSTEM SET archive_command = '/bin/false'");
    primary.psql("SELECT pg_reload_conf()");
    primary.wait_for_row("SHOW archive_command", "/bin/false");
    if let Some(agent) = primary.find_agent() {
        agent.kill(); // it would go on reading ahead
    }
    let before = archive.names().len();
    let backup = stream(&primary, "one").spawn();
    primary.wait_for_row(
        "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase LIKE 'streaming%' AND backup_streamed > 0",
        "1",
    );
    primary.psql("ALTER SYSTEM RESET archive_command");
    primary.psql("SELECT pg_reload_conf()");
    wait_until("the first segment is archived", PATIENCE, || archive.names().len() > before);
    primary.kill9();
    backup.wait().expect(3);
    assert_eq!(objects(&site, &primary, "one"), 0);
    primary.start();
    stream(&primary, "one").run().expect(0);
}

#[test]
fn damaged_pages_are_told_and_kept() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    primary.psql("CHECKPOINT");
    let path = primary.psql("SELECT pg_relation_filepath('t')");
    let mut bytes = primary.read(&path);
    bytes[2 * 8192 + 5000] ^= 1;
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(primary.data().join(&path)).unwrap();
    file.write_all_at(&bytes[2 * 8192..3 * 8192], 2 * 8192).unwrap();
    stream(&primary, "one").run().expect(0).says(&format!("block 2 of \"{path}\" is damaged"));
    let manifest = fs::read(site.archive_of(&primary).backup("one").join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["damaged_pages"]["count"], 1);
    assert_eq!(manifest["damaged_pages"]["listed"][0]["block"], 2);
}

#[test]
fn a_standby_sends_a_backup_that_is_no_standby() {
    let site = Site::with_servers(2);
    let mut primary = site.cluster("primary");
    let mut standby = primary.copy("standby");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 100) AS a");
    let segment = primary.switch_wal();
    primary.wait_archived(&segment);
    standby.archive();
    standby.stand_by();
    standby.append_conf(&format!("primary_conninfo = '{}'\n", primary.conninfo()));
    standby.start();
    standby.wait_for_row("SELECT count(*) FROM t", "100");
    let (there, here) = (primary.conninfo(), standby.conninfo());
    standby.config.set("connection.conninfo", there.as_str());
    standby.config.set("connection.standby", here.as_str());
    stream(&standby, "one").run().expect(0);
    primary.psql("INSERT INTO t VALUES (101)");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    standby.stop(Stop::Fast);
    let into = site.directory().join("into");
    assert_eq!(standby.answer_after(&into, &["--latest"], "SELECT count(*) FROM t"), "101");
    assert!(!into.join("standby.signal").exists());
}
