//! Bytes that usually are text, in JSON.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt::{self, Write};

/// Bytes of a path or file, which PostgreSQL does not guarantee to be UTF-8.
///
/// In JSON: a string if they are UTF-8, else `{"hex": "<two digits a byte>"}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StoredText(Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Hex { hex: Cow<'a, str> },
}

impl StoredText {
    /// These bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> StoredText {
        StoredText(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl fmt::Display for StoredText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for StoredText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Serialize for StoredText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Form::Hex { hex: Cow::Owned(hex_of(&self.0)) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for StoredText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StoredText, D::Error> {
        match Form::deserialize(deserializer)? {
            Form::Text(text) => Ok(StoredText(text.into_owned().into_bytes())),
            Form::Hex { hex } => bytes_of_hex(&hex)
                .map(StoredText)
                .ok_or_else(|| D::Error::custom("invalid hexadecimal digits")),
        }
    }
}

/// Two lower-case digits a byte.
pub(super) fn hex_of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes of two digits each; `None` for anything else.
pub(super) fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// A checksum as the hexadecimal digits of its number: `cbf43926`.
pub(super) mod crc32_digits {
    use super::*;

    pub fn serialize<S: Serializer>(crc: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{crc:08x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = bytes_of_hex(&text).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        bytes.map(u32::from_be_bytes).ok_or_else(|| D::Error::custom("invalid CRC-32"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_survive_json() {
        for (bytes, json) in [
            (&b"base/1/1259"[..], "\"base/1/1259\""),
            ("ä\"\n".as_bytes(), "\"ä\\\"\\n\""),
            (b"\xff\x01", "{\"hex\":\"ff01\"}"),
            (b"", "\"\""),
        ] {
            let text = StoredText::new(bytes);
            assert_eq!(serde_json::to_string(&text).unwrap(), json);
            assert_eq!(serde_json::from_str::<StoredText>(json).unwrap(), text);
        }
        for json in ["{\"hex\":\"f\"}", "{\"hex\":\"0g\"}", "{\"hex\":\"+1\"}", "7", "{}"] {
            assert!(serde_json::from_str::<StoredText>(json).is_err(), "{json}");
        }
    }
}
