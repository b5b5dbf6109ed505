//! Packs: tar archives of whole files, compressed as a sequence of independent frames.
//!
//! Standard tools unpack them (`lz4 -dc pack-000001 | tar -x`). The index contains the frames of each file, so that
//! files can be read individually and in parallel.

mod reader;
mod tar_header;
mod writer;

pub use reader::{FileReading, PackReader, read_file};
pub use writer::{FinishedPack, PackOwner, PackWriter, PlacedFile, TARGET_RAW_BYTES};

/// The unit of a tar archive: a header takes one, and content is padded to a multiple.
const TAR_BLOCK_BYTES: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::FRAME_RAW_BYTES;
    use crate::config::Compression;
    use crate::durable::RealDisk;
    use crate::error::ErrorKind;
    use crate::repository::backup::{FileEntry, FilePlace, StoredText};
    use crate::store::{DirectoryStore, ObjectKey, Store, StoreExt};
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;
    use std::sync::Arc;

    const ALL: [Compression; 3] = [Compression::Lz4, Compression::Zstd { level: 1 }, Compression::None];

    struct Sample {
        _scratch: tempfile::TempDir,
        store: DirectoryStore,
        key: ObjectKey,
        files: Vec<(FileEntry, Vec<u8>)>,
        finished: FinishedPack,
    }

    fn into(target: &mut Vec<u8>) -> impl FnMut(&[u8]) -> crate::error::Result<()> {
        |bytes| {
            target.extend_from_slice(bytes);
            Ok(())
        }
    }

    /// Bytes that compress a little.
    fn content(length: usize, seed: u32) -> Vec<u8> {
        (0..length as u32).map(|at| ((at / 3).wrapping_mul(seed | 1) >> 5) as u8).collect()
    }

    fn sample(compression: Compression) -> Sample {
        let scratch = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(scratch.path().to_owned(), Arc::new(RealDisk));
        let key = ObjectKey::new("pack-000007").unwrap();
        let mut writer =
            PackWriter::create(&store, &key, 7, None, compression, PackOwner { uid: 26, gid: 27 }).unwrap();
        writer.add_directory(b"base", 0o700, 1_767_225_600).unwrap();
        writer.add_directory("d/".repeat(80).trim_end_matches('/').as_bytes(), 0o750, 0).unwrap();
        let long_name = "long/".repeat(40) + "name";
        let paths: [(&[u8], usize); 9] = [
            (b"base/empty", 0),
            (b"base/one", 1),
            (b"base/\xff\xfe", 8192),
            (long_name.as_bytes(), 511),
            (b"base/block", 512),
            (b"base/big", 3 * FRAME_RAW_BYTES + 8192),
            (b"base/frame", FRAME_RAW_BYTES),
            (b"base/almost", 64 << 10),
            (b"base/last", 70_001),
        ];
        for (number, (path, length)) in paths.iter().enumerate() {
            let content = content(*length, number as u32 * 77);
            writer.begin_file(number, path, *length as u64, 0o600, 1_767_225_600).unwrap();
            for piece in content.chunks(100_000) {
                writer.write(piece).unwrap();
            }
            writer.end_file().unwrap();
        }
        // Enough small files for several frames.
        for number in paths.len()..paths.len() + 400 {
            writer.begin_file(number, format!("small/{number}").as_bytes(), 1000, 0o640, 0).unwrap();
            writer.write(&content(1000, number as u32 * 77)).unwrap();
            writer.end_file().unwrap();
        }
        let finished = writer.finish().unwrap();
        let files = finished
            .files
            .iter()
            .map(|placed| {
                let path = paths.get(placed.number).map_or_else(
                    || format!("small/{}", placed.number).into_bytes(),
                    |(path, _)| path.to_vec(),
                );
                let length = paths.get(placed.number).map_or(1000, |(_, length)| *length);
                let entry = FileEntry {
                    path: StoredText::new(path),
                    bytes: length as u64,
                    modified_unix_s: 0,
                    mode: 0o600,
                    crc32c: placed.crc32c,
                    place: placed.place,
                    form: placed.form,
                };
                (entry, content(length, placed.number as u32 * 77))
            })
            .collect();
        Sample { _scratch: scratch, store, key, files, finished }
    }

    /// The whole archive, decoded frame by frame.
    fn archive_of(sample: &Sample) -> Vec<u8> {
        let stored = sample.store.read_small(&sample.key, u64::MAX).unwrap().unwrap();
        assert_eq!(stored.len() as u64, sample.finished.pack.stored_bytes);
        assert_eq!(crc32fast::hash(&stored), sample.finished.pack.crc32);
        let mut decoder = crate::codec::FrameDecoder::new();
        decoder.push(&stored);
        let (mut archive, mut raw) = (Vec::new(), Vec::new());
        while decoder.next(&mut raw).unwrap() == crate::codec::Decoded::Frame {
            archive.extend_from_slice(&raw);
        }
        decoder.finish().unwrap();
        assert_eq!(archive.len() as u64, sample.finished.pack.raw_bytes);
        archive
    }

    #[test]
    fn a_pack_is_a_tar_archive() {
        for compression in ALL {
            let sample = sample(compression);
            let archive = archive_of(&sample);
            let mut archive = tar::Archive::new(archive.as_slice());
            let mut files = sample.files.iter();
            for (number, entry) in archive.entries().unwrap().enumerate() {
                let mut entry = entry.unwrap();
                assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (26, 27));
                if number < 2 {
                    assert!(entry.header().entry_type().is_dir());
                    continue;
                }
                let (expected, content) = files.next().unwrap();
                assert_eq!(entry.path().unwrap().as_os_str().as_bytes(), expected.path.as_bytes());
                let mut found = Vec::new();
                entry.read_to_end(&mut found).unwrap();
                assert_eq!(&found, content);
            }
            assert!(files.next().is_none());
        }
    }

    #[test]
    fn every_file_is_read_alone_and_in_turn() {
        for compression in ALL {
            let sample = sample(compression);
            let mut reader = PackReader::new(&sample.store, sample.key.clone());
            for (entry, content) in &sample.files {
                let mut found = Vec::new();
                reader.read_file(entry, &mut into(&mut found)).unwrap();
                assert_eq!(&found, content, "{}", entry.path);
                let mut alone = Vec::new();
                read_file(&sample.store, &sample.key, entry, &mut into(&mut alone)).unwrap();
                assert_eq!(&alone, content);
            }
            // Backwards is slow, but right.
            for (entry, content) in sample.files.iter().rev().take(3) {
                let mut found = Vec::new();
                reader.read_file(entry, &mut into(&mut found)).unwrap();
                assert_eq!(&found, content);
            }
        }
    }

    #[test]
    fn a_big_file_begins_a_frame_of_its_own() {
        let sample = sample(Compression::Lz4);
        for (entry, _) in &sample.files {
            if entry.bytes > 64 << 10 {
                assert_eq!(entry.place.skip_bytes, 0, "{}", entry.path);
            }
            assert_eq!(entry.place.pack, 7);
        }
    }

    #[test]
    fn damage_anywhere_in_a_file_is_noticed() {
        let sample = sample(Compression::None);
        let stored = sample.store.read_small(&sample.key, u64::MAX).unwrap().unwrap();
        let (entry, _) = sample.files.iter().find(|(entry, _)| entry.bytes > 1 << 19).unwrap();
        let wrong = ObjectKey::new("wrong").unwrap();
        let mut positions: Vec<u64> = (0..entry.place.stored_bytes).step_by(9973).collect();
        positions.extend([0, 3, 14, entry.place.stored_bytes - 1]);
        for position in positions {
            let mut damaged = stored.clone();
            damaged[(entry.place.frame_offset + position) as usize] ^= 0x10;
            sample.store.put_new(&wrong, &[&damaged]).unwrap();
            let error = read_file(&sample.store, &wrong, entry, &mut |_| Ok(())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "at {position}");
            sample.store.delete(&wrong).unwrap();
        }
        let truncated = &stored[..(entry.place.frame_offset + entry.place.stored_bytes - 1) as usize];
        sample.store.put_new(&wrong, &[truncated]).unwrap();
        assert_eq!(
            read_file(&sample.store, &wrong, entry, &mut |_| Ok(())).unwrap_err().kind(),
            ErrorKind::Damaged
        );
    }

    #[test]
    fn wrong_positions_are_damage() {
        let sample = sample(Compression::Lz4);
        let (entry, _) = sample.files.iter().find(|(entry, _)| entry.bytes == 1000).unwrap();
        let places = [
            FilePlace { frame_offset: entry.place.frame_offset + 1, ..entry.place },
            FilePlace { frame_offset: u64::MAX, ..entry.place },
            FilePlace { frame_offset: sample.finished.pack.stored_bytes, ..entry.place },
            FilePlace { skip_bytes: u32::MAX, ..entry.place },
            FilePlace { skip_bytes: entry.place.skip_bytes + 1, ..entry.place },
            FilePlace { stored_bytes: 0, ..entry.place },
        ];
        for place in places {
            let entry = FileEntry { place, ..entry.clone() };
            let error = read_file(&sample.store, &sample.key, &entry, &mut |_| Ok(())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{place:?}");
        }
        let endless = FileEntry { bytes: u64::MAX, ..entry.clone() };
        assert!(read_file(&sample.store, &sample.key, &endless, &mut |_| Ok(())).is_err());
        let absent = ObjectKey::new("absent").unwrap();
        assert_eq!(
            read_file(&sample.store, &absent, entry, &mut |_| Ok(())).unwrap_err().kind(),
            ErrorKind::Damaged
        );
    }

    #[test]
    fn a_file_has_the_length_that_it_announced() {
        let scratch = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(scratch.path().to_owned(), Arc::new(RealDisk));
        let key = ObjectKey::new("pack-000001").unwrap();
        let owner = PackOwner { uid: 0, gid: 0 };
        let mut writer = PackWriter::create(&store, &key, 1, None, Compression::Lz4, owner).unwrap();
        writer.begin_file(0, b"shrank", 2 * FRAME_RAW_BYTES as u64, 0o600, 0).unwrap();
        writer.write(b"abc").unwrap();
        writer.fill_with_zeros().unwrap();
        writer.end_file().unwrap();
        writer.begin_file(1, b"grew", 1, 0o600, 0).unwrap();
        assert!(writer.write(b"ab").is_err());
        assert!(writer.end_file().is_err());
    }
}
