//! Channel binding of the password exchange to the server's certificate.
//!
//! Source: RFC 5929, section 4.1; `fe-secure-openssl.c`, `pgtls_get_peer_certificate_hash`.

use super::certificate::Certificate;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// The hash of a server's certificate, by the algorithm of its signature; SHA-256 replaces MD5 and SHA-1.
///
/// For an algorithm without a hash (Ed25519) servers refuse the exchange, so no value is correct. Returning none would
/// let a man in the middle disable the binding by presenting such a certificate.
pub(in crate::server) fn server_end_point(certificate: &[u8]) -> Vec<u8> {
    match Certificate::parse(certificate).map(|parsed| hash_of(&parsed)).unwrap_or_default().as_str() {
        // For each: the hash itself (in the parameters of RSA-PSS), with RSA, with ECDSA.
        "2.16.840.1.101.3.4.2.4" | "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => {
            Sha224::digest(certificate).to_vec()
        }
        "2.16.840.1.101.3.4.2.2" | "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => {
            Sha384::digest(certificate).to_vec()
        }
        "2.16.840.1.101.3.4.2.3" | "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => {
            Sha512::digest(certificate).to_vec()
        }
        _ => Sha256::digest(certificate).to_vec(),
    }
}

/// The object identifier of the algorithm that determines the hash.
fn hash_of(certificate: &Certificate<'_>) -> String {
    let algorithm = &certificate.parsed().signature_algorithm;
    match SignatureAlgorithm::try_from(algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => parameters.hash_algorithm_oid().to_id_string(),
        _ => algorithm.algorithm.to_id_string(),
    }
}
