//! A store that logs each request and its duration, in front of any other one.

use super::{
    Capabilities, Listing, NewObject, ObjectInfo, ObjectKey, ObjectReader, ObjectVisitor, ObjectWriter,
    Observation, PutOutcome, ReadRange, Store, StoreService,
};
use crate::error::{Error, Result};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Instant;
use tracing::debug;
use tracing::level_filters::LevelFilter;

/// A store that logs its requests at level debug.
#[derive(Debug)]
pub struct LoggedStore {
    inner: Arc<dyn Store>,
}

impl LoggedStore {
    /// `inner`, or a logging store in front of it if debug messages are shown at all.
    ///
    /// Not `tracing::enabled!`: with several layers it makes one of them lose the next message (seen with
    /// tracing-subscriber 0.3).
    pub fn of(inner: Arc<dyn Store>) -> Arc<dyn Store> {
        if LevelFilter::current() >= LevelFilter::DEBUG { Arc::new(LoggedStore { inner }) } else { inner }
    }
}

/// A request in progress.
struct LoggedRequest {
    request: &'static str,
    key: String,
    began: Instant,
}

impl LoggedRequest {
    fn new(request: &'static str, key: Option<&ObjectKey>) -> LoggedRequest {
        let key = key.map(ToString::to_string).unwrap_or_default();
        LoggedRequest { request, key, began: Instant::now() }
    }

    /// Logs the result, described by `outcome`.
    fn log<T>(&self, result: Result<T>, outcome: impl FnOnce(&T) -> String) -> Result<T> {
        let LoggedRequest { request, key, began } = self;
        let duration_ms = began.elapsed().as_micros() as f64 / 1000.0;
        match &result {
            Ok(value) => debug!(request, key, outcome = outcome(value), duration_ms, "store request"),
            Err(error) => debug!(request, key, %error, duration_ms, "store request failed"),
        }
        result
    }
}

fn done<T>(_: &T) -> String {
    "done".to_owned()
}

fn found<T>(found: &Option<T>) -> String {
    if found.is_some() { "found" } else { "absent" }.to_owned()
}

impl StoreService for LoggedStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn now(&self) -> Result<Timestamp> {
        self.inner.now()
    }

    fn trouble(&self) -> Option<Error> {
        self.inner.trouble()
    }

    fn examine(&self) -> Result<Vec<Observation>> {
        LoggedRequest::new("examine", None).log(self.inner.examine(), done)
    }

    fn sweep(&self) -> Result<u64> {
        LoggedRequest::new("sweep", None).log(self.inner.sweep(), |swept| format!("{swept} removed"))
    }
}

impl Store for LoggedStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn create(&self, key: &ObjectKey, object: NewObject) -> Result<Box<dyn ObjectWriter>> {
        let asked = LoggedRequest::new("create", Some(key));
        match self.inner.create(key, object) {
            Ok(inner) => Ok(Box::new(LoggedWriter { asked, bytes: 0, inner })),
            failed => asked.log(failed, done),
        }
    }

    fn replace(&self, key: &ObjectKey, content: &[u8]) -> Result<()> {
        LoggedRequest::new("replace", Some(key)).log(self.inner.replace(key, content), done)
    }

    fn open(&self, key: &ObjectKey, range: ReadRange) -> Result<Option<Box<dyn ObjectReader>>> {
        let asked = LoggedRequest::new("open", Some(key));
        let opened = asked.log(self.inner.open(key, range), found)?;
        Ok(opened.map(|inner| {
            let asked = LoggedRequest::new("read", Some(key));
            Box::new(LoggedReader { asked, bytes: 0, inner }) as Box<dyn ObjectReader>
        }))
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        LoggedRequest::new("stat", Some(key)).log(self.inner.stat(key), found)
    }

    fn list(&self, below: Option<&ObjectKey>) -> Result<Listing> {
        let count = |listing: &Listing| {
            format!("{} objects, {} directories", listing.objects.len(), listing.directories.len())
        };
        LoggedRequest::new("list", below).log(self.inner.list(below), count)
    }

    fn walk(&self, below: &ObjectKey, from: Option<&ObjectKey>, visit: ObjectVisitor<'_>) -> Result<()> {
        let (asked, mut visited) = (LoggedRequest::new("walk", Some(below)), 0_u64);
        let walked = self.inner.walk(below, from, &mut |name, info| {
            visited += 1;
            visit(name, info)
        });
        asked.log(walked, |()| format!("{visited} objects"))
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<()> {
        LoggedRequest::new("make durable", Some(key)).log(self.inner.make_durable(key), done)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        LoggedRequest::new("delete", Some(key)).log(self.inner.delete(key), done)
    }
}

/// Logs an object when it is stored. Its duration includes the time in which its bytes were made.
struct LoggedWriter {
    asked: LoggedRequest,
    bytes: u64,
    inner: Box<dyn ObjectWriter>,
}

impl ObjectWriter for LoggedWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.inner.write(bytes)
    }

    fn write_owned(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.inner.write_owned(bytes)
    }

    fn write_header(&mut self, header: &[u8]) -> Result<()> {
        self.bytes += header.len() as u64;
        self.inner.write_header(header)
    }

    fn finish(self: Box<Self>) -> Result<PutOutcome> {
        let LoggedWriter { asked, bytes, inner } = *self;
        asked.log(inner.finish(), |outcome| match outcome {
            PutOutcome::Created => format!("created, {bytes} bytes"),
            PutOutcome::Exists => "exists".to_owned(),
        })
    }
}

/// Logs how much of an object was read when it is closed.
struct LoggedReader {
    asked: LoggedRequest,
    bytes: u64,
    inner: Box<dyn ObjectReader>,
}

impl ObjectReader for LoggedReader {
    fn read(&mut self, buffer: &mut Vec<u8>) -> Result<usize> {
        let read = self.inner.read(buffer);
        if let Ok(bytes) = &read {
            self.bytes += *bytes as u64;
            return read;
        }
        self.asked.log(read, done)
    }
}

impl Drop for LoggedReader {
    fn drop(&mut self) {
        // Nothing is left to fail.
        let _ = self.asked.log(Ok(()), |()| format!("{} bytes", self.bytes));
    }
}
