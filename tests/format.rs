//! Repositories of every format version that ever existed remain readable.
//!
//! `tests/fixtures/repository/<version>` contains a small one of each version. To create one for a new version, run
//! `cargo test --test format -- --ignored` once; never change an existing one. Additions without a new version have a
//! sample under their own name.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use pgark::config::Compression;
use pgark::durable::RealDisk;
use pgark::postgres::backup::incremental::{IncrementalHeader, incremental_path};
use pgark::postgres::backup::manifest::{
    BackupManifestReader, BackupManifestWriter, ManifestFile, ManifestVersion, WalRange,
};
use pgark::postgres::{
    Lsn, Oid, RelativeBlockNumber, SegmentSize, SystemIdentifier, TimelineId, WalFileName, Xid,
};
use pgark::repository::backup::chain::{Chain, ChainEntry, ChainReader, ChainedFiles};
use pgark::repository::backup::file_set::{compare_with_postgres_manifest, open_postgres_manifest};
use pgark::repository::backup::framed::{FramedReader, FramedWriter};
use pgark::repository::backup::manifest::*;
use pgark::repository::backup::pack::{FinishedPack, PackOwner};
use pgark::repository::backup::{
    DirectoryEntry, FileForm, IndexEntry, IndexReader, IndexWriter, Label, PackWriter, StoredText, inventory,
    read_file,
};
use pgark::repository::wal::{self, PageCheck, WalSource};
use pgark::repository::{Repository, systems};
use pgark::store::DirectoryStore;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SYSTEM: u64 = 7_312_345_678_901_234_567;
const SEGMENT: SegmentSize = SegmentSize::new(1 << 20).unwrap();
const MODIFIED: i64 = 1_767_225_600;

fn fixtures(sample: impl Display) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/repository/{sample}"))
}

fn repository(root: &Path) -> Repository {
    let store = Arc::new(DirectoryStore::new(root.to_owned(), Arc::new(RealDisk)));
    Repository::new(store, "main", SystemIdentifier::new(SYSTEM).unwrap()).unwrap()
}

/// A segment as PostgreSQL 15 writes it, but only with its first page, followed by compressible bytes.
fn segment(number: u64) -> Vec<u8> {
    let mut bytes = vec![0_u8; 1 << 20];
    bytes[0..4].copy_from_slice(&[0x10, 0xD1, 0x02, 0x00]);
    bytes[4..8].copy_from_slice(&1_u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&(number << 20).to_le_bytes());
    bytes[24..32].copy_from_slice(&SYSTEM.to_le_bytes());
    bytes[32..36].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    bytes[36..40].copy_from_slice(&8192_u32.to_le_bytes());
    for (at, byte) in bytes.iter_mut().enumerate().skip(300_000).take(5000) {
        *byte = (at as u64 * number) as u8;
    }
    bytes
}

const HISTORY: &[u8] = b"1\t0/300148\tno recovery target specified\n";

/// Every kind of WAL file, each with another compression.
fn wal_files() -> Vec<(WalFileName, Vec<u8>, Compression)> {
    let name = |text: &str| text.parse().unwrap();
    vec![
        (name("000000010000000000000003"), segment(3), Compression::Lz4),
        (name("000000010000000000000004"), segment(4), Compression::Zstd { level: 1 }),
        (name("000000010000000000000005.partial"), segment(5), Compression::Zstd { level: 19 }),
        (name("00000002.history"), HISTORY.to_vec(), Compression::None),
        (
            name("000000010000000000000003.00000028.backup"),
            b"START WAL LOCATION: 0/300028 (file 000000010000000000000003)\n".to_vec(),
            Compression::Lz4,
        ),
    ]
}

/// The files of the backup: one of several frames, one that shares a frame, an empty one, and one in a tablespace.
fn files() -> Vec<(&'static [u8], Vec<u8>)> {
    vec![
        (b"PG_VERSION", b"15\n".to_vec()),
        (b"base/5/1259", (0..300_000_u32).map(|at| (at / 977) as u8).collect()),
        (b"base/5/2600", Vec::new()),
        (b"base/5/\xFFodd", b"a name that is not UTF-8".to_vec()),
        (b"pg_tblspc/16402/PG_15_202209061/5/16403", b"in a tablespace".to_vec()),
    ]
}

/// A page of a relation with arbitrary content.
fn page(seed: u8) -> Vec<u8> {
    (0..8192_u32).map(|at| (at / 61) as u8 ^ seed).collect()
}

