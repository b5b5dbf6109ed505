//! Event sequences, played by hand and at random.

use super::{FILES_MAX, Machine, PATIENCE};
use crate::agent::ready::ReadyFiles;
use crate::agent::upload::messages::{Action, Event, Limits, RequestId, ServerNumber, StoredAs, Work};
use crate::codec::{ContentSum, Digest};
use crate::error::{Error, ErrorKind};
use crate::postgres::WalFileName;
use crate::repository::wal::{FileIdentity, PutError, StoredWal};
use crate::store::PutOutcome;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const WORKERS: usize = 2;
const AHEAD_FOR: Duration = Duration::from_secs(300);
const RETRY_MAX: Duration = Duration::from_secs(4);
const DEADLINE: Duration = Duration::from_secs(60);
const SERVER: ServerNumber = ServerNumber(1);

/// A machine with a clock.
struct Scene {
    machine: Machine,
    now: Instant,
    requests: u64,
    answers: BTreeMap<u64, Result<(), ErrorKind>>,
    begun: Vec<Work>,
}

fn segment(number: usize) -> WalFileName {
    format!("00000001000000000000{number:04X}").parse().unwrap()
}

/// Different files have different inodes.
fn identity(inode: u64) -> FileIdentity {
    FileIdentity::invented(inode)
}

fn stored(name: WalFileName, inode: u64) -> Result<StoredWal, PutError> {
    let sum = ContentSum { length_bytes: 1, digest: Digest::of(b"x") };
    let outcome = PutOutcome::Created;
    Ok(StoredWal { name, identity: identity(inode), sum, outcome, damage_beside: None })
}

fn outage() -> Result<StoredWal, PutError> {
    Err(PutError::Repository(Error::unavailable("the disk is full")))
}

impl Scene {
    /// A scene whose server has requested nothing and whose marks were listed.
    fn new() -> Scene {
        let now = Instant::now();
        let limits = Limits { workers: WORKERS, ahead_for: AHEAD_FOR, retry_max: RETRY_MAX };
        let mut scene = Scene {
            machine: Machine::new(limits, now),
            now,
            requests: 0,
            answers: BTreeMap::new(),
            begun: Vec::new(),
        };
        scene.on(Event::ServerChanged(SERVER));
        scene
    }

    fn on(&mut self, event: Event) {
        for action in self.machine.on(event, self.now) {
            match action {
                Action::Begin(work) => self.begun.push(work),
                Action::Answer(RequestId(request), result) => {
                    let before = self.answers.insert(request, result.map_err(|error| error.kind()));
                    assert_eq!(before, None, "request {request} was answered twice");
                }
                Action::Drop(_) => {}
            }
        }
    }

    fn ask(&mut self, name: WalFileName, inode: u64) -> u64 {
        self.requests += 1;
        let (request, identity) = (RequestId(self.requests), Some(identity(inode)));
        self.on(Event::Asked { request, name, deadline: DEADLINE, identity });
        self.requests
    }

    fn list(&mut self, names: &[WalFileName]) {
        let ready = ReadyFiles { first: names.to_vec(), more: false };
        self.on(Event::Listed { server: SERVER, ready: Ok(ready), unmarked: Vec::new() });
    }

    fn end(&mut self, name: WalFileName, result: Result<StoredWal, PutError>, inode: u64) {
        let identity = Some(identity(inode));
        self.on(Event::Stored { server: SERVER, name, result, identity });
    }

    /// The names of the files whose upload has begun since the last call.
    fn begun(&mut self) -> Vec<String> {
        let names = self.begun.drain(..).filter_map(|work| match work {
            Work::Store { name, .. } => Some(name.to_string()),
            _ => None,
        });
        names.collect()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.on(Event::Woken { trouble: None });
    }
}

#[test]
fn uploads_begin_in_the_order_of_postgresql() {
    let mut scene = Scene::new();
    let [one, two, three, four] = [1, 2, 3, 4].map(segment);
    // Marked before archive_status was listed: earlier files may be ready, too.
    scene.on(Event::Marked(four));
    assert!(scene.begun().is_empty());
    scene.ask(two, 2);
    assert_eq!(scene.begun(), [two.to_string()], "only the requested file");
    scene.list(&[one, three]);
    assert_eq!(scene.begun(), [one.to_string()], "one worker was free");
    scene.ask(four, 4);
    scene.end(one, stored(one, 1), 1);
    assert_eq!(scene.begun(), [three.to_string()], "the request for a later file does not come first");
    // Marks were lost.
    scene.on(Event::MarksLost);
    scene.on(Event::Marked(segment(5)));
    scene.end(two, stored(two, 2), 2);
    assert_eq!(scene.begun(), [four.to_string()], "only the requested file");
}

