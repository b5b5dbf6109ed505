//! The text of a message.

use super::json;
use crate::config::LogFormat;
use jiff::Timestamp;
use std::fmt;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How a message is written.
pub(super) enum LineFormat {
    Text(Format<Full, SystemTime>),
    TextWithoutTime(Format<Full, ()>),
    Json,
}

impl LineFormat {
    /// A text has no time if the sink adds one. An object always has its own.
    pub(super) fn new(format: LogFormat, sink_adds_time: bool) -> LineFormat {
        let text = Format::default().with_target(false);
        match (format, sink_adds_time) {
            (LogFormat::Json, _) => LineFormat::Json,
            (LogFormat::Text, true) => LineFormat::TextWithoutTime(text.without_time()),
            (LogFormat::Text, false) => LineFormat::Text(text),
        }
    }
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self {
            LineFormat::Text(format) => format.format_event(context, writer, event),
            LineFormat::TextWithoutTime(format) => format.format_event(context, writer, event),
            LineFormat::Json => writeln!(writer, "{}", json::line(event, Timestamp::now())?),
        }
    }
}