/// The files of the full backup on which the incremental one builds: one that changes and one that does not.
fn parent_files() -> Vec<(&'static [u8], Vec<u8>)> {
    vec![
        (b"PG_VERSION", b"15\n".to_vec()),
        (b"base/5/1259", [page(1), page(2), page(3)].concat()),
        (b"base/5/2600", page(4)),
    ]
}

/// The restored content of the incremental backup: the second page is changed, the third is gone, one is new.
fn child_files() -> Vec<(&'static [u8], Vec<u8>)> {
    vec![
        (b"PG_VERSION", b"15\n".to_vec()),
        (b"base/5/1259", [page(1), page(9)].concat()),
        (b"base/5/2600", page(4)),
        (b"base/5/2600_vm", page(5)),
    ]
}

/// The stored content of the incremental backup.
fn stored_of_child() -> Vec<StoredFile> {
    let incremental = |length: u32, pages: Vec<u32>, content: &[u8]| {
        let pages = pages.into_iter().map(RelativeBlockNumber::new).collect();
        let header = IncrementalHeader::new(length, pages, 131_072).unwrap();
        (
            FileForm::Incremental { whole_bytes: u64::from(length) * 8192 },
            [&header.to_bytes(), content].concat(),
        )
    };
    child_files()
        .into_iter()
        .map(|(path, content)| {
            let (form, content) = match path {
                b"base/5/1259" => incremental(2, vec![1], &page(9)),
                b"base/5/2600" => incremental(1, vec![], b""),
                _ => (FileForm::Whole, content),
            };
            StoredFile { path, content, form }
        })
        .collect()
}

/// A file as stored in a pack.
struct StoredFile {
    path: &'static [u8],
    content: Vec<u8>,
    form: FileForm,
}

