//! Faults of networks and services: none may be taken as success, and few as failure.

use crate::support::{Bucket, Cluster, Fault, FaultProxy, PATIENCE, Site, Stop, s3_server, wait_until};
use std::time::Duration;

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

struct Scene {
    cluster: Cluster,
    bucket: Bucket,
    proxy: FaultProxy,
}

/// A stopped cluster whose repository is a bucket behind a proxy, already probed.
fn scene(site: &Site) -> Option<Scene> {
    let bucket = Bucket::new(s3_server()?);
    let proxy = FaultProxy::start(&bucket.server.endpoint);
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &proxy.endpoint());
    let wal = cluster.fake_wal();
    cluster.archive_file(&wal.name(SEGMENT), wal.bytes(SEGMENT, 1));
    Some(Scene { cluster, bucket, proxy })
}

impl Scene {
    /// Pushes a new segment, which must succeed.
    #[track_caller]
    fn push(&self, number: u64) -> String {
        let wal = self.cluster.fake_wal();
        let name = wal.name(SEGMENT + number);
        self.cluster.put_wal(&name, wal.bytes(SEGMENT + number, 1));
        self.cluster.push(&format!("pg_wal/{name}")).expect(0);
        name
    }

    /// Fetches a segment directly from the bucket.
    #[track_caller]
    fn expect_whole(&self, name: &str) {
        self.cluster.get(name, "pg_wal/RECOVERYXLOG").expect(0);
        assert_eq!(self.cluster.read("pg_wal/RECOVERYXLOG"), self.cluster.read(&format!("pg_wal/{name}")));
    }
}

#[test]
fn a_push_survives_every_fault_on_its_way() {
    let site = Site::without_server();
    let Some(scene) = scene(&site) else { return };
    for (number, fault, times) in [
        (1, Fault::ResetBeforeAnswer, 2),
        (2, Fault::ResetInBody, 2),
        (3, Fault::LoseAnswer, 1),
        (4, Fault::LoseAnswer, 2),
        (5, Fault::Stall, 1),
        (6, Fault::Status(503, "SlowDown"), 2),
        (7, Fault::Status(500, "InternalError"), 3),
        (8, Fault::Status(409, "ConditionalRequestConflict"), 2),
        (9, Fault::Status(400, "RequestTimeout"), 1),
        (10, Fault::FlipRequest, 2),
    ] {
        let shown = format!("{fault:?}");
        let name = scene.cluster.fake_wal().name(SEGMENT + number);
        scene.proxy.fault("PUT", &name, times, fault);
        scene.push(number);
        assert_eq!(scene.proxy.count("PUT", &name), times + 1, "{shown}: {:#?}", scene.proxy.requests());
        scene.expect_whole(&name);
    }
}

#[test]
fn a_get_survives_every_fault_on_its_way() {
    let site = Site::without_server();
    let Some(mut scene) = scene(&site) else { return };
    scene.cluster.config.set("get.prefetch_max", "0MB");
    scene.cluster.config.set("get.deadline", "20s");
    for (number, fault, times) in [
        (1, Fault::ResetBeforeAnswer, 2),
        (2, Fault::LoseAnswer, 2),
        (3, Fault::Stall, 1),
        (4, Fault::Status(503, "SlowDown"), 2),
        (5, Fault::Status(500, "InternalError"), 2),
        (6, Fault::TruncateAnswer, 2),
        (7, Fault::StallAnswer, 1),
    ] {
        let name = scene.push(number);
        scene.proxy.forget();
        scene.proxy.fault("GET", &name, times, fault.clone());
        scene.expect_whole(&name);
        assert_eq!(scene.proxy.count("GET", &name), times + 1, "{fault:?}: {:#?}", scene.proxy.requests());
    }
}

#[test]
fn bytes_that_change_on_their_way_back_are_never_handed_on() {
    let site = Site::without_server();
    let Some(mut scene) = scene(&site) else { return };
    // Compressed, a changed bit may decode to the same content, for example as another distance in a run of zeros.
    scene.cluster.config.set("compression.method", "none");
    let name = scene.push(1);
    scene.proxy.fault("GET", &name, usize::MAX, Fault::FlipAnswer);
    scene.cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(126);
    assert!(!scene.cluster.has("pg_wal/RECOVERYXLOG"));
}

