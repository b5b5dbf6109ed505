//! Compares the actual end of a recovery with the end that its plan promised.

use super::point::ReachedPoint;
use crate::postgres::wal::header::{LongPageHeader, WAL_PAGE_BYTES, WalPageHeader};
use crate::postgres::{Lsn, RecoveryTarget};
use crate::recover::target::ExpectedEnd;

/// Describes the differences between the reached point and the promised one.
///
/// A server that stops at an LSN target does not record the time of that record (PostgreSQL `xlogrecovery.c`,
/// `recoveryStopsAfter`), so only the position is compared for such a target.
pub fn deviations(target: &RecoveryTarget, expected: &ExpectedEnd, reached: &ReachedPoint) -> Vec<String> {
    let mut deviations = Vec::new();
    // A running primary extends the archive during the recovery; a later end than planned is expected.
    if let (RecoveryTarget::Latest, Some(promised), Some(replayed)) = (target, expected.end, reached.replayed)
        && replayed > promised
    {
        return deviations;
    }
    if let (Some(promised), Some(replayed)) = (expected.end, reached.replayed)
        && !is_same_place(promised, replayed)
    {
        deviations.push(format!("it was expected to end at {promised}, but ended at {replayed}"));
    }
    if let (Some(promised), Some(_)) = (&expected.last_transaction, reached.replayed)
        && !matches!(target, RecoveryTarget::Lsn(_))
        && reached.last_transaction != Some(promised.time)
    {
        let found = reached.last_transaction.map_or_else(|| "no time".to_owned(), |time| time.to_string());
        deviations.push(format!(
            "its last transaction was expected to be {} of {}, but is of {found}",
            promised.xid, promised.time
        ));
    }
    deviations
}

/// Whether at most a page header lies between the end of one record and the start of the next.
fn is_same_place(promised: Lsn, replayed: Lsn) -> bool {
    let (promised, replayed) = (promised.as_u64(), replayed.as_u64());
    let header = promised.checked_sub(replayed);
    let at_page = replayed.is_multiple_of(u64::from(WAL_PAGE_BYTES));
    promised == replayed
        || (at_page
            && (header == Some(u64::from(WalPageHeader::BYTES))
                || header == Some(u64::from(LongPageHeader::BYTES))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::{PgTimestamp, Xid};
    use crate::recover::server::point::ReachedState;
    use crate::repository::wal::{TransactionEnd, TransactionOutcome};

    #[test]
    fn what_was_reached_is_held_against_the_promise() {
        let lsn = |text: &str| -> Lsn { text.parse().unwrap() };
        let time = PgTimestamp::new(7);
        let end = TransactionEnd {
            xid: Xid::new(731),
            time,
            outcome: TransactionOutcome::Commit,
            start: lsn("0/3000028"),
            end: lsn("0/3000060"),
        };
        let expected =
            ExpectedEnd { end: Some(end.end), last_transaction: Some(end), ..ExpectedEnd::default() };
        let mut reached = ReachedPoint {
            state: ReachedState::Paused,
            replayed: Some(end.end),
            last_transaction: Some(time),
            timeline: None,
        };
        assert_eq!(deviations(&RecoveryTarget::Latest, &expected, &reached), [""; 0]);
        reached.replayed = Some(lsn("0/3000028"));
        assert_eq!(deviations(&RecoveryTarget::Latest, &expected, &reached).len(), 1);
        reached.last_transaction = None;
        assert_eq!(deviations(&RecoveryTarget::Latest, &expected, &reached).len(), 2);
        // More WAL was archived during the recovery.
        let grown = ReachedPoint {
            replayed: Some(lsn("0/4000028")),
            last_transaction: Some(PgTimestamp::new(9)),
            ..reached.clone()
        };
        assert_eq!(deviations(&RecoveryTarget::Latest, &expected, &grown), [""; 0]);
        assert_eq!(deviations(&RecoveryTarget::Immediate, &expected, &grown).len(), 2);
        assert!(
            is_same_place(lsn("0/3000028"), lsn("0/3000000")),
            "a segment's first page has a longer header"
        );
        assert!(is_same_place(lsn("0/3002018"), lsn("0/3002000")));
        assert!(!is_same_place(lsn("0/3002018"), lsn("0/3001FF0")));
    }
}
