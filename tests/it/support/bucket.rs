//! A bucket on a real S3 server, accessed through the SDK only.

use super::archive::CLUSTER_NAME;
use super::checker::Tree;
use super::cluster::Cluster;
use super::wal::timeline_and_log_of;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::primitives::ByteStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::runtime::Runtime;

/// The S3 server for the tests, with its access keys.
#[derive(Debug)]
pub struct S3Server {
    /// The kind of server, as named by `scripts/s3-server`.
    pub kind: String,
    pub endpoint: String,
    pub tls_endpoint: Option<String>,
    pub tls_directory: Option<String>,
    pub access_key: String,
    pub secret_key: String,
    /// Users with only the permissions that a bucket's policy grants.
    pub writer: Option<S3User>,
    pub reader: Option<S3User>,
}

/// A user other than the owner of the buckets.
#[derive(Clone, Debug)]
pub struct S3User {
    pub name: String,
    pub access_key: String,
    pub secret_key: String,
}

impl S3User {
    fn parse(text: &str) -> Option<S3User> {
        let mut parts = text.splitn(3, ':').map(str::to_owned);
        Some(S3User { name: parts.next()?, access_key: parts.next()?, secret_key: parts.next()? })
    }
}

impl S3Server {
    /// Reads the variables that `scripts/s3-server` prints, each without the prefix `PGARK_TEST_S3_`.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Option<S3Server> {
        Some(S3Server {
            kind: variable("KIND").unwrap_or_else(|| "ceph".to_owned()),
            endpoint: variable("ENDPOINT")?,
            tls_endpoint: variable("TLS_ENDPOINT"),
            tls_directory: variable("TLS_DIRECTORY"),
            access_key: variable("ACCESS_KEY")?,
            secret_key: variable("SECRET_KEY")?,
            writer: variable("WRITER").as_deref().and_then(S3User::parse),
            reader: variable("READER").as_deref().and_then(S3User::parse),
        })
    }

    /// Whether it honors `If-None-Match`.
    pub fn refuses_second_puts(&self) -> bool {
        self.kind != "garage"
    }

    /// The header with a checksum that the server verifies.
    pub fn checksum_header(&self) -> &'static str {
        if self.kind == "ceph" { "content-md5: " } else { "x-amz-checksum-crc32: " }
    }

    /// Whether the server is Ceph's gateway; otherwise prints why the scenario is skipped.
    pub fn is_ceph(&self, needs: &str) -> bool {
        let is = self.kind == "ceph";
        if !is {
            eprintln!("skipped: {} has no {needs}", self.kind);
        }
        is
    }
}

/// The server; `None`, with a message, if there is none. `scripts/test` starts one.
pub fn s3_server() -> Option<&'static S3Server> {
    static SERVER: OnceLock<Option<S3Server>> = OnceLock::new();
    let variable = |name: &str| std::env::var(format!("PGARK_TEST_S3_{name}")).ok();
    let server = SERVER.get_or_init(|| S3Server::from_variables(variable));
    if server.is_none() {
        eprintln!("skipped: no S3 server; start one: eval \"$(scripts/s3-server start DIRECTORY)\"");
    }
    server.as_ref()
}

/// A separate prefix in the bucket of this test run.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub server: &'static S3Server,
    pub name: String,
    pub prefix: String,
    client: Client,
}

impl Bucket {
    pub fn new(server: &'static S3Server) -> Bucket {
        static MADE: OnceLock<()> = OnceLock::new();
        let bucket = Bucket::named(server, format!("pgark-test-{}", std::process::id()));
        MADE.get_or_init(|| bucket.make());
        bucket
    }

    /// Creates the bucket, on a server that may differ from that of the other tests.
    pub fn make(&self) {
        runtime().block_on(self.client.create_bucket().bucket(&self.name).send()).unwrap();
    }

    /// A separate bucket with object lock, and therefore with versioning.
    pub fn locked(server: &'static S3Server) -> Bucket {
        Bucket::alone(server, true)
    }