#[test]
fn a_file_that_was_replaced_is_stored_again_before_its_request_is_answered() {
    let mut scene = Scene::new();
    let name = segment(1);
    let request = scene.ask(name, 1);
    scene.end(name, stored(name, 1), 2);
    assert!(scene.answers.is_empty(), "the name means another file");
    assert_eq!(scene.begun(), [name.to_string(), name.to_string()]);
    scene.end(name, stored(name, 2), 2);
    assert_eq!(scene.answers[&request], Ok(()));
    // The next request is answered once the repository was seen to hold it, or with another file: not at all.
    let confirm = Work::Confirm { name, stored: StoredAs { identity: identity(2), name } };
    let again = scene.ask(name, 2);
    assert_eq!(scene.begun.pop(), Some(confirm));
    let (stored_as, identity_now) = (StoredAs { identity: identity(2), name }, Some(identity(2)));
    scene.on(Event::Confirmed {
        server: SERVER,
        name,
        stored: stored_as,
        result: Ok(true),
        identity: identity_now,
    });
    assert_eq!(scene.answers[&again], Ok(()));
    scene.ask(name, 3);
    assert_eq!(scene.begun(), [name.to_string()]);
}

#[test]
fn results_of_a_previous_server_answer_nothing() {
    let mut scene = Scene::new();
    let name = segment(1);
    scene.ask(name, 1);
    scene.on(Event::ServerChanged(ServerNumber(2)));
    let request = scene.ask(name, 1);
    scene.end(name, stored(name, 1), 1);
    assert!(scene.answers.is_empty());
    let (result, identity) = (stored(name, 1), Some(identity(1)));
    scene.on(Event::Stored { server: ServerNumber(2), name, result, identity });
    assert_eq!(scene.answers[&request], Ok(()));
}

#[test]
fn during_an_outage_one_file_at_a_time_is_retried_with_growing_pauses() {
    let mut scene = Scene::new();
    let [one, two, three] = [1, 2, 3].map(segment);
    scene.ask(one, 1);
    scene.list(&[one, two, three]);
    assert_eq!(scene.begun().len(), WORKERS);
    scene.end(two, outage(), 2);
    scene.end(one, outage(), 1);
    assert_eq!(scene.answers[&1], Err(ErrorKind::Unavailable));
    let mut pause = Duration::from_secs(1);
    for _ in 0..4 {
        scene.pass(pause / 2);
        assert!(scene.begun().is_empty(), "not before the pause is over");
        scene.pass(pause / 2);
        assert_eq!(scene.begun(), [one.to_string()], "one at a time");
        scene.end(one, outage(), 1);
        pause = (pause * 2).min(RETRY_MAX);
    }
    // A request is tried at once, and is told soon if that does not help.
    let request = scene.ask(two, 2);
    assert_eq!(scene.begun(), [two.to_string()]);
    scene.pass(PATIENCE);
    assert_eq!(scene.answers[&request], Err(ErrorKind::Unavailable));
    scene.end(two, stored(two, 2), 2);
    assert_eq!(scene.begun().len(), WORKERS, "the outage is over");
}

#[test]
fn an_overdue_request_is_told_so_and_its_upload_goes_on() {
    let mut scene = Scene::new();
    let name = segment(1);
    let first = scene.ask(name, 1);
    scene.pass(DEADLINE);
    assert!(scene.answers.is_empty(), "the client itself gives up");
    let second = scene.ask(name, 1);
    scene.pass(PATIENCE);
    assert_eq!(scene.answers[&first], Err(ErrorKind::Unavailable));
    assert_eq!(scene.answers[&second], Err(ErrorKind::Unavailable));
    let third = scene.ask(name, 1);
    scene.end(name, stored(name, 1), 1);
    assert_eq!(scene.answers[&third], Ok(()));
}

/// What the outside world does in a random history: a file of any name may be replaced at any time.
struct World {
    random: u64,
    inodes: BTreeMap<WalFileName, u64>,
    /// The uploads and confirmations in flight, with the inode that each has read.
    transfers: Vec<(Work, u64)>,
    /// The stored names, with the inode whose bytes are stored.
    in_repository: BTreeSet<(WalFileName, u64)>,
    /// The answered requests that were checked.
    checked: BTreeSet<u64>,
}

