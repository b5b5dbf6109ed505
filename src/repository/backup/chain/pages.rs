//! Assembles the pages of a file, each from the newest member of the chain that has it.

use super::{Chain, ChainedFile, FilePart};
use crate::codec::FRAME_RAW_BYTES;
use crate::error::{Context, Error, Result};
use crate::postgres::page::{PAGE_BYTES, PageBytes};
use crate::postgres::{IncrementalHeader, RelativeBlockNumber};
use crate::repository::Repository;
use crate::repository::backup::FileForm;
use crate::repository::backup::pack::{FileReading, PackReader};
use std::io::{self, Read};

/// Reads files of a chain. Memory: a few frames for each member.
///
/// Packs stay open from file to file, so that consecutive files take one request per member.
pub struct ChainReader<'a> {
    repository: &'a Repository,
    chain: &'a Chain,
    /// The open pack of each member, with its number.
    open: Vec<Option<(u32, PackReader<'a>)>>,
    output: Vec<u8>,
}

/// One member's part of a file, open.
struct OpenPart<'r, 'a> {
    reader: &'r mut PackReader<'a>,
    reading: FileReading,
    part: &'r FilePart,
    pages: PartPages,
    /// The error behind a failed read, which cannot return it.
    failure: Option<Error>,
}

/// The next pages.
enum PartPages {
    /// All: this many bytes of the base remain.
    Base { left_bytes: u64 },
    /// Those in the header, from this position in it on.
    Changes { header: IncrementalHeader, at: usize },
}

