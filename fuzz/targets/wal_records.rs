//! A WAL record with valid header, page and checksum, and arbitrary content.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::postgres::{Lsn, MajorVersion, SegmentSize, WalReader};
use std::ops::ControlFlow;

const PAGE_BYTES: usize = 8192;
const LONG_HEADER_BYTES: usize = 40;
const RECORD_HEADER_BYTES: usize = 24;
/// Number of bytes of a record's header before its checksum.
const SUMMED_BYTES: usize = 20;
/// The address of the second segment.
const ADDRESS: u64 = 16 << 20;
const XLP_LONG_HEADER: u16 = 2;

fuzz_target!(|data: &[u8]| {
    let [version, info, resource_manager, content @ ..] = data else { return };
    let version = MajorVersion::ALL[usize::from(*version) % MajorVersion::ALL.len()];
    let content = content.get(..PAGE_BYTES - LONG_HEADER_BYTES - RECORD_HEADER_BYTES).unwrap_or(content);

    let mut page = Vec::with_capacity(PAGE_BYTES);
    page.extend_from_slice(&version.facts().wal_magic.to_le_bytes());
    page.extend_from_slice(&XLP_LONG_HEADER.to_le_bytes());
    page.extend_from_slice(&1_u32.to_le_bytes()); // timeline
    page.extend_from_slice(&ADDRESS.to_le_bytes());
    page.extend_from_slice(&[0; 8]); // no rest of an earlier record; padding
    page.extend_from_slice(&pgark_fuzz::SYSTEM.to_le_bytes());
    page.extend_from_slice(&(16_u32 << 20).to_le_bytes());
    page.extend_from_slice(&(PAGE_BYTES as u32).to_le_bytes());

    let mut header = Vec::with_capacity(RECORD_HEADER_BYTES);
    header.extend_from_slice(&((RECORD_HEADER_BYTES + content.len()) as u32).to_le_bytes());
    header.extend_from_slice(&731_u32.to_le_bytes()); // transaction
    header.extend_from_slice(&(ADDRESS - 64).to_le_bytes()); // the previous record
    header.extend_from_slice(&[*info, *resource_manager, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(content), &header[..SUMMED_BYTES]);
    header.extend_from_slice(&crc.to_le_bytes());

    page.extend_from_slice(&header);
    page.extend_from_slice(content);
    page.resize(PAGE_BYTES, 0);
    let address = Lsn::new(ADDRESS).expect("not zero");
    let mut reader = WalReader::from_page(address, SegmentSize::DEFAULT);
    let _ = reader.read(address, &page, &mut |record| {
        let _ = record.time();
        ControlFlow::Continue(())
    });
});
