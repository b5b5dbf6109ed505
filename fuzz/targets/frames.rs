//! Sequences of lz4, zstd and skippable frames, in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::codec::{Decoded, FRAME_RAW_BYTES_MAX, FrameDecoder};

fuzz_target!(|data: &[u8]| {
    let Some((size, stored)) = data.split_first() else { return };
    let mut decoder = FrameDecoder::new();
    let mut raw = Vec::new();
    for piece in stored.chunks(usize::from(*size) * 16 + 1) {
        decoder.push(piece);
        loop {
            match decoder.next(&mut raw) {
                Ok(Decoded::NeedMore) => break,
                Ok(_) => assert!(raw.len() <= FRAME_RAW_BYTES_MAX),
                Err(_) => return,
            }
        }
    }
    let _ = decoder.finish();
});
