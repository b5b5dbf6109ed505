//! One connection to the server, whose calls block.

use super::password_file::{self, Wanted};
use super::watch::Watch;
use crate::config::Conninfo;
use crate::data_directory::DataDirectory;
use crate::error::{Context, Error, ErrorKind, Result};
use std::env;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// Where the server's socket is unless the configuration says it: Debian's and Red Hat's default.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";
const PORT: u16 = 5432;
const DATABASE: &str = "postgres";

/// How long to wait for a connection unless the configuration says it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a running query looks whether the backup must end.
const NOTICE: Duration = Duration::from_millis(200);
/// How long cancelling a query may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, and the thread's own runtime that drives it while a call waits.
pub struct Connection {
    runtime: Runtime,
    client: Client,
}

/// A server of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalServer {
    /// Where it listens.
    pub place: LocalPlace,
    /// Its port.
    pub port: u16,
}

/// Where a server of this host listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalPlace {
    /// At a Unix socket in this directory.
    Socket(String),
    /// At an address.
    Address(String),
}

/// A row of an answer, as text.
pub struct Row(Vec<Option<String>>);

impl Connection {
    /// Connects to the server of `data_directory`, unless `conninfo` says another place.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for connection parameters that are not understood and for a user who may not connect,
    /// [`ErrorKind::Unavailable`] when the server does not answer.
    pub fn open(
        conninfo: &Conninfo,
        data_directory: &DataDirectory,
        application_name: &str,
    ) -> Result<Connection> {
        Connection::to(&parameters(conninfo, data_directory.socket(), application_name)?)
    }

    /// Connects to a server of this host: of `conninfo` counts only who connects, and to which database unless another one is
    /// named. `user` is tried in the place of the configured one, without its password.
    ///
    /// # Errors
    /// As [`Connection::open`]; [`ErrorKind::Unavailable`] too when the server takes the connection and says nothing.
    pub fn open_local(
        server: &LocalServer,
        conninfo: &Conninfo,
        database: Option<&str>,
        user: Option<&str>,
        application_name: &str,
    ) -> Result<Connection> {
        let given = parameters(conninfo, None, application_name)?;
        let mut config = Config::new();
        match &server.place {
            LocalPlace::Socket(directory) => config.host_path(directory),
            LocalPlace::Address(host) => config.host(host),
        };
        config.port(server.port).application_name(application_name).connect_timeout(CONNECT_TIMEOUT);
        config.user(user.or(given.get_user()).unwrap_or_default());
        config.dbname(database.or(given.get_dbname()).unwrap_or(DATABASE));
        if let Some(password) = given.get_password().filter(|_| user.is_none()) {
            config.password(password);
        }
        Connection::to_within(&config, CONNECT_TIMEOUT)
    }

