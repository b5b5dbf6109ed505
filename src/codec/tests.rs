//! Sequences of frames: encoded, decoded in pieces, damaged, forged, and compared with other programs.

use super::*;
use crate::config::Compression;
use crate::error::ErrorKind;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

const COMPRESSIONS: [Compression; 4] =
    [Compression::None, Compression::Lz4, Compression::Zstd { level: 1 }, Compression::Zstd { level: 3 }];

const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4D, 0x18];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// A reproducible random generator (SplitMix64).
struct Random(u64);

impl Random {
    /// Seeded from `PGARK_TEST_SEED`, otherwise from the clock; prints the seed, so that a failure can be reproduced.
    #[expect(clippy::print_stderr, reason = "shown only when the test fails")]
    fn printed() -> Random {
        let given = std::env::var("PGARK_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
        let seed =
            given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
        eprintln!("PGARK_TEST_SEED={seed}");
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        let mut bytes: Vec<u8> = words.collect();
        bytes.truncate(length);
        bytes
    }

    /// Resembles the rows of a table: mostly repetition.
    fn rows(&mut self, length: usize) -> Vec<u8> {
        let mut rows = Vec::with_capacity(length + 32);
        while rows.len() < length {
            rows.extend_from_slice(b"\0\0\0\x01 account ");
            rows.extend_from_slice(&(self.next() as u16).to_le_bytes());
            rows.extend_from_slice(&[b' '; 16]);
        }
        rows.truncate(length);
        rows
    }
}

fn encode(compression: Compression, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameEncoder::new(compression).encode(raw, &mut out).unwrap();
    out
}

fn skippable(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    skippable_frame(kind, payload, &mut out).unwrap();
    out
}

/// Appends all available content of `decoder` to `content`.
fn drain(decoder: &mut FrameDecoder, content: &mut Vec<u8>) -> Result<()> {
    let mut raw = Vec::new();
    loop {
        match decoder.next(&mut raw)? {
            Decoded::Frame => content.extend_from_slice(&raw),
            Decoded::Skippable { .. } => {}
            Decoded::NeedMore => return Ok(()),
        }
    }
}

/// Decodes a whole sequence.
fn decode(stored: &[u8]) -> Result<Vec<u8>> {
    let (mut decoder, mut content) = (FrameDecoder::new(), Vec::new());
    decoder.push(stored);
    drain(&mut decoder, &mut content)?;
    decoder.finish()?;
    Ok(content)
}

/// Asserts that `stored` is rejected with `message`, before memory is allocated for its content.
#[track_caller]
fn assert_refused(stored: &[u8], message: &str) {
    let mut decoder = FrameDecoder::new();
    decoder.push(stored);
    let mut raw = Vec::new();
    let error = decoder.next(&mut raw).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains(message), "{error}");
    assert_eq!(raw.capacity(), 0, "{error}: but only after allocating");
    assert_eq!(decoder.next(&mut raw).unwrap_err().to_string(), error.to_string(), "it stays refused");
    assert_eq!(decoder.finish().unwrap_err().kind(), ErrorKind::Damaged);
}

/// An lz4 frame header with a correct checksum.
fn lz4_header(flags: u8, sizes: u8, content_size: u64) -> Vec<u8> {
    let mut header = LZ4_MAGIC.to_vec();
    header.extend_from_slice(&[flags, sizes]);
    header.extend_from_slice(&content_size.to_le_bytes());
    header.push((twox_hash::XxHash32::oneshot(0, &header[4..]) >> 8) as u8);
    header
}

/// A zstd frame header that announces a single segment, a checksum and an eight-byte content size.
fn zstd_header(content_size: u64) -> Vec<u8> {
    [&ZSTD_MAGIC[..], &[0b1110_0100], &content_size.to_le_bytes()[..]].concat()
}

