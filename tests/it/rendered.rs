//! What commands print, pinned as a whole. `INSTA_UPDATE=always` rewrites the snapshots after an intended change.

use crate::support::template::copy_directory;
use crate::support::{Outcome, Run, Site, Stop, pgark_program};
use std::path::Path;

/// Parts that differ between runs, as regular expressions, with their replacements.
const VARYING: &[(&str, &str)] = &[
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00", "<time>"),
    (r"in \d+\.\d s\n", "in <duration>\n"),
    (r"process \d+", "process <number>"),
    (r"transaction \d+", "transaction <xid>"),
    (r"\S+/bin/(pg_ctl|archive-push)", "<bin>/$1"),
    (r"\b[0-9A-F]{24}\b", "<segment>"),
    (r"\b[0-9A-F]+/[0-9A-F]+\b", "<lsn>"),
    (r"\b\d{19}\b", "<system>"),
    (r"\b\d+(\.\d+)? ([KMGT]i)?B\b", "<size>"),
    (r"\b\d+ files\b", "<count> files"),
    // Lines that depend on the time that a step takes, and on the host.
    (r"(?m)^waiting for WAL segment .*\n", ""),
    (r"(?m)^copying .* of .*\n", ""),
    (r"(?m)^restoring .* of .*\n", ""),
    (r"(?m)^reading WAL .*: .*\n", ""),
    (r"(?m)^  NOTE +the original cluster ran with the C library .*\n", ""),
];

/// Compares everything that a command printed with the snapshot `name`; `varies` replaces what differs between runs.
fn expect_printed(name: &str, outcome: &Outcome, directory: &Path, varies: &[(&str, &str)]) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.add_filter(&directory.display().to_string(), "<site>");
    for (what, replacement) in varies {
        settings.add_filter(what, *replacement);
    }
    let code = outcome.code.map_or("killed".to_owned(), |code| code.to_string());
    let printed = format!("{}\n--- standard error\n{}\n--- status {code}", outcome.stdout, outcome.stderr);
    settings.bind(|| insta::assert_snapshot!(name, printed));
}

#[test]
fn a_stored_repository_is_described() {
    let site = Site::without_server();
    for sample in ["1", "2", "collations", "partial-segments"] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/repository").join(sample);
        let copy = site.directory().join(sample);
        copy_directory(&source, &copy);
        let info = Run::new(pgark_program("pgark"))
            .args(["info", "--cluster", "main", "--repository"])
            .arg(&copy)
            .run();
        expect_printed(&format!("info-{sample}"), &info, site.directory(), &[]);
    }
}

#[test]
fn backups_plans_and_recoveries_are_described() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    let expect = |name: &str, outcome: Outcome| expect_printed(name, &outcome, site.directory(), VARYING);
    let back_up = |label: &str| {
        primary.pgark(&["base-backup", "--checkpoint", "fast", "--label", label]).run().expect(0)
    };
    expect("base-backup", back_up("one"));
    primary.psql("CREATE TABLE t AS SELECT 1 AS n");
    let time = primary.now();
    primary.psql("INSERT INTO t VALUES (2); SELECT pg_create_restore_point('before')");
    let segment = primary.switch_wal();
    primary.wait_archived(&segment);
    let into = site.directory().join("copy");
    let plan = |options: &[&str]| primary.recover(&into, options).arg("--dry-run").run();
    expect("plan-latest", plan(&["--latest"]).expect(0));
    expect("plan-time", plan(&["--target-time", &time]).expect(0));
    expect("plan-name", plan(&["--target-name", "before", "--target-action", "promote"]).expect(0));
    expect("plan-standby", plan(&["--standby"]).expect(0));
    expect("refused-name", plan(&["--target-name", "after"]));
    expect("refused-time", plan(&["--target-time", "2000-01-01 00:00:00+00"]));
    expect("refused-backup", plan(&["--backup", "two"]));
    expect("refused-timeline", plan(&["--target-timeline", "7"]));
    primary.stop(Stop::Fast);
    expect("recover", primary.recover(&into, &["--target-time", &time]).run().expect(0));
    expect("refused-directory", primary.recover(&into, &["--latest"]).run());
}
