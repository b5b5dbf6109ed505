//! The parameters of a connection, from the configuration, the environment and the user's files.

use super::keepalive::KeepaliveSettings;
use super::password_file::{self, Wanted};
use super::tls::{ChannelBinding, Sources, TlsSettings};
use crate::config::Conninfo;
use crate::error::{Error, Result};
use std::env;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::{self, Host};

/// Default directory of the server's socket, as on Debian and Red Hat.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";
const PORT: u16 = 5432;
const DATABASE: &str = "postgres";

/// Default time limit for a connection attempt.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// All parameters of a connection.
#[derive(Clone, Debug)]
pub(super) struct Parameters {
    /// User, hosts and database.
    pub(super) config: Config,
    pub(super) tls: TlsSettings,
    pub(super) keepalive: KeepaliveSettings,
}

/// A possible location of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostAddress {
    pub(super) address: Address,
    /// The requested host name; `None` if only an address was given.
    pub(super) host: Option<String>,
    pub(super) port: u16,
}

/// The kind of a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Socket(PathBuf),
    /// A host name or an IP address.
    Host(String),
}

impl Parameters {
    /// The parameters with their defaults; `local` is the address of a server of this host.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for invalid parameters.
    pub(super) fn new(
        conninfo: &Conninfo,
        local: Option<(PathBuf, u16)>,
        application_name: &str,
    ) -> Result<Parameters> {
        let given = conninfo.parameters();
        let mut config = config_of(&given)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            let (directory, port) = local.unwrap_or_else(|| (PathBuf::from(SOCKET_DIRECTORY), PORT));
            config.host_path(directory);
            if config.get_ports().is_empty() {
                config.port(port);
            }
        }
        if config.get_user().is_none() {
            let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten();
            config.user(user.map_or_else(|| "postgres".to_owned(), |user| user.name));
        }
        if config.get_dbname().is_none() {
            config.dbname(DATABASE);
        }
        if config.get_password().is_none()
            && let Some(password) = password_from_file(&config)
        {
            config.password(password);
        }
        config.application_name(application_name);
        let home = home();
        let tls = TlsSettings::read(&Sources {
            parameters: &given,
            variable: &|name| env::var(name).ok(),
            home: home.as_deref(),
        })?;
        config.channel_binding(match tls.channel_binding {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        });
        Ok(Parameters { config, tls, keepalive: KeepaliveSettings::read(&given)? })
    }

    /// The parameters of a replication connection, for which the password file has a separate database name.
    ///
    /// Source: PostgreSQL's manual, "The Password File".
    ///
    /// # Errors
    /// As [`Parameters::new`].
    pub(super) fn for_replication(conninfo: &Conninfo, application_name: &str) -> Result<Parameters> {
        let mut parameters = Parameters::new(conninfo, None, application_name)?;
        let config = &mut parameters.config;
        if !conninfo.parameters().iter().any(|(name, _)| *name == "password") {
            let named = config.get_dbname().map(str::to_owned);
            config.dbname("replication");
            if let Some(password) = password_from_file(config) {
                config.password(password);
            }
            config.dbname(named.as_deref().unwrap_or(DATABASE));
        }
        Ok(parameters)
    }

    /// The parameters for a server of this host at `host`, a directory or an address. Uses only the user of these
    /// parameters, and their database unless another one is given. Another `user` has no password.
    pub(super) fn at_this_host(
        &self,
        place: HostAddress,
        database: Option<&str>,
        user: Option<&str>,
        application_name: &str,
    ) -> Parameters {
        let given = &self.config;
        let mut config = Config::new();
        match &place.address {
            Address::Socket(directory) => config.host_path(directory),
            Address::Host(host) => config.host(host),
        };
        config.port(place.port).application_name(application_name);
        config.user(user.or(given.get_user()).unwrap_or_default());
        config.dbname(database.or(given.get_dbname()).unwrap_or(DATABASE));
        if let Some(password) = given.get_password().filter(|_| user.is_none()) {
            config.password(password);
        }
        Parameters { config, tls: self.tls.clone().of_this_host(), keepalive: KeepaliveSettings::default() }
    }

    /// Time limit for a connection attempt.
    pub(super) fn connect_timeout(&self) -> Duration {
        self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT)
    }

    /// The locations in order.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if the numbers of names, addresses and ports differ.
    pub(super) fn places(&self) -> Result<Vec<HostAddress>> {
        let (hosts, addresses) = (self.config.get_hosts(), self.config.get_hostaddrs());
        let ports = self.config.get_ports();
        let count = hosts.len().max(addresses.len());
        let one_for_each = |length: usize| length == 0 || length == count;
        if !one_for_each(hosts.len())
            || !one_for_each(addresses.len())
            || !(one_for_each(ports.len()) || ports.len() == 1)
        {
            return Err(Error::usage(
                "the connection's host, hostaddr and port have different numbers of entries",
            )
            .hint("List as many addresses and ports as hosts, or a single port for all of them."));
        }
        let place = |index: usize| {
            let address = addresses.get(index).map(ToString::to_string);
            let (name, address) = match (hosts.get(index), address) {
                (Some(Host::Unix(directory)), None) => (None, Address::Socket(directory.clone())),
                (Some(Host::Unix(_)) | None, Some(address)) => (None, Address::Host(address)),
                (Some(Host::Tcp(name)), Some(address)) => (Some(name.clone()), Address::Host(address)),
                (Some(Host::Tcp(name)), None) => (Some(name.clone()), Address::Host(name.clone())),
                (None, None) => return None,
            };
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(PORT);
            Some(HostAddress { address, host: name, port })
        };
        Ok((0..count).filter_map(place).collect())
    }

    /// The target and the user, for messages; no secrets.
    pub(super) fn target(&self) -> String {
        let config = &self.config;
        format!(
            "host {}, port {}, user {}, database {}",
            host_of(config),
            config.get_ports().first().copied().unwrap_or(PORT),
            config.get_user().unwrap_or_default(),
            config.get_dbname().unwrap_or_default()
        )
    }
}

