//! Combinations of one to three timelines, a hole, a path, a target and a mode: a real server recovers through
//! `archive-get`, and a model that knows everything archived predicts the end.
//!
//! `src/repository/wal/path/matrix_tests.rs` covers every small archive without a server; here some cells are drawn at
//! random, and all of them with `--all`.

use crate::support::{Archive, Cluster, Random, Site, Stop, segment_number, wants_everything};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of random cells.
const CELLS: usize = 40;

/// A row, and the position of its commit.
#[derive(Clone, Copy, Debug)]
struct Row {
    number: u32,
    timeline: u32,
    lsn: u64,
}

/// Three real timelines: 2 branched off 1, and 3 off 2, each in the middle of a segment; the older one always
/// continued.
struct World {
    site: Site,
    origin: Cluster,
    archive: Archive,
    rows: Vec<Row>,
    /// Switch point of each timeline from its parent, which is the previous one.
    switches: BTreeMap<u32, u64>,
}

/// A test case for pgark.
#[derive(Clone, Debug)]
struct Cell {
    /// The newest known timeline.
    newest: u32,
    /// Whether the older timelines continued after their switch points.
    went_on: bool,
    lost: BTreeSet<String>,
    /// The timeline to which recovery goes; `None` means "latest", and archive-get gets no option.
    destination: Option<u32>,
    target: Target,
    standby: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    None,
    /// The restore point after this row, with `--with-target` only.
    Hinted(u32),
    /// The same, with the last segment proven to be needed.
    Proven(u32),
}

/// The expected end of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Success, with these rows.
    Rows(String),
    /// Stopped by `archive-get` at this file.
    Stopped(String),
    /// Stopped by PostgreSQL, which did not reach its target.
    Unreached,
}

impl World {
    fn build() -> World {
        let site = Site::with_servers(2);
        let mut first = site.cluster("first");
        let origin = first.copy("origin");
        let archive = site.archive_of(&first);
        let mut world = World { site, archive, origin, rows: Vec::new(), switches: BTreeMap::new() };
        first.archive();
        first.start();
        first.psql("CREATE TABLE t (a int)");
        let mut left_at = world.write(&first, 1);
        first.stop(Stop::Fast);
        for timeline in 2..=3 {
            let mut next = world.origin.copy(&format!("timeline-{timeline}"));
            next.append_conf(&format!(
                "recovery_target_lsn = '{left_at}'\nrecovery_target_inclusive = off\n\
                 recovery_target_timeline = {}\nrecovery_target_action = promote\n",
                timeline - 1
            ));
            next.recover_from_archive();
            next.archive();
            next.start();
            next.wait_promoted();
            left_at = world.write(&next, timeline);
            let history = String::from_utf8(next.read(&format!("pg_wal/{timeline:08X}.history"))).unwrap();
            let last = history.lines().rfind(|line| !line.is_empty()).unwrap();
            world.switches.insert(timeline, position(last.split_whitespace().nth(1).unwrap()));
            next.stop(Stop::Fast);
        }
        world
    }

    /// Writes rows on a timeline, most of them in a segment of their own; returns the switch point for the next
    /// timeline, between two rows in the middle of a segment.
    fn write(&mut self, cluster: &Cluster, timeline: u32) -> String {
        let mut left_at = String::new();
        let mut last = String::new();
        for number in 1..=6 {
            let row = timeline * 10 + number;
            cluster.psql(&format!("INSERT INTO t VALUES ({row})"));
            cluster.psql(&format!("SELECT pg_create_restore_point('after {row}')"));
            let lsn = cluster.psql("SELECT pg_current_wal_insert_lsn()");
            self.rows.push(Row { number: row, timeline, lsn: position(&lsn) });
            if number == 3 {
                left_at = lsn;
            } else {
                last = cluster.switch_wal();
            }
        }
        cluster.wait_archived(&last);
        left_at
    }

