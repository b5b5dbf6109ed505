//! Long and unusual problems: an outage that rejects a hundred attempts, a server that becomes unavailable in the
//! middle of every operation, and all common mistakes.

use crate::support::{
    Bucket, Cluster, Fault, FaultProxy, Run, S3Server, Site, Stop, Template, faketime, s3_server, wait_until,
    wants_everything,
};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

/// Sufficient on a loaded machine.
const LONG: Duration = Duration::from_secs(120);

#[test]
fn each_usual_mistake_is_told_with_its_remedy() {
    let site = Site::without_server();
    let Some(server) = s3_server() else { return };
    let (bucket, proxy) = (Bucket::new(server), FaultProxy::start(&server.endpoint));
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &proxy.endpoint());
    cluster.config.set("s3.retry_deadline", "1s");
    for (status, code, says, hint) in [
        (403, "AccessDenied", "access denied", "s3:ListBucket"),
        (404, "NoSuchBucket", "there is no bucket", "repository.url"),
        (301, "PermanentRedirect", "is not in the region us-east-1", "s3.region"),
        (400, "AuthorizationHeaderMalformed", "is not in the region us-east-1", "s3.region"),
        (403, "RequestTimeTooSkewed", "the clocks of this host", "timedatectl"),
        (400, "ExpiredToken", "the access keys have expired", "session token"),
        (403, "InvalidAccessKeyId", "does not know these access keys", "s3.profile"),
        (403, "SignatureDoesNotMatch", "does not know these access keys", "AWS_SECRET_ACCESS_KEY"),
        (503, "SlowDown", "asks for a lower request rate", ""),
        (500, "InternalError", "the service reported an internal error", ""),
    ] {
        proxy.fault("GET", "", usize::MAX, Fault::Status(status, code));
        let outcome = cluster.pgark(&["info"]).run().expect(3).says(says).says(code).says(hint);
        assert_eq!(outcome.stderr.contains("HINT:"), !hint.is_empty(), "{outcome}");
        proxy.mend();
    }
    proxy.fault("GET", "list-type", usize::MAX, Fault::ErrorInside200);
    cluster.pgark(&["info"]).run().expect(3);
}

/// A stopped cluster whose agent has used the repository before, with a ready segment that cannot be stored.
fn rejected(site: &Site) -> Option<(Cluster, Bucket, FaultProxy, String)> {
    let server = s3_server()?;
    let (bucket, proxy) = (Bucket::new(server), FaultProxy::start(&server.endpoint));
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &proxy.endpoint());
    cluster.config.set("s3.retry_deadline", "1s");
    cluster.config.set("agent.retry_max", "1s");
    let wal = cluster.fake_wal();
    cluster.archive_file(&wal.name(SEGMENT), wal.bytes(SEGMENT, 1));
    let name = wal.name(SEGMENT + 1);
    cluster.put_wal(&name, wal.bytes(SEGMENT + 1, 1));
    cluster.write(&format!("pg_wal/archive_status/{name}.ready"), "");
    proxy.fault("PUT", &name, usize::MAX, Fault::Status(403, "AccessDenied"));
    Some((cluster, bucket, proxy, name))
}

#[test]
fn a_hundred_rejected_attempts_are_survived_and_caught_up_with() {
    let site = Site::without_server();
    let Some((cluster, bucket, proxy, name)) = rejected(&site) else { return };
    let agent = cluster.agent();
    let rejected = || proxy.count("PUT", &name);
    while rejected() < 100 {
        // Every request, however frequent, gets the actual error at once.
        let push = cluster.push(&format!("pg_wal/{name}")).expect(3).within(Duration::from_secs(10));
        push.says("access denied").says(&name).says("s3:PutObject");
    }
    // Without requests, the agent retries on its own, but not more often than configured.
    let (before, began) = (rejected(), Instant::now());
    wait_until("three attempts of the agent's own", LONG, || rejected() >= before + 3);
    let (attempts, seconds) = (rejected() - before, began.elapsed().as_secs() as usize);
    assert!(attempts <= 2 * (seconds + 2), "{attempts} attempts in {seconds} s");
    proxy.mend();
    let key = bucket.wal_key(&cluster, &name);
    wait_until("the agent to catch up by itself", LONG, || bucket.keys().contains(&key));
    assert_eq!(cluster.agent(), agent, "another agent");
    cluster.push(&format!("pg_wal/{name}")).expect(0);
    cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(0);
}

