//! One connection to the server, whose calls block.

use super::connect::{Failure, Way, connect};
use super::failure::{Fate, failure, not_begun};
use super::parameters::{Address, CONNECT_TIMEOUT, Parameters, Place};
use super::stream::{Established, Stream};
use super::watch::Watch;
use crate::config::Conninfo;
use crate::data_directory::DataDirectory;
use crate::error::{Context, Error, Result};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tokio_postgres::config::{SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::{Client, SimpleQueryMessage};

/// How often a running query looks whether the backup must end.
const NOTICE: Duration = Duration::from_millis(200);
/// How long cancelling a query may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, and the thread's own runtime that drives it while a call waits.
pub struct Connection {
    runtime: Runtime,
    client: Client,
    parameters: Parameters,
    /// For the request to cancel, which takes a connection of its own.
    way: Way,
    fate: Fate,
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
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for connection parameters that are not understood and for a user
    /// who may not connect, [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) when the server does not answer.
    pub fn open(
        conninfo: &Conninfo,
        data_directory: &DataDirectory,
        application_name: &str,
    ) -> Result<Connection> {
        Connection::to(Parameters::new(conninfo, data_directory.socket(), application_name)?)
    }

    /// Connects to a server of this host: of `conninfo` counts only who connects, and to which database unless another one is
    /// named. `user` is tried in the place of the configured one, without its password.
    ///
    /// # Errors
    /// As [`Connection::open`]; [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) too when the server takes
    /// the connection and says nothing.
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
        let place = Place { address, host: None, port: server.port };
        let given = Parameters::new(conninfo, None, application_name)?;
        let parameters = given.at_this_host(place, database, user, application_name);
        Connection::to_within(parameters, CONNECT_TIMEOUT)
    }

    /// Connects to the server of `conninfo`, wherever it is.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn open_remote(conninfo: &Conninfo, application_name: &str) -> Result<Connection> {
        Connection::to(Parameters::new(conninfo, None, application_name)?)
    }

    fn to(parameters: Parameters) -> Result<Connection> {
        Connection::to_within(parameters, Duration::MAX)
    }

    /// Connects; the server has so long for all that belongs to it.
    fn to_within(parameters: Parameters, limit: Duration) -> Result<Connection> {
        let what = || format!("could not connect to the server ({})", parameters.target());
        let runtime = Builder::new_current_thread().enable_all().build().context(what)?;
        let connected = runtime.block_on(async {
            timeout(limit, connect(&parameters, async |stream| begin(&parameters, stream).await)).await
        });
        let connected = connected.unwrap_or_else(|_| {
            Err(Error::unavailable("the server accepted the connection but does not respond"))
        });
        let ((client, fate), way) = connected.map_err(|error| {
            let error = error.context(what());
            if error.hint_text().is_some() {
                return error;
            }
            error.hint("Check that the server is running, and that connection.conninfo names its host, port and user.")
        })?;
        Ok(Connection { runtime, client, parameters, way, fate })
    }

    /// Runs statements, and returns all rows of their answers.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) when the server refuses them or the connection
    /// breaks, [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when the user may not run them, and what [`Watch::check`] says: then the statement is
    /// cancelled.
    pub fn query(&self, what: &str, sql: &str, watch: &Watch<'_>) -> Result<Vec<Row>> {
        self.query_until(None, what, sql, watch)
    }

    fn query_until(
        &self,
        end: Option<Instant>,
        what: &str,
        sql: &str,
        watch: &Watch<'_>,
    ) -> Result<Vec<Row>> {
        self.runtime.block_on(async {
            let query = self.client.simple_query(sql);
            tokio::pin!(query);
            loop {
                tokio::select! {
                    answer = &mut query => {
                        let messages = answer.map_err(|error| failure(format!("could not {what}"), &error, &self.fate))?;
                        return Ok(messages.into_iter().filter_map(Row::of).collect());
                    }
                    () = sleep(NOTICE) => {
                        if let Err(error) = watch.check() {
                            // The server would notice the end of the connection only when it is done.
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

    /// As [`Connection::query_row`] for a question that any living server answers at once. Others may run on this connection
    /// meanwhile, if they are short.
    ///
    /// # Errors
    /// As [`Connection::query_row`]; [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) too when the silence
    /// has lasted for some times as long as `tcp_user_timeout` allows to one message: the system sees only how far the next
    /// machine on the way has them.
    pub fn ping(&self, what: &str, sql: &str, watch: &Watch<'_>) -> Result<Row> {
        let end = Instant::now() + self.parameters.keepalive.silence_max();
        let mut rows = self.query_until(Some(end), what, sql, watch)?;
        rows.pop().ok_or_else(|| Error::damaged(format!("could not {what}: the server returned no row")))
    }

    /// Asks the server to end the statement that is running, on a connection that is as protected as this one.
    async fn cancel(&self) {
        if let Ok(stream) = self.way.again(&self.parameters).await {
            let _ = self.client.cancel_token().cancel_query_raw(stream, Established).await;
        }
    }

    /// As [`Connection::query`] for exactly one row.
    ///
    /// # Errors
    /// As [`Connection::query`], and [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for any other number of rows.
    pub fn query_row(&self, what: &str, sql: &str, watch: &Watch<'_>) -> Result<Row> {
        let mut rows = self.query(what, sql, watch)?;
        match (rows.pop(), rows.len()) {
            (Some(row), 0) => Ok(row),
            _ => Err(Error::damaged(format!(
                "could not {what}: the server returned an unexpected number of rows"
            ))),
        }
    }
}

impl Connection {
    /// As [`Connection::query_row`] for a question that the server has so long to answer.
    ///
    /// # Errors
    /// As [`Connection::query_row`]; [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) when the time is over:
    /// then the connection is of no use any more.
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
            .map_err(|error| failure(format!("could not {what}"), &error, &self.fate))?;
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
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) when it is.
    pub fn text(&self, column: usize) -> Result<&str> {
        self.optional(column).ok_or_else(|| Error::damaged("the server returned NULL instead of a value"))
    }

    /// A column as another type.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) when it is not one.
    pub fn parsed<T: FromStr>(&self, column: usize) -> Result<T> {
        let text = self.text(column)?;
        text.parse().map_err(|_| Error::damaged(format!("the server returned an unexpected value {text:?}")))
    }

    /// Whether a boolean column is true.
    pub fn is_true(&self, column: usize) -> bool {
        self.optional(column) == Some("t")
    }
}

/// Begins a session on a connection that is made.
async fn begin(parameters: &Parameters, stream: Stream) -> std::result::Result<(Client, Fate), Failure> {
    let mut config = parameters.config.clone();
    match stream.is_encrypted() {
        // There is nothing left to negotiate.
        true => config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct),
        false => config.ssl_mode(SslMode::Disable),
    };
    let begun = config.connect_raw(stream, Established).await;
    let (client, connection) = begun.map_err(|error| not_begun(&error))?;
    let fate = Fate::default();
    let noted = fate.clone();
    // Its end is noticed by the next query.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            noted.note(&error);
        }
    });
    let wanted = match config.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite => "off",
        TargetSessionAttrs::ReadOnly => "on",
        _ => return Ok((client, fate)),
    };
    let answered = client.simple_query("SHOW transaction_read_only").await;
    let messages = answered.map_err(|error| not_begun(&error))?;
    let fits = messages.into_iter().filter_map(Row::of).any(|row| row.optional(0) == Some(wanted));
    match fits {
        true => Ok((client, fate)),
        false => Err(Failure::NotReached(
            Error::unavailable("the server does not satisfy target_session_attrs")
                .hint("Name all servers of the cluster in host, so that one of them satisfies it."),
        )),
    }
}
