//! Where the messages of `tracing` go, and how they are written.
//!
//! Owns: destinations, formats and levels. Does not own: the settings (those are `config/`), the progress of a command
//! (that is `monitor` and `terminal/`), and the choice of the global subscriber (that is `bin/`).

mod filter;
mod journal;
mod json;
mod line;
mod rotating;
mod sink;
mod syslog;

pub use filter::filter;
pub use journal::is_journal;
pub use rotating::RotatingLog;
pub use sink::LogSink;
pub use syslog::SYSLOG_SOCKET;

use crate::config::LogFormat;
use line::LineFormat;
use tracing::Subscriber;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

/// The layer of a subscriber that writes the messages that pass the filter to a sink.
pub fn layer<S: Subscriber + for<'span> LookupSpan<'span>>(
    sink: LogSink,
    format: LogFormat,
    filter: EnvFilter,
) -> Box<dyn Layer<S> + Send + Sync> {
    let lines = LineFormat::new(format, sink.adds_time());
    Box::new(
        tracing_subscriber::fmt::layer()
            .event_format(lines)
            .with_ansi(false)
            .with_writer(sink)
            .with_filter(filter),
    )
}