/// Encodes `content` in frames of `frame_bytes`, with a skippable frame before each.
fn sequence(compression: Compression, content: &[u8], frame_bytes: usize) -> Vec<u8> {
    let mut encoder = FrameEncoder::new(compression);
    let mut stored = Vec::new();
    for (number, raw) in content.chunks(frame_bytes).enumerate() {
        skippable_frame(number as u8 % 16, b"pgark", &mut stored).unwrap();
        encoder.encode(raw, &mut stored).unwrap();
    }
    stored
}

#[test]
fn every_size_comes_back() {
    let mut random = Random::printed();
    let (noise, rows) = (random.bytes(FRAME_RAW_BYTES_MAX), random.rows(FRAME_RAW_BYTES_MAX));
    let around = |bytes: usize| [bytes - 1, bytes, bytes + 1];
    let sizes = [&[0, 1, 12, 13, FRAME_RAW_BYTES_MAX][..], &around(65536), &around(FRAME_RAW_BYTES)].concat();
    for compression in COMPRESSIONS {
        let (mut encoder, mut decoder) = (FrameEncoder::new(compression), FrameDecoder::new());
        let (mut stored, mut raw) = (Vec::new(), b"left from before".to_vec());
        for size in &sizes {
            for content in [&noise[..*size], &rows[..*size]] {
                stored.clear();
                stored.extend_from_slice(b"kept");
                encoder.encode(content, &mut stored).unwrap();
                assert_eq!(&stored[..4], b"kept");
                assert!(stored.len() - 4 <= size + size / 255 + 32, "{compression}, {size}: grows");
                decoder.push(&stored[4..]);
                assert_eq!(decoder.next(&mut raw).unwrap(), Decoded::Frame);
                assert!(raw == content, "{compression}, {size}");
                assert_eq!(decoder.next(&mut raw).unwrap(), Decoded::NeedMore);
                assert!(raw == content, "only a frame replaces what was there");
            }
        }
        decoder.finish().unwrap();
    }
}

#[test]
fn repetition_shrinks_and_noise_does_not_grow() {
    let mut random = Random::printed();
    let (noise, rows) = (random.bytes(FRAME_RAW_BYTES), random.rows(FRAME_RAW_BYTES));
    for compression in [Compression::Lz4, Compression::Zstd { level: 1 }] {
        assert!(encode(compression, &rows).len() < FRAME_RAW_BYTES / 4, "{compression}");
        assert!(encode(compression, &noise).len() < FRAME_RAW_BYTES + 64, "{compression}");
    }
    assert_eq!(encode(Compression::None, &rows).len(), FRAME_RAW_BYTES + 27);
}

#[test]
fn too_much_for_a_frame_is_refused_and_leaves_the_output_alone() {
    let raw = vec![0; FRAME_RAW_BYTES_MAX + 1];
    for compression in COMPRESSIONS {
        let mut out = b"kept".to_vec();
        assert!(FrameEncoder::new(compression).encode(&raw, &mut out).is_err());
        assert_eq!(out, b"kept");
    }
    let mut out = Vec::new();
    assert!(skippable_frame(16, b"", &mut out).is_err());
    assert!(skippable_frame(0, &raw[..SKIPPABLE_BYTES_MAX + 1], &mut out).is_err());
    assert!(out.is_empty());
}

#[test]
fn skippable_frames_come_back_in_their_place() {
    let longest = vec![9; SKIPPABLE_BYTES_MAX];
    let frame = encode(Compression::Lz4, b"content");
    let mut decoder = FrameDecoder::new();
    decoder.push(&[skippable(0, b""), frame, skippable(15, &longest)].concat());
    let mut raw = Vec::new();
    assert_eq!(decoder.next(&mut raw).unwrap(), Decoded::Skippable { kind: 0, payload: Vec::new() });
    assert_eq!(decoder.next(&mut raw).unwrap(), Decoded::Frame);
    assert_eq!(decoder.next(&mut raw).unwrap(), Decoded::Skippable { kind: 15, payload: longest });
    assert_eq!(raw, b"content");
    decoder.finish().unwrap();
}

