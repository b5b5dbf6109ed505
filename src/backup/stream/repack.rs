//! Packs the data as the server sends it. Holds in memory one frame and the list entry of each file.

use super::base_backup::{BaseBackup, BaseBackupPart};
use super::built_on::BuiltOn;
use super::changes::IncrementalFile;
use super::sent::{SentFile, of_stream};
use crate::backup::copy::Copied;
use crate::backup::copy::last_pack::LastFile;
use crate::backup::files::exclusions::{self, Decision};
use crate::backup::files::{FileList, PlannedRelation, relation_at, split, tablespace_prefix};
use crate::backup::increment::leaves_out;
use crate::backup::parent::Build;
use crate::config::Compression;
use crate::error::{Context, Error, Result};
use crate::monitor::Monitor;
use crate::pace::Pace;
use crate::postgres::backup::incremental::whole_path;
use crate::postgres::page::PageChecksums;
use crate::repository::Repository;
use crate::repository::backup::file_set::FileSetSum;
use crate::repository::backup::pack::{FinishedPack, PackOwner, PackWriter, TARGET_RAW_BYTES};
use crate::repository::backup::{FileForm, Label};
use nix::unistd::{Gid, Uid};
use std::collections::HashMap;
use std::io::Read;
use tar::{Archive, EntryType};

/// Number of bytes read at a time: a frame.
const READ_BYTES: usize = crate::codec::FRAME_RAW_BYTES;

/// Upper limit for the size of a file kept until the end: `backup_label`, `tablespace_map`, `pg_control`.
const KEPT_BYTES_MAX: u64 = 1 << 20;

/// Root index of the data directory.
const DATA_DIRECTORY: usize = 0;

/// Where and how to pack.
pub struct Repacking<'a> {
    /// The destination repository.
    pub repository: &'a Repository,
    /// The backup.
    pub label: &'a Label,
    /// Version and build of the server.
    pub build: Build,
    /// The parent of an incremental backup; `None` for a full one.
    pub built_on: Option<&'a BuiltOn>,
    /// How packs are compressed.
    pub compression: Compression,
    /// Limits the rate of reception, and thereby the rate at which the server sends.
    pub pace: &'a Pace,
    /// Receives the progress.
    pub monitor: &'a dyn Monitor,
}

/// The packed content, and the files to be packed last.
pub struct Repacked {
    /// The listed files, in the order in which they were packed.
    pub files: FileList,
    /// The packs.
    pub copied: Copied,
    /// Sum of the files that the server sent, including those that pgark excludes from a backup.
    pub sent: FileSetSum,
    /// `backup_label`
    pub backup_label: Vec<u8>,
    /// `tablespace_map`; empty if there is none.
    pub tablespace_map: Vec<u8>,
    /// `global/pg_control`
    pub control_file: Option<LastFile>,
    /// Indexes of the directories by path.
    directories: HashMap<Vec<u8>, usize>,
    pack: Option<(usize, PackWriter)>,
}

