//! A stored backup manipulated by an attacker: every object is well formed, but its content is malicious.

use super::account::write_file;
use super::archive::Archive;
use serde_json::Value;
use std::io::{Read, Write};
use std::path::PathBuf;
use twox_hash::XxHash32;

/// Written from `docs/repository-format.md`, without any code of pgark.
pub struct HostileBackup {
    directory: PathBuf,
    manifest: Vec<u8>,
    index: Vec<u8>,
}

impl HostileBackup {
    /// The stored backup with this label.
    pub fn of(archive: &Archive, label: &str) -> HostileBackup {
        let directory = archive.backup(label);
        let read = |name: &str| std::fs::read(directory.join(name)).unwrap();
        HostileBackup { manifest: read("manifest.json"), index: read("files"), directory }
    }

    /// Restores the original objects.
    pub fn mend(&self) {
        write_file(&self.directory.join("manifest.json"), &self.manifest);
        write_file(&self.directory.join("files"), &self.index);
    }

    /// Changes `manifest.json`.
    pub fn tell(&self, change: impl FnOnce(&mut Value)) {
        let mut manifest: Value = serde_json::from_slice(&self.manifest).unwrap();
        change(&mut manifest);
        write_file(&self.directory.join("manifest.json"), serde_json::to_vec_pretty(&manifest).unwrap());
    }

    /// Changes all lines of the index except the last, which counts them, and updates the checksums.
    pub fn list(&self, change: impl FnOnce(&mut Vec<Value>)) {
        let (header, frames) = self.index.split_at(after_first_frame(&self.index));
        let mut text = String::new();
        lz4_flex::frame::FrameDecoder::new(frames).read_to_string(&mut text).unwrap();
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.pop();
        change(&mut lines);
        let entries = lines.len();
        let bytes =
            lines.iter().fold(0, |sum: u64, line| sum.saturating_add(line["bytes"].as_u64().unwrap_or(0)));
        lines.push(serde_json::json!({ "kind": "end", "entries": entries, "bytes": bytes }));
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.store_index(header, text.as_bytes(), entries);
    }

    /// Makes the index a single line of this many bytes, which compresses to almost nothing.
    pub fn list_one_long_line(&self, bytes: usize) {
        self.store_index(&self.index[..after_first_frame(&self.index)], &vec![b' '; bytes], 1);
    }

    fn store_index(&self, header: &[u8], content: &[u8], entries: usize) {
        let mut stored = header.to_vec();
        for piece in content.chunks(1 << 20) {
            stored.extend_from_slice(&frame(piece));
        }
        self.tell(|manifest| {
            manifest["index"] = serde_json::json!({
                "entries": entries,
                "raw_bytes": content.len(),
                "raw_digest": blake3::hash(content).to_hex().as_str(),
                "stored_bytes": stored.len(),
                "stored_crc32": format!("{:08x}", crc32fast::hash(&stored)),
            });
        });
        write_file(&self.directory.join("files"), stored);
    }
}

/// An lz4 frame as used in the repository, with content size and content checksum.
pub fn frame(content: &[u8]) -> Vec<u8> {
    let info = lz4_flex::frame::FrameInfo::new()
        .content_size(Some(content.len() as u64))
        .content_checksum(true)
        .block_mode(lz4_flex::frame::BlockMode::Independent);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The offset after the skippable frame at the beginning of an object.
pub fn after_first_frame(object: &[u8]) -> usize {
    8 + u32::from_le_bytes(object[4..8].try_into().unwrap()) as usize
}

/// An lz4 frame header with a correct checksum that announces this content size.
pub fn frame_announcing(bytes: u64) -> Vec<u8> {
    // Version 1, independent blocks of at most 4 MiB, content size, content checksum.
    let mut descriptor = vec![0x6C, 0x70];
    descriptor.extend_from_slice(&bytes.to_le_bytes());
    let checksum = (XxHash32::oneshot(0, &descriptor) >> 8) as u8;
    let mut frame = 0x184D_2204_u32.to_le_bytes().to_vec();
    frame.extend_from_slice(&descriptor);
    frame.push(checksum);
    frame
}
