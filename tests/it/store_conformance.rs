//! The contract of the port `Store`, as its documentation states it. Every store passes the same suite.

use crate::support::{Bucket, Site, s3_server};
use pgark::codec::Digest;
use pgark::config::{Config, ConfigRequest};
use pgark::durable::RealDisk;
use pgark::error::ErrorKind;
use pgark::store::{
    DirectoryStore, NewObject, ObjectInfo, ObjectKey, ObjectWriter, PutOutcome, ReadRange, S3Store, Store,
    StoreExt,
};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A bucket sends objects of this size with one request, and reads them in two ranges.
const MEDIUM_BYTES: usize = (11 << 20) + 7;

/// A bucket sends objects of this size in parts.
const LARGE_BYTES: usize = (33 << 20) + 7;

/// No header, no digest.
const PLAIN: NewObject = NewObject { header_bytes: 0, digest: None };

#[test]
fn a_directory_is_a_store() {
    let root = tempfile::tempdir().unwrap();
    let store = DirectoryStore::new(root.path().to_owned(), Arc::new(RealDisk));
    conforms(&store);
    of_many_writers_one_succeeds(&store, "large", LARGE_BYTES, 2);
}

#[test]
fn a_bucket_is_a_store() {
    let site = Site::without_server();
    let Some(server) = s3_server() else { return };
    let bucket = Bucket::new(server);
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &server.endpoint);
    cluster.config.set("s3.part_size", "5MB");
    let request = ConfigRequest { file: Some(cluster.config.path.clone()), ..ConfigRequest::default() };
    let settings = Config::resolve(&request).unwrap().s3;
    // Not with objects in parts: Ceph's gateway accepts the ends of two uploads that come at the same moment.
    conforms(&S3Store::new(&bucket.name, &bucket.prefix, settings, |_| None));
}

fn conforms(store: &dyn Store) {
    what_was_never_stored_is_absent(store);
    an_object_is_written_once(store);
    the_first_of_two_writers_wins(store);
    for (name, bytes) in [("some", 3000), ("again", 3000), ("nothing", 0)] {
        of_many_writers_one_succeeds(store, name, bytes, 8);
    }
    a_header_is_written_last_or_refused(store);
    a_digest_changes_nothing_of_the_content(store);
    a_dropped_writer_leaves_nothing(store);
    a_sweep_spares_living_writers(store);
    any_length_is_read_from_any_position(store);
    only_a_replaced_object_changes(store);
    a_replaced_object_is_always_whole(store);
    lists_and_walks_are_sorted_and_complete(store);
    a_key_has_any_permitted_form(store);
    a_deleted_object_is_absent(store);
    the_place_describes_itself(store);
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// Content of which no two parts are equal.
fn sample(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 65_536 + at % 251) as u8).collect()
}

fn write(mut writer: Box<dyn ObjectWriter>, content: &[u8]) -> PutOutcome {
    for piece in content.chunks(1_000_003) {
        writer.write_owned(piece.to_vec()).unwrap();
    }
    writer.finish().unwrap()
}

fn content(store: &dyn Store, text: &str) -> Vec<u8> {
    store.read_small(&key(text), u64::MAX).unwrap().expect(text)
}

fn read(store: &dyn Store, text: &str, range: ReadRange) -> Vec<u8> {
    let mut reader = store.open(&key(text), range).unwrap().expect(text);
    let mut read = Vec::new();
    while reader.read(&mut read).unwrap() > 0 {}
    read
}

