//! All operations with a real S3 server: archiving, restore, backup, recovery; their number of requests, and their
//! errors.

use crate::support::{
    Bucket, Cluster, Fault, FaultProxy, PATIENCE, Run, Site, Stop, Template, s3_server, wait_until,
};
use std::time::Duration;

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

/// A stopped cluster with segments in its `pg_wal`, whose repository is a bucket behind a proxy.
struct Scene {
    cluster: Cluster,
    bucket: Bucket,
    proxy: FaultProxy,
    names: Vec<String>,
}

fn scene(site: &Site, segments: u64) -> Option<Scene> {
    let bucket = Bucket::new(s3_server()?);
    let proxy = FaultProxy::start(&bucket.server.endpoint);
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &proxy.endpoint());
    let wal = cluster.fake_wal();
    let names: Vec<String> = (0..segments).map(|number| wal.name(SEGMENT + number)).collect();
    for (number, name) in (0..).zip(&names) {
        cluster.put_wal(name, wal.bytes(SEGMENT + number, 1));
    }
    Some(Scene { cluster, bucket, proxy, names })
}

impl Scene {
    fn push(&self, name: &str) -> crate::support::Outcome {
        self.cluster.push(&format!("pg_wal/{name}"))
    }
}

#[test]
fn a_segment_costs_one_request_each_way() {
    let site = Site::without_server();
    let Some(scene) = scene(&site, 6) else { return };
    scene.push(&scene.names[0]).expect(0);
    scene.proxy.forget();
    for name in &scene.names[1..] {
        scene.push(name).expect(0);
    }
    let requests = scene.proxy.requests();
    assert_eq!(scene.proxy.count("PUT", "/wal/"), 5, "{requests:#?}");
    if !scene.bucket.server.refuses_second_puts() {
        return;
    }
    let of_wal = requests.iter().filter(|request| request.contains("/wal/")).count();
    assert_eq!(of_wal, 5, "{requests:#?}");
    // Includes a one-time request of the agent for unfinished uploads.
    assert!(requests.len() <= 6, "{requests:#?}");

    scene.cluster.agent().kill();
    scene.proxy.forget();
    for name in &scene.names {
        scene.cluster.get(name, "pg_wal/RECOVERYXLOG").expect(0);
        assert_eq!(scene.cluster.read("pg_wal/RECOVERYXLOG"), scene.cluster.read(&format!("pg_wal/{name}")));
        assert_eq!(scene.proxy.count("GET", name), 1, "{:#?}", scene.proxy.requests());
    }
}

#[test]
fn what_is_stored_can_be_read_with_stock_tools() {
    let site = Site::without_server();
    let Some(scene) = scene(&site, 1) else { return };
    let name = &scene.names[0];
    scene.push(name).expect(0);
    let stored = scene.bucket.get(&scene.bucket.wal_key(&scene.cluster, name));
    let file = site.directory().join("stored");
    std::fs::write(&file, stored).unwrap();
    let raw = std::process::Command::new("lz4").args(["-d", "-c"]).arg(&file).output().unwrap().stdout;
    assert_eq!(raw, scene.cluster.read(&format!("pg_wal/{name}")));
    let told = scene.bucket.metadata(&scene.bucket.wal_key(&scene.cluster, name));
    assert_eq!(told["pgark-blake3"], blake3::hash(&raw).to_hex().as_str());
}

#[test]
fn a_large_segment_goes_in_parts_and_not_through_memory() {
    let site = Site::without_server();
    let Some(server) = s3_server() else { return };
    let (bucket, proxy) = (Bucket::new(server), FaultProxy::start(&server.endpoint));
    let mut cluster = site.cluster_of("primary", Template::with_segments_of(128));
    bucket.serve(&mut cluster, &proxy.endpoint());
    cluster.config.set("compression.method", "none");
    // Some servers read a whole object before they respond.
    cluster.config.set("s3.stall_timeout", "20s");
    cluster.config.set("get.deadline", "25s");
    let wal = cluster.fake_wal();
    let name = wal.name(SEGMENT);
    cluster.put_wal(&name, wal.bytes(SEGMENT, 1));
    cluster.push(&format!("pg_wal/{name}")).expect(0);
    assert!(proxy.count("PUT", "partNumber=") >= 15, "{:#?}", proxy.requests());
    let peak_mib = cluster.agent().peak_memory_bytes() >> 20;
    assert!(peak_mib < 120, "the agent has taken {peak_mib} MiB for a segment of 128");
    let told = bucket.metadata(&bucket.wal_key(&cluster, &name));
    let raw = cluster.read(&format!("pg_wal/{name}"));
    assert_eq!(told["pgark-blake3"], blake3::hash(&raw).to_hex().as_str());
    cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(0);
    assert!(cluster.read("pg_wal/RECOVERYXLOG") == raw, "other bytes came back");
}

