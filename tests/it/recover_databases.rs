//! `pgark recover --database`: some databases are complete, the others are empty and dropped.

use crate::support::{Cluster, Site, Stop, create_private_directory};
use std::fs;

/// A primary with three databases, one of them in a tablespace, backed up while VACUUM and pgbench run in all of them.
fn busy_primary(site: &Site) -> Cluster {
    let mut primary = site.cluster("primary");
    let space = site.directory().join("space");
    create_private_directory(&space);
    primary.archive();
    primary.start();
    primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    primary.psql("CREATE DATABASE wanted");
    primary.psql("CREATE DATABASE unwanted");
    primary.psql("CREATE DATABASE \"not wanted\" TABLESPACE space");
    let in_database = |name: &str| primary.conninfo().replace("dbname=postgres", &format!("dbname='{name}'"));
    let names = ["wanted", "unwanted", "not wanted"];
    for name in names {
        primary.postgres_program("pgbench").args(["-i", "-q"]).arg(in_database(name)).run().expect(0);
    }
    let loads: Vec<_> = names
        .map(|name| {
            let load = primary.postgres_program("pgbench").args(["-c", "1", "-T", "5", "-n"]);
            load.arg(in_database(name)).spawn()
        })
        .into_iter()
        .collect();
    for name in ["wanted", "unwanted"] {
        let vacuum = primary.postgres_program("vacuumdb").arg("-q").arg("-d").arg(in_database(name));
        vacuum.run().expect(0);
    }
    primary.back_up("first");
    for name in names {
        let vacuum = primary.postgres_program("vacuumdb").arg("-q").arg("-d").arg(in_database(name));
        vacuum.run().expect(0);
    }
    for load in loads {
        load.wait().expect(0);
    }
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary
}

#[test]
fn a_database_is_recovered_without_the_others() {
    let site = Site::with_servers(1);
    let mut primary = busy_primary(&site);
    let state = "SELECT (SELECT count(*) FROM pgbench_history), (SELECT sum(abalance) FROM pgbench_accounts)";
    let expected = primary.psql_in("wanted", state);
    primary.stop(Stop::Fast);
    let into = site.directory().join("into");
    let mapping = format!(
        "--tablespace-mapping={}={}",
        site.directory().join("space").display(),
        site.directory().join("space2").display()
    );
    let bin = primary.pg_bin().display().to_string();
    let options = ["--database", "wanted", "--wait", "--pg-bin", &bin, &mapping];
    let outcome = primary.recover(&into, &options).run().expect(0);
    for said in
        ["DROP DATABASE \"unwanted\";", "DROP DATABASE \"not wanted\";", "ALTER SYSTEM RESET autovacuum;"]
    {
        assert!(outcome.stdout.contains(said), "{outcome}");
    }
    assert_eq!(primary.psql_in("wanted", state), expected);
    let oid = primary.psql("SELECT oid FROM pg_database WHERE datname = 'unwanted'");
    assert!(!fs::read(into.join("base").join(oid).join("PG_VERSION")).unwrap().is_empty());
    for command in ["DROP DATABASE unwanted", "DROP DATABASE \"not wanted\"", "ALTER SYSTEM RESET autovacuum"]
    {
        primary.psql(command);
    }
    primary.psql("ALTER SYSTEM RESET ignore_invalid_pages");
    primary.stop_recovered(&into);
    primary.start_recovered(&into);
    primary.check_relations();
    assert_eq!(primary.psql_in("wanted", state), expected);
    primary.stop_recovered(&into);
    primary.check_pages(&into);
}

#[test]
fn a_part_takes_nobodys_place() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.back_up("first");
    primary.psql("ALTER SYSTEM SET full_page_writes = off");
    primary.psql("SELECT pg_reload_conf()");
    primary.wait_for_row("SHOW full_page_writes", "off");
    primary.back_up("torn");
    primary.stop(Stop::Fast);
    let into = site.directory().join("into");
    let refused = |options: &[&str], why: &str| {
        let all: Vec<&str> = options.iter().copied().chain(["--dry-run"]).collect();
        let outcome = primary.recover(&into, &all).run().expect(2);
        assert!(outcome.stderr.contains(why), "{outcome}");
    };
    refused(&["--database", "postgres", "--delta"], "cannot be combined with --delta");
    refused(&["--database", "postgres", "--archiving", "on"], "cannot be combined with --archiving on");
    refused(&["--database", "postgres", "--standby"], "cannot be combined with --standby");
    refused(&["--database", "postgres"], "full_page_writes off");
    refused(&["--database", "nobody", "--backup", "first"], "holds no database \"nobody\"");
    primary.recover(&into, &["--database", "postgres", "--backup", "first", "--dry-run"]).run().expect(0);
}
