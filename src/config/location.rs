//! The location of the configuration file.

use super::Config;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// The environment variable that names the configuration file.
pub const ENVIRONMENT_VARIABLE: &str = "PGARK_CONFIG";

/// The configuration file if no other is given.
pub const DEFAULT_PATH: &str = "/etc/pgark/pgark.toml";

/// A configuration file and the source of its path; `Display` shows both: `"/etc/pgark/pgark.toml" (the default)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigLocation {
    /// The path as given: it may be relative, and the file may not exist.
    pub path: PathBuf,
    /// The source of the path.
    pub origin: ConfigOrigin,
}

/// The source of the path of the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigOrigin {
    /// The argument `--config`.
    Argument,
    /// The environment variable `PGARK_CONFIG`.
    Environment,
    /// The default, [`DEFAULT_PATH`].
    Default,
}

impl Config {
    /// The file to read: that of `--config`, else that of `PGARK_CONFIG` (unless it is empty), else [`DEFAULT_PATH`].
    /// Both are arguments, because only the programs read their environment.
    pub fn locate(argument: Option<PathBuf>, environment: Option<OsString>) -> ConfigLocation {
        let environment = environment.filter(|value| !value.is_empty()).map(PathBuf::from);
        match (argument, environment) {
            (Some(path), _) => ConfigLocation { path, origin: ConfigOrigin::Argument },
            (None, Some(path)) => ConfigLocation { path, origin: ConfigOrigin::Environment },
            (None, None) => {
                ConfigLocation { path: PathBuf::from(DEFAULT_PATH), origin: ConfigOrigin::Default }
            }
        }
    }
}

impl fmt::Display for ConfigLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" ({})", self.path.display(), self.origin)
    }
}

impl fmt::Display for ConfigOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConfigOrigin::Argument => "from --config",
            ConfigOrigin::Environment => "from PGARK_CONFIG",
            ConfigOrigin::Default => "the default",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn the_argument_wins_over_the_environment_and_that_over_the_default() {
        let located = |argument: Option<&str>, environment: Option<&str>| {
            Config::locate(argument.map(PathBuf::from), environment.map(OsString::from)).to_string()
        };
        assert_eq!(located(Some("a.toml"), Some("/b.toml")), "\"a.toml\" (from --config)");
        assert_eq!(located(None, Some("/b.toml")), "\"/b.toml\" (from PGARK_CONFIG)");
        assert_eq!(located(None, Some("")), "\"/etc/pgark/pgark.toml\" (the default)");
        assert_eq!(located(None, None), "\"/etc/pgark/pgark.toml\" (the default)");
    }

    #[test]
    fn takes_a_path_that_is_not_utf_8() {
        let name = OsString::from_vec(b"/etc/\xFF.toml".to_vec());
        assert_eq!(Config::locate(None, Some(name.clone())).path, PathBuf::from(name));
    }
}