#[test]
fn the_same_bytes_again_succeed_and_other_bytes_never() {
    let site = Site::without_server();
    let Some(scene) = scene(&site, 1) else { return };
    let name = &scene.names[0];
    scene.push(name).expect(0);
    let before = scene.bucket.get(&scene.bucket.wal_key(&scene.cluster, name));
    scene.cluster.agent().kill();
    scene.push(name).expect(0);
    scene.cluster.put_wal(name, scene.cluster.fake_wal().bytes(SEGMENT, 2));
    scene.push(name).expect(4).says(name).says("already holds another file").says("s3://");
    assert_eq!(scene.bucket.get(&scene.bucket.wal_key(&scene.cluster, name)), before);
}

#[test]
fn of_two_servers_with_one_name_one_wins() {
    for same in [true, false] {
        let site = Site::without_server();
        let Some(scene) = scene(&site, 1) else { return };
        if !scene.bucket.server.is_ceph("puts that are atomic") {
            return;
        }
        let name = &scene.names[0];
        let mut other = site.cluster("other");
        scene.bucket.serve(&mut other, &scene.proxy.endpoint());
        other.put_wal(name, other.fake_wal().bytes(SEGMENT, if same { 1 } else { 2 }));
        let start = |cluster: &Cluster| cluster.program("archive-push").arg(format!("pg_wal/{name}")).spawn();
        let (one, two) = (start(&scene.cluster), start(&other));
        let (one, two) = (one.wait(), two.wait());
        let mut codes = [one.code, two.code];
        codes.sort_unstable();
        assert_eq!(codes, if same { [Some(0), Some(0)] } else { [Some(0), Some(4)] }, "{one}\n{two}");
        let winner = if one.code == Some(0) { &scene.cluster } else { &other };
        winner.get(name, "pg_wal/RECOVERYXLOG").expect(0);
        assert_eq!(winner.read("pg_wal/RECOVERYXLOG"), winner.read(&format!("pg_wal/{name}")));
    }
}

#[test]
fn a_server_that_overwrites_is_found_out_and_guarded() {
    let site = Site::without_server();
    let Some(scene) = scene(&site, 1) else { return };
    let bucket = scene.bucket.clone();
    scene.proxy.removes_with(move |target| {
        let key = target.split('?').next().unwrap().splitn(3, '/').nth(2).unwrap().to_owned();
        bucket.delete(&key);
    });
    // Garage does so on its own, and there the removal of an object ends its uploads.
    if scene.bucket.server.kind != "garage" {
        scene.proxy.fault("PUT", "", usize::MAX, Fault::Overwrite);
    }
    let name = &scene.names[0];
    scene.push(name).expect(0);
    let probe = scene.bucket.get(&format!("{}/store-probe.json", scene.bucket.prefix));
    let probe: serde_json::Value = serde_json::from_slice(&probe).unwrap();
    assert_eq!(probe["refuses_second_put"], false);
    scene.cluster.put_wal(name, scene.cluster.fake_wal().bytes(SEGMENT, 2));
    scene.push(name).expect(4).says("already holds another file");
    assert_eq!(scene.proxy.count("HEAD", name), 2, "{:#?}", scene.proxy.requests());
}

