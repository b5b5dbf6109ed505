//! The configuration of a call: its arguments, its environment and the files that they name, in layers.
//!
//! From top to bottom: `--set`, the other arguments, variables, the configuration file, `defaults.toml`, the built-in
//! defaults.

use super::location::{
    ConfigLocation, ConfigOrigin, DIRECTORY, DIRECTORY_VARIABLE, ENVIRONMENT_VARIABLE, defaults_file,
};
use super::settings::{Files, Setting, SettingOrigin, Settings};
use super::value::Value;
use super::variables::{Environment, set_by_arguments};
use super::{Config, give, read, read_file, utf8};
use crate::error::{Context, Error, Result};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The data directory of a call that names only a repository: that of the cluster is on another host, or no longer
/// exists.
const NO_DATA_DIRECTORY: &str = "/nonexistent";

/// What a program's arguments and environment say about its configuration. `Debug` shows no values of settings.
#[derive(Clone, Default)]
pub struct ConfigRequest {
    /// `--config`: the configuration file.
    pub file: Option<PathBuf>,
    /// `--cluster`: the name of the configuration file without its suffix; with `repository`, the name of the cluster.
    pub cluster: Option<String>,
    /// `--repository`: the repository. With `cluster` and without `file`, there is no configuration file.
    pub repository: Option<String>,
    /// The data directory of a cluster without a configuration file; `None` if there is none.
    pub data_directory: Option<PathBuf>,
    /// `--set`, in the order of the command line.
    pub set: Vec<OsString>,
    /// The variables.
    pub environment: Environment,
}

impl fmt::Debug for ConfigRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigRequest")
            .field("file", &self.file)
            .field("cluster", &self.cluster)
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

impl ConfigRequest {
    /// Whether it names a cluster without a configuration file.
    pub fn is_without_file(&self) -> bool {
        self.repository.is_some() && self.cluster.is_some() && self.file.is_none()
    }
}

impl Config {
    /// The effective configuration of a call.
    ///
    /// Without `--config`, `--cluster` and `PGARK_CONFIG`, the default file may be missing if the arguments, the
    /// variables and `defaults.toml` provide all required settings.
    ///
    /// # Errors
    /// Usage: a file is absent, unreadable, larger than 1 MiB or wrong, and the message names the line; or a variable or
    /// an argument is wrong, and the message names it. Unavailable: the file system failed.
    pub fn resolve(request: &ConfigRequest) -> Result<Config> {
        let mut above = set_by_arguments(&request.set)?;
        above.extend(named_by_arguments(request)?);
        above.extend(request.environment.settings()?);
        let directory = request.environment.get(DIRECTORY_VARIABLE).unwrap_or_else(|| DIRECTORY.into());
        let directory = Path::new(&directory);
        let defaults = Layer::of_defaults(&defaults_file(directory))?;
        if request.is_without_file() {
            return Config::build(stack(above, Layer::without_data_directory()?, defaults)?);
        }
        let environment = request.environment.get(ENVIRONMENT_VARIABLE);
        // With a repository, it is not the name of a file.
        let cluster = request.cluster.as_deref().filter(|_| request.repository.is_none());
        let location = ConfigLocation::find(request.file.as_deref(), cluster, environment, directory)?;
        let settings = match Layer::of_file(&location.path) {
            Err(error) if location.origin == ConfigOrigin::Default && is_absence(&error) => {
                stack(above, Layer::default(), defaults).map_err(|_| error)
            }
            file => stack(above, file?, defaults),
        };
        Config::build(settings?)
    }

    /// The configuration of the same files without the variables and arguments of this call; `None` without a file.
    ///
    /// # Errors
    /// As [`Config::resolve`].
    pub fn of_files_alone(&self) -> Result<Option<Config>> {
        let files = self.settings.files();
        let Some(file) = &files.file else { return Ok(None) };
        let defaults = match &files.defaults {
            Some(defaults) => Layer::of_defaults(defaults)?,
            None => Layer::default(),
        };
        Config::build(stack(Vec::new(), Layer::of_file(file)?, defaults)?).map(Some)
    }
}

