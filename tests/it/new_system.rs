//! A new cluster under the old name, created by initdb or pg_upgrade: both systems coexist and can be recovered.

use crate::support::{
    Cluster, Run, Site, Stop, Template, old_postgres_program, postgres_program, wants_everything,
};
use serde_json::Value;
use std::fs;
use std::path::Path;

const COUNT: &str = "SELECT count(*) FROM t";

/// The systems that `pgark info` lists, with the labels of their backups.
fn systems(cluster: &Cluster) -> Vec<(String, Vec<String>)> {
    let outcome = cluster.pgark(&["--json", "info"]).run().expect(0);
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let labels = |system: &Value| -> Vec<String> {
        let backups = system["backups"].as_array().unwrap();
        backups.iter().map(|backup| backup["label"].as_str().unwrap().to_owned()).collect()
    };
    let systems = document["systems"].as_array().unwrap();
    systems
        .iter()
        .map(|system| (system["system_identifier"].as_str().unwrap().to_owned(), labels(system)))
        .collect()
}

/// Archives, writes this number of rows, takes a backup before the last one, and stops.
fn live(cluster: &mut Cluster, rows: u32) {
    cluster.psql(&format!("CREATE TABLE t AS SELECT generate_series(2, {rows}) AS a"));
    cluster.back_up("first");
    cluster.psql("INSERT INTO t VALUES (1)");
    let last = cluster.switch_wal();
    cluster.wait_archived(&last);
}

#[test]
fn a_cluster_made_new_in_its_own_place_leaves_the_old_one_recoverable() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    live(&mut primary, 10);
    let old = primary.system_identifier().to_string();
    primary.stop(Stop::Fast);

    // The same configuration, spool, agent and label; WAL begins at the same position again.
    let other = site.cluster_of("other", Template { checksums: false, ..Template::default() });
    primary.move_data_away("destroyed");
    fs::rename(other.data(), primary.data()).unwrap();
    primary.append_conf(&format!("unix_socket_directories = '{}'\n", primary.socket_directory().display()));
    primary.archive();
    primary.start();
    live(&mut primary, 3);
    let new = primary.system_identifier().to_string();
    assert_ne!(old, new);
    let mut expected = [(old.clone(), vec!["first".to_owned()]), (new.clone(), vec!["first".to_owned()])];
    expected.sort();
    let mut found = systems(&primary);
    found.sort();
    assert_eq!(found, expected);
    let checked = primary.pgark(&["check"]).run().expect(0);
    assert!(checked.stdout.contains(&format!("with system identifier {old}")), "{checked}");
    primary.stop(Stop::Fast);

    for (system, rows) in [(old, "10"), (new, "3")] {
        let into = site.directory().join(&system);
        assert_eq!(primary.answer_after(&into, &["--latest", "--system-identifier", &system], COUNT), rows);
    }
}

/// Needs two versions, and half a minute.
#[test]
fn an_upgraded_cluster_goes_on_beside_what_it_was() {
    if !wants_everything() {
        return;
    }
    let Some(old_bin) = old_postgres_program("pg_ctl") else {
        eprintln!("PGARK_TEST_PG_OLD_BIN names no older PostgreSQL: not tried");
        return;
    };
    let old_bin = old_bin.parent().unwrap().to_owned();
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    // A cluster of the older version in its place.
    primary.move_data_away("new");
    let initdb =
        Run::new(old_bin.join("initdb")).args(["--username=postgres", "--auth=trust", "--encoding=UTF8"]);
    let initdb = initdb.args(["--locale=C", "--no-sync", "--data-checksums", "--wal-segsize=1"]);
    initdb.arg("-D").arg(primary.data()).run().expect(0);
    let conf = format!(
        "listen_addresses = ''\nunix_socket_directories = '{}'\nmin_wal_size = 2MB\n",
        primary.socket_directory().display()
    );
    primary.append_conf(&conf);
    primary.archive();
    let control = |action: &str, data: &Path| {
        let run = Run::new(old_bin.join("pg_ctl")).arg("-D").arg(data).args(["-w", "-m", "fast"]);
        run.arg("-l").arg(data.with_extension("log")).arg(action).run().expect(0);
    };
    control("start", &primary.data());
    live(&mut primary, 10);
    let old = primary.system_identifier().to_string();
    control("stop", &primary.data());

    let upgraded = primary.data().with_file_name("new");
    let upgrade = primary.postgres_program("pg_upgrade").arg("-b").arg(&old_bin);
    let new_bin = postgres_program("postgres");
    let upgrade = upgrade
        .arg("-B")
        .arg(new_bin.parent().unwrap())
        .arg("-d")
        .arg(primary.data())
        .arg("-D")
        .arg(&upgraded);
    upgrade.args(["-U", "postgres", "-s"]).arg(primary.socket_directory()).run().expect(0);
    primary.move_data_away("old");
    fs::rename(&upgraded, primary.data()).unwrap();
    primary.archive();
    primary.start();
    assert_eq!(primary.psql(COUNT), "10");
    primary.back_up("first");
    primary.psql("INSERT INTO t VALUES (11)");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    let new = primary.system_identifier().to_string();
    assert_eq!(systems(&primary).len(), 2);
    let info = primary.pgark(&["info"]).run().expect(0);
    assert!(!info.stdout.contains("missing on timeline"), "{info}");
    primary.stop(Stop::Fast);

    let into = site.directory().join("into-new");
    assert_eq!(primary.answer_after(&into, &["--latest", "--system-identifier", &new], COUNT), "11");
    let into = site.directory().join("into-old");
    let old_bin = old_bin.to_str().unwrap();
    let options = ["--latest", "--system-identifier", &old, "--pg-bin", old_bin, "--wait"];
    primary.recover(&into, &options).run().expect(0);
    assert_eq!(primary.psql(COUNT), "10");
    control("stop", &into);
}