    /// Connects to the server of `conninfo`, wherever it is.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn open_remote(conninfo: &Conninfo, application_name: &str) -> Result<Connection> {
        Connection::to(&parameters(conninfo, None, application_name)?)
    }

    fn to(config: &Config) -> Result<Connection> {
        Connection::to_within(config, Duration::MAX)
    }

    /// Connects; the server has so long for all that belongs to it.
    fn to_within(config: &Config, limit: Duration) -> Result<Connection> {
        let what = || format!("could not connect to the server ({})", target(config));
        let runtime = Builder::new_current_thread().enable_all().build().context(what)?;
        let connected =
            runtime.block_on(async { timeout(limit, config.connect(NoTls)).await }).map_err(|_| {
                Error::unavailable(format!("{}: it takes the connection and says nothing", what()))
            })?;
        let (client, connection) = connected.map_err(|error| {
            let error = failure(what(), &error);
            if error.hint_text().is_some() {
                return error;
            }
            error.hint("Is the server running? Where and as whom to connect is set by connection.conninfo.")
        })?;
        // Its end is noticed by the next query.
        runtime.spawn(connection);
        Ok(Connection { runtime, client })
    }

    /// Runs statements, and returns all rows of their answers.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the server refuses them or the connection breaks, [`ErrorKind::Usage`] when the
    /// user may not run them, and what [`Watch::check`] says: then the statement is cancelled.
    pub fn query(&self, what: &str, sql: &str, watch: &Watch<'_>) -> Result<Vec<Row>> {
        self.runtime.block_on(async {
            let query = self.client.simple_query(sql);
            tokio::pin!(query);
            loop {
                tokio::select! {
                    answer = &mut query => {
                        let messages = answer.map_err(|error| failure(format!("could not {what}"), &error))?;
                        return Ok(messages.into_iter().filter_map(Row::of).collect());
                    }
                    () = sleep(NOTICE) => {
                        if let Err(error) = watch.check() {
                            // The server would notice the end of the connection only when it is done.
                            let cancelled = self.client.cancel_token();
                            let _ = timeout(CANCEL_TIMEOUT, cancelled.cancel_query(NoTls)).await;
                            return Err(error);
                        }
                    }
                }
            }
        })
    }

    /// As [`Connection::query`] for exactly one row.
    ///
    /// # Errors
    /// As [`Connection::query`], and [`ErrorKind::Damaged`] for any other number of rows.
    pub fn query_row(&self, what: &str, sql: &str, watch: &Watch<'_>) -> Result<Row> {
        let mut rows = self.query(what, sql, watch)?;
        match (rows.pop(), rows.len()) {
            (Some(row), 0) => Ok(row),
            _ => Err(Error::damaged(format!(
                "could not {what}: the server answered with another number of rows"
            ))),
        }
    }
}

impl Connection {
    /// As [`Connection::query_row`] for a question that the server has so long to answer.
    ///
    /// # Errors
    /// As [`Connection::query_row`]; [`ErrorKind::Unavailable`] when the time is over: then the connection is of no use any
    /// more.
    pub fn query_row_within(&self, what: &str, sql: &str, limit: Duration) -> Result<Row> {
        let rows = self.query_within(what, sql, limit)?;
        let first = rows.into_iter().next();
        first.ok_or_else(|| Error::damaged(format!("could not {what}: the server answered no row")))
    }

    /// As [`Connection::query_row_within`] for any number of rows.
    ///
    /// # Errors
    /// The same.
    pub fn query_within(&self, what: &str, sql: &str, limit: Duration) -> Result<Vec<Row>> {
        let answered = self.runtime.block_on(async { timeout(limit, self.client.simple_query(sql)).await });
        let messages = answered
            .map_err(|_| Error::unavailable(format!("could not {what}: no answer in {} s", limit.as_secs())))?
            .map_err(|error| failure(format!("could not {what}"), &error))?;
        Ok(messages.into_iter().filter_map(Row::of).collect())
    }
}

impl Row {
    pub(super) fn new(columns: Vec<Option<String>>) -> Row {
        Row(columns)
    }

    fn of(message: SimpleQueryMessage) -> Option<Row> {
        match message {
            SimpleQueryMessage::Row(row) => Some(Row((0..row.len())
                .map(|column| row.try_get(column).ok().flatten().map(str::to_owned))
                .collect())),
            _ => None,
        }
    }

    /// A column, from 0; `None` for NULL.
    pub fn optional(&self, column: usize) -> Option<&str> {
        self.0.get(column).and_then(Option::as_deref)
    }

    /// A column that is not NULL.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when it is.
    pub fn text(&self, column: usize) -> Result<&str> {
        self.optional(column)
            .ok_or_else(|| Error::damaged("the server answered NULL where there must be a value"))
    }

    /// A column as another type.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when it is not one.
    pub fn parsed<T: FromStr>(&self, column: usize) -> Result<T> {
        let text = self.text(column)?;
        text.parse()
            .map_err(|_| Error::damaged(format!("the server answered {text:?}, which makes no sense here")))
    }

    /// Whether a boolean column is true.
    pub fn is_true(&self, column: usize) -> bool {
        self.optional(column) == Some("t")
    }
}

