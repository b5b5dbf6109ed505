//! A backup on its way to its manifest: copied → stopped → listed.
//!
//! Owns: the content of the manifest, for every method of taking a backup. Does not own: its publication (see
//! `publish`).

use super::copy::Copied;
use super::copy::last_pack::{self, LastFile};
use super::copy::lists::{self, BackedUp, Scope, StoredLists};
use super::files::FileList;
use super::server::session::{ServerFacts, Session, StoppedBackup};
use crate::config::Compression;
use crate::error::Result;
use crate::postgres::backup::label::BackupSource;
use crate::postgres::{ControlFile, ManifestVersion, Oid, TimelineHistory};
use crate::repository::Repository;
use crate::repository::backup::manifest::{
    BackupKind, BackupPoint, BackupTotals, DamagedPages, StoredConfigurationFile, StoredPack, StoredServer,
    StoredTablespace, StoredWalRange,
};
use crate::repository::backup::pack::{PackWriter, PlacedFile};
use crate::repository::backup::{Chain, Label, StoredBackup, StoredText};

/// The program and version that a manifest names as its creator.
pub const CREATED_BY: &str = concat!("pgark ", env!("CARGO_PKG_VERSION"));

/// A backup whose files are copied, but for those of the last pack.
pub struct BackupDraft<'a> {
    /// The repository that receives it.
    pub repository: &'a Repository,
    /// Its label.
    pub label: &'a Label,
    /// The session that takes it.
    pub session: &'a Session,
    /// How its lists are compressed.
    pub compression: Compression,
    /// The backup that it builds on, if it is incremental.
    pub parent: Option<&'a Chain>,
    /// Where it starts.
    pub start: BackupPoint,
    /// The history of its timeline; `None` for the first timeline.
    pub history: Option<TimelineHistory>,
    /// What the server reported when the copy began.
    pub facts: ServerFacts,
    /// The configuration files outside the data directory.
    pub configuration_files: Vec<StoredConfigurationFile>,
    /// The files of the data directory.
    pub files: &'a FileList,
    /// The copied ones.
    pub copied: Copied,
}

/// A backup whose packs are complete.
pub struct StoppedDraft<'a> {
    draft: BackupDraft<'a>,
    control: ControlFile,
    stopped: StoppedBackup,
    last: Vec<LastFile>,
    last_placed: Vec<PlacedFile>,
}

impl<'a> BackupDraft<'a> {
    /// Stores the last pack: what must be copied last, and what the server returned at the end.
    ///
    /// # Errors
    /// The store's.
    pub fn stop(
        mut self,
        control: ControlFile,
        control_file: LastFile,
        stopped: StoppedBackup,
        pack: PackWriter,
    ) -> Result<StoppedDraft<'a>> {
        let last = last_pack::files(control_file, &stopped);
        let packed = last_pack::write(pack, &last)?;
        self.copied.packs.push(packed.pack);
        Ok(StoppedDraft { draft: self, control, stopped, last, last_placed: packed.files })
    }
}

impl StoppedDraft<'_> {
    /// Where replay begins.
    pub fn start_point(&self) -> &BackupPoint {
        &self.draft.start
    }

    /// The position after the last WAL that the backup needs.
    pub fn stop_point(&self) -> &BackupPoint {
        &self.stopped.stop
    }

    /// Stores the lists, and makes the manifest.
    ///
    /// # Errors
    /// Those of [`lists::write`].
    pub fn list(self, damaged_pages: DamagedPages) -> Result<StoredBackup> {
        let StoppedDraft { draft, control, stopped, last, last_placed } = self;
        let BackupDraft { repository, label, session, parent, start, facts, files, copied, .. } = draft;
        let range = StoredWalRange { timeline: start.timeline, start: start.lsn, end: stopped.stop.lsn };
        let lists = lists::write(
            BackedUp { files, copied: &copied.files, last: &last, last_placed: &last_placed }.entries(),
            if parent.is_some() { Scope::Incremental } else { Scope::Full },
            repository,
            label,
            ManifestVersion::written_by(control.version, control.system),
            &[range.into()],
            draft.compression,
        )?;
        let kind = parent.map_or(BackupKind::Full, |parent| BackupKind::Incremental(parent.newest().link()));
        Ok(StoredBackup {
            version: StoredBackup::version_of(&kind),
            label: label.clone(),
            created_by: CREATED_BY.to_owned(),
            cluster: repository.layout().cluster().to_owned(),
            system_identifier: control.system,
            server: StoredServer::of(&control, session.version_num()),
            from_standby: session.source() == BackupSource::Standby,
            wal_ranges: vec![range],
            timeline_history: draft
                .history
                .map(|history| history.switches().iter().map(|switch| (*switch).into()).collect())
                .unwrap_or_default(),
            tablespaces: tablespaces(files, &facts),
            databases: facts.databases,
            collations: Some(facts.collations),
            settings: facts.settings,
            configuration_files: draft.configuration_files,
            backup_label: StoredText::new(stopped.label),
            tablespace_map: Some(stopped.tablespace_map).filter(|map| !map.is_empty()).map(StoredText::new),
            totals: totals(&kind, &copied.packs, &lists),
            kind,
            packs: copied.packs,
            index: lists.index,
            postgres_manifest: lists.postgres_manifest,
            damaged_pages,
            start,
            stop: stopped.stop,
        })
    }
}

/// The sums over everything that a backup stores.
pub fn totals(kind: &BackupKind, packs: &[StoredPack], lists: &StoredLists) -> BackupTotals {
    let packed_bytes: u64 = packs.iter().map(|pack| pack.stored_bytes).sum();
    BackupTotals {
        files: lists.file_count,
        directories: lists.directory_count,
        file_bytes: lists.file_bytes,
        whole_bytes: matches!(kind, BackupKind::Incremental(_)).then_some(lists.whole_bytes),
        stored_bytes: packed_bytes + lists.index.object.stored_bytes + lists.postgres_manifest.stored_bytes,
    }
}

/// The manifest entries of the tablespaces.
fn tablespaces(files: &FileList, facts: &ServerFacts) -> Vec<StoredTablespace> {
    let name = |oid: &Oid| facts.tablespace_names.get(oid).cloned().unwrap_or_default();
    let linked = files.roots.iter().filter_map(|root| {
        let oid = root.tablespace?;
        Some(StoredTablespace { oid, name: name(&oid), path: Some(StoredText::new(root.target.clone())) })
    });
    let in_place = files.in_place_tablespaces.iter().map(|oid| StoredTablespace {
        oid: *oid,
        name: name(oid),
        path: None,
    });
    let mut tablespaces: Vec<StoredTablespace> = linked.chain(in_place).collect();
    tablespaces.sort_by_key(|tablespace| tablespace.oid);
    tablespaces
}
