//! Reads the configured files: trusted certificates, revocation lists, the client's certificate and key.
//!
//! Source: `fe-secure-openssl.c`, `initialize_SSL`.

use super::refusal::Refusal;
use super::settings::{CertificateFile, Roots, SslMode, TlsSettings};
use crate::error::{Error, Result};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The data for the verification of a server's certificate.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) roots: Vec<CertificateDer<'static>>,
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
    /// The source of the roots, for messages.
    pub(super) source: String,
}

/// The trusted certificates; `None` if there is no verification, because the mode does not require it and there is no
/// file.
pub(super) fn trust(settings: &TlsSettings) -> Result<Option<Trust>> {
    let place = match &settings.roots {
        Roots::Unverified => return Ok(None),
        Roots::System => return system().map(Some),
        Roots::File(place) => place,
    };
    let Some((path, content)) = read(place, "the root certificates")? else {
        if settings.mode >= SslMode::VerifyCa {
            return Err(Error::usage("there are no root certificates to verify the server's certificate").hint(
                "Put them into ~/.postgresql/root.crt of pgark's user, or name a file with sslrootcert; sslrootcert=system \
                 trusts the operating system's.",
            ));
        }
        return Ok(None);
    };
    let source = format!("\"{}\"", path.display());
    let roots = objects(&content, &source, "certificate")?;
    Ok(Some(Trust { roots, revoked: revoked(&settings.revoked)?, source }))
}

fn system() -> Result<Trust> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(Error::usage(format!("the operating system has no root certificates{why}"))
            .hint("Install them (Debian's package ca-certificates), or name a file with sslrootcert."));
    }
    Ok(Trust {
        roots: found.certs,
        revoked: Vec::new(),
        source: "the operating system's root certificates".to_owned(),
    })
}

fn revoked(place: &CertificateFile) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let Some((path, content)) = read(place, "the revocation lists")? else { return Ok(Vec::new()) };
    objects(&content, &format!("\"{}\"", path.display()), "revocation list")
}

/// The PEM objects of one kind in a file, at least one. `source` is the file and `kind` the kind, for messages.
fn objects<T: PemObject>(content: &[u8], source: &str, kind: &str) -> Result<Vec<T>> {
    let found = T::pem_slice_iter(content).collect::<std::result::Result<Vec<T>, _>>();
    let found = found.map_err(|error| unreadable(source, &error.to_string()))?;
    match found.is_empty() {
        true => Err(unreadable(source, &format!("it holds no {kind}"))),
        false => Ok(found),
    }
}

/// The client certificate, with its key.
pub(super) fn own(settings: &TlsSettings, provider: &CryptoProvider) -> Result<Option<CertifiedKey>> {
    let Some(place) = &settings.certificate else { return Ok(None) };
    let Some((path, content)) = read(place, "the client's certificate")? else { return Ok(None) };
    let source = format!("\"{}\"", path.display());
    let chain: Vec<CertificateDer<'static>> = objects(&content, &source, "certificate")?;
    let Some(first) = chain.first() else { return Err(unreadable(&source, "it holds no certificate")) };
    let (key_path, key) = key(&settings.key, &source)?;
    let signing = provider
        .key_provider
        .load_private_key(key)
        .map_err(|error| unreadable(&key_path, &error.to_string()))?;
    let certificate = super::certificate::Certificate::parse(first).map_err(Refusal::into_error)?;
    if signing.public_key().is_some_and(|public| public.as_ref() != certificate.key().as_ref()) {
        return Err(Error::usage(format!(
            "the key in {key_path} does not belong to the certificate in {source}"
        ))
        .hint("Set sslcert and sslkey to a matching pair."));
    }
    Ok(Some(CertifiedKey::new(chain, signing)))
}

/// The key, and its location.
fn key(place: &CertificateFile, certificate: &str) -> Result<(String, PrivateKeyDer<'static>)> {
    let (CertificateFile::Named(path) | CertificateFile::Usual(Some(path))) = place else {
        return Err(no_key(certificate, "the user has no home directory to search"));
    };
    let shown = format!("\"{}\"", path.display());
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if is_absent(&error) => {
            return Err(no_key(certificate, &format!("{shown} does not exist")));
        }
        Err(error) => return Err(Error::io(format!("could not read the key {shown}"), error)),
    };
    if !metadata.is_file() {
        return Err(no_key(certificate, &format!("{shown} is not a file")));
    }
    if is_open_to_others(&metadata) {
        return Err(Error::usage(format!("the key {shown} is readable by other users"))
            .hint("Set its mode to 0600, or to 0640 if root owns it and a group must read it."));
    }
    let content =
        fs::read(path).map_err(|error| Error::io(format!("could not read the key {shown}"), error))?;
    if is_encrypted(&content) {
        return Err(Error::usage(format!("the key {shown} is encrypted"))
            .hint("Decrypt it (openssl pkey -in KEY -out NEW), and protect it with file permissions."));
    }
    let key = PrivateKeyDer::from_pem_slice(&content).ok();
    let key = key.or_else(|| PrivateKeyDer::try_from(content.as_slice()).ok().map(|key| key.clone_key()));
    key.map(|key| (shown.clone(), key)).ok_or_else(|| unreadable(&shown, "it holds no private key"))
}

/// The same rule as in libpq.
fn is_open_to_others(metadata: &fs::Metadata) -> bool {
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    metadata.mode() & forbidden != 0
}

fn is_encrypted(pem: &[u8]) -> bool {
    let holds = |part: &[u8]| pem.windows(part.len()).any(|window| window == part);
    holds(b"BEGIN ENCRYPTED PRIVATE KEY") || holds(b"Proc-Type: 4,ENCRYPTED")
}

fn read<'p>(place: &'p CertificateFile, what: &str) -> Result<Option<(&'p Path, Vec<u8>)>> {
    let (CertificateFile::Named(path) | CertificateFile::Usual(Some(path))) = place else { return Ok(None) };
    match (fs::read(path), place) {
        (Ok(content), _) => Ok(Some((path, content))),
        (Err(error), CertificateFile::Usual(_)) if is_absent(&error) => Ok(None),
        (Err(error), _) => Err(Error::io(format!("could not read {what} in \"{}\"", path.display()), error)
            .with_kind(crate::error::ErrorKind::Usage)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn no_key(certificate: &str, why: &str) -> Error {
    Error::usage(format!("there is no key for the certificate in {certificate}: {why}"))
        .hint("Name the key with sslkey, or disable client certificates with sslcertmode=disable.")
}

fn unreadable(source: &str, why: &str) -> Error {
    Error::usage(format!("{source} cannot be used: {why}"))
        .hint("The file must be in PEM format: -----BEGIN …")
}
