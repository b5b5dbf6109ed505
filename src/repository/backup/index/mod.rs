//! `files`: the index of a backup's files, sorted by path, one line of JSON each.
//!
//! A skippable frame identifies an index and its version. Frames with the lines follow. The last line counts the
//! others, so that missing frames are noticed even without the manifest.

mod line;
mod reader;
mod writer;

pub use reader::IndexReader;
pub use writer::IndexWriter;

use super::framed::StoredObject;
use super::text::StoredText;
use crate::postgres::backup::incremental::incremental_path;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The nibble that distinguishes our skippable frame from those of other tools: the frame's magic is `0x184D2A57`.
const FRAME_KIND: u8 = 7;

/// The beginning of that frame's payload; the version follows, little-endian.
const MAGIC: &[u8; 8] = b"pgarkidx";

/// Files and directories.
const VERSION_WHOLE: u32 = 1;
/// Also incremental files. Written only if there may be some, so that older readers can read full backups.
const VERSION_INCREMENTAL: u32 = 2;

/// An entry of the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexEntry {
    /// A directory.
    Directory(DirectoryEntry),
    /// A file.
    File(FileEntry),
}

/// A directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Path below the data directory, without a slash at its end.
    pub path: StoredText,
    /// Last modification, in seconds since 1970.
    pub modified_unix_s: i64,
    /// Permission bits.
    pub mode: u32,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Path below the data directory; in a tablespace, below `pg_tblspc/<oid>/`.
    pub path: StoredText,
    /// Length in bytes.
    pub bytes: u64,
    /// Last modification, in seconds since 1970.
    pub modified_unix_s: i64,
    /// Permission bits.
    pub mode: u32,
    /// CRC-32C of the content.
    pub crc32c: u32,
    /// Where the content is stored.
    pub place: FilePlace,
    /// Which form of the content is stored.
    pub form: FileForm,
}

/// The stored form of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileForm {
    /// The whole content.
    #[default]
    Whole,
    /// Changes since the parent, as PostgreSQL's incremental file. Length and checksum of the entry are those of that
    /// file.
    Incremental {
        /// The length of the whole file.
        whole_bytes: u64,
    },
}

/// The position of a file's content: completely in one pack, in consecutive frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePlace {
    /// The pack's number.
    pub pack: u32,
    /// The offset in the pack of the frame with the first byte.
    pub frame_offset: u64,
    /// The number of raw bytes before the first byte in that frame.
    pub skip_bytes: u32,
    /// The length of the frames with the content, from `frame_offset` on; 0 for an empty file.
    pub stored_bytes: u64,
}

/// What the manifest records of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredIndex {
    /// Number of files and directories.
    pub entries: u64,
    /// The object.
    #[serde(flatten)]
    pub object: StoredObject,
}

impl IndexEntry {
    /// Path below the data directory.
    pub fn path(&self) -> &StoredText {
        match self {
            IndexEntry::Directory(directory) => &directory.path,
            IndexEntry::File(file) => &file.path,
        }
    }
}

impl FileEntry {
    /// The length of the whole file.
    pub fn whole_bytes(&self) -> u64 {
        match self.form {
            FileForm::Whole => self.bytes,
            FileForm::Incremental { whole_bytes } => whole_bytes,
        }
    }

    /// The path in PostgreSQL's own manifest, and in the pack below its root.
    pub fn stored_path(&self) -> Cow<'_, [u8]> {
        match self.form {
            FileForm::Whole => Cow::Borrowed(self.path.as_bytes()),
            FileForm::Incremental { .. } => Cow::Owned(incremental_path(self.path.as_bytes())),
        }
    }
}

