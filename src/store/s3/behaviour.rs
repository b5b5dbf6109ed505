//! What a service was found to do.

use serde::{Deserialize, Serialize};

/// The content of `store-probe.json`. Fields that a later version adds are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behaviour {
    /// Of the format.
    pub version: u32,
    /// Whether `If-None-Match: *` keeps a put from overwriting.
    pub refuses_second_put: bool,
    /// The same for the end of a multipart upload.
    pub refuses_second_upload: bool,
    /// Which checksum the service compares with the content.
    pub check: ContentCheck,
    /// Whether it compares a CRC-32 of the whole of a multipart upload, too.
    pub checks_whole_upload: bool,
    /// Whether it says what CRC-32 it has stored.
    pub answers_checksum: bool,
    /// The modes of object lock that were found to hold.
    #[serde(default)]
    pub locks: Vec<String>,
    /// The program that found it out.
    pub probed_by: String,
}

/// A checksum that a service compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentCheck {
    /// `x-amz-checksum-crc32`.
    Crc32,
    /// `Content-MD5`.
    Md5,
    /// None.
    Nothing,
}
