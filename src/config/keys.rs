//! The table of all configuration keys, used by the parser, the error messages, `pgark config` and the documentation.
//!
//! A new key is a row here and a field in `sections.rs`.

use super::quantity::{SIZE_UNITS, TIME_UNITS, Units, size_text, time_text};
use crate::postgres::MajorVersion;
use std::fmt;
use std::time::Duration;

/// One key of the configuration file.
#[derive(Debug)]
pub struct Key {
    /// The full name with its section: `agent.workers`.
    pub name: &'static str,
    /// The valid values.
    pub kind: Kind,
    /// The value if the key is not set.
    pub default: DefaultValue,
    /// What it is for, in a sentence or two.
    pub description: &'static str,
}

/// The valid values of a key; `Display` completes the sentence "must be …".
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The name of a cluster.
    ClusterName,
    /// A path from the root.
    AbsolutePath,
    /// A system identifier, as a number or as a string.
    SystemIdentifier,
    /// A major version of PostgreSQL that pgark supports, as a number.
    MajorVersion,
    /// The place of a repository.
    RepositoryUrl,
    /// Connection parameters as libpq reads them; may hold a password, so it is always shown with secrets masked.
    Conninfo,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// True or false.
    Truth,
    /// A text of this form.
    Text {
        /// The form, for people.
        form: &'static str,
        /// Whether a text has it.
        fits: fn(&str) -> bool,
    },
    /// A whole number without a unit, both limits included.
    Number {
        /// The minimum.
        min: u64,
        /// The maximum.
        max: u64,
    },
    /// A time with a unit, both limits included.
    Time {
        /// The minimum.
        min: Duration,
        /// The maximum.
        max: Duration,
    },
    /// A size with a unit, in bytes, both limits included.
    Size {
        /// The minimum.
        min: u64,
        /// The maximum.
        max: u64,
    },
    /// A size per second with a unit, in bytes; 0 is unlimited.
    Rate,
}

/// The value of a key that is not in the file.
#[derive(Clone, Copy, Debug)]
pub enum DefaultValue {
    /// The key is required.
    Required,
    /// This text; `<cluster>` in it stands for the cluster's name.
    Text(&'static str),
    /// This number.
    Number(u64),
    /// This truth.
    Truth(bool),
    /// No value; the text describes the effect.
    Absent(&'static str),
}

use DefaultValue::{Absent, Number, Required, Text, Truth};

/// Minimum rate in bytes per second. Below it, a single read would delay a command longer than the detection of an
/// interruption.
pub(super) const RATE_MIN: u64 = 128 << 10;
/// Maximum rate in bytes per second, beyond any storage.
pub(super) const RATE_MAX: u64 = 1 << 40;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Time for which a program waits. A day is longer than any sensible wait.
const WAIT: Kind = Kind::Time { min: SECOND, max: DAY };
const WORKERS: Kind = Kind::Number { min: 1, max: 64 };
const NICE: Kind = Kind::Number { min: 0, max: 19 };
/// A name that is used unchanged in a header or an address.
const NAME: Kind = Kind::Text {
    form: "1 to 2048 printable characters without spaces",
    fits: |text| (1..=2048).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()),
};

/// `https://host`, without secrets or parts that have no meaning.
const ENDPOINT: Kind = Kind::Text {
    form: "an address such as https://s3.example.com",
    fits: |text| {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        host.is_some_and(|host| {
            let host = host.strip_suffix('/').unwrap_or(host);
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]/".contains(&byte);
            !host.is_empty() && host.bytes().all(plain)
        })
    },
};

/// Tags; S3 permits ten for each object.
const TAGS: Kind = Kind::Text {
    form: "up to 10 pairs such as \"project=database,stage=production\"",
    fits: |text| {
        let pairs: Vec<_> = text.split(',').map(|pair| pair.split_once('=')).collect();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/@+ ".contains(&byte);
        pairs.len() <= 10
            && pairs.iter().all(|pair| {
                pair.is_some_and(|(name, value)| {
                    (1..=128).contains(&name.len())
                        && value.len() <= 256
                        && (name.bytes().chain(value.bytes())).all(plain)
                })
            })
    },
};

const IO_PRIORITY: Kind = Kind::OneOf(&["normal", "low", "idle"]);