#[test]
fn pieces_of_any_length_give_the_same_content() {
    let mut random = Random::printed();
    let content = [random.rows(300_000), random.bytes(100_000)].concat();
    let mut stored = Vec::new();
    for compression in COMPRESSIONS {
        stored.extend_from_slice(&sequence(compression, &content, 50_000));
    }
    for piece_bytes_max in [1, 2, 100, 10_000, 200_000, stored.len()] {
        let (mut decoder, mut decoded) = (FrameDecoder::new(), Vec::new());
        let mut rest = &stored[..];
        // Single bytes only for a short input, because the number of pieces determines the run time.
        while !rest.is_empty() {
            let end = 1 + random.below(piece_bytes_max.max(if rest.len() > 200_000 { 5_000 } else { 1 }));
            let (piece, after) = rest.split_at(end.min(rest.len()));
            decoder.push(piece);
            // A caller need not consume everything before the next push.
            if random.below(3) > 0 {
                drain(&mut decoder, &mut decoded).unwrap();
            }
            rest = after;
        }
        drain(&mut decoder, &mut decoded).unwrap();
        decoder.finish().unwrap();
        assert!(decoded == content.repeat(COMPRESSIONS.len()), "pieces of up to {piece_bytes_max}");
    }
}

#[test]
fn the_decoder_holds_little_more_than_a_frame() {
    let mut random = Random::printed();
    let noise = random.bytes(FRAME_RAW_BYTES);
    let frame = encode(Compression::Lz4, &noise);
    let (mut decoder, mut raw) = (FrameDecoder::new(), Vec::new());
    for _ in 0..32 {
        for piece in frame.chunks(10_000) {
            decoder.push(piece);
            while decoder.next(&mut raw).unwrap() != Decoded::NeedMore {}
        }
    }
    assert!(decoder.held_bytes() <= 4 * FRAME_RAW_BYTES, "{} bytes", decoder.held_bytes());
    assert!(raw.capacity() <= 2 * FRAME_RAW_BYTES);
}

/// Short frames of every kind, and their content.
fn small_sequence() -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut random = Random(1);
    let contents = [random.rows(300), random.bytes(30), Vec::new(), vec![0; 700]];
    let mut frames = vec![skippable(0, b"pgark 1")];
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd { level: 1 }] {
        frames.extend(contents.iter().map(|content| encode(compression, content)));
    }
    frames.push(skippable(3, b"end"));
    (frames, contents.concat().repeat(3))
}

#[test]
fn no_flipped_bit_changes_content() {
    let (frames, content) = small_sequence();
    let stored = frames.concat();
    assert_eq!(decode(&stored).unwrap(), content);
    let mut detected = 0;
    for bit in 0..stored.len() * 8 {
        let mut damaged = stored.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match decode(&damaged) {
            Ok(decoded) => assert_eq!(decoded, content, "bit {bit}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "bit {bit}: {error}");
                detected += 1;
            }
        }
    }
    // Undetected are only the kinds and payloads of skippable frames, and a few bits without meaning.
    assert!(detected > stored.len() * 8 * 8 / 10, "{detected} of {} bits", stored.len() * 8);
}

#[test]
fn noise_never_panics() {
    let mut random = Random::printed();
    let stored = small_sequence().0.concat();
    for _ in 0..3_000 {
        let mut damaged = stored.clone();
        for _ in 0..=random.below(8) {
            let (at, length) = (random.below(damaged.len()), random.below(6));
            let end = damaged.len().min(at + length);
            let inserted_bytes = random.below(6);
            let noise = random.bytes(inserted_bytes);
            damaged.splice(at..end, noise);
        }
        let _ = decode(&damaged);
    }
}