impl Repacking<'_> {
    /// The initial state, with nothing packed.
    pub fn begin(&self) -> Repacked {
        let files = FileList::of_stream();
        Repacked {
            files,
            copied: Copied::default(),
            sent: FileSetSum::default(),
            backup_label: Vec::new(),
            tablespace_map: Vec::new(),
            control_file: None,
            directories: HashMap::from([(Vec::new(), DATA_DIRECTORY)]),
            pack: None,
        }
    }

    /// Packs an archive, the current part of `backup`.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if the content cannot belong to a base backup; those of
    /// the server and the store.
    pub fn archive(
        &self,
        backup: &mut BaseBackup<'_>,
        part: &BaseBackupPart,
        packed: &mut Repacked,
    ) -> Result<()> {
        let (root, prefix) = match part {
            BaseBackupPart::DataDirectory | BaseBackupPart::Manifest => (DATA_DIRECTORY, String::new()),
            // An in-place tablespace is part of the data directory.
            BaseBackupPart::Tablespace(oid, location) if !location.starts_with('/') => {
                packed.files.in_place_tablespaces.push(*oid);
                self.add_directory(packed, tablespace_prefix(*oid).trim_end_matches('/').into(), 0o700, 0)?;
                (DATA_DIRECTORY, tablespace_prefix(*oid))
            }
            BaseBackupPart::Tablespace(oid, location) => {
                (packed.files.add_tablespace(*oid, location.clone().into_bytes()), tablespace_prefix(*oid))
            }
        };
        let what = || "could not read the data sent by the server";
        let mut buffer = vec![0; READ_BYTES];
        let mut archive = Archive::new(backup);
        for entry in archive.entries().map_err(|error| of_stream(error, what()))? {
            let mut entry = entry.map_err(|error| of_stream(error, what()))?;
            let header = entry.header();
            let mode = header.mode().map_err(|error| of_stream(error, what()))? & 0o7777;
            let modified = header.mtime().map_err(|error| of_stream(error, what()))?;
            let modified_unix_s = i64::try_from(modified).unwrap_or_default();
            let kind = header.entry_type();
            let name = entry.path_bytes();
            let name = name.strip_prefix(b"./").unwrap_or(&name);
            let path = [prefix.as_bytes(), name.strip_suffix(b"/").unwrap_or(name)].concat();
            check_path(&path)?;
            match kind {
                EntryType::Directory => self.directory(packed, path, root, mode, modified_unix_s)?,
                EntryType::Regular => {
                    let file = SentFile { path, bytes: entry.size(), mode, modified_unix_s };
                    self.file(packed, root, &file, &mut entry, &mut buffer)?;
                }
                // The tablespace map describes tablespaces.
                EntryType::Symlink => {}
                other => {
                    return Err(Error::damaged(format!(
                        "the server sent \"{}\" as an entry of kind {other:?}",
                        String::from_utf8_lossy(&path)
                    )));
                }
            }
        }
        Ok(())
    }

    /// Finishes the last pack.
    ///
    /// # Errors
    /// Those of the store.
    pub fn end(&self, packed: &mut Repacked) -> Result<()> {
        packed.finish_pack()
    }

    /// Begins a pack.
    ///
    /// # Errors
    /// Those of the store.
    pub fn begin_pack(&self, packed: &Repacked, root: usize) -> Result<PackWriter> {
        let number = packed.copied.packs.len() as u32 + 1;
        let tablespace = packed.files.roots.get(root).and_then(|root| root.tablespace);
        let key = self.repository.layout().backup_pack(self.label, number)?;
        let owner = PackOwner { uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw() };
        PackWriter::create(
            self.repository.store().as_ref(),
            &key,
            number,
            tablespace,
            self.compression,
            owner,
        )
    }

    fn directory(
        &self,
        packed: &mut Repacked,
        path: Vec<u8>,
        root: usize,
        mode: u32,
        modified_unix_s: i64,
    ) -> Result<()> {
        if packed.directories.contains_key(&path) {
            return Ok(());
        }
        let in_pack = packed.files.path_in_pack(root, &path).to_vec();
        self.pack_for(packed, root, 0)?.add_directory(&in_pack, mode, modified_unix_s)?;
        let number = packed.files.add_directory(path.clone(), root, mode, modified_unix_s);
        packed.directories.insert(path, number);
        Ok(())
    }

    /// Adds a directory of the data directory that the server does not send.
    fn add_directory(
        &self,
        packed: &mut Repacked,
        path: Vec<u8>,
        mode: u32,
        modified_unix_s: i64,
    ) -> Result<()> {
        self.directory(packed, path, DATA_DIRECTORY, mode, modified_unix_s)
    }

    fn file(
        &self,
        packed: &mut Repacked,
        root: usize,
        file: &SentFile,
        content: &mut impl Read,
        buffer: &mut [u8],
    ) -> Result<()> {
        if let Some((path, relation)) = self.incremental(file) {
            return self.incremental_file(packed, root, file, (&path, relation), content);
        }
        let (parent, name) = split(&file.path);
        let decision = match relation_at(parent, name, self.build.version) {
            Some(relation) if self.built_on.is_some() && leaves_out(relation, self.checksums()) => {
                Decision::Skip
            }
            _ => exclusions::decide(parent, name, self.build.version),
        };
        let kept = match file.path.as_slice() {
            b"backup_label" => Some(&mut packed.backup_label),
            b"tablespace_map" => Some(&mut packed.tablespace_map),
            _ => None,
        };
        if let Some(kept) = kept {
            *kept = read_kept(file, content)?;
            let crc32c = crc32c::crc32c(kept);
            packed.sent.add(&file.path, file.bytes, crc32c);
            return Ok(());
        }
        match decision {
            Decision::CopyLast => {
                let kept = read_kept(file, content)?;
                packed.sent.add(&file.path, file.bytes, crc32c::crc32c(&kept));
                packed.control_file =
                    Some(LastFile::sent_control_file(kept, file.mode, file.modified_unix_s));
                return Ok(());
            }
            // For example standby.signal, which the server includes in its backups.
            Decision::Skip | Decision::KeepEmpty => {
                let mut crc32c = 0;
                each_piece(file, content, buffer, &mut |piece| {
                    crc32c = crc32c::crc32c_append(crc32c, piece);
                    Ok(())
                })?;
                packed.sent.add(&file.path, file.bytes, crc32c);
                return Ok(());
            }
            Decision::Copy => {}
        }
        let number = packed.add_file(&file.path, file.bytes)?;
        let in_pack = packed.files.path_in_pack(root, &file.path).to_vec();
        let pack = self.pack_for(packed, root, file.bytes)?;
        pack.begin_file(number, &in_pack, file.bytes, file.mode, file.modified_unix_s)?;
        each_piece(file, content, buffer, &mut |piece| {
            self.pace.take(piece.len() as u64);
            self.monitor.advance(piece.len() as u64);
            pack.write(piece)
        })?;
        pack.end_file()
    }

    fn checksums(&self) -> PageChecksums {
        if self.build.data_checksums { PageChecksums::On } else { PageChecksums::Off }
    }

    /// The path and relation of the complete file, if `file` is an incremental file.
    fn incremental(&self, file: &SentFile) -> Option<(Vec<u8>, PlannedRelation)> {
        self.built_on?;
        let path = whole_path(&file.path)?;
        let (parent, name) = split(&path);
        let relation = relation_at(parent, name, self.build.version)?;
        Some((path, relation))
    }

    fn incremental_file(
        &self,
        packed: &mut Repacked,
        root: usize,
        file: &SentFile,
        (path, relation): (&[u8], PlannedRelation),
        content: &mut impl Read,
    ) -> Result<()> {
        let built_on = self.built_on.ok_or_else(|| Error::damaged("there is no parent backup"))?;
        let pages_per_file = self.build.pages_per_file;
        let received = IncrementalFile::begin(content, file, relation, built_on, pages_per_file)?;
        let number = packed.add_file(path, file.bytes)?;
        let in_pack = packed.files.path_in_pack(root, &file.path).to_vec();
        let bytes = received.stored.file_bytes();
        let pack = self.pack_for(packed, root, bytes)?;
        pack.begin_file(number, &in_pack, bytes, file.mode, file.modified_unix_s)?;
        pack.is_incremental(received.whole_bytes());
        let crc32c = received.pack(pack, &mut |bytes| {
            self.pace.take(bytes);
            self.monitor.advance(bytes);
        })?;
        pack.end_file()?;
        packed.sent.add(&file.path, file.bytes, crc32c);
        Ok(())
    }

    /// Returns a pack of this root with room for `bytes` more.
    fn pack_for<'p>(&self, packed: &'p mut Repacked, root: usize, bytes: u64) -> Result<&'p mut PackWriter> {
        let fits = packed.pack.as_ref().is_some_and(|(open_root, pack)| {
            *open_root == root && pack.raw_bytes().saturating_add(bytes) <= TARGET_RAW_BYTES
        });
        if !fits {
            packed.finish_pack()?;
            let pack = self.begin_pack(packed, root)?;
            packed.pack = Some((root, pack));
        }
        match &mut packed.pack {
            Some((_, pack)) => Ok(pack),
            None => Err(Error::damaged("there is no pack to write to")),
        }
    }
}

