//! The host's syslog: RFC 3164 messages over its local socket.
//!
//! Not through `syslog(3)`, as the crates for `tracing` do: it drops a message without an error if no daemon is listening,
//! and it can block without limit.

use super::journal::priority;
use super::rotating::RotatingLog;
use jiff::{Timestamp, Zoned};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::Level;

/// The socket of the host's syslog. Source: `syslog(3)`, `_PATH_LOG`.
pub const SYSLOG_SOCKET: &str = "/dev/log";

/// The facility of daemons. Source: RFC 3164, 4.1.1.
const DAEMON: u8 = 3;
/// How long a full queue of the syslog may delay a message.
const SEND_MAX: Duration = Duration::from_millis(100);
/// How long messages go to the file at once after the syslog did not take one.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The syslog, and the file for messages that it does not take.
#[derive(Debug)]
pub struct Syslog {
    path: PathBuf,
    otherwise: RotatingLog,
    link: Mutex<Link>,
}

#[derive(Debug)]
enum Link {
    Open(UnixDatagram),
    Closed { until: Option<Instant> },
}

impl Syslog {
    pub(super) fn new(path: PathBuf, otherwise: RotatingLog) -> Syslog {
        Syslog { path, otherwise, link: Mutex::new(Link::Closed { until: None }) }
    }

    /// Sends a message, or writes it to the file.
    pub(super) fn write(&self, level: Level, message: &str) -> io::Result<()> {
        let message = message.trim();
        if self.send(&datagram(level, message, &Zoned::now())).is_ok() {
            return Ok(());
        }
        // An object contains its time already.
        let line = match message.starts_with('{') {
            true => format!("{message}\n"),
            false => format!("{:.6} {message}\n", Timestamp::now()),
        };
        (&self.otherwise).write_all(line.as_bytes())
    }

    fn send(&self, datagram: &str) -> io::Result<()> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Link::Open(socket) = &*link
            && socket.send(datagram.as_bytes()).is_ok()
        {
            return Ok(());
        }
        if let Link::Closed { until: Some(until) } = &*link
            && Instant::now() < *until
        {
            return Err(io::ErrorKind::NotConnected.into());
        }
        // A syslog that was restarted has another socket.
        match connect(&self.path).and_then(|socket| socket.send(datagram.as_bytes()).map(|_| socket)) {
            Ok(socket) => {
                *link = Link::Open(socket);
                Ok(())
            }
            Err(error) => {
                *link = Link::Closed { until: Some(Instant::now() + RETRY_PAUSE) };
                Err(error)
            }
        }
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_MAX))?;
    socket.connect(path)?;
    Ok(socket)
}

/// The message as a syslog on the same host expects it: without the host's name, which only a relay adds. Control
/// characters, with which a message could pretend to be another one, become spaces.
///
/// Source: RFC 3164, 4.1; `syslog(3)` of glibc.
fn datagram(level: Level, message: &str, now: &Zoned) -> String {
    let code = DAEMON * 8 + priority(level);
    let text: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("<{code}>{} pgark[{}]: {text}", now.strftime("%b %e %H:%M:%S"), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_datagram_has_priority_time_and_process() {
        let now: Zoned = "2026-01-05T04:03:02+00:00[UTC]".parse().unwrap();
        let process = std::process::id();
        assert_eq!(
            datagram(Level::WARN, "a\nb\u{1b}c", &now),
            format!("<28>Jan  5 04:03:02 pgark[{process}]: a b c")
        );
        assert!(datagram(Level::ERROR, "", &now).starts_with("<27>"));
        assert!(datagram(Level::INFO, "", &now).starts_with("<30>"));
        assert!(datagram(Level::TRACE, "", &now).starts_with("<31>"));
    }

    /// A syslog in a directory, and the file beside it.
    struct Scene {
        directory: tempfile::TempDir,
        syslog: Syslog,
    }

    impl Scene {
        fn new() -> Scene {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("agent.log");
            let log = RotatingLog::open(crate::durable::disk(), &file, 1 << 20).unwrap();
            let syslog = Syslog::new(directory.path().join("log"), log);
            Scene { directory, syslog }
        }

        fn listen(&self) -> UnixDatagram {
            let socket = UnixDatagram::bind(self.directory.path().join("log")).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket
        }

        fn file(&self) -> String {
            fs::read_to_string(self.directory.path().join("agent.log")).unwrap()
        }

        /// Forgets when the syslog did not take a message.
        fn retry_at_once(&self) {
            *self.syslog.link.lock().unwrap() = Link::Closed { until: None };
        }
    }

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn what_the_syslog_does_not_take_is_in_the_file() {
        let scene = Scene::new();
        scene.syslog.write(Level::INFO, " INFO early\n").unwrap();
        scene.syslog.write(Level::INFO, "{\"message\":\"json\"}\n").unwrap();
        let file = scene.file();
        let lines: Vec<_> = file.lines().collect();
        let [early, json] = lines[..] else { panic!("{file}") };
        assert!(early.ends_with("Z INFO early") && early.starts_with("20"), "{early}");
        assert_eq!(json, "{\"message\":\"json\"}");

        let socket = scene.listen();
        scene.retry_at_once();
        scene.syslog.write(Level::INFO, " INFO listens\n").unwrap();
        assert!(receive(&socket).ends_with("]: INFO listens"));

        // Restarted.
        drop(socket);
        fs::remove_file(scene.directory.path().join("log")).unwrap();
        let socket = scene.listen();
        scene.syslog.write(Level::ERROR, "ERROR again\n").unwrap();
        assert!(receive(&socket).starts_with("<27>"));

        // Gone.
        drop(socket);
        scene.syslog.write(Level::ERROR, "ERROR gone\n").unwrap();
        assert!(scene.file().ends_with("ERROR gone\n"));
        assert_eq!(scene.file().lines().count(), 3);
    }

    #[test]
    fn a_syslog_that_hangs_delays_little_and_loses_nothing() {
        let scene = Scene::new();
        let socket = scene.listen();
        let began = Instant::now();
        let mut written = 0;
        while scene.file().is_empty() {
            scene.syslog.write(Level::INFO, &format!("INFO {written}\n")).unwrap();
            written += 1;
            assert!(began.elapsed() < Duration::from_secs(60), "the queue has a limit");
        }
        let more = Instant::now();
        for number in 0..100 {
            scene.syslog.write(Level::INFO, &format!("INFO more {number}\n")).unwrap();
        }
        // With the limit for each message it would be 10 s.
        assert!(more.elapsed() < Duration::from_secs(5), "{:?}", more.elapsed());
        socket.set_nonblocking(true).unwrap();
        let taken = std::iter::from_fn(|| socket.recv(&mut [0; 64]).ok()).count();
        assert_eq!(taken + scene.file().lines().count(), written + 100);
    }
}
