//! Which versions of a format this pgark reads.

use crate::error::{Error, Result};

/// Refuses a version that this pgark does not read; it reads all from 1 to `newest`. `subject` states the version that
/// was found.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage).
pub fn check_version(found: u32, newest: u32, subject: impl FnOnce() -> String) -> Result<()> {
    if (1..=newest).contains(&found) {
        return Ok(());
    }
    let known = match newest {
        1 => "1".to_owned(),
        _ => format!("1 to {newest}"),
    };
    Err(Error::usage(format!("{}; this pgark supports {known}", subject()))
        .hint("Upgrade pgark on this host."))
}
