//! The warnings that the server sent along with its files.

use super::damage::{below_data_directory, failed_page};
use crate::backup::files::FileList;
use crate::backup::files::exclusions;
use crate::backup::files::walk::not_a_file;
use crate::error::Result;
use crate::monitor::{CommandWarning, Monitor};

/// Shows the server's warnings, except those about damaged pages, which are reported elsewhere.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if the server skipped some of its data. The server skips
/// anything that is neither a directory nor a regular file, warns in the language of its messages, and continues.
pub fn check(warnings: &[String], files: &FileList, monitor: &dyn Monitor) -> Result<()> {
    for warning in warnings.iter().filter(|warning| failed_page(warning).is_none()) {
        monitor.warn(CommandWarning::FromServer { message: warning });
    }
    let named = warnings.iter().filter_map(|warning| path_in(warning));
    let skipped: Vec<(&str, Vec<u8>)> = named
        .map(|path| (path, below_data_directory(path, files)))
        .filter(|(_, below)| exclusions::is_data(below) && !files.holds(below))
        .collect();
    match skipped.first() {
        Some((path, _)) => Err(not_a_file("link or special file", path)),
        None => Ok(()),
    }
}

/// Extracts the quoted path from a message. The quotation marks depend on the language, but paths of the server's own
/// data never contain them.
fn path_in(warning: &str) -> Option<&str> {
    let from = warning.find("./").or_else(|| warning.find('/'))?;
    let rest = warning.get(from..)?;
    let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && !"./_-".contains(letter));
    rest.get(..end.unwrap_or(rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::RecordingMonitor;

    #[test]
    fn data_that_was_passed_over_is_an_error_in_every_language() {
        let mut files = FileList::of_stream();
        let database = files.add_directory(b"base/5".to_vec(), 0, 0o700, 0);
        files.add_file(database, b"16384", 8192).unwrap();
        let check = |warning: &str| {
            let monitor = RecordingMonitor::default();
            (check(&[warning.to_owned()], &files, &monitor).is_err(), monitor.events().len())
        };
        assert_eq!(check("skipping special file \"./base/5/16390\""), (true, 1));
        assert_eq!(check("überspringe besondere Datei »./pg_xact«"), (true, 1));
        assert_eq!(check("skipping special file \"./.s.PGSQL.5432\""), (false, 1));
        assert_eq!(
            check("file \"./base/5/16384\" has a total of 2 checksum verification failures"),
            (false, 1)
        );
        assert_eq!(
            check(
                "checksum verification failed in file \"./base/5/16384\", block 0: calculated 1 but expected 2"
            ),
            (false, 0)
        );
        assert_eq!(check("aborting backup due to backend exiting"), (false, 1));
    }
}