/// The parameters that tokio-postgres supports: all except those for TLS and keepalives.
fn config_of(given: &[(&str, String)]) -> Result<Config> {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    let text: String = given
        .iter()
        .filter(|(name, _)| !TlsSettings::knows(name) && !KeepaliveSettings::knows(name))
        .map(|(name, value)| format!("{name}='{}' ", escaped(value)))
        .collect();
    text.parse().map_err(|error: tokio_postgres::Error| {
        Error::usage("connection.conninfo is invalid").caused_by(error).hint(
            "It supports host, hostaddr, port, user, password, dbname, connect_timeout, options, target_session_attrs, \
             keepalives and the TLS settings: sslmode, sslrootcert, …",
        )
    })
}

fn home() -> Option<PathBuf> {
    let named = env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    named.or_else(|| {
        nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten().map(|user| user.dir)
    })
}

fn password_from_file(config: &Config) -> Option<Vec<u8>> {
    let path = match env::var_os("PGPASSFILE") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env::var_os("HOME")?).join(".pgpass"),
    };
    let host = host_of(config);
    let wanted = Wanted {
        host: &host,
        port: config.get_ports().first().copied().unwrap_or(PORT),
        database: config.get_dbname().unwrap_or(DATABASE),
        user: config.get_user().unwrap_or_default(),
    };
    password_file::find(&path, &wanted)
}

fn host_of(config: &Config) -> String {
    match (config.get_hosts().first(), config.get_hostaddrs().first()) {
        (Some(Host::Tcp(host)), _) => host.clone(),
        (Some(Host::Unix(directory)), _) => directory.display().to_string(),
        (None, Some(address)) => address.to_string(),
        (None, None) => SOCKET_DIRECTORY.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn parameters(conninfo: &str) -> Result<Parameters> {
        Parameters::new(&Conninfo::new(conninfo).unwrap(), None, "pgark")
    }

    #[test]
    fn defaults_are_those_of_a_local_server() {
        let found = parameters("").unwrap();
        assert!(found.target().starts_with("host /var/run/postgresql, port 5432, user "));
        assert_eq!(found.config.get_dbname(), Some("postgres"));
        let found = parameters("host=/tmp port=5433 user=op password='it\\'s' dbname=d").unwrap();
        assert_eq!(found.target(), "host /tmp, port 5433, user op, database d");
        assert_eq!(found.config.get_password(), Some(&b"it's"[..]));
        assert_eq!(parameters("nonsense=1").unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn the_name_that_is_verified_is_that_of_host() {
        let place = |conninfo: &str| parameters(conninfo).unwrap().places().unwrap().remove(0);
        let at = |host: Option<&str>, address: &str| HostAddress {
            address: Address::Host(address.to_owned()),
            host: host.map(str::to_owned),
            port: 5432,
        };
        assert_eq!(place("host=db hostaddr=192.0.2.1"), at(Some("db"), "192.0.2.1"));
        assert_eq!(place("host=db"), at(Some("db"), "db"));
        assert_eq!(place("hostaddr=192.0.2.1"), at(None, "192.0.2.1"));
        assert!(parameters("host=a,b port=1,2,3").unwrap().places().is_err());
    }
}
