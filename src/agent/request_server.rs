//! The agent's side of the socket.

use super::fetch::Fetcher;
use super::status::AgentStatus;
use super::upload::Uploads;
use crate::error::{Context, Error, Result};
use crate::failpoint::{self, Mutant};
use crate::postgres::WalFileName;
use crate::spool::{Answer, GetRequest, Request, Spool, read_request, write_answer};
use nix::unistd::Uid;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempPath;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::level_filters::LevelFilter;
use tracing::{debug, warn};

/// How long a client may take to send its request, and to take over a lent file.
const REQUEST_MAX: Duration = Duration::from_secs(10);
const LENT_MAX: Duration = Duration::from_secs(60);
/// The delay before a waiting client is first told the reason, and the interval after that.
const NOTICE_FIRST: Duration = Duration::from_secs(1);
const NOTICE_EVERY: Duration = Duration::from_secs(2);
/// The most concurrent connections. PostgreSQL has one archiver and one startup process.
const CONNECTIONS_MAX: usize = 64;

/// Answers requests, each on a connection of its own.
#[derive(Clone, Debug)]
pub struct RequestServer {
    uploads: Uploads,
    fetcher: Arc<Fetcher>,
    spool: Spool,
    idle: Option<Duration>,
    stop: watch::Sender<bool>,
    open: Arc<AtomicUsize>,
    connections: Arc<Mutex<JoinSet<()>>>,
}

impl RequestServer {
    pub fn new(
        uploads: Uploads,
        fetcher: Arc<Fetcher>,
        spool: Spool,
        idle: Option<Duration>,
        stop: watch::Sender<bool>,
    ) -> RequestServer {
        RequestServer {
            uploads,
            fetcher,
            spool,
            idle,
            stop,
            open: Arc::default(),
            connections: Arc::default(),
        }
    }

    fn idle_from_now(&self) -> Option<Instant> {
        self.idle.map(|idle| Instant::now() + idle)
    }

    /// Accepts connections until `stopped`, or until none arrived during the idle time, if one is set.
    pub async fn accept(&self, listener: UnixListener, mut stopped: watch::Receiver<bool>) {
        let mut idle_at = self.idle_from_now();
        loop {
            tokio::select! {
                _ = stopped.changed() => return,
                accepted = listener.accept() => {
                    idle_at = self.idle_from_now();
                    match accepted {
                        Ok((stream, _)) if self.open.load(Ordering::Relaxed) < CONNECTIONS_MAX => self.begin(stream).await,
                        Ok(_) => warn!("refused a connection: too many connections"),
                        Err(error) => {
                            // For example, no file descriptors are left. That is temporary, and must not
                            // become a busy loop.
                            warn!(%error, "could not accept a connection");
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
                () = reached(idle_at) => {
                    if self.open.load(Ordering::Relaxed) == 0 {
                        return;
                    }
                    idle_at = self.idle_from_now();
                }
            }
        }
    }

    /// Waits until the requests that were read are answered. Clients of all others see their connection
    /// close, and so do those that still wait when the agent is given up.
    pub async fn finish(&self) {
        let mut connections = self.connections.lock().await;
        while connections.join_next().await.is_some() {}
    }

    async fn begin(&self, stream: UnixStream) {
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == Uid::effective().as_raw() => {}
            Ok(peer) => return warn!(uid = peer.uid(), "refused a connection of another user"),
            Err(error) => return warn!(%error, "refused a connection"),
        }
        let server = self.clone();
        let open = Open::new(&self.open);
        let mut connections = self.connections.lock().await;
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            if let Err(error) = server.converse(stream).await {
                debug!(%error, "a connection ended early");
            }
            drop(open);
        });
    }

    async fn converse(&self, mut stream: UnixStream) -> Result<()> {
        let request = match timeout(REQUEST_MAX, receive(&mut stream)).await {
            Ok(received) => received?,
            Err(_) => return Err(Error::unavailable("no request was received")),
        };
        let Some(request) = request else { return Ok(()) };
        let mut lent: Option<TempPath> = None;
        let awaited = AwaitedRequest::of(&request);
        // Not `tracing::enabled!`; see `LoggedStore::of`.
        let described = (LevelFilter::current() >= LevelFilter::DEBUG).then(|| description(&request));
        let began = Instant::now();
        let (mut reading, mut writing) = stream.into_split();
        // An upload in flight is worth waiting for. A fetch is not: the next agent can repeat it.
        let wanted = if let Request::Get(get) = &request { Some(get.clone()) } else { None };
        let mut stopping = self.stop.subscribe();
        let answer = async {
            let answer = self.answer(request, &mut lent);
            tokio::pin!(answer);
            let mut notice_at = Instant::now() + NOTICE_FIRST;
            loop {
                tokio::select! {
                    () = told_to_stop(&mut stopping), if wanted.is_some() => return None,
                    answer = &mut answer => return answer,
                    // The client has disconnected, for example because PostgreSQL was shut down. The answer
                    // is no longer needed.
                    () = gone(&mut reading) => return None,
                    reason = self.reason_at(notice_at, &awaited) => {
                        notice_at = Instant::now() + NOTICE_EVERY;
                        if let Some(reason) = reason {
                            send(&mut writing, &Answer::Waits(reason)).await.ok()?;
                        }
                    }
                }
            }
        };
        let answer = answer.await;
        // Without an answer the connection closes, and the client starts a new agent.
        let Some(answer) = answer else { return Ok(()) };
        failpoint::step(if matches!(answer, Answer::Stored) { "acknowledge" } else { "say" });
        send(&mut writing, &answer).await?;
        failpoint::step("said");
        if let Some(request) = described {
            let duration_ms = began.elapsed().as_millis() as u64;
            debug!(request, duration_ms, "answered a request");
        }
        if lent.is_some() {
            // The client renames or copies the file and then ends, in whatever way.
            let _ = timeout(LENT_MAX, gone(&mut reading)).await;
            drop(lent.take());
            if let Some(wanted) = wanted {
                self.fetcher.follow(&wanted).await;
            }
        }
        Ok(())
    }

