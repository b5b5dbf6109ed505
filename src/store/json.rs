//! Small objects that are JSON.

use crate::error::{Error, Result};
use serde::Serialize;

/// The text of a value as an object holds it: indented, with a line feed at the end, so that people can read it. `name`
/// names it in errors.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if the value has no JSON form.
pub fn json_text(value: &impl Serialize, name: &str) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::damaged(format!("could not write {name}")).caused_by(error))?;
    text.push(b'\n');
    Ok(text)
}
