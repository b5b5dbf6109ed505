//! Checks the stored WAL files.

use super::objects::{decode, header};
use super::{Tree, sha256};
use std::collections::BTreeMap;

/// Size of the payload of the first frame: magic, version, length, digest.
const HEADER_BYTES: usize = 8 + 4 + 8 + 32;

/// Offsets of the system identifier, the segment size and the address in a segment.
const SYSTEM_AT: usize = 24;
const SEGMENT_BYTES_AT: usize = 32;
const ADDRESS_AT: usize = 8;

/// All stored WAL files by name, with the SHA-256 of their content, and the problems found.
pub fn check(place: &Tree, name: &str) -> (BTreeMap<String, [u8; 32]>, Vec<String>) {
    let (mut files, mut complaints) = (BTreeMap::new(), Vec::new());
    for (path, object) in place.below("wal").files() {
        match file(path, object, name) {
            Ok((name, content)) => drop(files.insert(name, sha256(&content))),
            Err(complaint) => complaints.push(format!("wal/{path}: {complaint}")),
        }
    }
    (files, complaints)
}

fn file(path: &str, object: &[u8], place: &str) -> Result<(String, std::sync::Arc<[u8]>), String> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let right = match name.len() {
        16 if name.ends_with(".history") => name.to_owned(),
        24.. => format!("{}/{}/{name}", &name[..8], &name[8..16]),
        _ => return Err("no WAL file has this name".to_owned()),
    };
    if path != right {
        return Err("it does not lie in the place of its name".to_owned());
    }
    let header = header(object).filter(|header| header.len() == HEADER_BYTES).ok_or("it has no header")?;
    if &header[..8] != b"pgarkwal" || header[8..12] != [1, 0, 0, 0] {
        return Err("its header is another one".to_owned());
    }
    let content = decode(object)?;
    if u64::from_le_bytes(header[12..20].try_into().unwrap()) != content.len() as u64 {
        return Err(format!("it has {} bytes, not what its header says", content.len()));
    }
    if blake3::hash(&content).as_bytes() != &header[20..] {
        return Err("its content is not what its header says".to_owned());
    }
    if name.len() == 24 {
        check_segment(name, &content, place)?;
    }
    // A partial segment that differs from the first of its name has the beginning of its digest in its name.
    if let Some((_, digits)) = name.split_once(".partial.")
        && blake3::hash(&content).to_hex()[..16] != *digits
    {
        return Err("its content is not what its name says".to_owned());
    }
    Ok((name.to_owned(), content))
}

fn check_segment(name: &str, content: &[u8], place: &str) -> Result<(), String> {
    let long = |at: usize| content.get(at..at + 8).map(|b| u64::from_le_bytes(b.try_into().unwrap()));
    let system = long(SYSTEM_AT).ok_or("it is too short")?;
    if !place.ends_with(&format!("/{system}")) {
        return Err(format!("it is of system {system}"));
    }
    let bytes = long(SEGMENT_BYTES_AT).unwrap_or_default() & 0xFFFF_FFFF;
    if bytes != content.len() as u64 {
        return Err(format!("it has {} bytes, segments have {bytes}", content.len()));
    }
    let digits = |range| u64::from_str_radix(&name[range], 16).map_err(|error| error.to_string());
    let address = (digits(8..16)? << 32) + digits(16..24)? * bytes;
    if long(ADDRESS_AT) != Some(address) {
        return Err("it lies elsewhere in the WAL".to_owned());
    }
    Ok(())
}
