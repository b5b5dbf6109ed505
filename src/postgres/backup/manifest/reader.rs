//! Reads a backup manifest, file by file.

use super::{ManifestFile, ManifestVersion, WalRange};
use crate::error::{Context, Error, Result};
use crate::postgres::value::lsn::Lsn;
use crate::postgres::value::system_identifier::SystemIdentifier;
use crate::postgres::value::timeline::TimelineId;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::io::{BufRead, Read};

/// Upper limit for the length of a line, in bytes: a path of `MAXPGPATH` (1024) bytes with every byte escaped, and as
/// much again for the other fields.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// Upper limit for the number of WAL ranges; a backup rarely spans two timelines.
const WAL_RANGES_MAX: usize = 10_000;

/// Reads a backup manifest as written by PostgreSQL and [`BackupManifestWriter`](super::BackupManifestWriter), one file
/// per line. Holds one line in memory.
///
/// Do not rely on the files before [`finish`](BackupManifestReader::finish) has verified the checksum at the end.
pub struct BackupManifestReader<R> {
    lines: Lines<R>,
    version: ManifestVersion,
    files_ended: bool,
}

impl<R: BufRead> BackupManifestReader<R> {
    /// Reads the beginning of a manifest.
    ///
    /// # Errors
    /// For all functions: [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if the input is not a valid
    /// manifest; those of `input`.
    pub fn new(input: R) -> Result<BackupManifestReader<R>> {
        let mut lines = Lines { input, hash: Sha256::new(), line: Vec::new(), number: 0 };
        let version = match lines.value_of("{ \"PostgreSQL-Backup-Manifest-Version\":")? {
            1 => ManifestVersion::One,
            2 => {
                let system = lines.value_of("\"System-Identifier\":")?;
                let system = SystemIdentifier::new(system);
                ManifestVersion::Two(system.ok_or_else(|| lines.damaged("has system identifier 0"))?)
            }
            other => return Err(lines.damaged(&format!("has the unknown version {other}"))),
        };
        lines.expect("\"Files\": [")?;
        Ok(BackupManifestReader { lines, version, files_ended: false })
    }

    /// The version of the format and, from version 2 on, the system identifier.
    pub fn version(&self) -> ManifestVersion {
        self.version
    }

    /// The next file; `None` after the last one.
    pub fn next_file(&mut self) -> Result<Option<ManifestFile<'static>>> {
        if self.files_ended {
            return Ok(None);
        }
        if !self.lines.read_element()? {
            self.files_ended = true;
            return Ok(None);
        }
        let file: FileLine<'_> = self.lines.element("file")?;
        file.read().map(Some).map_err(|why| self.lines.damaged(why))
    }

    /// Reads the rest and verifies the manifest's checksum; returns the required WAL ranges, newest timeline first.
    pub fn finish(mut self) -> Result<Vec<WalRange>> {
        while self.next_file()?.is_some() {}
        let mut ranges = Vec::new();
        self.lines.expect("\"WAL-Ranges\": [")?;
        while self.lines.read_element()? {
            let range: WalRangeLine = self.lines.element("WAL range")?;
            if ranges.len() == WAL_RANGES_MAX {
                return Err(self.lines.damaged("has too many WAL ranges"));
            }
            ranges.push(WalRange { timeline: range.timeline, start: range.start, end: range.end });
        }
        let computed = self.lines.hash.clone().finalize();
        self.lines.read()?;
        let stored = self
            .lines
            .line
            .strip_prefix(b"\"Manifest-Checksum\": \"")
            .and_then(|rest| rest.strip_suffix(b"\"}"))
            .and_then(bytes_of_hex);
        let at_end = self.lines.input.fill_buf().context(failed)?.is_empty();
        match stored {
            None => Err(self.lines.damaged("does not end in its checksum")),
            Some(stored) if stored != computed.as_slice() => {
                Err(self.lines.damaged("does not match its checksum"))
            }
            Some(_) if !at_end => Err(self.lines.damaged("has data after its checksum")),
            Some(_) => Ok(ranges),
        }
    }
}

/// The lines of the input, limited in length, with the checksum of those read so far.
struct Lines<R> {
    input: R,
    hash: Sha256,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Reads the next line into `line`, without its line feed.
    fn read(&mut self) -> Result<()> {
        self.line.clear();
        self.number += 1;
        let mut input = self.input.by_ref().take(LINE_BYTES_MAX);
        input.read_until(b'\n', &mut self.line).context(failed)?;
        if self.line.last() != Some(&b'\n') {
            let why = if input.limit() == 0 { "has an overlong line" } else { "is truncated" };
            return Err(self.damaged(why));
        }
        self.hash.update(&self.line);
        self.line.pop();
        Ok(())
    }