#[test]
fn every_truncation_inside_a_frame_is_noticed() {
    let (frames, content) = small_sequence();
    for (number, frame) in frames.iter().enumerate() {
        let before = frames[..number].concat();
        for length in 0..frame.len() {
            let result = decode(&[&before[..], &frame[..length]].concat());
            match length {
                0 => assert!(content.starts_with(&result.unwrap())),
                _ => assert_eq!(result.unwrap_err().kind(), ErrorKind::Damaged, "frame {number}, {length}"),
            }
        }
    }
}

#[test]
fn large_announcements_are_refused_before_allocating() {
    for announced in [FRAME_RAW_BYTES_MAX as u64 + 1, u64::from(u32::MAX), u64::MAX] {
        assert_refused(&zstd_header(announced), "more than the 4194304");
        assert_refused(&lz4_header(0x6C, 0x70, announced), "more than the 4194304");
    }
    assert_refused(&[&ZSTD_MAGIC[..], &[0xA4, 1, 0, 0x40, 0]].concat(), "announces 4194305 bytes");
    assert_refused(&[0x5F, 0x2A, 0x4D, 0x18, 1, 0, 1, 0], "skippable frame of 65537 bytes");
    let too_long_block = [lz4_header(0x6C, 0x40, 1), vec![1, 0, 1, 0]].concat();
    assert_refused(&too_long_block, "longer than its frame allows");
    let too_long_block = [zstd_header(1), ((128 << 10 | 1u32) << 3).to_le_bytes()[..3].to_vec()].concat();
    assert_refused(&too_long_block, "longer than the format allows");
}

#[test]
fn blocks_without_content_do_not_go_on_for_ever() {
    // In many pushes: measuring the frame again for each of them would take long.
    let empty_lz4_block = [1, 0, 0, 0, 0];
    let empty_zstd_block = [0, 0, 0];
    for (header, block) in
        [(lz4_header(0x6C, 0x40, 1), &empty_lz4_block[..]), (zstd_header(1), &empty_zstd_block[..])]
    {
        let (mut decoder, mut raw) = (FrameDecoder::new(), Vec::new());
        decoder.push(&header);
        let blocks = block.repeat(1_000);
        let pushes = (0..FRAME_RAW_BYTES_MAX)
            .take_while(|_| {
                decoder.push(&blocks);
                decoder.next(&mut raw).is_ok()
            })
            .count();
        assert!(pushes <= FRAME_STORED_BYTES_MAX / blocks.len() + 1);
        assert_eq!(raw.capacity(), 0);
    }
}

#[test]
fn frames_that_pgark_does_not_write_are_refused() {
    for (flags, message) in [
        (0xAC, "unknown version"),
        (0x6E, "unknown version"),
        (0x6D, "needs a dictionary"),
        (0x64, "no content size"),
        (0x68, "no checksum"),
        (0x7C, "block checksums"),
    ] {
        assert_refused(&lz4_header(flags, 0x40, 1), message);
    }
    for sizes in [0x30, 0x41, 0xC0] {
        assert_refused(&lz4_header(0x6C, sizes, 1), "unknown block size");
    }
    let mut header = lz4_header(0x6C, 0x40, 1);
    header[8] ^= 1;
    assert_refused(&header, "header checksum does not match");
    for (descriptor, message) in [
        (0b0000_0100, "no content size"),
        (0b0010_0000, "no checksum"),
        (0b0010_1100, "unknown version"),
        (0b0010_0111, "needs a dictionary"),
    ] {
        assert_refused(&[&ZSTD_MAGIC[..], &[descriptor; 2]].concat(), message);
    }
    assert_refused(&[&zstd_header(0)[..], &[0b111, 0, 0]].concat(), "unknown type");
    assert_refused(b"PK\x03\x04", "no lz4, zstd or skippable frame begins with 0x04034b50");
}

