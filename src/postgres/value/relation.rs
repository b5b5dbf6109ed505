//! What identifies a relation's files and their blocks.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// An object identifier: that of a tablespace or a database.
///
/// Source: PostgreSQL `postgres_ext.h`, `Oid`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Oid(u32);

/// The number in the names of a relation's files, `pg_class.relfilenode`.
///
/// Source: PostgreSQL `common/relpath.h`, `RelFileNumber`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelFileNumber(u32);

/// The number of a block (a page) within its relation's fork, counted over all files of the fork from 0.
///
/// Source: PostgreSQL `storage/block.h`, `BlockNumber`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockNumber(u32);

/// The number of a block (a page) within one file of a fork, counted from 0.
///
/// Source: PostgreSQL `backup/basebackup_incremental.h`, `relative_block_numbers`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativeBlockNumber(u32);

/// A fork of a relation.
///
/// Source: PostgreSQL `common/relpath.h`, `ForkNumber`; `common/relpath.c`, `forkNames`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkName {
    /// The main data fork.
    Main,
    /// The free space map.
    FreeSpaceMap,
    /// The visibility map.
    VisibilityMap,
    /// The initial content of an unlogged relation after a crash.
    Init,
}

/// The directory of a database in one tablespace. Its database is [`Oid::SHARED`] for shared relations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatabaseDirectory {
    /// The tablespace.
    pub tablespace: Oid,
    /// The database.
    pub database: Oid,
}

/// A relation's files: all forks and segments.
///
/// Source: PostgreSQL `storage/relfilelocator.h`, `RelFileLocator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelFileLocator {
    /// Their directory.
    pub directory: DatabaseDirectory,
    /// Their number.
    pub number: RelFileNumber,
}

impl Oid {
    /// In place of a database: the relation is shared by all databases. Source: `InvalidOid`.
    pub const SHARED: Oid = Oid(0);
    /// The tablespace `pg_default`. Source: PostgreSQL `catalog/pg_tablespace.dat`.
    pub const PG_DEFAULT: Oid = Oid(1663);
    /// The tablespace `pg_global`. Source: PostgreSQL `catalog/pg_tablespace.dat`.
    pub const PG_GLOBAL: Oid = Oid(1664);

    /// The object identifier with this number.
    pub const fn new(number: u32) -> Oid {
        Oid(number)
    }

    /// Whether an object can have it.
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }
}

impl RelFileNumber {
    /// In a WAL summary: all relations of the directory, because their database was created. Source:
    /// `InvalidRelFileNumber`; PostgreSQL `postmaster/walsummarizer.c`, `SummarizeDbaseRecord`.
    pub const WHOLE_DATABASE: RelFileNumber = RelFileNumber(0);

    /// The relation file number with this value.
    pub const fn new(number: u32) -> RelFileNumber {
        RelFileNumber(number)
    }
}

impl BlockNumber {
    /// The block with this number.
    pub const fn new(number: u32) -> BlockNumber {
        BlockNumber(number)
    }

    /// The number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The first block of a file of the fork, by the number of the file, its segment.
    ///
    /// Wraps around for numbers that no file of a relation can have, as the server does.
    pub const fn first_of_file(segment: u32, pages_per_file: u32) -> BlockNumber {
        BlockNumber(segment.wrapping_mul(pages_per_file))
    }

    /// The number of blocks from `first` up to this one, without this one; 0 if this one precedes it.
    pub const fn blocks_since(self, first: BlockNumber) -> u32 {
        self.0.saturating_sub(first.0)
    }

    /// The block that follows this first block of a file at this distance; wraps around.
    pub const fn at(self, relative: RelativeBlockNumber) -> BlockNumber {
        BlockNumber(self.0.wrapping_add(relative.0))
    }
}

impl RelativeBlockNumber {
    /// The block with this number.
    pub const fn new(number: u32) -> RelativeBlockNumber {
        RelativeBlockNumber(number)
    }

    /// The number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The block at this place of a file. A file has less than 2³² blocks; others have no number of their own.
    pub const fn from_index(index: u64) -> RelativeBlockNumber {
        RelativeBlockNumber(index as u32)
    }

    /// The number of blocks up to this one.
    pub const fn count_through(self) -> u32 {
        self.0.saturating_add(1)
    }
}

impl ForkName {
    /// The forks whose files have a suffix in their names.
    pub const SUFFIXED: [ForkName; 3] = [ForkName::FreeSpaceMap, ForkName::VisibilityMap, ForkName::Init];

    /// What follows the underscore in the names of its files; empty for the main fork.
    pub const fn suffix(self) -> &'static str {
        match self {
            ForkName::Main => "",
            ForkName::FreeSpaceMap => "fsm",
            ForkName::VisibilityMap => "vm",
            ForkName::Init => "init",
        }
    }
}

/// Written and parsed as PostgreSQL does: decimal digits.
macro_rules! decimal {
    ($($name:ident),*) => {$(
        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<$name, ParseIntError> {
                text.parse().map($name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

decimal!(Oid, RelFileNumber, BlockNumber, RelativeBlockNumber);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_numbers_are_plain_numbers() {
        assert_eq!(serde_json::to_string(&Oid::new(16384)).unwrap(), "16384");
        assert_eq!(serde_json::from_str::<BlockNumber>("7").unwrap(), BlockNumber::new(7));
        assert_eq!("1663".parse::<Oid>(), Ok(Oid::PG_DEFAULT));
        assert!("4294967296".parse::<RelFileNumber>().is_err());
    }

    #[test]
    fn blocks_are_counted_over_the_files_of_a_fork() {
        let block = |segment, relative| {
            BlockNumber::first_of_file(segment, 131_072).at(RelativeBlockNumber::new(relative))
        };
        assert_eq!(block(0, 5), BlockNumber::new(5));
        assert_eq!(block(2, 5), BlockNumber::new(262_149));
        assert_eq!(block(32_768, 5), BlockNumber::new(5), "no relation has that many files");
    }
}
