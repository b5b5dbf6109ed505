//! The protocol between the small programs and the agent.
//!
//! A message is a length (u32, little-endian, at most [`MESSAGE_BYTES_MAX`]) and that many bytes: one byte
//! for the type, then the fields in order. Integers are little-endian. Texts and paths are preceded by their
//! length (u32). Both sides have the same version, since it is part of the socket's name, so the protocol
//! itself has no versions.

use crate::error::{Context, Error, ErrorKind, RecoveryMode, Result};
use crate::postgres::{MajorVersion, SegmentName, SegmentSize, SystemIdentifier, TimelineId, WalFileName};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest message, in bytes; paths and error texts are far shorter.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// A request from a small program, or from `pgark`, to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Store a WAL file, and report when it is stored.
    Push(PushRequest),
    /// Fetch a WAL file into the spool, and report its path.
    Get(GetRequest),
    /// Report the current state.
    Status,
    /// Finish what is in flight and end.
    Stop,
}

/// A request to store one WAL file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushRequest {
    /// The system identifier in the data directory's `pg_control`.
    pub system: SystemIdentifier,
    /// Its segment size.
    pub segment_size: SegmentSize,
    /// The server's version; `None` if pgark does not know it.
    pub version: Option<MajorVersion>,
    /// The file's name.
    pub name: WalFileName,
    /// The file, absolute.
    pub path: PathBuf,
    /// How long the client can wait.
    pub deadline: Duration,
}

/// A request to fetch one WAL file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetRequest {
    /// The system identifier in the data directory's `pg_control`.
    pub system: SystemIdentifier,
    /// Its segment size.
    pub segment_size: SegmentSize,
    /// The server's version; `None` if pgark does not know it.
    pub version: Option<MajorVersion>,
    /// The file's name.
    pub name: WalFileName,
    /// How the server recovers.
    pub mode: RecoveryMode,
    /// What a missing segment means.
    pub target: TargetRule,
    /// The timeline that is the destination of the recovery, if known.
    pub timeline: Option<TimelineId>,
    /// The last segment that the recovery is proven to need, if known.
    pub proven_end: Option<SegmentName>,
    /// Identifies the recovery: the start time of its server in seconds since 1970, or 0 if unknown. Findings
    /// about one recovery do not apply to the next.
    pub server_start_s: u64,
    /// The server's `pg_wal`, absolute: the destination when the spool cannot be written.
    pub pg_wal: PathBuf,
    /// Whether more files of this timeline will be requested; `pg_rewind` requests single files.
    pub prefetch: bool,
    /// How long the agent may try.
    pub deadline: Duration,
}

/// Whether recovery has a target, which decides the meaning of a hole in the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetRule {
    /// Recovery ends where the archive ends: a hole would make it end early and silently.
    NoTarget,
    /// PostgreSQL itself fails when it does not reach the target.
    WithTarget,
}

/// A message from the agent.
#[derive(Debug)]
pub enum Answer {
    /// The file is stored in the repository.
    Stored,
    /// The path of the file, complete and verified. The client owns it until the connection ends.
    Fetched {
        /// Where.
        path: PathBuf,
        /// Why the file is not in the spool.
        instead: Option<Error>,
    },
    /// The current state, as JSON.
    Status(String),
    /// The agent listens. Sent once, to the process that started it.
    Ready,
    /// The agent will end.
    Stopping,
    /// The request failed.
    Failed(Error),
    /// The request is still in progress, for this reason. Another answer follows.
    Waits(Error),
}

