//! Writes an object whose length is not known in advance.

use super::S3Inner;
use super::multipart::Upload;
use super::put::{Overwrite, SinglePut};
use crate::error::{Error, Result};
use crate::store::{ObjectKey, ObjectWriter, PutOutcome};
use bytes::Bytes;
use std::sync::Arc;

/// Up to this size, one request stores an object. That suffices for a WAL segment of the usual 16 MiB, compressed or
/// not.
const ONE_REQUEST_BYTES_MAX: usize = 32 << 20;

/// Keeps a small object in memory, and sends a large one in parts.
pub struct S3Writer {
    store: Arc<S3Inner>,
    key: ObjectKey,
    digest: Option<String>,
    buffer: Vec<u8>,
    upload: Option<Upload>,
}

impl S3Writer {
    /// Makes no request. `digest` becomes part of the object's metadata.
    pub fn begin(store: Arc<S3Inner>, key: ObjectKey, digest: Option<String>) -> S3Writer {
        S3Writer { store, key, digest, buffer: Vec::new(), upload: None }
    }

    /// Sends complete parts.
    fn send_parts(&mut self) -> Result<()> {
        let store = self.store.clone();
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => {
                let begun = Upload::begin(&store, &self.key, self.digest.clone());
                self.upload.insert(store.client.wait(begun)?)
            }
        };
        let mut content = Bytes::from(std::mem::take(&mut self.buffer));
        while content.len() >= upload.next_part_bytes() {
            let part = content.split_to(upload.next_part_bytes());
            store.client.wait(upload.send(part))?;
        }
        self.buffer.extend_from_slice(&content);
        Ok(())
    }
}

impl ObjectWriter for S3Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        // In pieces, so that the store's limits bound the memory, not the caller's.
        for piece in bytes.chunks(ONE_REQUEST_BYTES_MAX) {
            self.buffer.extend_from_slice(piece);
            let limit = self.upload.as_ref().map_or(ONE_REQUEST_BYTES_MAX, Upload::next_part_bytes);
            if self.buffer.len() > limit {
                self.send_parts()?;
            }
        }
        Ok(())
    }

    fn write_owned(&mut self, bytes: Vec<u8>) -> Result<()> {
        if self.buffer.is_empty() && self.upload.is_none() && bytes.len() <= ONE_REQUEST_BYTES_MAX {
            self.buffer = bytes;
            return Ok(());
        }
        self.write(&bytes)
    }

    fn write_header(&mut self, _: &[u8]) -> Result<()> {
        Err(Error::damaged("internal error: a bucket takes the header of an object first"))
    }

    fn finish(mut self: Box<Self>) -> Result<PutOutcome> {
        let content = Bytes::from(std::mem::take(&mut self.buffer));
        let store = self.store.clone();
        match self.upload.take() {
            None => {
                let mut object = SinglePut::new(&store, &self.key, content);
                object.digest = self.digest;
                store.client.wait(object.put(Overwrite::No))
            }
            Some(mut upload) => store.client.wait(async {
                if !content.is_empty() {
                    upload.send(content).await?;
                }
                upload.finish().await
            }),
        }
    }
}
