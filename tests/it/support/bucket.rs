//! A bucket on a real S3 server, seen with the SDK alone.

use super::archive::CLUSTER_NAME;
use super::cluster::Cluster;
use super::wal::timeline_and_log_of;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::primitives::ByteStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::runtime::Runtime;

/// The server that the tests were given, and the right to use it.
#[derive(Debug)]
pub struct S3Server {
    pub endpoint: String,
    pub tls_endpoint: Option<String>,
    pub tls_directory: Option<String>,
    pub access_key: String,
    pub secret_key: String,
}

/// The server; `None`, with a word about it, where there is none. `scripts/test` starts one.
pub fn s3_server() -> Option<&'static S3Server> {
    static SERVER: OnceLock<Option<S3Server>> = OnceLock::new();
    let variable = |name: &str| std::env::var(format!("PGARK_TEST_S3_{name}")).ok();
    let server = SERVER.get_or_init(|| {
        Some(S3Server {
            endpoint: variable("ENDPOINT")?,
            tls_endpoint: variable("TLS_ENDPOINT"),
            tls_directory: variable("TLS_DIRECTORY"),
            access_key: variable("ACCESS_KEY")?,
            secret_key: variable("SECRET_KEY")?,
        })
    });
    if server.is_none() {
        eprintln!("skipped: no S3 server; start one: eval \"$(scripts/s3-server start DIRECTORY)\"");
    }
    server.as_ref()
}

/// A prefix of its own in the bucket of this test run.
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
        MADE.get_or_init(|| {
            runtime().block_on(bucket.client.create_bucket().bucket(&bucket.name).send()).unwrap();
        });
        bucket
    }

    /// A bucket of its own, with object lock.
    pub fn locked(server: &'static S3Server) -> Bucket {
        let bucket = Bucket::named(server, format!("pgark-test-{}-locked", std::process::id()));
        let made = bucket.client.create_bucket().bucket(&bucket.name).object_lock_enabled_for_bucket(true);
        runtime().block_on(made.send()).unwrap();
        bucket
    }

    fn named(server: &'static S3Server, name: String) -> Bucket {
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

    /// Makes this the repository of a cluster, reached at `endpoint`.
    pub fn serve(&self, cluster: &mut Cluster, endpoint: &str) {
        let home = cluster.data().parent().unwrap().to_owned();
        let credentials = home.join("credentials");
        let (access, secret) = (&self.server.access_key, &self.server.secret_key);
        super::account::write_file(
            &credentials,
            format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"),
        );
        cluster.config.set("repository.url", format!("s3://{}/{}", self.name, self.prefix).as_str());
        cluster.config.set("s3.endpoint", endpoint);
        cluster.config.set("s3.credentials_file", credentials.as_path());
        cluster.config.set("s3.allow_http", true);
        cluster.config.set("s3.stall_timeout_s", 2);
        cluster.config.set("s3.retry_deadline_s", 8);
    }

    /// The full key of a WAL file.
    pub fn wal_key(&self, cluster: &Cluster, name: &str) -> String {
        let wal = format!("{}/{CLUSTER_NAME}/{}/wal", self.prefix, cluster.system_identifier());
        match timeline_and_log_of(name) {
            Some((timeline, log)) => format!("{wal}/{timeline}/{log}/{name}"),
            None => format!("{wal}/{name}"),
        }
    }

    /// The full keys below our prefix.
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

    /// The uploads below our prefix that nobody has ended.
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

    pub fn put(&self, key: &str, content: &[u8]) {
        let body = ByteStream::from(content.to_vec());
        runtime().block_on(self.client.put_object().bucket(&self.name).key(key).body(body).send()).unwrap();
    }

    pub fn delete(&self, key: &str) {
        runtime().block_on(self.client.delete_object().bucket(&self.name).key(key).send()).unwrap();
    }

    /// Deletes whatever versions there are of an object; whether the service did so.
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

    /// Stores small objects, several at a time.
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

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}
