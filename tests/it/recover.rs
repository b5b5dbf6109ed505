//! `pgark recover`: reaches the requested target, or refuses and names a target that can be reached.

use crate::support::Story;

#[test]
fn every_kind_of_target_is_reached() {
    let story = Story::tell();
    for (name, options, rows) in [
        ("time", &["--target-time", &story.time][..], "10"),
        ("name", &["--target-name", "ten rows"], "10"),
        ("xid", &["--target-xid", &story.xid], "11"),
        ("before-xid", &["--target-xid", &story.xid, "--exclusive"], "10"),
        ("before-lsn", &["--target-lsn", &story.lsn, "--exclusive", "--target-action", "promote"], "11"),
        ("immediate", &["--target-immediate"], "0"),
        ("latest-before", &["--latest-before", &story.time], "10"),
    ] {
        assert_eq!(story.rows_after(name, options), rows, "{name}");
    }
    let latest = story.directory("latest");
    story.recover(&latest, &["--wait"]).expect(0);
    story.primary.try_psql("SELECT FROM t").expect(1).says("does not exist");
    assert_eq!(story.primary.psql("SHOW archive_mode"), "off", "a copy leaves its original's archive alone");
    story.primary.stop_recovered(&latest);
}
