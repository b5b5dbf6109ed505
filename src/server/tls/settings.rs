//! The TLS settings of libpq.
//!
//! Source: PostgreSQL's manual, "Parameter Key Words", "Environment Variables", "SSL Support"; `fe-connect.c`,
//! `pqConnectOptions2`; `fe-secure-openssl.c`, `initialize_SSL`.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Whether TLS is used, and how the server's certificate is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::server) enum SslMode {
    Disable,
    /// Unencrypted first.
    Allow,
    /// TLS first.
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// The way in which TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Negotiation {
    /// After a request to the server.
    Asked,
    /// Immediately; PostgreSQL 17 and later.
    Direct,
}

/// Whether the password exchange is bound to the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

/// A file named by a setting, or libpq's default file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CertificateFile {
    /// It must exist.
    Named(PathBuf),
    /// It may exist; `None` if there is no home directory.
    Usual(Option<PathBuf>),
}

/// The trusted certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    File(CertificateFile),
    /// Those of the operating system.
    System,
    /// No verification.
    Unverified,
}

/// A version of the TLS protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

/// All TLS settings, validated together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::server) struct TlsSettings {
    pub(in crate::server) mode: SslMode,
    pub(in crate::server) negotiation: Negotiation,
    pub(in crate::server) channel_binding: ChannelBinding,
    pub(super) roots: Roots,
    pub(super) revoked: CertificateFile,
    /// The client certificate; `None` sends none.
    pub(super) certificate: Option<CertificateFile>,
    pub(super) key: CertificateFile,
    pub(super) server_name_indication: bool,
    pub(super) oldest: Protocol,
    pub(super) newest: Protocol,
}

/// The parameters read by this module, with the environment variables that can replace them.
const PARAMETERS: [(&str, Option<&str>); 14] = [
    ("sslmode", Some("PGSSLMODE")),
    ("sslnegotiation", Some("PGSSLNEGOTIATION")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslcrl", Some("PGSSLCRL")),
    ("sslcrldir", Some("PGSSLCRLDIR")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslkey", Some("PGSSLKEY")),
    ("sslpassword", None),
    ("sslcertmode", Some("PGSSLCERTMODE")),
    ("sslsni", Some("PGSSLSNI")),
    ("sslcompression", Some("PGSSLCOMPRESSION")),
    ("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
    ("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION")),
];

/// libpq's default directory, relative to the home directory.
const USUAL: &str = ".postgresql";

/// The sources of the settings.
pub(in crate::server) struct Sources<'a> {
    /// The connection's parameters.
    pub(in crate::server) parameters: &'a [(&'a str, String)],
    /// The environment.
    pub(in crate::server) variable: &'a dyn Fn(&str) -> Option<String>,
    pub(in crate::server) home: Option<&'a Path>,
}

impl Sources<'_> {
    /// Treats an empty value as absent.
    fn value(&self, name: &str) -> Option<String> {
        let given = self.parameters.iter().rev().find(|(found, _)| *found == name);
        let variable = || {
            let (_, variable) = PARAMETERS.iter().find(|(found, _)| *found == name)?;
            variable.and_then(self.variable)
        };
        given.map(|(_, value)| value.clone()).or_else(variable).filter(|value| !value.is_empty())
    }

    fn place(&self, name: &str, usual: &str) -> CertificateFile {
        match self.value(name) {
            Some(path) => CertificateFile::Named(PathBuf::from(path)),
            None => CertificateFile::Usual(self.home.map(|home| home.join(USUAL).join(usual))),
        }
    }

    fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)], otherwise: T) -> Result<T> {
        let Some(value) = self.value(name) else { return Ok(otherwise) };
        choices.iter().find(|(choice, _)| *choice == value).map(|(_, meant)| *meant).ok_or_else(|| {
            let known: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
            Error::usage(format!("invalid value {value:?} for the connection parameter {name}"))
                .hint(format!("Use one of {}.", known.join(", ")))
        })
    }
}