/// Every key, in the order in which they are shown.
pub static KEYS: &[Key] = &[
    Key {
        name: "cluster",
        kind: Kind::ClusterName,
        default: Required,
        description: "The name of the cluster, which also names its directory in the repository and in the spool.",
    },
    Key {
        name: "data_directory",
        kind: Kind::AbsolutePath,
        default: Required,
        description: "The data directory of the cluster, as SHOW data_directory prints it.",
    },
    Key {
        name: "system_identifier",
        kind: Kind::SystemIdentifier,
        default: Absent("any"),
        description: "The only system identifier that pgark accepts in the data directory.",
    },
    Key {
        name: "assume_version",
        kind: Kind::MajorVersion,
        default: Absent("unknown versions are refused"),
        description: "The major version to assume for a server whose version pgark does not know; a known version is never \
                      overridden.",
    },
    Key {
        name: "repository.url",
        kind: Kind::RepositoryUrl,
        default: Required,
        description: "The location of WAL and base backups.",
    },
    Key {
        name: "connection.conninfo",
        kind: Kind::Conninfo,
        default: Text(""),
        description: "How base-backup, check and recover --wait connect to the server. The defaults are \
                      host=/var/run/postgresql and dbname=postgres. sslmode and the related parameters configure \
                      TLS, as for psql.",
    },
    Key {
        name: "connection.standby",
        kind: Kind::Conninfo,
        default: Absent("the server of connection.conninfo"),
        description: "How base-backup connects to the standby that it backs up. Then data_directory belongs to the standby, \
                      and connection.conninfo to the primary.",
    },
    Key {
        name: "spool.directory",
        kind: Kind::AbsolutePath,
        default: Text("/var/spool/pgark/<cluster>"),
        description: "The directory of the agent's socket, lock and log, and of WAL that was fetched ahead.",
    },
    Key {
        name: "compression.method",
        kind: Kind::OneOf(&["lz4", "zstd", "none"]),
        default: Text("lz4"),
        description: "The compression method of new WAL files and backups.",
    },
    Key {
        name: "compression.level",
        kind: Kind::Number { min: 1, max: 19 },
        default: Number(1),
        description: "The compression level of zstd; only with compression.method = \"zstd\".",
    },
    Key {
        name: "push.deadline",
        kind: WAIT,
        default: Text("60s"),
        description: "How long archive-push waits for a WAL file to be stored, before it fails and PostgreSQL retries.",
    },
    Key {
        name: "get.deadline",
        kind: WAIT,
        default: Text("300s"),
        description: "How long archive-get retries while the repository is unavailable, before it stops recovery.",
    },
    Key {
        name: "get.standby_segment_deadline",
        kind: WAIT,
        default: Text("5s"),
        description: "The same for a WAL segment on a standby, which can stream once archive-get gives up.",
    },
    Key {
        name: "get.standby_history_deadline",
        kind: WAIT,
        default: Text("30s"),
        description: "The same for a timeline history file on a standby.",
    },
    Key {
        name: "get.prefetch_max",
        kind: Kind::Size { min: 0, max: 64 << 30 },
        default: Text("256MB"),
        description: "The maximum amount of WAL that is fetched ahead into the spool; 0 disables fetching ahead.",
    },
    Key {
        name: "agent.program",
        kind: Kind::AbsolutePath,
        default: Absent("the pgark beside the running program"),
        description: "The pgark that archive-push and archive-get start as their agent.",
    },
    Key {
        name: "agent.start",
        kind: Kind::OneOf(&["needed", "never"]),
        default: Text("needed"),
        description: "Whether archive-push and archive-get start the agent on demand, or wait for an agent that is started \
                      by other means.",
    },
    Key {
        name: "agent.resident",
        kind: Kind::Truth,
        default: Truth(true),
        description: "Whether an agent started on demand stays resident. If false, it ends with the call, and nothing is \
                      stored or fetched ahead.",
    },
    Key {
        name: "agent.idle",
        kind: WAIT,
        default: Text("300s"),
        description: "How long an agent runs without a request before it ends; unlimited if agent.start is \"never\".",
    },
    Key {
        name: "agent.retry_max",
        kind: WAIT,
        default: Text("30s"),
        description: "The maximum pause between attempts of the agent to reach an unavailable repository.",
    },
    Key {
        name: "agent.workers",
        kind: WORKERS,
        default: Number(2),
        description: "The number of WAL files to store or fetch in parallel.",
    },
    Key {
        name: "agent.log_max",
        kind: Kind::Size { min: 1 << 20, max: 1 << 30 },
        default: Text("10MB"),
        description: "The maximum size of the agent's log before it is rotated.",
    },
    Key {
        name: "agent.nice",
        kind: NICE,
        default: Number(0),
        description: "The CPU niceness of the agent, from 0 (normal priority) to 19 (lowest).",
    },
    Key {
        name: "agent.io_priority",
        kind: IO_PRIORITY,
        default: Text("normal"),
        description: "The I/O priority of the agent.",
    },
    Key {
        name: "log.destination",
        kind: Kind::OneOf(&["file", "stderr", "syslog"]),
        default: Absent("stderr if that is the systemd journal, else file"),
        description: "Where the agent logs. A detached agent has no standard error: with stderr, it logs to log.file. With \
                      syslog, it does so while /dev/log is unavailable.",
    },
    Key {
        name: "log.file",
        kind: Kind::AbsolutePath,
        default: Absent("agent.log in spool.directory"),
        description: "The file for the agent's log, one for each cluster. Its directory must exist. agent.log_max limits its \
                      size.",
    },
    Key {
        name: "log.format",
        kind: Kind::OneOf(&["text", "json"]),
        default: Text("text"),
        description: "The format of the agent's log: text, or one JSON object in each line.",
    },
    Key {
        name: "log.level",
        kind: Kind::OneOf(&["error", "warn", "info", "debug", "trace"]),
        default: Text("info"),
        description: "The least severe messages in the agent's log.",
    },
    Key {
        name: "backup.workers",
        kind: WORKERS,
        default: Number(2),
        description: "The number of packs of a base backup to write in parallel.",
    },
    Key {
        name: "backup.wal_deadline",
        kind: WAIT,
        default: Text("300s"),
        description: "How long a base backup waits for its WAL to reach the repository.",
    },
    Key {
        name: "backup.checkpoint",
        kind: Kind::OneOf(&["spread", "fast"]),
        default: Text("spread"),
        description: "Whether the checkpoint at the start of a base backup is spread over time or completes as fast as possible.",
    },
    Key {
        name: "backup.max_rate",
        kind: Kind::Rate,
        default: Text("0"),
        description: "The maximum rate per second at which a base backup reads the cluster; 0 means unlimited.",
    },
    Key {
        name: "backup.nice",
        kind: NICE,
        default: Number(10),
        description: "The CPU niceness of a base backup, from 0 (normal priority) to 19 (lowest).",
    },
    Key {
        name: "backup.io_priority",
        kind: IO_PRIORITY,
        default: Text("low"),
        description: "The I/O priority of a base backup.",
    },
    Key {
        name: "backup.chain_max",
        kind: Kind::Number { min: 1, max: 100 },
        default: Number(30),
        description: "The maximum number of incremental backups in a chain after its full backup; the next backup is then a \
                      full one.",
    },
    Key {
        name: "recover.workers",
        kind: WORKERS,
        default: Number(2),
        description: "The number of packs to restore in parallel.",
    },
    Key {
        name: "recover.prove_wal",
        kind: Kind::Size { min: 0, max: 1 << 50 },
        default: Text("16GB"),
        description: "The maximum amount of stored WAL that is read to prove where recovery ends and that nothing stops it \
                      earlier. Beyond it, a time counts as proven unless the clock was set back.",
    },
    Key {
        name: "recover.fork_window",
        kind: Kind::Time { min: Duration::ZERO, max: DAY },
        default: Text("60s"),
        description: "How long an abandoned timeline may continue after the other one has begun, for the fork to count as a \
                      failover. Beyond that, recovery requires --target-timeline.",
    },
    Key {
        name: "recover.max_rate",
        kind: Kind::Rate,
        default: Text("0"),
        description: "The maximum rate per second at which the cluster is restored; 0 means unlimited.",
    },
    Key {
        name: "recover.nice",
        kind: NICE,
        default: Number(0),
        description: "The CPU niceness of a restore, from 0 (normal priority) to 19 (lowest).",
    },
    Key {
        name: "recover.io_priority",
        kind: IO_PRIORITY,
        default: Text("normal"),
        description: "The I/O priority of a restore.",
    },
    Key {
        name: "s3.region",
        kind: NAME,
        default: Absent("from the environment or the profile, else us-east-1"),
        description: "The region of the bucket.",
    },
    Key {
        name: "s3.endpoint",
        kind: ENDPOINT,
        default: Absent("from the environment or the profile, else AWS"),
        description: "The endpoint URL of an S3-compatible service.",
    },
    Key {
        name: "s3.path_style",
        kind: Kind::Truth,
        default: Absent("true with an endpoint, else false"),
        description: "Whether URLs have the bucket in the path instead of in the host name.",
    },
    Key {
        name: "s3.allow_http",
        kind: Kind::Truth,
        default: Truth(false),
        description: "Whether the endpoint may use plain http://, which is not encrypted.",
    },
    Key {
        name: "s3.ca_file",
        kind: Kind::AbsolutePath,
        default: Absent("only the system's certificates"),
        description: "A PEM file of CA certificates to trust in addition to the system's.",
    },
    Key {
        name: "s3.profile",
        kind: NAME,
        default: Absent("AWS_PROFILE, else \"default\""),
        description: "The profile that provides the access keys and the role.",
    },
    Key {
        name: "s3.credentials_file",
        kind: Kind::AbsolutePath,
        default: Absent("~/.aws/credentials and ~/.aws/config"),
        description: "The file with the access keys, in the format of ~/.aws/credentials.",
    },
    Key {
        name: "s3.storage_class_wal",
        kind: NAME,
        default: Absent("the bucket's"),
        description: "The storage class of WAL segments.",
    },
    Key {
        name: "s3.storage_class_backup",
        kind: NAME,
        default: Absent("the bucket's"),
        description: "The storage class of the packs of base backups.",
    },
    Key {
        name: "s3.sse",
        kind: Kind::OneOf(&["AES256", "aws:kms"]),
        default: Absent("as the bucket is configured"),
        description: "The server-side encryption of stored objects.",
    },
    Key {
        name: "s3.kms_key_id",
        kind: NAME,
        default: Absent("the account's own key"),
        description: "The KMS key for server-side encryption; only with s3.sse = \"aws:kms\".",
    },
    Key { name: "s3.tags", kind: TAGS, default: Absent("none"), description: "The tags of new objects." },
    Key {
        name: "s3.requester_pays",
        kind: Kind::Truth,
        default: Truth(false),
        description: "Whether the requester pays for requests to another account's bucket.",
    },
    Key {
        name: "s3.object_lock_mode",
        kind: Kind::OneOf(&["GOVERNANCE", "COMPLIANCE"]),
        default: Absent("no lock"),
        description: "The object lock mode, which protects new WAL and backups from deletion.",
    },
    Key {
        name: "s3.object_lock_retention",
        kind: Kind::Time { min: DAY, max: Duration::from_secs(36_500 * 86_400) },
        default: Absent("no lock"),
        description: "How long new objects are locked; only with s3.object_lock_mode.",
    },
    Key {
        name: "s3.connect_timeout",
        kind: WAIT,
        default: Text("5s"),
        description: "The time limit for connecting to the service.",
    },
    Key {
        name: "s3.stall_timeout",
        kind: WAIT,
        default: Text("20s"),
        description: "How long a request may stall without transferring a byte.",
    },
    Key {
        name: "s3.retry_deadline",
        kind: WAIT,
        default: Text("30s"),
        description: "How long one request is retried while the service fails.",
    },
    Key {
        name: "s3.part_size",
        kind: Kind::Size { min: 5 << 20, max: 512 << 20 },
        default: Text("8MB"),
        description: "The part size of multipart uploads; later parts of very large objects are larger.",
    },
];