/// Writes one request.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when the other side has disconnected.
pub fn write_request(stream: &mut dyn Write, request: &Request) -> Result<()> {
    let mut message = MessageWriter::default();
    match request {
        Request::Push(push) => {
            message.byte(1);
            message.system(push.system, push.segment_size, push.version);
            message.text(push.name.to_string().as_bytes());
            message.text(push.path.as_os_str().as_bytes());
            message.duration(push.deadline);
        }
        Request::Get(get) => {
            message.byte(2);
            message.system(get.system, get.segment_size, get.version);
            message.text(get.name.to_string().as_bytes());
            message.byte(u8::from(get.mode == RecoveryMode::Standby));
            message.byte(u8::from(get.target == TargetRule::WithTarget));
            message.u64(get.timeline.map_or(0, |timeline| u64::from(timeline.as_u32())));
            message.text(get.proven_end.map(|end| end.to_string()).unwrap_or_default().as_bytes());
            message.u64(get.server_start_s);
            message.text(get.pg_wal.as_os_str().as_bytes());
            message.byte(u8::from(get.prefetch));
            message.duration(get.deadline);
        }
        Request::Status => message.byte(3),
        Request::Stop => message.byte(4),
    }
    message.send(stream)
}

/// Reads one request; `None` when the other side has disconnected instead.
///
/// # Errors
/// [`ErrorKind::Damaged`] for anything that [`write_request`] does not write.
pub fn read_request(stream: &mut dyn Read) -> Result<Option<Request>> {
    let Some(message) = receive(stream)? else { return Ok(None) };
    let mut fields = MessageReader(&message);
    let request = match fields.byte()? {
        1 => Request::Push(PushRequest {
            system: fields.system()?,
            segment_size: fields.segment_size()?,
            version: fields.version()?,
            name: fields.name()?,
            path: fields.path()?,
            deadline: Duration::from_millis(fields.u64()?),
        }),
        2 => Request::Get(GetRequest {
            system: fields.system()?,
            segment_size: fields.segment_size()?,
            version: fields.version()?,
            name: fields.name()?,
            mode: if fields.flag()? { RecoveryMode::Standby } else { RecoveryMode::OneShot },
            target: if fields.flag()? { TargetRule::WithTarget } else { TargetRule::NoTarget },
            timeline: u32::try_from(fields.u64()?).ok().and_then(TimelineId::new),
            proven_end: fields.optional_segment()?,
            server_start_s: fields.u64()?,
            pg_wal: fields.path()?,
            prefetch: fields.flag()?,
            deadline: Duration::from_millis(fields.u64()?),
        }),
        3 => Request::Status,
        4 => Request::Stop,
        _ => return Err(nonsense()),
    };
    fields.end()?;
    Ok(Some(request))
}

/// Writes one answer.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when the other side has disconnected.
pub fn write_answer(stream: &mut dyn Write, answer: &Answer) -> Result<()> {
    let mut message = MessageWriter::default();
    match answer {
        Answer::Stored => message.byte(1),
        Answer::Fetched { path, instead } => {
            message.byte(2);
            message.text(path.as_os_str().as_bytes());
            message.byte(u8::from(instead.is_some()));
            if let Some(reason) = instead {
                message.error(reason);
            }
        }
        Answer::Status(json) => {
            message.byte(3);
            message.text(json.as_bytes());
        }
        Answer::Stopping => message.byte(4),
        Answer::Ready => message.byte(6),
        Answer::Failed(error) => {
            message.byte(5);
            message.error(error);
        }
        Answer::Waits(reason) => {
            message.byte(7);
            message.error(reason);
        }
    }
    message.send(stream)
}

/// Reads one answer; `None` when the other side has disconnected instead: the agent has died, and the request
/// is still open.
///
/// # Errors
/// [`ErrorKind::Damaged`] for anything that [`write_answer`] does not write.
pub fn read_answer(stream: &mut dyn Read) -> Result<Option<Answer>> {
    let Some(message) = receive(stream)? else { return Ok(None) };
    let mut fields = MessageReader(&message);
    let answer = match fields.byte()? {
        1 => Answer::Stored,
        2 => Answer::Fetched {
            path: fields.path()?,
            instead: if fields.flag()? { Some(fields.error()?) } else { None },
        },
        3 => Answer::Status(fields.string()?),
        4 => Answer::Stopping,
        6 => Answer::Ready,
        5 => Answer::Failed(fields.error()?),
        7 => Answer::Waits(fields.error()?),
        _ => return Err(nonsense()),
    };
    fields.end()?;
    Ok(Some(answer))
}

