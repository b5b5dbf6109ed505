//! Writes a backup manifest, file by file.

use super::{ManifestFile, ManifestVersion, WalRange};
use crate::error::{Context, Error, Result};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::Write;

/// Writes a backup manifest. Holds one line in memory.
///
/// The output is not a valid manifest before [`finish`](BackupManifestWriter::finish) has returned.
pub struct BackupManifestWriter<W> {
    output: W,
    hash: Sha256,
    line: String,
    files: u64,
}

impl<W: Write> BackupManifestWriter<W> {
    /// Begins a manifest in `output`, which should be buffered.
    ///
    /// # Errors
    /// Those of `output`, for all functions.
    pub fn new(output: W, version: ManifestVersion) -> Result<BackupManifestWriter<W>> {
        let mut writer = BackupManifestWriter { output, hash: Sha256::new(), line: String::new(), files: 0 };
        let number = match version {
            ManifestVersion::One => 1,
            ManifestVersion::Two(_) => 2,
        };
        writer.append(&format!("{{ \"PostgreSQL-Backup-Manifest-Version\": {number},\n"))?;
        if let ManifestVersion::Two(system) = version {
            writer.append(&format!("\"System-Identifier\": {system},\n"))?;
        }
        writer.append("\"Files\": [")?;
        Ok(writer)
    }

    /// Adds one file.
    pub fn add_file(&mut self, file: &ManifestFile<'_>) -> Result<()> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        line.push_str(if self.files == 0 { "\n" } else { ",\n" });
        push_file(&mut line, file)?;
        self.files += 1;
        let appended = self.append(&line);
        self.line = line;
        appended
    }

    /// Adds the required WAL ranges, newest timeline first, and the checksum; returns `output`, flushed.
    pub fn finish(mut self, ranges: &[WalRange]) -> Result<W> {
        self.append("\n],\n\"WAL-Ranges\": [\n")?;
        for (index, range) in ranges.iter().enumerate() {
            self.append(&format!(
                "{}{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}",
                if index == 0 { "" } else { ",\n" },
                range.timeline,
                range.start,
                range.end
            ))?;
        }
        self.append("\n],\n")?;
        let mut last_line = String::from("\"Manifest-Checksum\": \"");
        push_hex(&mut last_line, &self.hash.finalize());
        last_line.push_str("\"}\n");
        self.output.write_all(last_line.as_bytes()).context(failed)?;
        self.output.flush().context(failed)?;
        Ok(self.output)
    }

    fn append(&mut self, text: &str) -> Result<()> {
        self.hash.update(text.as_bytes());
        self.output.write_all(text.as_bytes()).context(failed)
    }
}

fn failed() -> &'static str {
    "could not write the backup manifest"
}

fn push_file(line: &mut String, file: &ManifestFile<'_>) -> Result<()> {
    match std::str::from_utf8(&file.path) {
        Ok(path) => {
            let quoted =
                serde_json::to_string(path).map_err(|cause| Error::unavailable(failed()).caused_by(cause))?;
            line.push_str("{ \"Path\": ");
            line.push_str(&quoted);
        }
        Err(_) => {
            line.push_str("{ \"Encoded-Path\": \"");
            push_hex(line, &file.path);
            line.push('"');
        }
    }
    // A time outside the calendar's range is an error of the file system; PostgreSQL's tools ignore this field.
    let modified = jiff::Timestamp::from_second(file.modified_unix_s).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let modified = modified.strftime("%Y-%m-%d %H:%M:%S GMT");
    // Writing to a string cannot fail.
    let _ = write!(line, ", \"Size\": {}, \"Last-Modified\": \"{modified}\"", file.size_bytes);
    if let Some(checksum) = file.crc32c {
        line.push_str(", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"");
        // PostgreSQL prints the bytes of the checksum in their order in little-endian memory.
        push_hex(line, &checksum.to_le_bytes());
        line.push('"');
    }
    line.push_str(" }");
    Ok(())
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
}
