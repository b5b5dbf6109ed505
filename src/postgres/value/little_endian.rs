//! Reads integers at given offsets of untrusted bytes. Returns `None` past the end.
//!
//! PostgreSQL writes its files in the byte order of the machine; pgark supports little-endian machines.

/// The `N` bytes at `offset`.
pub(in crate::postgres) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// The byte at `offset`.
pub(in crate::postgres) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

/// The two bytes at `offset`.
pub(in crate::postgres) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

/// The four bytes at `offset`.
pub(in crate::postgres) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

/// The eight bytes at `offset`.
pub(in crate::postgres) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

/// The eight bytes at `offset`, signed.
pub(in crate::postgres) fn i64_at(bytes: &[u8], offset: usize) -> Option<i64> {
    array_at(bytes, offset).map(i64::from_le_bytes)
}
