use super::machine::PATIENCE;
use super::task::Uploads;
use crate::agent::places::Places;
use crate::config::{Config, ConfigRequest};
use crate::durable::RealDisk;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{SegmentSize, SystemIdentifier};
use crate::spool::{PushRequest, Spool};
use crate::store::{
    Capabilities, DirectoryStore, Listing, NewObject, ObjectInfo, ObjectKey, ObjectReader, ObjectVisitor,
    ObjectWriter, Observation, ReadRange, Store, StoreService,
};
use jiff::Timestamp;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

const NAME: &str = "00000002.history";

/// Longer than any step of these tests takes.
const LONG: Duration = Duration::from_secs(20);

/// A directory store whose writers wait at gates, one for each object. The writer that passes a gate removes
/// it.
#[derive(Debug)]
struct GatedStore {
    inner: DirectoryStore,
    gates: Mutex<Vec<Gate>>,
    trouble: Mutex<Option<Error>>,
}

#[derive(Debug)]
struct Gate {
    key: String,
    reached: Sender<()>,
    verdict: Receiver<Result<()>>,
}

impl StoreService for GatedStore {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn now(&self) -> Result<Timestamp> {
        self.inner.now()
    }
    fn trouble(&self) -> Option<Error> {
        self.trouble.lock().unwrap().as_ref().map(Error::replica)
    }
    fn examine(&self) -> Result<Vec<Observation>> {
        self.inner.examine()
    }
    fn sweep(&self) -> Result<u64> {
        self.inner.sweep()
    }
}

impl Store for GatedStore {
    /// Objects are created once their files have been read.
    fn capabilities(&self) -> Capabilities {
        Capabilities { header_last: false, ..self.inner.capabilities() }
    }
    fn create(&self, key: &ObjectKey, object: NewObject) -> Result<Box<dyn ObjectWriter>> {
        let gate = {
            let mut gates = self.gates.lock().unwrap();
            gates.iter().position(|gate| gate.key == key.as_str()).map(|index| gates.remove(index))
        };
        if let Some(gate) = gate {
            gate.reached.send(()).unwrap();
            gate.verdict.recv().unwrap()?;
        }
        self.inner.create(key, object)
    }
    fn replace(&self, key: &ObjectKey, content: &[u8]) -> Result<()> {
        self.inner.replace(key, content)
    }
    fn open(&self, key: &ObjectKey, range: ReadRange) -> Result<Option<Box<dyn ObjectReader>>> {
        self.inner.open(key, range)
    }
    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        self.inner.stat(key)
    }
    fn list(&self, below: Option<&ObjectKey>) -> Result<Listing> {
        self.inner.list(below)
    }
    fn walk(&self, below: &ObjectKey, from: Option<&ObjectKey>, visit: ObjectVisitor<'_>) -> Result<()> {
        self.inner.walk(below, from, visit)
    }
    fn make_durable(&self, key: &ObjectKey) -> Result<()> {
        self.inner.make_durable(key)
    }
    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.inner.delete(key)
    }
}

struct Scene {
    scratch: tempfile::TempDir,
    store: Arc<GatedStore>,
    uploads: Uploads,
    deadline: Duration,
}

fn places_in(scratch: &Path, store: Arc<GatedStore>) -> (Arc<Config>, Arc<Places>) {
    let path = |name: &str| scratch.join(name);
    let url = path("repository").display().to_string();
    let request = ConfigRequest {
        cluster: Some("main".to_owned()),
        repository: Some(url),
        data_directory: Some(path("data")),
        ..ConfigRequest::default()
    };
    let mut config = Config::resolve(&request).unwrap();
    config.spool.directory = path("spool");
    let config = Arc::new(config);
    let places = Places::new(config.clone(), store, crate::durable::disk(), path("spool/places"));
    (config, Arc::new(places))
}

impl Scene {
    fn new() -> Scene {
        Scene::with_deadline(LONG)
    }

    /// A scene whose requests time out after `deadline`.
    fn with_deadline(deadline: Duration) -> Scene {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        for name in ["repository", "spool", "pg_wal", "pg_wal/archive_status"] {
            fs::create_dir(path(name)).unwrap();
        }
        let inner = DirectoryStore::new(path("repository"), Arc::new(RealDisk));
        let store = Arc::new(GatedStore { inner, gates: Mutex::default(), trouble: Mutex::default() });
        let (config, places) = places_in(scratch.path(), store.clone());
        let (uploads, _) = Uploads::start(&config, places, Spool::of(&config).unwrap());
        Scene { scratch, store, uploads, deadline }
    }

    fn write(&self, switch: &str) {
        let path = self.scratch.path().join("pg_wal").join(NAME);
        fs::write(self.scratch.path().join("new"), format!("1\t{switch}\tx\n")).unwrap();
        fs::rename(self.scratch.path().join("new"), path).unwrap();
    }

    /// Makes the file's next writer wait. Returns a signal that one is waiting, and the sender of its result.
    fn gate(&self, system: u64) -> (Receiver<()>, Sender<Result<()>>) {
        let ((reached, arrival), (sender, verdict)) = (channel(), channel());
        let key = format!("main/{system}/wal/{NAME}");
        self.store.gates.lock().unwrap().push(Gate { key, reached, verdict });
        (arrival, sender)
    }

    fn request(&self, system: u64, name: &str) -> PushRequest {
        PushRequest {
            version: None,
            system: SystemIdentifier::new(system).unwrap(),
            segment_size: SegmentSize::DEFAULT,
            name: name.parse().unwrap(),
            path: self.scratch.path().join("pg_wal").join(name),
            deadline: self.deadline,
        }
    }

