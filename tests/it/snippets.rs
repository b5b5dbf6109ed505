//! The files of `pg-config-snippets/` that PostgreSQL reads, tested with a real server.

use crate::support::{Cluster, Run, Site, Stop, pgark_program};
use std::path::Path;

/// The directory of the programs in the snippets.
const INSTALLED: &str = "/usr/local/bin/";

/// Includes a snippet, with the tested programs and configuration in place of the installed ones.
fn include(cluster: &Cluster, snippet: &str) -> String {
    let mut text = snippet_text(snippet);
    assert!(text.contains(INSTALLED), "commands need absolute paths");
    for name in ["archive-push", "archive-get"] {
        let ours = format!("{} --config {}", pgark_program(name).display(), cluster.config.path.display());
        text = text.replace(&format!("{INSTALLED}{name}"), &ours);
    }
    cluster.write(snippet, &text);
    cluster.append_conf(&format!("include '{snippet}'\n"));
    text
}

fn snippet_text(snippet: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pg-config-snippets").join(snippet);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()))
}

/// The settings of a snippet as name and value, including those that are commented out.
fn settings(snippet: &str) -> Vec<(String, String)> {
    let text = snippet_text(snippet);
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.trim_start_matches('#').split_once(" = ")?;
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        let value = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'')?.0,
            None => rest.split_whitespace().next()?,
        };
        is_name.then(|| (name.to_owned(), value.to_owned()))
    });
    lines.collect()
}

#[track_caller]
fn expect_no_errors(cluster: &Cluster) {
    let errors = "SELECT sourcefile, sourceline, name, error FROM pg_file_settings WHERE error IS NOT NULL";
    assert_eq!(cluster.psql(errors), "");
}

#[test]
fn every_setting_is_one_that_postgres_knows() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    for snippet in ["archive.conf", "recovery.conf.example", "standby.conf.example"] {
        let settings = settings(snippet);
        assert!(settings.len() > 2, "{snippet}: {settings:?}");
        for (name, value) in settings {
            let show: Run = cluster.postgres_program("postgres").arg("-D").arg(cluster.data());
            let shown = show.args(["-c", &format!("{name}={value}"), "-C", &name]).run().expect(0);
            assert!(!shown.stdout.trim().is_empty(), "{snippet}: {name}");
        }
    }
}

#[test]
fn what_is_said_of_buckets_is_what_the_files_and_the_program_know() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/s3.md")).unwrap();
    let blocks = |language: &str| {
        let blocks = text.split("```").skip(1).step_by(2);
        blocks.filter_map(|block| block.strip_prefix(language)).map(str::trim).collect::<Vec<_>>()
    };
    let policies = blocks("json");
    for (policy, file) in policies.iter().zip(["s3-archive-policy.json", "s3-recover-policy.json"]) {
        assert_eq!(*policy, snippet_text(file).trim(), "{file}");
    }
    let examples = blocks("toml");
    assert!(policies.len() == 2 && examples.len() >= 6, "{text}");
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    for example in examples {
        let file = cluster.data().join("example.toml");
        let needed =
            if example.contains("cluster = ") { "" } else { "cluster = \"a\"\ndata_directory = \"/data\"\n" };
        cluster.write("example.toml", format!("{needed}{example}\n"));
        Run::new(pgark_program("pgark")).arg("config").arg("--config").arg(&file).run().expect(0);
    }
}

#[test]
fn the_snippets_archive_recover_and_stand_by() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    let (mut recovered, mut standby) = (primary.copy("recovered"), primary.copy("standby"));
    include(&primary, "archive.conf");
    primary.start();
    expect_no_errors(&primary);
    primary.psql("CREATE TABLE t AS SELECT 7 AS a");
    let segment = primary.switch_wal();
    primary.wait_archived(&segment);
    primary.stop(Stop::Fast);

    include(&recovered, "recovery.conf.example");
    recovered.write("recovery.signal", "");
    recovered.start();
    recovered.wait_promoted();
    expect_no_errors(&recovered);
    assert_eq!(recovered.psql("SELECT a FROM t"), "7");
    recovered.stop(Stop::Fast);

    include(&standby, "standby.conf.example");
    standby.write("standby.signal", "");
    standby.start();
    standby.wait_for_row("SELECT a FROM t", "7");
    expect_no_errors(&standby);
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");
}