    /// Reads the next element of a list, without its trailing comma; returns false at the line that ends the list.
    fn read_element(&mut self) -> Result<bool> {
        self.read()?;
        if self.line.is_empty() {
            // An empty list of WAL ranges contains an empty line.
            self.read()?;
        }
        if self.line == b"]," {
            return Ok(false);
        }
        self.line.pop_if(|last| *last == b',');
        Ok(true)
    }

    /// Parses the current element; `what` describes it in errors.
    fn element<'a, T: serde::Deserialize<'a>>(&'a self, what: &str) -> Result<T> {
        serde_json::from_slice(&self.line).map_err(|cause| {
            Error::damaged(format!("backup manifest names no {what} in line {}", self.number))
                .caused_by(cause)
        })
    }

    fn expect(&mut self, expected: &str) -> Result<()> {
        self.read()?;
        if self.line == expected.as_bytes() {
            Ok(())
        } else {
            Err(self.damaged(&format!("does not contain {expected}")))
        }
    }

    /// Parses the number in a line `<name> <number>,`.
    fn value_of(&mut self, name: &str) -> Result<u64> {
        self.read()?;
        let value = std::str::from_utf8(&self.line)
            .ok()
            .and_then(|line| line.strip_prefix(name)?.strip_suffix(',')?.trim_start().parse().ok());
        value.ok_or_else(|| self.damaged(&format!("does not contain {name}")))
    }

    fn damaged(&self, why: &str) -> Error {
        Error::damaged(format!("backup manifest {why} (line {})", self.number))
    }
}

fn failed() -> &'static str {
    "could not read the backup manifest"
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct FileLine<'a> {
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(rename = "Encoded-Path", borrow)]
    encoded_path: Option<Cow<'a, str>>,
    size: u64,
    #[serde(rename = "Last-Modified", borrow)]
    last_modified: Cow<'a, str>,
    #[serde(rename = "Checksum-Algorithm", borrow)]
    checksum_algorithm: Option<Cow<'a, str>>,
    #[serde(borrow)]
    checksum: Option<Cow<'a, str>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WalRangeLine {
    #[serde(rename = "Timeline")]
    timeline: TimelineId,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

impl FileLine<'_> {
    fn read(self) -> std::result::Result<ManifestFile<'static>, &'static str> {
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path.into_owned().into_bytes(),
            (None, Some(encoded)) => {
                bytes_of_hex(encoded.as_bytes()).ok_or("has an encoded path that is not hexadecimal")?
            }
            _ => return Err("has a file without exactly one path"),
        };
        let modified = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S GMT", self.last_modified.as_ref())
            .and_then(|modified| modified.to_zoned(jiff::tz::TimeZone::UTC))
            .map_err(|_| "has an invalid modification time")?;
        let crc32c = match (self.checksum_algorithm.as_deref(), self.checksum) {
            (None, None) => None,
            (Some("CRC32C"), Some(checksum)) => {
                let bytes = bytes_of_hex(checksum.as_bytes()).and_then(|bytes| bytes.try_into().ok());
                Some(u32::from_le_bytes(bytes.ok_or("has a checksum that is not four bytes")?))
            }
            _ => return Err("has a checksum other than CRC32C"),
        };
        Ok(ManifestFile {
            path: Cow::Owned(path),
            size_bytes: self.size,
            modified_unix_s: modified.timestamp().as_second(),
            crc32c,
        })
    }
}