#[test]
fn a_hundred_attempts_that_nobody_asked_for_are_survived() {
    if !wants_everything() {
        return;
    }
    let site = Site::without_server();
    let Some((cluster, bucket, proxy, name)) = rejected(&site) else { return };
    cluster.push(&format!("pg_wal/{name}")).expect(3);
    let (agent, began) = (cluster.agent(), Instant::now());
    wait_until("a hundred attempts", 4 * LONG, || proxy.count("PUT", &name) >= 100);
    assert!(began.elapsed() >= Duration::from_secs(40), "too many attempts in {:?}", began.elapsed());
    proxy.mend();
    let key = bucket.wal_key(&cluster, &name);
    wait_until("the agent to catch up by itself", LONG, || bucket.keys().contains(&key));
    assert_eq!(cluster.agent(), agent, "another agent");
}

#[test]
fn a_service_that_asks_to_slow_down_is_left_alone() {
    let site = Site::without_server();
    let Some(server) = s3_server() else { return };
    let (bucket, proxy) = (Bucket::new(server), FaultProxy::start(&server.endpoint));
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &proxy.endpoint());
    let wal = cluster.fake_wal();
    cluster.archive_file(&wal.name(SEGMENT), wal.bytes(SEGMENT, 1));
    let name = wal.name(SEGMENT + 1);
    cluster.put_wal(&name, wal.bytes(SEGMENT + 1, 1));
    proxy.fault("PUT", &name, 2, Fault::Status(503, "SlowDown"));
    let push = cluster.push(&format!("pg_wal/{name}")).expect(0);
    assert!(push.took >= Duration::from_millis(1500), "{push}");
    assert_eq!(proxy.count("PUT", &name), 3);
}

/// Archives, backs up and recovers while the server becomes unavailable in the middle of each.
fn everything_goes_on(bucket: &Bucket, server: &S3Server, interrupt: impl Fn(&FaultProxy) + Send + 'static) {
    let site = Site::with_servers(2);
    let proxy = FaultProxy::start(&server.endpoint);
    proxy.interrupts_with(interrupt);
    let mut primary = site.cluster("primary");
    bucket.serve(&mut primary, &proxy.endpoint());
    primary.config.set("s3.retry_deadline", "110s");
    primary.config.set("push.deadline", "120s");
    primary.config.set("get.deadline", "120s");
    primary.config.set("backup.checkpoint", "fast");
    primary.archive();
    primary.start();
    let archived = |name: &str| {
        wait_until("the segment to be archived", 2 * LONG, || {
            primary.psql(&format!("SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver")) == "t"
        });
    };
    archived(&primary.switch_wal());
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 10000) a");
    let interrupted = |method, part: &str| {
        proxy.forget();
        proxy.fault(method, part, 1, Fault::Interrupt);
    };
    interrupted("PUT", "/wal/");
    archived(&primary.switch_wal());
    assert!(proxy.count("PUT", "/wal/") >= 2, "{:#?}", proxy.requests());
    interrupted("PUT", "/pack-");
    primary.pgark(&["base-backup"]).deadline(2 * LONG).run().expect(0);
    assert!(proxy.count("PUT", "/pack-") >= 2, "{:#?}", proxy.requests());
    primary.psql("INSERT INTO t VALUES (70000)");
    let answer = primary.psql("SELECT count(*) || ' ' || sum(a) FROM t");
    archived(&primary.switch_wal());
    primary.stop(Stop::Fast);
    let copy = site.directory().join("copy");
    for part in ["/pack-", "/wal/00000001/"] {
        interrupted("GET", part);
    }
    primary.recover(&copy, &["--wait"]).deadline(3 * LONG).run().expect(0);
    assert!(proxy.count("GET", "/pack-") >= 2, "{:#?}", proxy.requests());
    assert_eq!(primary.psql("SELECT count(*) || ' ' || sum(a) FROM t"), answer);
    primary.stop_recovered(&copy);
}

#[test]
fn a_server_that_is_gone_for_a_while_ends_nothing() {
    let Some(server) = s3_server() else { return };
    everything_goes_on(&Bucket::new(server), server, |proxy| proxy.refuse_next(4));
}