impl Key {
    /// The key of this full name.
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The section of the key; empty for keys above the first section.
    pub fn section(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(section, _)| section)
    }

    /// The name within its section.
    pub fn leaf(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, leaf)| leaf)
    }

    /// The name of the environment variable that sets the key: `PGARK_PUSH_DEADLINE` for `push.deadline`.
    pub fn variable(&self) -> String {
        format!("PGARK_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// A value for a key that has units: the default, if it has one.
    pub(super) fn example(&self) -> &'static str {
        match (self.default, self.kind) {
            (Text(default), _) if default != "0" => default,
            (_, Kind::Time { .. }) => "30d",
            _ => "50MB",
        }
    }

    /// The unit in which a value is usually given.
    pub(super) fn usual_unit(&self) -> &'static str {
        self.example().trim_start_matches(|letter: char| letter.is_ascii_digit())
    }

    /// The names of all sections, in the order of the table.
    pub fn sections() -> Vec<&'static str> {
        let mut sections: Vec<_> = KEYS.iter().map(Key::section).filter(|name| !name.is_empty()).collect();
        sections.dedup();
        sections
    }
}

impl Kind {
    /// The units of a value, largest first; empty if it has none.
    pub(super) fn units(self) -> &'static Units {
        match self {
            Kind::Time { .. } => TIME_UNITS,
            Kind::Size { .. } | Kind::Rate => SIZE_UNITS,
            _ => &[],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::ClusterName => f.write_str(
                "1 to 63 letters, digits or characters of \"_.-\" that begin with neither \".\" nor \"-\"; not \"defaults\"",
            ),
            Kind::AbsolutePath => f.write_str("an absolute path"),
            Kind::SystemIdentifier => f.write_str("a positive decimal number of 64 bits"),
            Kind::MajorVersion => {
                let numbers: Vec<_> = MajorVersion::ALL.iter().map(ToString::to_string).collect();
                f.write_str(&list(&numbers, "or"))
            }
            Kind::RepositoryUrl => f.write_str("an absolute directory, file:///… or s3://bucket/prefix"),
            Kind::Conninfo => f.write_str("a string of key=value pairs"),
            Kind::OneOf(words) => {
                let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                f.write_str(&list(&quoted, "or"))
            }
            Kind::Truth => f.write_str("true or false"),
            Kind::Text { form, .. } => f.write_str(form),
            Kind::Number { min, max } => write!(f, "a whole number from {min} to {max}"),
            Kind::Time { min, max } => write!(f, "a time from {} to {}", time_text(*min), time_text(*max)),
            Kind::Size { min, max } => write!(f, "a size from {} to {}", size_text(*min), size_text(*max)),
            Kind::Rate => write!(
                f,
                "a size per second from {} to {}, or 0 (unlimited)",
                size_text(RATE_MIN),
                size_text(RATE_MAX)
            ),
        }
    }
}