#[test]
fn damaged_content_is_named() {
    let content = Random(2).rows(2_000);
    for compression in COMPRESSIONS {
        let mut stored = encode(compression, &content);
        *stored.last_mut().unwrap() ^= 1;
        let message = decode(&stored).unwrap_err().to_string();
        assert!(message.ends_with("frame checksum does not match"), "{compression}: {message}");
    }
    let mut stored = encode(Compression::Lz4, &content);
    stored[19..40].fill(0xFF);
    let message = decode(&stored).unwrap_err().to_string();
    assert!(message.starts_with("lz4 block does not decompress: "), "{message}");
    let mut stored = encode(Compression::Zstd { level: 1 }, &content);
    stored[10..40].fill(0xFF);
    let message = decode(&stored).unwrap_err().to_string();
    assert!(message.starts_with("zstd "), "{message}");
    for (announced, message) in [(6, "holds more than"), (8, "holds less than")] {
        let header = lz4_header(0x6C, 0x40, announced);
        let stored = [&header, &encode(Compression::None, b"content")[15..]].concat();
        let error = decode(&stored).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn another_implementation_reads_our_lz4_frames() {
    let mut random = Random::printed();
    for compression in [Compression::None, Compression::Lz4] {
        for size in [0, 1, 65_536, 65_537, FRAME_RAW_BYTES, 1_500_000] {
            let content = [random.rows(size / 2), random.bytes(size - size / 2)].concat();
            let stored = encode(compression, &content);
            let mut decoded = Vec::new();
            lz4_flex::frame::FrameDecoder::new(&stored[..]).read_to_end(&mut decoded).unwrap();
            assert!(decoded == content, "{compression}, {size}");
        }
    }
}

/// The output of the standard `program`; `None` if it is not installed.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn stock(program: &str, arguments: &[&str], file: &Path) -> Option<Vec<u8>> {
    match Command::new(program).args(arguments).arg(file).output() {
        Ok(output) => {
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            Some(output.stdout)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("skipped: {program} is not installed");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

#[test]
fn stock_tools_read_our_sequences() {
    let mut random = Random::printed();
    let content = [random.rows(600_000), random.bytes(300_000), vec![0; 100]].concat();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("stored");
    for compression in COMPRESSIONS {
        let program = if matches!(compression, Compression::Zstd { .. }) { "zstd" } else { "lz4" };
        let empty = encode(compression, b"");
        let stored = [sequence(compression, &content, FRAME_RAW_BYTES), empty, skippable(1, b"end")].concat();
        std::fs::write(&file, stored).unwrap();
        if let Some(decoded) = stock(program, &["-dc"], &file) {
            assert!(decoded == content, "{compression}");
        }
    }
}

#[test]
fn what_stock_tools_write_is_read_where_it_is_allowed() {
    let mut random = Random::printed();
    let content = [random.rows(600_000), random.bytes(300_000)].concat();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("raw");
    std::fs::write(&file, &content).unwrap();
    for (program, arguments) in [
        ("zstd", &["-19", "-c"][..]),
        ("zstd", &["-1", "--zstd=wlog=17", "-c"]),
        ("lz4", &["-c", "--content-size"]),
        ("lz4", &["-9", "-c", "--content-size", "-B4"]),
        ("lz4", &["-c", "--content-size", "-B7", "-BD"]),
    ] {
        if let Some(stored) = stock(program, arguments, &file) {
            assert!(decode(&stored).unwrap() == content, "{program} {arguments:?}");
        }
    }
    for (arguments, message) in [
        (&["-c", "--content-size", "-B4", "-BD"][..], "linked blocks"),
        (&["-c"], "no content size"),
        (&["-c", "--content-size", "--no-frame-crc"], "no checksum"),
    ] {
        if let Some(stored) = stock("lz4", arguments, &file) {
            let error = decode(&stored).unwrap_err().to_string();
            assert!(error.contains(message), "lz4 {arguments:?}: {error}");
        }
    }
}
