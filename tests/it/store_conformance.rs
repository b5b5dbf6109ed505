//! The contract of every store, tested through its interface: the directory, and a bucket.

use crate::support::{Bucket, Site, s3_server};
use pgark::config::Config;
use pgark::durable::RealDisk;
use pgark::error::ErrorKind;
use pgark::repository::open_store;
use pgark::store::{NewObject, ObjectInfo, ObjectKey, PutOutcome, ReadRange, Store, StoreExt};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;

/// Larger than one part in a bucket, even with the minimum of `s3.part_size`.
const LARGE_BYTES: usize = (11 << 20) + 7;

#[test]
fn a_directory_is_a_store() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let store = open_store(&Config::load(&cluster.config.path).unwrap(), Arc::new(RealDisk)).unwrap();
    conforms(store.as_ref());
}

#[test]
fn a_bucket_is_a_store() {
    let site = Site::without_server();
    let Some(server) = s3_server() else { return };
    let bucket = Bucket::new(server);
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &server.endpoint);
    cluster.config.set("s3.part_size", "5MB");
    let store = open_store(&Config::load(&cluster.config.path).unwrap(), Arc::new(RealDisk)).unwrap();
    conforms(store.as_ref());
}

/// The whole contract of the interface, as documented.
fn conforms(store: &dyn Store) {
    what_was_never_stored_is_absent(store);
    an_object_is_written_once(store);
    a_writer_that_is_dropped_leaves_nothing(store);
    any_length_comes_back_from_any_place(store);
    of_many_writers_one_succeeds(store);
    only_a_replaced_object_changes(store);
    lists_and_walks_are_sorted_and_complete(store);
    what_is_deleted_is_absent(store);
    store.sweep().unwrap();
    assert!(!store.location().is_empty());
    assert!(store.trouble().is_none());
    let distance = store.now().unwrap().duration_since(jiff::Timestamp::now());
    assert!(distance.as_secs().abs() < 60, "{distance}");
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn content(store: &dyn Store, text: &str) -> Vec<u8> {
    store.read_small(&key(text), u64::MAX).unwrap().expect(text)
}

/// The content that a reader returns from `from` on; up to `until`, if given.
fn part(store: &dyn Store, text: &str, from: u64, until: Option<u64>) -> Vec<u8> {
    let range = ReadRange { from, expected_end: until };
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
    let name = key("once/object");
    assert_eq!(store.put_new(&name, &[b"first, ", b"", b"and whole"]).unwrap(), PutOutcome::Created);
    assert_eq!(store.put_new(&name, &[b"second"]).unwrap(), PutOutcome::Exists);
    assert_eq!(content(store, "once/object"), b"first, and whole");
    assert_eq!(store.stat(&name).unwrap(), Some(ObjectInfo { length_bytes: 16 }));
    assert!(store.still_holds(&name).unwrap());
    store.make_durable(&name).unwrap();
    let error = store.read_small(&name, 15).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    if store.capabilities().header_last {
        let object = NewObject { header_bytes: 4, digest: None };
        let mut writer = store.create(&key("once/headed"), object).unwrap();
        writer.write(b" and the rest").unwrap();
        writer.write_header(b"head").unwrap();
        assert_eq!(writer.finish().unwrap(), PutOutcome::Created);
        assert_eq!(content(store, "once/headed"), b"head and the rest");
    }
}

fn a_writer_that_is_dropped_leaves_nothing(store: &dyn Store) {
    let name = key("dropped/object");
    for bytes in [0, 10, LARGE_BYTES] {
        let mut writer = store.create(&name, NewObject::default()).unwrap();
        writer.write(&vec![7; bytes]).unwrap();
        assert_eq!(store.stat(&name).unwrap(), None, "nothing is visible before the end");
        drop(writer);
        assert_eq!(store.stat(&name).unwrap(), None);
    }
    assert_eq!(store.list(Some(&key("dropped"))).unwrap().objects, []);
    assert_eq!(store.put_new(&name, &[b"x"]).unwrap(), PutOutcome::Created);
}

fn any_length_comes_back_from_any_place(store: &dyn Store) {
    for bytes in [0, 1, 65_536, LARGE_BYTES] {
        let name = format!("lengths/{bytes}");
        // No two parts are equal.
        let whole: Vec<u8> = (0..bytes).map(|at| (at / 65_536 + at % 251) as u8).collect();
        let mut writer = store.create(&key(&name), NewObject::default()).unwrap();
        for piece in whole.chunks(1_000_003) {
            writer.write_owned(piece.to_vec()).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), PutOutcome::Created);
        assert!(content(store, &name) == whole, "{name}");
        for from in [0, 1, bytes / 2, bytes.saturating_sub(1), bytes] {
            let rest = whole.get(from..).unwrap_or_default();
            assert!(part(store, &name, from as u64, None) == rest, "{name} from {from}");
            let until = (from + 100).min(bytes);
            let read = part(store, &name, from as u64, Some(until as u64));
            assert!(
                read.starts_with(&whole[from.min(bytes)..until]) && rest.starts_with(&read),
                "{name} from {from}"
            );
        }
        assert!(part(store, &name, bytes as u64 + 10, None).is_empty(), "behind the end there is nothing");
    }
}

