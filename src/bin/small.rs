//! Code shared by the two small programs: turns a result into lines on stderr and an exit status.

use pgark::error::{Error, Result};
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

// Links the unwinder from the compiler's archive. Loading it as a shared library would take a sixth of the start time.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
#[link(name = "gcc_eh", kind = "static", modifiers = "-bundle")]
// SAFETY: the block declares nothing; it only adds a library to the linker's search.
unsafe extern "C" {}

/// The output of `--version`.
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

/// The error for a wrong command line.
pub fn usage(error: lexopt::Error) -> Error {
    Error::usage(error.to_string()).hint("Try --help.")
}

/// Prints the help or the version.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    // A closed stdout is not an error.
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    Ok(())
}

/// Writes to the server's log. A closed or full log must not change the exit status.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
