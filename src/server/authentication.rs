//! How a client proves to the server who it is: with a password, in the ways that tokio-postgres knows as well.

use crate::error::{Error, Result};
use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use std::io;
use tokio_postgres::Config;

/// An authentication that is going on.
pub(super) struct Authentication<'a> {
    config: &'a Config,
    scram: Option<ScramSha256>,
}

impl<'a> Authentication<'a> {
    pub(super) fn new(config: &'a Config) -> Authentication<'a> {
        Authentication { config, scram: None }
    }

    /// What to send after a message of the server; `None`: nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when there is no password, or the server wants what pgark
    /// cannot give; and when the server itself does not know the password.
    pub(super) fn answer(&mut self, message: &Message) -> Result<Option<BytesMut>> {
        let mut answer = BytesMut::new();
        match message {
            Message::AuthenticationCleartextPassword => {
                frontend::password_message(self.password()?, &mut answer).map_err(failed)?;
            }
            Message::AuthenticationMd5Password(body) => {
                let user = self.config.get_user().unwrap_or_default();
                let hash = md5_hash(user.as_bytes(), self.password()?, body.salt());
                frontend::password_message(hash.as_bytes(), &mut answer).map_err(failed)?;
            }
            Message::AuthenticationSasl(body) => {
                let known = body.mechanisms().any(|name| Ok(name == SCRAM_SHA_256)).map_err(failed)?;
                if !known {
                    return Err(unsupported());
                }
                let scram = ScramSha256::new(self.password()?, ChannelBinding::unsupported());
                frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut answer)
                    .map_err(failed)?;
                self.scram = Some(scram);
            }
            Message::AuthenticationSaslContinue(body) => {
                let scram = self.scram.as_mut().ok_or_else(unsupported)?;
                scram.update(body.data()).map_err(failed)?;
                frontend::sasl_response(scram.message(), &mut answer).map_err(failed)?;
            }
            Message::AuthenticationSaslFinal(body) => {
                let scram = self.scram.as_mut().ok_or_else(unsupported)?;
                scram.finish(body.data()).map_err(failed)?;
                return Ok(None);
            }
            _ => return Err(unsupported()),
        }
        Ok(Some(answer))
    }

    fn password(&self) -> Result<&'a [u8]> {
        self.config.get_password().ok_or_else(|| {
            Error::usage("the server wants a password").hint(
                "Put it into the owner's ~/.pgpass (database \"replication\" or the same as for other connections), or into \
                 the connection's parameters.",
            )
        })
    }
}

fn failed(error: io::Error) -> Error {
    Error::usage("could not authenticate").caused_by(error)
}

fn unsupported() -> Error {
    Error::usage("the server wants an authentication that pgark does not know")
        .hint("pg_hba.conf must allow this user replication by trust, peer, scram-sha-256, md5 or password.")
}
