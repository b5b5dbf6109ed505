//! Connections over TLS: when they are encrypted, their channel binding, and unresponsive peers.

use crate::support::{Begin, PATIENCE, Proxy, Site, Stop, TlsScene, wait_until};
use nix::sys::signal::Signal;
use std::time::Duration;

/// The message of `pgark check` about a connection, after a comparison with libpq.
#[track_caller]
fn check(scene: &TlsScene, conninfo: &str, connects: bool) -> String {
    let (ours, theirs) = (scene.check(conninfo), scene.psql(conninfo));
    let said = format!("{conninfo}\npgark: {ours}\nlibpq: {theirs}");
    assert_eq!((ours.code == Some(0), theirs.code == Some(0)), (connects, connects), "{said}");
    ours.stdout
}

#[test]
fn the_mode_says_what_goes_in_the_clear() {
    let site = Site::with_servers(1);
    let scene = TlsScene::start(&site, 24);
    // Users that may connect only with TLS, or only without it: the modes that permit both find the right one.
    for (user, mode, connects) in [
        ("tls", "disable", false),
        ("tls", "allow", true),
        ("tls", "prefer", true),
        ("tls", "require", true),
        ("plain", "disable", true),
        ("plain", "allow", true),
        ("plain", "prefer", true),
        ("plain", "require", false),
    ] {
        let said = check(&scene, &scene.conninfo(user, &format!("sslmode={mode}")), connects);
        assert!(connects || said.contains("no pg_hba.conf entry"), "{said}");
    }
    // prefer verifies if there are roots, and falls back to an unencrypted connection, like libpq.
    scene.certificates.self_signed("other", "/CN=other", &["basicConstraints = critical, CA:TRUE"]);
    check(&scene, &scene.conninfo("plain", "sslmode=prefer sslrootcert={dir}/other.crt"), true);
    let said = check(&scene, &scene.conninfo("tls", "sslmode=prefer sslrootcert={dir}/other.crt"), false);
    assert!(said.contains("no authority in") && said.contains("without TLS: no pg_hba.conf entry"), "{said}");
    // A Unix socket needs no encryption.
    let socket = format!("{} sslmode=verify-full", scene.cluster.conninfo());
    check(&scene, &socket, true);

    scene.cluster.append_conf("ssl = off\n");
    scene.cluster.psql("SELECT pg_reload_conf()");
    scene.cluster.wait_for_row("SHOW ssl", "off");
    check(&scene, &scene.conninfo("plain", "sslmode=prefer"), true);
    let refusals = || scene.cluster.log().matches("no pg_hba.conf entry").count();
    let before = refusals();
    assert_ne!(scene.check(&scene.conninfo("tls", "sslmode=prefer")).code, Some(0));
    assert_eq!(refusals(), before + 1, "the same was tried twice");
    let said = check(&scene, &scene.conninfo("plain", "sslmode=require"), false);
    assert!(said.contains("does not support TLS"), "{said}");
}

#[test]
fn what_somebody_adds_in_the_clear_is_refused() {
    let site = Site::with_servers(1);
    let scene = TlsScene::start(&site, 25);
    for (answer, said) in [
        (&b"SE"[..], "unexpected unencrypted data"),
        (b"SR\0\0\0\x08\0\0\0\0", "unexpected unencrypted data"),
        (b"E", "reported an error in response to the TLS request"),
        (b"H", "does not use PostgreSQL's protocol"),
    ] {
        let proxy = Proxy::saying(answer, &scene.address);
        for mode in ["prefer", "require"] {
            let conninfo = format!("host=127.0.0.1 port={} user=tls sslmode={mode}", proxy.port);
            let found = scene.check(&conninfo);
            assert!(found.code != Some(0) && found.stdout.contains(said), "{found}");
        }
    }
}

