//! Ensures that a spool has one agent at most.

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

/// How long the previous agent may take to release the spool: longer than [`END_MAX`](super::END_MAX).
const HANDOVER_MAX: Duration = Duration::from_secs(15);
/// How long it may take to confirm that it will.
const STOP_ANSWER_MAX: Duration = Duration::from_secs(5);
/// The size of the lock file: a process id and a fingerprint, one line each, padded with spaces.
const HOLDER_BYTES: usize = 64;
/// No other user may read or lock the file.
const LOCK_MODE: u32 = 0o600;
const PAUSE: Duration = Duration::from_millis(10);

/// The right to be the agent of a spool: an exclusive lock, which the kernel releases with the process,
/// however that ends.
#[derive(Debug)]
pub struct Instance {
    lock: File,
    disk: Arc<dyn Disk>,
}

/// The result of trying to become the agent.
#[derive(Debug)]
pub enum Acquired {
    /// This process is the agent.
    Ours(Instance),
    /// An agent of the same configuration runs or starts; nothing is left to do.
    AlreadyRunning,
}

impl Instance {
    /// Takes over the spool, which must be prepared. Asks an agent of another configuration or another
    /// version of pgark to stop, and waits for it.
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
            // A dead agent leaves its socket behind, and another process may hold the lock for a moment.
            if holder.fingerprint == ours && listener(spool).is_some() {
                return Ok(Acquired::AlreadyRunning);
            }
            // The holder may have just started, or may be ending. It can be asked once it listens.
            // Another process may have been faster when the first agent ended.
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
        // Overwrites in place with a fixed length, so that an agent can start on a full disk.
        let content = format!("{}\n{ours}\n", std::process::id());
        disk.write_at(&lock, format!("{content:<HOLDER_BYTES$}").as_bytes(), 0).context(what)?;
        clear(disk.as_ref(), config, spool)?;
        Ok(Acquired::Ours(Instance { lock, disk }))
    }

    /// Removes the socket, so that no client connects to an ending agent. If the spool was recreated, the
    /// socket is another agent's and stays.
    pub fn remove_socket(&self, spool: &Spool) {
        if self.holds(spool) {
            let _ = self.disk.remove_file(spool.socket());
        }
    }

    /// Releases the lock. Even the end of the process does not release it while a thread hangs in the kernel.
    pub fn give_up(self) {
        let _ = self.lock.unlock();
    }

    /// Releases the lock after `limit`, whatever the other threads of this process do. A thread that hangs in
    /// the repository and stores its file later does no harm, since a name is written once.
    pub fn give_up_after(&self, limit: Duration) {
        let Ok(lock) = self.lock.try_clone() else { return };
        // Without the thread, the lock is released when the process ends.
        let _ = thread::Builder::new().name("lock".to_owned()).spawn(move || {
            thread::sleep(limit);
            let _ = lock.unlock();
        });
    }

    /// Whether clients can still reach this agent: its lock is the spool's, and the socket exists.
    pub fn can_be_asked(&self, spool: &Spool) -> bool {
        self.holds(spool) && spool.socket().exists()
    }

    fn holds(&self, spool: &Spool) -> bool {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let ours = self.lock.metadata().map(identity);
        ours.is_ok_and(|ours| fs::metadata(spool.lock()).is_ok_and(|lock| identity(lock) == ours))
    }
}

/// The holder's entry in the lock file.
struct Holder {
    process_id: String,
    fingerprint: String,
}

/// Opens the lock file, creating it if it is missing. It is never removed, because a process may hold its
/// lock.
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

/// Asks over the sockets, never by process id: an id from a file may belong to another process by now.
fn ask_others_to_stop(spool: &Spool) -> Result<bool> {
    let mut asked = false;
    for socket in spool.sockets()?.into_iter().filter(|socket| socket != spool.socket()) {
        let other = spool.with_socket(socket);
        let answer = ask_running(&other, &Request::Stop, &mut Until(Instant::now() + STOP_ANSWER_MAX));
        asked |= matches!(answer, Ok(Some(_)));
    }
    Ok(asked)
}

/// Removes the remains of dead agents: sockets, and prefetched files.
fn clear(disk: &dyn Disk, config: &Config, spool: &Spool) -> Result<()> {
    let mut leftovers = spool.sockets()?;
    leftovers.extend(entries(&spool.prefetch())?);
    let is_ours = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY_PREFIX))
    };
    // Without `pg_wal` there are no leftovers.
    let pg_wal = entries(&config.data_directory.join("pg_wal")).unwrap_or_default();
    leftovers.extend(pg_wal.into_iter().filter(is_ours));
    for path in leftovers {
        match disk.remove_file(&path) {
            // The client of a dead agent has just renamed its lent file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The file is never read, and a conflicting socket is detected when ours is bound.
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