#[test]
fn an_outage_is_told_and_ends_by_itself() {
    let site = Site::without_server();
    let Some(mut scene) = scene(&site) else { return };
    scene.cluster.config.set("s3.retry_deadline", "1s");
    scene.cluster.config.set("push.deadline", "10s");
    let wal = scene.cluster.fake_wal();
    let name = wal.name(SEGMENT + 1);
    scene.cluster.put_wal(&name, wal.bytes(SEGMENT + 1, 1));
    let push = || scene.cluster.push(&format!("pg_wal/{name}"));
    scene.proxy.set_away(true);
    push().expect(3).says("no response from").says(&name);
    // From now on the agent knows about the failure, and answers soon.
    push().expect(3).within(Duration::from_secs(6));
    scene.proxy.set_away(false);
    scene.proxy.fault("PUT", &name, 3, Fault::Status(403, "AccessDenied"));
    push().expect(3).says("access denied").says("s3:PutObject");
    scene.cluster.agent().kill();
    while scene.proxy.count("PUT", &name) < 3 {
        push().expect(3).says("access denied");
    }
    push().expect(0);
    scene.expect_whole(&name);
    let key = scene.bucket.wal_key(&scene.cluster, &name);
    assert_eq!(scene.bucket.keys().iter().filter(|stored| **stored == key).count(), 1);
}

/// Some proxies use chunked encoding for responses, without their length.
#[test]
fn answers_of_unknown_length_are_read_to_their_end() {
    let site = Site::with_servers(1);
    let Some(server) = s3_server() else { return };
    let (bucket, proxy) = (Bucket::new(server), FaultProxy::start(&server.endpoint));
    let mut primary = site.cluster("primary");
    bucket.serve(&mut primary, &proxy.endpoint());
    primary.config.set("s3.part_size", "5MB");
    primary.config.set("s3.stall_timeout", "8s");
    primary.config.set("compression.method", "none");
    primary.config.set("get.deadline", "20s");
    // Truncated bodies are resumed.
    for part in ["/pack-", "/wal/00000001/"] {
        proxy.fault("GET", part, 2, Fault::NoLengthAndNoEnd);
    }
    proxy.fault("GET", "", usize::MAX, Fault::NoLength);
    proxy.fault("HEAD", "", usize::MAX, Fault::NoLength);
    primary.archive();
    primary.start();
    // More data than one request can hold.
    primary.psql("CREATE TABLE t AS SELECT a, repeat(md5(a::text), 30) FROM generate_series(1, 45000) a");
    primary.back_up("one");
    let answer = primary.psql("SELECT count(*), sum(a) FROM t");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    let outcome = primary.pgark(&["check"]).run();
    assert!(outcome.stdout.contains("round trip: ") && !outcome.stdout.contains("FAILED"), "{outcome}");
    primary.pgark(&["info"]).run().expect(0);
    primary.stop(Stop::Fast);
    let copy = site.directory().join("copy");
    assert_eq!(primary.answer_after(&copy, &["--latest"], "SELECT count(*), sum(a) FROM t"), answer);
}

/// A service that accepts everything but returns nothing must not be trusted.
#[test]
fn nothing_is_acknowledged_that_could_not_be_read_back() {
    let site = Site::without_server();
    let Some(server) = s3_server() else { return };
    let (bucket, proxy) = (Bucket::new(server), FaultProxy::start(&server.endpoint));
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &proxy.endpoint());
    let wal = cluster.fake_wal();
    let name = wal.name(0x40);
    cluster.put_wal(&name, wal.bytes(0x40, 1));
    proxy.fault("GET", ".pgark-probe", usize::MAX, Fault::FlipAnswer);
    let push = cluster.push(&format!("pg_wal/{name}")).expect(3);
    push.says("returned different data than was stored");
    assert!(!bucket.keys().iter().any(|key| key.contains("/wal/")), "{:?}", bucket.keys());
    proxy.mend();
    wait_until("the push to succeed", PATIENCE, || cluster.push(&format!("pg_wal/{name}")).code == Some(0));
}