/// The parameters of the connection with their defaults; `local` is where a server of this host listens.
fn parameters(conninfo: &Conninfo, local: Option<(PathBuf, u16)>, application_name: &str) -> Result<Config> {
    let mut config: Config = conninfo.reveal().parse().map_err(|error: tokio_postgres::Error| {
        Error::usage("connection.conninfo is not understood").caused_by(error).hint(
            "It takes host, port, user, password, dbname, sslmode, connect_timeout, options and keepalives.",
        )
    })?;
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
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_password().is_none()
        && let Some(password) = password_from_file(&config)
    {
        config.password(password);
    }
    config.application_name(application_name);
    Ok(config)
}

/// The parameters of a replication connection: the password file knows it by a database of its own.
///
/// Source: PostgreSQL's manual, "The Password File".
pub(super) fn replication_parameters(conninfo: &Conninfo, application_name: &str) -> Result<Config> {
    let mut config = parameters(conninfo, None, application_name)?;
    let given: Config = conninfo.reveal().parse().unwrap_or_default();
    if given.get_password().is_none() {
        let named = config.get_dbname().map(str::to_owned);
        config.dbname("replication");
        if let Some(password) = password_from_file(&config) {
            config.password(password);
        }
        config.dbname(named.as_deref().unwrap_or(DATABASE));
    }
    Ok(config)
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

/// Where and as whom, for messages; no secrets.
pub(super) fn target(config: &Config) -> String {
    format!(
        "host {}, port {}, user {}, database {}",
        host_of(config),
        config.get_ports().first().copied().unwrap_or(PORT),
        config.get_user().unwrap_or_default(),
        config.get_dbname().unwrap_or_default()
    )
}

/// What the server or the connection said, as an error of ours.
fn failure(what: String, error: &tokio_postgres::Error) -> Error {
    let Some(said) = error.as_db_error() else {
        return broken(what, error);
    };
    refused(what, said.code(), said.message(), said.detail(), said.hint())
}

/// What the server said, as an error of ours.
pub(super) fn refused(
    what: String,
    code: &SqlState,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) -> Error {
    let refused = *code == SqlState::INSUFFICIENT_PRIVILEGE
        || *code == SqlState::INVALID_PASSWORD
        || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
    let kind = if refused { ErrorKind::Usage } else { ErrorKind::Unavailable };
    let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
    let error = Error::new(kind, format!("{what}: {message}{detail}"));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The error for a connection that the server has closed.
pub(super) fn broken_off(what: &str) -> Error {
    Error::unavailable(format!("{what}: the server has closed the connection"))
        .hint("It was stopped or restarted, or somebody ended the session; its log tells. A backup ends with its session.")
}

/// An error that the server did not tell: there is no connection, or none any more.
fn broken(what: String, error: &tokio_postgres::Error) -> Error {
    if error.is_closed() {
        return broken_off(&what);
    }
    let cause = std::error::Error::source(error);
    match cause.and_then(|cause| cause.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error) {
        Some(code) => Error::new(ErrorKind::Unavailable, what)
            .caused_by(Error::io("the connection failed", io::Error::from_raw_os_error(code))),
        None => Error::unavailable(format!(
            "{what}: {}",
            cause.map_or_else(|| error.to_string(), ToString::to_string)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_a_local_server() {
        let config = parameters(&Conninfo::new("").unwrap(), None, "pgark").unwrap();
        assert!(target(&config).starts_with("host /var/run/postgresql, port 5432, user "));
        assert_eq!(config.get_dbname(), Some("postgres"));
        let given = Conninfo::new("host=/tmp port=5433 user=op password=x dbname=d").unwrap();
        let config = parameters(&given, None, "pgark").unwrap();
        assert_eq!(target(&config), "host /tmp, port 5433, user op, database d");
        let error = parameters(&Conninfo::new("nonsense=1").unwrap(), None, "pgark").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}
