//! A server with TLS that can change its certificate.

use super::certificates::Certificates;
use super::cluster::Cluster;
use super::programs::pgark_program;
use super::run::{Outcome, Run};
use super::site::Site;
use std::path::PathBuf;

/// The server, its certificates, and its address.
#[derive(Debug)]
pub struct TlsScene {
    pub cluster: Cluster,
    pub certificates: Certificates,
    pub address: String,
    home: PathBuf,
}

/// The pg_hba.conf rules: which user may connect in which way.
const RULES: &str = "local all all trust\nhostssl all cert samehost cert\nhostssl all md samehost md5\n\
                     hostssl all scram samehost scram-sha-256\nhostssl replication scram samehost scram-sha-256\n\
                     hostnossl all plain samehost trust\nhostssl all tls samehost trust\n\
                     hostssl all postgres samehost trust\nhostssl replication postgres samehost trust\n";

impl TlsScene {
    /// Listens on an address of this host that no other test run uses, with the certificate `server` issued by `ca`.
    pub fn start(site: &Site, last: u8) -> TlsScene {
        let cluster = site.cluster("primary");
        let process = std::process::id();
        let address = format!("127.{}.{}.{last}", (process >> 8) & 0xFF, process & 0xFF);
        let certificates = Certificates::create(site.directory().join("certificates"));
        certificates.self_signed("ca", "/CN=authority", &["basicConstraints = critical, CA:TRUE"]);
        certificates.issue("ca", "server", "/CN=db.example", "30", &["subjectAltName = DNS:db.example"]);
        cluster.archive();
        cluster.append_conf(&format!(
            "listen_addresses = '{address}'\nssl = on\nssl_ca_file = '{}'\n",
            certificates.path("ca.crt").display()
        ));
        cluster.write("pg_hba.conf", RULES);
        let home = site.directory().join("home");
        super::account::create_private_directory(&home);
        let mut scene = TlsScene { cluster, certificates, address, home };
        scene.configure("server.crt", "server.key");
        scene.cluster.start();
        scene.cluster.psql(
            "SET password_encryption = 'md5'; CREATE ROLE md SUPERUSER LOGIN PASSWORD 'geheim';
             SET password_encryption = 'scram-sha-256'; CREATE ROLE scram SUPERUSER LOGIN PASSWORD 'geheim';
             CREATE ROLE cert SUPERUSER LOGIN; CREATE ROLE plain SUPERUSER LOGIN; CREATE ROLE tls SUPERUSER LOGIN;",
        );
        scene
    }

    fn configure(&self, certificate: &str, key: &str) {
        let [certificate, key] =
            [certificate, key].map(|file| self.certificates.path(file).display().to_string());
        self.cluster.append_conf(&format!("ssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\n"));
    }

    /// Makes the server use another certificate.
    pub fn show(&self, certificate: &str, key: &str) {
        self.configure(certificate, key);
        self.cluster.psql("SELECT pg_reload_conf()");
        let expected = self.certificates.path(certificate).display().to_string();
        self.cluster.wait_for_row("SHOW ssl_cert_file", &expected);
    }

    /// The parameters of a TCP connection as this user.
    pub fn conninfo(&self, user: &str, rest: &str) -> String {
        let rest = rest.replace("{dir}", &self.certificates.path("").display().to_string());
        format!("hostaddr={} port=5432 user={user} dbname=postgres {rest}", self.address)
    }

    /// A directory to use as the programs' home directory.
    pub fn home(&self) -> &PathBuf {
        &self.home
    }

    /// `pgark check` with these parameters; its outcome shows whether it reached the server.
    pub fn check(&self, conninfo: &str) -> Outcome {
        self.check_run(conninfo).run()
    }

    pub fn check_run(&self, conninfo: &str) -> Run {
        let mut config = self.cluster.config.clone();
        config.path = config.path.with_file_name("tls.toml");
        config.set("connection.conninfo", conninfo);
        let run = Run::new(pgark_program("pgark")).arg("check").arg("--config").arg(&config.path);
        run.env("HOME", &self.home)
    }

    /// `pgark base-backup --method stream` with these parameters.
    pub fn stream(&self, conninfo: &str, label: &str) -> Run {
        let mut config = self.cluster.config.clone();
        config.path = config.path.with_file_name("tls.toml");
        config.set("connection.conninfo", conninfo);
        config.set("data_directory", "/nonexistent");
        let run = Run::new(pgark_program("pgark")).arg("base-backup").arg("--config").arg(&config.path);
        let run = run.args(["--method", "stream", "--checkpoint", "fast", "--label", label]);
        run.env("HOME", &self.home)
    }

    /// psql (libpq) with the same parameters.
    pub fn psql(&self, conninfo: &str) -> Outcome {
        let run =
            self.cluster.postgres_program("psql").args(["-X", "-w", "-A", "-t", "-c", "SELECT 1", "-d"]);
        run.arg(conninfo).env("HOME", &self.home).run()
    }
}
