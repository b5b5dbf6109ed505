//! A connection to the server with blocking calls.

use super::connect::{Failure, Way, connect};
use super::failure::{ConnectionFailure, failure, not_begun};
use super::parameters::{Address, CONNECT_TIMEOUT, HostAddress, Parameters};
use super::stream::{Established, Stream};
use crate::config::Conninfo;
use crate::data_directory::DataDirectory;
use crate::error::{Context, Error, Result};
use crate::interruption::Interruption;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tokio_postgres::config::{SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Interval at which a running query checks whether the backup must end.
const NOTICE: Duration = Duration::from_millis(200);
/// Time limit for canceling a query.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, and the thread's own runtime that drives it while a call waits.
pub struct Connection {
    runtime: Runtime,
    client: Client,
    parameters: Parameters,
    /// For the cancel request, which needs a connection of its own.
    way: Way,
    connection_failure: ConnectionFailure,
}

/// A server of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalServer {
    /// Its listen address.
    pub place: LocalPlace,
    /// Its port.
    pub port: u16,
}

/// The listen address of a server of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalPlace {
    /// A Unix socket in this directory.
    Socket(String),
    /// An IP address.
    Address(String),
}

/// A row of a result, as text.
pub struct Row(Vec<Option<String>>);

impl Connection {
    /// Connects to the server of `data_directory`, unless `conninfo` specifies another one.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for invalid connection parameters and for a user without
    /// permission to connect, [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if the server does not
    /// respond.
    pub fn open(
        conninfo: &Conninfo,
        data_directory: &DataDirectory,
        application_name: &str,
    ) -> Result<Connection> {
        Connection::to(Parameters::new(conninfo, data_directory.socket(), application_name)?)
    }

    /// Connects to a server of this host. Uses only the user of `conninfo`, and its database unless another one is
    /// given. If `user` is given, it replaces the configured user and has no password.
    ///
    /// # Errors
    /// As [`Connection::open`]; also [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if the server
    /// accepts the connection but does not respond.
    pub fn open_local(
        server: &LocalServer,
        conninfo: &Conninfo,
        database: Option<&str>,
        user: Option<&str>,
        application_name: &str,
    ) -> Result<Connection> {
        let address = match &server.place {
            LocalPlace::Socket(directory) => Address::Socket(PathBuf::from(directory)),
            LocalPlace::Address(host) => Address::Host(host.clone()),
        };
        let place = HostAddress { address, host: None, port: server.port };
        let given = Parameters::new(conninfo, None, application_name)?;
        let parameters = given.at_this_host(place, database, user, application_name);
        Connection::to_within(parameters, CONNECT_TIMEOUT)
    }

    /// Connects to the server of `conninfo` on any host.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn open_remote(conninfo: &Conninfo, application_name: &str) -> Result<Connection> {
        Connection::to(Parameters::new(conninfo, None, application_name)?)
    }

    fn to(parameters: Parameters) -> Result<Connection> {
        Connection::to_within(parameters, Duration::MAX)
    }

    /// Connects, with a time limit for the whole procedure.
    fn to_within(parameters: Parameters, limit: Duration) -> Result<Connection> {
        let what = || format!("could not connect to the server ({})", parameters.target());
        let runtime = Builder::new_current_thread().enable_all().build().context(what)?;
        let connected = runtime.block_on(async {
            timeout(limit, connect(&parameters, async |stream| begin(&parameters, stream).await)).await
        });
        let connected = connected.unwrap_or_else(|_| {
            Err(Error::unavailable("the server accepted the connection but does not respond"))
        });
        let ((client, connection_failure), way) = connected.map_err(|error| {
            let error = error.context(what());
            if error.hint_text().is_some() {
                return error;
            }
            error.hint("Check that the server is running, and that connection.conninfo names its host, port and user.")
        })?;
        Ok(Connection { runtime, client, parameters, way, connection_failure })
    }

    /// Runs statements, and returns all rows of their results.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if the server rejects them or the connection
    /// breaks, [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if the user lacks the permission; those of
    /// [`Interruption::check`], after which the statement is canceled.
    pub fn query(&self, what: &str, sql: &str, interruption: &Interruption<'_>) -> Result<Vec<Row>> {
        self.query_until(None, what, sql, interruption)
    }

    fn query_until(
        &self,
        end: Option<Instant>,
        what: &str,
        sql: &str,
        interruption: &Interruption<'_>,
    ) -> Result<Vec<Row>> {
        self.runtime.block_on(async {
            let query = self.client.simple_query(sql);
            tokio::pin!(query);
            loop {
                tokio::select! {
                    answer = &mut query => {
                        let messages = answer.map_err(|error| failure(format!("could not {what}"), &error, &self.connection_failure))?;
                        return Ok(messages.into_iter().filter_map(Row::of).collect());
                    }
                    () = sleep(NOTICE) => {
                        if let Err(error) = interruption.check() {
                            // The server would notice the closed connection only after the statement.
                            let _ = timeout(CANCEL_TIMEOUT, self.cancel()).await;
                            return Err(error);
                        }
                        if end.is_some_and(|end| end <= Instant::now()) {
                            return Err(Error::unavailable(format!("could not {what}: the server no longer responds"))
                                .hint("The server hangs, or the network has dropped the connection. Check both."));
                        }
                    }
                }
            }
        })
    }

    /// As [`Connection::query_row`] for a query that any live server answers at once. Other short queries may run on
    /// this connection meanwhile.
    ///
    /// # Errors
    /// As [`Connection::query_row`]; also [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if the
    /// server has been silent for several times the `tcp_user_timeout` of a single message, because TCP may detect only
    /// the failure of the next hop.
    pub fn ping(&self, what: &str, sql: &str, interruption: &Interruption<'_>) -> Result<Row> {
        let end = Instant::now() + self.parameters.keepalive.silence_max();
        let mut rows = self.query_until(Some(end), what, sql, interruption)?;
        rows.pop().ok_or_else(|| Error::damaged(format!("could not {what}: the server returned no row")))
    }

    /// Requests the cancellation of the running statement, over a connection with the same protection.
    async fn cancel(&self) {
        if let Ok(stream) = self.way.again(&self.parameters).await {
            let _ = self.client.cancel_token().cancel_query_raw(stream, Established).await;
        }
    }

    /// As [`Connection::query`] for exactly one row.
    ///
    /// # Errors
    /// As [`Connection::query`], and [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for any other number of rows.
    pub fn query_row(&self, what: &str, sql: &str, interruption: &Interruption<'_>) -> Result<Row> {
        let mut rows = self.query(what, sql, interruption)?;
        match (rows.pop(), rows.len()) {
            (Some(row), 0) => Ok(row),
            _ => Err(Error::damaged(format!(
                "could not {what}: the server returned an unexpected number of rows"
            ))),
        }
    }
}

