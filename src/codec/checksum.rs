//! Checksums: CRC-32 against accidental damage of stored bytes, BLAKE3 to identify content.

use crate::error::{Error, Result};
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use std::fmt;
use std::str::FromStr;

/// The CRC-32 of bytes, computed incrementally (the polynomial of zip and PNG, called `CRC32` in S3).
///
/// Detects accidental damage only: content with a given CRC is easy to construct.
#[derive(Clone, Default)]
pub struct Crc32(crc32fast::Hasher);

/// A BLAKE3 hash of 32 bytes, written as 64 hexadecimal digits.
///
/// Contents with the same digest are identical. The digest does not authenticate the writer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Length and digest of a content, which identify it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentSum {
    /// Length in bytes.
    pub length_bytes: u64,
    /// The digest of the content.
    pub digest: Digest,
}

/// Computes a [`ContentSum`] incrementally over pieces of any length.
///
/// Fastest with pieces of 64 KiB or more, for which it hashes several parts at once.
#[derive(Clone, Default)]
pub struct ContentHasher {
    length_bytes: u64,
    hasher: blake3::Hasher,
}

/// The sum of a part of a content; [`ContentSum::join`] joins the parts. Several threads can compute the parts.
#[derive(Clone, Copy, Debug)]
pub struct ContentPart {
    length_bytes: u64,
    value: ChainingValue,
    /// The digest if this is the first and only part.
    alone: Option<Digest>,
}

impl ContentPart {
    /// Size of every part but the last, in bytes: a frame.
    pub const BYTES: usize = super::FRAME_RAW_BYTES;

    /// The sum of the nonempty `part` at byte `offset` of the content, a multiple of [`ContentPart::BYTES`].
    pub fn of(offset: u64, part: &[u8]) -> ContentPart {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        hasher.update(part);
        let alone = (offset == 0).then(|| Digest(*hasher.finalize().as_bytes()));
        ContentPart { length_bytes: part.len() as u64, value: hasher.finalize_non_root(), alone }
    }
}

impl ContentSum {
    /// Joins the sums of these parts, in order, into the sum of the content.
    pub fn join(parts: &[ContentPart]) -> ContentSum {
        let digest = match parts {
            [] => Digest::of(b""),
            [ContentPart { alone: Some(digest), .. }] => *digest,
            _ => {
                let (left, right) = subtrees(parts);
                let root = merge_subtrees_root(&chaining_value(left), &chaining_value(right), Mode::Hash);
                Digest(*root.as_bytes())
            }
        };
        ContentSum { length_bytes: parts.iter().map(|part| part.length_bytes).sum(), digest }
    }
}

/// BLAKE3 hashes a binary tree whose left subtree is complete and as large as possible. Each part but the last is a
/// complete subtree. Source: the BLAKE3 paper, section 2.1.
fn chaining_value(parts: &[ContentPart]) -> ChainingValue {
    match parts {
        [] => ChainingValue::default(),
        [only] => only.value,
        _ => {
            let (left, right) = subtrees(parts);
            merge_subtrees_non_root(&chaining_value(left), &chaining_value(right), Mode::Hash)
        }
    }
}

/// Splits at least two parts in the same way as the tree.
fn subtrees(parts: &[ContentPart]) -> (&[ContentPart], &[ContentPart]) {
    parts.split_at_checked(parts.len().next_power_of_two() / 2).unwrap_or_default()
}

impl Crc32 {
    /// The CRC of an empty input: 0.
    pub fn new() -> Crc32 {
        Crc32::default()
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Appends the CRC of the bytes that `following` has processed, as if they had been added here. Allows the parts of
    /// an object to be summed separately.
    pub fn combine(&mut self, following: &Crc32) {
        self.0.combine(&following.0);
    }

    /// The CRC of the bytes so far.
    pub fn value(&self) -> u32 {
        self.0.clone().finalize()
    }
}

impl fmt::Debug for Crc32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crc32({:08x})", self.value())
    }
}

impl Digest {
    /// Computes the digest of `content`.
    pub fn of(content: &[u8]) -> Digest {
        Digest(*blake3::hash(content).as_bytes())
    }

    /// Creates a digest from its stored bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The first eight bytes as a big-endian number, whose sixteen hexadecimal digits are the first of the digest.
    pub fn beginning(&self) -> u64 {
        self.0.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// The bytes of the digest, for storage.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// Parses 64 hexadecimal digits in upper or lower case. Errors are [`Damaged`](crate::error::ErrorKind::Damaged),
    /// because digests come from stored documents.
    fn from_str(text: &str) -> Result<Digest> {
        match blake3::Hash::from_hex(text) {
            Ok(hash) => Ok(Digest(*hash.as_bytes())),
            Err(_) => Err(Error::damaged(format!("\"{text}\" is not a BLAKE3 digest"))),
        }
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Digest, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl ContentHasher {
    /// Creates a hasher for an empty content.
    pub fn new() -> ContentHasher {
        ContentHasher::default()
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.length_bytes += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    /// The number of bytes so far.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Length and digest of all bytes so far.
    pub fn finish(&self) -> ContentSum {
        let digest = Digest(*self.hasher.finalize().as_bytes());
        ContentSum { length_bytes: self.length_bytes, digest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From BLAKE3's reference test vectors.
    const DIGEST_OF_NOTHING: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn crcs_of_parts_combine_to_the_crc_of_the_whole() {
        let mut whole = Crc32::new();
        assert_eq!(whole.value(), 0);
        whole.update(b"123456789");
        assert_eq!(whole.value(), 0xCBF4_3926, "the check value of every CRC catalogue");
        for cut in 0..=9 {
            let (mut first, mut second) = (Crc32::new(), Crc32::new());
            first.update(&b"123456789"[..cut]);
            second.update(&b"123456789"[cut..]);
            first.combine(&second);
            assert_eq!(first.value(), whole.value());
        }
    }

    #[test]
    fn pieces_sum_to_the_same_content() {
        let nothing = ContentHasher::new().finish();
        assert_eq!((nothing.length_bytes, nothing.digest.to_string().as_str()), (0, DIGEST_OF_NOTHING));
        let content = vec![7; 100_000];
        let mut hasher = ContentHasher::new();
        for piece in content.chunks(777) {
            hasher.update(piece);
        }
        let expected = ContentSum { length_bytes: 100_000, digest: Digest::of(&content) };
        assert_eq!(hasher.finish(), expected);
    }

    #[test]
    fn parts_join_to_the_sum_of_the_whole() {
        let content: Vec<u8> = (0..9 * ContentPart::BYTES).map(|at| (at / 7) as u8).collect();
        for length in (0..9).flat_map(|parts| [0, 1, 1025].map(|more| parts * ContentPart::BYTES + more)) {
            let content = &content[..length];
            let parts: Vec<ContentPart> = content
                .chunks(ContentPart::BYTES)
                .zip(0..)
                .map(|(part, number)| ContentPart::of(number * ContentPart::BYTES as u64, part))
                .collect();
            let expected = ContentSum { length_bytes: length as u64, digest: Digest::of(content) };
            assert_eq!(ContentSum::join(&parts), expected, "{length} bytes");
        }
    }

    #[test]
    fn digests_print_and_parse() {
        let digest: Digest = DIGEST_OF_NOTHING.parse().unwrap();
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(Digest::from_bytes(*digest.as_bytes()), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{DIGEST_OF_NOTHING}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        for text in ["", "af", &DIGEST_OF_NOTHING[1..], &DIGEST_OF_NOTHING.replace('a', "g")] {
            assert!(text.parse::<Digest>().is_err(), "{text:?} is no digest");
        }
    }
}
