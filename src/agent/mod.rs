//! The resident process that moves WAL for one configuration.
//!
//! Owns: reading ahead of the archiver and of recovery, several transfers at once, and the answers on the socket. All
//! that it knows is rebuilt from `archive_status` and the repository; nothing that it keeps matters after a crash.
//! Does not own: how WAL is checked and encoded (that is `repository/`), and how it is started (`spool/`).
//!
//! The way of a push: [`server`] → [`upload`], which the `ready` watcher feeds ahead. The way of a get: `server` →
//! [`fetch`], which fetches ahead by itself.

mod backfill;
mod fetch;
mod histories;
mod instance;
mod log;
mod places;
mod ready;
mod rivals;
mod server;
mod status;
mod upload;

pub use instance::{Acquired, Instance};
pub use log::RotatingLog;
pub use status::{AgentStatus, FailureStatus};

use crate::config::{AgentSettings, AgentStart, Config};
use crate::durable::Disk;
use crate::error::{Context, Result};
use crate::spool::Spool;
use crate::store::Store;
use fetch::Fetcher;
use places::Places;
use server::Server;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use upload::Uploads;

/// How long the agent goes on for what is in flight when it ends. After that it gives the spool up, whatever hangs.
pub const END_MAX: Duration = Duration::from_secs(10);

/// How often the agent looks whether it can still be found in its spool.
const SPOOL_LOOK: Duration = Duration::from_secs(2);

/// Serves the socket until nobody asks any more, `stop` is asked for, or SIGTERM or SIGINT comes; then finishes what
/// is in flight, for [`END_MAX`]. When it returns, threads may still hang in the repository.
///
/// `instance` holds the spool's lock, and `listening` is called once the socket takes connections.
///
/// # Errors
/// What keeps it from listening. What goes wrong afterwards is answered to whoever asks.
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
    let server = Server::new(uploads, fetcher.clone(), spool.clone(), idle_time(&config.agent), stop.clone());
    info!(pid = std::process::id(), repository = store.location(), "agent listens");
    listening();
    // Backups sweep as well, for those whose agents end with each call.
    if config.agent.resident {
        tokio::task::spawn_blocking(move || sweep(store.as_ref()));
    }
    // A task of its own runs on the threads that serve connections: otherwise each call would wait for one thread to wake
    // another.
    let acceptor = server.clone();
    let mut accepting = tokio::spawn(async move { acceptor.accept(listener, stopped).await });
    tokio::select! {
        _ = &mut accepting => info!("agent is stopping: requested or idle"),
        _ = terminate.recv() => info!("agent is stopping: SIGTERM"),
        _ = interrupt.recv() => info!("agent is stopping: SIGINT"),
        () = forsaken(&instance, &spool) => info!("agent is stopping: its spool was removed"),
        // Nothing would be stored any more; whoever asks next starts another agent.
        () = uploading.failed() => {}
    }
    // From here on the next caller starts a new agent, which waits for our lock.
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

/// How long the agent stays without a request. One that no program starts stays, since none would start it again.
fn idle_time(config: &AgentSettings) -> Option<Duration> {
    (config.start == AgentStart::Needed).then_some(config.idle)
}

fn sweep(store: &dyn Store) {
    match store.sweep() {
        Ok(0) => {}
        Ok(swept) => info!(swept, "removed abandoned files of dead writers from the repository"),
        // The repository may be away for now; the first push says so to whom it concerns.
        Err(error) => info!(%error, "could not clean up the repository"),
    }
}

/// Returns when nobody can ask this agent any more, because its spool or its socket was removed. It must give up the lock
/// then, for another agent to be started.
async fn forsaken(instance: &Instance, spool: &Spool) {
    while instance.can_be_asked(spool) {
        sleep(SPOOL_LOOK).await;
    }
}

/// Binds the socket. The spool is ours alone and the lock is held, so whatever has its name is a dead agent's.
fn bind(spool: &Spool) -> Result<UnixListener> {
    UnixListener::bind(spool.socket())
        .context(|| format!("could not listen on \"{}\"", spool.socket().display()))
        .map_err(|error| spool.failed(error))
}
