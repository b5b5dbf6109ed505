//! TLS to the server, by libpq's rules.
//!
//! Owns: the settings, the verification of the server's certificate, and the handshake. Does not own: the socket, and
//! the choice between encrypted and unencrypted attempts (that is `connect`).
//!
//! pgark never accepts what libpq refuses. `docs/tls.md` lists what libpq accepts and pgark refuses.

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
pub use verifier::PresentedCertificate;
