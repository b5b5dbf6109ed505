//! The task that owns the machine: takes requests, runs jobs on threads, watches the server's marks.

use super::jobs::{Jobs, ServerFiles};
use super::machine::Machine;
use super::messages::{Action, Event, Limits, RequestId, ServerNumber};
use crate::agent::histories::Histories;
use crate::agent::places::Places;
use crate::agent::ready::{ReadyEvent, ReadyWatcher, is_ready};
use crate::agent::status::UploadStatus;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::postgres::{SystemIdentifier, WalFileName};
use crate::spool::{PushRequest, Spool};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

/// The capacity of the request queue.
const QUESTIONS_MAX: usize = 64;

/// A handle for requests to the upload task.
#[derive(Clone, Debug)]
pub struct Uploads(mpsc::Sender<Question>);

/// A handle for queries that does not keep the task alive: it works as long as an [`Uploads`] exists.
#[derive(Clone, Debug)]
pub struct UploadsWatch(mpsc::WeakSender<Question>);

/// The upload task.
#[derive(Debug)]
pub struct Uploading(Option<JoinHandle<()>>);

#[derive(Debug)]
enum Question {
    Push(PushRequest, oneshot::Sender<Result<()>>),
    Status(oneshot::Sender<UploadStatus>),
    Reason(WalFileName, oneshot::Sender<Option<Error>>),
    Coming(SystemIdentifier, WalFileName, oneshot::Sender<bool>),
}

struct Task {
    machine: Machine,
    jobs: Jobs,
    /// Known from the first request on.
    server: Option<ServerFiles>,
    watcher: Option<ReadyWatcher>,
    running: JoinSet<Event>,
    waiting: HashMap<RequestId, oneshot::Sender<Result<()>>>,
    requests: u64,
}

impl Uploads {
    /// Starts the task. Data that does not fit into memory goes to the spool.
    pub fn start(config: &Config, places: Arc<Places>, spool: Spool) -> (Uploads, Uploading) {
        let (sender, receiver) = mpsc::channel(QUESTIONS_MAX);
        let limits = Limits {
            workers: config.agent.workers.get(),
            // An agent that ends with its call could not finish what it begins ahead.
            ahead_for: if config.agent.resident { config.agent.idle } else { Duration::ZERO },
            retry_max: config.agent.retry_max,
        };
        let task = Task {
            machine: Machine::new(limits, now()),
            jobs: Jobs { compression: config.compression, spool, places },
            server: None,
            watcher: None,
            running: JoinSet::new(),
            waiting: HashMap::new(),
            requests: 0,
        };
        (Uploads(sender), Uploading(Some(tokio::spawn(task.run(receiver)))))
    }

    /// Waits until a file is stored or has failed. `None` when the agent ends first; the request is then
    /// still open.
    pub async fn push(&self, request: PushRequest) -> Option<Result<()>> {
        let (sender, receiver) = oneshot::channel();
        self.push_into(request, sender).await?;
        receiver.await.ok()
    }

    /// Sends a request. When this returns, the request is queued before all later ones.
    pub(super) async fn push_into(
        &self,
        request: PushRequest,
        answer: oneshot::Sender<Result<()>>,
    ) -> Option<()> {
        self.0.send(Question::Push(request, answer)).await.ok()
    }

    /// The current state of the uploads.
    pub async fn status(&self) -> Option<UploadStatus> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Question::Status(sender)).await.ok()?;
        receiver.await.ok()
    }

    /// Why a request for a file waits; `None` if none does.
    pub async fn reason(&self, name: WalFileName) -> Option<Error> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Question::Reason(name, sender)).await.ok()?;
        receiver.await.ok()?
    }

    /// A handle that does not keep the task from ending.
    pub fn watch(&self) -> UploadsWatch {
        UploadsWatch(self.0.downgrade())
    }
}

impl UploadsWatch {
    /// Whether this file of a system is being stored, or will be stored ahead of a request.
    pub async fn is_coming(&self, system: SystemIdentifier, name: WalFileName) -> bool {
        let Some(uploads) = self.0.upgrade() else { return false };
        let (sender, receiver) = oneshot::channel();
        uploads.send(Question::Coming(system, name, sender)).await.is_ok() && receiver.await.unwrap_or(false)
    }
}

impl Uploading {
    /// Returns when the task has ended early, which is a defect.
    pub async fn failed(&mut self) {
        if let Some(task) = &mut self.0
            && let Err(error) = task.await
        {
            error!(%error, "the upload task failed");
        }
        self.0 = None;
    }

    /// Waits for the transfers in flight. Every [`Uploads`] must have been dropped.
    pub async fn finish(mut self) {
        self.failed().await;
    }
}

impl Task {
    async fn run(mut self, mut questions: mpsc::Receiver<Question>) {
        loop {
            let wake_at = Instant::from_std(self.machine.wake_at(now()));
            tokio::select! {
                question = questions.recv() => match question {
                    Some(question) => self.answer(question),
                    None => break,
                },
                Some(finished) = self.running.join_next() => self.finished(finished),
                event = marked(self.watcher.as_mut()) => self.marked(event),
                () = sleep_until(wake_at) => {
                    let trouble = self.trouble();
                    self.on(Event::Woken { trouble });
                }
            }
        }
        while let Some(finished) = self.running.join_next().await {
            self.finished(finished);
        }
    }

