//! `tablespace_map`: the locations of a base backup's tablespaces.

use crate::error::{Error, Result};
use crate::postgres::value::relation::Oid;
use crate::postgres::version::major::MajorVersion;

/// Upper limit for the size of a `tablespace_map`, in bytes; a line is an object identifier and a path.
pub const TABLESPACE_MAP_BYTES_MAX: usize = 16 << 20;

/// A tablespace: the target of the link `pg_tblspc/<oid>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceLocation {
    /// The tablespace's object identifier.
    pub oid: Oid,
    /// The target directory of the link: any bytes but NUL.
    pub path: Vec<u8>,
}

/// Parses a `tablespace_map` written by a server of this major version.
///
/// Text form: a line for each tablespace with object identifier, space, path. In the path, a backslash precedes each
/// line feed and carriage return and, from version 14 on, each backslash. Version 13 does not escape backslashes.
/// Source: PostgreSQL `access/transam/xlog.c`, `do_pg_backup_start`, and `xlogrecovery.c`, `read_tablespace_map`.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for any other content, a duplicate tablespace, and more
/// than [`TABLESPACE_MAP_BYTES_MAX`].
pub fn parse_tablespace_map(content: &[u8], version: MajorVersion) -> Result<Vec<TablespaceLocation>> {
    if content.len() > TABLESPACE_MAP_BYTES_MAX {
        return Err(Error::damaged(format!("tablespace_map has {} bytes", content.len())));
    }
    let mut locations: Vec<TablespaceLocation> = Vec::new();
    let mut line = Vec::new();
    let mut bytes = content.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'\\', Some(&escaped @ (b'\n' | b'\r'))) => {
                line.push(escaped);
                bytes.next();
            }
            (b'\\', Some(&escaped)) if version.facts().tablespace_map_escapes_backslashes => {
                line.push(escaped);
                bytes.next();
            }
            (b'\n' | b'\r', _) => {
                let location = location_of(&line).ok_or_else(|| {
                    Error::damaged(format!("tablespace_map has the line \"{}\"", line.escape_ascii()))
                })?;
                locations.push(location);
                line.clear();
            }
            _ => line.push(byte),
        }
    }
    if !line.is_empty() {
        return Err(Error::damaged("tablespace_map is truncated within a line"));
    }
    let mut oids: Vec<Oid> = locations.iter().map(|location| location.oid).collect();
    oids.sort_unstable();
    if let Some(oid) =
        oids.iter().zip(oids.iter().skip(1)).find(|(oid, next)| oid == next).map(|(oid, _)| oid)
    {
        return Err(Error::damaged(format!("tablespace_map names tablespace {oid} twice")));
    }
    Ok(locations)
}

/// Writes a `tablespace_map` for a server of this major version.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a path that the server could not read back: empty, with a
/// NUL byte or, in version 13, with a trailing backslash.
pub fn render_tablespace_map(locations: &[TablespaceLocation], version: MajorVersion) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    for location in locations {
        let unreadable = location.path.is_empty()
            || location.path.contains(&0)
            || (!version.facts().tablespace_map_escapes_backslashes && location.path.last() == Some(&b'\\'));
        if unreadable {
            return Err(Error::usage(format!(
                "tablespace {} cannot be in \"{}\": the server could not read this path",
                location.oid,
                location.path.escape_ascii()
            )));
        }
        content.extend_from_slice(format!("{} ", location.oid).as_bytes());
        for &byte in &location.path {
            if matches!(byte, b'\n' | b'\r')
                || (byte == b'\\' && version.facts().tablespace_map_escapes_backslashes)
            {
                content.push(b'\\');
            }
            content.push(byte);
        }
        content.push(b'\n');
    }
    Ok(content)
}

fn location_of(line: &[u8]) -> Option<TablespaceLocation> {
    let blank = line.iter().position(|byte| *byte == b' ')?;
    let (oid, path) = line.split_at_checked(blank)?;
    let path = path.strip_prefix(b" ")?;
    let well_formed = oid.iter().all(u8::is_ascii_digit) && !path.is_empty() && !path.contains(&0);
    let oid = std::str::from_utf8(oid).ok()?.parse().ok().filter(|oid: &Oid| oid.is_valid())?;
    well_formed.then(|| TablespaceLocation { oid, path: path.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(oid: u32, path: &[u8]) -> TablespaceLocation {
        TablespaceLocation { oid: Oid::new(oid), path: path.to_vec() }
    }

    #[test]
    fn reads_what_each_version_writes() {
        // Both maps come from servers with these two tablespaces.
        let expected = [location(16402, b"/mnt/ts2"), location(16401, b"/mnt/ts\n back\\slash")];
        for (version, content) in [
            (MajorVersion::V13, &b"16402 /mnt/ts2\n16401 /mnt/ts\\\n back\\slash\n"[..]),
            (MajorVersion::V14, &b"16402 /mnt/ts2\n16401 /mnt/ts\\\n back\\\\slash\n"[..]),
        ] {
            assert_eq!(parse_tablespace_map(content, version).unwrap(), expected);
            assert_eq!(render_tablespace_map(&expected, version).unwrap(), content);
        }
        assert_eq!(parse_tablespace_map(b"", MajorVersion::V18).unwrap(), []);
    }

    #[test]
    fn every_path_round_trips() {
        let paths: [&[u8]; 6] =
            [b"/a b", b" /", b"/\\\\x", b"/\r\n\\\n", b"/\xff\x01", b"/12 34\\\\\n\\\\\r/"];
        for version in MajorVersion::ALL {
            let locations: Vec<_> = paths.iter().zip(1..).map(|(path, oid)| location(oid, path)).collect();
            let content = render_tablespace_map(&locations, version).unwrap();
            assert_eq!(parse_tablespace_map(&content, version).unwrap(), locations, "{version}");
        }
        let ending_in_backslash = [location(1, b"/a\\")];
        assert!(render_tablespace_map(&ending_in_backslash, MajorVersion::V13).is_err());
        let content = render_tablespace_map(&ending_in_backslash, MajorVersion::V14).unwrap();
        assert_eq!(parse_tablespace_map(&content, MajorVersion::V14).unwrap(), ending_in_backslash);
    }

    #[test]
    fn refuses_what_is_no_map() {
        for content in [
            &b"16402 /mnt"[..],
            b"16402\n",
            b"16402 \n",
            b" /mnt\n",
            b"x /mnt\n",
            b"+1 /mnt\n",
            b"0 /mnt\n",
            b"4294967296 /mnt\n",
            b"\n",
            b"1 /a\n\n2 /b\n",
            b"1 /a\n1 /b\n",
            b"1 /a\0b\n",
            b"1 /a\\",
        ] {
            for version in MajorVersion::ALL {
                assert!(parse_tablespace_map(content, version).is_err(), "{}", content.escape_ascii());
            }
        }
    }
}