impl World {
    fn below(&mut self, limit: usize) -> usize {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    fn inode(&self, name: WalFileName) -> u64 {
        self.inodes.get(&name).copied().unwrap_or_default()
    }
}

/// Plays one random history, then lets everything succeed.
fn play(seed: u64) {
    let mut scene = Scene::new();
    let mut world = World {
        random: seed,
        inodes: BTreeMap::new(),
        transfers: Vec::new(),
        in_repository: BTreeSet::new(),
        checked: BTreeSet::new(),
    };
    let mut asked: BTreeMap<u64, WalFileName> = BTreeMap::new();
    for step in 0..400 {
        let is_ending = step >= 300;
        let name = segment(world.below(6));
        match if is_ending { 3 + world.below(2) } else { world.below(7) } {
            0 => drop(asked.insert(scene.ask(name, world.inode(name)), name)),
            1 => scene.on(Event::Marked(name)),
            2 => {
                let names: Vec<_> = (0..world.below(5)).map(segment).collect();
                scene.list(&names);
            }
            3 if !world.transfers.is_empty() => {
                let index = world.below(world.transfers.len());
                let (work, inode) = world.transfers.remove(index);
                let fails = !is_ending && world.below(3) == 0;
                end_transfer(&mut scene, &mut world, work, inode, fails);
            }
            4 => {
                let pause = Duration::from_millis(world.below(3000) as u64);
                scene.pass(pause);
            }
            5 => drop(world.inodes.insert(name, step as u64 + 1)),
            6 if world.below(4) == 0 => scene.on(Event::MarksLost),
            _ => {}
        }
        check(&mut scene, &mut world, &asked, seed);
    }
    let open: Vec<_> = (1..=scene.requests).filter(|request| !scene.answers.contains_key(request)).collect();
    assert!(open.is_empty(), "seed {seed}: requests {open:?} were never answered");
}

fn end_transfer(scene: &mut Scene, world: &mut World, work: Work, inode: u64, fails: bool) {
    match work {
        Work::Store { name, .. } => {
            let result = if fails { outage() } else { stored(name, inode) };
            if !fails {
                world.in_repository.insert((name, inode));
            }
            scene.end(name, result, world.inode(name));
        }
        Work::Confirm { name, stored } => {
            let result = if fails { Err(Error::unavailable("no answer")) } else { Ok(true) };
            let identity = Some(identity(world.inode(name)));
            scene.on(Event::Confirmed { server: SERVER, name, stored, result, identity });
        }
        Work::List | Work::Backfill { .. } | Work::CheckTimelines { .. } => {}
    }
}

fn check(scene: &mut Scene, world: &mut World, asked: &BTreeMap<u64, WalFileName>, seed: u64) {
    for work in std::mem::take(&mut scene.begun) {
        match work {
            Work::Store { name, .. } | Work::Confirm { name, .. } => {
                let busy = world.transfers.iter().any(|(other, _)| transfers(*other) == Some(name));
                assert!(!busy, "seed {seed}: {name} is being stored twice");
                let inode = world.inode(name);
                world.transfers.push((work, inode));
            }
            // A server without marks.
            Work::List => scene.list(&[]),
            Work::Backfill { .. } | Work::CheckTimelines { .. } => {}
        }
    }
    let stores = world.transfers.iter().filter(|(work, _)| matches!(work, Work::Store { .. })).count();
    assert!(stores <= WORKERS, "seed {seed}: {stores} uploads at a time");
    // Files are replaced between two events, so each name still means what it meant when its request was answered.
    for (request, result) in &scene.answers {
        if world.checked.insert(*request) && *result == Ok(()) {
            let name = asked[request];
            let is_stored = world.in_repository.contains(&(name, world.inode(name)));
            assert!(is_stored, "seed {seed}: {name} was acknowledged, and its bytes are not stored");
        }
    }
    assert!(scene.machine.idle_files().count() <= FILES_MAX);
}

fn transfers(work: Work) -> Option<WalFileName> {
    match work {
        Work::Store { name, .. } | Work::Confirm { name, .. } => Some(name),
        _ => None,
    }
}

#[test]
fn random_histories_keep_every_promise() {
    for seed in 0..500 {
        play(seed);
    }
}
