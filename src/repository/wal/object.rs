//! The object of a WAL file, written frame by frame. Its header comes first and is known last.

use super::header;
use super::put_error::PutError;
use crate::codec::{ContentSum, Digest, FRAME_RAW_BYTES, skippable_frame};
use crate::error::{Context, Error};
use crate::store::{NewObject, ObjectKey, ObjectWriter, PutOutcome, Store};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// How much of an object is kept in memory where the store takes the header first: a segment of the usual 16 MiB that does
/// not compress; the rest of a larger one goes to a file without a name.
const MEMORY_BYTES_MAX: usize = 17 << 20;

type Result<T, E = Error> = std::result::Result<T, E>;

/// An object that is being made.
pub struct WalObject<'a> {
    store: &'a dyn Store,
    key: &'a ObjectKey,
    /// A directory for what does not fit into memory.
    scratch: &'a Path,
    frames: Frames,
}

enum Frames {
    NotBegun,
    /// On their way into the store.
    Written(Box<dyn ObjectWriter>),
    /// Kept until the header is known: first what was spilled, then what is in memory. The first bytes of all are room for
    /// the header, so that an object in memory is handed over as it is.
    Kept(Option<File>, Vec<u8>),
}

impl<'a> WalObject<'a> {
    /// Touches nothing.
    pub fn new(store: &'a dyn Store, key: &'a ObjectKey, scratch: &'a Path) -> WalObject<'a> {
        WalObject { store, key, scratch, frames: Frames::NotBegun }
    }

    /// Adds frames.
    ///
    /// # Errors
    /// The store's, and the operating system's.
    pub fn append(&mut self, frames: &[u8]) -> Result<(), PutError> {
        if matches!(self.frames, Frames::NotBegun) {
            let anything = ContentSum { length_bytes: 0, digest: Digest::from_bytes([0; 32]) };
            let room = header_frame(&anything).map_err(PutError::Local)?;
            let capabilities = self.store.capabilities();
            // A digest must be known before the first byte.
            self.frames = if capabilities.header_last && !capabilities.keeps_digest {
                let object = NewObject { header_bytes: room.len(), digest: None };
                Frames::Written(self.store.create(self.key, object).map_err(PutError::Repository)?)
            } else {
                Frames::Kept(None, room)
            };
        }
        match &mut self.frames {
            Frames::NotBegun => Ok(()),
            Frames::Written(writer) => writer.write(frames).map_err(PutError::Repository),
            Frames::Kept(spilled, memory) => {
                memory.extend_from_slice(frames);
                if memory.len() > MEMORY_BYTES_MAX {
                    spill(spilled, memory, self.scratch).map_err(PutError::Local)?;
                }
                Ok(())
            }
        }
    }

    /// Makes the object exist, unless there is one.
    ///
    /// # Errors
    /// The store's, and the operating system's.
    pub fn finish(self, sum: &ContentSum) -> Result<PutOutcome, PutError> {
        let header = header_frame(sum).map_err(PutError::Local)?;
        let (spilled, mut memory) = match self.frames {
            Frames::Written(mut writer) => {
                writer.write_header(&header).map_err(PutError::Repository)?;
                return writer.finish().map_err(PutError::Repository);
            }
            Frames::Kept(spilled, memory) => (spilled, memory),
            Frames::NotBegun => (None, header.clone()),
        };
        let object = NewObject { header_bytes: 0, digest: Some(sum.digest) };
        let mut writer = self.store.create(self.key, object).map_err(PutError::Repository)?;
        match spilled {
            None => {
                let room = memory.get_mut(..header.len());
                room.ok_or_else(|| PutError::Local(Error::damaged("there is no room for the header")))?
                    .copy_from_slice(&header);
            }
            Some(file) => {
                writer.write(&header).map_err(PutError::Repository)?;
                write_spilled(file, header.len() as u64, writer.as_mut())?;
            }
        }
        writer.write_owned(memory).map_err(PutError::Repository)?;
        writer.finish().map_err(PutError::Repository)
    }
}

/// Moves what is in memory to a file without a name.
fn spill(spilled: &mut Option<File>, memory: &mut Vec<u8>, scratch: &Path) -> Result<()> {
    let what = || format!("could not write to \"{}\"", scratch.display());
    let file = match spilled {
        Some(file) => file,
        None => spilled.insert(tempfile::tempfile_in(scratch).context(what)?),
    };
    file.write_all(memory).context(what)?;
    memory.clear();
    Ok(())
}

/// Writes what was spilled, from a byte on.
fn write_spilled(mut file: File, from: u64, writer: &mut dyn ObjectWriter) -> Result<(), PutError> {
    let what = || "could not read a spilled segment back";
    file.seek(SeekFrom::Start(from)).context(what).map_err(PutError::Local)?;
    let mut buffer = vec![0; FRAME_RAW_BYTES];
    loop {
        match file.read(&mut buffer).context(what).map_err(PutError::Local)? {
            0 => return Ok(()),
            length => {
                writer.write(buffer.get(..length).unwrap_or_default()).map_err(PutError::Repository)?;
            }
        }
    }
}

/// Always of the same length.
fn header_frame(sum: &ContentSum) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    skippable_frame(header::FRAME_KIND, &header::encode(sum), &mut frame)?;
    Ok(frame)
}
