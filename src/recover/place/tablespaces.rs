//! Destinations of the tablespaces of a recovered cluster.

use crate::error::{Error, Result};
use crate::postgres::Oid;
use crate::repository::backup::manifest::{StoredBackup, StoredTablespace};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// `OLD=NEW`: relocates a tablespace from one directory to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// The directory of the original, from its link.
    pub old: PathBuf,
    /// The directory of the copy.
    pub new: PathBuf,
}

/// A tablespace outside the data directory, with its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespacePlace {
    /// Its OID, which is also the name of its link in `pg_tblspc`.
    pub oid: Oid,
    /// Its name, for messages.
    pub name: String,
    /// The directory of the original.
    pub old: PathBuf,
    /// The directory of the copy.
    pub new: PathBuf,
}

impl std::str::FromStr for TablespaceMapping {
    type Err = Error;

    /// Parses `OLD=NEW`; `\=` is an equals sign within a path, as in `pg_basebackup`.
    fn from_str(text: &str) -> Result<TablespaceMapping> {
        let wrong = || {
            Error::usage(format!("\"{text}\" is not a tablespace mapping"))
                .hint("Specify OLD=NEW, two absolute paths. Write an equals sign within a path as \\=.")
        };
        let mut sides = vec![String::new()];
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            let side = sides.last_mut().ok_or_else(wrong)?;
            match letter {
                '\\' if letters.peek() == Some(&'=') => side.extend(letters.next()),
                '=' => sides.push(String::new()),
                other => side.push(other),
            }
        }
        match sides.as_slice() {
            [old, new] if is_plain(Path::new(old)) && is_plain(Path::new(new)) => {
                Ok(TablespaceMapping { old: PathBuf::from(old), new: PathBuf::from(new) })
            }
            _ => Err(wrong()),
        }
    }
}

/// Whether a path is absolute and has no `.` or `..` components.
fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// The destination of each tablespace: its mapping, or else its original directory.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a mapping without a tablespace, for two
/// tablespaces in one directory, and for a tablespace inside the data directory.
pub fn place(
    tablespaces: &[StoredTablespace],
    mappings: &[TablespaceMapping],
    data_directory: &Path,
) -> Result<Vec<TablespacePlace>> {
    let mut places: Vec<TablespacePlace> = Vec::new();
    for tablespace in tablespaces {
        // A tablespace without a path is in place and part of the data directory.
        let Some(old) = &tablespace.path else { continue };
        let old = PathBuf::from(OsStr::from_bytes(old.as_bytes()));
        if !is_plain(&old) {
            return Err(Error::damaged(format!(
                "the backup records tablespace {} in \"{}\"",
                tablespace.oid,
                old.display()
            )));
        }
        let mapping = mappings.iter().find(|mapping| mapping.old == old);
        let new = mapping.map_or_else(|| old.clone(), |mapping| mapping.new.clone());
        places.push(TablespacePlace { oid: tablespace.oid, name: tablespace.name.clone(), old, new });
    }
    for mapping in mappings {
        if places.iter().all(|place| place.old != mapping.old) {
            return Err(unknown(mapping, &places));
        }
    }
    for (index, place) in places.iter().enumerate() {
        let overlaps = |other: &Path| place.new.starts_with(other) || other.starts_with(&place.new);
        if overlaps(data_directory) {
            return Err(Error::usage(format!(
                "tablespace \"{}\" would be in \"{}\", and the data directory in \"{}\"",
                place.name,
                place.new.display(),
                data_directory.display()
            ))
            .hint("Neither directory may contain the other. Choose another directory with --tablespace-mapping."));
        }
        if let Some(other) = places.iter().take(index).find(|other| overlaps(&other.new)) {
            return Err(Error::usage(format!(
                "tablespaces \"{}\" and \"{}\" would share the directory \"{}\"",
                other.name,
                place.name,
                place.new.display()
            ))
            .hint("Give each its own directory with --tablespace-mapping."));
        }
    }
    Ok(places)
}

