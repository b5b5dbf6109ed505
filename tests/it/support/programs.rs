//! The locations of pgark's and PostgreSQL's programs.

use super::run_directory::run_directory;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The directory with `archive-push`, `archive-get` and `pgark`, readable for the server's user; cargo's own directory
/// may be in a private home directory.
fn pgark_directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        if let Some(other) = std::env::var_os("PGARK_TEST_PROGRAMS") {
            return other.into();
        }
        let directory = run_directory().join("bin");
        std::fs::create_dir(&directory).unwrap();
        for built in [
            env!("CARGO_BIN_EXE_archive-push"),
            env!("CARGO_BIN_EXE_archive-get"),
            env!("CARGO_BIN_EXE_pgark"),
        ] {
            let copy = directory.join(Path::new(built).file_name().unwrap());
            std::fs::copy(built, &copy).unwrap();
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        directory
    })
}

/// One of pgark's programs, by its name.
pub fn pgark_program(name: &str) -> PathBuf {
    pgark_directory().join(name)
}

/// The directory of PostgreSQL's programs.
fn postgres_directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let chosen = std::env::var_os("PGARK_TEST_PG_BIN").map(PathBuf::from);
        chosen
            .or_else(newest_postgres)
            .expect("no PostgreSQL found: set PGARK_TEST_PG_BIN, or run scripts/test")
    })
}

/// The PATH of all processes, with PostgreSQL's programs last, as for an operator who did not install a package.
pub fn search_path() -> String {
    format!("/usr/bin:/bin:{}", postgres_directory().display())
}

/// One of PostgreSQL's programs.
pub fn postgres_program(name: &str) -> PathBuf {
    let program = postgres_directory().join(name);
    assert!(program.is_file(), "{} is missing; set PGARK_TEST_PG_BIN", program.display());
    program
}

/// Whether the tested PostgreSQL has this program.
pub fn has_postgres_program(name: &str) -> bool {
    postgres_directory().join(name).is_file()
}

/// A program of an older PostgreSQL, if `PGARK_TEST_PG_OLD_BIN` is set.
pub fn old_postgres_program(name: &str) -> Option<PathBuf> {
    let program = PathBuf::from(std::env::var_os("PGARK_TEST_PG_OLD_BIN")?).join(name);
    assert!(program.is_file(), "{} is missing; correct PGARK_TEST_PG_OLD_BIN", program.display());
    Some(program)
}

/// Debian keeps the server programs of each major version in a directory of its own, outside the PATH.
fn newest_postgres() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| Path::new(&format!("/usr/lib/postgresql/{version}/bin/postgres")).is_file())
        .max();
    if let Some(version) = newest {
        return Some(format!("/usr/lib/postgresql/{version}/bin").into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find(|directory| directory.join("postgres").is_file())
}

/// The libfaketime library, in its location on Debian.
pub fn faketime() -> PathBuf {
    let directories = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = directories.map(|path| path.join("faketime/libfaketime.so.1")).find(|path| path.exists());
    found.expect("libfaketime is missing: scripts/test installs it")
}
