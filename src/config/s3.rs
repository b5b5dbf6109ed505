//! `[s3]`: access to a bucket and the properties of its objects. The defaults are in `keys.rs`.
//!
//! Access keys are never in this file: they come from the environment, from a profile, or from the machine's role.

use super::settings::Settings;
use crate::error::{Error, Result};
use std::path::PathBuf;
use std::time::Duration;

/// `[s3]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// The region; `None`: the environment's or the profile's.
    pub region: Option<String>,
    /// The address of the service; `None`: the environment's, the profile's, or that of AWS.
    pub endpoint: Option<String>,
    /// Whether URLs have the bucket in the path; `None`: if there is an endpoint.
    pub path_style: Option<bool>,
    /// Whether the endpoint may be a plain `http://` one.
    pub allow_http: bool,
    /// Certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The profile with the access keys.
    pub profile: Option<String>,
    /// The file with the profiles.
    pub credentials_file: Option<PathBuf>,
    /// The storage class of WAL segments; `None`: the bucket's.
    pub storage_class_wal: Option<String>,
    /// The storage class of packs; `None`: the bucket's.
    pub storage_class_backup: Option<String>,
    /// Server-side encryption; `None`: the bucket's default.
    pub encryption: Option<ServerEncryption>,
    /// Name and value of each tag that new objects get.
    pub tags: Vec<(String, String)>,
    /// Whether the requester pays for requests.
    pub requester_pays: bool,
    /// The protection of new objects from deletion.
    pub lock: Option<ObjectLock>,
    /// Time limit for establishing a connection.
    pub connect_timeout: Duration,
    /// Time limit for a request without progress.
    pub stall_timeout: Duration,
    /// Time limit for the retries of a request.
    pub retry_deadline: Duration,
    /// Size of the first parts of a large object, in bytes.
    pub part_bytes: u64,
}

/// Server-side encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEncryption {
    /// With keys that the service keeps (SSE-S3).
    Service,
    /// With a key in the key management service (SSE-KMS).
    Kms {
        /// The key; `None`: the account's own.
        key_id: Option<String>,
    },
}

/// Protection of an object from deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLock {
    /// Who may lift it.
    pub mode: LockMode,
    /// How long it holds, from the object's creation.
    pub retention: Duration,
}

/// Who may lift an object lock before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// A user with the permission to bypass it.
    Governance,
    /// No user.
    Compliance,
}

impl S3Settings {
    /// Reads `[s3]`.
    ///
    /// # Errors
    /// Usage: a setting that requires another one was given alone.
    pub(super) fn read(settings: &Settings) -> Result<S3Settings> {
        let sse = settings.optional_text("s3.sse");
        let key_id = settings.optional_text("s3.kms_key_id");
        if key_id.is_some() && sse.as_deref() != Some("aws:kms") {
            let error = Error::usage("\"s3.kms_key_id\" has no meaning without s3.sse = \"aws:kms\"")
                .hint("Set s3.sse = \"aws:kms\", or remove s3.kms_key_id.");
            return Err(settings.blame("s3.kms_key_id", error));
        }
        Ok(S3Settings {
            region: settings.optional_text("s3.region"),
            endpoint: settings.optional_text("s3.endpoint"),
            path_style: settings.optional_truth("s3.path_style"),
            allow_http: settings.truth("s3.allow_http"),
            ca_file: settings.optional_path("s3.ca_file"),
            profile: settings.optional_text("s3.profile"),
            credentials_file: settings.optional_path("s3.credentials_file"),
            storage_class_wal: settings.optional_text("s3.storage_class_wal"),
            storage_class_backup: settings.optional_text("s3.storage_class_backup"),
            encryption: match sse.as_deref() {
                Some("aws:kms") => Some(ServerEncryption::Kms { key_id }),
                Some(_) => Some(ServerEncryption::Service),
                None => None,
            },
            tags: tags(settings.optional_text("s3.tags").as_deref()),
            requester_pays: settings.truth("s3.requester_pays"),
            lock: lock(settings)?,
            connect_timeout: settings.time("s3.connect_timeout"),
            stall_timeout: settings.time("s3.stall_timeout"),
            retry_deadline: settings.time("s3.retry_deadline"),
            part_bytes: settings.bytes("s3.part_size"),
        })
    }
}

fn tags(text: Option<&str>) -> Vec<(String, String)> {
    let pairs = text.into_iter().flat_map(|text| text.split(',')).filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn lock(settings: &Settings) -> Result<Option<ObjectLock>> {
    let mode = settings.optional_text("s3.object_lock_mode").map(|mode| match mode.as_str() {
        "COMPLIANCE" => LockMode::Compliance,
        _ => LockMode::Governance,
    });
    match (mode, settings.optional_time("s3.object_lock_retention")) {
        (Some(mode), Some(retention)) => Ok(Some(ObjectLock { mode, retention })),
        (None, None) => Ok(None),
        (Some(_), None) => {
            let error = Error::usage("\"s3.object_lock_mode\" needs \"s3.object_lock_retention\"").hint(
                "Set it, for example to \"30d\". In mode COMPLIANCE it cannot be shortened afterwards.",
            );
            Err(settings.blame("s3.object_lock_mode", error))
        }
        (None, Some(_)) => {
            let error = Error::usage(
                "\"s3.object_lock_retention\" has no meaning without \"s3.object_lock_mode\"",
            )
            .hint(
                "Set s3.object_lock_mode to \"GOVERNANCE\" or \"COMPLIANCE\", or remove s3.object_lock_retention.",
            );
            Err(settings.blame("s3.object_lock_retention", error))
        }
    }
}