#[test]
fn only_what_the_bucket_says_is_absent() {
    let site = Site::without_server();
    let Some(mut scene) = scene(&site, 1) else { return };
    let absent = scene.cluster.fake_wal().name(SEGMENT + 9);
    scene.push(&scene.names[0]).expect(0);
    scene.cluster.get(&absent, "pg_wal/RECOVERYXLOG").expect(1);
    scene.cluster.get("00000002.history", "pg_wal/RECOVERYHISTORY").expect(1);
    // A proxy in between that knows nothing about objects.
    scene.proxy.fault("GET", &absent, usize::MAX, Fault::Status(404, "Huh"));
    scene.cluster.get(&absent, "pg_wal/RECOVERYXLOG").expect(126);
    scene.proxy.mend();
    scene.proxy.set_away(true);
    // The store retries for longer than archive-get waits; the reason is reported all the same.
    let outcome = scene.cluster.get(&absent, "pg_wal/RECOVERYXLOG").expect(126);
    outcome.says("did not respond before the deadline: no response from http://127.0.0.1");
    scene.proxy.set_away(false);
    // Some servers do not distinguish a missing bucket from a missing object: then the repository appears empty.
    let no_bucket =
        if scene.bucket.server.kind == "s3s-fs" { "holds nothing of" } else { "there is no bucket" };
    for (key, value, says) in [
        ("repository.url", "s3://pgark-test-nobody/x".to_owned(), no_bucket),
        ("s3.credentials_file", "/nonexistent".to_owned(), "credentials_file"),
    ] {
        scene.cluster.config.set(key, value.as_str());
        scene.cluster.get(&absent, "pg_wal/RECOVERYXLOG").expect(126).says(says);
    }
}

#[test]
fn wrong_keys_are_told_and_never_shown() {
    let site = Site::without_server();
    let Some(scene) = scene(&site, 1) else { return };
    let credentials = scene.cluster.data().parent().unwrap().join("credentials");
    let secret = "not-the-secret-of-anybody";
    let access = &scene.bucket.server.access_key;
    let text = format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n");
    std::fs::write(&credentials, text).unwrap();
    let outcome = scene.push(&scene.names[0]).expect(3).says("does not know these access keys").says("HINT:");
    assert!(!outcome.stderr.contains(secret) && !outcome.stderr.contains(access.as_str()), "{outcome}");
}

