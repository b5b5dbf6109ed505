//! Names of WAL files, and generated segments with valid headers.

use std::path::Path;

const PAGE_SIZE: usize = 8192;
const LONG_HEADER: u16 = 0x0002;

/// The timeline and the log number in the name of a segment, `.partial` or `.backup` file; none for a history file.
pub fn timeline_and_log_of(name: &str) -> Option<(&str, &str)> {
    (name.len() >= 24 && !name.ends_with(".history")).then(|| (&name[..8], &name[8..16]))
}

/// The name of a segment from its timeline and ordinal number.
pub fn segment_name(timeline: u32, number: u64, segment_size: u64) -> String {
    let per_log = 0x1_0000_0000 / segment_size;
    format!("{timeline:08X}{:08X}{:08X}", number / per_log, number % per_log)
}

/// Generates segments with the headers of a real server.
#[derive(Clone, Copy, Debug)]
pub struct FakeWal {
    /// The version of the WAL pages.
    pub magic: u16,
    pub system_identifier: u64,
    /// The timeline of the name and of the headers.
    pub timeline: u32,
    pub segment_size: u64,
}

impl FakeWal {
    /// Generates segments like the server of this data directory.
    pub fn of(data: &Path, system_identifier: u64, segment_size: u64) -> FakeWal {
        let segment = std::fs::read_dir(data.join("pg_wal"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.file_name().is_some_and(|name| name.len() == 24))
            .expect("a data directory has a segment");
        let bytes = std::fs::read(segment).unwrap();
        let magic = u16::from_le_bytes([bytes[0], bytes[1]]);
        FakeWal { magic, system_identifier, timeline: 1, segment_size }
    }

    pub fn on_timeline(self, timeline: u32) -> FakeWal {
        FakeWal { timeline, ..self }
    }

    pub fn name(&self, number: u64) -> String {
        segment_name(self.timeline, number, self.segment_size)
    }

    /// The whole segment; deterministic for a number and a seed.
    pub fn bytes(&self, number: u64, seed: u64) -> Vec<u8> {
        let mut random = seed ^ number.rotate_left(32) ^ 0x9E37_79B9_7F4A_7C15;
        let mut bytes = Vec::with_capacity(self.segment_size as usize);
        while bytes.len() < self.segment_size as usize {
            let page = bytes.len();
            let is_first = page == 0;
            bytes.extend(self.magic.to_le_bytes());
            bytes.extend(if is_first { LONG_HEADER } else { 0 }.to_le_bytes());
            bytes.extend(self.timeline.to_le_bytes());
            bytes.extend((number * self.segment_size + page as u64).to_le_bytes());
            bytes.extend([0; 8]); // length of a continued record, padding
            if is_first {
                bytes.extend(self.system_identifier.to_le_bytes());
                bytes.extend((self.segment_size as u32).to_le_bytes());
                bytes.extend((PAGE_SIZE as u32).to_le_bytes());
            }
            // Half of each page is compressible, as in real WAL.
            while bytes.len() < page + PAGE_SIZE / 2 {
                // xorshift64
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                bytes.extend(random.to_le_bytes());
            }
            bytes.resize(page + PAGE_SIZE, 0);
        }
        bytes
    }
}

/// The ordinal number of a segment.
pub fn segment_number(name: &str, segment_size: u64) -> u64 {
    let part = |range| u64::from_str_radix(&name[range], 16).unwrap();
    part(8..16) * (0x1_0000_0000 / segment_size) + part(16..24)
}

/// The content of a history file, as PostgreSQL writes it: each ancestor with its switch point.
pub fn history(ancestors: &[(u32, &str)]) -> String {
    let lines = ancestors
        .iter()
        .map(|(timeline, switch)| format!("{timeline}\t{switch}\tno recovery target specified\n"));
    lines.collect()
}

/// The content of a backup history file for a backup within one segment.
pub fn backup_history(segment: &str) -> String {
    format!(
        "START WAL LOCATION: 0/28 (file {segment})\nSTOP WAL LOCATION: 0/100 (file {segment})\n\
         CHECKPOINT LOCATION: 0/60\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
         START TIME: 2026-01-15 14:30:00 UTC\nLABEL: nightly\nSTART TIMELINE: 1\n\
         STOP TIME: 2026-01-15 14:31:00 UTC\nSTOP TIMELINE: 1\n"
    )
}
