//! Chooses the parent of a streamed incremental backup and offers it to the server.
//!
//! Owns: the uploaded manifest. The server sends unlisted files in full, so the manifest lists only usable
//! files: the rules are stricter than the server's own. Does not own: the choice of the parent (see
//! `backup/parent`), and the changed pages, which the server determines from its WAL summaries.

use super::built_on::BuiltOn;
use super::repack::Repacked;
use super::{StreamedBackup, base_backup};
use crate::backup::files::{relation_at, split};
use crate::backup::increment::summaries::Summaries;
use crate::backup::increment::{Increment, UsableFiles};
use crate::backup::parent::{self, BackupType, Child};
use crate::backup::publish;
use crate::backup::running::RunningBackup;
use crate::backup::server::session::ServerFacts;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::monitor::{CommandStep, CommandWarning};
use crate::postgres::{BackupManifestWriter, ManifestFile, ManifestVersion, TimelineHistory, WalRange};
use crate::repository::backup::manifest::{BackupPoint, StoredDatabase};
use crate::repository::backup::{Chain, FileForm, IndexEntry, StoredBackup, open_index};
use crate::server::ReplicationConnection;
use base_backup::{Announcement, BackupResponse, Extent};
use std::fs::File;
use std::io::{BufWriter, Seek, Write};