impl<'a> ChainReader<'a> {
    /// A reader. Accesses nothing yet.
    pub fn new(repository: &'a Repository, chain: &'a Chain) -> ChainReader<'a> {
        ChainReader {
            repository,
            chain,
            open: chain.members().map(|_| None).collect(),
            output: Vec::with_capacity(FRAME_RAW_BYTES),
        }
    }

    /// Announces the files to be read, ordered by their positions in one pack of the full backup, so that the store may
    /// fetch them ahead.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for files of no member of the chain.
    pub fn announce<'f>(&mut self, mut files: impl Iterator<Item = &'f ChainedFile> + Clone) -> Result<()> {
        let entries = files.clone().map(|file| &file.base.entry);
        let Some(first) = files.next() else { return Ok(()) };
        self.open_pack(&first.base)?;
        reader_of(&mut self.open, first.base.member)?.announce(entries);
        Ok(())
    }

    /// Passes the content of a file on from beginning to end; returns its CRC-32C. Verifies the checksum of every
    /// stored byte that contributes. On error, what was passed on is not usable.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged); those of the store and `output`.
    pub fn read_file(
        &mut self,
        file: &ChainedFile,
        output: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<u32> {
        for part in file.changes.iter().chain([&file.base]) {
            self.open_pack(part)?;
        }
        if file.is_plain() {
            let reader = reader_of(&mut self.open, file.base.member)?;
            return reader.read_file(&file.base.entry, output).map(|()| file.base.entry.crc32c);
        }
        let read = self.read_pages(file, output);
        if read.is_err() {
            // The positions of the readers are unknown.
            self.open.iter_mut().for_each(|open| *open = None);
        }
        read.context(|| {
            format!("could not combine \"{}\" from backup {}", file.path, self.chain.newest().label)
        })
    }

    fn open_pack(&mut self, part: &FilePart) -> Result<()> {
        let pack = part.entry.place.pack;
        let is_open =
            |open: &Option<(u32, PackReader<'_>)>| open.as_ref().is_some_and(|(open, _)| *open == pack);
        let (Some(open), Some(backup)) = (self.open.get_mut(part.member), self.chain.member(part.member))
        else {
            return Err(Error::damaged("a file belongs to no backup of its chain"));
        };
        if !is_open(open) {
            let key = self.repository.layout().backup_pack(&backup.label, pack)?;
            *open = Some((pack, PackReader::new(self.repository.store().as_ref(), key)));
        }
        Ok(())
    }

    fn read_pages(&mut self, file: &ChainedFile, output: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<u32> {
        let pages_per_file = self.chain.newest().server.pages_per_file;
        let mut readers: Vec<(usize, &mut PackReader<'a>)> = self
            .open
            .iter_mut()
            .enumerate()
            .filter_map(|(member, open)| open.as_mut().map(|(_, reader)| (member, reader)))
            .collect();
        let mut parts = Vec::new();
        for part in file.changes.iter().chain([&file.base]) {
            let place = readers.iter().position(|(member, _)| *member == part.member);
            let place = place.ok_or_else(|| Error::damaged("a pack is not open"))?;
            parts.push(OpenPart::open(readers.swap_remove(place).1, part, pages_per_file)?);
        }
        let (mut page, mut crc32c) = ([0; PAGE_BYTES], 0);
        self.output.clear();
        let pages = file.bytes / PAGE_BYTES as u64;
        for number in 0..pages {
            let mut found = false;
            for open in &mut parts {
                // A page that does not count is read nevertheless, because the checksum covers it.
                found |= open.take_page(number, &mut page, !found)?;
            }
            if !found {
                // After the end of the base and in no later file: the server has extended the file and not used the
                // page.
                page.fill(0);
            }
            self.output.extend_from_slice(&page);
            if self.output.len() >= FRAME_RAW_BYTES || number + 1 == pages {
                crc32c = crc32c::crc32c_append(crc32c, &self.output);
                output(&self.output)?;
                self.output.clear();
            }
        }
        parts.into_iter().try_for_each(OpenPart::finish)?;
        Ok(crc32c)
    }
}

fn reader_of<'r, 'a>(
    open: &'r mut [Option<(u32, PackReader<'a>)>],
    member: usize,
) -> Result<&'r mut PackReader<'a>> {
    let open = open.get_mut(member).and_then(Option::as_mut);
    open.map(|(_, reader)| reader).ok_or_else(|| Error::damaged("a pack is not open"))
}

impl<'r, 'a> OpenPart<'r, 'a> {
    fn open(
        reader: &'r mut PackReader<'a>,
        part: &'r FilePart,
        pages_per_file: u32,
    ) -> Result<OpenPart<'r, 'a>> {
        let reading = reader.begin(&part.entry)?;
        let pages = PartPages::Base { left_bytes: part.entry.bytes };
        let mut open = OpenPart { reader, reading, part, pages, failure: None };
        if let FileForm::Incremental { whole_bytes } = part.entry.form {
            let header = IncrementalHeader::read(&mut open, pages_per_file);
            let header = header.map_err(|error| open.failure.take().unwrap_or(error))?;
            let restored_bytes = u64::from(header.restored_pages()) * PAGE_BYTES as u64;
            if header.file_bytes() != part.entry.bytes || restored_bytes != whole_bytes {
                return Err(Error::damaged(format!(
                    "the stored object of \"{}\" is not the recorded incremental file",
                    part.entry.path
                )));
            }
            open.pages = PartPages::Changes { header, at: 0 };
        }
        Ok(open)
    }

    /// Skips page `number`, if it comes next. Copies it to `page` if it is `wanted` and still counts; returns whether
    /// it did.
    fn take_page(&mut self, number: u64, page: &mut PageBytes, wanted: bool) -> Result<bool> {
        let is_here = match &mut self.pages {
            PartPages::Base { left_bytes } if *left_bytes >= PAGE_BYTES as u64 => {
                *left_bytes -= PAGE_BYTES as u64;
                true
            }
            PartPages::Base { .. } => false,
            PartPages::Changes { header, at } => {
                let next = header
                    .pages()
                    .get(*at)
                    .is_some_and(|next| *next == RelativeBlockNumber::from_index(number));
                *at += usize::from(next);
                next
            }
        };
        if !is_here {
            return Ok(false);
        }
        let counts = wanted && number < self.part.pages_max;
        let mut filled = 0;
        while filled < PAGE_BYTES {
            let piece = self.reader.fill(&mut self.reading)?;
            let length = piece.len().min(PAGE_BYTES - filled);
            if length == 0 {
                return Err(Error::damaged(format!("\"{}\" ends within a page", self.part.entry.path)));
            }
            let to = page.get_mut(filled..filled + length).filter(|_| counts);
            if let (Some(to), Some(from)) = (to, piece.get(..length)) {
                to.copy_from_slice(from);
            }
            self.reading.take(length);
            filled += length;
        }
        Ok(counts)
    }

    /// Reads to the end, where the checksum is verified.
    fn finish(mut self) -> Result<()> {
        loop {
            let length = self.reader.fill(&mut self.reading)?.len();
            if length == 0 {
                return Ok(());
            }
            self.reading.take(length);
        }
    }
}

impl Read for OpenPart<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut piece = match self.reader.fill(&mut self.reading) {
            Ok(piece) => piece,
            Err(error) => {
                self.failure = Some(error);
                return Err(io::Error::other("the pack cannot be read"));
            }
        };
        let length = piece.read(buffer)?;
        self.reading.take(length);
        Ok(length)
    }
}