#[test]
fn certificates_must_be_of_our_authority_of_this_host_and_of_today() {
    let site = Site::without_server();
    let Some(mut scene) = scene(&site, 1) else { return };
    let server = scene.bucket.server;
    let (Some(endpoint), Some(tls)) = (&server.tls_endpoint, &server.tls_directory) else {
        eprintln!("skipped: the S3 server has no TLS");
        return;
    };
    scene.cluster.config.set("s3.allow_http", false);
    scene.cluster.pgark(&["info"]).run().expect(2).says("is not encrypted");
    scene.cluster.config.set("s3.endpoint", endpoint.as_str());
    scene.push(&scene.names[0]).expect(3).says("certificate").says("UnknownIssuer").says("s3.ca_file");
    scene.cluster.config.set("s3.ca_file", format!("{tls}/ca.pem").as_str());
    scene.push(&scene.names[0]).expect(0);
    scene.cluster.get(&scene.names[0], "pg_wal/RECOVERYXLOG").expect(0);
    for (certificate, says) in [("elsewhere", "not valid for name"), ("expired", "expired")] {
        let port = free_port();
        let front = Run::as_caller("/usr/bin/openssl")
            .args(["s_server", "-quiet", "-accept", &port.to_string(), "-cert"])
            .arg(format!("{tls}/{certificate}.crt"))
            .arg("-key")
            .arg(format!("{tls}/{certificate}.key"))
            .spawn();
        wait_until("the front listens", PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        scene.cluster.config.set("s3.endpoint", format!("https://127.0.0.1:{port}").as_str());
        scene.cluster.pgark(&["info"]).run().expect(3).says("is not accepted").says(says);
        drop(front);
    }
}

#[test]
fn check_tells_what_the_bucket_guarantees() {
    let site = Site::without_server();
    let Some(scene) = scene(&site, 1) else { return };
    if !scene.bucket.server.is_ceph("versioning") {
        return;
    }
    let checked = || scene.cluster.pgark(&["check"]).run();
    let outcome = checked();
    for line in [
        "ok       conditional writes: the service refuses to overwrite an existing object",
        "ok       checksums: the service verifies",
        "ok       rights: objects can be listed, stored, read and deleted",
        "ok       versioning: never enabled: deleted objects cannot be restored",
        "ok       object lock: not enabled",
    ] {
        assert!(outcome.stdout.contains(line), "{line:?} is not in\n{}", outcome.stdout);
    }
    assert_eq!(
        scene.bucket.keys(),
        [format!("{}/store-probe.json", scene.bucket.prefix)],
        "nothing else stays"
    );
    scene.proxy.fault("DELETE", "", usize::MAX, Fault::Status(403, "AccessDenied"));
    assert!(
        checked().stdout.contains("ok       rights: objects can be listed, stored and read, but not deleted")
    );
    scene.proxy.mend();
    scene.proxy.fault("PUT", "", usize::MAX, Fault::Status(403, "AccessDenied"));
    assert!(checked().stdout.contains("FAILED   repository: access denied"));
}

#[test]
fn what_is_asked_of_the_service_stands_in_every_put() {
    let site = Site::without_server();
    let Some(mut scene) = scene(&site, 3) else { return };
    scene.cluster.config.set("s3.tags", "project=a b,stage=x");
    scene.cluster.config.set("s3.storage_class_wal", "STANDARD");
    scene.cluster.config.set("s3.requester_pays", true);
    scene.push(&scene.names[0]).expect(0);
    let heads = scene.proxy.heads();
    let name = scene.names[0].to_ascii_lowercase();
    let put = heads.iter().find(|head| head.starts_with("put ") && head.contains(&name)).unwrap();
    let conditional = if scene.bucket.server.refuses_second_puts() { "if-none-match: *" } else { "put " };
    for header in [
        conditional,
        scene.bucket.server.checksum_header(),
        "x-amz-tagging: project=a%20b&stage=x",
        "x-amz-storage-class: standard",
        "x-amz-meta-pgark-write: ",
    ] {
        assert!(put.contains(header), "{header:?} is not in\n{put}");
    }
    let unpaid: Vec<_> =
        heads.iter().filter(|head| !head.contains("x-amz-request-payer: requester")).collect();
    assert!(unpaid.is_empty(), "{unpaid:#?}");

    // Whether the service can do it is beyond pgark's control; the request counts.
    scene.cluster.config.set("s3.sse", "AES256");
    let asked = |scene: &Scene, name: &str| {
        scene.push(name);
        let name = format!("/{}", name.to_ascii_lowercase());
        scene.proxy.heads().into_iter().find(|head| head.starts_with("put ") && head.contains(&name)).unwrap()
    };
    let put = asked(&scene, &scene.names[1]);
    assert!(put.contains("x-amz-server-side-encryption: aes256"), "{put}");
    scene.cluster.config.set("s3.sse", "aws:kms");
    scene.cluster.config.set("s3.kms_key_id", "key-1");
    let put = asked(&scene, &scene.names[2]);
    for header in
        ["x-amz-server-side-encryption: aws:kms", "x-amz-server-side-encryption-aws-kms-key-id: key-1"]
    {
        assert!(put.contains(header), "{header:?} is not in\n{put}");
    }
}

#[test]
fn a_lock_that_does_not_hold_is_an_error() {
    let site = Site::without_server();
    let Some(mut scene) = scene(&site, 1) else { return };
    scene.cluster.config.set("s3.object_lock_mode", "GOVERNANCE");
    scene.cluster.config.set("s3.object_lock_retention", "1d");
    scene.push(&scene.names[0]).expect(3).says("object lock").says("is not effective");
    assert_eq!(scene.proxy.count("PUT", "/wal/"), 0);
}

#[test]
fn a_locked_bucket_keeps_what_it_got() {
    let site = Site::without_server();
    let Some(server) = s3_server().filter(|server| server.is_ceph("object lock")) else { return };
    let bucket = Bucket::locked(server);
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &server.endpoint);
    cluster.config.set("s3.object_lock_mode", "GOVERNANCE");
    cluster.config.set("s3.object_lock_retention", "1d");
    let wal = cluster.fake_wal();
    cluster.archive_file(&wal.name(SEGMENT), wal.bytes(SEGMENT, 1));
    let key = bucket.wal_key(&cluster, &wal.name(SEGMENT));
    assert!(!bucket.delete_every_version(&key), "the service has deleted a locked object");
    let probe: serde_json::Value =
        serde_json::from_slice(&bucket.get(&format!("{}/store-probe.json", bucket.prefix))).unwrap();
    assert_eq!(probe["locks"][0], "GOVERNANCE");
    cluster.get(&wal.name(SEGMENT), "pg_wal/RECOVERYXLOG").expect(0);
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn lists_go_on_behind_a_thousand_names_and_a_handful_of_requests_tells_the_ends() {
    let site = Site::without_server();
    let Some(scene) = scene(&site, 1) else { return };
    scene.push(&scene.names[0]).expect(0);
    let wal = scene.cluster.fake_wal();
    // Two in each of 1,050 log numbers, so that both kinds of listing have several pages; and finally a name that is no
    // segment.
    let segments_of_a_log = 0x1_0000_0000 / wal.segment_size;
    let numbers = (1..=1050).flat_map(|log| [log * segments_of_a_log, log * segments_of_a_log + 1]);
    let names: Vec<String> = numbers.map(|number| wal.name(number)).collect();
    let last = names.last().unwrap();
    let mut keys: Vec<String> = names.iter().map(|name| scene.bucket.wal_key(&scene.cluster, name)).collect();
    keys.push(
        scene.bucket.wal_key(&scene.cluster, &format!("{}.partial", wal.name(1051 * segments_of_a_log))),
    );
    scene.bucket.put_many(&keys);
    let info = |options: &[&str]| {
        scene.proxy.forget();
        let outcome = scene.cluster.pgark(&["info", "--json"]).args(options).run().expect(0);
        serde_json::from_str::<serde_json::Value>(&outcome.stdout).unwrap()["systems"][0]["timelines"][0]
            .clone()
    };
    let lists = |prefix: &str| scene.proxy.count("GET", &format!("wal%2F{prefix}"));

    let timeline = info(&[]);
    assert_eq!(
        (&timeline["first"], &timeline["last"]),
        (&scene.names[0].as_str().into(), &last.as_str().into())
    );
    assert_eq!(
        (timeline["segments"].as_u64(), timeline["gaps"].as_array().unwrap().len()),
        (Some(2101), 1050)
    );
    // One flat listing that ends with the 2,102nd name.
    assert_eq!(lists("00000001"), 3, "{:#?}", scene.proxy.requests());

    let timeline = info(&["--quick"]);
    assert_eq!(
        (&timeline["first"], &timeline["last"]),
        (&scene.names[0].as_str().into(), &last.as_str().into())
    );
    assert_eq!(timeline["span_segments"], 1050 * segments_of_a_log + 2 - SEGMENT);
    assert!(timeline["segments"].is_null() && timeline["gaps"].is_null(), "{timeline}");
    // The first name, two pages of log numbers, and listings of the last two of them.
    assert_eq!(lists("00000001"), 1 + 2 + 2, "{:#?}", scene.proxy.requests());
    // Also the systems, the repository's format, its backups, its timelines, and the segment size at both ends.
    assert!(scene.proxy.requests().len() <= 11, "{:#?}", scene.proxy.requests());
    let text = scene.cluster.pgark(&["info", "--quick"]).run().expect(0).stdout;
    assert!(text.contains("up to 4300738"), "{text}");

    // Segments missing between others are a hole, which one page shows.
    scene.proxy.forget();
    let absent = wal.name(500 * segments_of_a_log + 7);
    scene.cluster.get(&absent, "pg_wal/RECOVERYXLOG").expect(126).says("is missing from the archive");
    assert_eq!(lists("00000001"), 1, "{:#?}", scene.proxy.requests());
}

#[test]
fn a_cluster_is_backed_up_and_recovered() {
    let site = Site::with_servers(2);
    let Some(server) = s3_server() else { return };
    let bucket = Bucket::new(server);
    let proxy = FaultProxy::start(&server.endpoint);
    let mut primary = site.cluster("primary");
    bucket.serve(&mut primary, &proxy.endpoint());
    primary.config.set("s3.part_size", "5MB");
    primary.config.set("s3.stall_timeout", "8s");
    primary.config.set("s3.retry_deadline", "60s");
    primary.config.set("compression.method", "none");
    primary.config.set("recover.workers", 1);
    primary.config.set("backup.checkpoint", "fast");
    primary.archive();
    primary.start();
    // More data than one request can hold.
    primary.psql("CREATE TABLE t AS SELECT a, repeat(md5(a::text), 30) FROM generate_series(1, 45000) a");
    // A part that arrives corrupted, one whose response is lost, and an overloaded service.
    proxy.fault("PUT", "partNumber=2", 1, Fault::FlipRequest);
    proxy.fault("PUT", "partNumber=3", 1, Fault::LoseAnswer);
    proxy.fault("PUT", "partNumber=4", 2, Fault::Status(503, "SlowDown"));
    proxy.fault("POST", "uploadId=", 1, Fault::ErrorInside200);
    primary.pgark(&["base-backup"]).run().expect(0);
    assert!(proxy.count("PUT", "partNumber=5") >= 1, "the pack was too small for this test");
    if server.is_ceph("list of uploads") {
        assert_eq!(bucket.uploads(), 0);
    }
    primary.psql("INSERT INTO t VALUES (0, 'after')");
    let before = primary.psql("SELECT count(*), sum(a), md5(string_agg(repeat, '' ORDER BY a)) FROM t");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);

    // Bodies that end early or stall.
    proxy.fault("GET", "/pack-", 1, Fault::TruncateAnswer);
    proxy.fault("GET", "/wal/", 1, Fault::StallAnswer);
    proxy.count_at_once("GET", "/pack-");
    let copy = site.directory().join("copy");
    let recover = primary.pgark(&["recover", "--wait"]).arg("--target-directory").arg(&copy);
    recover.deadline(Duration::from_secs(120)).run().expect(0);
    // One worker, and several ranges of the pack that it reads.
    assert!(
        (2..=4).contains(&proxy.most_at_once()),
        "{} at once: {:#?}",
        proxy.most_at_once(),
        proxy.requests()
    );
    // It uses the socket of the stopped primary.
    assert_eq!(
        primary.psql("SELECT count(*), sum(a), md5(string_agg(repeat, '' ORDER BY a)) FROM t"),
        before
    );
    primary
        .postgres_program("pg_ctl")
        .arg("-D")
        .arg(&copy)
        .args(["-m", "fast", "-w", "stop"])
        .run()
        .expect(0);
}

