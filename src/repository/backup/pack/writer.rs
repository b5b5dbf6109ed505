//! Writes a pack.

use super::TAR_BLOCK_BYTES;
use super::tar_header::TarEntry;
use crate::codec::{FRAME_RAW_BYTES, FrameEncoder};
use crate::config::Compression;
use crate::error::{Error, Result};
use crate::postgres::Oid;
use crate::repository::backup::StoredText;
use crate::repository::backup::index::{FileEntry, FileForm, FilePlace};
use crate::repository::backup::manifest::StoredPack;
use crate::repository::object::SummedWriter;
use crate::store::{ObjectKey, Store};
use tar::EntryType;

/// The length of an archive at which a new pack is begun.
///
/// Equals PostgreSQL's longest file of a relation: no pack is much longer than others, and a failed upload costs
/// little.
pub const TARGET_RAW_BYTES: u64 = 1 << 30;

/// A longer file begins a frame of its own, so that nothing else is decoded to read it.
const OWN_FRAME_BYTES_MIN: u64 = 64 << 10;

/// The end of a tar archive: two blocks of zeros.
const ARCHIVE_END_BYTES: usize = 2 * TAR_BLOCK_BYTES as usize;

/// Zeros for padding.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The owner of the files when a pack is unpacked by root.
#[derive(Clone, Copy, Debug)]
pub struct PackOwner {
    /// The user ID.
    pub uid: u32,
    /// The group ID.
    pub gid: u32,
}

/// A file in a pack.
#[derive(Clone, Copy, Debug)]
pub struct PlacedFile {
    /// The number that the caller assigned.
    pub number: usize,
    /// Its length.
    pub bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, in seconds since 1970.
    pub modified_unix_s: i64,
    /// CRC-32C of its content.
    pub crc32c: u32,
    /// Its position.
    pub place: FilePlace,
    /// Its stored form.
    pub form: FileForm,
}

impl PlacedFile {
    /// Its entry in the index, under this path below the data directory.
    pub fn entry(self, path: StoredText) -> FileEntry {
        let PlacedFile { number: _, bytes, mode, modified_unix_s, crc32c, place, form } = self;
        FileEntry { path, bytes, modified_unix_s, mode, crc32c, place, form }
    }
}

/// A stored pack.
#[derive(Debug)]
pub struct FinishedPack {
    /// What the manifest records of it.
    pub pack: StoredPack,
    /// Its files, in the order of their positions.
    pub files: Vec<PlacedFile>,
}

/// Writes a pack as a stream. Memory: one raw and one stored frame, and about 70 bytes for each file.
pub struct PackWriter {
    object: SummedWriter,
    number: u32,
    tablespace: Option<Oid>,
    owner: PackOwner,
    encoder: FrameEncoder,
    raw_bytes: u64,
    frame: Vec<u8>,
    stored: Vec<u8>,
    header: Vec<u8>,
    current: Option<CurrentFile>,
    files: Vec<PlacedFile>,
    /// Indexes of the `files` that end in the current frame.
    unsettled: Vec<usize>,
}

/// The file that is being written.
struct CurrentFile {
    number: usize,
    mode: u32,
    modified_unix_s: i64,
    announced_bytes: u64,
    written_bytes: u64,
    crc32c: u32,
    frame_offset: u64,
    skip_bytes: u32,
    form: FileForm,
}

impl PackWriter {
    /// Begins pack `number` of `tablespace`, or of the data directory.
    ///
    /// # Errors
    /// Those of the store, here and in the other functions.
    pub fn create(
        store: &dyn Store,
        key: &ObjectKey,
        number: u32,
        tablespace: Option<Oid>,
        compression: Compression,
        owner: PackOwner,
    ) -> Result<PackWriter> {
        Ok(PackWriter {
            object: SummedWriter::create(store, key)?,
            number,
            tablespace,
            owner,
            encoder: FrameEncoder::new(compression),
            raw_bytes: 0,
            frame: Vec::with_capacity(FRAME_RAW_BYTES),
            stored: Vec::new(),
            header: Vec::new(),
            current: None,
            files: Vec::new(),
            unsettled: Vec::new(),
        })
    }

    /// The archive's length so far.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// The tablespace of the pack.
    pub fn tablespace(&self) -> Option<Oid> {
        self.tablespace
    }

    /// Adds a directory; `path` is relative to the pack's root, without a slash at its end.
    pub fn add_directory(&mut self, path: &[u8], mode: u32, modified_unix_s: i64) -> Result<()> {
        self.append_header(TarEntry {
            path,
            kind: EntryType::Directory,
            bytes: 0,
            mode,
            modified_unix_s,
            owner: self.owner,
        })
    }

