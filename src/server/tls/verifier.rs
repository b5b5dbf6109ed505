//! Verifies the certificate that a server presents in its handshake.
//!
//! The verifier of rustls refuses certificates that are common with PostgreSQL: version 1, an authority's certificate
//! used as the server's own, the host in the common name. This one accepts them, as libpq does. In every mode the
//! server must hold the key of its certificate: the signature of the handshake is always checked.

use super::certificate::Certificate;
use super::chain::Search;
use super::files::Trust;
use super::refusal::Refusal;
use super::{names, revocation};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;
use webpki::RawPublicKeyEntity;

/// A verifier for one host.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) provider: Arc<CryptoProvider>,
    /// `None` accepts any certificate.
    pub(super) trust: Option<Trust>,
    /// The name that the certificate must have; `None` accepts any.
    pub(super) host: Option<String>,
}

impl Verifier {
    fn verify(&self, server: &[u8], sent: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Refusal> {
        let Some(trust) = &self.trust else { return Ok(()) };
        let server = Certificate::parse(server)?;
        // A certificate that cannot be parsed cannot be part of a chain.
        let sent: Vec<Certificate<'_>> = sent.iter().filter_map(|der| Certificate::parse(der).ok()).collect();
        let trusted: Vec<Certificate<'_>> =
            trust.roots.iter().filter_map(|der| Certificate::parse(der).ok()).collect();
        let now_unix_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let search = Search {
            trusted: &trusted,
            sent: &sent,
            now_unix_s,
            provider: &self.provider,
            source: &trust.source,
        };
        let chain = search.chain(&server)?;
        if !trust.revoked.is_empty() {
            revocation::check(&chain, &trust.revoked, now_unix_s, &self.provider)?;
        }
        match &self.host {
            Some(host) => names::check(&server, host),
            None => Ok(()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::parse(certificate).map_err(refused)?;
        let spki = certificate.key();
        let key = RawPublicKeyEntity::try_from(&spki).map_err(|_| CertificateError::BadEncoding)?;
        let known = self.provider.signature_verification_algorithms.mapping;
        let algorithms =
            known.iter().find(|(scheme, _)| *scheme == signed.scheme).map(|(_, algorithms)| *algorithms);
        // In this version, a signature scheme does not determine the curve of the key.
        let holds = algorithms
            .unwrap_or_default()
            .iter()
            .any(|algorithm| key.verify_signature(*algorithm, message, signed.signature()).is_ok());
        match holds {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::parse(certificate).map_err(refused)?;
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &certificate.key(), signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A refusal on its way through rustls.
fn refused(refusal: Refusal) -> Error {
    CertificateError::Other(OtherError(Arc::new(refusal))).into()
}

/// A server's certificate with everything that its verification depends on, without a connection.
///
/// For tests of the verification alone; a connection verifies in its handshake.
#[derive(Debug)]
pub struct PresentedCertificate<'a> {
    /// The server's own certificate, in DER.
    pub server: &'a [u8],
    /// The other certificates that the server sent, in DER.
    pub sent: &'a [&'a [u8]],
    /// The trusted certificates, in DER.
    pub roots: &'a [&'a [u8]],
    /// The revocation lists, in DER; none means that revocation is not checked.
    pub revoked: &'a [&'a [u8]],
    /// The name that the certificate must have; `None` accepts any.
    pub host: Option<&'a str>,
    /// Seconds since 1970.
    pub now_unix_s: u64,
}

impl PresentedCertificate<'_> {
    /// Whether the certificate passes.
    pub fn is_accepted(&self) -> bool {
        let verifier = Verifier {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            trust: Some(Trust {
                roots: self.roots.iter().map(|der| CertificateDer::from(der.to_vec())).collect(),
                revoked: self.revoked.iter().map(|der| der.to_vec().into()).collect(),
                source: "the given roots".to_owned(),
            }),
            host: self.host.map(str::to_owned),
        };
        let sent: Vec<CertificateDer<'_>> = self.sent.iter().map(|der| CertificateDer::from(*der)).collect();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(self.now_unix_s));
        verifier.verify(self.server, &sent, now).is_ok()
    }
}