#[test]
fn a_password_is_bound_to_the_certificate() {
    let site = Site::with_servers(1);
    let scene = TlsScene::start(&site, 26);
    let full = "sslmode=verify-full host=db.example sslrootcert={dir}/ca.crt password=geheim";
    let bound = format!("{full} channel_binding=require");
    check(&scene, &scene.conninfo("scram", &bound), true);
    check(&scene, &scene.conninfo("scram", &format!("{full} channel_binding=disable")), true);
    check(&scene, &scene.conninfo("md", full), true);
    for user in ["md", "postgres"] {
        let said = check(&scene, &scene.conninfo(user, &bound), false);
        assert!(said.contains("does not bind the authentication"), "{said}");
    }
    // The hash function is that of the certificate's signature.
    for (name, hash) in [("sha384", "-sha384"), ("sha512", "-sha512"), ("sha1", "-sha1")] {
        let [key, path] = ["key", "crt"].map(|kind| format!("{name}.{kind}"));
        let made = ["req", "-x509", hash, "-nodes", "-newkey", "rsa:2048", "-keyout", &key, "-out", &path];
        scene.certificates.openssl(&[&made[..], &["-subj", "/CN=db.example"]].concat());
        scene.show(&path, &key);
        let require = "sslmode=require password=geheim channel_binding=require";
        check(&scene, &scene.conninfo("scram", require), true);
    }
    scene.show("server.crt", "server.key");

    // A man in the middle with a certificate of the same authority for the same name.
    let made = &scene.certificates;
    made.issue("ca", "middle", "/CN=db.example", "30", &["subjectAltName = DNS:db.example"]);
    let [certificate, key, authority] = ["middle.crt", "middle.key", "ca.crt"].map(|file| made.path(file));
    let middle = Proxy::in_the_middle(&scene.address, &certificate, &key, &authority, Begin::Asked);
    let through = |user: &str, rest: &str| {
        let conninfo = scene.conninfo(user, rest);
        let place = format!("hostaddr={} port=5432", scene.address);
        conninfo.replace(&place, &format!("hostaddr=127.0.0.1 port={}", middle.port))
    };
    for parameters in [full, &bound] {
        let said = check(&scene, &through("scram", parameters), false);
        assert!(said.contains("channel binding check failed"), "{said}");
    }
    check(&scene, &through("scram", &format!("{full} channel_binding=disable")), true);
}

#[test]
fn tls_begins_at_once_where_it_is_asked_to() {
    let site = Site::with_servers(1);
    let scene = TlsScene::start(&site, 27);
    let direct = "sslmode=verify-full host=db.example sslrootcert={dir}/ca.crt sslnegotiation=direct";
    let found = scene.check(&scene.conninfo("tls", direct));
    match scene.cluster.is_from(17) {
        true => assert_eq!(found.code, Some(0), "{found}"),
        false => assert!(found.stdout.contains("the TLS handshake failed"), "{found}"),
    }
    let [certificate, key, authority] =
        ["server.crt", "server.key", "ca.crt"].map(|file| scene.certificates.path(file));
    for names_protocol in [true, false] {
        let begin = Begin::Direct { names_protocol };
        let proxy = Proxy::in_the_middle(&scene.address, &certificate, &key, &authority, begin);
        let place = format!("hostaddr={} port=5432", scene.address);
        let conninfo = scene.conninfo("tls", direct);
        let found =
            scene.check(&conninfo.replace(&place, &format!("hostaddr=127.0.0.1 port={}", proxy.port)));
        let refused = found.stdout.contains("did not negotiate PostgreSQL's protocol");
        assert_eq!((found.code == Some(0), refused), (names_protocol, !names_protocol), "{found}");
    }
}

