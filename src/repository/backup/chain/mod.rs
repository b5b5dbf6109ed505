//! Chains: an incremental backup and its ancestors, down to a full one, read as one backup.
//!
//! Owns: which backup each file and page comes from. Does not own: its use. A restore writes files, and a combination
//! packs.

mod files;
mod pages;

pub use files::{ChainEntry, ChainedFile, ChainedFiles, FilePart};
pub use pages::ChainReader;

use super::label::Label;
use super::manifest::StoredBackup;
use crate::error::{Error, Result};

/// The limit for following links. A longer chain is circular.
const MEMBERS_MAX: usize = 1000;

/// A backup and its ancestors, the newest first; the last one is full. A full backup is a chain by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    newest: StoredBackup,
    ancestors: Vec<StoredBackup>,
}

impl Chain {
    /// Follows the links of `newest` through `backups`.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if a parent is missing, or is another backup than the
    /// one on which its child was built.
    pub fn of(newest: &StoredBackup, backups: &[StoredBackup]) -> Result<Chain> {
        let mut ancestors: Vec<StoredBackup> = Vec::new();
        while let Some(link) = ancestors.last().unwrap_or(newest).parent() {
            let child = &ancestors.last().unwrap_or(newest).label;
            let parent = backups.iter().find(|backup| backup.label == link.parent).ok_or_else(|| {
                Error::damaged(format!("backup {child} builds on backup {}, which is missing", link.parent))
                    .hint("It was removed, or its manifest is damaged. Backups that build on it cannot be restored without it.")
            })?;
            if parent.link() != *link || parent.system_identifier != newest.system_identifier {
                return Err(Error::damaged(format!(
                    "backup {child} builds on a different backup {} than the stored one",
                    link.parent
                ))
                .hint("That backup was removed and taken again under the same label. Take a full backup."));
            }
            if ancestors.len() >= MEMBERS_MAX {
                return Err(Error::damaged(format!(
                    "the chain of backup {} is circular or too long",
                    newest.label
                ))
                .hint("Its manifests were changed by another program. Take a full backup."));
            }
            ancestors.push(parent.clone());
        }
        Ok(Chain { newest: newest.clone(), ancestors })
    }

    /// The newest member.
    pub fn newest(&self) -> &StoredBackup {
        &self.newest
    }

    /// The full backup at the end.
    pub fn full(&self) -> &StoredBackup {
        self.ancestors.last().unwrap_or(&self.newest)
    }

    /// All members, the newest first.
    pub fn members(&self) -> impl Iterator<Item = &StoredBackup> {
        std::iter::once(&self.newest).chain(&self.ancestors)
    }

    /// The member at this position, counted from the newest.
    pub fn member(&self, place: usize) -> Option<&StoredBackup> {
        self.members().nth(place)
    }

    /// How many incremental backups are above the full one.
    pub fn increments(&self) -> usize {
        self.ancestors.len()
    }

    /// The labels, the full one first.
    pub fn labels(&self) -> Vec<Label> {
        let mut labels: Vec<Label> = self.members().map(|member| member.label.clone()).collect();
        labels.reverse();
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::backup::manifest::BackupKind;
    use crate::repository::backup::manifest::tests::sample;

    fn child(label: &str, of: &StoredBackup) -> StoredBackup {
        let mut child = sample(label);
        child.kind = BackupKind::Incremental(of.link());
        child
    }

    #[test]
    fn a_chain_leads_to_a_full_backup() {
        let full = sample("full");
        let (one, other) = (child("one", &full), child("other", &full));
        let two = child("two", &one);
        let backups = [two.clone(), other, full.clone(), one.clone()];
        let chain = Chain::of(&two, &backups).unwrap();
        assert_eq!(
            chain.members().map(|member| member.label.as_str()).collect::<Vec<_>>(),
            ["two", "one", "full"]
        );
        assert_eq!(chain.labels().iter().map(Label::as_str).collect::<Vec<_>>(), ["full", "one", "two"]);
        assert_eq!((chain.increments(), chain.full(), chain.member(1)), (2, &full, Some(&one)));
        assert_eq!(Chain::of(&full, &[]).unwrap().increments(), 0);
    }

    #[test]
    fn a_chain_that_is_broken_is_damage() {
        let full = sample("full");
        let one = child("one", &full);
        assert!(
            Chain::of(&one, std::slice::from_ref(&one))
                .unwrap_err()
                .to_string()
                .contains("builds on backup full")
        );
        let mut again = full.clone();
        again.index.object.raw_digest = crate::codec::Digest::of(b"another");
        assert!(Chain::of(&one, &[again]).unwrap_err().to_string().contains("a different backup full"));
        let mut circle = child("circle", &sample("circle"));
        let backups = [circle.clone()];
        circle = child("circle", &circle);
        assert!(Chain::of(&circle, &backups).is_err());
    }
}
