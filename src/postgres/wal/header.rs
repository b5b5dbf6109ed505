//! The headers at the start of WAL pages.
//!
//! Owns: parsing them and checking that their values are possible. Does not own: whether a page is the expected one
//! (the task of the page reader), and records.

use crate::error::{Error, Result};
use crate::postgres::value::little_endian::{u16_at, u32_at, u64_at};
use crate::postgres::value::lsn::{Lsn, SegmentSize};
use crate::postgres::value::system_identifier::SystemIdentifier;
use crate::postgres::value::timeline::TimelineId;
use crate::postgres::version::major::MajorVersion;

/// The size of a WAL page in bytes. PostgreSQL can be built with another size; no distribution does that, and pgark
/// rejects such WAL. Source: `XLOG_BLCKSZ`.
pub const WAL_PAGE_BYTES: u32 = 8192;

/// The header of every page except the first of a segment, 24 bytes.
///
/// Shape: magic (2), flags (2), timeline (4), address (8), bytes of a continued record (4), padding (4); little-endian.
/// Source: PostgreSQL `access/xlog_internal.h`, `XLogPageHeaderData`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPageHeader {
    /// The version that wrote the page, derived from the magic; for an unknown version, the assumed one.
    pub version: MajorVersion,
    /// The magic.
    pub magic: u16,
    /// The flag bits that are set.
    flags: u16,
    /// The timeline of the first record on the page. In a segment with a switch point, pages before it have the
    /// ancestor's.
    pub timeline: TimelineId,
    /// The position of the page's first byte.
    pub address: Lsn,
    /// Number of bytes, from this page on, that remain of a record that began on an earlier page; 0 if there is none.
    pub remaining_bytes: u32,
}

/// The header of the first page of a segment, 40 bytes; it identifies the segment.
///
/// Shape: the 24 bytes of [`WalPageHeader`], then system identifier (8), segment size (4), page size (4).
/// Source: PostgreSQL `access/xlog_internal.h`, `XLogLongPageHeaderData`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongPageHeader {
    /// The fields that all pages have.
    pub page: WalPageHeader,
    /// The cluster that wrote the segment.
    pub system: SystemIdentifier,
    /// The size of the segment.
    pub segment_size: SegmentSize,
}

impl WalPageHeader {
    /// Size of the header in bytes, including padding.
    pub const BYTES: u32 = 24;

    const CONTINUED: u16 = 0x0001;
    const LONG: u16 = 0x0002;
    const OVERWRITE: u16 = 0x0008;
    const ALL_FLAGS: u16 = 0x000F;

    /// Parses the header at the start of `page`, in the format of the `assumed` version if its version is unknown.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if there are too few bytes, the magic belongs to no
    /// supported version and none is assumed, an unknown flag is set, or a field has a value that PostgreSQL never
    /// writes.
    pub fn parse(page: &[u8], assumed: Option<MajorVersion>) -> Result<WalPageHeader> {
        let too_short = || Error::damaged(format!("WAL page has only {} bytes", page.len()));
        let magic = u16_at(page, 0).ok_or_else(too_short)?;
        let flags = u16_at(page, 2).ok_or_else(too_short)?;
        let timeline = u32_at(page, 4).ok_or_else(too_short)?;
        let address = u64_at(page, 8).ok_or_else(too_short)?;
        let remaining_bytes = u32_at(page, 16).ok_or_else(too_short)?;

        let version = version_of(magic, assumed)?;
        if flags & !WalPageHeader::ALL_FLAGS != 0 {
            return Err(Error::damaged(format!("WAL page has unknown flags {flags:04X}")));
        }
        let timeline = TimelineId::new(timeline).ok_or_else(|| Error::damaged("WAL page has timeline 0"))?;
        let address = Lsn::new(address)
            .filter(|address| address.as_u64().is_multiple_of(u64::from(WAL_PAGE_BYTES)))
            .ok_or_else(|| Error::damaged(format!("WAL page has the impossible address {address:X}")))?;
        Ok(WalPageHeader { version, magic, flags, timeline, address, remaining_bytes })
    }

    /// Whether the page begins with the rest of an earlier record.
    pub fn is_continued(&self) -> bool {
        self.flags & WalPageHeader::CONTINUED != 0
    }

    /// Whether this is the header of the first page of a segment.
    pub fn is_long(&self) -> bool {
        self.flags & WalPageHeader::LONG != 0
    }

    /// Whether this page replaces the lost rest of a record: after a crash, the server (version 14 and later) abandons
    /// a record whose later pages never reached the disk, and continues at this page.
    pub fn is_overwrite(&self) -> bool {
        self.flags & WalPageHeader::OVERWRITE != 0
    }

    /// Size of the header, in bytes.
    pub fn header_bytes(&self) -> u32 {
        if self.is_long() { LongPageHeader::BYTES } else { WalPageHeader::BYTES }
    }
}

impl LongPageHeader {
    /// Size of the header in bytes.
    pub const BYTES: u32 = 40;