fn nonsense() -> Error {
    Error::damaged("received an unknown message on the agent's socket")
        .hint("Check whether another program uses this spool. Each cluster needs its own spool.")
}

/// Truncates a text so that it fits into a message together with the other fields.
fn clipped(text: &str) -> &[u8] {
    let bytes = text.as_bytes();
    let mut length = bytes.len().min(MESSAGE_BYTES_MAX / 4);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    bytes.get(..length).unwrap_or_default()
}

fn receive(stream: &mut dyn Read) -> Result<Option<Vec<u8>>> {
    let what = || "could not read from the agent's socket";
    let mut length = [0_u8; 4];
    match stream.read_exact(&mut length) {
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(None);
        }
        other => other.context(what)?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(nonsense());
    }
    let mut message = vec![0; length];
    match stream.read_exact(&mut message) {
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(None)
        }
        other => other.context(what).map(|()| Some(message)),
    }
}

#[derive(Default)]
struct MessageWriter(Vec<u8>);

impl MessageWriter {
    fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, value: &[u8]) {
        // Longer than a whole message may be; `send` refuses it.
        self.0.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.0.extend_from_slice(value);
    }

    fn duration(&mut self, value: Duration) {
        self.u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
    }

    fn error(&mut self, error: &Error) {
        self.text(error.kind().name().as_bytes());
        self.text(clipped(&error.to_string()));
        self.text(clipped(error.hint_text().unwrap_or_default()));
    }

    fn system(&mut self, system: SystemIdentifier, segment_size: SegmentSize, version: Option<MajorVersion>) {
        self.u64(system.as_u64());
        self.u64(segment_size.as_u64());
        self.u64(version.map_or(0, |version| u64::from(version.as_u32())));
    }

    fn send(self, stream: &mut dyn Write) -> Result<()> {
        if self.0.len() > MESSAGE_BYTES_MAX {
            return Err(Error::usage(format!(
                "a message of {} bytes is too long for the agent's socket",
                self.0.len()
            )));
        }
        let mut bytes = Vec::with_capacity(4 + self.0.len());
        bytes.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.0);
        stream.write_all(&bytes).context(|| "could not write to the agent's socket")
    }
}

struct MessageReader<'a>(&'a [u8]);

