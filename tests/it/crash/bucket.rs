//! The agent is killed before and after each of its requests to a bucket; no disk operation is involved.

use super::{SEGMENT, STEPS_MAX, dying, forget_spool, start_agent, stop};
use crate::support::checker::{Acknowledged, expect_sound};
use crate::support::{Bucket, Random, Run, Site, Stop, Tally, s3_server, wants_everything};
use nix::sys::signal::Signal;

#[test]
fn a_segment_in_a_bucket_survives_the_death_of_its_agent_at_every_step() {
    let Some(server) = s3_server() else { return };
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let (name, bytes) = (wal.name(SEGMENT), wal.bytes(SEGMENT, 1));
    let acknowledged = Acknowledged::with_file(&name, &bytes);
    cluster.put_wal(&name, &bytes);
    let mut tally = Tally::of("push-bucket");
    // Every third step from a random offset; all of them in the long form.
    let stride = if wants_everything() { 1 } else { 3 };
    let first = 1 + Random::seeded("steps at a bucket").below(stride) as u64;
    for step in (first..STEPS_MAX).step_by(stride) {
        forget_spool(&cluster);
        let bucket = Bucket::new(server);
        bucket.serve(&mut cluster, &server.endpoint);
        let agent = start_agent(&cluster, dying(cluster.pgark(&["agent"]), step));
        cluster.push(&format!("pg_wal/{name}")).expect(0);
        let died = stop(&cluster, agent);
        expect_sound(&bucket.tree(), &acknowledged, &format!("after the death before step {step}"));
        tally.acknowledged += 1;
        tally.kills += usize::from(died);
        if !died {
            eprintln!("the agent ended before step {step}");
            assert!(step > 8, "at least the requests for the place and the file, each before and after");
            return;
        }
    }
    panic!("the agent died before each of {STEPS_MAX} steps");
}

/// The packs are large enough for multipart uploads.
#[test]
fn a_backup_into_a_bucket_that_dies_at_any_step_is_there_or_not() {
    let Some(server) = s3_server() else { return };
    if !wants_everything() {
        return;
    }
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    let bucket = Bucket::new(server);
    bucket.serve(&mut primary, &server.endpoint);
    primary.config.set("backup.workers", 1);
    primary.archive();
    primary.start();
    primary.psql(
        "CREATE TABLE t AS SELECT gen_random_uuid() u, gen_random_uuid() v FROM generate_series(1, 400000)",
    );
    let base_backup =
        |label: &str| -> Run { primary.pgark(&["base-backup", "--checkpoint", "fast", "--label", label]) };
    let mut acknowledged = Acknowledged::default();
    let mut tally = Tally::of("backup-bucket");
    for step in 1..STEPS_MAX {
        let label = format!("step-{step}");
        let outcome = dying(base_backup(&label), step).run();
        let died = outcome.signal == Some(Signal::SIGKILL as i32);
        let when = format!("after the death before step {step}");
        expect_sound(&bucket.tree(), &acknowledged, &when);
        let exists = bucket.keys().iter().any(|key| key.ends_with(&format!("/{label}/manifest.json")));
        assert!(exists || died, "{outcome}");
        base_backup(&label).run().expect(if exists { 4 } else { 0 });
        acknowledged.backups.insert(label.clone());
        expect_sound(&bucket.tree(), &acknowledged, &when);
        tally.acknowledged += 1;
        tally.kills += usize::from(died);
        if !died {
            eprintln!("the backup died before each of {} steps", step - 1);
            assert_eq!(bucket.uploads(), 0, "the next backup ends what was begun");
            primary.stop(Stop::Fast);
            return;
        }
        // Older objects are no longer needed, and would be checked each time.
        for key in bucket.keys().iter().filter(|key| key.contains(&format!("/backup/{label}/"))) {
            bucket.delete(key);
        }
        acknowledged.backups.clear();
    }
    panic!("the backup died before each of {STEPS_MAX} steps");
}
