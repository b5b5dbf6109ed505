//! Certificate revocation lists.
//!
//! As in libpq: if there are any lists, there must be one for every certificate in the chain, signed by its
//! issuer and up to date. Source: `fe-secure-openssl.c`, `initialize_SSL`; OpenSSL, `x509_vfy.c`, `check_revocation`.

use super::certificate::{Certificate, Signed};
use super::refusal::Refusal;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateRevocationListDer;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// Checks every certificate of a chain against `lists`.
pub(super) fn check(
    chain: &[&Certificate<'_>],
    lists: &[CertificateRevocationListDer<'_>],
    now_unix_s: i64,
    provider: &CryptoProvider,
) -> Result<(), Refusal> {
    let lists: Vec<CertificateRevocationList<'_>> =
        lists.iter().map(|der| parse(der)).collect::<Result<_, Refusal>>()?;
    for (index, certificate) in chain.iter().enumerate() {
        // The last certificate is self-issued.
        let issuer = chain.get(index + 1).unwrap_or(certificate);
        let mut outdated = None;
        let list = lists
            .iter()
            .filter(|list| list.issuer().as_raw() == issuer.subject() && is_signed_by(list, issuer, provider))
            .find(|list| match is_current(list, now_unix_s) {
                true => true,
                false => {
                    outdated = list.next_update();
                    false
                }
            });
        let Some(list) = list else {
            return Err(missing(certificate, issuer, outdated.map(|time| time.to_string())));
        };
        if list.iter_revoked_certificates().any(|revoked| revoked.raw_serial() == certificate.serial()) {
            return Err(Refusal::new(
                format!("the certificate \"{}\" was revoked by its issuer", certificate.name()),
                "Install a new certificate on the server.",
            ));
        }
    }
    Ok(())
}

fn parse(der: &[u8]) -> Result<CertificateRevocationList<'_>, Refusal> {
    match CertificateRevocationList::from_der(der) {
        Ok(([], list)) => Ok(list),
        _ => Err(Refusal::plain("a revocation list cannot be parsed")),
    }
}

fn missing(certificate: &Certificate<'_>, issuer: &Certificate<'_>, outdated: Option<String>) -> Refusal {
    let name = certificate.name();
    match outdated {
        Some(time) => Refusal::new(
            format!("the revocation list for the certificate \"{name}\" was valid until {time}"),
            "Put the issuer's newest list into the file that sslcrl names.",
        ),
        None => Refusal::new(
            format!("there is no revocation list by \"{}\" for the certificate \"{name}\"", issuer.name()),
            "If sslcrl (or ~/.postgresql/root.crl) exists, it must contain a list of every authority in the chain.",
        ),
    }
}

/// Whether the issuer has signed the list and may do so, and whether the list covers all its certificates.
fn is_signed_by(
    list: &CertificateRevocationList<'_>,
    issuer: &Certificate<'_>,
    provider: &CryptoProvider,
) -> bool {
    let may = issuer.key_usage().is_none_or(|usage| usage.crl_sign());
    let is_plain = list.extensions().iter().all(|extension| {
        !extension.critical
            && !matches!(extension.parsed_extension(), ParsedExtension::IssuingDistributionPoint(_))
    });
    let signed = Signed {
        content: list.tbs_cert_list.as_ref(),
        algorithm: &list.signature_algorithm,
        signature: &list.signature_value.data,
    };
    may && is_plain && issuer.has_signed(&signed, provider)
}

fn is_current(list: &CertificateRevocationList<'_>, now_unix_s: i64) -> bool {
    let ends = list.next_update().is_none_or(|next| now_unix_s < next.timestamp());
    list.last_update().timestamp() <= now_unix_s && ends
}