impl fmt::Display for DefaultValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Required => f.write_str("required"),
            Text(text) => write!(f, "\"{text}\""),
            Number(number) => write!(f, "{number}"),
            Truth(truth) => write!(f, "{truth}"),
            Absent(meaning) => f.write_str(meaning),
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list<T: AsRef<str>>(words: &[T], conjunction: &str) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} {conjunction} {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_well_formed() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..index].iter().all(|earlier| earlier.name != key.name), "{} twice", key.name);
            assert!(key.name.matches('.').count() <= 1, "{}: one level of sections", key.name);
            assert!(key.description.ends_with('.'), "{}: whole sentences", key.name);
            if let Kind::Number { min, max } = key.kind {
                let Number(default) = key.default else { panic!("{} has no number as default", key.name) };
                assert!((min..=max).contains(&default), "{}", key.name);
            }
        }
        let mut sections = Key::sections();
        sections.sort_unstable();
        sections.dedup();
        assert_eq!(sections.len(), Key::sections().len(), "the keys of a section stand together");
    }

    #[test]
    fn says_what_a_value_must_be() {
        let expected = |name| Key::find(name).unwrap().kind.to_string();
        assert_eq!(expected("agent.workers"), "a whole number from 1 to 64");
        assert_eq!(expected("push.deadline"), "a time from 1s to 1d");
        assert_eq!(expected("get.prefetch_max"), "a size from 0 to 64GB");
        assert_eq!(expected("backup.max_rate"), "a size per second from 128kB to 1TB, or 0 (unlimited)");
        assert_eq!(expected("assume_version"), "13, 14, 15, 16, 17, 18 or 19");
        assert_eq!(expected("compression.method"), "\"lz4\", \"zstd\" or \"none\"");
    }
}
