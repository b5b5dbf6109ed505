//! Checks whether a certificate is for the requested host.
//!
//! Source: PostgreSQL's manual, "Client Verification of Server Certificates"; `fe-secure-common.c`,
//! `fe-secure-openssl.c`, `pgtls_verify_peer_name_matches_certificate_guts`.

use super::certificate::Certificate;
use super::refusal::Refusal;
use std::net::IpAddr;
use x509_parser::extensions::GeneralName;

/// Checks the alternative names, or the common name if there is no alternative name of the host's kind.
pub(super) fn check(certificate: &Certificate<'_>, host: &str) -> Result<(), Refusal> {
    let address = host.parse::<IpAddr>().ok();
    if address.is_none() && looks_like_an_address(host) {
        return Err(Refusal::new(
            format!("\"{host}\" is not an address in its usual form"),
            "Write it as four numbers (192.0.2.1), or use the host name.",
        ));
    }
    let (mut names, mut of_the_kind) = (Vec::new(), false);
    for name in certificate.alternative_names() {
        let fits = match name {
            GeneralName::DNSName(name) => {
                of_the_kind |= address.is_none();
                names.push((*name).to_owned());
                name_fits(name.as_bytes(), host, address.is_some())?
            }
            GeneralName::IPAddress(bytes) => {
                of_the_kind |= address.is_some();
                let found = address_of(bytes)?;
                names.push(found.to_string());
                Some(found) == address
            }
            GeneralName::Invalid(..) => {
                return Err(Refusal::plain(
                    "an alternative name in the server's certificate cannot be parsed",
                ));
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
    }
    if !of_the_kind && let Some(name) = certificate.common_name() {
        names.push(String::from_utf8_lossy(name).into_owned());
        if name_fits(name, host, address.is_some())? {
            return Ok(());
        }
    }
    Err(Refusal::new(
        match names.as_slice() {
            [] => format!("the server's certificate has no name, but \"{host}\" was requested"),
            names => format!("the server's certificate is for {}, not for \"{host}\"", quoted(names)),
        },
        "Set host to a name in the certificate, and hostaddr to the address if that name does not resolve to it. \
         sslmode=verify-ca does not check names.",
    ))
}

/// Upper limit for the number of names in a message.
const NAMED_MAX: usize = 3;

fn quoted(names: &[String]) -> String {
    let listed: Vec<String> = names.iter().take(NAMED_MAX).map(|name| format!("{name:?}")).collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", listed.join(", "))
}

/// Whether a name in the certificate equals the host, or matches it with a `*` as its first label. An address never
/// matches a wildcard.
fn name_fits(name: &[u8], host: &str, is_address: bool) -> Result<bool, Refusal> {
    if name.contains(&0) {
        return Err(Refusal::plain("a name of the server's certificate contains a zero byte"));
    }
    if name.eq_ignore_ascii_case(host.as_bytes()) {
        return Ok(true);
    }
    let (Some(parent), Some((first, rest))) = (name.strip_prefix(b"*."), host.split_once('.')) else {
        return Ok(false);
    };
    Ok(!is_address && !first.is_empty() && !parent.is_empty() && parent.eq_ignore_ascii_case(rest.as_bytes()))
}

fn address_of(bytes: &[u8]) -> Result<IpAddr, Refusal> {
    let version_4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    version_4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).map_err(|_| {
        Refusal::plain(format!("an address in the server's certificate has {} bytes", bytes.len()))
    })
}

/// Whether the system might parse it as an address: `127.1`, `0x7f.1`, `2130706433`.
fn looks_like_an_address(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let is_number = |text: &str, radix: u32| text.chars().all(|character| character.is_digit(radix));
    match hexadecimal {
        Some(digits) => is_number(digits, 16),
        None => !last.is_empty() && is_number(last, 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_as_libpq_says() {
        for (name, host, fits) in [
            ("db.example", "db.example", true),
            ("DB.example", "db.EXAMPLE", true),
            ("*.example", "db.example", true),
            ("*.example", "a.db.example", false),
            ("*.example", ".example", false),
            ("*.example", "example", false),
            ("*", "example", false),
            ("*.", "example.", false),
            ("d*.example", "db.example", false),
            ("*.0.0.1", "127.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
        ] {
            let is_address = host.parse::<IpAddr>().is_ok();
            assert_eq!(name_fits(name.as_bytes(), host, is_address).unwrap(), fits, "{name} {host}");
        }
        assert!(name_fits(b"db.example\0.evil", "db.example", false).is_err());
    }

    #[test]
    fn odd_addresses_are_not_names() {
        for (host, looks) in
            [("127.1", true), ("2130706433", true), ("0x7f.0x1", true), ("db1", false), ("db.1a", false)]
        {
            assert_eq!(looks_like_an_address(host), looks, "{host}");
        }
    }
}
