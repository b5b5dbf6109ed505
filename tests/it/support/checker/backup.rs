//! Checks the base backups.

use super::Tree;
use super::objects::{decode, header};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::sync::Mutex;

/// Length and CRC-32C of each file, by its path.
type Files = BTreeMap<String, (u64, u32)>;

/// Number of indexed files that are read from their positions in the packs.
const SAMPLES: usize = 8;

/// Problems of the backups with a `manifest.json`. `wal` holds the stored WAL files.
pub fn check(place: &Tree, wal: &BTreeMap<String, [u8; 32]>) -> Vec<String> {
    let backups = place.below("backup");
    let labels: BTreeSet<&str> =
        backups.paths().filter_map(|path| path.strip_suffix("/manifest.json")).collect();
    let mut complaints = Vec::new();
    for label in labels {
        let backup = backups.below(label);
        if let Err(complaint) = check_known(&backup, label) {
            complaints.push(format!("backup {label}: {complaint}"));
        }
        let manifest = backup.get("manifest.json").and_then(|text| serde_json::from_slice(text).ok());
        let manifest: Value = manifest.unwrap_or_default();
        for segment in needed(&manifest).into_iter().filter(|segment| !wal.contains_key(segment)) {
            complaints.push(format!("backup {label} needs {segment}, which is not stored"));
        }
        let link = &manifest["type"]["incremental"];
        if let Some(parent) = link["parent"].as_str() {
            let found = backups.get(&format!("{parent}/manifest.json"));
            let found: Option<Value> = found.and_then(|text| serde_json::from_slice(text).ok());
            match found {
                None => complaints.push(format!("backup {label} needs its parent {parent}, which is gone")),
                Some(found) if found["index"]["raw_digest"] != link["parent_index_digest"] => {
                    complaints.push(format!("backup {label} was built on another {parent}"));
                }
                Some(_) => {}
            }
        }
    }
    complaints
}

/// As [`check_objects`], once for each distinct content.
fn check_known(backup: &Tree, label: &str) -> Result<(), String> {
    static KNOWN: Mutex<Option<HashMap<blake3::Hash, Result<(), String>>>> = Mutex::new(None);
    let mut hasher = blake3::Hasher::new();
    for (path, content) in backup.files().filter(|(path, _)| *path != "running") {
        hasher.update(path.as_bytes()).update(blake3::hash(content).as_bytes());
    }
    let key = hasher.finalize();
    if let Some(known) = KNOWN.lock().unwrap().get_or_insert_default().get(&key) {
        return known.clone();
    }
    let judged = check_objects(backup, label);
    KNOWN.lock().unwrap().get_or_insert_default().insert(key, judged.clone());
    judged
}

fn check_objects(backup: &Tree, label: &str) -> Result<(), String> {
    let text = backup.get("manifest.json").ok_or("there is no manifest")?;
    let manifest: Value = serde_json::from_slice(text).map_err(|error| format!("manifest.json: {error}"))?;
    let version = if manifest["type"] == "full" { 1 } else { 2 };
    if manifest["version"] != version || manifest["label"] != label {
        return Err(format!("its manifest is of {} in version {}", manifest["label"], manifest["version"]));
    }
    let packed = packs(backup, &manifest)?;
    let listed = object(backup, "backup_manifest", &manifest["postgres_manifest"])?;
    let listed = postgres_manifest(&listed)?;
    if packed != listed {
        let wrong = listed.iter().find(|(path, file)| packed.get(*path) != Some(file));
        let wrong = wrong.or_else(|| packed.iter().find(|(path, _)| !listed.contains_key(*path)));
        return Err(format!("packs and backup_manifest differ: {wrong:?}"));
    }
    let index = object(backup, "files", &manifest["index"])?;
    if header(&backup.get("files").cloned().unwrap_or_default()).map(|header| &header[..8])
        != Some(b"pgarkidx")
    {
        return Err("the index has no header".to_owned());
    }
    check_index(backup, &index, &listed)
}

/// The object that `manifest.json` describes, after a check of its size and checksum.
fn object(backup: &Tree, name: &str, described: &Value) -> Result<std::sync::Arc<[u8]>, String> {
    let stored = backup.get(name).ok_or_else(|| format!("{name} is missing"))?;
    expect_stored(name, stored, described, "stored_crc32")?;
    let raw = decode(stored).map_err(|error| format!("{name}: {error}"))?;
    if described["raw_bytes"] != raw.len() || described["raw_digest"] != blake3::hash(&raw).to_hex().as_str()
    {
        return Err(format!("{name} has another content"));
    }
    Ok(raw)
}

fn expect_stored(name: &str, stored: &[u8], described: &Value, crc32: &str) -> Result<(), String> {
    let checksum = format!("{:08x}", crc32fast::hash(stored));
    if described["stored_bytes"] != stored.len() || described[crc32] != checksum.as_str() {
        return Err(format!("{name} has {} bytes with checksum {checksum}, not {described}", stored.len()));
    }
    Ok(())
}