/// How a program that is started gets the same effective settings.
#[derive(Clone, Default)]
pub struct Handover {
    /// Arguments, without secrets: all users of the host can see them.
    pub arguments: Vec<OsString>,
    /// Variables in addition to those of the environment.
    pub variables: Vec<(String, String)>,
}

impl Config {
    /// How a program that this one starts, with its environment, gets the same effective settings.
    ///
    /// # Errors
    /// Usage: the arguments name a cluster without a configuration file.
    pub fn handover(&self) -> Result<Handover> {
        let all = self.settings.all();
        // An assumed version applies to a single call.
        let is_named = |setting: &Setting| {
            setting.origin == SettingOrigin::Given && setting.key.name != "assume_version"
        };
        if self.path.is_none() && all.iter().any(is_named) {
            return Err(Error::usage("an agent needs a configuration file")
                .hint("Write the settings to a file, and name it with --config."));
        }
        let mut handover = Handover::default();
        if let Some(path) = &self.path {
            handover.arguments.extend(["--config".into(), path.clone().into_os_string()]);
        }
        for setting in all.iter().filter(|setting| setting.origin == SettingOrigin::Set || is_named(setting))
        {
            let text = setting.value.as_ref().map(Value::to_bare).unwrap_or_default();
            if text.is_empty() {
                // An empty variable would count as not set.
                handover.arguments.extend(["--set".into(), format!("{}=", setting.key.name).into()]);
            } else {
                handover.variables.push((setting.key.variable(), text));
            }
        }
        Ok(handover)
    }
}

/// The settings of a file; none without one.
#[derive(Default)]
struct Layer {
    path: Option<PathBuf>,
    settings: Vec<Setting>,
}

impl Layer {
    /// The configuration file at `path`, which may be relative to the working directory.
    fn of_file(path: &Path) -> Result<Layer> {
        Layer::read(path, |line| SettingOrigin::File { line })
    }

    /// The defaults at `path`, which may be missing.
    fn of_defaults(path: &Path) -> Result<Layer> {
        match Layer::read(path, |line| SettingOrigin::Defaults { line }) {
            Err(error) if is_absence(&error) => Ok(Layer::default()),
            layer => layer,
        }
    }

    fn without_data_directory() -> Result<Layer> {
        Ok(Layer { path: None, settings: vec![give("data_directory", NO_DATA_DIRECTORY)?] })
    }

    fn read(path: &Path, origin: impl Fn(usize) -> SettingOrigin) -> Result<Layer> {
        let path = std::path::absolute(path)
            .context(|| format!("could not make \"{}\" an absolute path", path.display()))?;
        let settings = read::read(&path, &read_file(&path)?, origin)?;
        Ok(Layer { path: Some(path), settings })
    }
}

fn is_absence(error: &Error) -> bool {
    matches!(error.io_kind(), Some(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
}

fn stack(above: Vec<Setting>, file: Layer, defaults: Layer) -> Result<Settings> {
    let files = Files { file: file.path, defaults: defaults.path };
    Settings::new(files, [above, file.settings, defaults.settings].concat())
}

/// The settings of the arguments other than `--set`.
fn named_by_arguments(request: &ConfigRequest) -> Result<Vec<Setting>> {
    let Some(repository) = &request.repository else { return Ok(Vec::new()) };
    let mut settings = vec![give("repository.url", repository)?];
    if let Some(cluster) = &request.cluster {
        settings.push(give("cluster", cluster)?);
    }
    if let Some(data_directory) = request.data_directory.as_ref().filter(|_| request.is_without_file()) {
        settings.push(give("data_directory", utf8(data_directory)?)?);
    }
    Ok(settings)
}
