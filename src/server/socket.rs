//! The socket below a connection whose calls block.

use bytes::BytesMut;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// How long a read waits before whoever reads may look whether to go on.
const NOTICE: Duration = Duration::from_millis(200);
const PORT: u16 = 5432;

/// A connected socket.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects to the first host that answers.
    ///
    /// # Errors
    /// The operating system's, of the last host.
    pub(super) fn connect(config: &Config) -> io::Result<Socket> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no host is named");
        let hosts = config.get_hosts().len().max(config.get_hostaddrs().len());
        for index in 0..hosts {
            match Socket::connect_to(config, index) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn connect_to(config: &Config, index: usize) -> io::Result<Socket> {
        let ports = config.get_ports();
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(PORT);
        let address = config.get_hostaddrs().get(index).map(ToString::to_string);
        let socket = match (address, config.get_hosts().get(index)) {
            (None, Some(Host::Unix(directory))) => {
                Socket::Unix(UnixStream::connect(directory.join(format!(".s.PGSQL.{port}")))?)
            }
            (Some(host), _) => Socket::connect_tcp(config, &host, port)?,
            (None, Some(Host::Tcp(host))) => Socket::connect_tcp(config, host, port)?,
            (None, None) => return Err(io::Error::new(io::ErrorKind::NotFound, "no host is named")),
        };
        match &socket {
            Socket::Tcp(stream) => stream.set_read_timeout(Some(NOTICE))?,
            Socket::Unix(stream) => stream.set_read_timeout(Some(NOTICE))?,
        }
        Ok(socket)
    }

    fn connect_tcp(config: &Config, host: &str, port: u16) -> io::Result<Socket> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (host, port).to_socket_addrs()? {
            let connected = match config.get_connect_timeout() {
                Some(timeout) if !timeout.is_zero() => TcpStream::connect_timeout(&address, *timeout),
                _ => TcpStream::connect(address),
            };
            match connected {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    // A server that is gone without a word: the checkpoint of a backup may take minutes, nothing else does.
                    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::KeepAlive, &true)?;
                    return Ok(Socket::Tcp(stream));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Appends what has come, at most so many bytes; 0: the other side has closed.
    pub(super) fn read_into(&mut self, buffer: &mut BytesMut, bytes_max: usize) -> io::Result<usize> {
        let length = buffer.len();
        buffer.resize(length + bytes_max, 0);
        let room = buffer.get_mut(length..).unwrap_or_default();
        let read = match self {
            Socket::Tcp(stream) => stream.read(room),
            Socket::Unix(stream) => stream.read(room),
        };
        buffer.truncate(length + read.as_ref().copied().unwrap_or_default());
        read
    }

    /// Whether a read ended only because nothing came.
    pub(super) fn is_pause(error: &io::Error) -> bool {
        matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
        )
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
