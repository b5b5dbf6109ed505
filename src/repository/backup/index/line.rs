//! One line of the index.

use super::{DirectoryEntry, FileEntry, FileForm, FilePlace, IndexEntry};
use crate::repository::backup::text::{StoredText, bytes_of_hex, hex_of};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The fields of all kinds of lines, in the order of writing.
#[derive(Serialize, Deserialize)]
pub(super) struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<StoredText>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modified_unix_s: Option<i64>,
    /// Four octal digits.
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    mode: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    whole_bytes: Option<u64>,
    /// As in PostgreSQL's backup manifest: the bytes in little-endian order.
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    crc32c: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pack: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame_offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skip_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_bytes: Option<u64>,
}

/// The meaning of a line.
pub(super) enum LineContent {
    Entry(IndexEntry),
    End { entries: u64, bytes: u64 },
}

impl Line<'_> {
    pub(super) fn of(entry: &IndexEntry) -> Line<'static> {
        match entry {
            IndexEntry::Directory(directory) => Line {
                path: Some(directory.path.clone()),
                modified_unix_s: Some(directory.modified_unix_s),
                mode: Some(Cow::Owned(format!("{:04o}", directory.mode))),
                ..Line::empty("directory")
            },
            IndexEntry::File(file) => Line {
                path: Some(file.path.clone()),
                modified_unix_s: Some(file.modified_unix_s),
                mode: Some(Cow::Owned(format!("{:04o}", file.mode))),
                bytes: Some(file.bytes),
                whole_bytes: match file.form {
                    FileForm::Whole => None,
                    FileForm::Incremental { whole_bytes } => Some(whole_bytes),
                },
                crc32c: Some(Cow::Owned(hex_of(&file.crc32c.to_le_bytes()))),
                pack: Some(file.place.pack),
                frame_offset: Some(file.place.frame_offset),
                skip_bytes: Some(file.place.skip_bytes),
                stored_bytes: Some(file.place.stored_bytes),
                ..Line::empty(match file.form {
                    FileForm::Whole => "file",
                    FileForm::Incremental { .. } => "incremental",
                })
            },
        }
    }

    pub(super) fn end(entries: u64, bytes: u64) -> Line<'static> {
        Line { entries: Some(entries), bytes: Some(bytes), ..Line::empty("end") }
    }

    fn empty(kind: &'static str) -> Line<'static> {
        Line {
            path: None,
            kind: Cow::Borrowed(kind),
            modified_unix_s: None,
            mode: None,
            entries: None,
            bytes: None,
            whole_bytes: None,
            crc32c: None,
            pack: None,
            frame_offset: None,
            skip_bytes: None,
            stored_bytes: None,
        }
    }

    /// Interprets the line; `None` if a field is missing or invalid. Ignores unknown fields, which a later version may
    /// add.
    pub(super) fn read(self) -> Option<LineContent> {
        match self.kind.as_ref() {
            "directory" => Some(LineContent::Entry(IndexEntry::Directory(DirectoryEntry {
                mode: permissions(&self.mode?)?,
                path: self.path?,
                modified_unix_s: self.modified_unix_s?,
            }))),
            kind @ ("file" | "incremental") => Some(LineContent::Entry(IndexEntry::File(FileEntry {
                form: match kind {
                    "file" => FileForm::Whole,
                    _ => FileForm::Incremental { whole_bytes: self.whole_bytes? },
                },
                mode: permissions(&self.mode?)?,
                path: self.path?,
                bytes: self.bytes?,
                modified_unix_s: self.modified_unix_s?,
                crc32c: u32::from_le_bytes(bytes_of_hex(&self.crc32c?)?.try_into().ok()?),
                place: FilePlace {
                    pack: self.pack.filter(|pack| *pack > 0)?,
                    frame_offset: self.frame_offset?,
                    skip_bytes: self.skip_bytes?,
                    stored_bytes: self.stored_bytes?,
                },
            }))),
            "end" => Some(LineContent::End { entries: self.entries?, bytes: self.bytes? }),
            _ => None,
        }
    }
}

fn permissions(text: &str) -> Option<u32> {
    let well_formed = text.len() == 4 && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    if well_formed { u32::from_str_radix(text, 8).ok() } else { None }
}
