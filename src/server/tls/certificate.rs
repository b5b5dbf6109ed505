//! A parsed certificate, with the properties that verification needs.
//!
//! Certificates of every version are accepted: with OpenSSL before 3.2, the commands in PostgreSQL's manual create one
//! of version 1.

use super::refusal::Refusal;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;
use x509_parser::asn1_rs::ToDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{BasicConstraints, ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension};
use x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION;
use x509_parser::prelude::FromDer;
use x509_parser::x509::AlgorithmIdentifier;

/// A parsed certificate.
#[derive(Debug)]
pub(super) struct Certificate<'a> {
    der: &'a [u8],
    parsed: X509Certificate<'a>,
}

/// Extensions that limit a certificate or those below it, whether or not they are marked as critical.
const LIMITS: [(&str, &str); 4] = [
    ("2.5.29.30", "the names that it may certify (name constraints)"),
    ("1.3.6.1.5.5.7.1.7", "the addresses that it may certify"),
    ("1.3.6.1.5.5.7.1.8", "the networks that it may certify"),
    ("1.3.6.1.5.5.7.1.14", "its use to a proxy"),
];

/// Signed content, with its signature and algorithm.
pub(super) struct Signed<'a> {
    pub(super) content: &'a [u8],
    pub(super) algorithm: &'a AlgorithmIdentifier<'a>,
    pub(super) signature: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Parses all of `der`.
    pub(super) fn parse(der: &'a [u8]) -> Result<Certificate<'a>, Refusal> {
        match X509Certificate::from_der(der) {
            Ok(([], parsed)) => Ok(Certificate { der, parsed }),
            _ => Err(Refusal::plain("a certificate cannot be parsed")),
        }
    }

    pub(super) fn der(&self) -> &'a [u8] {
        self.der
    }

    /// The public key with its algorithm.
    pub(super) fn key(&self) -> SubjectPublicKeyInfoDer<'a> {
        SubjectPublicKeyInfoDer::from(self.parsed.tbs_certificate.subject_pki.raw)
    }

    pub(super) fn parsed(&self) -> &X509Certificate<'a> {
        &self.parsed
    }

    pub(super) fn subject(&self) -> &[u8] {
        self.parsed.tbs_certificate.subject.as_raw()
    }

    pub(super) fn issuer(&self) -> &[u8] {
        self.parsed.tbs_certificate.issuer.as_raw()
    }

    pub(super) fn serial(&self) -> &[u8] {
        self.parsed.tbs_certificate.raw_serial()
    }

    /// The subject, for messages.
    pub(super) fn name(&self) -> String {
        self.parsed.subject().to_string()
    }

    pub(super) fn is_of_version_1(&self) -> bool {
        self.parsed.version().0 == 0
    }

    /// Whether it names itself as its issuer.
    ///
    /// Source: OpenSSL, `X509_check_issued`: compares the names, and the key identifiers if both sides have one.
    pub(super) fn is_self_issued(&self) -> bool {
        self.may_be_issued_by(self)
    }

    /// Whether the names match, and the key identifiers if both sides have one.
    pub(super) fn may_be_issued_by(&self, issuer: &Certificate<'_>) -> bool {
        let agree = match (self.authority_key_identifier(), issuer.subject_key_identifier()) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        };
        agree && self.issuer() == issuer.subject()
    }

    /// Whether the key of this certificate has signed `signed`, with a known algorithm that is not broken.
    pub(super) fn has_signed(&self, signed: &Signed<'_>, provider: &CryptoProvider) -> bool {
        let Some(identifier) = encoded(signed.algorithm) else { return false };
        let spki = self.key();
        let Ok(key) = RawPublicKeyEntity::try_from(&spki) else { return false };
        let known = provider.signature_verification_algorithms.all;
        known.iter().filter(|algorithm| algorithm.signature_alg_id().as_ref() == identifier).any(
            |algorithm: &&dyn SignatureVerificationAlgorithm| {
                key.verify_signature(*algorithm, signed.content, signed.signature).is_ok()
            },
        )
    }

    /// The content of this certificate with its issuer's signature.
    pub(super) fn signed(&self) -> Signed<'_> {
        Signed {
            content: self.parsed.tbs_certificate.as_ref(),
            algorithm: &self.parsed.signature_algorithm,
            signature: &self.parsed.signature_value.data,
        }
    }

    /// Whether the algorithm is the same inside and outside the signed content.
    pub(super) fn names_one_algorithm(&self) -> bool {
        self.parsed.tbs_certificate.signature == self.parsed.signature_algorithm
    }

    /// Checks the validity period.
    pub(super) fn check_time(&self, now_unix_s: i64) -> Result<(), Refusal> {
        let validity = self.parsed.validity();
        if now_unix_s < validity.not_before.timestamp() {
            return Err(Refusal::new(
                format!("the certificate \"{}\" is valid only from {} on", self.name(), validity.not_before),
                "Check the clocks of this host and of the server.",
            ));
        }
        if now_unix_s >= validity.not_after.timestamp() {
            return Err(Refusal::new(
                format!(
                    "the certificate \"{}\" has expired: it was valid until {}",
                    self.name(),
                    validity.not_after
                ),
                "Renew the certificate, and reload the server.",
            ));
        }
        Ok(())
    }

    /// Refuses extensions that restrict the certificate in ways that are not verified here.
    pub(super) fn check_extensions(&self) -> Result<(), Refusal> {
        let cannot = |what: String| {
            Refusal::new(
                format!("the certificate \"{}\" {what}", self.name()),
                "pgark is stricter here than libpq. Use a certificate without it.",
            )
        };
        for extension in self.parsed.extensions() {
            let known = match extension.parsed_extension() {
                ParsedExtension::ParseError { .. } => {
                    return Err(cannot(format!("has an extension {} that cannot be parsed", extension.oid)));
                }
                ParsedExtension::BasicConstraints(_)
                | ParsedExtension::KeyUsage(_)
                | ParsedExtension::ExtendedKeyUsage(_)
                | ParsedExtension::SubjectAlternativeName(_)
                | ParsedExtension::SubjectKeyIdentifier(_)
                | ParsedExtension::AuthorityKeyIdentifier(_)
                | ParsedExtension::CertificatePolicies(_) => true,
                _ => false,
            };
            if let Some((_, what)) = LIMITS.iter().find(|(oid, _)| *oid == extension.oid.to_id_string()) {
                return Err(cannot(format!("limits {what}")));
            }
            if extension.critical && !known {
                return Err(cannot(format!("has an unknown critical extension {}", extension.oid)));
            }
            if self.parsed.extensions().iter().filter(|other| other.oid == extension.oid).count() > 1 {
                return Err(cannot(format!("has the extension {} twice", extension.oid)));
            }
        }
        Ok(())
    }

    pub(super) fn basic_constraints(&self) -> Option<&BasicConstraints> {
        self.extension(|extension| match extension {
            ParsedExtension::BasicConstraints(found) => Some(found),
            _ => None,
        })
    }

    pub(super) fn key_usage(&self) -> Option<&KeyUsage> {
        self.extension(|extension| match extension {
            ParsedExtension::KeyUsage(found) => Some(found),
            _ => None,
        })
    }

    pub(super) fn extended_key_usage(&self) -> Option<&ExtendedKeyUsage<'a>> {
        self.extension(|extension| match extension {
            ParsedExtension::ExtendedKeyUsage(found) => Some(found),
            _ => None,
        })
    }

    /// Whether Netscape's older extension, if present, permits use by a server.
    pub(super) fn is_of_server_type(&self) -> bool {
        let found = self.extension(|extension| match extension {
            ParsedExtension::NSCertType(found) => Some(found),
            _ => None,
        });
        found.is_none_or(|found| found.ssl_server())
    }

    pub(super) fn has_rsa_key(&self) -> bool {
        self.parsed.public_key().algorithm.algorithm == OID_PKCS1_RSAENCRYPTION
    }

    /// The alternative names; empty if there are none.
    pub(super) fn alternative_names(&self) -> &[GeneralName<'a>] {
        self.extension(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(found) => Some(found.general_names.as_slice()),
            _ => None,
        })
        .unwrap_or_default()
    }

    /// The first common name, as raw bytes.
    pub(super) fn common_name(&self) -> Option<&[u8]> {
        self.parsed.subject().iter_common_name().next().map(|attribute| attribute.as_slice())
    }

    fn extension<'s, T: 's + ?Sized>(
        &'s self,
        pick: impl Fn(&'s ParsedExtension<'a>) -> Option<&'s T>,
    ) -> Option<&'s T> {
        self.parsed.extensions().iter().find_map(|extension| pick(extension.parsed_extension()))
    }

    fn authority_key_identifier(&self) -> Option<&[u8]> {
        self.extension(|extension| match extension {
            ParsedExtension::AuthorityKeyIdentifier(found) => found.key_identifier.as_ref().map(|key| key.0),
            _ => None,
        })
    }

    fn subject_key_identifier(&self) -> Option<&[u8]> {
        self.extension(|extension| match extension {
            ParsedExtension::SubjectKeyIdentifier(found) => Some(found.0),
            _ => None,
        })
    }
}

/// The content of an algorithm identifier in DER.
fn encoded(algorithm: &AlgorithmIdentifier<'_>) -> Option<Vec<u8>> {
    let mut encoded = algorithm.algorithm.to_der_vec().ok()?;
    if let Some(parameters) = &algorithm.parameters {
        encoded.extend(parameters.to_der_vec().ok()?);
    }
    Some(encoded)
}
