//! Disk operations as recorded by the programs themselves (`src/failpoint/recorder.rs`), and the states that a power
//! failure could leave.

mod power;

pub use power::PowerCuts;

use super::account::create_private_directory;
use super::run::Run;
use super::site::Site;
use std::path::{Path, PathBuf};

/// The directory in which programs write their records.
#[derive(Clone, Debug)]
pub struct Recording {
    directory: PathBuf,
}

/// A disk operation or a named step.
#[derive(Clone, Debug)]
pub struct Operation {
    pub process: i32,
    pub name: String,
    pub inode: u64,
    /// The written bytes, as a range of the recorded data.
    pub content: std::ops::Range<usize>,
    pub path: String,
    pub other: String,
    /// The offset of the write, or the new length of the file.
    pub place: usize,
}

impl Recording {
    pub fn new(site: &Site, name: &str) -> Recording {
        let directory = site.directory().join(name);
        create_private_directory(&directory);
        Recording { directory }
    }

    /// Makes a program, and all programs that it starts, write into the record.
    pub fn of(&self, run: Run) -> Run {
        run.env("PGARK_RECORD", &self.directory)
    }

    /// All operations so far, in order.
    pub fn operations(&self) -> Vec<Operation> {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        log.lines().map(operation).collect()
    }

    /// The written bytes, for [`Operation::content`].
    pub fn data(&self) -> Vec<u8> {
        std::fs::read(self.directory.join("data")).unwrap_or_default()
    }
}

fn operation(line: &str) -> Operation {
    let fields: Vec<&str> = line.split('\t').collect();
    let [process, name, inode, offset, length, path, other, place] = fields[..] else {
        panic!("a line of the record is \"{line}\"")
    };
    let offset: usize = offset.parse().unwrap();
    Operation {
        process: process.parse().unwrap(),
        name: name.to_owned(),
        inode: inode.parse().unwrap(),
        content: offset..offset + length.parse::<usize>().unwrap(),
        path: path.to_owned(),
        other: other.to_owned(),
        place: place.parse().unwrap(),
    }
}

impl Operation {
    /// Whether it affects a name below a directory.
    pub fn is_below(&self, directory: &Path) -> bool {
        [&self.path, &self.other].into_iter().any(|path| Path::new(path).starts_with(directory))
    }

    /// The kind of step, without numbers in names.
    pub fn kind(&self) -> String {
        let plain = |path: &str| -> String {
            let name = path.rsplit('/').take(2).collect::<Vec<_>>().join("<");
            let mut plain: String = name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            while plain.contains("00") {
                plain = plain.replace("00", "0");
            }
            plain
        };
        format!("{} {} {}", self.name, plain(&self.path), plain(&self.other))
    }
}
