//! Builds the chain from the server's certificate to a trusted one.
//!
//! It follows OpenSSL as libpq uses it, and is never more lenient: the chain ends in a trusted certificate that names
//! itself as its issuer, which may be the server's own. Every certificate in the chain is checked, including the last.
//! Source: OpenSSL, `x509_vfy.c`, `build_chain`, `check_extensions`, `internal_verify`; `v3_purp.c`,
//! `check_purpose_ssl_server`.

use super::certificate::Certificate;
use super::refusal::Refusal;
use rustls::crypto::CryptoProvider;

/// Upper limit for the number of certificates in a chain.
const LENGTH_MAX: usize = 10;
/// Upper limit for the number of signature verifications for one server.
const SIGNATURES_MAX: usize = 100;

/// The input of the search for a chain.
pub(super) struct Search<'s, 'a> {
    pub(super) trusted: &'s [Certificate<'a>],
    /// The certificates that the server sent besides its own.
    pub(super) sent: &'s [Certificate<'a>],
    pub(super) now_unix_s: i64,
    pub(super) provider: &'s CryptoProvider,
    /// The source of the trusted certificates, for messages.
    pub(super) source: &'s str,
}

/// A chain from the server's certificate to a trusted one.
pub(super) type CertificateChain<'s, 'a> = Vec<&'s Certificate<'a>>;

impl<'s, 'a> Search<'s, 'a> {
    /// Returns the first valid chain.
    ///
    /// # Errors
    /// The problem of the first chain, or that there is none.
    pub(super) fn chain(&self, server: &'s Certificate<'a>) -> Result<CertificateChain<'s, 'a>, Refusal> {
        let mut refused = None;
        let mut signatures = 0;
        let mut waiting = vec![vec![server]];
        while let Some(chain) = waiting.pop() {
            let Some(last) = chain.last() else { continue };
            if last.is_self_issued() {
                if self.trusted.iter().any(|trusted| trusted.der() == last.der()) {
                    match self.check(&chain) {
                        Ok(()) => return Ok(chain),
                        Err(refusal) => refused.get_or_insert(refusal),
                    };
                }
                continue;
            }
            if chain.len() == LENGTH_MAX {
                continue;
            }
            // The last one is tried first: trusted certificates before those that the server sent.
            for issuer in self.sent.iter().chain(self.trusted).filter(|issuer| last.may_be_issued_by(issuer))
            {
                let is_new = chain.iter().all(|link| link.der() != issuer.der());
                signatures += 1;
                if is_new && signatures <= SIGNATURES_MAX && issuer.has_signed(&last.signed(), self.provider)
                {
                    waiting.push(chain.iter().copied().chain([issuer]).collect());
                }
            }
        }
        Err(refused.unwrap_or_else(|| self.no_chain(server)))
    }

    fn no_chain(&self, server: &Certificate<'_>) -> Refusal {
        let name = server.name();
        if server.is_self_issued() {
            return Refusal::new(
                format!("the server's certificate \"{name}\" is self-signed and not in {}", self.source),
                "Set sslrootcert to a copy of that certificate, or use a server certificate issued by a trusted authority.",
            );
        }
        Refusal::new(
            format!("no authority in {} has issued the server's certificate \"{name}\"", self.source),
            "Check that sslrootcert contains the authority's root certificate and that the server sends the intermediate \
             certificates. pgark accepts no signature by MD5 or SHA-1, and no RSA key below 2048 bits.",
        )
    }

    fn check(&self, chain: &[&Certificate<'_>]) -> Result<(), Refusal> {
        for (index, certificate) in chain.iter().enumerate() {
            certificate.check_extensions()?;
            if !certificate.names_one_algorithm() {
                return Err(Refusal::plain(format!(
                    "the certificate \"{}\" names two different signature algorithms",
                    certificate.name()
                )));
            }
            match index {
                0 => check_server(certificate)?,
                _ => check_authority(certificate, chain.get(1..index).unwrap_or_default())?,
            }
            certificate.check_time(self.now_unix_s)?;
        }
        Ok(())
    }
}

/// Checks that the certificate may be a server's; an authority's may be one, too.
fn check_server(certificate: &Certificate<'_>) -> Result<(), Refusal> {
    let for_servers = certificate.extended_key_usage().is_none_or(|usage| usage.server_auth);
    // Certificates with RSA keys may allow only the key exchange of older TLS versions.
    let for_tls = certificate.key_usage().is_none_or(|usage| {
        usage.digital_signature()
            || certificate.has_rsa_key() && (usage.key_encipherment() || usage.key_agreement())
    });
    // A path length without meaning makes the certificate invalid in OpenSSL before version 3.
    let is_sound =
        certificate.basic_constraints().is_none_or(|found| found.ca || found.path_len_constraint.is_none());
    if for_servers && for_tls && is_sound && certificate.is_of_server_type() {
        return Ok(());
    }
    Err(Refusal::new(
        format!("the certificate \"{}\" is not for a server", certificate.name()),
        "Its extended key usage must contain serverAuth, its key usage digitalSignature; or have it issued without them.",
    ))
}

/// Checks that the certificate may issue others; `below` are those between it and the server's.
fn check_authority(certificate: &Certificate<'_>, below: &[&Certificate<'_>]) -> Result<(), Refusal> {
    let constraints = certificate.basic_constraints();
    let is_authority = match constraints {
        Some(constraints) => constraints.ca,
        // Version 1 has no extensions to state this.
        None => certificate.is_of_version_1() && certificate.is_self_issued(),
    };
    let may_sign = certificate.key_usage().is_none_or(|usage| usage.key_cert_sign());
    let for_servers = certificate.extended_key_usage().is_none_or(|usage| usage.server_auth);
    if !is_authority || !may_sign || !for_servers {
        return Err(Refusal::new(
            format!("the certificate \"{}\" may not issue server certificates", certificate.name()),
            "It needs the basic constraint CA:TRUE, and keyCertSign where it has a key usage.",
        ));
    }
    let counted = below.iter().filter(|link| !link.is_self_issued()).count();
    match constraints.and_then(|constraints| constraints.path_len_constraint) {
        Some(most) if usize::try_from(most).is_ok_and(|most| counted > most) => Err(Refusal::plain(format!(
            "the certificate \"{}\" may have only {most} others between it and the server's",
            certificate.name()
        ))),
        _ => Ok(()),
    }
}