fn names_below(store: &dyn Store, below: &str, from: Option<&str>) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let from = from.map(key);
    store
        .walk(&key(below), from.as_ref(), &mut |name, info| {
            found.push((name.to_owned(), info.length_bytes));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

fn what_was_never_stored_is_absent(store: &dyn Store) {
    let absent = key("absent/object");
    for (from, expected_end) in [(0, None), (7, None), (0, Some(100)), (7, Some(100))] {
        assert!(store.open(&absent, ReadRange { from, expected_end }).unwrap().is_none());
    }
    assert_eq!(store.stat(&absent).unwrap(), None);
    assert_eq!(store.read_small(&absent, 100).unwrap(), None);
    assert_eq!(store.list(Some(&key("absent"))).unwrap(), Default::default());
    assert!(names_below(store, "absent", None).is_empty());
    store.delete(&absent).unwrap();
    assert_eq!(store.make_durable(&absent).unwrap_err().kind(), ErrorKind::Absent);
}

fn an_object_is_written_once(store: &dyn Store) {
    let name = key("once/small");
    assert_eq!(store.put_new(&name, &[b"first, ", b"", b"and whole"]).unwrap(), PutOutcome::Created);
    assert_eq!(store.put_new(&name, &[b"second"]).unwrap(), PutOutcome::Exists);
    assert_eq!(store.put_new(&name, &[b"first, and whole"]).unwrap(), PutOutcome::Exists);
    assert_eq!(content(store, "once/small"), b"first, and whole");
    assert_eq!(store.stat(&name).unwrap(), Some(ObjectInfo { length_bytes: 16 }));
    assert!(store.still_holds(&name).unwrap());
    store.make_durable(&name).unwrap();
    assert_eq!(store.read_small(&name, 15).unwrap_err().kind(), ErrorKind::Damaged);

    let (large, whole) = (key("once/large"), sample(LARGE_BYTES));
    assert_eq!(write(store.create(&large, PLAIN).unwrap(), &whole), PutOutcome::Created);
    assert_eq!(write(store.create(&large, PLAIN).unwrap(), &vec![7; LARGE_BYTES]), PutOutcome::Exists);
    assert_eq!(write(store.create(&name, PLAIN).unwrap(), &whole), PutOutcome::Exists);
    assert_eq!(store.put_new(&large, &[b"small"]).unwrap(), PutOutcome::Exists);
    assert!(content(store, "once/large") == whole);
    assert_eq!(content(store, "once/small"), b"first, and whole");
}

fn the_first_of_two_writers_wins(store: &dyn Store) {
    let name = key("two/writers");
    let mut writers = [store.create(&name, PLAIN).unwrap(), store.create(&name, PLAIN).unwrap()];
    for (writer, text) in writers.iter_mut().zip(["finished last", "finished first"]) {
        writer.write(text.as_bytes()).unwrap();
    }
    let [last, first] = writers;
    assert_eq!(first.finish().unwrap(), PutOutcome::Created);
    assert_eq!(last.finish().unwrap(), PutOutcome::Exists);
    assert_eq!(content(store, "two/writers"), b"finished first");
}

fn of_many_writers_one_succeeds(store: &dyn Store, name: &str, bytes: usize, writers: u8) {
    let name = format!("contested/{name}");
    let put = |number: u8| write(store.create(&key(&name), PLAIN).unwrap(), &vec![number; bytes]);
    let created: Vec<u8> = thread::scope(|scope| {
        let writers: Vec<_> = (0..writers).map(|number| (number, scope.spawn(move || put(number)))).collect();
        let won = writers
            .into_iter()
            .filter_map(|(number, writer)| (writer.join().unwrap() == PutOutcome::Created).then_some(number));
        won.collect()
    });
    assert_eq!(created.len(), 1, "{name}: {created:?}");
    assert!(content(store, &name) == vec![created[0]; bytes], "{name}");
}

fn a_header_is_written_last_or_refused(store: &dyn Store) {
    let headed = NewObject { header_bytes: 4, digest: None };
    let name = key("headed/object");
    if store.capabilities().header_last {
        for bytes in [0, 13, LARGE_BYTES] {
            let (name, body) = (format!("headed/{bytes}"), sample(bytes));
            let mut writer = store.create(&key(&name), headed).unwrap();
            writer.write(&body).unwrap();
            writer.write_header(b"head").unwrap();
            assert_eq!(writer.finish().unwrap(), PutOutcome::Created);
            assert!(content(store, &name) == [b"head", body.as_slice()].concat(), "{name}");
        }
        let mut wrong = store.create(&name, headed).unwrap();
        assert_eq!(wrong.write_header(b"longer").unwrap_err().kind(), ErrorKind::Damaged);
        let incomplete = store.create(&name, headed).unwrap();
        assert_eq!(incomplete.finish().unwrap_err().kind(), ErrorKind::Damaged);
    } else {
        assert_eq!(store.create(&name, headed).err().unwrap().kind(), ErrorKind::Damaged);
    }
    let mut without_room = store.create(&name, PLAIN).unwrap();
    assert_eq!(without_room.write_header(b"head").unwrap_err().kind(), ErrorKind::Damaged);
    drop(without_room);
    assert_eq!(store.stat(&name).unwrap(), None);
}

fn a_digest_changes_nothing_of_the_content(store: &dyn Store) {
    for bytes in [10, LARGE_BYTES] {
        let (name, whole) = (format!("digested/{bytes}"), sample(bytes));
        let object = NewObject { digest: Some(Digest::of(&whole)), ..PLAIN };
        assert_eq!(write(store.create(&key(&name), object).unwrap(), &whole), PutOutcome::Created);
        assert!(content(store, &name) == whole, "{name}");
    }
}

fn a_dropped_writer_leaves_nothing(store: &dyn Store) {
    let name = key("dropped/object");
    for bytes in [0, 10, LARGE_BYTES] {
        let mut writer = store.create(&name, PLAIN).unwrap();
        writer.write(&vec![7; bytes]).unwrap();
        assert_eq!(store.stat(&name).unwrap(), None, "nothing is visible before the end");
        drop(writer);
        assert_eq!(store.stat(&name).unwrap(), None);
    }
    assert_eq!(store.list(Some(&key("dropped"))).unwrap().objects, []);
    assert_eq!(store.put_new(&name, &[b"x"]).unwrap(), PutOutcome::Created);
}

fn a_sweep_spares_living_writers(store: &dyn Store) {
    for bytes in [10, LARGE_BYTES] {
        let (name, whole) = (format!("swept/{bytes}"), sample(bytes));
        let mut writer = store.create(&key(&name), PLAIN).unwrap();
        writer.write(&whole).unwrap();
        assert_eq!(store.sweep().unwrap(), 0);
        assert_eq!(writer.finish().unwrap(), PutOutcome::Created);
        assert!(content(store, &name) == whole, "{name}");
    }
}

fn any_length_is_read_from_any_position(store: &dyn Store) {
    for bytes in [0, 1, 65_536, MEDIUM_BYTES, LARGE_BYTES] {
        let (name, whole) = (format!("lengths/{bytes}"), sample(bytes));
        assert_eq!(write(store.create(&key(&name), PLAIN).unwrap(), &whole), PutOutcome::Created);
        assert!(content(store, &name) == whole, "{name}");
        // Every position of the largest would take long.
        let positions = match bytes {
            LARGE_BYTES => vec![bytes / 2],
            _ => vec![0, 1, bytes / 2, bytes.saturating_sub(1), bytes, bytes + 10],
        };
        for from in positions {
            let rest = whole.get(from..).unwrap_or_default();
            for expected_end in [None, Some(from + 100), Some(bytes), Some(bytes + 100)] {
                let range = ReadRange { from: from as u64, expected_end: expected_end.map(|end| end as u64) };
                assert!(read(store, &name, range) == rest, "{name}, {range:?}");
            }
        }
    }
}

fn only_a_replaced_object_changes(store: &dyn Store) {
    let name = key("replaced/object");
    for text in ["one", "another", ""] {
        store.replace(&name, text.as_bytes()).unwrap();
        assert_eq!(content(store, "replaced/object"), text.as_bytes());
        assert_eq!(names_below(store, "replaced", None), [("object".to_owned(), text.len() as u64)]);
    }
    assert_eq!(store.put_new(&name, &[b"new"]).unwrap(), PutOutcome::Exists);
}

fn a_replaced_object_is_always_whole(store: &dyn Store) {
    let name = key("replaced/often");
    store.replace(&name, &[0; 100]).unwrap();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for first in [1_u8, 2] {
            let (name, ended) = (&name, &ended);
            scope.spawn(move || {
                for round in 0..10 {
                    let number = first + 2 * round;
                    store.replace(name, &vec![number; 100 * (usize::from(number) + 1)]).unwrap();
                }
                ended.store(true, Ordering::Relaxed);
            });
        }
        while !ended.load(Ordering::Relaxed) {
            let read = content(store, "replaced/often");
            assert_eq!(read, vec![read[0]; 100 * (usize::from(read[0]) + 1)]);
        }
    });
}

