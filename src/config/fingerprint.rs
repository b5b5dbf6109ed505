//! The identity of the configuration that an agent serves, in sixteen digits.

use std::fmt;

/// A 64-bit digest of pgark's version and all effective settings, wherever they come from, shown as 16 hexadecimal
/// digits. Programs with the same fingerprint use the same settings and the same protocol.
///
/// Uses FNV-1a instead of the standard library's hasher, which may change from one compiler to the next, while programs
/// that were built separately must find the same agent. Guards against mix-ups, not against attackers.
///
/// Source: <http://www.isthe.com/chongo/tech/comp/fnv/>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64);

const FNV_OFFSET_BASIS: u64 = 0xCBF2_9CE4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01B3;

impl Fingerprint {
    /// The fingerprint of this version of pgark with these settings as text.
    pub(super) fn new(settings: &[u8]) -> Fingerprint {
        // A version contains no zero byte, so it separates the parts.
        let parts = [env!("CARGO_PKG_VERSION").as_bytes(), &[0], settings];
        Fingerprint(parts.into_iter().fold(FNV_OFFSET_BASIS, fnv1a))
    }
}

fn fnv1a(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_published_test_vectors() {
        assert_eq!(fnv1a(FNV_OFFSET_BASIS, b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv1a(FNV_OFFSET_BASIS, b"a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(fnv1a(FNV_OFFSET_BASIS, b"foobar"), 0x8594_4171_F739_67E8);
    }

    #[test]
    fn differs_with_the_settings() {
        assert_eq!(Fingerprint::new(b"a"), Fingerprint::new(b"a"));
        assert_ne!(Fingerprint::new(b"a"), Fingerprint::new(b"b"));
        assert_eq!(Fingerprint(0xAB).to_string(), "00000000000000ab");
    }
}
