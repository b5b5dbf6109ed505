//! Connects to the server: tries hosts, addresses and encryption modes in the order of libpq.
//!
//! Owns: the order of the attempts and the TLS negotiation. Does not own: the session.
//! Source: PostgreSQL's manual, "Specifying Multiple Hosts", "SSL Session Encryption"; `fe-connect.c`, `PQconnectPoll`.

use super::parameters::{Address, HostAddress, Parameters};
use super::stream::Stream;
use super::tls::{self, Handshake, SslMode};
use crate::error::{Error, Result};
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_postgres::config::LoadBalanceHosts;

/// The reason why an attempt failed, which determines the next one.
pub(super) enum Failure {
    /// The server is unreachable. Continue with the next host.
    NotReached(Error),
    /// The server rejected the client, or the client rejected the server. Continue with the other encryption mode.
    Refused(Error),
    /// Do not continue.
    Final(Error),
}

/// The parameters of another connection to the same server in the same mode.
#[derive(Clone, Debug)]
pub(super) struct Way {
    endpoint: Endpoint,
    handshake: Option<Handshake>,
}

#[derive(Clone, Debug)]
enum Endpoint {
    Socket(PathBuf),
    Address(SocketAddr),
}

/// Whether a connection uses TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Tls,
    Plain,
}

/// The server's response to the TLS request.
enum EncryptionResponse {
    Yes,
    No,
}

/// Connects, and begins a session on the connection with `begin`.
///
/// # Errors
/// Those of the last host, for every mode tried there.
pub(super) async fn connect<T>(
    parameters: &Parameters,
    begin: impl AsyncFn(Stream) -> std::result::Result<T, Failure>,
) -> Result<(T, Way)> {
    let mut last = Error::usage("the connection parameters contain no host");
    let mut places = parameters.places()?;
    if parameters.config.get_load_balance_hosts() == LoadBalanceHosts::Random {
        begin_anywhere(&mut places);
    }
    for place in places {
        let endpoints = match timeout(parameters.connect_timeout(), endpoints(&place)).await {
            Ok(Ok(endpoints)) => endpoints,
            Ok(Err(error)) => {
                last = Error::io("the host name could not be resolved", error);
                continue;
            }
            Err(_) => {
                last = Error::unavailable("the host name was not resolved in time");
                continue;
            }
        };
        for endpoint in endpoints {
            let attempt = Attempt { parameters, place: &place, endpoint };
            match attempt.in_every_mode(&begin).await {
                Ok((session, way)) => {
                    let encrypted = way.handshake.is_some();
                    tracing::debug!(endpoint = ?way.endpoint, encrypted, "connected to the server");
                    return Ok((session, way));
                }
                Err(Failure::NotReached(error)) => {
                    tracing::debug!(%error, "could not connect to one of the server's addresses");
                    last = error;
                }
                Err(Failure::Refused(error) | Failure::Final(error)) => return Err(error),
            }
        }
    }
    Err(last)
}

/// Rotates the places by a random number.
fn begin_anywhere(places: &mut [HostAddress]) {
    let random = usize::try_from(RandomState::new().hash_one(())).unwrap_or_default();
    if let Some(first) = random.checked_rem(places.len()) {
        places.rotate_left(first);
    }
}

async fn endpoints(place: &HostAddress) -> io::Result<Vec<Endpoint>> {
    match &place.address {
        Address::Socket(directory) => {
            Ok(vec![Endpoint::Socket(directory.join(format!(".s.PGSQL.{}", place.port)))])
        }
        Address::Host(host) => {
            let found: Vec<Endpoint> =
                lookup_host((host.as_str(), place.port)).await?.map(Endpoint::Address).collect();
            match found.is_empty() {
                true => Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address")),
                false => Ok(found),
            }
        }
    }
}

/// One place, through one of its addresses.
struct Attempt<'a> {
    parameters: &'a Parameters,
    place: &'a HostAddress,
    endpoint: Endpoint,
}

