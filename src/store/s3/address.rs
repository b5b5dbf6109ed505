//! The address of a bucket.

/// The address of a bucket, for requests and messages.
#[derive(Clone, Debug)]
pub struct BucketAddress {
    pub bucket: String,
    /// Without a slash at either end.
    pub prefix: String,
    pub region: String,
    pub endpoint: Option<String>,
}

impl BucketAddress {
    /// `s3://bucket/prefix`.
    pub fn location(&self) -> String {
        match self.prefix.as_str() {
            "" => format!("s3://{}", self.bucket),
            prefix => format!("s3://{}/{prefix}", self.bucket),
        }
    }

    pub fn endpoint(&self) -> &str {
        self.endpoint.as_deref().unwrap_or("AWS")
    }

    /// The full key of a name within the store.
    pub fn full_key(&self, key: &str) -> String {
        match self.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }
}
