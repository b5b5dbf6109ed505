//! Objects as sequences of frames, and `format.json`.

use super::Tree;
use std::collections::HashMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

const LZ4: u32 = 0x184D_2204;
const ZSTD: u32 = 0xFD2F_B528;

/// The decoded content of an object.
type Decoded = Result<Arc<[u8]>, String>;

pub fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The payload of the skippable frame at the beginning of an object.
pub fn header(bytes: &[u8]) -> Option<&[u8]> {
    if number(bytes, 0)? != 0x184D_2A57 {
        return None;
    }
    bytes.get(8..8 + number(bytes, 4)? as usize)
}

/// Upper limit for the cached decoded objects, in bytes.
const KNOWN_BYTES_MAX: usize = 256 << 20;

/// Cache of decoded objects, with their total size.
#[derive(Default)]
struct Known {
    decoded: HashMap<blake3::Hash, Decoded>,
    bytes: usize,
}

/// The content of all frames, decoded by the standard tool. Caches results, because the same objects are checked
/// repeatedly.
pub fn decode(bytes: &[u8]) -> Decoded {
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let key = blake3::hash(bytes);
    if let Some(decoded) = KNOWN.lock().unwrap().get_or_insert_default().decoded.get(&key) {
        return decoded.clone();
    }
    let decoded = run_tool(bytes);
    let mut known = KNOWN.lock().unwrap();
    let known = known.get_or_insert_default();
    let length = decoded.as_ref().map_or(0, |content| content.len());
    if known.bytes + length > KNOWN_BYTES_MAX {
        // Most cached objects belong to deleted backups; the others are decoded again.
        *known = Known::default();
    }
    known.bytes += length;
    known.decoded.insert(key, decoded.clone());
    decoded
}

fn run_tool(bytes: &[u8]) -> Decoded {
    let mut child = Command::new(tool(bytes)?)
        .args(["-d", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // A tool that rejects its input closes it.
        scope.spawn(move || drop(stdin.write_all(bytes)));
        child.wait_with_output().unwrap()
    });
    if output.status.success() {
        return Ok(output.stdout.into());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Determined from the first frame that is not skippable.
fn tool(bytes: &[u8]) -> Result<&'static str, String> {
    let mut at = 0;
    loop {
        match number(bytes, at) {
            Some(0x184D_2A50..=0x184D_2A5F) => {
                at += 8 + number(bytes, at + 4).ok_or("the frame is cut off")? as usize;
            }
            Some(LZ4) => return Ok("lz4"),
            Some(ZSTD) => return Ok("zstd"),
            other => return Err(format!("a frame begins with {other:08X?} at byte {at}")),
        }
    }
}

/// A nonempty place must contain a valid `format.json`.
pub fn check_format(place: &Tree, name: &str) -> Option<String> {
    let Some(text) = place.get("format.json") else {
        return Some(format!("{name} has no format.json"));
    };
    let read = |text| -> Option<(u64, String)> {
        let json: serde_json::Value = serde_json::from_slice(text).ok()?;
        let system = &json["system_identifier"];
        let system = system.as_str().map_or_else(|| system.to_string(), str::to_owned);
        Some((json["format"].as_u64()?, format!("{}/{system}", json["cluster"].as_str()?)))
    };
    match read(text) {
        Some((1, place)) if place == name => None,
        other => Some(format!("{name}/format.json says {other:?}")),
    }
}
