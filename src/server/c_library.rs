//! The C library of a process, by which PostgreSQL sorts text.
//!
//! Owns: finding glibc's version without calling it, since the server has its own. Does not own: the consequences.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Upper limit for the size of the library, in bytes.
const LIBRARY_BYTES_MAX: u64 = 32 << 20;
/// The text before the version in the library. Source: glibc, `csu/version.c`.
const BANNER: &[u8] = b"GNU C Library (";
const BEFORE_VERSION: &[u8] = b" release version ";

/// Locations of the library that programs of this host load, for the case that this one is statically linked.
const PLACES: [&str; 4] = [
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/lib/aarch64-linux-gnu/libc.so.6",
    "/lib64/libc.so.6",
    "/usr/lib/libc.so.6",
];

/// The version of glibc that a process has loaded, such as `2.36`; `None` if it has another C library, or one that was
/// replaced since or cannot be read.
pub fn of_process(process_id: u32) -> Option<String> {
    let process = PathBuf::from(format!("/proc/{process_id}"));
    let library = loaded_library(&fs::read_to_string(process.join("maps")).ok()?)?;
    // The process may see other files than pgark does.
    version_in(&process.join("root").join(library.strip_prefix("/").ok()?))
}

/// The version of glibc that programs of this host use; `None` if there is none.
pub fn of_host() -> Option<String> {
    of_process(std::process::id()).or_else(|| PLACES.iter().find_map(|place| version_in(Path::new(place))))
}

/// The library's path among the mapped files of a process. Source: proc(5), `/proc/pid/maps`.
fn loaded_library(maps: &str) -> Option<PathBuf> {
    let mut paths = maps.lines().filter_map(|line| Some(Path::new(line.get(line.find('/')?..)?)));
    let is_library = |path: &&Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // The second form is its name up to version 2.33.
        name == "libc.so.6" || (name.starts_with("libc-2.") && name.ends_with(".so"))
    };
    paths.find(is_library).map(Path::to_owned)
}

fn version_in(library: &Path) -> Option<String> {
    let mut content = Vec::new();
    File::open(library).ok()?.take(LIBRARY_BYTES_MAX).read_to_end(&mut content).ok()?;
    let banner = content.get(position(&content, BANNER)?..)?;
    let version = banner.get(position(banner, BEFORE_VERSION)?.checked_add(BEFORE_VERSION.len())?..)?;
    let end = version.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.')?;
    let version = std::str::from_utf8(version.get(..end)?).ok()?.trim_end_matches('.');
    (!version.is_empty()).then(|| version.to_owned())
}

fn position(content: &[u8], wanted: &[u8]) -> Option<usize> {
    content.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_the_library_says_of_itself() {
        let said = std::process::Command::new("getconf").arg("GNU_LIBC_VERSION").output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let expected = said.trim().strip_prefix("glibc ");
        assert_eq!(of_host().as_deref(), expected);
        assert_eq!(of_process(u32::MAX), None);
    }

    #[test]
    fn a_library_that_has_been_replaced_is_not_looked_at() {
        let maps = |path: &str| {
            format!(
                "5581d0000000-5581d0001000 r--p 00000000 fe:00 1 /usr/bin/x\n\
                 7f0000000000-7f0000001000 rw-p 00000000 00:00 0\n7f1-7f2 r-xp 00026000 fe:00 3 {path}\n"
            )
        };
        for path in ["/usr/lib/x86_64-linux-gnu/libc.so.6", "/lib/libc-2.31.so"] {
            assert_eq!(loaded_library(&maps(path)).as_deref(), Some(Path::new(path)));
        }
        for path in ["/usr/lib/libc.so.6 (deleted)", "/lib/ld-musl-x86_64.so.1", "/lib/libcrypt-2.so", ""] {
            assert_eq!(loaded_library(&maps(path)), None, "{path}");
        }
    }

    #[test]
    fn a_file_without_a_version_has_none() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("libc.so.6");
        for content in ["", "GNU C Library (", "GNU C Library (x) stable release version .\n"] {
            fs::write(&path, content).unwrap();
            assert_eq!(version_in(&path), None, "{content}");
        }
        fs::write(&path, "\0\x01GNU C Library (Debian GLIBC 2.31-13) stable release version 2.31.\nBy\0")
            .unwrap();
        assert_eq!(version_in(&path).as_deref(), Some("2.31"));
    }
}