fn lists_and_walks_are_sorted_and_complete(store: &dyn Store) {
    // In byte order, `-` and `.` precede `/`, and `0` follows it.
    let names = ["a", "a-b/c", "a.b", "b/a/deep", "b/b", "b0", "c/d/e/f", "z"];
    for (length, name) in names.iter().enumerate() {
        store.put_new(&key(&format!("listed/{name}")), &[&vec![b'x'; length]]).unwrap();
    }
    store.put_new(&key("top"), &[b"x"]).unwrap();
    let listing = store.list(Some(&key("listed"))).unwrap();
    assert_eq!(listing.directories, ["a-b", "b", "c"]);
    let objects: Vec<(&str, u64)> =
        listing.objects.iter().map(|(name, info)| (name.as_str(), info.length_bytes)).collect();
    assert_eq!(objects, [("a", 0), ("a.b", 2), ("b0", 5), ("z", 7)]);
    let root = store.list(None).unwrap();
    assert!(root.directories.iter().any(|name| name == "listed"), "{root:?}");
    assert!(root.objects.contains(&("top".to_owned(), ObjectInfo { length_bytes: 1 })), "{root:?}");

    let expected: Vec<(String, u64)> =
        names.iter().zip(0..).map(|(name, bytes)| ((*name).to_owned(), bytes)).collect();
    assert_eq!(names_below(store, "listed", None), expected);
    for (at, name) in names.iter().enumerate() {
        let from = format!("listed/{name}");
        assert_eq!(names_below(store, "listed", Some(&from)), expected[at..], "from {name}");
        let just_after = format!("{from}0");
        let after = names_below(store, "listed", Some(&just_after));
        assert!(!after.contains(&expected[at]) && expected.ends_with(&after), "from {just_after}");
    }
    assert_eq!(names_below(store, "listed", Some("listed/zz")), []);
    for stop_after in [1, 2] {
        let mut visited = 0;
        let mut visit = |_: &str, _: ObjectInfo| {
            visited += 1;
            if visited == stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        store.walk(&key("listed"), None, &mut visit).unwrap();
        assert_eq!(visited, stop_after);
    }
    assert!(names_below(store, "listed/b", None).iter().all(|(name, _)| !name.contains('0')));
}

fn a_key_has_any_permitted_form(store: &dyn Store) {
    let long = "x".repeat(200);
    for name in ["A-Z_a.z", "0", "-", "_", "a..b", &long, &format!("y{long}/{long}/{long}")] {
        let full = format!("forms/{name}");
        assert_eq!(store.put_new(&key(&full), &[name.as_bytes()]).unwrap(), PutOutcome::Created);
        assert_eq!(content(store, &full), name.as_bytes());
        assert!(names_below(store, "forms", None).contains(&(name.to_owned(), name.len() as u64)), "{name}");
    }
}

fn a_deleted_object_is_absent(store: &dyn Store) {
    let (name, other) = (key("deleted/deep/object"), key("deleted/other"));
    store.put_new(&name, &[b"x"]).unwrap();
    store.put_new(&other, &[b"stays"]).unwrap();
    store.delete(&name).unwrap();
    store.delete(&name).unwrap();
    assert_eq!(store.stat(&name).unwrap(), None);
    assert_eq!(store.still_holds(&name).unwrap(), !store.capabilities().can_be_unmounted);
    assert_eq!(store.make_durable(&name).unwrap_err().kind(), ErrorKind::Absent);
    assert_eq!(names_below(store, "deleted", None), [("other".to_owned(), 5)]);
    assert_eq!(store.put_new(&name, &[b"y"]).unwrap(), PutOutcome::Created);
    assert_eq!(content(store, "deleted/deep/object"), b"y");
}

fn the_place_describes_itself(store: &dyn Store) {
    assert!(!store.location().is_empty());
    assert!(store.trouble().is_none());
    assert_eq!(store.capabilities(), store.capabilities());
    let distance = store.now().unwrap().duration_since(jiff::Timestamp::now());
    assert!(distance.as_secs().abs() < 60, "{distance}");
    for observation in store.examine().unwrap() {
        assert!(!observation.what.is_empty() && !observation.detail.is_empty(), "{observation:?}");
    }
    assert!(!names_below(store, "once", None).is_empty(), "an inspection changes nothing");
}