/// The in-place tablespaces of a backup: directories instead of links.
pub fn tablespaces_in_place(backup: &StoredBackup) -> impl Iterator<Item = &StoredTablespace> {
    backup.tablespaces.iter().filter(|tablespace| tablespace.path.is_none())
}

/// A note about in-place tablespaces in the backup or created after it.
pub fn in_place_note(backup: &StoredBackup) -> String {
    let names: Vec<_> =
        tablespaces_in_place(backup).map(|tablespace| format!("\"{}\"", tablespace.name)).collect();
    let which = match names.as_slice() {
        [] => "tablespaces that were created after the backup".to_owned(),
        names => format!("the tablespaces {}", names.join(", ")),
    };
    format!(
        "{which} are in-place tablespaces, directories in the data directory instead of links: they are restored into \
         \"pg_tblspc\" of the new one, no mapping moves them, and allow_in_place_tablespaces is enabled, which the server \
         needs to recover"
    )
}

fn unknown(mapping: &TablespaceMapping, places: &[TablespacePlace]) -> Error {
    let known: Vec<_> = places.iter().map(|place| format!("\"{}\"", place.old.display())).collect();
    Error::usage(format!("the backup has no tablespace in \"{}\"", mapping.old.display())).hint(
        if known.is_empty() {
            "It has no tablespaces outside the data directory.".to_owned()
        } else {
            format!("Its tablespaces are in {}.", known.join(", "))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::repository::backup::StoredText;

    fn tablespaces() -> Vec<StoredTablespace> {
        [(16401, "fast", Some("/mnt/fast")), (16402, "slow", Some("/mnt/slow")), (16403, "inside", None)]
            .into_iter()
            .map(|(oid, name, path)| StoredTablespace {
                oid: Oid::new(oid),
                name: name.to_owned(),
                path: path.map(StoredText::new),
            })
            .collect()
    }

    fn placed(mappings: &[&str]) -> Result<Vec<(Oid, String)>> {
        let mappings: Vec<TablespaceMapping> = mappings.iter().map(|text| text.parse().unwrap()).collect();
        let places = place(&tablespaces(), &mappings, Path::new("/srv/data"))?;
        Ok(places.into_iter().map(|place| (place.oid, place.new.display().to_string())).collect())
    }

    #[test]
    fn each_goes_to_its_mapping_or_stays() {
        let stay = [(Oid::new(16401), "/mnt/fast".to_owned()), (Oid::new(16402), "/mnt/slow".to_owned())];
        assert_eq!(placed(&[]).unwrap(), stay);
        assert_eq!(placed(&["/mnt/slow=/srv/slow"]).unwrap()[1].1, "/srv/slow");
        let swapped = placed(&["/mnt/slow=/mnt/fast", "/mnt/fast=/mnt/slow"]).unwrap();
        assert_eq!(swapped[0].1, "/mnt/slow");
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        let refused = |mappings: &[&str]| placed(mappings).unwrap_err().report();
        assert_eq!(
            refused(&["/mnt/sloow=/x"]),
            "the backup has no tablespace in \"/mnt/sloow\"\nHINT: Its tablespaces are in \"/mnt/fast\", \"/mnt/slow\"."
        );
        assert!(refused(&["/mnt/slow=/mnt/fast"]).contains("share the directory"));
        assert!(refused(&["/mnt/slow=/mnt/fast/below"]).contains("share the directory"));
        assert!(refused(&["/mnt/slow=/srv/data/x"]).contains("data directory"));
        assert!(refused(&["/mnt/slow=/srv"]).contains("data directory"));
        for text in ["", "/a", "/a=", "=/a", "a=/b", "/a=b", "/a=/b=/c", "/a=/../b", "/a=/b/./..", "/a=~/b"] {
            assert_eq!(text.parse::<TablespaceMapping>().unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
        let escaped: TablespaceMapping = "/a\\=b=/c\\d".parse().unwrap();
        assert_eq!((escaped.old, escaped.new), (PathBuf::from("/a=b"), PathBuf::from("/c\\d")));
    }
}
