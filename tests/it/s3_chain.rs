//! A chain of backups in a bucket: taken, combined, and recovered into a new directory and with `--delta`.

use crate::support::{Bucket, Site, Stop, s3_server};

const ROWS: &str = "SELECT count(*), sum(a), sum(hashtext(b)) FROM t";

#[test]
fn a_chain_in_a_bucket_is_combined_and_recovered() {
    let site = Site::with_servers(1);
    let Some(server) = s3_server() else { return };
    let bucket = Bucket::new(server);
    let mut primary = site.cluster("primary");
    bucket.serve(&mut primary, &server.endpoint);
    primary.config.set("s3.part_size", "5MB");
    primary.archive();
    primary.append_conf("autovacuum = off\n");
    primary.start();
    // More data than one request can hold.
    primary.psql(
        "CREATE TABLE t AS SELECT a, md5(a::text) || md5((-a)::text) AS b FROM generate_series(1, 150000) a",
    );
    primary.back_up("full");
    primary.psql("UPDATE t SET b = 'changed' WHERE a % 10000 = 0");
    let incremental = |label: &str| {
        let take = ["base-backup", "--checkpoint", "fast", "--type", "incremental", "--label", label];
        primary.pgark(&take).run().expect(0);
    };
    incremental("one");
    primary.psql("DELETE FROM t WHERE a > 140000");
    incremental("two");
    let expected = primary.psql(ROWS);
    primary.psql("UPDATE t SET b = 'later' WHERE a % 700 = 0; CREATE TABLE later AS SELECT 1 AS a");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);

    let into = site.directory().join("of-the-chain");
    let options = ["--target-immediate", "--target-action", "promote"];
    assert_eq!(primary.answer_after(&into, &[&options[..], &["--backup", "two"]].concat(), ROWS), expected);
    primary.pgark(&["combine", "two", "--label", "combined"]).run().expect(0);
    for key in bucket.keys() {
        if ["full", "one", "two"].iter().any(|label| key.contains(&format!("/backup/{label}/"))) {
            bucket.delete(&key);
        }
    }
    let delta = [&options[..], &["--delta", "--backup", "combined"]].concat();
    let plan = [&delta[..], &["--dry-run", "--json"]].concat();
    let plan = primary.recover(&primary.data(), &plan).run().expect(0);
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
    let bytes = |name: &str| plan["delta"][name].as_u64().unwrap();
    assert!(bytes("kept_bytes") > bytes("fetched_bytes"), "{plan}");
    assert_eq!(primary.answer_after(&primary.data(), &delta, ROWS), expected);
    primary.check_pages(&primary.data());
}
