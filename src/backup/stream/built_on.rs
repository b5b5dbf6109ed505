//! What a streamed incremental backup builds on.

use crate::backup::summaries::Summaries;
use crate::repository::backup::Chain;

/// What the backup that is being received builds on.
pub struct BuiltOn {
    /// The parent, with its ancestors.
    pub chain: Chain,
    /// What the server's WAL summaries say.
    pub summaries: Summaries,
}