    /// Sends a request. When this returns, the request is queued before all later ones.
    async fn push(&self, system: u64) -> JoinHandle<Option<Result<()>>> {
        let request = self.request(system, NAME);
        let (sender, answer) = oneshot::channel();
        self.uploads.push_into(request, sender).await.unwrap();
        tokio::spawn(async move { answer.await.ok() })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_took_another_s_name_meanwhile_is_not_acknowledged_with_it() {
    let scene = Scene::new();
    let (arrival, verdict) = scene.gate(7);
    scene.write("0/3000000");
    let first = scene.push(7).await;
    arrival.recv_timeout(LONG).unwrap();
    scene.write("0/4000000");
    let second = scene.push(7).await;
    // Handled after the request.
    scene.uploads.status().await.unwrap();
    timeout(Duration::from_millis(100), std::future::pending::<()>()).await.unwrap_err();
    verdict.send(Ok(())).unwrap();
    let error = timeout(LONG, second).await.unwrap().unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    drop(first);
    // Nor later.
    let error = timeout(LONG, scene.push(7).await).await.unwrap().unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_of_one_system_is_no_answer_for_another() {
    let scene = Scene::new();
    let ((arrival, verdict), (other_arrival, other_verdict)) = (scene.gate(7), scene.gate(8));
    scene.write("0/3000000");
    let first = scene.push(7).await;
    arrival.recv_timeout(LONG).unwrap();
    let mut second = scene.push(8).await;
    other_arrival.recv_timeout(LONG).unwrap();
    verdict.send(Ok(())).unwrap();
    let early = timeout(Duration::from_millis(300), &mut second).await;
    assert!(early.is_err(), "answered before it was stored: {early:?}");
    other_verdict.send(Err(Error::unavailable("the disk is full"))).unwrap();
    let error = timeout(LONG, second).await.unwrap().unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    drop(first);
}

/// The answer to this request.
async fn answer_of(push: JoinHandle<Option<Result<()>>>) -> Result<()> {
    timeout(LONG, push).await.expect("an answer").unwrap().expect("an agent")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_after_the_deadline_is_told_soon_that_the_file_is_still_being_stored() {
    let deadline = Duration::from_millis(500);
    let scene = Scene::with_deadline(deadline);
    let (arrival, verdict) = scene.gate(7);
    scene.write("0/3000000");
    let mut first = scene.push(7).await;
    arrival.recv_timeout(LONG).unwrap();
    timeout(deadline + 2 * PATIENCE, &mut first).await.expect_err("nobody had asked before it");
    for _ in 0..2 {
        let asked = Instant::now();
        let error = answer_of(scene.push(7).await).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().starts_with("it is still being stored after "), "{error}");
        assert!(error.hint_text().unwrap().contains("PostgreSQL retries"), "{error:?}");
        assert!(asked.elapsed() >= PATIENCE, "answered after {:?}", asked.elapsed());
    }
    // The upload may end within that second.
    let again = scene.push(7).await;
    scene.uploads.status().await.unwrap();
    verdict.send(Ok(())).unwrap();
    answer_of(again).await.unwrap();
    answer_of(scene.push(7).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_was_told_ends_what_was_asked_before() {
    let scene = Scene::with_deadline(Duration::from_millis(500));
    let (arrival, verdict) = scene.gate(7);
    scene.write("0/3000000");
    drop(scene.push(7).await);
    arrival.recv_timeout(LONG).unwrap();
    timeout(Duration::from_millis(600), std::future::pending::<()>()).await.unwrap_err();
    let second = scene.push(7).await;
    scene.uploads.status().await.unwrap();
    verdict.send(Err(Error::damaged("that is no history"))).unwrap();
    assert_eq!(answer_of(second).await.unwrap_err().kind(), ErrorKind::Damaged);
    // The file is requested anew now, and has the full deadline again.
    let (arrival, verdict) = scene.gate(7);
    let mut third = scene.push(7).await;
    arrival.recv_timeout(LONG).unwrap();
    timeout(2 * PATIENCE, &mut third).await.expect_err("nobody had asked for it since it failed");
    verdict.send(Ok(())).unwrap();
    answer_of(third).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_first_attempt_is_told_what_keeps_it() {
    let scene = Scene::with_deadline(Duration::from_millis(500));
    let name = NAME.parse().unwrap();
    let (arrival, verdict) = scene.gate(7);
    scene.write("0/3000000");
    assert!(scene.uploads.reason(name).await.is_none(), "nobody waits");
    let first = scene.push(7).await;
    arrival.recv_timeout(LONG).unwrap();
    let reason = scene.uploads.reason(name).await.unwrap();
    assert!(reason.to_string().contains("is still being stored"), "{reason}");
    *scene.store.trouble.lock().unwrap() = Some(Error::unavailable("access denied"));
    assert_eq!(scene.uploads.reason(name).await.unwrap().to_string(), "access denied");
    assert_eq!(scene.uploads.status().await.unwrap().trouble.unwrap().message, "access denied");
    // The same holds for every request after the deadline.
    timeout(Duration::from_millis(600), std::future::pending::<()>()).await.unwrap_err();
    let error = answer_of(scene.push(7).await).await.unwrap_err();
    assert_eq!(error.to_string(), "access denied");
    verdict.send(Ok(())).unwrap();
    drop(first);
}