fn of_many_writers_one_succeeds(store: &dyn Store) {
    for round in 0..3 {
        let name = format!("contested/{round}");
        let put = |number: u8| store.put_new(&key(&name), &[&[number; 3000]]).unwrap();
        let created: Vec<u8> = thread::scope(|scope| {
            let writers: Vec<_> = (0..8).map(|number| (number, scope.spawn(move || put(number)))).collect();
            let won = writers.into_iter().filter_map(|(number, writer)| {
                (writer.join().unwrap() == PutOutcome::Created).then_some(number)
            });
            won.collect()
        });
        assert_eq!(created.len(), 1, "{created:?}");
        assert_eq!(content(store, &name), [created[0]; 3000]);
    }
}

fn only_a_replaced_object_changes(store: &dyn Store) {
    let name = key("replaced/object");
    for text in ["one", "another", ""] {
        store.replace(&name, text.as_bytes()).unwrap();
        assert_eq!(content(store, "replaced/object"), text.as_bytes());
    }
    assert_eq!(store.put_new(&name, &[b"new"]).unwrap(), PutOutcome::Exists);
}

fn lists_and_walks_are_sorted_and_complete(store: &dyn Store) {
    // In byte order, `-` and `.` precede `/`, and `0` follows it.
    let names = ["a", "a-b/c", "a.b", "b/a/deep", "b/b", "b0", "c/d/e/f", "z"];
    for (length, name) in names.iter().enumerate() {
        store.put_new(&key(&format!("listed/{name}")), &[&vec![b'x'; length]]).unwrap();
    }
    let listing = store.list(Some(&key("listed"))).unwrap();
    assert_eq!(listing.directories, ["a-b", "b", "c"]);
    let objects: Vec<(&str, u64)> =
        listing.objects.iter().map(|(name, info)| (name.as_str(), info.length_bytes)).collect();
    assert_eq!(objects, [("a", 0), ("a.b", 2), ("b0", 5), ("z", 7)]);
    let root = store.list(None).unwrap();
    assert!(root.directories.iter().any(|name| name == "listed"), "{root:?}");

    let walked = names_below(store, "listed", None);
    let expected: Vec<(String, u64)> =
        names.iter().zip(0..).map(|(name, bytes)| ((*name).to_owned(), bytes)).collect();
    assert_eq!(walked, expected);
    for (at, name) in names.iter().enumerate() {
        let from = format!("listed/{name}");
        assert_eq!(names_below(store, "listed", Some(&from)), expected[at..], "from {name}");
    }
    let mut visited = 0;
    let mut first_two = |_: &str, _: ObjectInfo| {
        visited += 1;
        if visited == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    store.walk(&key("listed"), None, &mut first_two).unwrap();
    assert_eq!(visited, 2);
    assert!(names_below(store, "listed/b", None).iter().all(|(name, _)| !name.contains('0')));
}

fn what_is_deleted_is_absent(store: &dyn Store) {
    let name = key("deleted/deep/object");
    store.put_new(&name, &[b"x"]).unwrap();
    store.delete(&name).unwrap();
    store.delete(&name).unwrap();
    assert_eq!(store.stat(&name).unwrap(), None);
    assert!(names_below(store, "deleted", None).is_empty());
    assert_eq!(store.put_new(&name, &[b"y"]).unwrap(), PutOutcome::Created);
    assert_eq!(content(store, "deleted/deep/object"), b"y");
}
