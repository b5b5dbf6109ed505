//! The resident process that moves WAL for one configuration.
//!
//! Owns: reading ahead of the archiver and of recovery, concurrent transfers, and the answers on the socket.
//! Its whole state can be rebuilt from `archive_status` and the repository; nothing that it keeps matters
//! after a crash. Does not own: checking and encoding WAL (that is `repository/`), and starting the agent
//! (`spool/`).
//!
//! A push: [`request_server`] → [`upload`], which the `ready` watcher feeds ahead of requests. A get:
//! `request_server` → [`fetch`], which prefetches without a request.

mod backfill;
mod competing_timelines;
mod fetch;
mod histories;
mod instance;
mod places;
mod ready;
mod request_server;
mod status;
mod upload;

pub use instance::{Acquired, Instance};
pub use status::{AgentStatus, FailureStatus};

use crate::config::{AgentSettings, AgentStart, Config};
use crate::durable::Disk;
use crate::error::{Context, Result};
use crate::spool::Spool;
use crate::store::Store;
use fetch::Fetcher;
use places::Places;
use request_server::RequestServer;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use upload::Uploads;

/// How long an ending agent waits for transfers in flight. After that it releases the spool, even if threads
/// hang.
pub const END_MAX: Duration = Duration::from_secs(10);

/// How often the agent checks that its spool and socket still exist.
const SPOOL_LOOK: Duration = Duration::from_secs(2);

/// Serves the socket until the idle time has passed, `stop` is requested, or SIGTERM or SIGINT arrives. Then
/// finishes the transfers in flight, for at most [`END_MAX`]. When it returns, threads may still hang in the
/// repository.
///
/// `instance` holds the spool's lock. `listening` is called once the socket accepts connections.
///
/// # Errors
/// What prevents it from listening. Later errors are sent to the clients concerned.
pub async fn serve(
    config: Arc<Config>,
    store: Arc<dyn Store>,
    disk: Arc<dyn Disk>,
    instance: Instance,
    listening: impl FnOnce(),
) -> Result<()> {
    let spool = Spool::of(&config)?;
    let listener = bind(&spool)?;
    let what = || "could not listen for signals";
    let mut terminate = signal(SignalKind::terminate()).context(what)?;
    let mut interrupt = signal(SignalKind::interrupt()).context(what)?;
    let (stop, stopped) = watch::channel(false);
    let places = Arc::new(Places::new(config.clone(), store.clone(), disk, spool.places()));
    let (uploads, mut uploading) = Uploads::start(&config, places.clone(), spool.clone());
    let fetcher = Arc::new(Fetcher::new(&config, places, spool.clone(), uploads.watch()));
    let server =
        RequestServer::new(uploads, fetcher.clone(), spool.clone(), idle_time(&config.agent), stop.clone());
    info!(pid = std::process::id(), repository = store.location(), "agent listens");
    listening();
    // Backups sweep as well, for configurations whose agents end with each call.
    if config.agent.resident {
        tokio::task::spawn_blocking(move || sweep(store.as_ref()));
    }
    // A task of its own runs on the threads that serve connections. Otherwise each call would wait for one
    // thread to wake another.
    let acceptor = server.clone();
    let mut accepting = tokio::spawn(async move { acceptor.accept(listener, stopped).await });
    tokio::select! {
        _ = &mut accepting => info!("agent is stopping: requested or idle"),
        _ = terminate.recv() => info!("agent is stopping: SIGTERM"),
        _ = interrupt.recv() => info!("agent is stopping: SIGINT"),
        () = spool_removed(&instance, &spool) => info!("agent is stopping: its spool was removed"),
        // No more WAL would be stored. The next client starts another agent.
        () = uploading.failed() => {}
    }
    // From here on the next client starts a new agent, which waits for our lock.
    instance.remove_socket(&spool);
    instance.give_up_after(END_MAX + Duration::from_secs(1));
    if !accepting.is_finished() {
        accepting.abort();
        let _ = accepting.await;
    }
    stop.send_replace(true);
    let finish = async {
        server.finish().await;
        drop(server);
        uploading.finish().await;
        fetcher.finish().await;
    };
    match timeout(END_MAX, finish).await {
        Ok(()) => info!("agent stopped"),
        Err(_) => warn!("agent stops without waiting for unfinished operations: one hangs or takes too long"),
    }
    instance.give_up();
    Ok(())
}

/// How long the agent stays without a request. An agent that no program starts stays forever, since none
/// would restart it.
fn idle_time(config: &AgentSettings) -> Option<Duration> {
    (config.start == AgentStart::Needed).then_some(config.idle)
}

fn sweep(store: &dyn Store) {
    match store.sweep() {
        Ok(0) => {}
        Ok(swept) => info!(swept, "removed abandoned files of dead writers from the repository"),
        // The repository may be unavailable now. The first push reports that to its caller.
        Err(error) => info!(%error, "could not clean up the repository"),
    }
}

/// Returns when this agent is unreachable because its spool or its socket was removed. It must then release
/// the lock, so that another agent can start.
async fn spool_removed(instance: &Instance, spool: &Spool) {
    while instance.can_be_asked(spool) {
        sleep(SPOOL_LOOK).await;
    }
}

/// Binds the socket. The spool is ours and the lock is held, so an existing socket is a dead agent's.
fn bind(spool: &Spool) -> Result<UnixListener> {
    UnixListener::bind(spool.socket())
        .context(|| format!("could not listen on \"{}\"", spool.socket().display()))
        .map_err(|error| spool.failed(error))
}