/// Whether a relative path stays below its directory and is in normal form.
fn stays_below(path: &[u8]) -> bool {
    let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
    path.split(|byte| *byte == b'/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Compression;
    use crate::durable::RealDisk;
    use crate::error::{ErrorKind, Result};
    use crate::repository::backup::framed::FramedWriter;
    use crate::store::{DirectoryStore, ObjectKey};
    use std::sync::Arc;

    fn scratch() -> (tempfile::TempDir, DirectoryStore, ObjectKey) {
        let scratch = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(scratch.path().to_owned(), Arc::new(RealDisk));
        (scratch, store, ObjectKey::new("files").unwrap())
    }

    fn file(path: &[u8], bytes: u64) -> IndexEntry {
        IndexEntry::File(FileEntry {
            path: StoredText::new(path),
            bytes,
            modified_unix_s: -1,
            mode: 0o600,
            crc32c: 0x0102_0304,
            place: FilePlace { pack: 3, frame_offset: 1 << 40, skip_bytes: 512, stored_bytes: 77 },
            form: FileForm::Whole,
        })
    }

    fn directory(path: &[u8]) -> IndexEntry {
        IndexEntry::Directory(DirectoryEntry {
            path: StoredText::new(path),
            modified_unix_s: 1_767_225_600,
            mode: 0o750,
        })
    }

    fn read_all(store: &DirectoryStore, key: &ObjectKey, stored: StoredIndex) -> Result<Vec<IndexEntry>> {
        let mut reader = IndexReader::open(store, key, stored)?.unwrap();
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            entries.push(entry);
        }
        assert_eq!(reader.next_entry().unwrap(), None, "the end stays the end");
        Ok(entries)
    }

    #[test]
    fn entries_are_read_back_across_many_frames() {
        for compression in [Compression::Lz4, Compression::Zstd { level: 1 }, Compression::None] {
            let (_scratch, store, key) = scratch();
            let mut entries = vec![directory(b"base"), file(b"base/\xff\"\n", 0)];
            entries.extend((0..5000).map(|number| file(format!("pg_xact/{number:08}").as_bytes(), number)));
            let mut writer = IndexWriter::create(&store, &key, compression).unwrap();
            for entry in &entries {
                writer.add(entry).unwrap();
            }
            let stored = writer.finish().unwrap();
            assert_eq!(stored.entries, 5002);
            assert!(stored.object.raw_bytes > 2 * crate::codec::FRAME_RAW_BYTES as u64);
            assert_eq!(read_all(&store, &key, stored).unwrap(), entries);
        }
    }

    #[test]
    fn an_index_is_text() {
        let (_scratch, store, key) = scratch();
        let mut writer = IndexWriter::create(&store, &key, Compression::None).unwrap();
        for entry in [directory(b"base"), file(b"base/1", 8192)] {
            writer.add(&entry).unwrap();
        }
        let stored = writer.finish().unwrap();
        let mut reader =
            super::super::framed::FramedReader::open(&store, &key, stored.object).unwrap().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(
            text,
            "{\"path\":\"base\",\"kind\":\"directory\",\"modified_unix_s\":1767225600,\"mode\":\"0750\"}\n\
             {\"path\":\"base/1\",\"kind\":\"file\",\"modified_unix_s\":-1,\"mode\":\"0600\",\"bytes\":8192,\
             \"crc32c\":\"04030201\",\"pack\":3,\"frame_offset\":1099511627776,\"skip_bytes\":512,\"stored_bytes\":77}\n\
             {\"kind\":\"end\",\"entries\":2,\"bytes\":8192}\n"
        );
    }

    #[test]
    fn an_index_of_incremental_files_has_a_version_of_its_own() {
        let (_scratch, store, key) = scratch();
        let IndexEntry::File(mut entry) = file(b"base/1", 12) else { panic!("a file") };
        entry.form = FileForm::Incremental { whole_bytes: 81_920 };
        assert_eq!((entry.whole_bytes(), &*entry.stored_path()), (81_920, &b"base/INCREMENTAL.1"[..]));
        let entry = IndexEntry::File(entry);
        let mut writer = IndexWriter::create(&store, &key, Compression::Lz4).unwrap();
        assert!(writer.add(&entry).is_err(), "version 1 has none");
        let mut writer = IndexWriter::create_incremental(&store, &key, Compression::Lz4).unwrap();
        writer.add(&entry).unwrap();
        let stored = writer.finish().unwrap();
        let mut reader =
            super::super::framed::FramedReader::open(&store, &key, stored.object).unwrap().unwrap();
        assert_eq!(reader.header(FRAME_KIND).unwrap().unwrap(), b"pgarkidx\x02\0\0\0");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert!(text.starts_with("{\"path\":\"base/1\",\"kind\":\"incremental\",\"modified"), "{text}");
        assert!(text.contains("\"bytes\":12,\"whole_bytes\":81920,\"crc32c\""), "{text}");
        assert_eq!(read_all(&store, &key, stored).unwrap(), [entry]);
    }

    #[test]
    fn refuses_to_write_unreadable_paths() {
        let (_scratch, store, key) = scratch();
        let mut writer = IndexWriter::create(&store, &key, Compression::Lz4).unwrap();
        writer.add(&file(b"b", 1)).unwrap();
        for path in [&b"b"[..], b"a", b"/x", b"c/../d", b"", b"c//d", b"c/"] {
            assert!(writer.add(&file(path, 1)).is_err(), "{}", path.escape_ascii());
        }
    }

    #[test]
    fn hostile_lines_are_damage() {
        let end = "{\"kind\":\"end\",\"entries\":1,\"bytes\":0}\n";
        let directory = |path: &str| {
            format!("{{\"path\":{path},\"kind\":\"directory\",\"modified_unix_s\":0,\"mode\":\"0700\"}}\n")
        };
        let file = |fields: &str| {
            format!("{{\"path\":\"a\",\"kind\":\"file\",\"modified_unix_s\":0,\"mode\":\"0600\"{fields}}}\n")
        };
        let complete = ",\"bytes\":0,\"crc32c\":\"00000000\",\"pack\":1,\"frame_offset\":0,\"skip_bytes\":0,\"stored_bytes\":0";
        let good = directory("\"a\"") + end;
        let cases = [
            String::new(),
            directory("\"a\""),
            directory("\"../a\"") + end,
            directory("\"/a\"") + end,
            directory("\"a/./b\"") + end,
            directory("\"a\\u0000\"") + end,
            directory("{\"hex\":\"2e2e\"}") + end,
            directory("\"a\"") + &directory("\"a\"") + "{\"kind\":\"end\",\"entries\":2,\"bytes\":0}\n",
            directory("\"b\"") + &directory("\"a\"") + "{\"kind\":\"end\",\"entries\":2,\"bytes\":0}\n",
            good.clone() + &directory("\"b\""),
            good.clone() + end,
            good.replace("\"entries\":1", "\"entries\":2"),
            good.replace("\"bytes\":0", "\"bytes\":1"),
            good.trim_end().to_owned(),
            good.replace("0700", "0999"),
            good.replace("0700", "100700"),
            good.replace("\"a\"", &format!("\"{}\"", "a".repeat(70_000))),
            "x".repeat(300_000),
            file("") + end,
            file(complete).replace("\"file\"", "\"incremental\"") + end,
            file(&complete.replace("00000000", "0000000")) + end,
            file(&complete.replace("\"pack\":1", "\"pack\":0")) + end,
            file(&complete.replace("\"bytes\":0", "\"bytes\":-1")) + end,
            "{}\n".to_owned() + end,
            "[]\n".to_owned() + end,
            "\n".to_owned() + end,
        ];
        let read = |content: &str| {
            let (_scratch, store, key) = scratch();
            let mut writer = FramedWriter::create(&store, &key, Compression::Lz4).unwrap();
            let mut header = MAGIC.to_vec();
            header.extend_from_slice(&VERSION_INCREMENTAL.to_le_bytes());
            writer.skippable(FRAME_KIND, &header).unwrap();
            writer.append(content.as_bytes()).unwrap();
            let object = writer.finish().unwrap();
            read_all(&store, &key, StoredIndex { entries: 1, object })
        };
        assert_eq!(read(&good).unwrap().len(), 1);
        assert_eq!(read(&(file(complete) + end)).unwrap().len(), 1);
        for content in cases {
            let error = read(&content).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{:.100}", content);
        }
    }

    #[test]
    fn another_index_than_the_recorded_one_is_damage() {
        let (_scratch, store, key) = scratch();
        let mut writer = IndexWriter::create(&store, &key, Compression::Lz4).unwrap();
        writer.add(&file(b"a", 1)).unwrap();
        let stored = writer.finish().unwrap();
        let mut other = stored;
        other.object.raw_digest = crate::codec::Digest::of(b"");
        assert_eq!(read_all(&store, &key, other).unwrap_err().kind(), ErrorKind::Damaged);
        let other = StoredIndex { entries: 2, ..stored };
        assert_eq!(read_all(&store, &key, other).unwrap_err().kind(), ErrorKind::Damaged);
        read_all(&store, &key, stored).unwrap();
    }

    #[test]
    fn a_newer_version_is_refused() {
        let (_scratch, store, key) = scratch();
        for (header, kind) in [
            (&b"pgarkidx\x03\0\0\0"[..], ErrorKind::Usage),
            (b"pgarkwal\x01\0\0\0", ErrorKind::Damaged),
            (b"pgarkidx", ErrorKind::Damaged),
        ] {
            let mut writer = FramedWriter::create(&store, &key, Compression::Lz4).unwrap();
            writer.skippable(FRAME_KIND, header).unwrap();
            let object = writer.finish().unwrap();
            let error = IndexReader::open(&store, &key, StoredIndex { entries: 0, object }).err().unwrap();
            assert_eq!(error.kind(), kind);
            crate::store::Store::delete(&store, &key).unwrap();
        }
    }
}
