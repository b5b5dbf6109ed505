//! Connections over TLS: compares pgark's treatment of a server certificate with libpq's.

use crate::support::{Outcome, Site, TlsScene};
use std::os::unix::fs::PermissionsExt;

/// The expected outcome of a connection.
enum Verdict {
    /// Both connect.
    Accepted,
    /// Neither connects, and pgark reports this.
    Refused(&'static str),
    /// libpq connects; pgark is stricter, and reports this.
    OnlyByLibpq(&'static str),
}
use Verdict::{Accepted, OnlyByLibpq, Refused};

/// Tries the same parameters with both.
#[track_caller]
fn both(scene: &TlsScene, user: &str, parameters: &str, verdict: Verdict) {
    let conninfo = scene.conninfo(user, parameters);
    let (ours, theirs) = (scene.check(&conninfo), scene.psql(&conninfo));
    let said = format!("{conninfo}\npgark: {ours}\nlibpq: {theirs}");
    let libpq_connects = !matches!(verdict, Refused(_));
    assert_eq!(theirs.code == Some(0), libpq_connects, "{said}");
    judge(&ours, verdict, &said);
}

/// The same for a rule that libpq has since version 15; pgark follows it with every server.
#[track_caller]
fn both_since_15(scene: &TlsScene, user: &str, parameters: &str, verdict: Verdict) {
    if scene.cluster.is_from(15) {
        return both(scene, user, parameters, verdict);
    }
    let conninfo = scene.conninfo(user, parameters);
    let ours = scene.check(&conninfo);
    judge(&ours, verdict, &format!("{conninfo}\npgark: {ours}"));
}

#[track_caller]
fn judge(ours: &Outcome, verdict: Verdict, said: &str) {
    match verdict {
        Accepted => assert_eq!(ours.code, Some(0), "{said}"),
        Refused(text) | OnlyByLibpq(text) => {
            assert_ne!(ours.code, Some(0), "{said}");
            assert!(ours.stdout.contains(text), "\"{text}\" is not said: {said}");
        }
    }
}

const FULL: &str = "sslmode=verify-full host=db.example";

#[test]
fn certificates_are_judged_as_libpq_does() {
    let site = Site::with_servers(1);
    let scene = TlsScene::start(&site, 21);
    let made = &scene.certificates;
    let by_ca = format!("{FULL} sslrootcert={{dir}}/ca.crt");

    both(&scene, "postgres", &by_ca, Accepted);
    both(&scene, "postgres", "sslmode=verify-full host=DB.example sslrootcert={dir}/ca.crt", Accepted);
    both(&scene, "postgres", "sslmode=verify-full sslrootcert={dir}/ca.crt", Refused("needs a host name"));
    let wrong = "sslmode=verify-full host=other.example sslrootcert={dir}/ca.crt";
    both(&scene, "postgres", wrong, Refused("is for \"db.example\", not for \"other.example\""));
    both(&scene, "postgres", "sslmode=verify-ca host=other.example sslrootcert={dir}/ca.crt", Accepted);
    // A server certificate without a trusted authority; require verifies if there are roots.
    made.self_signed("other", "/CN=other authority", &["basicConstraints = critical, CA:TRUE"]);
    for mode in ["verify-full", "verify-ca", "require"] {
        let parameters = format!("sslmode={mode} host=db.example sslrootcert={{dir}}/other.crt");
        both(&scene, "postgres", &parameters, Refused("no authority in"));
    }
    both(&scene, "postgres", "sslmode=require", Accepted);
    both(&scene, "postgres", FULL, Refused("there are no root certificates"));
    both(&scene, "postgres", "sslmode=require sslrootcert={dir}/missing.crt", OnlyByLibpq("could not read"));
    both(
        &scene,
        "postgres",
        "sslmode=require ssl_max_protocol_version=TLSv1.2 sslrootcert={dir}/ca.crt",
        Accepted,
    );
    // The server's own certificate in the root file is trusted only if it is a root.
    both(&scene, "postgres", &format!("{FULL} sslrootcert={{dir}}/server.crt"), Refused("no authority in"));
    // Found in libpq's default location.
    let usual = scene.home().join(".postgresql");
    crate::support::create_private_directory(&usual);
    std::fs::copy(made.path("other.crt"), usual.join("root.crt")).unwrap();
    crate::support::give(&usual.join("root.crt"));
    // Before version 15 libpq does not use $HOME.
    both_since_15(&scene, "postgres", "sslmode=require", Refused("no authority in"));
    std::fs::remove_file(usual.join("root.crt")).unwrap();

    for (name, subject, days, extensions, verdict) in [
        // According to the manual's recipe: version 1, with the host in the common name.
        ("v1", "/CN=db.example", "30", &[][..], Accepted),
        ("expired", "/CN=db.example", "-1", &[], Refused("has expired")),
        ("noname", "/O=nobody", "30", &[], Refused("has no name")),
        ("wildcard", "/CN=x", "30", &["subjectAltName = DNS:*.example"], Accepted),
        ("shadowed", "/CN=db.example", "30", &["subjectAltName = DNS:else.example"], Refused("else.example")),
        ("addressed", "/CN=db.example", "30", &["subjectAltName = IP:192.0.2.1"], Accepted),
        (
            "for-clients",
            "/CN=db.example",
            "30",
            &["extendedKeyUsage = clientAuth"],
            Refused("not for a server"),
        ),
        ("for-servers", "/CN=db.example", "30", &["extendedKeyUsage = serverAuth"], Accepted),
        ("for-signing", "/CN=db.example", "30", &["keyUsage = keyCertSign"], Refused("not for a server")),
        ("for-objects", "/CN=db.example", "30", &["nsCertType = client"], Refused("not for a server")),
        ("an-authority", "/CN=db.example", "30", &["basicConstraints = CA:TRUE"], Accepted),
        (
            "odd",
            "/CN=db.example",
            "30",
            &["1.2.3.4 = critical, ASN1:NULL"],
            Refused("critical extension 1.2.3.4"),
        ),
    ] {
        made.issue("ca", name, subject, days, extensions);
        scene.show(&format!("{name}.crt"), &format!("{name}.key"));
        both(&scene, "postgres", &by_ca, verdict);
    }

    // An address is a name, too.
    let address = scene.address.clone();
    made.issue("ca", "address", "/CN=x", "30", &[&format!("subjectAltName = IP:{address}")]);
    scene.show("address.crt", "address.key");
    let host = format!("sslmode=verify-full host={address} sslrootcert={{dir}}/ca.crt");
    // Before version 15 libpq compares addresses with the common name only.
    both_since_15(&scene, "postgres", &host, Accepted);
    both(&scene, "postgres", &by_ca, Refused("not for \"db.example\""));
}

#[test]
fn servers_that_sign_themselves_and_authorities_in_between() {
    let site = Site::with_servers(1);
    let scene = TlsScene::start(&site, 22);
    let made = &scene.certificates;
    let rsa = ["-newkey", "rsa:2048"];
    let own = |name: &str| format!("{FULL} sslrootcert={{dir}}/{name}.crt");
    for (name, extensions) in [
        // As created by `openssl req -x509`, and by Debian's make-ssl-cert.
        ("plain", &["basicConstraints = critical, CA:TRUE", "subjectKeyIdentifier = hash"][..]),
        ("snakeoil", &["basicConstraints = CA:FALSE", "subjectAltName = DNS:db.example"]),
        ("v1", &[]),
    ] {
        made.self_signed_with(&rsa, name, "/CN=db.example", extensions);
        scene.show(&format!("{name}.crt"), &format!("{name}.key"));
        both(&scene, "postgres", &own(name), Accepted);
        both(&scene, "postgres", &format!("{} ssl_max_protocol_version=TLSv1.2", own(name)), Accepted);
        both(&scene, "postgres", &own("ca"), Refused("self-signed and not in"));
    }
    // Its signature is valid, but it has expired.
    made.openssl(&["x509", "-in", "plain.crt", "-signkey", "plain.key", "-days", "-1", "-out", "late.crt"]);
    scene.show("late.crt", "plain.key");
    both(&scene, "postgres", &own("late"), Refused("has expired"));

    // An intermediate authority: sent by the server, or stored locally.
    let authority = ["basicConstraints = critical, CA:TRUE, pathlen:0"];
    made.issue("ca", "between", "/CN=between", "30", &authority);
    made.issue("between", "below", "/CN=db.example", "30", &["subjectAltName = DNS:db.example"]);
    made.bundle("chain.crt", &["below", "between"]);
    made.bundle("both.crt", &["ca", "between"]);
    scene.show("chain.crt", "below.key");
    both(&scene, "postgres", &own("ca"), Accepted);
    // It is trusted itself, but is not a root.
    both(&scene, "postgres", &own("between"), Refused("no authority in"));
    scene.show("below.crt", "below.key");
    both(&scene, "postgres", &own("ca"), Refused("no authority in"));
    both(&scene, "postgres", &own("both"), Accepted);
    // One authority too many below one that permits none.
    made.issue("between", "deeper", "/CN=deeper", "30", &["basicConstraints = critical, CA:TRUE"]);
    made.issue("deeper", "deep", "/CN=db.example", "30", &["subjectAltName = DNS:db.example"]);
    made.bundle("deep-chain.crt", &["deep", "deeper", "between"]);
    scene.show("deep-chain.crt", "deep.key");
    both(&scene, "postgres", &own("ca"), Refused("may have only 0 others"));
    // Not an authority at all.
    made.issue("server", "forged", "/CN=db.example", "30", &["subjectAltName = DNS:db.example"]);
    made.bundle("forged-chain.crt", &["forged", "server"]);
    scene.show("forged-chain.crt", "forged.key");
    both(&scene, "postgres", &own("ca"), Refused("may not issue"));
    // pgark rejects an authority with name constraints, which it does not evaluate.
    let limited = ["basicConstraints = critical, CA:TRUE", "nameConstraints = permitted;DNS:example"];
    made.self_signed("limited", "/CN=limited", &limited);
    made.issue("limited", "within", "/CN=db.example", "30", &["subjectAltName = DNS:db.example"]);
    scene.show("within.crt", "within.key");
    both(&scene, "postgres", &own("limited"), OnlyByLibpq("limits the names"));
}

#[test]
fn revocation_and_our_own_certificate() {
    let site = Site::with_servers(1);
    let scene = TlsScene::start(&site, 23);
    let made = &scene.certificates;
    made.issue("ca", "cert", "/CN=cert", "30", &[]);
    made.issue("ca", "revoked", "/CN=db.example", "30", &["subjectAltName = DNS:db.example"]);
    made.self_signed("other", "/CN=other authority", &["basicConstraints = critical, CA:TRUE"]);
    made.revoke("ca", "list", &["revoked"]);
    made.revoke("other", "elsewhere", &[]);
    let by_ca = format!("{FULL} sslrootcert={{dir}}/ca.crt");
    both(&scene, "postgres", &format!("{by_ca} sslcrl={{dir}}/list.crl"), Accepted);
    both(
        &scene,
        "postgres",
        &format!("{by_ca} sslcrl={{dir}}/elsewhere.crl"),
        Refused("no revocation list by"),
    );
    both(&scene, "postgres", &format!("{by_ca} sslcrl={{dir}}/none.crl"), OnlyByLibpq("could not read"));

    // The server requests a client certificate.
    let cert = format!("{by_ca} sslcert={{dir}}/cert.crt sslkey={{dir}}/cert.key");
    both(&scene, "cert", &cert, Accepted);
    both(&scene, "cert", &by_ca, Refused("requires a valid client certificate"));
    both(&scene, "cert", &format!("{by_ca} sslcert={{dir}}/none.crt"), Refused("could not read"));
    both(
        &scene,
        "cert",
        &format!("{cert} sslkey={{dir}}/server.key"),
        Refused("does not belong to the certificate"),
    );
    let open = made.path("open.key");
    std::fs::copy(made.path("cert.key"), &open).unwrap();
    crate::support::give(&open);
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o640)).unwrap();
    both(&scene, "cert", &format!("{cert} sslkey={{dir}}/open.key"), Refused("is readable by other users"));
    made.openssl(&["ec", "-aes128", "-passout", "pass:x", "-in", "cert.key", "-out", "locked.key"]);
    both(&scene, "cert", &format!("{cert} sslkey={{dir}}/locked.key"), Refused("is encrypted"));

    // The operating system's roots, which libpq supports from version 16 on.
    let roots = made.path("ca.crt");
    let system = scene.conninfo("postgres", "sslrootcert=system host=db.example");
    let found = scene.check_run(&system).env("SSL_CERT_FILE", &roots).run();
    found.expect(0);
    let other = scene.check_run(&system).env("SSL_CERT_FILE", made.path("other.crt")).run();
    assert!(other.stdout.contains("no authority in the operating system's root certificates"), "{other}");
    let wrong = scene.conninfo("postgres", "sslrootcert=system host=other.example");
    let wrong = scene.check_run(&wrong).env("SSL_CERT_FILE", &roots).run();
    assert!(wrong.stdout.contains("not for \"other.example\""), "{wrong}");
    // Environment variables apply to missing parameters.
    let variables = scene.check_run(&scene.conninfo("postgres", "host=other.example"));
    let variables = variables.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", &roots).run();
    assert!(variables.stdout.contains("not for \"other.example\""), "{variables}");

    scene.show("revoked.crt", "revoked.key");
    both(&scene, "postgres", &format!("{by_ca} sslcrl={{dir}}/list.crl"), Refused("was revoked"));
    both(&scene, "postgres", &by_ca, Accepted);
}