#[test]
fn a_server_that_is_killed_and_started_again_ends_nothing() {
    if !wants_everything() || !s3_server().is_some_and(|server| server.is_ceph("server of its own")) {
        return;
    }
    let place = Site::without_server();
    let directory = place.directory().join("s3");
    let own = OwnServer::start(&directory);
    let server: &'static S3Server = Box::leak(Box::new(own.server()));
    let bucket = Bucket::named(server, "killed".to_owned());
    bucket.make();
    let directory = own.directory.clone();
    everything_goes_on(&bucket, server, move |_| {
        s3_server_script(&["kill"], &directory);
        let directory = directory.clone();
        std::thread::spawn(move || s3_server_script(&["resume"], &directory));
    });
}

/// A separate server, on a disk.
struct OwnServer {
    directory: std::path::PathBuf,
    variables: String,
}

impl OwnServer {
    fn start(directory: &Path) -> OwnServer {
        let variables = s3_server_script(&["start"], directory);
        OwnServer { directory: directory.to_owned(), variables }
    }

    fn server(&self) -> S3Server {
        let variable = |name: &str| {
            let begin = format!("export PGARK_TEST_S3_{name}=");
            self.variables.lines().find_map(|line| line.strip_prefix(&begin)).map(str::to_owned)
        };
        S3Server::from_variables(variable).expect("the variables of a server")
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        s3_server_script(&["stop"], &self.directory);
    }
}

fn s3_server_script(arguments: &[&str], directory: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/s3-server");
    let output = Command::new(script)
        .args(arguments)
        .arg(directory)
        .env("S3_SERVER", "ceph")
        .env("OSD_STORE", "bluestore")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/s3-server {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn replaced_access_keys_are_taken_up_by_the_agent_that_runs() {
    let site = Site::without_server();
    let Some(server) = s3_server() else { return };
    let bucket = Bucket::new(server);
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &server.endpoint);
    let wal = cluster.fake_wal();
    let push = |number: u64| {
        let name = wal.name(SEGMENT + number);
        cluster.put_wal(&name, wal.bytes(SEGMENT + number, 1));
        cluster.push(&format!("pg_wal/{name}"))
    };
    push(0).expect(0);
    let agent = cluster.agent();
    let until_it_works = |number: u64| {
        wait_until("the new keys to be taken up", LONG, || push(number).code == Some(0));
        assert_eq!(cluster.agent(), agent, "another agent");
    };
    let until_refused = |number: u64| {
        wait_until("the keys to be refused", LONG, || push(number).code == Some(3));
        push(number).expect(3).says("does not know these access keys");
    };
    // The credentials file changes: to unknown keys, and to valid ones.
    bucket.come_as_nobody(&cluster);
    until_refused(1);
    bucket.come_as_owner(&cluster);
    until_it_works(1);
    // The file stays the same, and the program that it names returns other keys.
    bucket.come_by_program(&cluster, false);
    until_refused(2);
    bucket.come_by_program(&cluster, true);
    until_it_works(2);
}

/// The response to a HEAD has no body, so revoked keys look like a missing permission.
#[test]
fn revoked_keys_are_not_told_as_a_missing_right() {
    let site = Site::without_server();
    let Some(server) = s3_server() else { return };
    let (bucket, proxy) = (Bucket::new(server), FaultProxy::start(&server.endpoint));
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &proxy.endpoint());
    let wal = cluster.fake_wal();
    cluster.archive_file(&wal.name(SEGMENT), wal.bytes(SEGMENT, 1));
    let name = wal.name(SEGMENT + 1);
    cluster.put_wal(&name, wal.bytes(SEGMENT + 1, 1));
    let push = || cluster.push(&format!("pg_wal/{name}"));
    // The object was stored, and its state has to be queried. AWS responds to a HEAD with expired keys with 400.
    for (status, code) in [(403, "InvalidAccessKeyId"), (403, "AccessDenied"), (400, "ExpiredToken")] {
        proxy.fault("PUT", &name, 1, Fault::LoseAnswer);
        proxy.fault("HEAD", &name, usize::MAX, Fault::Status(status, ""));
        proxy.fault("GET", "list-type", usize::MAX, Fault::Status(403, code));
        let refused = push().expect(3);
        let names_right = refused.stderr.contains("s3:ListBucket");
        assert_eq!(names_right, code == "AccessDenied", "{refused}");
        refused.says(code);
        proxy.mend();
        bucket.delete(&bucket.wal_key(&cluster, &name));
    }
    push().expect(0);
}

