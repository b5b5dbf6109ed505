//! `pgark recover` with two timelines in use: a recovered and forgotten copy archives beside its original.

use crate::support::{Cluster, PATIENCE, Site, Stop, wait_until};
use std::path::PathBuf;

const ROWS: &str = "SELECT string_agg(a::text, ' ' ORDER BY a) FROM t";

/// | rows | on timeline |
/// |---|---|
/// | 1 | 1, before the timelines part |
/// | 2, 3, and backup `second` | 1, the original's |
/// | 4 | 2, the copy's |
struct Stray {
    site: Site,
    original: Cluster,
    /// Between rows 2 and 3.
    time_on_first: String,
}

impl Stray {
    fn tell() -> Stray {
        let site = Site::with_servers(2);
        let mut original = site.cluster("original");
        original.archive();
        original.start();
        original.psql("CREATE TABLE t (a int)");
        original.back_up("first");
        original.psql("INSERT INTO t VALUES (1)");
        let last = original.switch_wal();
        original.wait_archived(&last);
        original.stop(Stop::Fast);
        let mut copy = original.copy("forgotten");
        copy.recover_from_archive();
        copy.archive();
        copy.start();
        copy.wait_promoted();
        original.config.set("recover.fork_window", "0s");
        original.start();
        original.psql("INSERT INTO t VALUES (2)");
        let time_on_first = original.now();
        original.psql("INSERT INTO t VALUES (3)");
        original.back_up("second");
        let last = original.switch_wal();
        original.wait_archived(&last);
        copy.psql("INSERT INTO t VALUES (4)");
        let last = copy.switch_wal();
        copy.wait_archived(&last);
        copy.stop(Stop::Fast);
        Stray { site, original, time_on_first }
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.site.directory().join(name)
    }
}

#[test]
fn a_stray_timeline_is_never_taken_without_a_word() {
    let mut story = Stray::tell();
    let into = story.directory("into");
    // Any target: the backups and the transactions of both timelines are shown.
    for target in [
        &["--latest"][..],
        &["--target-time", &story.time_on_first],
        &["--latest-before", "2099-01-01 00:00:00+00"],
    ] {
        let outcome = story.original.recover(&into, target).run().expect(4);
        outcome
            .says("both in use")
            .says("backup second")
            .says("--target-timeline 1")
            .says("--target-timeline 2");
        assert!(!into.exists());
    }
    // Each timeline is shown with the points that it can reach.
    let info = story.original.pgark(&["info", "--json"]).run().expect(0);
    let info: serde_json::Value = serde_json::from_str(&info.stdout).unwrap();
    let windows = info["systems"][0]["windows"].as_array().unwrap().clone();
    let window =
        |index: usize| (windows[index]["timeline"].as_u64(), windows[index]["oldest_backup"].as_str());
    assert_eq!((window(0), window(1)), ((Some(2), Some("first")), (Some(1), Some("first"))), "{windows:?}");
    let check = story.original.pgark(&["check"]).run().expect(0);
    assert!(check.stdout.contains("timelines 1 and 2 were both in use"), "{check}");
    // The agent reports it too, while the original archives.
    wait_until("the agent sees the other timeline", PATIENCE, || {
        let status = story.original.pgark(&["status"]).run().expect(0).stdout;
        status.contains("timeline 2 branched off this server's timeline at")
    });
    story.original.stop(Stop::Fast);
    for (name, options, rows) in [
        ("to-original", &["--latest", "--target-timeline", "1"][..], "1 2 3"),
        ("in-time", &["--target-time", &story.time_on_first, "--target-timeline", "1"], "1 2"),
        ("to-stray", &["--latest", "--target-timeline", "2"], "1 4"),
        ("with-backup", &["--latest", "--backup", "second"], "1 2 3"),
    ] {
        assert_eq!(story.original.answer_after(&story.directory(name), options, ROWS), rows, "{name}");
    }
    // A time that neither timeline has reached: the error does not propose the other one.
    let options = ["--target-time", "2099-01-01 00:00:00+00", "--target-timeline", "2"];
    let outcome = story.original.recover(&into, &options).run().expect(1);
    assert!(!outcome.stderr.contains("--target-timeline 1"), "nobody has seen it:\n{outcome}");
}
