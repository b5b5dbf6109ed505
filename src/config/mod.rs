//! The configuration: files, variables and arguments as validated settings.
//!
//! A strict file describes one cluster and one repository. Owns: the keys, their defaults and limits, the sources of
//! settings and their precedence, and the errors for invalid ones. Does not own: the effect of the settings, and the
//! environment (an argument).
//!
//! Order of steps: `request` (what a call says) → `location` (which file) → `read` (TOML → values with lines),
//! `variables` → `settings` (precedence, defaults, missing keys) → `sections` (typed fields). Only [`keys`] describes
//! the keys.

mod cluster_name;
mod compression;
mod conninfo;
mod effective;
mod fingerprint;
pub mod keys;
mod location;
mod log;
mod pace;
mod quantity;
mod read;
mod request;
mod s3;
mod sections;
mod settings;
#[cfg(test)]
mod tests;
mod unknown;
mod url;
mod value;
mod variables;

pub use cluster_name::ClusterName;
pub use compression::Compression;
pub use conninfo::Conninfo;
pub use effective::{EffectiveSetting, SettingValue};
pub use fingerprint::Fingerprint;
pub use location::{DIRECTORY, DIRECTORY_VARIABLE, ENVIRONMENT_VARIABLE};
pub use log::{LOG_FILE_NAME, LogDestination, LogFormat, LogLevel, LogSettings};
pub use pace::{IoPriority, Niceness, PaceSettings, Rate};
pub use quantity::time_text;
pub use request::ConfigRequest;
pub use s3::{LockMode, ObjectLock, S3Settings, ServerEncryption};
pub use sections::{
    AgentSettings, AgentStart, BackupSettings, Checkpoint, ConnectionSettings, GetSettings, PushSettings,
    RecoverSettings, RepositorySettings, SpoolSettings,
};
pub use settings::SettingOrigin;
pub use url::{RepositoryUrl, without_user_information};
pub use variables::Environment;

use crate::error::{Error, Result};
use crate::postgres::{MajorVersion, SystemIdentifier};
use keys::KEYS;
use settings::{Files, Setting, Settings};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use value::Value;