fn bytes_of_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    rest.is_empty()
        .then(|| {
            pairs.iter().map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()).collect()
        })
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::super::BackupManifestWriter;
    use super::*;
    use crate::error::ErrorKind;

    /// Manifests written by `pg_basebackup` 15 (version 1) and 17 (version 2), each with one path that is not UTF-8 and
    /// one that consists of characters that JSON escapes.
    const SAMPLES: [&[u8]; 2] = [
        include_bytes!("../../../../tests/fixtures/postgres/15/backup_manifest.zst"),
        include_bytes!("../../../../tests/fixtures/postgres/17/backup_manifest.zst"),
    ];

    fn sample(index: usize) -> Vec<u8> {
        zstd::decode_all(SAMPLES[index]).unwrap()
    }

    /// Reads a manifest and writes it again.
    fn written_again(manifest: &[u8]) -> Result<Vec<u8>> {
        let mut reader = BackupManifestReader::new(manifest)?;
        let mut writer = BackupManifestWriter::new(Vec::new(), reader.version())?;
        while let Some(file) = reader.next_file()? {
            writer.add_file(&file)?;
        }
        writer.finish(&reader.finish()?)
    }

    #[test]
    fn reads_and_writes_what_postgresql_writes_byte_for_byte() {
        for index in 0..SAMPLES.len() {
            let manifest = sample(index);
            assert!(written_again(&manifest).unwrap() == manifest);
        }
    }

    #[test]
    fn finds_files_and_wal() {
        let manifest = sample(1);
        let mut reader = BackupManifestReader::new(&manifest[..]).unwrap();
        assert_eq!(
            reader.version(),
            ManifestVersion::Two(SystemIdentifier::new(7_710_303_529_214_066_411).unwrap())
        );
        let mut files = Vec::new();
        while let Some(file) = reader.next_file().unwrap() {
            files.push(file);
        }
        assert!(files.iter().any(|file| *file.path == b"b\xff\xfead"[..]));
        assert!(files.iter().any(|file| *file.path == *"we\"ird\\\n\tname\x7f\x01é".as_bytes()));
        let version_file = files.iter().find(|file| *file.path == b"PG_VERSION"[..]).unwrap();
        assert_eq!(version_file.size_bytes, 3);
        assert_eq!(version_file.crc32c, Some(crc32c::crc32c(b"17\n")));
        assert_eq!(
            reader.finish().unwrap(),
            [WalRange {
                timeline: TimelineId::FIRST,
                start: "0/1300028".parse().unwrap(),
                end: "0/1300120".parse().unwrap()
            }]
        );
    }

    #[test]
    fn an_empty_manifest_round_trips() {
        let manifest =
            BackupManifestWriter::new(Vec::new(), ManifestVersion::One).unwrap().finish(&[]).unwrap();
        assert_eq!(written_again(&manifest).unwrap(), manifest);
        assert!(manifest.starts_with(b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n],\n"));
    }

    #[test]
    fn notices_every_change() {
        let file = ManifestFile {
            path: Cow::Borrowed(b"base/1/2"),
            size_bytes: 8192,
            modified_unix_s: 1_767_225_600,
            crc32c: Some(1),
        };
        let range = WalRange {
            timeline: TimelineId::FIRST,
            start: "0/1".parse().unwrap(),
            end: "0/2".parse().unwrap(),
        };
        let mut writer = BackupManifestWriter::new(Vec::new(), ManifestVersion::One).unwrap();
        writer.add_file(&file).unwrap();
        let manifest = writer.finish(&[range]).unwrap();
        assert!(String::from_utf8_lossy(&manifest).contains(
            "{ \"Path\": \"base/1/2\", \"Size\": 8192, \"Last-Modified\": \"2026-01-01 00:00:00 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"01000000\" }\n"
        ));
        for bit in 0..manifest.len() * 8 {
            let mut changed = manifest.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // Hexadecimal digits may be in either case.
            if changed.eq_ignore_ascii_case(&manifest)
                && changed[bit / 8] != b'\n'
                && bit / 8 > manifest.len() - 67
            {
                continue;
            }
            assert_eq!(written_again(&changed).unwrap_err().kind(), ErrorKind::Damaged, "bit {bit}");
        }
        for length in 0..manifest.len() {
            assert_eq!(written_again(&manifest[..length]).unwrap_err().kind(), ErrorKind::Damaged);
        }
        assert!(written_again(&[&manifest[..], b"x"].concat()).is_err());
    }

    #[test]
    fn does_not_swallow_an_endless_line() {
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let error = BackupManifestReader::new(endless).err().unwrap();
        assert_eq!(error.to_string(), "backup manifest has an overlong line (line 1)");
    }

    #[test]
    fn writes_paths_and_times_as_they_come() {
        for (path, modified) in [(&b"\"\\\n\t\x01\x7f/\xc3\xa9"[..], 0), (b"\xff", i64::MAX), (b"", i64::MIN)]
        {
            let file = ManifestFile {
                path: Cow::Borrowed(path),
                size_bytes: u64::MAX,
                modified_unix_s: modified,
                crc32c: None,
            };
            let mut writer = BackupManifestWriter::new(Vec::new(), ManifestVersion::One).unwrap();
            writer.add_file(&file).unwrap();
            let manifest = writer.finish(&[]).unwrap();
            let mut reader = BackupManifestReader::new(&manifest[..]).unwrap();
            let read = reader.next_file().unwrap().unwrap();
            assert_eq!((read.path, read.size_bytes, read.crc32c), (file.path, u64::MAX, None));
            reader.finish().unwrap();
        }
    }
}
