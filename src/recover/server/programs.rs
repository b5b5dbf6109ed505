//! Prerequisites for starting a server: `pg_ctl` of its version, and a free port.

use crate::error::{Error, Result};
use crate::postgres::MajorVersion;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Finds `pg_ctl` of this major version in `preferred`, in the usual package directories, or in one of the
/// directories of `search`.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if it is not in the given directory, or has another
/// version.
pub fn find_pg_ctl(
    preferred: Option<&Path>,
    version: MajorVersion,
    search: &[PathBuf],
) -> Result<Option<PathBuf>> {
    if let Some(directory) = preferred {
        let program = directory.join("pg_ctl");
        if !program.is_file() {
            return Err(Error::usage(format!("there is no pg_ctl in \"{}\"", directory.display()))
                .hint("Name the directory of PostgreSQL's programs with --pg-bin."));
        }
        return match major_of(&program) {
            Some(major) if major != version.to_string() => Err(Error::usage(format!(
                "\"{}\" is of PostgreSQL {major}, but the backup is of {version}",
                program.display()
            ))
            .hint(format!("Name the directory of the programs of PostgreSQL {version} with --pg-bin."))),
            _ => Ok(Some(program)),
        };
    }
    let packaged = [format!("/usr/lib/postgresql/{version}/bin"), format!("/usr/pgsql-{version}/bin")];
    let mut directories = packaged.iter().map(PathBuf::from).chain(search.iter().cloned());
    let suits = |program: &PathBuf| {
        program.is_file() && major_of(program).is_none_or(|major| major == version.to_string())
    };
    Ok(directories.by_ref().map(|directory| directory.join("pg_ctl")).find(suits))
}

/// The major version that a PostgreSQL program reports; `None` if its output is not understood.
fn major_of(program: &Path) -> Option<String> {
    let said =
        Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    let (_, version) = said.split_once("(PostgreSQL) ")?;
    let digits = version.bytes().take_while(u8::is_ascii_digit).count();
    version.get(..digits).filter(|digits| !digits.is_empty()).map(str::to_owned)
}

/// The server that listens on this port in one of the directories of `sockets`, a list in the form of
/// `unix_socket_directories`. Another server started there would exit at once.
///
/// Source: PostgreSQL `utils/init/miscinit.c`, `CreateSocketLockFile`.
pub fn who_listens(sockets: &str, port: u16) -> Option<(PathBuf, i32)> {
    let directories = sockets.split(',').map(|directory| directory.trim().trim_matches('"'));
    directories.filter(|directory| directory.starts_with('/')).find_map(|directory| {
        let socket = Path::new(directory).join(format!(".s.PGSQL.{port}"));
        let lock = fs::read_to_string(Path::new(directory).join(format!(".s.PGSQL.{port}.lock"))).ok()?;
        let process: i32 = lock.lines().next()?.trim().parse().ok()?;
        // A process of another user refuses the signal but is alive.
        let lives = process > 0 && kill(Pid::from_raw(process), None) != Err(nix::errno::Errno::ESRCH);
        lives.then_some((socket, process))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_program_of_another_version_is_passed_over() {
        let scratch = tempfile::tempdir().unwrap();
        for (name, version) in [("old", "9.6.24"), ("new", "17beta1 (Debian 17~b1)")] {
            let directory = scratch.path().join(name);
            fs::create_dir(&directory).unwrap();
            let program = directory.join("pg_ctl");
            fs::write(&program, format!("#!/bin/sh\necho 'pg_ctl (PostgreSQL) {version}'\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let (old, new) = (scratch.path().join("old"), scratch.path().join("new"));
        assert_eq!(major_of(&old.join("pg_ctl")).as_deref(), Some("9"));
        assert_eq!(major_of(&new.join("pg_ctl")).as_deref(), Some("17"));
        let error = find_pg_ctl(Some(&old), MajorVersion::V17, &[]).unwrap_err().to_string();
        assert!(error.ends_with("is of PostgreSQL 9, but the backup is of 17"), "{error}");
        assert_eq!(find_pg_ctl(Some(&new), MajorVersion::V17, &[]).unwrap(), Some(new.join("pg_ctl")));
        let found = find_pg_ctl(None, MajorVersion::V17, &[old.clone(), new.clone()]).unwrap().unwrap();
        assert!(!found.starts_with(&old), "{found:?}");
        assert!(find_pg_ctl(Some(scratch.path()), MajorVersion::V17, &[]).is_err());
    }

    #[test]
    fn a_socket_belongs_to_whoever_lives() {
        let scratch = tempfile::tempdir().unwrap();
        let sockets = format!("@abstract, {}", scratch.path().display());
        assert_eq!(who_listens(&sockets, 5433), None);
        let lock = scratch.path().join(".s.PGSQL.5433.lock");
        fs::write(&lock, format!("{}\n/data\n", std::process::id())).unwrap();
        let (socket, process) = who_listens(&sockets, 5433).unwrap();
        assert_eq!(
            (socket.file_name().unwrap().to_str(), process),
            (Some(".s.PGSQL.5433"), std::process::id() as i32)
        );
        assert_eq!(who_listens(&sockets, 5434), None);
        fs::write(&lock, "2147483647\n/data\n").unwrap();
        assert_eq!(who_listens(&sockets, 5433), None);
    }
}