/// A bucket may be shared, with the repository at its root.
#[test]
fn the_uploads_of_others_are_left_alone() {
    let site = Site::without_server();
    let Some(scene) = scene(&site, 1) else { return };
    let Scene { mut cluster, bucket, proxy, names } = scene;
    cluster.config.set("repository.url", format!("s3://{}", bucket.name).as_str());
    let place = format!("main/{}", cluster.system_identifier());
    let ours = [
        format!("{place}/backup/dead/pack-000001"),
        format!("{place}/backup/dead/files"),
        ".pgark-probe/0123456789abcdef".to_owned(),
    ];
    let theirs = [
        "photos/2024.tar".to_owned(),
        format!("{place}/backup/dead/mine"),
        format!("theirs/{place}/backup/dead/pack-000001"),
    ];
    let upload = |key: &String| {
        format!(
            "<Upload><Key>{key}</Key><UploadId>dead</UploadId><Initiated>2020-01-15T14:30:00.000Z</Initiated></Upload>"
        )
    };
    let uploads: String = ours.iter().chain(&theirs).map(upload).collect();
    let list = format!(
        "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{uploads}</ListMultipartUploadsResult>"
    );
    proxy.fault("GET", "uploads", usize::MAX, Fault::Say(list));
    cluster.push(&format!("pg_wal/{}", names[0])).expect(0);
    let ended = |key: &String| proxy.count("DELETE", &format!("{key}?"));
    wait_until("our own uploads to be ended", PATIENCE, || ours.iter().all(|key| ended(key) > 0));
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    assert!(theirs.iter().all(|key| ended(key) == 0), "{:#?}", proxy.requests());
}
