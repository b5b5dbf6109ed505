//! Password authentication, with the methods that tokio-postgres supports.

use crate::error::{Error, Result};
use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use std::io;
use tokio_postgres::Config;
use tokio_postgres::config::ChannelBinding;

/// The state of an authentication.
pub(super) struct Authentication<'a> {
    config: &'a Config,
    /// The channel binding data; `None` without TLS.
    server_end_point: Option<Vec<u8>>,
    scram: Option<ScramSha256>,
    bound: Bound,
}

/// Whether the exchange was bound to the server's certificate, and the server has proved that it knows the password.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    No,
    Asked,
    Proved,
}

impl<'a> Authentication<'a> {
    pub(super) fn new(config: &'a Config, server_end_point: Option<Vec<u8>>) -> Authentication<'a> {
        Authentication { config, server_end_point, scram: None, bound: Bound::No }
    }

    /// The response to a message of the server; `None` if none is needed.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if there is no password, if the server requests an
    /// unsupported method, and if the server itself does not know the password.
    pub(super) fn answer(&mut self, message: &Message) -> Result<Option<BytesMut>> {
        let mut answer = BytesMut::new();
        match message {
            Message::AuthenticationOk => {
                self.check_bound(self.bound == Bound::Proved)?;
                return Ok(None);
            }
            Message::AuthenticationCleartextPassword => {
                self.check_bound(false)?;
                frontend::password_message(self.password()?, &mut answer).map_err(failed)?;
            }
            Message::AuthenticationMd5Password(body) => {
                self.check_bound(false)?;
                let user = self.config.get_user().unwrap_or_default();
                let hash = md5_hash(user.as_bytes(), self.password()?, body.salt());
                frontend::password_message(hash.as_bytes(), &mut answer).map_err(failed)?;
            }
            Message::AuthenticationSasl(body) => {
                let (mut plain, mut plus) = (false, false);
                body.mechanisms()
                    .for_each(|name| {
                        plain |= name == SCRAM_SHA_256;
                        plus |= name == SCRAM_SHA_256_PLUS;
                        Ok(())
                    })
                    .map_err(failed)?;
                let (mechanism, binding) = self.mechanism(plain, plus)?;
                let scram = ScramSha256::new(self.password()?, binding);
                frontend::sasl_initial_response(mechanism, scram.message(), &mut answer).map_err(failed)?;
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
                if self.bound == Bound::Asked {
                    self.bound = Bound::Proved;
                }
                return Ok(None);
            }
            _ => return Err(unsupported()),
        }
        Ok(Some(answer))
    }

    /// Chooses one of the mechanisms that the server offers. If TLS is used but no bound mechanism is offered, the client
    /// says so in the exchange: a server that did offer one detects the man in the middle who removed it.
    ///
    /// Source: RFC 5802, section 6; PostgreSQL's `fe-auth.c`, `pg_SASL_init`.
    fn mechanism(&mut self, plain: bool, plus: bool) -> Result<(&'static str, sasl::ChannelBinding)> {
        let wanted = self.config.get_channel_binding() != ChannelBinding::Disable;
        match self.server_end_point.take().filter(|_| wanted) {
            Some(hash) if plus => {
                self.bound = Bound::Asked;
                Ok((SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash)))
            }
            end_point if plain => {
                self.check_bound(false)?;
                let binding = match end_point {
                    Some(_) => sasl::ChannelBinding::unrequested(),
                    None => sasl::ChannelBinding::unsupported(),
                };
                Ok((SCRAM_SHA_256, binding))
            }
            _ => Err(unsupported()),
        }
    }

    /// Fails if the exchange must be bound but is not.
    fn check_bound(&self, is_bound: bool) -> Result<()> {
        if is_bound || self.config.get_channel_binding() != ChannelBinding::Require {
            return Ok(());
        }
        Err(not_bound())
    }

    fn password(&self) -> Result<&'a [u8]> {
        self.config.get_password().ok_or_else(|| {
            Error::usage("the server requires a password").hint(
                "Put it into the owner's ~/.pgpass (database \"replication\" or the same as for other connections), or into \
                 the connection's parameters.",
            )
        })
    }
}

/// The error for a server that does not offer channel binding.
pub(super) fn not_bound() -> Error {
    Error::usage("the server does not bind the authentication to its certificate, as channel_binding=require demands")
        .hint("Channel binding requires TLS and scram-sha-256 in pg_hba.conf, with a password stored for scram-sha-256. If the \
               server is configured so, the connection may be intercepted (man in the middle).")
}

fn failed(error: io::Error) -> Error {
    Error::usage("could not authenticate").caused_by(error)
}

fn unsupported() -> Error {
    Error::usage("the server requires an authentication method that pgark does not support")
        .hint("In pg_hba.conf, allow this user replication by trust, peer, scram-sha-256, md5 or password.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &[u8]) -> Message {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        let mut bytes = BytesMut::from([b"R", &length[..], body].concat().as_slice());
        Message::parse(&mut bytes).unwrap().unwrap()
    }

    /// The expected response to each request; `None` if the request is rejected.
    fn answers(binding: ChannelBinding, tls: bool, request: &[u8]) -> Option<Vec<u8>> {
        let mut config = Config::new();
        config.user("op").password("geheim").channel_binding(binding);
        let mut authentication = Authentication::new(&config, tls.then(|| vec![7; 32]));
        let answer = authentication.answer(&message(request)).ok()?;
        Some(answer.map(|answer| answer.to_vec()).unwrap_or_default())
    }

    const OK: &[u8] = b"\0\0\0\0";
    const PASSWORD: &[u8] = b"\0\0\0\x03";
    const MD5: &[u8] = b"\0\0\0\x05salt";
    const PLAIN: &[u8] = b"\0\0\0\x0ASCRAM-SHA-256\0\0";
    const BOTH: &[u8] = b"\0\0\0\x0ASCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";

    #[test]
    fn nothing_is_told_to_a_server_that_binds_nothing() {
        for request in [OK, PASSWORD, MD5, PLAIN] {
            assert_eq!(answers(ChannelBinding::Require, true, request), None);
            assert!(answers(ChannelBinding::Prefer, true, request).is_some());
        }
        assert_eq!(answers(ChannelBinding::Require, false, BOTH), None);
    }

    #[test]
    fn the_mechanism_says_what_is_known_of_the_other_side() {
        let starts = |binding, tls, request| {
            let answer = answers(binding, tls, request).unwrap();
            let text = String::from_utf8_lossy(&answer).into_owned();
            let mechanism = text.contains("SCRAM-SHA-256-PLUS\0");
            let flag = ["p=tls-server-end-point,", "y,,", "n,,"].into_iter().find(|flag| text.contains(flag));
            (mechanism, flag.unwrap())
        };
        assert_eq!(starts(ChannelBinding::Prefer, true, BOTH), (true, "p=tls-server-end-point,"));
        assert_eq!(starts(ChannelBinding::Require, true, BOTH), (true, "p=tls-server-end-point,"));
        // A bound exchange was possible: a man in the middle may have removed the offer.
        assert_eq!(starts(ChannelBinding::Prefer, true, PLAIN), (false, "y,,"));
        assert_eq!(starts(ChannelBinding::Disable, true, BOTH), (false, "n,,"));
        assert_eq!(starts(ChannelBinding::Prefer, false, PLAIN), (false, "n,,"));
    }
}
