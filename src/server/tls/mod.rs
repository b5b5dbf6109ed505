//! TLS to the server, by libpq's rules.
//!
//! Owns: which settings there are, what they say of a server's certificate, and the handshake. Does not own: the socket, and when
//! a connection is tried with TLS and when without (that is `connect`).
//!
//! The rule above all others: what libpq refuses is refused. What libpq accepts and pgark refuses stands in `docs/tls.md`.

mod binding;
mod certificate;
mod chain;
mod files;
mod handshake;
mod names;
mod refusal;
mod revocation;
mod settings;
mod verifier;

pub(super) use binding::server_end_point;
pub(super) use handshake::{Handshake, failed};
pub(super) use settings::{ChannelBinding, Sources, SslMode, TlsSettings};