    /// Parses the header at the start of a segment, of which the first 40 bytes suffice.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) as for [`WalPageHeader::parse`], and if it is not a
    /// long header, its address is not the start of a segment, or the segment size or page size is impossible.
    pub fn parse(segment: &[u8], assumed: Option<MajorVersion>) -> Result<LongPageHeader> {
        let too_short = || Error::damaged(format!("WAL segment has only {} bytes", segment.len()));
        let page = WalPageHeader::parse(segment, assumed)?;
        if !page.is_long() {
            return Err(Error::damaged("WAL segment does not begin with a long page header"));
        }
        let system = u64_at(segment, 24).ok_or_else(too_short)?;
        let segment_bytes = u32_at(segment, 32).ok_or_else(too_short)?;
        let page_bytes = u32_at(segment, 36).ok_or_else(too_short)?;

        let system = SystemIdentifier::new(system)
            .ok_or_else(|| Error::damaged("WAL segment has system identifier 0"))?;
        let segment_size = SegmentSize::new(segment_bytes).ok_or_else(|| {
            Error::damaged(format!("WAL segment has the impossible segment size {segment_bytes}"))
        })?;
        if page_bytes != WAL_PAGE_BYTES {
            return Err(Error::damaged(format!(
                "WAL segment has pages of {page_bytes} bytes, not {WAL_PAGE_BYTES}"
            )));
        }
        if page.address.segment_offset(segment_size) != 0 {
            return Err(Error::damaged(format!(
                "WAL segment begins at {}, which is inside a segment",
                page.address
            )));
        }
        Ok(LongPageHeader { page, system, segment_size })
    }
}

/// The version that wrote a page. Rejects a page that is unlikely to belong to an unknown version.
fn version_of(magic: u16, assumed: Option<MajorVersion>) -> Result<MajorVersion> {
    if let Some(known) = MajorVersion::of_wal_magic(magic) {
        return Ok(known);
    }
    let error = Error::damaged(format!("WAL page has the unknown magic {magic:04X}"));
    if MajorVersion::of_wal_magic(magic.swap_bytes()).is_some() {
        return Err(error.hint("The server that wrote it is big-endian, which pgark does not support."));
    }
    if magic == 0 {
        return Err(error.hint("The page was never written."));
    }
    assumed.ok_or_else(|| {
        error.hint(format!(
            "pgark reads the WAL of PostgreSQL {}. {}",
            MajorVersion::SUPPORTED,
            MajorVersion::HOW_TO_ASSUME
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first 40 bytes of segment 8 of a PostgreSQL 15 cluster with segments of 1 MiB.
    const SEGMENT: [u8; 40] = [
        0x10, 0xD1, 0x07, 0x00, 0x01, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0x39, 0, 0, 0, 0, 0, 0, 0, 0x7D,
        0x8E, 0xFE, 0xB9, 0x33, 0x80, 0, 0x6B, 0, 0, 0x10, 0, 0, 0x20, 0, 0,
    ];

    #[test]
    fn reads_the_start_of_a_segment() {
        let header = LongPageHeader::parse(&SEGMENT, None).unwrap();
        assert_eq!(header.page.version, MajorVersion::V15);
        assert_eq!(header.page.timeline, TimelineId::FIRST);
        assert_eq!(header.page.address.to_string(), "0/800000");
        assert_eq!(header.page.remaining_bytes, 0x39);
        assert!(header.page.is_long() && header.page.is_continued() && !header.page.is_overwrite());
        assert_eq!(header.segment_size.as_u32(), 1 << 20);
        assert_eq!(header.system.to_string(), "7710303521710444157");
    }

    #[test]
    fn names_the_magic_that_it_does_not_know() {
        let mut segment = SEGMENT;
        segment[0] = 0x01;
        let error = LongPageHeader::parse(&segment, None).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Damaged);
        assert_eq!(error.to_string(), "WAL page has the unknown magic D101");
        let swapped =
            LongPageHeader::parse(&[0xD1, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], None);
        assert!(swapped.unwrap_err().hint_text().unwrap().contains("big-endian"));
    }

    #[test]
    fn an_assumption_is_for_unknown_magics_only() {
        let parse = |magic: u16, assumed| {
            let mut segment = SEGMENT;
            segment[..2].copy_from_slice(&magic.to_le_bytes());
            LongPageHeader::parse(&segment, assumed).map(|header| (header.page.version, header.page.magic))
        };
        let assumed = Some(MajorVersion::V18);
        assert!(parse(0xD11A, None).unwrap_err().hint_text().unwrap().contains("assume_version"));
        assert_eq!(parse(0xD11A, assumed).unwrap(), (MajorVersion::V18, 0xD11A));
        assert_eq!(parse(0xD110, assumed).unwrap(), (MajorVersion::V15, 0xD110));
        for magic in [0, 0xD110_u16.swap_bytes()] {
            assert!(parse(magic, assumed).is_err(), "{magic:04X}");
        }
    }

    #[test]
    fn refuses_what_postgresql_never_writes() {
        for (offset, value) in
            [(3, 0x10), (4, 0), (8, 1), (10, 0x88), (10, 0), (2, 5), (34, 0x30), (34, 0), (37, 0x40)]
        {
            let mut segment = SEGMENT;
            segment[offset] = value;
            assert!(LongPageHeader::parse(&segment, None).is_err(), "{value:#x} at {offset}");
        }
        for length in 0..SEGMENT.len() {
            assert!(LongPageHeader::parse(&SEGMENT[..length], None).is_err(), "{length} bytes");
        }
    }
}
