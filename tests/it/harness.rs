//! Tests of the test harness itself, on which all scenarios depend.

use crate::support::{PATIENCE, Process, Run, Site, Stop, segment_number, wait_until};
use nix::sys::signal::Signal;
use std::time::Duration;

#[test]
fn a_server_starts_answers_and_stops() {
    let site = Site::with_servers(1);
    let mut cluster = site.cluster("primary");
    cluster.start();
    assert_eq!(cluster.psql("SHOW listen_addresses"), "");
    assert_eq!(cluster.psql("SHOW wal_segment_size"), "1MB");
    assert_eq!(cluster.psql("SHOW data_checksums"), "on");
    assert_eq!(
        cluster.psql("SELECT system_identifier FROM pg_control_system()"),
        cluster.system_identifier().to_string()
    );
    cluster.psql("CREATE TABLE t AS SELECT 1 AS a");
    cluster.kill9();
    cluster.start();
    assert_eq!(cluster.psql("SELECT a FROM t"), "1");
    cluster.stop(Stop::Fast);
    assert!(cluster.processes().is_empty());
    let mut copy = cluster.copy("copy");
    copy.start();
    assert_eq!(copy.psql("SELECT a FROM t"), "1");
    copy.stop(Stop::Immediate);
}

#[test]
fn nothing_runs_after_a_scenario() {
    let left = {
        let site = Site::with_servers(1);
        let mut cluster = site.cluster("primary");
        cluster.start();
        let directory = site.directory().to_owned();
        assert!(Process::all_of(&directory).len() > 3);
        directory
    };
    assert_eq!(Process::all_of(&left), []);
    assert_eq!(left.exists(), std::env::var_os("PGARK_TEST_KEEP").is_some());
}

#[test]
fn fake_segments_have_the_names_and_headers_of_real_ones() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let name = cluster.checkpoint_segment();
    let number = segment_number(&name, cluster.template().segment_size());
    assert_eq!(wal.name(number), name);
    assert_eq!(wal.name(0x1000), "000000010000000100000000");
    let (real, fake) = (cluster.read(&format!("pg_wal/{name}")), wal.bytes(number, 0));
    assert_eq!(fake.len(), real.len());
    // All fields except the flags and the rest of an earlier record.
    for field in [0..2, 4..16, 24..40] {
        assert_eq!(fake[field.clone()], real[field]);
    }
}

#[test]
fn programs_run_with_a_status_a_signal_and_an_output() {
    let outcome = Run::new("/bin/sh").args(["-c", "echo out; echo Error >&2; exit 3"]).run();
    let outcome = outcome.expect(3).says("error");
    assert_eq!(outcome.stdout, "out\n");
    let running = Run::new("/bin/sleep").arg("60").spawn();
    running.signal(Signal::SIGTERM);
    running.wait().killed_by(Signal::SIGTERM).within(Duration::from_secs(30));
    let process = Run::new("/bin/sleep").arg("60").spawn().process();
    wait_until("a dropped program is gone", PATIENCE, || !process.is_alive());
}