    fn size(&self) -> u64 {
        self.origin.template().segment_size()
    }

    /// The timeline in the name of a segment on the path to `destination`.
    fn timeline_of(&self, segment: u64, destination: u32) -> u32 {
        (2..=destination)
            .find(|next| segment < self.switches[next] / self.size())
            .map_or(destination, |next| next - 1)
    }

    fn name(&self, timeline: u32, segment: u64) -> String {
        crate::support::segment_name(timeline, segment, self.size())
    }

    /// The files of a cell's archive before any loss.
    fn written(&self, cell: &Cell) -> BTreeSet<String> {
        let is_written = |name: &String| {
            let timeline = u32::from_str_radix(&name[..8], 16).unwrap();
            let after_switch = || {
                let switch = self.switches.get(&(timeline + 1)).filter(|_| timeline < cell.newest);
                let number = segment_number(name, self.size());
                switch.is_some_and(|switch| number >= switch / self.size())
            };
            timeline <= cell.newest && (cell.went_on || name.len() != 24 || !after_switch())
        };
        self.archive.names().into_iter().filter(is_written).collect()
    }

    /// All cells.
    fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for newest in 1..=3 {
            for went_on in [true, false] {
                let whole = Cell {
                    newest,
                    went_on,
                    lost: BTreeSet::new(),
                    destination: None,
                    target: Target::None,
                    standby: false,
                };
                let written: Vec<String> = self.written(&whole).into_iter().collect();
                let mut holes: Vec<BTreeSet<String>> = vec![BTreeSet::new()];
                holes.extend(written.iter().map(|name| BTreeSet::from([name.clone()])));
                holes.extend(written.windows(2).map(|pair| pair.iter().cloned().collect()));
                for lost in holes {
                    for destination in (1..=newest).map(Some).chain([None]) {
                        let goes_to = destination.unwrap_or(newest);
                        let row = goes_to * 10 + 4;
                        for target in [Target::None, Target::Hinted(row), Target::Proven(row)] {
                            for standby in [false, true] {
                                // A standby has no target, and a hand-written command does not pass any.
                                if target == Target::None || !standby && destination.is_some() {
                                    let lost = lost.clone();
                                    cells.push(Cell { lost, destination, target, standby, ..whole.clone() });
                                }
                            }
                        }
                    }
                }
            }
        }
        cells
    }

    /// The expected end of a cell.
    fn model(&self, cell: &Cell) -> End {
        let stored: BTreeSet<String> = self.written(cell).difference(&cell.lost).cloned().collect();
        let history = |timeline: u32| format!("{timeline:08X}.history");
        let lost_history = (2..=cell.newest).find(|timeline| {
            let has_wal = || stored.iter().any(|name| name.starts_with(&format!("{timeline:08X}0")));
            !stored.contains(&history(*timeline)) && (has_wal() || *timeline < cell.newest)
        });
        let known = |timeline: u32| timeline == 1 || stored.contains(&history(timeline));
        let newest_known = (1..=cell.newest).take_while(|timeline| known(*timeline)).last().unwrap();
        let destination = cell.destination.unwrap_or(newest_known);
        if let Some(lost) = lost_history.filter(|_| !cell.standby) {
            // Requested before the first segment on the path to the latest timeline, and at the end to find an unused
            // number.
            if cell.destination.is_none() || !known(destination) {
                return End::Stopped(history(lost));
            }
        }
        if !known(destination) {
            return End::Unreached;
        }
        let target_row = match cell.target {
            Target::None => None,
            Target::Hinted(row) | Target::Proven(row) => self.rows.iter().find(|known| known.number == row),
        };
        let proven_end = target_row.filter(|_| matches!(cell.target, Target::Proven(_)));
        let needed = |segment: u64| match cell.target {
            Target::None => true,
            _ => proven_end.is_some_and(|row| segment <= (row.lsn - 1) / self.size()),
        };
        let first = segment_number(
            &self.written(cell).into_iter().find(|name| name.len() == 24).unwrap(),
            self.size(),
        );
        let mut end = first;
        let mut reading = 1;
        let stopped = loop {
            let timeline = self.timeline_of(end, destination);
            // Its first page was written on the parent, which only its history file explains.
            let is_explained = timeline == 1
                || end > self.switches[&timeline] / self.size()
                || stored.contains(&history(timeline));
            if stored.contains(&self.name(timeline, end)) && is_explained {
                reading = timeline;
                end += 1;
                continue;
            }
            if needed(end) && self.is_proven(&stored, timeline, end, destination) {
                break Some(self.name(timeline, end));
            }
            // An ancestor's copy of the segment with its switch point is not served.
            let parent = (reading..timeline).rev().find(|parent| {
                end == self.switches[&(parent + 1)] / self.size() && stored.contains(&self.name(*parent, end))
            });
            break parent.filter(|_| needed(end)).map(|parent| self.name(parent, end));
        };
        let is_read = |row: &&Row| {
            let on_the_way = (2..=destination)
                .find(|next| row.lsn <= self.switches[next])
                .map_or(destination, |next| next - 1);
            row.timeline == on_the_way && (row.lsn - 1) / self.size() < end
        };
        let reached = target_row.is_some_and(|row| is_read(&row));
        let rows = |last: Option<u64>| {
            let mut rows: Vec<u32> = self
                .rows
                .iter()
                .filter(is_read)
                .filter(|row| last.is_none_or(|last| row.lsn <= last))
                .map(|row| row.number)
                .collect();
            rows.sort_unstable();
            rows.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        // After it has read the checkpoint, and before replay, PostgreSQL requests the histories of all timelines on
        // the path.
        if let Some(lost) = lost_history.filter(|lost| !cell.standby && *lost < destination && end > first) {
            return End::Stopped(history(lost));
        }
        match (cell.standby, target_row) {
            (true, _) => End::Rows(rows(None)),
            (false, Some(row)) if reached => match lost_history {
                Some(lost) => End::Stopped(history(lost)),
                None => End::Rows(rows(Some(row.lsn))),
            },
            (false, target) => match (stopped, target, lost_history) {
                (Some(name), _, _) => End::Stopped(name),
                (None, Some(_), _) => End::Unreached,
                (None, None, Some(lost)) => End::Stopped(history(lost)),
                (None, None, None) => End::Rows(rows(None)),
            },
        }
    }

    /// Whether a stored file could not have been written without this segment of the path.
    fn is_proven(&self, stored: &BTreeSet<String>, timeline: u32, segment: u64, destination: u32) -> bool {
        let later = |name: &String| {
            name.len() == 24
                && name.starts_with(&format!("{timeline:08X}"))
                && segment_number(name, self.size()) > segment
        };
        let left_later = |next: &u32| {
            let is_on_the_way = *next <= destination;
            let history_is_stored = stored.contains(&format!("{next:08X}.history"))
                || (next + 1..=3).any(|newer| stored.contains(&format!("{newer:08X}.history")));
            *next == timeline + 1
                && (is_on_the_way || timeline == destination)
                && history_is_stored
                && segment < self.switches[next] / self.size()
        };
        stored.iter().any(later) || self.switches.keys().any(left_later)
    }

    /// Makes a real server recover in a cell.
    fn try_out(&self, cell: &Cell, name: &str) {
        let expected = self.model(cell);
        let repository = self.site.directory().join(format!("{name}-repository"));
        copy_without(&self.site.repository(), &repository, &|file| {
            let Some(file) = file.file_name().and_then(|name| name.to_str()) else { return true };
            let is_wal = file.len() >= 16 && file.bytes().take(8).all(|byte| byte.is_ascii_hexdigit());
            !is_wal || self.written(cell).contains(file) && !cell.lost.contains(file)
        });
        let mut copy = self.origin.copy(name);
        copy.config.set("repository.url", repository.as_path());
        copy.config.set("get.standby_history_deadline", "1s");
        let mut options: Vec<String> = Vec::new();
        if let Some(timeline) = cell.destination {
            options.push(format!("--timeline {timeline}"));
            copy.append_conf(&format!("recovery_target_timeline = {timeline}\n"));
        }
        if let Target::Hinted(row) | Target::Proven(row) = cell.target {
            options.push("--with-target".to_owned());
            copy.append_conf(&format!(
                "recovery_target_name = 'after {row}'\nrecovery_target_action = promote\n"
            ));
        }
        if let Target::Proven(row) = cell.target {
            let row = self.rows.iter().find(|known| known.number == row).unwrap();
            let segment = (row.lsn - 1) / self.size();
            let timeline = self.timeline_of(segment, cell.destination.unwrap());
            options.push(format!("--through {}", self.name(timeline, segment)));
        }
        copy.restore_by_command(&options.iter().map(String::as_str).collect::<Vec<_>>());
        copy.write(if cell.standby { "standby.signal" } else { "recovery.signal" }, "");
        let why = format!("{cell:?} must end with {expected:?}");
        eprintln!("{why}"); // shown when the scenario fails
        copy.start_without_waiting();
        match &expected {
            End::Rows(rows) => {
                copy.wait_until_ready(&why);
                if !cell.standby {
                    copy.wait_promoted();
                }
                if !rows.is_empty() {
                    copy.wait_for_row("SELECT string_agg(a::text, ' ' ORDER BY a) FROM t", rows);
                }
                assert!(copy.calls().iter().all(|(_, status)| *status <= 1), "{why}: {:?}", copy.calls());
                copy.stop(Stop::Immediate);
            }
            End::Stopped(_) | End::Unreached => {
                assert!(!copy.wait_for_end(), "{why}: {:?}", copy.calls());
                let signal = if cell.standby { "standby.signal" } else { "recovery.signal" };
                assert!(copy.has(signal), "{why}: it believes to be recovered");
                let stopped: Vec<String> = copy
                    .calls()
                    .into_iter()
                    .filter(|(_, status)| *status > 1)
                    .map(|(name, _)| name)
                    .collect();
                match &expected {
                    End::Stopped(name) => assert_eq!(stopped, [name.as_str()], "{why}: {:?}", copy.calls()),
                    _ => assert!(stopped.is_empty(), "{why}: {:?}", copy.calls()),
                }
            }
        }
        copy.pgark(&["agent", "stop"]).run();
        copy.remove();
        fs::remove_dir_all(&repository).unwrap();
    }
}

/// Parses `16/B374D848` as a number.
fn position(lsn: &str) -> u64 {
    let (high, low) = lsn.trim().split_once('/').expect("an LSN");
    let number = |text| u64::from_str_radix(text, 16).unwrap();
    number(high) << 32 | number(low)
}

/// Links to the same files, because objects never change.
fn copy_without(from: &Path, to: &Path, wanted: &dyn Fn(&Path) -> bool) {
    crate::support::create_private_directory(to);
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_without(&path, &copy, wanted);
        } else if wanted(&path) {
            fs::hard_link(&path, &copy).unwrap();
        }
    }
}

#[test]
fn recovery_across_timelines_never_ends_early_in_silence() {
    let world = World::build();
    let mut cells = world.cells();
    if !wants_everything() {
        let mut random = Random::seeded("timeline_matrix");
        let drawn = (0..CELLS).map(|_| random.choose(&cells).clone()).collect();
        cells = drawn;
    }
    // Two servers at a time, because each waits more than it works.
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((number, cell)) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    cells.get(number).map(|cell| (number, cell))
                } {
                    world.try_out(cell, &format!("cell-{number}"));
                }
            });
        }
    });
}