impl TlsSettings {
    /// Whether this module reads a parameter of this name.
    pub(in crate::server) fn knows(name: &str) -> bool {
        PARAMETERS.iter().any(|(known, _)| *known == name)
    }

    /// Parses the settings.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for values that are unknown, contradictory, or not
    /// supported by pgark.
    pub(in crate::server) fn read(sources: &Sources<'_>) -> Result<TlsSettings> {
        refuse_what_is_not_done(sources)?;
        let system = sources.value("sslrootcert").is_some_and(|value| value == "system");
        let mode = mode(sources, system)?;
        let negotiation = sources.choice(
            "sslnegotiation",
            &[("postgres", Negotiation::Asked), ("direct", Negotiation::Direct)],
            Negotiation::Asked,
        )?;
        if negotiation == Negotiation::Direct && mode < SslMode::Require {
            return Err(Error::usage(
                "sslnegotiation=direct needs TLS, which the connection's sslmode does not require",
            )
            .hint("Set sslmode=require, or preferably verify-full."));
        }
        let versions = [
            ("TLSv1", Protocol::Tls10),
            ("TLSv1.1", Protocol::Tls11),
            ("TLSv1.2", Protocol::Tls12),
            ("TLSv1.3", Protocol::Tls13),
        ];
        let oldest = sources.choice("ssl_min_protocol_version", &versions, Protocol::Tls12)?;
        let newest = sources.choice("ssl_max_protocol_version", &versions, Protocol::Tls13)?;
        if newest < oldest || newest < Protocol::Tls12 {
            return Err(Error::usage("the connection's parameters allow no version of TLS")
                .hint("Set ssl_min_protocol_version no higher than ssl_max_protocol_version; pgark supports TLSv1.2 and TLSv1.3."));
        }
        let sends = sources.choice("sslcertmode", &[("disable", false), ("allow", true)], true)?;
        Ok(TlsSettings {
            mode,
            negotiation,
            channel_binding: sources.choice(
                "channel_binding",
                &[
                    ("disable", ChannelBinding::Disable),
                    ("prefer", ChannelBinding::Prefer),
                    ("require", ChannelBinding::Require),
                ],
                ChannelBinding::Prefer,
            )?,
            roots: match system {
                true => Roots::System,
                false => Roots::File(sources.place("sslrootcert", "root.crt")),
            },
            revoked: sources.place("sslcrl", "root.crl"),
            certificate: sends.then(|| sources.place("sslcert", "postgresql.crt")),
            key: sources.place("sslkey", "postgresql.key"),
            server_name_indication: sources.choice("sslsni", &[("0", false), ("1", true)], true)?,
            oldest,
            newest,
        })
    }

    /// The settings for a server on this host, reached by an address: TLS if the server requires it, without
    /// verification.
    pub(in crate::server) fn of_this_host(self) -> TlsSettings {
        TlsSettings {
            mode: self.mode.min(SslMode::Prefer),
            negotiation: Negotiation::Asked,
            channel_binding: ChannelBinding::Prefer,
            roots: Roots::Unverified,
            ..self
        }
    }
}

fn mode(sources: &Sources<'_>, system: bool) -> Result<SslMode> {
    // An older variable of PostgreSQL.
    let required = (sources.variable)("PGREQUIRESSL").is_some_and(|value| value.starts_with('1'));
    let usual = match (system, required) {
        (true, _) => SslMode::VerifyFull,
        (false, true) => SslMode::Require,
        (false, false) => SslMode::Prefer,
    };
    let modes = [
        ("disable", SslMode::Disable),
        ("allow", SslMode::Allow),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ];
    let mode = sources.choice("sslmode", &modes, usual)?;
    if system && mode != SslMode::VerifyFull {
        return Err(Error::usage("sslrootcert=system requires sslmode=verify-full")
            .hint("Set sslmode=verify-full, or omit sslmode."));
    }
    Ok(mode)
}