#[test]
fn backups_and_replicas_go_over_tls() {
    let site = Site::with_servers(2);
    let mut scene = TlsScene::start(&site, 28);
    let conninfo = scene.conninfo(
        "scram",
        "sslmode=verify-full host=db.example sslrootcert={dir}/ca.crt password=geheim channel_binding=require",
    );
    scene.cluster.psql("CREATE TABLE t AS SELECT 1 AS a; CREATE TABLE u AS SELECT generate_series(1, 20000)");
    // The cancel request uses the same path as the session that waits for a checkpoint.
    scene.cluster.config.set("connection.conninfo", conninfo.as_str());
    let slow = scene.cluster.pgark(&["base-backup", "--checkpoint", "spread", "--label", "slow"]).spawn();
    let waiting = "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
                   WHERE ssl AND state = 'active' AND query LIKE 'SELECT pg%backup%''slow''%'";
    scene.cluster.wait_for_row(waiting, "1");
    slow.signal(Signal::SIGTERM);
    slow.wait().expect(3).says("interrupted");
    wait_until("the statement is cancelled", PATIENCE, || {
        scene.cluster.log().contains("canceling statement due to user request")
    });
    scene.stream(&conninfo, "full").run().expect(0);
    let wrong = conninfo.replace("host=db.example", "host=other.example");
    scene.stream(&wrong, "wrong").run().expect(2).says("is for \"db.example\"");
    if scene.cluster.is_from(17) {
        scene.cluster.append_conf("summarize_wal = on\n");
        scene.cluster.psql("SELECT pg_reload_conf()");
        scene.stream(&conninfo, "second").run().expect(0);
        scene.cluster.psql("INSERT INTO t VALUES (2)");
        scene.stream(&conninfo, "changed").args(["--type", "incremental"]).run().expect(0);
    }
    let replica = site.directory().join("replica");
    let options = ["--standby", "--wait", "--port", "5433", "--primary-conninfo", &conninfo];
    scene.cluster.recover(&replica, &options).run().expect(0);
    let encrypted = "SELECT count(*) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE ssl";
    scene.cluster.wait_for_row(encrypted, "1");

    // Backups of the replica: both sessions are encrypted, since pg_hba.conf admits this user only over TLS.
    let of_replica = conninfo.replace("port=5432", "port=5433");
    scene.cluster.config.set("data_directory", replica.to_str().unwrap());
    scene.cluster.config.set("connection.standby", of_replica.as_str());
    for method in ["files", "stream"] {
        let label = format!("standby-{method}");
        let options = ["base-backup", "--checkpoint", "fast", "--method", method, "--label", &label];
        scene.cluster.pgark(&options).run().expect(0);
        assert!(site.archive_of(&scene.cluster).backup(&label).join("manifest.json").exists(), "{label}");
    }
    let wrong = of_replica.replace("host=db.example", "host=other.example");
    scene.cluster.config.set("connection.standby", wrong.as_str());
    let label = ["base-backup", "--label", "wrong-standby"];
    scene.cluster.pgark(&label).run().expect(2).says("is for \"db.example\"");
    scene.cluster.stop(Stop::Fast);
}

#[test]
fn a_server_that_is_gone_without_a_word_ends_the_backup() {
    let site = Site::with_servers(1);
    let scene = TlsScene::start(&site, 29);
    let proxy = Proxy::passing(&scene.address);
    let place = format!("hostaddr={} port=5432", scene.address);
    let conninfo = scene.conninfo("postgres", "sslmode=require tcp_user_timeout=300 connect_timeout=2");
    let conninfo = conninfo.replace(&place, &format!("hostaddr=127.0.0.1 port={}", proxy.port));
    // It waits for its first segment when the silence begins.
    scene.cluster.psql("ALTER SYSTEM SET archive_command = '/bin/false'");
    scene.cluster.psql("SELECT pg_reload_conf()");
    scene.cluster.wait_for_row("SHOW archive_command", "/bin/false");
    if let Some(agent) = scene.cluster.find_agent() {
        agent.kill(); // it would go on reading ahead
    }
    let backup = scene.stream(&conninfo, "one").spawn();
    let sending = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE backup_streamed > 0";
    scene.cluster.wait_for_row(sending, "1");
    proxy.fall_silent();
    backup.wait().expect(3).says("no longer responds").within(Duration::from_secs(30));
    // A connection that never begins has a time limit, too.
    scene.check(&conninfo).within(Duration::from_secs(15));
    let label = site.archive_of(&scene.cluster).backup("one");
    wait_until("nothing of the backup is left", PATIENCE, || !label.join("manifest.json").exists());
}
