//! The TLS handshake of a connection.

use super::files;
use super::refusal::Refusal;
use super::settings::{Negotiation, Protocol, SslMode, TlsSettings};
use super::verifier::Verifier;
use crate::error::{Error, Result};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{DnsName, ServerName};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, SupportedProtocolVersion, version};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The ALPN name of PostgreSQL's protocol. Servers from 17 on require it for direct TLS; older ones ignore it.
const PROTOCOL: &[u8] = b"postgresql";

/// The configuration of handshakes with one server.
#[derive(Clone, Debug)]
pub(in crate::server) struct Handshake {
    config: Arc<ClientConfig>,
    host: Option<String>,
    negotiation: Negotiation,
}

impl Handshake {
    /// Reads the files; `host` is the requested name.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for missing or unusable files, and for `verify-full`
    /// without a host name.
    pub(in crate::server) fn new(settings: &TlsSettings, host: Option<&str>) -> Result<Handshake> {
        let provider = Arc::new(ring::default_provider());
        let wanted = match (settings.mode, host) {
            (SslMode::VerifyFull, None) => {
                return Err(Error::usage("sslmode=verify-full needs a host name")
                    .hint("Set host to a name in the server's certificate; hostaddr can set its address."));
            }
            (SslMode::VerifyFull, Some(host)) => Some(host.to_owned()),
            _ => None,
        };
        let verifier = Verifier { provider: provider.clone(), trust: files::trust(settings)?, host: wanted };
        let mut config = client_config(settings, &provider, verifier)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.enable_sni = settings.server_name_indication;
        Ok(Handshake {
            config: Arc::new(config),
            host: host.map(str::to_owned),
            negotiation: settings.negotiation,
        })
    }

    /// Whether TLS begins without a request.
    pub(in crate::server) fn is_direct(&self) -> bool {
        self.negotiation == Negotiation::Direct
    }

    /// Performs the handshake on a socket whose peer expects it.
    ///
    /// # Errors
    /// See [`failed`]; also if the peer does not confirm PostgreSQL's protocol although it must.
    pub(in crate::server) async fn shake(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = self.name(socket.peer_addr()?.ip());
        let stream = TlsConnector::from(self.config.clone()).connect(name, socket).await?;
        if self.is_direct() && stream.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
            return Err(io::Error::other("the peer did not negotiate PostgreSQL's protocol"));
        }
        Ok(stream)
    }

    /// The server name to send (SNI); none for an address.
    fn name(&self, address: IpAddr) -> ServerName<'static> {
        let host = self.host.as_deref().filter(|host| host.parse::<IpAddr>().is_err());
        let name = host.and_then(|host| DnsName::try_from(host.to_owned()).ok());
        name.map_or_else(|| ServerName::IpAddress(address.into()), ServerName::DnsName)
    }
}

fn client_config(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
    verifier: Verifier,
) -> Result<ClientConfig> {
    let impossible = |error: rustls::Error| Error::usage("could not set up TLS").caused_by(error);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(settings))
        .map_err(impossible)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(match files::own(settings, provider)? {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        None => builder.with_no_client_auth(),
    })
}

fn versions(settings: &TlsSettings) -> Vec<&'static SupportedProtocolVersion> {
    [(Protocol::Tls13, &version::TLS13), (Protocol::Tls12, &version::TLS12)]
        .into_iter()
        .filter(|(protocol, _)| (settings.oldest..=settings.newest).contains(protocol))
        .map(|(_, version)| version)
        .collect()
}

/// The error for a failed handshake.
pub(in crate::server) fn failed(error: io::Error) -> Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
            match other.0.downcast_ref::<Refusal>() {
                Some(refusal) => refusal.clone().into_error(),
                None => Error::usage(format!("the server's certificate was rejected: {}", other.0)),
            }
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            Error::usage(format!("the server aborted the TLS handshake: {alert:?}")).hint(
                "Check the server's log. pgark supports TLSv1.2 and TLSv1.3, with certificates whose keys are RSA of 2048 to \
                 8192 bits, ECDSA on P-256 or P-384, or Ed25519.",
            )
        }
        Some(cause) => Error::unavailable(format!("the TLS handshake failed: {cause}"))
            .hint("Check that it is a PostgreSQL server, and that no proxy responds in its place."),
        None => Error::io("the TLS handshake failed", error),
    }
}
