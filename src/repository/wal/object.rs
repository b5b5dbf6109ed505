//! The object of a WAL file, written frame by frame. Its header comes first and is known last.

use super::header;
use crate::codec::{ContentSum, Digest, FRAME_RAW_BYTES, skippable_frame};
use crate::error::{Context, Error, Result};
use crate::store::{HeadedWriter, ObjectKey, PutOutcome, Store};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// How much of an object is kept in memory where the store takes the header first: a segment of the usual 16 MiB that does
/// not compress; the rest of a larger one goes to a file without a name.
const MEMORY_BYTES_MAX: usize = 17 << 20;

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
    Written(Box<dyn HeadedWriter>),
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
    pub fn append(&mut self, frames: &[u8]) -> Result<()> {
        if matches!(self.frames, Frames::NotBegun) {
            let anything = ContentSum { length_bytes: 0, digest: Digest::from_bytes([0; 32]) };
            let room = header_frame(&anything)?;
            let headed = self.store.create_headed(self.key, room.len())?;
            self.frames = headed.map_or(Frames::Kept(None, room), Frames::Written);
        }
        match &mut self.frames {
            Frames::NotBegun => Ok(()),
            Frames::Written(writer) => writer.write(frames),
            Frames::Kept(spilled, memory) => {
                memory.extend_from_slice(frames);
                if memory.len() > MEMORY_BYTES_MAX {
                    let what = || format!("could not write to \"{}\"", self.scratch.display());
                    let file = match spilled {
                        Some(file) => file,
                        None => spilled.insert(tempfile::tempfile_in(self.scratch).context(what)?),
                    };
                    file.write_all(memory).context(what)?;
                    memory.clear();
                }
                Ok(())
            }
        }
    }

    /// Makes the object exist, unless there is one.
    ///
    /// # Errors
    /// The store's, and the operating system's.
    pub fn finish(self, sum: &ContentSum) -> Result<PutOutcome> {
        let header = header_frame(sum)?;
        let (spilled, mut memory) = match self.frames {
            Frames::Written(writer) => return writer.finish(&header),
            Frames::Kept(spilled, memory) => (spilled, memory),
            Frames::NotBegun => (None, header.clone()),
        };
        let mut writer = self.store.create_with_digest(self.key, &sum.digest)?;
        match spilled {
            None => {
                let room = memory.get_mut(..header.len());
                room.ok_or_else(|| Error::damaged("there is no room for the header"))?
                    .copy_from_slice(&header);
            }
            Some(mut file) => {
                let what = || "could not read a spilled segment back";
                writer.write(&header)?;
                file.seek(SeekFrom::Start(header.len() as u64)).context(what)?;
                let mut buffer = vec![0; FRAME_RAW_BYTES];
                loop {
                    match file.read(&mut buffer).context(what)? {
                        0 => break,
                        length => writer.write(buffer.get(..length).unwrap_or_default())?,
                    }
                }
            }
        }
        writer.write_owned(memory)?;
        writer.finish()
    }
}

/// Always of the same length.
fn header_frame(sum: &ContentSum) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    skippable_frame(header::FRAME_KIND, &header::encode(sum), &mut frame)?;
    Ok(frame)
}
