//! The location of the configuration files.

use super::cluster_name::ClusterName;
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The environment variable that names the configuration file.
pub const ENVIRONMENT_VARIABLE: &str = "PGARK_CONFIG";

/// The environment variable that names another directory in place of [`DIRECTORY`].
pub const DIRECTORY_VARIABLE: &str = "PGARK_CONFIG_DIRECTORY";

/// The directory of the configuration files of all clusters, and of the defaults for them.
pub const DIRECTORY: &str = "/etc/pgark";

/// The configuration file in that directory if no other is given.
const DEFAULT_FILE: &str = "pgark.toml";

/// The file in that directory that lies below every configuration file. No cluster may have its name.
const DEFAULTS_FILE: &str = "defaults.toml";

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
    /// The argument `--cluster`.
    Cluster,
    /// The environment variable `PGARK_CONFIG`.
    Environment,
    /// The default, `pgark.toml` in the directory of the configuration files.
    Default,
}

impl ConfigLocation {
    /// The file to read: that of `--config`, else that of `--cluster` in `directory`, else that of `PGARK_CONFIG`, else
    /// the default in `directory`. All are arguments, because only the programs read their environment.
    ///
    /// # Errors
    /// Usage: both arguments, or a name that no cluster can have.
    pub(super) fn find(
        file: Option<&Path>,
        cluster: Option<&str>,
        environment: Option<OsString>,
        directory: &Path,
    ) -> Result<ConfigLocation> {
        let (path, origin) = match (file, cluster, environment) {
            (Some(_), Some(_), _) => {
                return Err(Error::usage("--config and --cluster exclude each other")
                    .hint("--cluster NAME is --config with the file NAME.toml in the directory of the configurations."));
            }
            (Some(path), None, _) => (path.to_owned(), ConfigOrigin::Argument),
            (None, Some(name), _) => {
                let name = ClusterName::new(name).ok_or_else(|| not_a_name(name))?;
                (directory.join(format!("{name}.toml")), ConfigOrigin::Cluster)
            }
            (None, None, Some(path)) => (PathBuf::from(path), ConfigOrigin::Environment),
            (None, None, None) => (directory.join(DEFAULT_FILE), ConfigOrigin::Default),
        };
        Ok(ConfigLocation { path, origin })
    }
}

/// The file in `directory` that lies below every configuration file.
pub(super) fn defaults_file(directory: &Path) -> PathBuf {
    directory.join(DEFAULTS_FILE)
}

fn not_a_name(name: &str) -> Error {
    Error::usage(format!("--cluster: {name:?} is not the name of a cluster"))
        .hint(format!("A name has {}.", super::keys::Kind::ClusterName))
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
            ConfigOrigin::Cluster => "from --cluster",
            ConfigOrigin::Environment => "from PGARK_CONFIG",
            ConfigOrigin::Default => "the default",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn find(file: Option<&str>, cluster: Option<&str>, environment: Option<&str>) -> Result<String> {
        let environment = environment.map(OsString::from);
        ConfigLocation::find(file.map(Path::new), cluster, environment, Path::new("/etc/pgark"))
            .map(|location| location.to_string())
    }

    #[test]
    fn arguments_win_over_the_environment_and_that_over_the_default() {
        let found = |file, cluster, environment| find(file, cluster, environment).unwrap();
        assert_eq!(found(Some("a.toml"), None, Some("/b.toml")), "\"a.toml\" (from --config)");
        assert_eq!(found(None, Some("main"), Some("/b.toml")), "\"/etc/pgark/main.toml\" (from --cluster)");
        assert_eq!(found(None, None, Some("/b.toml")), "\"/b.toml\" (from PGARK_CONFIG)");
        assert_eq!(found(None, None, None), "\"/etc/pgark/pgark.toml\" (the default)");
    }

    #[test]
    fn a_cluster_is_a_name_and_the_only_choice() {
        let refused = |file, cluster| find(file, Some(cluster), None).unwrap_err().report();
        assert_eq!(
            refused(Some("a.toml"), "main").lines().next(),
            Some("--config and --cluster exclude each other")
        );
        for name in ["../main", "", "defaults", "a/b"] {
            assert!(
                refused(None, name).starts_with(&format!("--cluster: {name:?} is not the name")),
                "{name}"
            );
        }
    }

    #[test]
    fn takes_a_path_that_is_not_utf_8() {
        let name = OsString::from_vec(b"/etc/\xFF.toml".to_vec());
        let found = ConfigLocation::find(None, None, Some(name.clone()), Path::new("/etc/pgark")).unwrap();
        assert_eq!(found.path, PathBuf::from(name));
    }
}
