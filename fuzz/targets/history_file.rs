//! Timeline history files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::postgres::{Lsn, SegmentNumber, SegmentSize, TimelineHistory, TimelineId};

fuzz_target!(|data: &[u8]| {
    let Some((number, content)) = data.split_first() else { return };
    let Some(timeline) = TimelineId::new(u32::from(*number)) else { return };
    let Ok(history) = TimelineHistory::parse(timeline, content) else { return };
    // An accepted history must support every query.
    for segment in [0, 1, 3, u64::from(u32::MAX)] {
        let _ = history.timeline_of_segment(SegmentNumber::new(segment), SegmentSize::DEFAULT);
    }
    let _ = history.first_segment(SegmentSize::DEFAULT);
    for switch in history.switches() {
        assert!(history.contains(switch.timeline) && history.end_of(switch.timeline).is_some());
        let _ = history.timeline_at(switch.switch_point);
    }
    let _ = Lsn::new(u64::MAX).map(|last| history.timeline_at(last));
});