    fn answer(&mut self, question: Question) {
        // A client that has disconnected does not need its answer.
        match question {
            Question::Push(request, answer) => self.asked(request, answer),
            Question::Status(answer) => {
                drop(answer.send(self.machine.status(self.trouble(), now(), SystemTime::now())));
            }
            Question::Reason(name, answer) => {
                drop(answer.send(self.machine.reason(name, self.trouble(), now())));
            }
            Question::Coming(system, name, answer) => {
                let is_ours =
                    self.server.as_ref().is_some_and(|server| server.repository.layout().system() == system);
                let _ = answer.send(is_ours && self.machine.is_coming(name, now()));
            }
        }
    }

    /// Handles a request to store a file.
    fn asked(&mut self, request: PushRequest, answer: oneshot::Sender<Result<()>>) {
        let identity = match self.serve(&request) {
            Ok(server) => server.identity(request.name),
            Err(error) => return drop(answer.send(Err(error))),
        };
        self.requests += 1;
        let id = RequestId(self.requests);
        self.waiting.insert(id, answer);
        self.on(Event::Asked { request: id, name: request.name, deadline: request.deadline, identity });
    }

    /// Makes the requesting server the current one, whose `archive_status` is read ahead from now on.
    fn serve(&mut self, request: &PushRequest) -> Result<&ServerFiles> {
        let repository = self.jobs.places.of(request.system, request.version)?;
        let pg_wal = request.path.parent().unwrap_or(Path::new("/")).to_owned();
        let is_known = self.server.as_ref().is_some_and(|server| {
            server.pg_wal == pg_wal
                && server.segment_size == request.segment_size
                && server.repository.layout().system() == request.system
                && server.repository.version() == request.version
        });
        if !is_known {
            let previous = self.server.as_ref().map_or(0, |server| server.number.0);
            let server = ServerFiles {
                number: ServerNumber(previous + 1),
                repository,
                pg_wal,
                segment_size: request.segment_size,
                disk: self.jobs.places.disk().clone(),
                histories: Arc::new(Histories::default()),
            };
            info!(pg_wal = %server.pg_wal.display(), system = %request.system, "reads ahead");
            self.watcher = ReadyWatcher::new(&server.archive_status())
                .inspect_err(|error| warn!(%error, "cannot watch archive_status; listing it periodically"))
                .ok();
            let number = server.number;
            self.server = Some(server);
            self.on(Event::ServerChanged(number));
        }
        self.server.as_ref().ok_or_else(|| Error::unavailable("internal error: there is no server"))
    }

    fn marked(&mut self, event: std::io::Result<ReadyEvent>) {
        match event {
            Ok(ReadyEvent::Marked(name)) => self.on(Event::Marked(name)),
            Ok(ReadyEvent::Overflow) => self.on(Event::MarksLost),
            Err(error) => {
                warn!(%error, "cannot watch archive_status; listing it periodically");
                self.watcher = None;
            }
        }
    }

    /// Adds to the event of a job what is true now, and hands it to the machine.
    fn finished(&mut self, finished: std::result::Result<Event, JoinError>) {
        let mut event = match finished {
            Ok(event) => event,
            // Threads catch their panics and are never aborted.
            Err(error) => return error!(%error, "a thread failed"),
        };
        if let Some(server) = &self.server {
            match &mut event {
                Event::Stored { name, identity, .. } | Event::Confirmed { name, identity, .. } => {
                    *identity = server.identity(*name);
                }
                Event::Listed { unmarked, .. } => {
                    let status = server.archive_status();
                    unmarked.extend(self.machine.idle_files().filter(|name| !is_ready(&status, *name)));
                }
                _ => {}
            }
        }
        self.on(event);
    }

    /// Hands an event to the machine, and carries out its actions.
    fn on(&mut self, event: Event) {
        for action in self.machine.on(event, now()) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Begin(work) => {
                // An action concerns the current server, because it follows at once from its event.
                let Some(server) = self.server.clone() else { return };
                let jobs = self.jobs.clone();
                self.running.spawn_blocking(move || jobs.run(work, &server));
            }
            Action::Answer(request, result) => {
                if let Some(waiting) = self.waiting.remove(&request) {
                    // A client that has disconnected does not need it.
                    drop(waiting.send(result));
                }
            }
            Action::Drop(request) => drop(self.waiting.remove(&request)),
        }
    }

    /// The store's current error while one of its calls is retried.
    fn trouble(&self) -> Option<Error> {
        self.server.as_ref().and_then(|server| server.repository.store().trouble())
    }
}

/// The next events of the watched server; pending forever if there is none.
async fn marked(watcher: Option<&mut ReadyWatcher>) -> std::io::Result<ReadyEvent> {
    match watcher {
        Some(watcher) => watcher.next().await,
        None => std::future::pending().await,
    }
}

/// The machine knows no runtime, hence the clock of the standard library; in tests, tokio's simulated one.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}
