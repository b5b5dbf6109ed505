//! Headers of a tar archive in the format of GNU tar, which supports names of any bytes and sizes of any length.
//!
//! Source: GNU tar's manual, "Basic Tar Format".

use super::PackOwner;
use tar::{EntryType, Header};

/// The content of a header.
pub(super) struct TarEntry<'a> {
    pub(super) path: &'a [u8],
    pub(super) kind: EntryType,
    pub(super) bytes: u64,
    pub(super) mode: u32,
    pub(super) modified_unix_s: i64,
    pub(super) owner: PackOwner,
}

/// The name of the entry whose content is the next entry's name.
const LONG_NAME: &[u8] = b"././@LongLink";

impl TarEntry<'_> {
    /// Appends the header; first another one for a name that does not fit.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        let mut name = self.path.to_vec();
        if self.kind == EntryType::Directory {
            name.push(b'/');
        }
        if !fits(&name) {
            // The name's length counts the NUL at its end, as GNU tar writes it.
            name.push(0);
            let long = TarEntry {
                path: LONG_NAME,
                kind: EntryType::GNULongName,
                bytes: name.len() as u64,
                mode: 0,
                modified_unix_s: 0,
                owner: self.owner,
            };
            out.extend_from_slice(long.header(LONG_NAME).as_bytes());
            out.extend_from_slice(&name);
            out.resize(out.len().next_multiple_of(super::TAR_BLOCK_BYTES as usize), 0);
        }
        out.extend_from_slice(self.header(&name).as_bytes());
    }

    fn header(&self, name: &[u8]) -> Header {
        let mut header = Header::new_gnu();
        if let Some(gnu) = header.as_gnu_mut() {
            // Tools that know the long name ignore the truncated one.
            for (field, byte) in gnu.name.iter_mut().zip(name) {
                *field = *byte;
            }
        }
        header.set_entry_type(self.kind);
        header.set_size(self.bytes);
        header.set_mode(self.mode);
        header.set_uid(u64::from(self.owner.uid));
        header.set_gid(u64::from(self.owner.gid));
        // No tool-independent form exists for times before 1970.
        header.set_mtime(u64::try_from(self.modified_unix_s).unwrap_or_default());
        header.set_cksum();
        header
    }
}

/// Whether a name fits into a header.
fn fits(name: &[u8]) -> bool {
    name.len() <= 100
}
