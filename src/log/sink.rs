//! The destinations of messages.

use super::journal::with_priority;
use super::rotating::RotatingLog;
use super::syslog::Syslog;
use std::io::{self, Write};
use std::path::PathBuf;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// A destination of messages.
#[derive(Debug)]
pub enum LogSink {
    /// The standard error of this process.
    Stderr,
    /// The systemd journal, which reads stderr.
    Journal,
    /// A file of limited size.
    File(RotatingLog),
    /// The syslog at a socket; the file takes what it does not.
    Syslog(Syslog),
}

impl LogSink {
    /// The standard error of this process, which may be the stream of the journal.
    pub fn stderr(is_journal: bool) -> LogSink {
        if is_journal { LogSink::Journal } else { LogSink::Stderr }
    }

    /// The syslog that listens at `socket`. A message that it does not take goes to `otherwise`.
    pub fn syslog(socket: PathBuf, otherwise: RotatingLog) -> LogSink {
        LogSink::Syslog(Syslog::new(socket, otherwise))
    }

    /// Whether messages get a time from elsewhere.
    pub(super) fn adds_time(&self) -> bool {
        matches!(self, LogSink::Journal | LogSink::Syslog(_))
    }

    fn write(&self, level: Level, message: &[u8]) -> io::Result<()> {
        match self {
            LogSink::Stderr => io::stderr().lock().write_all(message),
            LogSink::Journal => {
                let text = with_priority(level, &String::from_utf8_lossy(message));
                io::stderr().lock().write_all(text.as_bytes())
            }
            LogSink::File(log) => (&*log).write_all(message),
            LogSink::Syslog(syslog) => syslog.write(level, &String::from_utf8_lossy(message)),
        }
    }
}

/// Writes one message, whose level determines its priority.
#[derive(Debug)]
pub struct LogMessageWriter<'a> {
    sink: &'a LogSink,
    level: Level,
}

impl Write for LogMessageWriter<'_> {
    /// Takes a whole message, which the subscriber writes at once.
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        self.sink.write(self.level, message).map(|()| message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogSink {
    type Writer = LogMessageWriter<'a>;

    fn make_writer(&'a self) -> LogMessageWriter<'a> {
        LogMessageWriter { sink: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> LogMessageWriter<'a> {
        LogMessageWriter { sink: self, level: *metadata.level() }
    }
}
