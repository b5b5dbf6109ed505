//! One object on its way into the bucket, of a length that nobody knows before.

use super::Inner;
use super::multipart::Upload;
use super::put::{Overwrite, SinglePut};
use crate::error::{Error, Result};
use crate::store::{ObjectKey, ObjectWriter, PutOutcome};
use bytes::Bytes;
use std::sync::Arc;

/// Up to this an object goes in one request: a WAL segment of the usual 16 MiB does, compressed or not.
const ONE_REQUEST_BYTES_MAX: usize = 32 << 20;

/// Keeps a small object in memory, and sends a large one part by part.
pub struct S3Writer {
    store: Arc<Inner>,
    key: ObjectKey,
    digest: Option<String>,
    buffer: Vec<u8>,
    upload: Option<Upload>,
}

impl S3Writer {
    /// Touches nothing. `digest` is what the object's metadata will say of its content.
    pub fn begin(store: Arc<Inner>, key: ObjectKey, digest: Option<String>) -> S3Writer {
        S3Writer { store, key, digest, buffer: Vec::new(), upload: None }
    }

    /// Sends what makes whole parts.
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
        // In pieces, so that memory is bounded by our limits and not by the caller's.
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