impl<'a> MessageReader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(nonsense)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1)?.first().copied().ok_or_else(nonsense)
    }

    fn flag(&mut self) -> Result<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(nonsense()),
        }
    }

    fn u64(&mut self) -> Result<u64> {
        let bytes = self.take(8)?.try_into().map_err(|_| nonsense())?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Result<&'a [u8]> {
        let length = self.take(4)?.try_into().map_err(|_| nonsense())?;
        self.take(u32::from_le_bytes(length) as usize)
    }

    fn string(&mut self) -> Result<String> {
        String::from_utf8(self.text()?.to_vec()).map_err(|_| nonsense())
    }

    fn path(&mut self) -> Result<PathBuf> {
        let path = PathBuf::from(OsString::from_vec(self.text()?.to_vec()));
        if Path::is_absolute(&path) { Ok(path) } else { Err(nonsense()) }
    }

    fn name(&mut self) -> Result<WalFileName> {
        self.string()?.parse().map_err(|_| nonsense())
    }

    fn optional_segment(&mut self) -> Result<Option<SegmentName>> {
        let text = self.string()?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| nonsense()) }
    }

    fn error(&mut self) -> Result<Error> {
        let name = self.string()?;
        let kind = ErrorKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(nonsense)?;
        let error = Error::new(kind, self.string()?);
        let hint = self.string()?;
        Ok(if hint.is_empty() { error } else { error.hint(hint) })
    }

    fn system(&mut self) -> Result<SystemIdentifier> {
        SystemIdentifier::new(self.u64()?).ok_or_else(nonsense)
    }

    fn segment_size(&mut self) -> Result<SegmentSize> {
        u32::try_from(self.u64()?).ok().and_then(SegmentSize::new).ok_or_else(nonsense)
    }

    fn version(&mut self) -> Result<Option<MajorVersion>> {
        match self.u64()? {
            0 => Ok(None),
            number => {
                let version = u32::try_from(number).ok().and_then(MajorVersion::new);
                version.map(Some).ok_or_else(nonsense)
            }
        }
    }

    fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(nonsense()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        vec![
            Request::Push(PushRequest {
                system: SystemIdentifier::new(u64::MAX).unwrap(),
                segment_size: SegmentSize::DEFAULT,
                version: Some(MajorVersion::V15),
                name: "000000010000000000000001.00000028.backup".parse().unwrap(),
                path: PathBuf::from(OsString::from_vec(b"/data \xFF/pg_wal/x".to_vec())),
                deadline: Duration::from_secs(5),
            }),
            Request::Get(GetRequest {
                system: SystemIdentifier::new(1).unwrap(),
                segment_size: SegmentSize::DEFAULT,
                version: None,
                name: "00000002.history".parse().unwrap(),
                mode: RecoveryMode::Standby,
                target: TargetRule::WithTarget,
                timeline: TimelineId::new(7),
                proven_end: Some("000000070000000000000009".parse().unwrap()),
                server_start_s: 1_767_225_600,
                pg_wal: "/data/pg_wal".into(),
                prefetch: true,
                deadline: Duration::from_millis(5),
            }),
            Request::Status,
            Request::Stop,
        ]
    }

    #[test]
    fn requests_arrive_as_they_were_sent() {
        for request in requests() {
            let mut bytes = Vec::new();
            write_request(&mut bytes, &request).unwrap();
            assert_eq!(read_request(&mut bytes.as_slice()).unwrap(), Some(request));
        }
    }

    #[test]
    fn answers_arrive_as_they_were_sent() {
        let failed = Error::new(ErrorKind::Conflict, "no").hint("do");
        for answer in [
            Answer::Stored,
            Answer::Fetched { path: "/a".into(), instead: None },
            Answer::Fetched { path: "/a".into(), instead: Some(Error::unavailable("full")) },
            Answer::Status("{}".into()),
            Answer::Failed(failed),
            Answer::Waits(Error::unavailable("not yet")),
        ] {
            let mut bytes = Vec::new();
            write_answer(&mut bytes, &answer).unwrap();
            let arrived = read_answer(&mut bytes.as_slice()).unwrap().unwrap();
            assert_eq!(format!("{arrived:?}"), format!("{answer:?}"));
        }
    }

    #[test]
    fn a_cut_message_is_a_dead_peer_and_never_an_answer() {
        for request in requests() {
            let mut bytes = Vec::new();
            write_request(&mut bytes, &request).unwrap();
            for length in 0..bytes.len() {
                assert_eq!(read_request(&mut &bytes[..length]).unwrap(), None);
            }
        }
    }

    #[test]
    fn nonsense_is_refused_without_a_panic() {
        let mut seed = 7_u32;
        for _ in 0..20_000 {
            let mut payload = Vec::new();
            for _ in 0..seed % 40 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                payload.push((seed >> 24) as u8 % 8);
            }
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) | 1;
            let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
            bytes.extend_from_slice(&payload);
            let _ = read_request(&mut bytes.as_slice());
            let _ = read_answer(&mut bytes.as_slice());
        }
        assert!(
            read_request(&mut u32::MAX.to_le_bytes().as_slice()).is_err(),
            "a length of 4 GiB is not allocated"
        );
    }
}
