//! Reads the incremental files that a server sends, and determines what to store.
//!
//! A server reports the current length of a file or its shortest truncated length, whichever is greater, and
//! sends the pages named by its WAL summaries. It skips space that was allocated beyond the truncation point
//! and that no WAL has filled. The content of an older backup would reappear there, so these pages are stored
//! as the zeros that they contain.

use super::built_on::BuiltOn;
use super::sent::{SentFile, of_stream};
use crate::backup::files::PlannedRelation;
use crate::error::{Error, Result};
use crate::postgres::page::PAGE_BYTES;
use crate::postgres::{IncrementalHeader, RelativeBlockNumber};
use crate::repository::backup::pack::PackWriter;
use std::io::{self, Read};

/// The content of a file during reception, with its checksum so far.
struct Received<'a, R> {
    content: &'a mut R,
    crc32c: u32,
    /// The original error of a failed read, for callers that see only an I/O error.
    failure: Option<Error>,
}

/// An incremental file during reception, after its header.
pub struct IncrementalFile<'a, R> {
    received: Received<'a, R>,
    sent: IncrementalHeader,
    /// The header of the stored file: the pages that were sent, and those that the server skipped.
    pub stored: IncrementalHeader,
}

impl<'a, R: Read> IncrementalFile<'a, R> {
    /// Reads the header of a file and determines the pages to store.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if it is not a valid incremental file; those of the
    /// server.
    pub fn begin(
        content: &'a mut R,
        file: &SentFile,
        relation: PlannedRelation,
        built_on: &BuiltOn,
        pages_per_file: u32,
    ) -> Result<IncrementalFile<'a, R>> {
        let mut received = Received { content, crc32c: 0, failure: None };
        let sent = IncrementalHeader::read(&mut received, pages_per_file)
            .map_err(|error| received.failure.take().unwrap_or(error))?;
        let truncated_to = built_on.summaries.truncated_to(relation, pages_per_file);
        if sent.file_bytes() != file.bytes || truncated_to == Some(0) {
            return Err(Error::damaged(format!(
                "the server sent \"{}\", which is not a valid incremental file",
                String::from_utf8_lossy(&file.path)
            )));
        }
        let stored = with_unused_room(&sent, truncated_to, pages_per_file)?;
        Ok(IncrementalFile { received, sent, stored })
    }

    /// The length in bytes of the restored file.
    pub fn whole_bytes(&self) -> u64 {
        u64::from(self.stored.restored_pages()) * PAGE_BYTES as u64
    }

    /// Packs the file; returns the CRC-32C of the content as sent.
    ///
    /// # Errors
    /// Those of the server and the store.
    pub fn pack(mut self, pack: &mut PackWriter, advance: &mut dyn FnMut(u64)) -> Result<u32> {
        pack.write(&self.stored.to_bytes())?;
        let mut sent = self.sent.pages().iter().peekable();
        let mut page = [0; PAGE_BYTES];
        for number in self.stored.pages() {
            if sent.next_if_eq(&number).is_some() {
                let read = self.received.read_exact(&mut page);
                read.map_err(|error| {
                    let failure = self.received.failure.take();
                    failure.unwrap_or_else(|| of_stream(error, "could not receive an incremental file"))
                })?;
                advance(PAGE_BYTES as u64);
            } else {
                page.fill(0);
            }
            pack.write(&page)?;
        }
        Ok(self.received.crc32c)
    }
}

impl<R: Read> Read for Received<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.content.read(buffer).map_err(|error| match error.downcast::<Error>() {
            Ok(error) => {
                self.failure = Some(error);
                io::Error::other("the server sent no more data")
            }
            Err(error) => error,
        })?;
        self.crc32c = crc32c::crc32c_append(self.crc32c, buffer.get(..length).unwrap_or_default());
        Ok(length)
    }
}

/// Adds the pages beyond the truncation point that were not sent.
fn with_unused_room(
    sent: &IncrementalHeader,
    truncated_to: Option<u32>,
    pages_per_file: u32,
) -> Result<IncrementalHeader> {
    let end = sent.truncation_pages();
    let from = truncated_to.map_or(end, |pages| pages.min(end));
    let unused = (from..end).map(RelativeBlockNumber::new);
    let mut pages: Vec<RelativeBlockNumber> = sent.pages().iter().copied().chain(unused).collect();
    pages.sort_unstable();
    pages.dedup();
    IncrementalHeader::new(end, pages, pages_per_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(numbers: &[u32]) -> Vec<RelativeBlockNumber> {
        numbers.iter().copied().map(RelativeBlockNumber::new).collect()
    }

    #[test]
    fn room_that_was_made_and_not_used_is_stored() {
        let sent = IncrementalHeader::new(8, blocks(&[1, 5, 9]), 100).unwrap();
        let stored = |truncated_to| with_unused_room(&sent, truncated_to, 100).unwrap();
        assert_eq!(stored(None), sent);
        assert_eq!(stored(Some(8)), sent);
        assert_eq!(stored(Some(u32::MAX)), sent);
        assert_eq!(stored(Some(4)).pages(), blocks(&[1, 4, 5, 6, 7, 9]));
        assert_eq!((stored(Some(4)).truncation_pages(), stored(Some(4)).restored_pages()), (8, 10));
    }
}
