//! Plans for targets that only a forward read can find: restore points and transactions.

use super::choice::{BackupCandidate, none_on_path};
use super::evidence;
use super::planned::{ExpectedEnd, TargetPlan};
use super::planner::Planner;
use super::refusal::described;
use super::replay_survey::survey;
use crate::error::Result;
use crate::postgres::{RecoveryTarget, RestorePointName, TargetBound};
use crate::repository::wal::{PathWal, WalEvent, WalMark};

/// How many other restore points of the same name a note lists.
const NAMESAKES_MAX: usize = 20;

impl Planner<'_> {
    /// Plans a recovery to a restore point or the end of a transaction, which requires a forward read.
    pub(super) fn record(&self, target: &RecoveryTarget, bound: TargetBound) -> Result<TargetPlan> {
        let mut read_until = None;
        let mut newest = None;
        // The record as found from a newer backup, which is too new to recover to it.
        let mut later: Option<WalMark> = None;
        for &backup in &self.candidates {
            let wal = self.wal_from(backup)?;
            let mut wanted = WantedRecord { target, epoch: self.request.epoch, next_xid: None };
            let earlier =
                evidence::first_record(self.archive, &wal, backup.start_point, read_until, &mut |event| {
                    wanted.is(event)
                })?;
            let readable = |mark: &WalMark| wal.readable_end().is_some_and(|end| mark.end <= end);
            later = earlier.or(later);
            match later.clone().filter(readable) {
                // Within the backup: the server would refuse it, but an older backup may work.
                Some(mark) if mark.start < backup.stop_point => {}
                Some(mark) => return self.to_record(backup, &wal, target, bound, &mark),
                None => {}
            }
            read_until = Some(self.path.segment_at(backup.start_point));
            newest = newest.or(Some((backup, wal)));
        }
        match newest {
            Some(_) if later.is_some_and(|mark| self.is_in_first_backup(&mark)) => {
                Err(self.before_first_backup(&described(target)))
            }
            Some((backup, wal)) => self.unreachable_target(backup, &wal, target.clone(), bound),
            None => Err(none_on_path(&self.path, &[], &[])),
        }
    }

    fn to_record(
        &self,
        backup: &BackupCandidate,
        wal: &PathWal,
        target: &RecoveryTarget,
        bound: TargetBound,
        mark: &WalMark,
    ) -> Result<TargetPlan> {
        let survey = self.survey(backup, wal, &mut |passed| passed.start >= mark.start)?;
        let mut warnings = Vec::new();
        let target = match (target, &mark.event) {
            // The server compares only the transaction itself.
            (RecoveryTarget::Xid(wanted), WalEvent::TransactionEnd { xid, .. }) if wanted != xid => {
                warnings
                    .push(format!("{wanted} was a subtransaction of transaction {xid}, which is the target"));
                RecoveryTarget::Xid(*xid)
            }
            (RecoveryTarget::Name(name), _) => {
                warnings.extend(self.same_name_note(name, mark)?);
                target.clone()
            }
            _ => target.clone(),
        };
        let plan = self.plan(backup, wal, target, bound, found_record(mark, bound))?;
        let mut plan = self.with_survey(plan, &survey);
        plan.warnings.append(&mut warnings);
        Ok(plan)
    }

    /// A note about other restore points of the same name: the server stops at the first one that it reaches.
    fn same_name_note(&self, name: &RestorePointName, taken: &WalMark) -> Result<Option<String>> {
        // Starts from the oldest backup with complete WAL; gaps after other backups do not affect this
        // target.
        let whole =
            self.candidates.iter().rev().find_map(|backup| Some((*backup, self.wal_from(backup).ok()?)));
        let Some((oldest, wal)) = whole else { return Ok(None) };
        let mut found: Vec<String> = Vec::new();
        survey(
            self.archive,
            &wal,
            oldest.start_point,
            oldest.stop_point,
            self.request.prove_bytes,
            &mut |mark| {
                if let WalEvent::RestorePoint { name: Some(other), time } = &mark.event
                    && other == name
                    && mark.start != taken.start
                    && found.len() < NAMESAKES_MAX
                {
                    found.push(format!("{time} (LSN {})", mark.start));
                }
                false
            },
        )?;
        if found.is_empty() {
            return Ok(None);
        }
        let time = match &taken.event {
            WalEvent::RestorePoint { time, .. } => time.to_string(),
            _ => String::new(),
        };
        Ok(Some(format!(
            "other restore points of this name were created {}; the target is the one of {time} (LSN {}); select another with \
             --target-lsn",
            found.join(", "),
            taken.start
        )))
    }

    fn is_in_first_backup(&self, mark: &WalMark) -> bool {
        let within =
            |backup: &&BackupCandidate| (backup.start_point..backup.stop_point).contains(&mark.start);
        self.candidates.last().is_some_and(within)
    }
}

/// Searches for the record at which the server stops.
struct WantedRecord<'a> {
    target: &'a RecoveryTarget,
    epoch: Option<u32>,
    /// The next transaction ID from the last checkpoint.
    next_xid: Option<u64>,
}

impl WantedRecord<'_> {
    fn is(&mut self, event: &WalEvent) -> bool {
        match (self.target, event) {
            (_, WalEvent::Checkpoint { next_xid }) => {
                self.next_xid = Some(*next_xid);
                false
            }
            (RecoveryTarget::Xid(wanted), WalEvent::TransactionEnd { xid, holds_wanted, .. }) => {
                let known = self.next_xid.map(|next| wanted.epoch_near(next));
                let is_of_epoch = self.epoch.is_none_or(|epoch| known.is_none_or(|known| known == epoch));
                (wanted == xid || *holds_wanted) && is_of_epoch
            }
            (RecoveryTarget::Name(wanted), WalEvent::RestorePoint { name, .. }) => {
                name.as_ref() == Some(wanted)
            }
            _ => false,
        }
    }
}

fn found_record(mark: &WalMark, bound: TargetBound) -> ExpectedEnd {
    match (mark.transaction_end(), bound) {
        (Some(end), TargetBound::Exclusive) => {
            ExpectedEnd { end: Some(mark.start), first_lost: Some(end), ..ExpectedEnd::default() }
        }
        (end, _) => ExpectedEnd { end: Some(mark.end), last_transaction: end, ..ExpectedEnd::default() },
    }
}
