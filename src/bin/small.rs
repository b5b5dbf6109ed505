//! What the two small programs share: from a result to lines on stderr and an exit status.

use pgark::error::{Error, Result};
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

// The unwinder comes from the compiler's archive instead of a library of its own, whose loading is a sixth of what it
// takes to start.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
// SAFETY: nothing is declared; only the linker is told where to look.
unsafe extern "C" {}

/// What `--version` prints.
pub const VERSION: &str = concat!("pgark ", env!("CARGO_PKG_VERSION"));

/// Runs a small program. A panic ends with `panic_status`: Rust's own 101 would make PostgreSQL promote.
///
/// Signals keep their default action, which PostgreSQL's archiver and startup process rely on.
pub fn run(
    program: &str,
    panic_status: u8,
    status: impl Fn(&Error) -> u8,
    body: impl FnOnce() -> Result<()>,
) -> ExitCode {
    panic::set_hook(Box::new(|information| say(&format!("pgark: internal error: {information}"))));
    match panic::catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            say(&format!("{program}: {}", error.report()));
            ExitCode::from(status(&error))
        }
        Err(_) => ExitCode::from(panic_status),
    }
}

/// A wrong command line.
pub fn usage(error: lexopt::Error) -> Error {
    Error::usage(error.to_string()).hint("Try --help.")
}

/// Prints what was asked for.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    // Nobody listens: nothing to be done, and nothing lost.
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    Ok(())
}

/// Writes to the server's log. That it is closed or full must not change the exit status.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
