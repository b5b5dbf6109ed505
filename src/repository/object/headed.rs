//! Writes an object whose header comes first and is known last.

use super::{PutError, Writer};
use crate::codec::Digest;
use crate::error::{Context, Error, Result};
use crate::store::{NewObject, ObjectKey, PutOutcome, Store};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// How much of an object is kept in memory if the store takes the header first: an incompressible segment of the usual
/// 16 MiB. The rest of a larger one goes to an unnamed file.
const MEMORY_BYTES_MAX: usize = 17 << 20;

/// How much of that file is read at a time.
const READ_BYTES: usize = 256 << 10;

type PutResult<T> = Result<T, PutError>;

/// Writes an object whose header, of a fixed length, comes first and is known last.
pub struct HeadedWriter<'a> {
    store: &'a dyn Store,
    key: &'a ObjectKey,
    header_bytes: usize,
    /// A directory for what exceeds the memory limit.
    scratch: &'a Path,
    /// `None` before the first byte.
    content: Option<HeadedContent>,
}

enum HeadedContent {
    /// In the store, which takes the header last.
    Stored(Writer),
    /// Kept until the header is known: first in a file, then in memory. Begins with room for the header, so that an
    /// object in memory is handed over without a copy.
    Kept(Option<File>, Vec<u8>),
}

impl<'a> HeadedWriter<'a> {
    /// Makes no request.
    pub fn new(
        store: &'a dyn Store,
        key: &'a ObjectKey,
        header_bytes: usize,
        scratch: &'a Path,
    ) -> HeadedWriter<'a> {
        HeadedWriter { store, key, header_bytes, scratch, content: None }
    }

    /// Appends bytes that follow the header.
    ///
    /// # Errors
    /// Those of the store and the operating system, here and in the other functions.
    pub fn append(&mut self, bytes: &[u8]) -> PutResult<()> {
        let content = match &mut self.content {
            Some(content) => content,
            None => self.content.insert(begin(self.store, self.key, self.header_bytes)?),
        };
        match content {
            HeadedContent::Stored(writer) => writer.write(bytes).map_err(PutError::Repository),
            HeadedContent::Kept(file, memory) => {
                memory.extend_from_slice(bytes);
                if memory.len() > MEMORY_BYTES_MAX {
                    spill(file, memory, self.scratch).map_err(PutError::Local)?;
                }
                Ok(())
            }
        }
    }

    /// Creates the object, durably, unless one of this name exists. `digest` is that of the decoded content.
    pub fn finish(self, header: &[u8], digest: Digest) -> PutResult<PutOutcome> {
        let content = match self.content {
            Some(content) => content,
            None => begin(self.store, self.key, self.header_bytes)?,
        };
        let (file, mut memory) = match content {
            HeadedContent::Stored(mut writer) => {
                writer.write_header(header).map_err(PutError::Repository)?;
                return writer.finish().map_err(PutError::Repository);
            }
            HeadedContent::Kept(file, memory) => (file, memory),
        };
        let object = NewObject { header_bytes: 0, digest: Some(digest) };
        let mut writer = Writer::of(self.store, self.key, object).map_err(PutError::Repository)?;
        match file {
            None => {
                let room = memory.get_mut(..self.header_bytes).filter(|room| room.len() == header.len());
                let wrong =
                    || PutError::Local(Error::damaged("internal error: there is no room for the header"));
                room.ok_or_else(wrong)?.copy_from_slice(header);
            }
            Some(file) => {
                writer.write(header).map_err(PutError::Repository)?;
                write_spilled(file, self.header_bytes as u64, &mut writer)?;
            }
        }
        writer.write_owned(memory).map_err(PutError::Repository)?;
        writer.finish().map_err(PutError::Repository)
    }
}

fn begin(store: &dyn Store, key: &ObjectKey, header_bytes: usize) -> PutResult<HeadedContent> {
    let capabilities = store.capabilities();
    // A store that keeps the digest must know it before the first byte.
    if !capabilities.header_last || capabilities.keeps_digest {
        return Ok(HeadedContent::Kept(None, vec![0; header_bytes]));
    }
    let object = NewObject { header_bytes, digest: None };
    Writer::of(store, key, object).map(HeadedContent::Stored).map_err(PutError::Repository)
}

/// Moves what is in memory to an unnamed file.
fn spill(file: &mut Option<File>, memory: &mut Vec<u8>, scratch: &Path) -> Result<()> {
    let what = || format!("could not write to \"{}\"", scratch.display());
    let file = match file {
        Some(file) => file,
        None => file.insert(tempfile::tempfile_in(scratch).context(what)?),
    };
    file.write_all(memory).context(what)?;
    memory.clear();
    Ok(())
}

/// Writes the content of the file from an offset on.
fn write_spilled(mut file: File, from: u64, writer: &mut Writer) -> PutResult<()> {
    let what = || "could not read a temporary file back";
    file.seek(SeekFrom::Start(from)).context(what).map_err(PutError::Local)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer).context(what).map_err(PutError::Local)? {
            0 => return Ok(()),
            length => {
                writer.write(buffer.get(..length).unwrap_or_default()).map_err(PutError::Repository)?;
            }
        }
    }
}
