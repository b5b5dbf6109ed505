//! The parent of a streamed incremental backup.

use crate::backup::increment::summaries::Summaries;
use crate::repository::backup::Chain;

/// The parent of the incremental backup that is being received.
pub struct BuiltOn {
    /// The parent, with its ancestors.
    pub chain: Chain,
    /// The content of the server's WAL summaries.
    pub summaries: Summaries,
}
