//! Puts the pages of a file together: each from the newest member of the chain that has it.

use super::{Chain, ChainedFile, FilePart};
use crate::codec::FRAME_RAW_BYTES;
use crate::error::{Context, Error, Result};
use crate::postgres::IncrementalHeader;
use crate::postgres::page::{PAGE_BYTES, PageBytes};
use crate::repository::Repository;
use crate::repository::backup::FileForm;
use crate::repository::backup::pack::{PackReader, Reading};
use std::io::{self, Read};

/// Reads files of a chain. Memory: a few frames for each member.
///
/// Packs stay open from file to file, so that files that lie behind each other cost one request a member.
pub struct ChainReader<'a> {
    repository: &'a Repository,
    chain: &'a Chain,
    /// For each member the pack that is open, with its number.
    open: Vec<Option<(u32, PackReader<'a>)>>,
    output: Vec<u8>,
}

/// The part of one member, open.
struct Source<'r, 'a> {
    reader: &'r mut PackReader<'a>,
    reading: Reading,
    part: &'r FilePart,
    pages: SourcePages,
    /// What kept the reader from going on, where the caller sees only that something did.
    failure: Option<Error>,
}

/// Which pages come next.
enum SourcePages {
    /// All of them: so many bytes of the base are left.
    Base { left_bytes: u64 },
    /// Those that the header names, from this place in it on.
    Changes { header: IncrementalHeader, at: usize },
}

impl<'a> ChainReader<'a> {
    /// A reader; it touches nothing yet.
    pub fn new(repository: &'a Repository, chain: &'a Chain) -> ChainReader<'a> {
        ChainReader {
            repository,
            chain,
            open: chain.members().map(|_| None).collect(),
            output: Vec::with_capacity(FRAME_RAW_BYTES),
        }
    }

    /// Says which files will be read, in the order of their places in one pack of the full backup: the store may fetch ahead
    /// what they take of it.
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

    /// Hands out the content of a file, from its beginning to its end; returns its CRC-32C. Every stored byte that it is
    /// made of was held against its checksum. What was handed out before an error is worth nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged), the store's, and `output`'s.
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
            // Where the readers stand is not known.
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
        let mut sources = Vec::new();
        for part in file.changes.iter().chain([&file.base]) {
            let place = readers.iter().position(|(member, _)| *member == part.member);
            let place = place.ok_or_else(|| Error::damaged("a pack is not open"))?;
            sources.push(Source::open(readers.swap_remove(place).1, part, pages_per_file)?);
        }
        let (mut page, mut crc32c) = ([0; PAGE_BYTES], 0);
        self.output.clear();
        let pages = file.bytes / PAGE_BYTES as u64;
        for number in 0..pages {
            let mut found = false;
            for source in &mut sources {
                // What does not count any more is read all the same: the checksum is of all of it.
                found |= source.take_page(number, &mut page, !found)?;
            }
            if !found {
                // Behind the end of the base, and in no later file: the server has made room and not used it.
                page.fill(0);
            }
            self.output.extend_from_slice(&page);
            if self.output.len() >= FRAME_RAW_BYTES || number + 1 == pages {
                crc32c = crc32c::crc32c_append(crc32c, &self.output);
                output(&self.output)?;
                self.output.clear();
            }
        }
        sources.into_iter().try_for_each(Source::finish)?;
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

impl<'r, 'a> Source<'r, 'a> {
    fn open(
        reader: &'r mut PackReader<'a>,
        part: &'r FilePart,
        pages_per_file: u32,
    ) -> Result<Source<'r, 'a>> {
        let reading = reader.begin(&part.entry)?;
        let pages = SourcePages::Base { left_bytes: part.entry.bytes };
        let mut source = Source { reader, reading, part, pages, failure: None };
        if let FileForm::Incremental { whole_bytes } = part.entry.form {
            let header = IncrementalHeader::read(&mut source, pages_per_file);
            let header = header.map_err(|error| source.failure.take().unwrap_or(error))?;
            let restored_bytes = u64::from(header.restored_pages()) * PAGE_BYTES as u64;
            if header.file_bytes() != part.entry.bytes || restored_bytes != whole_bytes {
                return Err(Error::damaged(format!(
                    "the stored object of \"{}\" is not the recorded incremental file",
                    part.entry.path
                )));
            }
            source.pages = SourcePages::Changes { header, at: 0 };
        }
        Ok(source)
    }

    /// Passes over page `number`, if this is where it comes; puts it into `page` if it is `wanted` and still counts.
    /// Whether it did.
    fn take_page(&mut self, number: u64, page: &mut PageBytes, wanted: bool) -> Result<bool> {
        let is_here = match &mut self.pages {
            SourcePages::Base { left_bytes } if *left_bytes >= PAGE_BYTES as u64 => {
                *left_bytes -= PAGE_BYTES as u64;
                true
            }
            SourcePages::Base { .. } => false,
            SourcePages::Changes { header, at } => {
                let next = header.pages().get(*at).is_some_and(|next| u64::from(*next) == number);
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

    /// Reads to the end, where the checksum is.
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

impl Read for Source<'_, '_> {
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