impl Connection {
    /// As [`Connection::query_row`] with a time limit.
    ///
    /// # Errors
    /// As [`Connection::query_row`]; [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) after the time
    /// limit, which makes the connection unusable.
    pub fn query_row_within(&self, what: &str, sql: &str, limit: Duration) -> Result<Row> {
        let rows = self.query_within(what, sql, limit)?;
        let first = rows.into_iter().next();
        first.ok_or_else(|| Error::damaged(format!("could not {what}: the server returned no row")))
    }

    /// As [`Connection::query_row_within`] for any number of rows.
    ///
    /// # Errors
    /// The same.
    pub fn query_within(&self, what: &str, sql: &str, limit: Duration) -> Result<Vec<Row>> {
        let answered = self.runtime.block_on(async { timeout(limit, self.client.simple_query(sql)).await });
        let messages = answered
            .map_err(|_| {
                Error::unavailable(format!("could not {what}: no response within {} s", limit.as_secs()))
            })?
            .map_err(|error| failure(format!("could not {what}"), &error, &self.connection_failure))?;
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

    /// The value of a column, counted from 0; `None` for NULL.
    pub fn optional(&self, column: usize) -> Option<&str> {
        self.0.get(column).and_then(Option::as_deref)
    }

    /// The value of a column that is not NULL.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if it is NULL.
    pub fn text(&self, column: usize) -> Result<&str> {
        self.optional(column).ok_or_else(|| Error::damaged("the server returned NULL instead of a value"))
    }

    /// The value of a column, converted to another type.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if it cannot be converted.
    pub fn parsed<T: FromStr>(&self, column: usize) -> Result<T> {
        let text = self.text(column)?;
        text.parse().map_err(|_| Error::damaged(format!("the server returned an unexpected value {text:?}")))
    }

    /// Whether a boolean column is true.
    pub fn is_true(&self, column: usize) -> bool {
        self.optional(column) == Some("t")
    }
}

/// Begins a session on a connected stream.
async fn begin(
    parameters: &Parameters,
    stream: Stream,
) -> std::result::Result<(Client, ConnectionFailure), Failure> {
    let mut config = parameters.config.clone();
    match stream.is_encrypted() {
        // There is nothing left to negotiate.
        true => config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct),
        false => config.ssl_mode(SslMode::Disable),
    };
    let begun = config.connect_raw(stream, Established).await;
    let (client, connection) = begun.map_err(|error| not_begun(&error))?;
    let connection_failure = ConnectionFailure::default();
    let recorded = connection_failure.clone();
    // The next query notices its end.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            recorded.note(&error);
        }
    });
    let wanted = match config.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite => "off",
        TargetSessionAttrs::ReadOnly => "on",
        _ => return Ok((client, connection_failure)),
    };
    let answered = client.simple_query("SHOW transaction_read_only").await;
    let messages = answered.map_err(|error| not_begun(&error))?;
    let fits = messages.into_iter().filter_map(Row::of).any(|row| row.optional(0) == Some(wanted));
    match fits {
        true => Ok((client, connection_failure)),
        false => Err(Failure::NotReached(
            Error::unavailable("the server does not satisfy target_session_attrs")
                .hint("Name all servers of the cluster in host, so that one of them satisfies it."),
        )),
    }
}