/// Rejects unsupported settings, because ignoring them would weaken security.
fn refuse_what_is_not_done(sources: &Sources<'_>) -> Result<()> {
    for (name, refused, hint) in [
        ("sslcrldir", None, "Put the revocation lists into one file, and name it with sslcrl."),
        (
            "sslpassword",
            None,
            "Decrypt the key (openssl pkey -in KEY -out NEW), and protect it with file permissions.",
        ),
        (
            "sslcertmode",
            Some("require"),
            "Omit it. The server's pg_hba.conf decides whether it requires a certificate.",
        ),
    ] {
        if sources.value(name).is_some_and(|value| refused.is_none_or(|refused| refused == value)) {
            let value = refused.map(|refused| format!("={refused}")).unwrap_or_default();
            return Err(Error::usage(format!("unsupported connection parameter {name}{value}")).hint(hint));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(conninfo: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<TlsSettings> {
        let parameters: Vec<(&str, String)> =
            conninfo.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let variable = |name: &str| {
            environment.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned())
        };
        TlsSettings::read(&Sources {
            parameters: &parameters,
            variable: &variable,
            home: Some(Path::new("/home/op")),
        })
    }

    #[test]
    fn defaults_are_those_of_libpq() {
        let settings = read(&[], &[]).unwrap();
        assert_eq!(settings.mode, SslMode::Prefer);
        assert_eq!(settings.channel_binding, ChannelBinding::Prefer);
        let usual = |name: &str| CertificateFile::Usual(Some(Path::new("/home/op/.postgresql").join(name)));
        assert_eq!(settings.roots, Roots::File(usual("root.crt")));
        assert_eq!(settings.revoked, usual("root.crl"));
        assert_eq!(settings.certificate, Some(usual("postgresql.crt")));
        assert_eq!(settings.key, usual("postgresql.key"));
    }

    #[test]
    fn parameters_come_before_variables() {
        let environment = [("PGSSLMODE", "require"), ("PGSSLROOTCERT", "/env.crt"), ("PGREQUIRESSL", "1")];
        let settings = read(&[("sslmode", "disable"), ("sslmode", "verify-ca")], &environment).unwrap();
        assert_eq!(settings.mode, SslMode::VerifyCa);
        assert_eq!(settings.roots, Roots::File(CertificateFile::Named("/env.crt".into())));
        assert_eq!(read(&[("sslmode", "")], &environment).unwrap().mode, SslMode::Require);
        assert_eq!(read(&[], &[("PGREQUIRESSL", "1")]).unwrap().mode, SslMode::Require);
    }

    #[test]
    fn contradictions_are_refused() {
        let system = read(&[("sslrootcert", "system")], &[]).unwrap();
        assert_eq!((system.mode, system.roots), (SslMode::VerifyFull, Roots::System));
        for (conninfo, said) in [
            (
                &[("sslmode", "verify_full")][..],
                "invalid value \"verify_full\" for the connection parameter sslmode",
            ),
            (&[("sslrootcert", "system"), ("sslmode", "verify-ca")], "requires sslmode=verify-full"),
            (&[("sslnegotiation", "direct")], "needs TLS"),
            (&[("ssl_max_protocol_version", "TLSv1.1")], "no version of TLS"),
            (&[("sslcrldir", "/x")], "unsupported connection parameter sslcrldir"),
            (&[("sslpassword", "geheim")], "unsupported connection parameter sslpassword"),
            (&[("sslcertmode", "require")], "unsupported connection parameter sslcertmode=require"),
        ] {
            let error = read(conninfo, &[]).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.hint_text().is_some() && !error.to_string().contains("geheim"), "{error}");
        }
        assert!(read(&[("sslnegotiation", "direct"), ("sslmode", "require")], &[]).is_ok());
    }
}
