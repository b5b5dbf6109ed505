//! How a service was found to behave.

use serde::{Deserialize, Serialize};

/// The content of `store-probe.json`. Fields that a later version adds are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceBehavior {
    /// The version of this format.
    pub version: u32,
    /// Whether `If-None-Match: *` prevents a put from overwriting.
    pub refuses_second_put: bool,
    /// The same for the end of a multipart upload.
    pub refuses_second_upload: bool,
    /// The checksum that the service compares with the content.
    pub check: ContentCheck,
    /// Whether it also compares a CRC-32 of a whole multipart upload.
    pub checks_whole_upload: bool,
    /// Whether it reports the CRC-32 of what it has stored.
    pub answers_checksum: bool,
    /// The modes of object lock that were found to be effective.
    #[serde(default)]
    pub locks: Vec<String>,
    /// The program that tested the service.
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
