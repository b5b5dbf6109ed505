//! The password file, parsed like in libpq.
//!
//! Source: PostgreSQL's manual, "The Password File".

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The connection for which a password is needed.
pub(super) struct Wanted<'a> {
    /// A host, or the directory of a socket.
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// Permissions for others; libpq ignores a file that has any.
const OTHERS: u32 = 0o077;

/// The password for a connection; `None` if the file has none, does not exist, or is accessible to others.
pub(super) fn find(path: &Path, wanted: &Wanted<'_>) -> Option<Vec<u8>> {
    let metadata = fs::metadata(path).ok().filter(|metadata| metadata.is_file())?;
    if metadata.mode() & OTHERS != 0 {
        return None;
    }
    let content = fs::read(path).ok()?;
    content.split(|byte| *byte == b'\n').find_map(|line| password_of(line, wanted))
}

fn password_of(line: &[u8], wanted: &Wanted<'_>) -> Option<Vec<u8>> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.starts_with(b"#") {
        return None;
    }
    let fields = split(line);
    let [host, port, database, user, password] = fields.as_slice() else { return None };
    let port_wanted = wanted.port.to_string();
    let is = |field: &Vec<u8>, value: &str| field == b"*" || field == value.as_bytes();
    // A socket in the default directory is "localhost" there.
    let host_is = is(host, wanted.host) || (wanted.host.starts_with('/') && is(host, "localhost"));
    let all = host_is && is(port, &port_wanted) && is(database, wanted.database) && is(user, wanted.user);
    all.then(|| password.clone())
}

/// Splits at colons; a backslash escapes the next byte.
fn split(line: &[u8]) -> Vec<Vec<u8>> {
    let mut fields = vec![Vec::new()];
    let mut bytes = line.iter();
    while let Some(&byte) = bytes.next() {
        let taken = match byte {
            b':' => None,
            b'\\' => bytes.next().copied(),
            other => Some(other),
        };
        match (taken, fields.last_mut()) {
            (Some(byte), Some(field)) => field.push(byte),
            _ => fields.push(Vec::new()),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_line_that_fits_counts() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("pgpass");
        fs::write(&path, "# a comment\nother:5432:*:*:no\nbad\ndb:5433:*:op:s\\:e\\\\c\nlocalhost:*:*:*:local\n*:*:*:*:any\n")
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let find = |host, port| {
            let wanted = Wanted { host, port, database: "postgres", user: "op" };
            find(&path, &wanted).map(|password| String::from_utf8(password).unwrap())
        };
        assert_eq!(find("db", 5433).unwrap(), "s:e\\c");
        assert_eq!(find("db", 5432).unwrap(), "any");
        assert_eq!(find("/var/run/postgresql", 5432).unwrap(), "local");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(find("db", 5433), None, "others may read it");
    }
}
