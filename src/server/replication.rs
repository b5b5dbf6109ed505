//! A connection with the replication protocol, limited to the needs of a base backup. Its calls block.
//!
//! tokio-postgres does not support this protocol; messages are encoded with postgres-protocol, its lower layer. Source:
//! PostgreSQL's manual, "Frontend/Backend Protocol" and "Streaming Replication Protocol".

use super::authentication::Authentication;
use super::connect::{Failure, connect};
use super::connection::Row;
use super::failure::{broken_off, lost, refused, refused_to_begin};
use super::parameters::Parameters;
use super::wire::Wire;
use crate::config::Conninfo;
use crate::error::{Context, Error, Result};
use crate::interruption::Interruption;
use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, ErrorFields, Message};
use postgres_protocol::message::frontend::{self, CopyData};
use std::future::Future;
use std::io::{self, Read};
use std::pin::pin;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;
use tokio_postgres::error::SqlState;

/// Number of bytes sent to the server at a time.
const UPLOAD_BYTES: usize = 64 << 10;

/// How often a waiting call checks whether to continue.
const NOTICE: Duration = Duration::from_millis(200);

/// The connection, and the thread's own runtime that drives it while a call waits.
pub struct ReplicationConnection {
    runtime: Runtime,
    wire: Wire,
    /// For messages; no secrets.
    target: String,
}

/// A message from the server.
pub enum Incoming {
    /// A set of rows begins.
    Columns,
    /// A row of the current set.
    Row(Row),
    /// The server expects a stream of data.
    CopyWanted,
    /// A stream of data begins.
    CopyBegins,
    /// A piece of the stream.
    Data(Bytes),
    /// The stream has ended.
    CopyEnds,
    /// A warning, or a notice.
    Warning(String),
    /// The command failed with this error code.
    Failed(SqlState, Error),
    /// The command is complete, and another one may follow.
    Ready,
}

impl ReplicationConnection {
    /// Connects to the server of `conninfo`.
    ///
    /// # Errors
    /// As [`Connection::open`](super::Connection::open); [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if the
    /// user lacks the `REPLICATION` attribute.
    pub fn open(
        conninfo: &Conninfo,
        application_name: &str,
        interruption: &Interruption<'_>,
    ) -> Result<ReplicationConnection> {
        let parameters = Parameters::for_replication(conninfo, application_name)?;
        let what = || format!("could not connect to the server for replication ({})", parameters.target());
        let runtime = Builder::new_current_thread().enable_all().build().context(what)?;
        let connecting = connect(&parameters, async |stream| begin(&parameters, Wire::new(stream)).await);
        let (wire, _) =
            wait_interruptibly(&runtime, interruption, connecting)?.map_err(|error| error.context(what()))?;
        let target = parameters.target();
        Ok(ReplicationConnection { runtime, wire, target })
    }

    /// Sends a command; [`receive`](ReplicationConnection::receive) returns its results.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if the connection is broken.
    pub fn send(&mut self, command: &str) -> Result<()> {
        let mut message = BytesMut::new();
        frontend::query(command, &mut message).map_err(|error| self.broken(error))?;
        self.write(&message)
    }

    /// Waits for the next message of the server.
    ///
    /// # Errors
    /// As [`ReplicationConnection::send`]; those of [`Interruption::check`].
    pub fn receive(&mut self, interruption: &Interruption<'_>) -> Result<Incoming> {
        loop {
            let incoming = match self.message(interruption)? {
                Message::RowDescription(_) => Incoming::Columns,
                Message::DataRow(body) => Incoming::Row(row(&body).map_err(|error| self.broken(error))?),
                Message::CopyInResponse(_) => Incoming::CopyWanted,
                Message::CopyOutResponse(_) => Incoming::CopyBegins,
                Message::CopyData(body) => Incoming::Data(body.into_bytes()),
                Message::CopyDone => Incoming::CopyEnds,
                Message::ReadyForQuery(_) => Incoming::Ready,
                Message::ErrorResponse(body) => {
                    let message = ServerMessage::read(body.fields()).map_err(|error| self.broken(error))?;
                    Incoming::Failed(message.code.clone(), message.into_error("the server refused"))
                }
                Message::NoticeResponse(body) => {
                    match ServerMessage::read(body.fields()).map_err(|error| self.broken(error))? {
                        message if message.severity == "WARNING" || message.severity == "NOTICE" => {
                            Incoming::Warning(message.message)
                        }
                        _ => continue,
                    }
                }
                Message::CommandComplete(_) | Message::ParameterStatus(_) => continue,
                _ => return Err(self.unexpected_response()),
            };
            return Ok(incoming);
        }
    }

    /// Runs a command that returns one row.
    ///
    /// # Errors
    /// As [`ReplicationConnection::receive`]; those of the server.
    pub fn query_row(&mut self, command: &str, interruption: &Interruption<'_>) -> Result<Row> {
        self.send(command)?;
        let mut row = None;
        loop {
            match self.receive(interruption)? {
                Incoming::Row(found) => row = Some(found),
                Incoming::Failed(_, error) => return Err(error),
                Incoming::Ready => return row.ok_or_else(|| self.unexpected_response()),
                _ => {}
            }
        }
    }

