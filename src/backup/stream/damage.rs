//! Pages that the server found damaged, parsed from its warnings.

use crate::backup::files::exclusions;
use crate::backup::files::{FileList, tablespace_prefix};
use crate::postgres::{BlockNumber, RelativeBlockNumber};
use crate::repository::backup::StoredText;
use crate::repository::backup::manifest::{DamagedPage, DamagedPages};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Collects the damaged pages from the server's warnings. Warnings in other languages than English cannot be parsed.
///
/// Source: PostgreSQL `backup/basebackup.c`, `sendFile` and `verify_page_checksum`.
pub fn damaged_pages(warnings: &[String], files: &FileList, pages_per_file: u32) -> DamagedPages {
    let mut damaged = DamagedPages::default();
    for warning in warnings {
        if let Some((path, block, problem)) = failed_page(warning) {
            let path = below_data_directory(path, files);
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let segment = exclusions::relation_file(name).map_or(0, |file| file.segment);
            let block = BlockNumber::first_of_file(segment, pages_per_file).at(block);
            damaged.add(DamagedPage { path: StoredText::new(path), block, problem });
        }
    }
    // The failed backup proves that there is at least one.
    damaged.count = damaged.count.max(1);
    damaged
}

/// The file, the block within it, and the problem.
pub fn failed_page(warning: &str) -> Option<(&str, RelativeBlockNumber, String)> {
    let rest = warning.strip_prefix("checksum verification failed in file \"")?;
    let (path, rest) = rest.split_once("\", block ")?;
    let (block, problem) = rest.split_once(": ")?;
    Some((path, block.parse().ok()?, format!("checksum: {problem}")))
}

/// Converts a path from a warning into one relative to the data directory. The server reports files of the data
/// directory relative to it, and files of tablespaces by absolute path.
pub fn below_data_directory(path: &str, files: &FileList) -> Vec<u8> {
    let path = path.strip_prefix("./").unwrap_or(path);
    for root in &files.roots {
        let target = Path::new(std::ffi::OsStr::from_bytes(&root.target));
        if let (Some(oid), Ok(rest)) = (root.tablespace, Path::new(path).strip_prefix(target)) {
            return [tablespace_prefix(oid).as_bytes(), rest.as_os_str().as_bytes()].concat();
        }
    }
    path.as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Oid;

    #[test]
    fn a_warning_names_the_page() {
        let mut files = FileList::of_stream();
        files.add_tablespace(Oid::new(16400), b"/mnt/space".to_vec());
        let warnings = [
            "checksum verification failed in file \"./base/5/16384.2\", block 3: calculated 1A2B but expected 3C4D",
            "checksum verification failed in file \"/mnt/space/PG_15_202209061/5/16390\", block 7: calculated 1 but expected 2",
            "file \"./base/5/16384.2\" has a total of 2 checksum verification failures",
        ];
        let damaged = damaged_pages(&warnings.map(str::to_owned), &files, 100);
        let found: Vec<_> =
            damaged.listed.iter().map(|page| (page.path.to_string(), page.block.as_u32())).collect();
        let expected =
            [("base/5/16384.2".to_owned(), 203), ("pg_tblspc/16400/PG_15_202209061/5/16390".to_owned(), 7)];
        assert_eq!((found, damaged.count), (expected.to_vec(), 2));
        assert_eq!(damaged_pages(&[], &files, 100).count, 1, "it failed, and nobody can read why");
    }
}