impl StreamedBackup<'_> {
    /// Chooses the parent and uploads its manifest to the server. `None` means a full backup; a message explains the
    /// reason.
    pub(super) fn offer(
        &self,
        replication: &mut ReplicationConnection,
        running: &RunningBackup<'_>,
        facts: &ServerFacts,
    ) -> Result<Option<Chain>> {
        if self.request.kind == BackupType::Full {
            return Ok(None);
        }
        if let Some(why) = self.cannot_send_changes()? {
            self.monitor.warn(CommandWarning::IncrementalImpossible { why: &why });
            return Ok(None);
        }
        // The start point of the backup comes later than this position, so any backup that ends before it also ends
        // before the start point.
        let row = replication.query_row("IDENTIFY_SYSTEM", self.interruption)?;
        let now = self.session.point(row.parsed(2)?, row.parsed(1)?, self.interruption)?;
        let history = publish::history(self.repository, &now)?
            .unwrap_or_else(|| TimelineHistory::without_ancestors(now.timeline));
        let child = Child {
            kind: self.request.kind,
            start: &now,
            history: &history,
            build: self.server.build,
            chain_max: self.request.chain_max,
        };
        let Some(chain) = parent::choose(&child, self.repository, self.monitor)? else { return Ok(None) };
        let label = &chain.newest().label;
        let refuse = |why: &dyn std::fmt::Display| {
            self.monitor
                .warn(CommandWarning::ParentUnusable { label: label.as_str(), why: &why.to_string() });
            Ok(None)
        };
        let began_on = chain.newest().start.timeline;
        if began_on != now.timeline {
            // The server reads the summaries of the newest timeline first. A relation truncated on an older
            // timeline then loses what it gained later.
            return refuse(&format!(
                "it begins on timeline {began_on}, and no server reliably sends changes across several timelines"
            ));
        }
        running.name_parent(label)?;
        // Removal checks the marks first, so everything still present now remains.
        let listed = parent::check_intact(&chain, self.repository)
            .and_then(|()| self.manifest_of(chain.newest(), &facts.databases));
        match listed {
            Ok(mut manifest) => {
                replication.upload("UPLOAD_MANIFEST", &mut manifest, self.interruption)?;
                Ok(Some(chain))
            }
            Err(error) if error.kind() == ErrorKind::Damaged => refuse(&error),
            Err(error) => Err(error),
        }
    }

    /// The reason why the server cannot send an incremental backup; `None` if it can.
    fn cannot_send_changes(&self) -> Result<Option<String>> {
        let version = self.server.build.version.formats;
        if !version.facts().has_wal_summaries {
            return Ok(Some(format!(
                "PostgreSQL {} does not send incremental backups; 17 and later do",
                version.as_u32()
            )));
        }
        if !self.session.summarizes_wal(self.interruption)? {
            return Ok(Some(
                "the server does not send incremental backups while summarize_wal is off".to_owned(),
            ));
        }
        match self.session.wal_summaries(self.interruption) {
            Ok(_) if !self.session.may_read_wal_summaries(self.interruption)? => {
                Ok(Some("the database user lacks the privilege to call pg_wal_summary_contents".to_owned()))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Usage => Ok(Some(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Starts the backup. Starts a full one if the server cannot determine the changes since the offered chain.
    pub(super) fn begin(
        &self,
        replication: &mut ReplicationConnection,
        offered: Option<Chain>,
    ) -> Result<(Announcement, Option<Chain>)> {
        let version = self.server.build.version.formats;
        let (label, checkpoint) = (self.label, self.request.checkpoint);
        if let Some(chain) = offered {
            let extent = Extent::Incremental;
            match Announcement::ask_for(replication, version, label, checkpoint, extent, self.interruption)? {
                BackupResponse::Begins(announced) => return Ok((announced, Some(chain))),
                BackupResponse::Refused(error) => {
                    let (label, why) = (chain.newest().label.as_str(), &error.to_string());
                    self.monitor.warn(CommandWarning::ParentUnusable { label, why });
                }
            }
        }
        match Announcement::ask_for(replication, version, label, checkpoint, Extent::Full, self.interruption)?
        {
            BackupResponse::Begins(announced) => Ok((announced, None)),
            BackupResponse::Refused(error) => Err(error),
        }
    }

    /// Checks again, now that the start point is known, that the chain leads to it, and reads the server's WAL
    /// summaries.
    pub(super) fn build_on(
        &self,
        chain: Chain,
        start: &BackupPoint,
        history: Option<&TimelineHistory>,
    ) -> Result<BuiltOn> {
        let first = TimelineHistory::without_ancestors(start.timeline);
        let history = history.unwrap_or(&first);
        let parent = chain.newest();
        let what = || format!("backup {} cannot be used as a parent", parent.label);
        let again =
            |error: Error| error.hint("A primary may have just been replaced. Take the backup again.");
        if parent.start.timeline != start.timeline {
            return Err(again(Error::unavailable(format!(
                "the server is now on timeline {}",
                start.timeline
            ))))
            .context(what);
        }
        parent::check_leads_to(parent, start, history).map_err(again).context(what)?;
        let summaries = Summaries::read(self.session, history, &parent.start, start, self.interruption)?
            .map_err(|why| Error::unavailable(why).hint("Take the backup again, or a full one: --type full."))
            .context(what)?;
        let (count, parent) = (summaries.count, parent.label.as_str());
        self.monitor.step(CommandStep::FindingChangesInSummaries { count, parent });
        Ok(BuiltOn { chain, summaries })
    }

    /// Writes a manifest of the parent's usable files to an unnamed file, because it is as long as the file list.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if the parent's index cannot be used; those of the store and the operating system.
    fn manifest_of(&self, parent: &StoredBackup, databases: &[StoredDatabase]) -> Result<File> {
        let what = || "could not write the manifest for the server";
        let usable = UsableFiles::of(parent, databases);
        let build = self.server.build;
        let mut index = open_index(self.repository, parent)?;
        let file = tempfile::tempfile().context(what)?;
        let version = ManifestVersion::written_by(build.version.formats, self.server.system);
        let mut manifest = BackupManifestWriter::new(BufWriter::new(file), version)?;
        while let Some(entry) = index.next_entry()? {
            self.interruption.check()?;
            let IndexEntry::File(entry) = entry else { continue };
            let (directory, name) = split(entry.path.as_bytes());
            let relation = relation_at(directory, name, build.version);
            if relation.is_some_and(|relation| usable.hold(relation, entry.path.as_bytes())) {
                manifest.add_file(&ManifestFile {
                    path: entry.stored_path(),
                    size_bytes: entry.bytes,
                    modified_unix_s: entry.modified_unix_s,
                    crc32c: Some(entry.crc32c),
                })?;
            }
        }
        let ranges: Vec<WalRange> = parent.wal_ranges.iter().map(|range| (*range).into()).collect();
        let mut output = manifest.finish(&ranges)?;
        output.flush().context(what)?;
        let mut file = output.into_inner().map_err(|error| Error::io(what(), error.into_error()))?;
        file.rewind().context(what)?;
        Ok(file)
    }

    /// Checks that the parent contains every file of which only changes were sent.
    pub(super) fn check_built_on(
        &self,
        parent: &StoredBackup,
        packed: &Repacked,
        facts: &ServerFacts,
    ) -> Result<()> {
        let version = self.server.build.version;
        let held = Increment::find(
            self.repository,
            parent,
            &packed.files,
            &facts.databases,
            version,
            self.interruption,
        )?;
        for file in packed.copied.files.iter().filter(|file| file.form != FileForm::Whole) {
            if !held.holds(file.number) {
                let path = packed.files.files.get(file.number).map(|file| packed.files.path_of(file));
                return Err(Error::damaged(format!(
                    "the server sent only the changes of \"{}\", which backup {} does not contain as a base",
                    String::from_utf8_lossy(&path.unwrap_or_default()),
                    parent.label
                )));
            }
        }
        Ok(())
    }
}
