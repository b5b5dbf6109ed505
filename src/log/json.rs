//! A message as a JSON object.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;
use tracing::Event;
use tracing::field::{Field, Visit};

/// One line. A field's value is a number, a truth or a text.
#[derive(Serialize)]
struct JsonLine<'a> {
    /// In RFC 3339 form, in UTC.
    timestamp: String,
    /// The word in the configuration.
    level: String,
    message: String,
    /// The module that reports.
    target: &'a str,
    fields: Map<String, Value>,
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        match (field.name(), value.into()) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => {
                self.others.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

/// The event as one line without its end.
///
/// # Errors
/// None is expected: every value can be written.
pub(super) fn line(event: &Event<'_>, now: Timestamp) -> Result<String, fmt::Error> {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let metadata = event.metadata();
    let line = JsonLine {
        timestamp: format!("{now:.6}"),
        level: metadata.level().as_str().to_ascii_lowercase(),
        message: fields.message,
        target: metadata.target(),
        fields: fields.others,
    };
    serde_json::to_string(&line).map_err(|_| fmt::Error)
}