/// The service returns its time when it rejects a request for it.
#[test]
fn a_clock_that_jumps_is_corrected_by_the_services_own() {
    let site = Site::without_server();
    let Some(server) = s3_server() else { return };
    let (bucket, proxy) = (Bucket::new(server), FaultProxy::start(&server.endpoint));
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &proxy.endpoint());
    let wal = cluster.fake_wal();
    cluster.archive_file(&wal.name(SEGMENT), wal.bytes(SEGMENT, 1));
    let name = wal.name(SEGMENT + 1);
    cluster.put_wal(&name, wal.bytes(SEGMENT + 1, 1));
    proxy.forget();
    // Two hours ahead, apparently; the server itself then rejects the request and returns the right time.
    proxy.fault("PUT", &name, 1, Fault::Skewed(7200));
    cluster.push(&format!("pg_wal/{name}")).expect(0);
    let signed: Vec<String> = proxy
        .heads()
        .iter()
        .filter(|head| head.starts_with("put "))
        .filter_map(|head| head.lines().find_map(|line| line.strip_prefix("x-amz-date: ").map(str::to_owned)))
        .collect();
    assert_eq!(signed.len(), 3, "{signed:?}");
    assert!(signed[1] > signed[0] && signed[2] < signed[1], "{signed:?}");
}

/// A host with a wrong clock does not consider the backup of another host dead.
#[test]
fn hosts_judge_each_other_by_the_clock_of_the_service() {
    let site = Site::with_servers(1);
    let Some(server) = s3_server() else { return };
    let bucket = Bucket::new(server);
    let mut primary = site.cluster("primary");
    bucket.serve(&mut primary, &server.endpoint);
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 10000) AS a");
    let ahead = |run: Run| run.env("LD_PRELOAD", faketime()).env("FAKETIME", "+2h");
    let living = primary.pgark(&["base-backup", "--checkpoint", "spread", "--label", "one"]).spawn();
    wait_until("the mark of the backup", LONG, || {
        bucket.keys().iter().any(|key| key.ends_with("/backup/one/running"))
    });
    let shown = ahead(primary.pgark(&["info"])).run();
    assert!(!shown.stdout.contains("abandoned"), "{shown}");
    ahead(primary.pgark(&["base-backup", "--checkpoint", "fast", "--label", "two"])).run().expect(0);
    living.wait().expect(0);
    let plan = primary.recover(&site.directory().join("copy"), &["--dry-run", "--backup", "one"]);
    plan.run().expect(0);
}

/// No response to the request that completes an upload, whether the server has executed it or not.
#[test]
fn silence_at_the_end_of_an_upload_is_not_waited_for_long() {
    let site = Site::without_server();
    let Some(server) = s3_server() else { return };
    let (bucket, proxy) = (Bucket::new(server), FaultProxy::start(&server.endpoint));
    let mut cluster = site.cluster_of("primary", Template::with_segments_of(128));
    bucket.serve(&mut cluster, &proxy.endpoint());
    cluster.config.set("compression.method", "none");
    cluster.config.set("s3.stall_timeout", "3s");
    cluster.config.set("push.deadline", "100s");
    let wal = cluster.fake_wal();
    let store = |number: u64, times: usize, fault: Fault| {
        let name = wal.name(SEGMENT + number);
        cluster.put_wal(&name, wal.bytes(SEGMENT + number, 1));
        proxy.forget();
        proxy.fault("POST", "uploadId=", times, fault);
        let push = cluster.program("archive-push").arg(format!("pg_wal/{name}")).deadline(LONG).spawn();
        wait_until("the parts to be put together", LONG, || proxy.count("POST", "uploadId=") > 0);
        push
    };
    // The reason is shown until an attempt succeeds.
    let silent = store(1, usize::MAX, Fault::Stall);
    wait_until("the silence to be shown", LONG, || {
        cluster.pgark(&["status"]).run().stdout.contains("no data was transferred for 3 s")
    });
    proxy.mend();
    silent.wait().expect(0).within(LONG / 2);
    store(2, 1, Fault::StallAnswer).wait().expect(0).within(LONG / 2);
    // As long as data arrives, it keeps waiting.
    store(3, 1, Fault::Drip(Duration::from_secs(8))).wait().expect(0);
    assert_eq!(proxy.count("POST", "uploadId="), 1, "{:#?}", proxy.requests());
}