impl Repacked {
    /// Adds a file to a listed directory; returns its index.
    fn add_file(&mut self, path: &[u8], bytes: u64) -> Result<usize> {
        let (parent, name) = split(path);
        let directory = self.directories.get(parent).copied().ok_or_else(|| {
            Error::damaged(format!(
                "the server sent \"{}\" before its directory",
                String::from_utf8_lossy(path)
            ))
        })?;
        self.files.add_file(directory, name, bytes)
    }

    fn finish_pack(&mut self) -> Result<()> {
        let Some((root, pack)) = self.pack.take() else { return Ok(()) };
        let FinishedPack { pack, files } = pack.finish()?;
        // For an incremental file the sum covers the content as sent, which may differ from the stored content.
        for file in files.iter().filter(|file| file.form == FileForm::Whole) {
            if let Some(planned) = self.files.files.get(file.number) {
                self.sent.add(&self.files.path_of(planned), file.bytes, file.crc32c);
            }
        }
        debug_assert!(root < self.files.roots.len());
        self.copied.packs.push(pack);
        self.copied.files.extend(files);
        Ok(())
    }
}

/// Passes the content of a file to `take`, piece by piece.
fn each_piece(
    file: &SentFile,
    content: &mut impl Read,
    buffer: &mut [u8],
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let what = || format!("could not receive \"{}\"", String::from_utf8_lossy(&file.path));
    let mut missing = file.bytes;
    while missing > 0 {
        let wanted = usize::try_from(missing).map_or(buffer.len(), |missing| missing.min(buffer.len()));
        let room = buffer.get_mut(..wanted).unwrap_or_default();
        content.read_exact(room).map_err(|error| of_stream(error, &what()))?;
        take(room)?;
        missing -= room.len() as u64;
    }
    Ok(())
}

fn read_kept(file: &SentFile, content: &mut impl Read) -> Result<Vec<u8>> {
    let what = || format!("could not receive \"{}\"", String::from_utf8_lossy(&file.path));
    if file.bytes > KEPT_BYTES_MAX {
        return Err(Error::damaged(format!("it has {} bytes", file.bytes))).context(what);
    }
    let mut kept = vec![0; file.bytes as usize];
    content.read_exact(&mut kept).map_err(|error| of_stream(error, &what()))?;
    Ok(kept)
}

/// Checks that a path has no upward components, although the server is trusted.
fn check_path(path: &[u8]) -> Result<()> {
    let bad = |part: &[u8]| part.is_empty() || part == b"." || part == b"..";
    if path.split(|byte| *byte == b'/').any(bad) {
        return Err(Error::damaged(format!("the server sent a file \"{}\"", String::from_utf8_lossy(path))));
    }
    Ok(())
}
