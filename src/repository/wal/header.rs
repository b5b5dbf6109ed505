//! The first frame of a WAL object: describes the content of the other frames.

use crate::codec::{ContentSum, Digest, skippable_frame};
use crate::error::{Error, Result};
use crate::repository::version::check_version;

/// The nibble that distinguishes our skippable frame from those of other tools: the frame's magic is `0x184D2A57`.
pub const FRAME_KIND: u8 = 7;

const MAGIC: &[u8; 8] = b"pgarkwal";
const VERSION: u32 = 1;

/// The length of the frame's payload in version 1.
const PAYLOAD_BYTES: usize = 8 + 4 + 8 + 32;

/// The length of the frame: magic and payload length (4 each), and the payload.
pub const FRAME_BYTES: usize = 4 + 4 + PAYLOAD_BYTES;

/// The frame.
///
/// # Errors
/// None: a payload of this length is permitted.
pub fn frame(sum: &ContentSum) -> Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(FRAME_BYTES);
    skippable_frame(FRAME_KIND, &encode(sum), &mut frame)?;
    Ok(frame)
}

/// The payload: magic (8), version (4), raw length (8), BLAKE3 digest of the raw bytes (32); little-endian.
fn encode(sum: &ContentSum) -> Vec<u8> {
    let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
    payload.extend_from_slice(MAGIC);
    payload.extend_from_slice(&VERSION.to_le_bytes());
    payload.extend_from_slice(&sum.length_bytes.to_le_bytes());
    payload.extend_from_slice(sum.digest.as_bytes());
    payload
}

/// Parses the payload.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if it is not pgark's,
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if a newer version wrote it.
pub fn decode(payload: &[u8]) -> Result<ContentSum> {
    let damaged = || Error::damaged("the object does not start with the header of a WAL object");
    let rest = payload.strip_prefix(MAGIC.as_slice()).ok_or_else(damaged)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    let version = u32::from_le_bytes(*version);
    check_version(version, VERSION, || format!("the object has version {version} of the WAL format"))?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
    let digest: [u8; 32] = rest.try_into().map_err(|_| damaged())?;
    Ok(ContentSum { length_bytes: u64::from_le_bytes(*length), digest: Digest::from_bytes(digest) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_has_a_fixed_length() {
        let sum = ContentSum { length_bytes: 7, digest: Digest::of(b"content") };
        let frame = frame(&sum).unwrap();
        assert_eq!(frame.len(), FRAME_BYTES);
        assert_eq!(decode(&frame[8..]).unwrap(), sum);
    }
}