    /// A separate bucket, for bucket-wide settings.
    pub fn alone(server: &'static S3Server, locked: bool) -> Bucket {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let bucket = Bucket::named(server, format!("pgark-test-{}-{number}", std::process::id()));
        let made = bucket.client.create_bucket().bucket(&bucket.name);
        let made = if locked { made.object_lock_enabled_for_bucket(true) } else { made };
        runtime().block_on(made.send()).unwrap();
        bucket
    }

    /// Enables versioning.
    pub fn keep_versions(&self) {
        use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
        let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        let put = self.client.put_bucket_versioning().bucket(&self.name).versioning_configuration(on);
        runtime().block_on(put.send()).unwrap();
    }

    /// Grants each user the permissions of a policy written for `s3://wal-archive/prod`.
    pub fn allow(&self, policies: &[(&S3User, &str)]) {
        let mut statements = Vec::new();
        for (user, policy) in policies {
            let policy = policy
                .replace("wal-archive/prod", &format!("{}/{}", self.name, self.prefix))
                .replace("wal-archive", &self.name);
            let policy: serde_json::Value = serde_json::from_str(&policy).unwrap();
            for statement in policy["Statement"].as_array().unwrap() {
                let mut statement = statement.clone();
                statement["Principal"] =
                    serde_json::json!({ "AWS": [format!("arn:aws:iam:::user/{}", user.name)] });
                statements.push(statement);
            }
        }
        let policy = serde_json::json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
        runtime().block_on(self.client.put_bucket_policy().bucket(&self.name).policy(policy).send()).unwrap();
    }