/// The files in the archives of the packs.
fn packs(backup: &Tree, manifest: &Value) -> Result<Files, String> {
    let mut files = Files::new();
    for (number, described) in (1..).zip(manifest["packs"].as_array().ok_or("there are no packs")?) {
        let name = format!("pack-{number:06}");
        if described["number"] != number {
            return Err(format!("{} comes where {name} should", described["number"]));
        }
        let stored = backup.get(&name).ok_or_else(|| format!("{name} is missing"))?;
        expect_stored(&name, stored, described, "crc32")?;
        let archive = decode(stored).map_err(|error| format!("{name}: {error}"))?;
        if described["raw_bytes"] != archive.len() {
            return Err(format!("{name} unpacks to {} bytes", archive.len()));
        }
        let below =
            described["tablespace"].as_u64().map(|oid| format!("pg_tblspc/{oid}/")).unwrap_or_default();
        let mut archive = tar::Archive::new(&archive[..]);
        for entry in archive.entries().map_err(|error| format!("{name}: {error}"))? {
            let mut entry = entry.map_err(|error| format!("{name}: {error}"))?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = format!("{below}{}", String::from_utf8_lossy(&entry.path_bytes()));
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(|error| format!("{name}: {path}: {error}"))?;
            if files.insert(path.clone(), (content.len() as u64, crc32c::crc32c(&content))).is_some() {
                return Err(format!("{path} is there twice"));
            }
        }
    }
    Ok(files)
}

/// The files that PostgreSQL's own manifest lists.
fn postgres_manifest(text: &[u8]) -> Result<Files, String> {
    let json: Value = serde_json::from_slice(text).map_err(|error| format!("backup_manifest: {error}"))?;
    let file = |file: &Value| {
        let path = match file["Path"].as_str() {
            Some(path) => path.to_owned(),
            None => String::from_utf8_lossy(&unhex(file["Encoded-Path"].as_str()?)?).into_owned(),
        };
        Some((path, (file["Size"].as_u64()?, crc32c_of(file["Checksum"].as_str()?)?)))
    };
    let files = json["Files"].as_array().ok_or("backup_manifest lists no files")?;
    files.iter().map(|entry| file(entry).ok_or_else(|| format!("backup_manifest: {entry}"))).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let byte = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Parses the form that PostgreSQL prints: the bytes of the little-endian number.
fn crc32c_of(text: &str) -> Option<u32> {
    Some(u32::from_le_bytes(unhex(text)?.try_into().ok()?))
}

/// Checks that the index lists the same files, at valid positions.
fn check_index(backup: &Tree, index: &[u8], listed: &Files) -> Result<(), String> {
    let lines: Result<Vec<Value>, _> = index
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect();
    let mut lines = lines.map_err(|error| format!("the index: {error}"))?;
    let end = lines.pop().ok_or("the index is empty")?;
    if end["kind"] != "end" || end["entries"] != lines.len() {
        return Err("the index is cut off".to_owned());
    }
    lines.retain(|line| line["kind"] == "file" || line["kind"] == "incremental");
    if lines.len() != listed.len() {
        return Err(format!("the index lists {} files, backup_manifest {}", lines.len(), listed.len()));
    }
    for (number, line) in lines.iter().enumerate() {
        let path = line["path"].as_str().map(str::to_owned);
        let path = path
            .or_else(|| Some(String::from_utf8_lossy(&unhex(line["path"]["hex"].as_str()?)?).into_owned()));
        let mut path = path.ok_or_else(|| format!("the index: {line}"))?;
        if line["kind"] == "incremental" {
            path.insert_str(path.rfind('/').map_or(0, |slash| slash + 1), "INCREMENTAL.");
        }
        let (bytes, crc32c) = listed.get(&path).ok_or_else(|| format!("{path} is only in the index"))?;
        if line["bytes"] != *bytes || line["crc32c"].as_str().and_then(crc32c_of) != Some(*crc32c) {
            return Err(format!("the index tells of another {path}"));
        }
        if number % (lines.len() / SAMPLES).max(1) == 0 {
            check_place(backup, line, *bytes, *crc32c).map_err(|error| format!("{path}: {error}"))?;
        }
    }
    Ok(())
}

/// Reads a single file as the format describes.
fn check_place(backup: &Tree, line: &Value, bytes: u64, crc32c: u32) -> Result<(), String> {
    if bytes == 0 {
        return Ok(());
    }
    let number =
        |name: &str| line[name].as_u64().map(|number| number as usize).ok_or_else(|| format!("no {name}"));
    let pack = backup.get(&format!("pack-{:06}", number("pack")?)).ok_or("its pack is missing")?;
    let from = number("frame_offset")?;
    let frames = pack.get(from..from + number("stored_bytes")?).ok_or("it lies beyond the pack")?;
    let content = decode(frames)?;
    let skip = number("skip_bytes")?;
    let content = content.get(skip..skip + bytes as usize).ok_or("it lies beyond its frames")?;
    if crc32c::crc32c(content) == crc32c { Ok(()) } else { Err("its place holds something else".to_owned()) }
}

/// The segments in the WAL ranges of a backup.
fn needed(manifest: &Value) -> Vec<String> {
    let bytes = manifest["server"]["wal_segment_bytes"].as_u64().unwrap_or(u64::MAX);
    let position = |value: &Value| {
        let (high, low) = value.as_str()?.split_once('/')?;
        Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
    };
    let mut segments = Vec::new();
    for range in manifest["wal_ranges"].as_array().into_iter().flatten() {
        let (Some(start), Some(end)) = (position(&range["start"]), position(&range["end"])) else { continue };
        let timeline = range["timeline"].as_u64().unwrap_or_default() as u32;
        for number in start / bytes..=(end - 1) / bytes {
            segments.push(super::super::wal::segment_name(timeline, number, bytes));
        }
    }
    segments
}