impl Attempt<'_> {
    /// Tries the preferred mode, and then the other one if the settings allow both.
    async fn in_every_mode<T>(
        &self,
        begin: &impl AsyncFn(Stream) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<(T, Way), Failure> {
        let (first, second) = match (&self.endpoint, self.parameters.tls.mode) {
            // A Unix socket needs no encryption.
            (Endpoint::Socket(_), _) | (_, SslMode::Disable) => (Encryption::Plain, None),
            (_, SslMode::Allow) => (Encryption::Plain, Some(Encryption::Tls)),
            (_, SslMode::Prefer) => (Encryption::Tls, Some(Encryption::Plain)),
            _ => (Encryption::Tls, None),
        };
        match (self.within_its_time(first, begin).await, second) {
            (Err(Failure::Refused(error)), Some(second)) => {
                self.within_its_time(second, begin).await.map_err(|failure| match failure {
                    Failure::Refused(other) => Failure::Refused(both(&error, other, second)),
                    Failure::Final(other) => Failure::Final(both(&error, other, second)),
                    not_reached => not_reached,
                })
            }
            (other, _) => other,
        }
    }

    async fn within_its_time<T>(
        &self,
        encryption: Encryption,
        begin: &impl AsyncFn(Stream) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<(T, Way), Failure> {
        let limit = self.parameters.connect_timeout();
        timeout(limit, self.once(encryption, begin)).await.unwrap_or_else(|_| {
            Err(Failure::NotReached(
                Error::unavailable(format!("no response within {} s", limit.as_secs()))
                    .hint("To wait longer, raise connect_timeout in the connection parameters."),
            ))
        })
    }

    async fn once<T>(
        &self,
        encryption: Encryption,
        begin: &impl AsyncFn(Stream) -> std::result::Result<T, Failure>,
    ) -> std::result::Result<(T, Way), Failure> {
        let handshake = match encryption {
            Encryption::Plain => None,
            Encryption::Tls => {
                let made = Handshake::new(&self.parameters.tls, self.place.host.as_deref());
                Some(made.map_err(Failure::Final)?)
            }
        };
        let mut way = Way { endpoint: self.endpoint.clone(), handshake };
        let stream = way.open(self.parameters).await?;
        if stream.is_encrypted() {
            return Ok((begin(stream).await?, way));
        }
        // The server chose the other mode itself, so a second attempt would repeat this one.
        let is_other_mode = way.handshake.take().is_some();
        let begun = begin(stream).await.map_err(|failure| match failure {
            Failure::Refused(error) if is_other_mode => Failure::Final(error),
            other => other,
        })?;
        Ok((begun, way))
    }
}

impl Way {
    /// Opens another connection in the same mode.
    ///
    /// # Errors
    /// Those of connecting.
    pub(super) async fn again(&self, parameters: &Parameters) -> Result<Stream> {
        self.open(parameters).await.map_err(|failure| match failure {
            Failure::NotReached(error) | Failure::Refused(error) | Failure::Final(error) => error,
        })
    }

    /// Opens a socket and negotiates TLS if this way uses it. With `prefer`, the server may decline.
    async fn open(&self, parameters: &Parameters) -> std::result::Result<Stream, Failure> {
        let mut socket = match &self.endpoint {
            Endpoint::Socket(path) => {
                return UnixStream::connect(path).await.map(Stream::Unix).map_err(not_reached);
            }
            Endpoint::Address(address) => TcpStream::connect(address).await.map_err(not_reached)?,
        };
        socket.set_nodelay(true).map_err(not_reached)?;
        parameters.keepalive.apply(&socket).map_err(not_reached)?;
        let Some(handshake) = &self.handshake else { return Ok(Stream::Tcp(socket)) };
        if !handshake.is_direct()
            && let EncryptionResponse::No = ask_for_tls(&mut socket).await?
        {
            return match parameters.tls.mode {
                SslMode::Prefer => Ok(Stream::Tcp(socket)),
                _ => Err(Failure::Refused(
                    Error::usage("the server does not support TLS, which the connection's sslmode requires").hint(
                        "Set ssl = on at the server, with a certificate, or use sslmode=disable on a trusted network.",
                    ),
                )),
            };
        }
        let shaken = handshake.shake(socket).await;
        shaken
            .map(|stream| Stream::Tls(Box::new(stream)))
            .map_err(|error| Failure::Refused(tls::failed(error)))
    }
}

/// Requests TLS. Any byte after the one-byte response is refused: a man in the middle could inject data that would
/// later be attributed to the server (CVE-2021-23222).
async fn ask_for_tls(socket: &mut TcpStream) -> std::result::Result<EncryptionResponse, Failure> {
    let mut question = BytesMut::new();
    frontend::ssl_request(&mut question);
    socket.write_all(&question).await.map_err(not_reached)?;
    let mut answer = [0; 2];
    let length = socket.read(&mut answer).await.map_err(not_reached)?;
    match (length, answer) {
        (0, _) => Err(Failure::NotReached(
            Error::unavailable(
                "the server closed the connection before TLS negotiation completed",
            )
            .hint("Check that it is a PostgreSQL server. sslnegotiation=direct needs version 17."),
        )),
        (1, [b'S', _]) => Ok(EncryptionResponse::Yes),
        (1, [b'N', _]) => Ok(EncryptionResponse::No),
        (_, [b'S' | b'N', _]) => Err(Failure::Final(
            Error::unavailable("received unexpected unencrypted data after the response to the TLS request")
                .hint("The connection may be intercepted (man in the middle). Check the network path to the server."),
        )),
        (_, [b'E', _]) => Err(Failure::Final(
            Error::unavailable("the server reported an error in response to the TLS request")
                .hint("Check the server's log."),
        )),
        _ => Err(Failure::Final(
            Error::unavailable("the peer does not use PostgreSQL's protocol")
                .hint("Check host and port."),
        )),
    }
}

fn not_reached(error: io::Error) -> Failure {
    Failure::NotReached(Error::io("the connection failed", error))
}

/// Combines the errors of both modes, unless they are equal.
fn both(first: &Error, second: Error, encryption: Encryption) -> Error {
    let (first_text, second_text) = (first.to_string(), second.to_string());
    if first_text == second_text {
        return second;
    }
    let mode = match encryption {
        Encryption::Tls => "with",
        Encryption::Plain => "without",
    };
    let hint = first.hint_text().or(second.hint_text()).map(str::to_owned);
    let error = Error::new(first.kind(), format!("{first_text}; {mode} TLS: {second_text}"));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