    /// Runs a command that expects a stream of data, and sends `content`.
    ///
    /// # Errors
    /// As [`ReplicationConnection::receive`]; those of the server and of `content`.
    pub fn upload(
        &mut self,
        command: &str,
        content: &mut dyn Read,
        interruption: &Interruption<'_>,
    ) -> Result<()> {
        self.send(command)?;
        match self.receive(interruption)? {
            Incoming::CopyWanted => {}
            Incoming::Failed(_, error) => return Err(error),
            _ => return Err(self.unexpected_response()),
        }
        let mut piece = vec![0; UPLOAD_BYTES];
        loop {
            interruption.check()?;
            let length = content.read(&mut piece).context(|| format!("could not run {command}"))?;
            let Some(sent) = piece.get(..length).filter(|sent| !sent.is_empty()) else { break };
            let mut message = BytesMut::new();
            CopyData::new(sent).map_err(|error| self.broken(error))?.write(&mut message);
            self.write(&message)?;
        }
        let mut message = BytesMut::new();
        frontend::copy_done(&mut message);
        self.write(&message)?;
        loop {
            match self.receive(interruption)? {
                Incoming::Failed(_, error) => return Err(error),
                Incoming::Ready => return Ok(()),
                _ => {}
            }
        }
    }

    fn message(&mut self, interruption: &Interruption<'_>) -> Result<Message> {
        wait_interruptibly(&self.runtime, interruption, self.wire.message())?
            .map_err(|error| self.broken(error))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.runtime.block_on(self.wire.write(bytes)).map_err(|error| self.broken(error))
    }

    fn broken(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => return broken_off(&self.target),
            io::ErrorKind::InvalidData => return self.unexpected_response(),
            _ => {}
        }
        lost(format!("the replication connection failed ({})", self.target), error)
    }

    fn unexpected_response(&self) -> Error {
        Error::unavailable(format!("unexpected response from the server ({})", self.target)).hint(
            "Check that it is a PostgreSQL server, and not a pooler. Replication needs a direct connection to the server.",
        )
    }
}

/// Waits, and checks periodically whether to continue.
fn wait_interruptibly<F: Future>(
    runtime: &Runtime,
    interruption: &Interruption<'_>,
    awaited: F,
) -> Result<F::Output> {
    runtime.block_on(async {
        let mut awaited = pin!(awaited);
        loop {
            interruption.check()?;
            tokio::select! {
                biased;
                output = &mut awaited => return Ok(output),
                () = sleep(NOTICE) => {}
            }
        }
    })
}

/// Starts the session and authenticates.
async fn begin(parameters: &Parameters, mut wire: Wire) -> std::result::Result<Wire, Failure> {
    let config = &parameters.config;
    let lost = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Failure::NotReached(broken_off("the session did not start")),
        _ => Failure::NotReached(Error::unavailable("the session did not start").caused_by(error)),
    };
    let mut message = BytesMut::new();
    let words = [
        ("user", config.get_user().unwrap_or_default()),
        ("replication", "true"),
        ("application_name", config.get_application_name().unwrap_or_default()),
        ("client_encoding", "UTF8"),
    ];
    let options = config.get_options().map(|options| ("options", options));
    frontend::startup_message(words.into_iter().chain(options), &mut message).map_err(lost)?;
    wire.write(&message).await.map_err(lost)?;
    let mut authentication = Authentication::new(config, wire.server_end_point());
    loop {
        match wire.message().await.map_err(lost)? {
            Message::ReadyForQuery(_) => return Ok(wire),
            Message::BackendKeyData(_) | Message::ParameterStatus(_) | Message::NoticeResponse(_) => {}
            Message::ErrorResponse(body) => {
                let message = ServerMessage::read(body.fields()).map_err(lost)?;
                let code = message.code.clone();
                return Err(refused_to_begin(&code, message.into_error("the server refused")));
            }
            other => {
                if let Some(answer) = authentication.answer(&other).map_err(Failure::Final)? {
                    wire.write(&answer).await.map_err(lost)?;
                }
            }
        }
    }
}

fn row(body: &DataRowBody) -> io::Result<Row> {
    let mut columns = Vec::new();
    let mut ranges = body.ranges();
    while let Some(range) = ranges.next()? {
        let bytes = range.and_then(|range| body.buffer().get(range));
        columns.push(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
    }
    Ok(Row::new(columns))
}

/// The fields of an error or a warning of the server.
struct ServerMessage {
    severity: String,
    code: SqlState,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl ServerMessage {
    /// Source: PostgreSQL's manual, "Error and Notice Message Fields".
    fn read(mut fields: ErrorFields<'_>) -> io::Result<ServerMessage> {
        let mut message = ServerMessage {
            severity: String::new(),
            code: SqlState::from_code(""),
            message: String::new(),
            detail: None,
            hint: None,
        };
        while let Some(field) = fields.next()? {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                // Never localized, unlike `S`.
                b'V' => message.severity = text,
                b'C' => message.code = SqlState::from_code(&text),
                b'M' => message.message = text,
                b'D' => message.detail = Some(text),
                b'H' => message.hint = Some(text),
                _ => {}
            }
        }
        Ok(message)
    }

    fn into_error(self, what: &str) -> Error {
        refused(what.to_owned(), &self.code, &self.message, self.detail.as_deref(), self.hint.as_deref())
    }
}