/// Larger than any configuration, smaller than a WAL segment given by mistake.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// The validated configuration. `Debug` shows no secrets.
#[derive(Clone, Debug)]
pub struct Config {
    /// Absolute path of its file; `None` if there is none.
    pub path: Option<PathBuf>,
    /// The name of the cluster.
    pub cluster: ClusterName,
    /// The cluster's data directory, an absolute path.
    pub data_directory: PathBuf,
    /// The only system identifier to serve; `None` serves that of the data directory.
    pub system_identifier: Option<SystemIdentifier>,
    /// The version as which files of an unknown server version are read; `None` rejects them.
    pub assumed_version: Option<MajorVersion>,
    /// `[repository]`
    pub repository: RepositorySettings,
    /// `[connection]`
    pub connection: ConnectionSettings,
    /// `[spool]`
    pub spool: SpoolSettings,
    /// `[compression]`
    pub compression: Compression,
    /// `[push]`
    pub push: PushSettings,
    /// `[get]`
    pub get: GetSettings,
    /// `[agent]`
    pub agent: AgentSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[backup]`
    pub backup: BackupSettings,
    /// `[recover]`
    pub recover: RecoverSettings,
    /// `[s3]`
    pub s3: S3Settings,
    fingerprint: Fingerprint,
    settings: Settings,
}

impl Config {
    /// Parses `content` as that of the file at the absolute path `path`.
    ///
    /// # Errors
    /// Usage: the first error in the file.
    pub fn parse(path: &Path, content: &[u8]) -> Result<Config> {
        let files = Files { file: Some(path.to_owned()), defaults: None };
        let given = read::read(path, content, |line| SettingOrigin::File { line })?;
        Config::build(Settings::new(files, given)?)
    }

    /// The configuration of a copy of this cluster that was recovered into `data_directory`: with its own spool and
    /// log, and without the connection to the original server (which may contain a password). It has no file yet.
    ///
    /// # Errors
    /// Usage: a path is not absolute, not UTF-8, or one holds the other or the repository.
    pub fn of_recovered(
        &self,
        data_directory: &Path,
        spool_directory: &Path,
        system: SystemIdentifier,
    ) -> Result<Config> {
        let mut given = vec![
            give("data_directory", utf8(data_directory)?)?,
            give("spool.directory", utf8(spool_directory)?)?,
            give("system_identifier", &system.to_string())?,
        ];
        for setting in self.settings.all() {
            let replaced = given.iter().any(|given| given.key.name == setting.key.name);
            let of_the_original = setting.key.section() == "connection" || setting.key.name == "log.file";
            if setting.origin != SettingOrigin::Default && !replaced && !of_the_original {
                given.push(Setting { origin: SettingOrigin::Given, ..setting.clone() });
            }
        }
        Config::build(Settings::new(Files::default(), given)?)
    }

    /// The same configuration with another `assume_version`, for one call.
    #[must_use]
    pub fn assuming(mut self, version: MajorVersion) -> Config {
        self.settings.give("assume_version", Value::MajorVersion(version));
        self.assumed_version = Some(version);
        self
    }

    /// The fingerprint that identifies the agent of this configuration.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Whether the archive programs do the same with both: only settings of base backups and recovery differ.
    pub fn archives_like(&self, other: &Config) -> bool {
        let relevant = |config: &Config| {
            let mut settings = config.settings.all().to_vec();
            settings.retain(|s| !matches!(s.key.section(), "backup" | "recover" | "connection"));
            settings.into_iter().map(|setting| setting.value).collect::<Vec<_>>()
        };
        relevant(self) == relevant(other)
    }

    fn build(settings: Settings) -> Result<Config> {
        let config = Config {
            path: settings.files().file.clone(),
            cluster: settings.cluster_name("cluster"),
            data_directory: settings.path("data_directory"),
            system_identifier: settings.system_identifier("system_identifier"),
            assumed_version: settings.major_version("assume_version"),
            repository: RepositorySettings::read(&settings),
            connection: ConnectionSettings::read(&settings),
            spool: SpoolSettings::read(&settings),
            compression: Compression::read(&settings)?,
            push: PushSettings::read(&settings),
            get: GetSettings::read(&settings),
            agent: AgentSettings::read(&settings),
            log: LogSettings::read(&settings),
            backup: BackupSettings::read(&settings),
            recover: RecoverSettings::read(&settings),
            s3: S3Settings::read(&settings)?,
            fingerprint: Fingerprint::new(settings.effective_text().as_bytes()),
            settings,
        };
        config.check_places()?;
        Ok(config)
    }

    /// Rejects a repository, a spool or a log inside the data directory, which a backup would include.
    fn check_places(&self) -> Result<()> {
        let repository = match &self.repository.url {
            RepositoryUrl::Directory(repository) => Some(("repository.url", repository)),
            RepositoryUrl::S3 { .. } => None,
        };
        let others = [("spool.directory", &self.spool.directory), ("log.file", &self.log.file)];
        for (name, directory) in repository.into_iter().chain(others) {
            if directory.starts_with(&self.data_directory) {
                let error = Error::usage(format!(
                    "\"{name}\" lies inside the data directory \"{}\"",
                    self.data_directory.display()
                ))
                .hint("Choose a directory elsewhere. Otherwise a base backup would include it.");
                return Err(self.settings.blame(name, error));
            }
        }
        Ok(())
    }
}

/// A setting that an argument other than `--set` gives.
fn give(name: &str, text: &str) -> Result<Setting> {
    let key = KEYS.iter().find(|key| key.name == name).expect("only names of the table are given");
    Ok(Setting { key, value: Some(Value::parse(key, text)?), origin: SettingOrigin::Given })
}

/// The path as UTF-8, which a TOML file requires.
fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::usage(format!("the data directory \"{}\" is not UTF-8", path.display()))
            .hint("A configuration file can only contain UTF-8. Rename the directory.")
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let attempt = || format!("could not read \"{}\"", path.display());
    let mut content = Vec::new();
    let mut read = || -> io::Result<bool> {
        // The agent reads the same path again, and a pipe would then be empty.
        if !std::fs::metadata(path)?.is_file() {
            return Ok(false);
        }
        File::open(path)?.take(FILE_MAX_BYTES + 1).read_to_end(&mut content)?;
        Ok(true)
    };
    match read() {
        Ok(true) if content.len() as u64 > FILE_MAX_BYTES => {
            Err(Error::usage(format!("\"{}\" is larger than 1 MiB", path.display()))
                .hint("This is not a configuration file of pgark. Give the path of one."))
        }
        Ok(true) => Ok(content),
        Ok(false) => Err(Error::usage(format!("\"{}\" is not a file", path.display()))
            .hint("Give the path of the configuration file itself.")),
        Err(error) => Err(unreadable(error.kind(), Error::io(attempt(), error))),
    }
}

/// Classifies the failure to read the file: errors that the operator can correct are usage errors.
fn unreadable(cause: io::ErrorKind, error: Error) -> Error {
    use crate::error::ErrorKind::Usage;
    match cause {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => error.with_kind(Usage).hint(format!(
            "Create that file (three lines are enough), or choose another with --config, --cluster or \
             {ENVIRONMENT_VARIABLE}. The default is {DIRECTORY}/pgark.toml."
        )),
        io::ErrorKind::PermissionDenied => error.with_kind(Usage),
        _ => error,
    }
}