    pub fn named(server: &'static S3Server, name: String) -> Bucket {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(&server.endpoint)
            .region(Region::from_static("us-east-1"))
            .credentials_provider(Credentials::new(
                &server.access_key,
                &server.secret_key,
                None,
                None,
                "tests",
            ))
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .force_path_style(true)
            .build();
        let client = Client::from_conf(config);
        Bucket { server, name, prefix: format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed)), client }
    }

    /// Makes this bucket the repository of a cluster, accessed through `endpoint`.
    pub fn serve(&self, cluster: &mut Cluster, endpoint: &str) {
        let credentials = credentials_file(cluster);
        write_credentials(cluster, &self.server.access_key, &self.server.secret_key);
        cluster.config.set("repository.url", format!("s3://{}/{}", self.name, self.prefix).as_str());
        cluster.config.set("s3.endpoint", endpoint);
        cluster.config.set("s3.credentials_file", credentials.as_path());
        cluster.config.set("s3.allow_http", true);
        cluster.config.set("s3.stall_timeout", "2s");
        cluster.config.set("s3.retry_deadline", "8s");
    }

    /// Makes a cluster use the access keys of another user.
    pub fn come_as(&self, cluster: &Cluster, user: &S3User) {
        write_credentials(cluster, &user.access_key, &user.secret_key);
    }

    /// Makes a cluster use the access keys of the bucket's owner.
    pub fn come_as_owner(&self, cluster: &Cluster) {
        write_credentials(cluster, &self.server.access_key, &self.server.secret_key);
    }

    /// Makes a cluster use unknown access keys.
    pub fn come_as_nobody(&self, cluster: &Cluster) {
        write_credentials(cluster, "AKIAREVOKED", "revokedrevokedrevoked");
    }

    /// Makes a cluster obtain its keys from a program: those of the bucket's owner, or unknown ones.
    pub fn come_by_program(&self, cluster: &Cluster, known: bool) {
        let (access, secret) = match known {
            true => (self.server.access_key.as_str(), self.server.secret_key.as_str()),
            false => ("AKIAREVOKED", "revokedrevokedrevoked"),
        };
        let keys = credentials_file(cluster).with_extension("json");
        let said = serde_json::json!({ "Version": 1, "AccessKeyId": access, "SecretAccessKey": secret });
        super::account::write_file(&keys, said.to_string());
        let program = format!("[default]\ncredential_process = /bin/cat {}\n", keys.display());
        let file = credentials_file(cluster);
        if std::fs::read_to_string(&file).unwrap_or_default() != program {
            super::account::write_file(&file, program);
        }
    }

    /// The metadata of an object.
    pub fn metadata(&self, key: &str) -> std::collections::HashMap<String, String> {
        let head = self.client.head_object().bucket(&self.name).key(key).send();
        runtime().block_on(head).unwrap().metadata().cloned().unwrap_or_default()
    }

    /// The full key of a WAL file.
    pub fn wal_key(&self, cluster: &Cluster, name: &str) -> String {
        let wal = format!("{}/{CLUSTER_NAME}/{}/wal", self.prefix, cluster.system_identifier());
        match timeline_and_log_of(name) {
            Some((timeline, log)) => format!("{wal}/{timeline}/{log}/{name}"),
            None => format!("{wal}/{name}"),
        }
    }

    /// The full keys below this prefix.
    pub fn keys(&self) -> Vec<String> {
        runtime().block_on(async {
            let mut pages = self
                .client
                .list_objects_v2()
                .bucket(&self.name)
                .prefix(format!("{}/", self.prefix))
                .into_paginator()
                .send();
            let mut keys = Vec::new();
            while let Some(page) = pages.next().await {
                keys.extend(page.unwrap().contents().iter().map(|object| object.key().unwrap().to_owned()));
            }
            keys
        })
    }

    /// Number of unfinished uploads below this prefix.
    pub fn uploads(&self) -> usize {
        let uploads =
            self.client.list_multipart_uploads().bucket(&self.name).prefix(format!("{}/", self.prefix));
        runtime().block_on(uploads.send()).unwrap().uploads().len()
    }

    pub fn get(&self, key: &str) -> Vec<u8> {
        runtime().block_on(async {
            let found = self.client.get_object().bucket(&self.name).key(key).send().await.unwrap();
            found.body.collect().await.unwrap().to_vec()
        })
    }

    /// All objects below this prefix, as a directory would hold them.
    pub fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        for key in self.keys() {
            let path = key.strip_prefix(&format!("{}/", self.prefix)).unwrap();
            tree.insert(path, self.get(&key));
        }
        tree
    }

    pub fn put(&self, key: &str, content: &[u8]) {
        let body = ByteStream::from(content.to_vec());
        runtime().block_on(self.client.put_object().bucket(&self.name).key(key).body(body).send()).unwrap();
    }

    pub fn delete(&self, key: &str) {
        runtime().block_on(self.client.delete_object().bucket(&self.name).key(key).send()).unwrap();
    }

    /// Deletes all versions of an object; returns whether the service permitted it.
    pub fn delete_every_version(&self, key: &str) -> bool {
        runtime().block_on(async {
            let listed =
                self.client.list_object_versions().bucket(&self.name).prefix(key).send().await.unwrap();
            assert!(!listed.versions().is_empty(), "there is no version of {key}");
            for version in listed.versions() {
                let delete = self.client.delete_object().bucket(&self.name).key(key);
                if delete.set_version_id(version.version_id().map(str::to_owned)).send().await.is_err() {
                    return false;
                }
            }
            true
        })
    }

    /// Stores small objects in parallel.
    pub fn put_many(&self, keys: &[String]) {
        runtime().block_on(async {
            for some in keys.chunks(16) {
                let puts = some.iter().map(|key| {
                    self.client
                        .put_object()
                        .bucket(&self.name)
                        .key(key)
                        .body(ByteStream::from_static(b"x"))
                        .send()
                });
                for put in futures_util::future::join_all(puts).await {
                    put.unwrap();
                }
            }
        });
    }
}

fn credentials_file(cluster: &Cluster) -> std::path::PathBuf {
    cluster.data().parent().unwrap().join("credentials")
}

fn write_credentials(cluster: &Cluster, access: &str, secret: &str) {
    let text = format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n");
    super::account::write_file(&credentials_file(cluster), text);
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}
