//! Certificates as a server presents them, with the roots and revocation lists that they are verified against.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::server::PresentedCertificate;

/// The name and the time for which the seeds were made.
const HOST: &str = "db.example";
const NOW_UNIX_S: u64 = 1_800_000_000;

// Input: parts, each a kind (0 server, 1 sent, 2 root, 3 revocation list), a big-endian u16 length, and DER.
fuzz_target!(|data: &[u8]| {
    let mut parts: [Vec<&[u8]>; 4] = Default::default();
    let mut rest = data;
    while let [kind, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (part, next) = after.split_at(length);
        if let Some(parts) = parts.get_mut(usize::from(*kind)) {
            parts.push(part);
        }
        rest = next;
    }
    let [servers, sent, roots, revoked] = &parts;
    let Some(server) = servers.first() else { return };
    let presented =
        PresentedCertificate { server, sent, roots, revoked, host: Some(HOST), now_unix_s: NOW_UNIX_S };
    if !presented.is_accepted() {
        return;
    }
    assert!(PresentedCertificate { host: None, ..presented }.is_accepted(), "the name is one condition more");
    assert!(PresentedCertificate { revoked: &[], ..presented }.is_accepted(), "so are the lists");
    assert!(!PresentedCertificate { roots: &[], ..presented }.is_accepted(), "nothing is trusted");
    // The last byte of a certificate belongs to its signature.
    let mut forged = server.to_vec();
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    assert!(!PresentedCertificate { server: &forged, ..presented }.is_accepted(), "the signature is wrong");
});