    /// Waits until `at`, and returns why the client still waits.
    async fn reason_at(&self, at: Instant, awaited: &AwaitedRequest) -> Option<Error> {
        sleep_until(at).await;
        match awaited {
            AwaitedRequest::Stored(name) => self.uploads.reason(*name).await,
            AwaitedRequest::Fetched(request) => self.fetcher.reason(request),
            AwaitedRequest::Nothing => pending().await,
        }
    }

    async fn answer(&self, request: Request, lent: &mut Option<TempPath>) -> Option<Answer> {
        let answer = match request {
            Request::Push(push) if failpoint::mutant(Mutant::EarlyAcknowledgement) => {
                let uploads = self.uploads.clone();
                tokio::spawn(async move { uploads.push(push).await });
                Answer::Stored
            }
            Request::Push(push) => match self.uploads.push(push).await? {
                Ok(()) => Answer::Stored,
                Err(error) => Answer::Failed(error),
            },
            Request::Get(get) => match self.fetcher.get(&get).await {
                Ok(fetched) => Answer::Fetched {
                    path: lent.insert(fetched.path).to_path_buf(),
                    instead: fetched.instead,
                },
                Err(error) => Answer::Failed(error),
            },
            Request::Status => self.status().await?,
            Request::Stop => {
                self.stop.send_replace(true);
                Answer::Stopping
            }
        };
        Some(answer)
    }

    async fn status(&self) -> Option<Answer> {
        let status = AgentStatus {
            process_id: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            log: self.spool.log().file.display().to_string(),
            upload: self.uploads.status().await?,
            fetch: self.fetcher.status(),
        };
        match serde_json::to_string(&status) {
            Ok(json) => Some(Answer::Status(json)),
            Err(error) => Some(Answer::Failed(Error::damaged("could not write the status").caused_by(error))),
        }
    }
}

/// A request that may take long enough for the reason to be reported.
enum AwaitedRequest {
    Stored(WalFileName),
    Fetched(GetRequest),
    Nothing,
}

impl AwaitedRequest {
    fn of(request: &Request) -> AwaitedRequest {
        match request {
            Request::Push(push) => AwaitedRequest::Stored(push.name),
            Request::Get(get) => AwaitedRequest::Fetched(get.clone()),
            Request::Status | Request::Stop => AwaitedRequest::Nothing,
        }
    }
}

/// A request for the log.
fn description(request: &Request) -> String {
    match request {
        Request::Push(push) => format!("push {}", push.name),
        Request::Get(get) => format!("get {}", get.name),
        Request::Status => "status".to_owned(),
        Request::Stop => "stop".to_owned(),
    }
}

async fn told_to_stop(stopping: &mut watch::Receiver<bool>) {
    // Without a sender there is no agent any more.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn send(writing: &mut OwnedWriteHalf, answer: &Answer) -> Result<()> {
    let mut message = Vec::new();
    write_answer(&mut message, answer)?;
    writing.write_all(&message).await.context(|| "could not send a response")
}

/// Counts a connection as open until it is dropped, also by a panic.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Open {
        count.fetch_add(1, Ordering::Relaxed);
        Open(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads one complete message, for the protocol to parse.
async fn receive(stream: &mut UnixStream) -> Result<Option<Request>> {
    let mut message = vec![0; 4];
    if stream.read_exact(&mut message).await.is_err() {
        return Ok(None);
    }
    let length = message.iter().rev().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
    if length <= crate::spool::MESSAGE_BYTES_MAX {
        message.resize(4 + length, 0);
        let payload = message.get_mut(4..).unwrap_or_default();
        if stream.read_exact(payload).await.is_err() {
            return Ok(None);
        }
    }
    read_request(&mut message.as_slice())
}

/// Returns when the client has disconnected. Clients send nothing after their request.
async fn gone(reading: &mut OwnedReadHalf) {
    let mut byte = [0];
    match reading.read(&mut byte).await {
        Ok(0) | Err(_) => {}
        // A second request violates the protocol; it gets no answer.
        Ok(_) => pending().await,
    }
}

/// Waits until a moment; forever if there is none.
async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