    /// Begins a file of exactly `bytes` bytes. `number` is returned with its position.
    pub fn begin_file(
        &mut self,
        number: usize,
        path: &[u8],
        bytes: u64,
        mode: u32,
        modified_unix_s: i64,
    ) -> Result<()> {
        self.append_header(TarEntry {
            path,
            kind: EntryType::Regular,
            bytes,
            mode,
            modified_unix_s,
            owner: self.owner,
        })?;
        if bytes > OWN_FRAME_BYTES_MIN {
            self.flush_frame()?;
        }
        self.current = Some(CurrentFile {
            number,
            mode,
            modified_unix_s,
            announced_bytes: bytes,
            written_bytes: 0,
            crc32c: 0,
            frame_offset: self.object.stored_bytes(),
            // A frame is shorter than 4 GiB.
            skip_bytes: self.frame.len() as u32,
            form: FileForm::Whole,
        });
        Ok(())
    }

    /// Declares that the current file's content is an incremental file for a whole of this length.
    pub fn is_incremental(&mut self, whole_bytes: u64) {
        if let Some(current) = &mut self.current {
            current.form = FileForm::Incremental { whole_bytes };
        }
    }

    /// Appends content to the current file.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for more than was announced.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let current = self.current.as_mut().ok_or_else(no_file)?;
        current.written_bytes += bytes.len() as u64;
        if current.written_bytes > current.announced_bytes {
            return Err(Error::damaged("a file grew while it was packed"));
        }
        current.crc32c = crc32c::crc32c_append(current.crc32c, bytes);
        self.append(bytes)
    }

    /// How many bytes of the current file are missing.
    pub fn missing_bytes(&self) -> u64 {
        self.current
            .as_ref()
            .map_or(0, |current| current.announced_bytes.saturating_sub(current.written_bytes))
    }

    /// Pads the current file to its announced length. If a file was truncated while it was read, replaying the WAL
    /// truncates it again.
    pub fn fill_with_zeros(&mut self) -> Result<()> {
        loop {
            let missing = usize::try_from(self.missing_bytes()).unwrap_or(usize::MAX);
            match ZEROS.get(..missing.min(ZEROS.len())) {
                Some(zeros) if !zeros.is_empty() => self.write(zeros)?,
                _ => return Ok(()),
            }
        }
    }

    /// Ends the current file.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if its content is shorter than announced.
    pub fn end_file(&mut self) -> Result<()> {
        let current = self.current.take().ok_or_else(no_file)?;
        if current.written_bytes != current.announced_bytes {
            return Err(Error::damaged("the length of a file changed while it was packed"));
        }
        let mut place = FilePlace {
            pack: self.number,
            frame_offset: current.frame_offset,
            skip_bytes: current.skip_bytes,
            stored_bytes: 0,
        };
        if self.frame.is_empty() {
            // The frame with the last byte is already written: that byte filled it.
            place.stored_bytes = self.object.stored_bytes() - current.frame_offset;
        } else if current.announced_bytes > 0 {
            self.unsettled.push(self.files.len());
        }
        self.files.push(PlacedFile {
            number: current.number,
            bytes: current.announced_bytes,
            mode: current.mode,
            modified_unix_s: current.modified_unix_s,
            crc32c: current.crc32c,
            place,
            form: current.form,
        });
        let padding = current.announced_bytes.next_multiple_of(TAR_BLOCK_BYTES) - current.announced_bytes;
        self.append(ZEROS.get(..padding as usize).unwrap_or_default())
    }

    /// Ends the archive and creates the object.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](crate::error::ErrorKind::Conflict) if a pack of this name exists.
    pub fn finish(mut self) -> Result<FinishedPack> {
        self.append(ZEROS.get(..ARCHIVE_END_BYTES).unwrap_or_default())?;
        self.flush_frame()?;
        let object = self.object.finish()?;
        let pack = StoredPack {
            number: self.number,
            tablespace: self.tablespace,
            raw_bytes: self.raw_bytes,
            stored_bytes: object.stored_bytes,
            crc32: object.crc32,
        };
        Ok(FinishedPack { pack, files: self.files })
    }

    fn append_header(&mut self, entry: TarEntry<'_>) -> Result<()> {
        let mut header = std::mem::take(&mut self.header);
        header.clear();
        entry.append_to(&mut header);
        let appended = self.append(&header);
        self.header = header;
        appended
    }

    /// Appends to the archive; writes each full frame.
    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.raw_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = FRAME_RAW_BYTES.saturating_sub(self.frame.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            bytes = later;
            if now.len() == FRAME_RAW_BYTES {
                // A whole frame need not be copied.
                self.encoder.encode(now, &mut self.stored)?;
                self.store_frame()?;
            } else {
                self.frame.extend_from_slice(now);
                if self.frame.len() == FRAME_RAW_BYTES {
                    self.flush_frame()?;
                }
            }
        }
        Ok(())
    }

    fn flush_frame(&mut self) -> Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        self.encoder.encode(&self.frame, &mut self.stored)?;
        self.frame.clear();
        self.store_frame()
    }

    fn store_frame(&mut self) -> Result<()> {
        self.object.write(&self.stored)?;
        self.stored.clear();
        let stored_bytes = self.object.stored_bytes();
        for index in self.unsettled.drain(..) {
            if let Some(file) = self.files.get_mut(index) {
                file.place.stored_bytes = stored_bytes - file.place.frame_offset;
            }
        }
        Ok(())
    }
}

fn no_file() -> Error {
    Error::damaged("no file was started")
}
