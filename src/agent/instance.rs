//! One agent per spool.

use super::fetch::TEMPORARY_PREFIX;
use crate::config::Config;
use crate::durable::Disk;
use crate::error::{Context, Error, Result};
use crate::spool::{Request, Spool, Until, ask_running, listener};
use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tracing::warn;

/// How long the agent before us may take to give the spool up: longer than [`END_MAX`](super::END_MAX).
const HANDOVER_MAX: Duration = Duration::from_secs(15);
/// How long it may take to say that it will.
const STOP_ANSWER_MAX: Duration = Duration::from_secs(5);
/// The length of the lock's file: a process id and a fingerprint, each on a line, and spaces.
const HOLDER_BYTES: usize = 64;
/// Nobody else may read it, or lock it.
const LOCK_MODE: u32 = 0o600;
const PAUSE: Duration = Duration::from_millis(10);

/// The right to be the agent of a spool: an exclusive lock, which the kernel ends with the process, however it ends.
#[derive(Debug)]
pub struct Instance {
    lock: File,
    disk: Arc<dyn Disk>,
}

/// What trying to become the agent led to.
#[derive(Debug)]
pub enum Acquired {
    /// We are the agent.
    Ours(Instance),
    /// An agent of the same configuration runs or starts: there is nothing left to do.
    AlreadyRunning,
}

impl Instance {
    /// Takes the spool, which must be prepared. An agent of another configuration, or of another version of pgark, is
    /// asked to stop and waited for.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) when the other agent does not end.
    pub fn acquire(config: &Config, spool: &Spool, disk: Arc<dyn Disk>) -> Result<Acquired> {
        Instance::try_acquire(config, spool, disk).map_err(|error| spool.failed(error))
    }

    fn try_acquire(config: &Config, spool: &Spool, disk: Arc<dyn Disk>) -> Result<Acquired> {
        let path = spool.lock();
        let what = || format!("could not lock \"{}\"", path.display());
        let mut lock = open_lock(disk.as_ref(), &path).context(what)?;
        let ours = config.fingerprint().to_string();
        let deadline = Instant::now() + HANDOVER_MAX;
        let mut asked = None;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(Error::io(what(), error)),
            }
            let holder = read_holder(&mut lock).context(what)?;
            // A dead one leaves its socket, and somebody may hold the lock for a moment only.
            if holder.fingerprint == ours && listener(spool).is_some() {
                return Ok(Acquired::AlreadyRunning);
            }
            // The holder may just have begun, or be ending; once it listens it can be asked.
            // Another one may have been faster than we when the first had ended.
            if holder.fingerprint != ours
                && asked.as_ref() != Some(&holder.process_id)
                && ask_others_to_stop(spool)?
            {
                asked = Some(holder.process_id.clone());
            }
            if Instant::now() >= deadline {
                return Err(Error::unavailable(format!(
                    "another agent holds the spool \"{}\" and does not exit (process {})",
                    spool.directory().display(),
                    holder.process_id
                ))
                .hint("Check its log, and stop it with pgark agent stop. If it is suspended or hangs, kill it; this is safe."));
            }
            thread::sleep(PAUSE);
        }
        // Of one length, over what is there: an agent must be able to begin on a full disk.
        let content = format!("{}\n{ours}\n", std::process::id());
        disk.write_at(&lock, format!("{content:<HOLDER_BYTES$}").as_bytes(), 0).context(what)?;
        clear(disk.as_ref(), config, spool)?;
        Ok(Acquired::Ours(Instance { lock, disk }))
    }

    /// Takes the socket's name away, so that nobody connects to an agent that ends. In a spool that was made anew it is
    /// another agent's.
    pub fn remove_socket(&self, spool: &Spool) {
        if self.holds(spool) {
            let _ = self.disk.remove_file(spool.socket());
        }
    }

    /// Gives up the lock. Not even the end of the process does that while a thread hangs in the kernel.
    pub fn give_up(self) {
        let _ = self.lock.unlock();
    }

    /// Gives up the lock after so long, whatever any other thread of this process does. What one that hangs in the repository
    /// still stores later does no harm, since a name is written once.
    pub fn give_up_after(&self, limit: Duration) {
        let Ok(lock) = self.lock.try_clone() else { return };
        // Without the thread the lock goes with the process.
        let _ = thread::Builder::new().name("lock".to_owned()).spawn(move || {
            thread::sleep(limit);
            let _ = lock.unlock();
        });
    }

    /// Whether this agent can still be found: its lock is the spool's, and there is a socket.
    pub fn can_be_asked(&self, spool: &Spool) -> bool {
        self.holds(spool) && spool.socket().exists()
    }

    fn holds(&self, spool: &Spool) -> bool {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let ours = self.lock.metadata().map(identity);
        ours.is_ok_and(|ours| fs::metadata(spool.lock()).is_ok_and(|lock| identity(lock) == ours))
    }
}

/// What the lock's file says of its holder.
struct Holder {
    process_id: String,
    fingerprint: String,
}

/// Opens the lock's file, which is never removed while somebody may hold it; creates it where there is none.
fn open_lock(disk: &dyn Disk, path: &Path) -> io::Result<File> {
    match disk.open_to_change(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match disk.create_new(path, LOCK_MODE) {
            // Another agent was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open_to_change(path),
            other => other,
        },
        other => other,
    }
}

fn read_holder(lock: &mut File) -> io::Result<Holder> {
    let mut content = Vec::new();
    lock.rewind()?;
    lock.take(256).read_to_end(&mut content)?;
    let content = String::from_utf8_lossy(&content);
    let mut lines = content.lines().map(str::to_owned);
    Ok(Holder { process_id: lines.next().unwrap_or_default(), fingerprint: lines.next().unwrap_or_default() })
}

/// Asks over their sockets, never by process id: an id from a file may be somebody else's by now.
fn ask_others_to_stop(spool: &Spool) -> Result<bool> {
    let mut asked = false;
    for socket in spool.sockets()?.into_iter().filter(|socket| socket != spool.socket()) {
        let other = spool.with_socket(socket);
        let answer = ask_running(&other, &Request::Stop, &mut Until(Instant::now() + STOP_ANSWER_MAX));
        asked |= matches!(answer, Ok(Some(_)));
    }
    Ok(asked)
}

/// Removes what dead agents left: their sockets, and what they fetched and nobody took.
fn clear(disk: &dyn Disk, config: &Config, spool: &Spool) -> Result<()> {
    let mut leftovers = spool.sockets()?;
    leftovers.extend(entries(&spool.prefetch())?);
    let is_ours = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY_PREFIX))
    };
    // Where there is none yet, there are no leftovers.
    let pg_wal = entries(&config.data_directory.join("pg_wal")).unwrap_or_default();
    leftovers.extend(pg_wal.into_iter().filter(is_ours));
    for path in leftovers {
        match disk.remove_file(&path) {
            // Whom it was lent to by an agent that died has just renamed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Nothing reads it; a socket of our own name is found out about when it is bound.
            Err(error) => warn!(path = %path.display(), %error, "cannot be removed from the spool"),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let what = || format!("could not list \"{}\"", directory.display());
    fs::read_dir(directory)
        .context(what)?
        .map(|entry| entry.map(|entry| entry.path()).context(what))
        .collect()
}
