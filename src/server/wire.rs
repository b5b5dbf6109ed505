//! Messages over a connected stream.

use super::stream::Stream;
use bytes::BytesMut;
use postgres_protocol::message::backend::{Header, Message};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Number of bytes read from the server at a time.
const READ_BYTES: usize = 256 << 10;

/// Upper limit for the length of a message, in bytes. The server sends much shorter ones; this limits memory use.
const MESSAGE_BYTES_MAX: i32 = 16 << 20;

/// A stream, and the bytes that were read but not yet parsed.
pub(super) struct Wire {
    stream: Stream,
    incoming: BytesMut,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Wire {
        Wire { stream, incoming: BytesMut::new() }
    }

    /// The channel binding data of the password exchange; `None` without TLS.
    pub(super) fn server_end_point(&self) -> Option<Vec<u8>> {
        self.stream.server_end_point()
    }

    /// Waits for the next message. Cancelling the wait loses nothing.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer closed the connection, `InvalidData` if it is not a PostgreSQL server; the operating
    /// system's.
    pub(super) async fn message(&mut self) -> io::Result<Message> {
        loop {
            // The parser reserves as many bytes as the message announces.
            let header = Header::parse(&self.incoming).map_err(malformed_message)?;
            if header.is_some_and(|header| header.len() > MESSAGE_BYTES_MAX) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if let Some(message) = Message::parse(&mut self.incoming).map_err(malformed_message)? {
                return Ok(message);
            }
            self.incoming.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.incoming).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Sends all bytes.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }
}

fn malformed_message(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