fn whole(files: Vec<(&'static [u8], Vec<u8>)>) -> Vec<StoredFile> {
    files.into_iter().map(|(path, content)| StoredFile { path, content, form: FileForm::Whole }).collect()
}

/// Version 2: a full backup, and an incremental one.
fn write_sample_of_2(root: &Path) {
    fs::create_dir_all(root).unwrap();
    let repository = repository(root);
    repository.make().unwrap();
    let parent =
        write_backup(&repository, "full", ("0/300028", "0/400100"), whole(parent_files()), None, None);
    let points = ("0/500028", "0/600100");
    write_backup(&repository, "incremental", points, stored_of_child(), Some(&parent), None);
    fs::remove_dir(root.join(".pgark-temporary")).unwrap();
}

fn wal_source(name: WalFileName, path: PathBuf) -> WalSource {
    WalSource { name, path, segment_size: SEGMENT, pages: PageCheck::FirstPage, disk: Arc::new(RealDisk) }
}

fn write_sample(root: &Path) {
    fs::create_dir_all(root).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let repository = repository(root);
    repository.make().unwrap();
    for (name, content, compression) in wal_files() {
        let path = scratch.path().join(name.to_string());
        fs::write(&path, content).unwrap();
        let source = wal_source(name, path);
        wal::put(&repository, &source, compression, scratch.path(), NonZeroUsize::MIN).unwrap();
    }
    write_backup(&repository, "sample", ("0/300028", "0/400100"), whole(files()), None, None);
    fs::remove_dir(root.join(".pgark-temporary")).unwrap();
}

fn write_backup(
    repository: &Repository,
    label: &str,
    points: (&str, &str),
    all: Vec<StoredFile>,
    parent: Option<&StoredBackup>,
    collations: Option<StoredCollations>,
) -> StoredBackup {
    let label: Label = label.parse().unwrap();
    let (store, layout) = (repository.store().as_ref(), repository.layout());
    let compression = Compression::Zstd { level: 1 };
    let owner = PackOwner { uid: 101, gid: 104 };
    let mut entries = vec![IndexEntry::Directory(DirectoryEntry {
        path: StoredText::new(&b"base"[..]),
        modified_unix_s: MODIFIED,
        mode: 0o700,
    })];
    let mut packs = Vec::new();
    let tablespaces = if all.iter().any(|file| file.path.starts_with(b"pg_tblspc/")) {
        vec![StoredTablespace {
            oid: Oid::new(16402),
            name: "fast".into(),
            path: Some(StoredText::new(&b"/mnt/fast"[..])),
        }]
    } else {
        Vec::new()
    };
    let roots = [None].into_iter().chain(tablespaces.iter().map(|tablespace| Some(tablespace.oid)));
    for (number, tablespace) in (1..).zip(roots) {
        let key = layout.backup_pack(&label, number).unwrap();
        let mut pack = PackWriter::create(store, &key, number, tablespace, compression, owner).unwrap();
        let prefix: &[u8] = if tablespace.is_some() { b"pg_tblspc/16402/" } else { b"" };
        if tablespace.is_none() {
            pack.add_directory(b"base", 0o700, MODIFIED).unwrap();
        }
        let mine = |path: &[u8]| path.starts_with(b"pg_tblspc/") == tablespace.is_some();
        for (at, file) in all.iter().enumerate().filter(|(_, file)| mine(file.path)) {
            let StoredFile { path, content, form } = file;
            let stored_path = match form {
                FileForm::Whole => path.to_vec(),
                FileForm::Incremental { .. } => incremental_path(path),
            };
            pack.begin_file(at, &stored_path[prefix.len()..], content.len() as u64, 0o600, MODIFIED).unwrap();
            if let FileForm::Incremental { whole_bytes } = form {
                pack.is_incremental(*whole_bytes);
            }
            pack.write(content).unwrap();
            pack.end_file().unwrap();
        }
        let FinishedPack { pack, files: placed } = pack.finish().unwrap();
        packs.push(pack);
        entries.extend(
            placed
                .iter()
                .map(|placed| IndexEntry::File(placed.entry(StoredText::new(all[placed.number].path)))),
        );
    }
    entries.sort_by(|a, b| a.path().as_bytes().cmp(b.path().as_bytes()));
    let index = layout.backup_index(&label).unwrap();
    let mut index = match parent {
        None => IndexWriter::create(store, &index, compression).unwrap(),
        Some(_) => IndexWriter::create_incremental(store, &index, compression).unwrap(),
    };
    let whole_bytes = entries.iter().map(|entry| match entry {
        IndexEntry::File(file) => file.whole_bytes(),
        IndexEntry::Directory(_) => 0,
    });
    let whole_bytes = whole_bytes.sum();
    let manifest =
        FramedWriter::create(store, &layout.postgres_manifest(&label).unwrap(), compression).unwrap();
    let mut manifest = BackupManifestWriter::new(manifest, ManifestVersion::One).unwrap();
    for entry in &entries {
        index.add(entry).unwrap();
        if let IndexEntry::File(file) = entry {
            manifest
                .add_file(&ManifestFile {
                    path: file.stored_path(),
                    size_bytes: file.bytes,
                    modified_unix_s: file.modified_unix_s,
                    crc32c: Some(file.crc32c),
                })
                .unwrap();
        }
    }
    let (start, stop): (Lsn, Lsn) = (points.0.parse().unwrap(), points.1.parse().unwrap());
    let range = WalRange { timeline: TimelineId::FIRST, start, end: stop };
    let postgres_manifest = manifest.finish(&[range]).unwrap().finish().unwrap();
    let point = |lsn, time: &str| BackupPoint {
        time: time.parse().unwrap(),
        lsn,
        timeline: TimelineId::FIRST,
        snapshot: Some("730:730:".into()),
    };
    let kind = parent.map_or(BackupKind::Full, |parent| BackupKind::Incremental(parent.link()));
    let tablespace_map = (!tablespaces.is_empty()).then(|| StoredText::new(&b"16402 /mnt/fast\n"[..]));
    let backup = StoredBackup {
        version: StoredBackup::version_of(&kind),
        label,
        kind,
        created_by: "pgark 0.1.0".into(),
        cluster: "main".into(),
        system_identifier: SystemIdentifier::new(SYSTEM).unwrap(),
        server: StoredServer {
            version_num: 150_014,
            catalog_version: 202_209_061,
            assumed_version: None,
            wal_segment_bytes: 1 << 20,
            page_bytes: 8192,
            pages_per_file: 131_072,
            data_checksums: true,
            wal_level: "replica".into(),
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
        },
        from_standby: false,
        start: point(start, "2026-01-15T14:30:00Z"),
        stop: point(stop, "2026-01-15T14:31:00.25Z"),
        wal_ranges: vec![StoredWalRange { timeline: TimelineId::FIRST, start, end: stop }],
        timeline_history: Vec::new(),
        databases: vec![StoredDatabase {
            oid: Oid::new(5),
            name: "postgres".into(),
            tablespace: Oid::PG_DEFAULT,
            xmin: Xid::new(1),
        }],
        tablespaces,
        collations,
        settings: BTreeMap::from([("full_page_writes".to_owned(), "on".to_owned())]),
        configuration_files: Vec::new(),
        backup_label: StoredText::new(&b"START WAL LOCATION: 0/300028 (file 000000010000000000000003)\n"[..]),
        tablespace_map,
        totals: BackupTotals {
            files: all.len() as u64,
            directories: 1,
            file_bytes: all.iter().map(|file| file.content.len() as u64).sum(),
            whole_bytes: parent.map(|_| whole_bytes),
            stored_bytes: packs.iter().map(|pack| pack.stored_bytes).sum(),
        },
        packs,
        index: index.finish().unwrap(),
        postgres_manifest,
        damaged_pages: DamagedPages::default(),
    };
    backup.publish(repository).unwrap();
    backup
}

/// All fields about collations that a manifest can have.
fn collations() -> StoredCollations {
    let recorded = |provider: &str, version: &str| RecordedCollation {
        provider: provider.to_owned(),
        version: version.to_owned(),
    };
    StoredCollations {
        libc_version: Some("2.36".to_owned()),
        icu_version: Some("153.120".to_owned()),
        databases: BTreeMap::from([("postgres".to_owned(), "2.31".to_owned())]),
        recorded: vec![recorded("c", "2.31"), recorded("i", "153.120")],
    }
}

fn write_sample_of_collations(root: &Path) {
    fs::create_dir_all(root).unwrap();
    let repository = repository(root);
    repository.make().unwrap();
    let points = ("0/300028", "0/400100");
    write_backup(&repository, "sample", points, whole(parent_files()), None, Some(collations()));
    fs::remove_dir(root.join(".pgark-temporary")).unwrap();
}

fn read_sample_of_collations(root: &Path) {
    let repository = repository(root);
    repository.check().unwrap();
    let backups = inventory::read_all(&repository).unwrap();
    let read: Vec<_> = backups.iter().map(|backup| (backup.version, backup.collations.clone())).collect();
    assert_eq!(read, [(1, Some(collations()))]);
}

/// Two partial segments of the same name, with their stored names.
fn partial_segments() -> [(WalFileName, Vec<u8>); 2] {
    let mut other = segment(5);
    other[500_000] = 1;
    [
        ("000000010000000000000005.partial".parse().unwrap(), segment(5)),
        ("000000010000000000000005.partial.d9d76cb16977cf3a".parse().unwrap(), other),
    ]
}

fn write_sample_of_partial_segments(root: &Path) {
    fs::create_dir_all(root).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let repository = repository(root);
    repository.make().unwrap();
    let name = partial_segments()[0].0;
    let path = scratch.path().join(name.to_string());
    for (stored_name, content) in partial_segments() {
        fs::write(&path, content).unwrap();
        let source = wal_source(name, path.clone());
        let zstd = Compression::Zstd { level: 19 };
        let stored = wal::put(&repository, &source, zstd, scratch.path(), NonZeroUsize::MIN).unwrap();
        assert_eq!(stored.name, stored_name);
    }
    fs::remove_dir(root.join(".pgark-temporary")).unwrap();
}

fn read_sample_of_partial_segments(root: &Path) {
    let repository = repository(root);
    repository.check().unwrap();
    for (name, content) in partial_segments() {
        let mut read = Vec::new();
        wal::fetch(&repository, name, Some(SEGMENT), &mut read).unwrap().expect("it is there");
        assert!(read == content, "{name}");
    }
    let partials = wal::timeline_files(&repository, TimelineId::FIRST).unwrap().partials;
    assert_eq!(partials, partial_segments().map(|(name, _)| name));
}

/// Reads the full and the incremental backup of version 2 through their chain.
fn read_sample_of_2(root: &Path) {
    let repository = repository(root);
    repository.check().unwrap();
    let backups = inventory::read_all(&repository).unwrap();
    let versions: Vec<_> = backups.iter().map(|backup| (backup.label.as_str(), backup.version)).collect();
    assert_eq!(versions, [("full", 1), ("incremental", 2)]);
    for (backup, expected) in backups.iter().zip([parent_files(), child_files()]) {
        let chain = Chain::of(backup, &backups).unwrap();
        let mut files = ChainedFiles::open(&repository, &chain).unwrap();
        let mut reader = ChainReader::new(&repository, &chain);
        let mut read = Vec::new();
        while let Some(entry) = files.next_entry().unwrap() {
            let ChainEntry::File(file) = entry else { continue };
            let mut content = Vec::new();
            let crc32c = reader.read_file(&file, &mut |bytes| {
                content.extend_from_slice(bytes);
                Ok(())
            });
            assert_eq!(crc32c.unwrap(), crc32c::crc32c(&content));
            assert_eq!(file.bytes, content.len() as u64);
            read.push((file.path.as_bytes().to_vec(), content));
        }
        let expected: Vec<_> = expected.into_iter().map(|(path, content)| (path.to_vec(), content)).collect();
        assert!(read == expected, "{}", backup.label);
        for (member, sum) in chain.members().zip(files.sums()) {
            let manifest = open_postgres_manifest(&repository, member).unwrap();
            compare_with_postgres_manifest(&repository, member, sum, manifest).unwrap();
        }
    }
}

/// Reads a whole repository and compares it with the original content.
fn read_sample(root: &Path) {
    let repository = repository(root);
    repository.check().unwrap();
    assert_eq!(systems(repository.store().as_ref(), "main").unwrap().len(), 1);
    for (name, content, _) in wal_files() {
        let mut read = Vec::new();
        let fetched = wal::fetch(&repository, name, Some(SEGMENT), &mut read).unwrap().expect("it is there");
        assert!(read == content && fetched.sum.length_bytes == content.len() as u64, "{name}");
    }
    let backups = inventory::read_all(&repository).unwrap();
    let [backup] = backups.as_slice() else { panic!("one backup, not {}", backups.len()) };
    assert_eq!((backup.stop.lsn.to_string(), backup.totals.files), ("0/400100".to_owned(), 5));
    let (store, layout) = (repository.store().as_ref(), repository.layout());
    let mut index = IndexReader::open(store, &layout.backup_index(&backup.label).unwrap(), backup.index)
        .unwrap()
        .unwrap();
    let mut read = BTreeMap::new();
    while let Some(entry) = index.next_entry().unwrap() {
        let IndexEntry::File(file) = entry else { continue };
        let mut content = Vec::new();
        let pack = layout.backup_pack(&backup.label, file.place.pack).unwrap();
        read_file(store, &pack, &file, &mut |bytes| {
            content.extend_from_slice(bytes);
            Ok(())
        })
        .unwrap();
        read.insert(file.path.as_bytes().to_vec(), content);
    }
    let expected: BTreeMap<_, _> =
        files().into_iter().map(|(path, content)| (path.to_vec(), content)).collect();
    assert!(read == expected, "{:?}", read.keys());
    let manifest = layout.postgres_manifest(&backup.label).unwrap();
    let manifest = FramedReader::open(store, &manifest, backup.postgres_manifest).unwrap().unwrap();
    let mut manifest = BackupManifestReader::new(manifest).unwrap();
    let mut listed = 0;
    while manifest.next_file().unwrap().is_some() {
        listed += 1;
    }
    assert_eq!((listed, manifest.finish().unwrap().len()), (5, 1));
}

#[test]
fn repositories_of_every_version_are_read() {
    assert_eq!(StoredBackup::VERSION, 2, "a new version needs a sample of its own, and a line here");
    read_sample(&fixtures(1));
    read_sample_of_2(&fixtures(2));
    read_sample_of_partial_segments(&fixtures("partial-segments"));
    read_sample_of_collations(&fixtures("collations"));
}

#[test]
fn what_is_written_today_is_read_today() {
    let scratch = tempfile::tempdir().unwrap();
    write_sample(scratch.path());
    read_sample(scratch.path());
    let scratch = tempfile::tempdir().unwrap();
    write_sample_of_2(scratch.path());
    read_sample_of_2(scratch.path());
    let scratch = tempfile::tempdir().unwrap();
    write_sample_of_partial_segments(scratch.path());
    read_sample_of_partial_segments(scratch.path());
    let scratch = tempfile::tempdir().unwrap();
    write_sample_of_collations(scratch.path());
    read_sample_of_collations(scratch.path());
}

#[test]
#[ignore = "writes the sample of a new version, once"]
fn write_the_sample_of_this_version() {
    let root = fixtures(StoredBackup::VERSION);
    assert!(!root.exists(), "samples are never changed");
    write_sample_of_2(&root);
}

#[test]
#[ignore = "writes the sample of partial segments, once"]
fn write_the_sample_of_partial_segments() {
    let root = fixtures("partial-segments");
    assert!(!root.exists(), "samples are never changed");
    write_sample_of_partial_segments(&root);
}

#[test]
#[ignore = "writes the sample of the versions of collations, once"]
fn write_the_sample_of_collations() {
    let root = fixtures("collations");
    assert!(!root.exists(), "samples are never changed");
    write_sample_of_collations(&root);
}
