//! A proxy between pgark and an S3 server that counts requests and injects faults of networks and services.
//!
//! It implements just enough HTTP: one request after another on a connection, each over a new connection to the server.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The fault injected into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Closes the connection after the head of the request.
    ResetBeforeAnswer,
    /// Closes the connection in the middle of the request's body.
    ResetInBody,
    /// The server processes the request, and the response is lost.
    LoseAnswer,
    /// Sends nothing until the client has gone.
    Stall,
    /// Returns this status and code without contacting the server.
    Status(u16, &'static str),
    /// Sends half of the response's body, then closes the connection.
    TruncateAnswer,
    /// Sends half of the response's body, then nothing.
    StallAnswer,
    /// Sends the response so slowly that it takes this long, but without stopping.
    Drip(Duration),
    /// Returns 403 with a clock this many seconds ahead, without contacting the server.
    Skewed(i64),
    /// Sends the response without its length, as some proxies do.
    NoLength,
    /// Sends the response without its length, and breaks off halfway.
    NoLengthAndNoEnd,
    /// Flips a bit of the request's body.
    FlipRequest,
    /// Flips a bit of the response's body.
    FlipAnswer,
    /// Returns this body with status 200, without contacting the server.
    Say(String),
    /// Returns status 200 with an error in the body.
    ErrorInside200,
    /// Makes the server unavailable in the middle of the body, as set by [`FaultProxy::interrupts_with`].
    Interrupt,
    /// Removes the object first, like a server that ignores `If-None-Match`.
    Overwrite,
}

/// Makes the server unavailable, and ensures that it returns.
type Interrupter = Box<dyn Fn(&FaultProxy) + Send>;

/// Removes the object that a request target names.
type Remover = Box<dyn Fn(&str) + Send>;

/// A rule: the matching requests, how many of them, and the fault.
#[derive(Debug)]
struct Rule {
    method: &'static str,
    /// A substring of the request target.
    part: String,
    left: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    requests: Vec<String>,
    heads: Vec<String>,
    rules: Vec<Rule>,
    away: bool,
    /// Number of further connections that are closed at once before the server is back.
    refuse: usize,
    refused: usize,
    /// Number of matching requests in progress, currently and at most.
    counted: Option<(&'static str, String)>,
    at_once: (usize, usize),
    remove: Option<Remover>,
    interrupt: Option<Interrupter>,
}

/// A running proxy; its threads end with the test run.
#[derive(Clone)]
pub struct FaultProxy {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl FaultProxy {
    /// Starts a proxy in front of the server at `http://host:port`.
    pub fn start(upstream: &str) -> FaultProxy {
        let upstream = upstream.strip_prefix("http://").expect("plain http").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = FaultProxy { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let served = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (proxy, upstream) = (served.clone(), upstream.clone());
                // A connection may end for any reason.
                std::thread::spawn(move || drop(serve(client, &upstream, &proxy)));
            }
        });
        proxy
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Injects a fault into the next `times` requests of `method` whose target contains `part`.
    pub fn fault(&self, method: &'static str, part: &str, times: usize, fault: Fault) {
        self.state.lock().unwrap().rules.push(Rule { method, part: part.to_owned(), left: times, fault });
    }

    /// Clears all faults.
    pub fn mend(&self) {
        self.state.lock().unwrap().rules.clear();
    }

    /// Sets the function that removes an object for [`Fault::Overwrite`], given the request target.
    pub fn removes_with(&self, remove: impl Fn(&str) + Send + 'static) {
        self.state.lock().unwrap().remove = Some(Box::new(remove));
    }

    /// Sets the function that makes the server unavailable for [`Fault::Interrupt`].
    pub fn interrupts_with(&self, interrupt: impl Fn(&FaultProxy) + Send + 'static) {
        self.state.lock().unwrap().interrupt = Some(Box::new(interrupt));
    }

    /// Closes this number of further connections at once, like a server that is down and returns.
    pub fn refuse_next(&self, connections: usize) {
        self.state.lock().unwrap().refuse = connections;
    }

    /// Number of connections closed while the server was unavailable.
    pub fn refused(&self) -> usize {
        self.state.lock().unwrap().refused
    }

    /// From now on counts the concurrent requests of `method` whose target contains `part`.
    pub fn count_at_once(&self, method: &'static str, part: &str) {
        let mut state = self.state.lock().unwrap();
        state.counted = Some((method, part.to_owned()));
        state.at_once = (0, 0);
    }

    /// The maximum of that count.
    pub fn most_at_once(&self) -> usize {
        self.state.lock().unwrap().at_once.1
    }

    /// Closes every connection at once, or stops doing so.
    pub fn set_away(&self, away: bool) {
        self.state.lock().unwrap().away = away;
    }

    /// `METHOD target` of all requests so far, in order.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The heads of the requests, in lower case.
    pub fn heads(&self) -> Vec<String> {
        self.state.lock().unwrap().heads.clone()
    }

    pub fn forget(&self) {
        let mut state = self.state.lock().unwrap();
        state.heads.clear();
        state.requests.clear();
    }

    /// Number of requests of `method` whose target contains `part`.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.requests().iter().filter(|request| request.starts_with(method) && request.contains(part)).count()
    }
}

/// The head and the body of a message.
struct Message {
    head: String,
    body: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn length(&self) -> usize {
        self.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)
    }

    /// The response in chunked encoding, truncated unless it is `whole`.
    fn without_length(&self, is_head: bool, whole: bool) -> Vec<u8> {
        let is_length = |line: &&str| line.to_ascii_lowercase().starts_with("content-length:");
        let mut head: Vec<&str> =
            self.head.trim_end().split("\r\n").filter(|line| !is_length(line)).collect();
        if !is_head {
            head.push("Transfer-Encoding: chunked");
        }
        let mut answer = format!("{}\r\n\r\n", head.join("\r\n")).into_bytes();
        if is_head {
            return answer;
        }
        let body = if whole { self.body.as_slice() } else { &self.body[..self.body.len() / 2] };
        for piece in body.chunks(10_000) {
            answer.extend(format!("{:X}\r\n", piece.len()).bytes());
            answer.extend(piece);
            answer.extend(b"\r\n");
        }
        if whole {
            answer.extend(b"0\r\n\r\n");
        }
        answer
    }

    fn flip(&mut self) {
        let at = self.body.len() / 2;
        if let Some(byte) = self.body.get_mut(at) {
            *byte ^= 0x10;
        }
    }
}

/// Counts a request as in progress until it is dropped.
struct AtOnce<'a>(&'a Mutex<State>);

impl<'a> AtOnce<'a> {
    fn begin(state: &'a Mutex<State>, method: &str, target: &str) -> Option<AtOnce<'a>> {
        let mut locked = state.lock().unwrap();
        let counted = locked.counted.as_ref();
        counted.filter(|(of, part)| *of == method && target.contains(part.as_str()))?;
        locked.at_once.0 += 1;
        locked.at_once.1 = locked.at_once.1.max(locked.at_once.0);
        Some(AtOnce(state))
    }
}

impl Drop for AtOnce<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().at_once.0 -= 1;
    }
}

fn serve(mut client: TcpStream, upstream: &str, proxy: &FaultProxy) -> io::Result<()> {
    let state = &*proxy.state;
    client.set_nodelay(true)?;
    loop {
        let mut request = read_head(&mut client)?;
        let mut words = request.head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (method, target) = (method.to_owned(), target.to_owned());
        let fault = {
            let mut state = state.lock().unwrap();
            if state.away || state.refuse > 0 {
                state.refuse = state.refuse.saturating_sub(1);
                state.refused += 1;
                return client.shutdown(Shutdown::Both);
            }
            state.requests.push(format!("{method} {target}"));
            state.heads.push(request.head.to_ascii_lowercase());
            let rule = state
                .rules
                .iter_mut()
                .find(|rule| rule.left > 0 && rule.method == method && target.contains(&rule.part));
            rule.map(|rule| {
                rule.left -= 1;
                rule.fault.clone()
            })
        };
        let _at_once = AtOnce::begin(state, &method, &target);
        if fault == Some(Fault::ResetBeforeAnswer) {
            return client.shutdown(Shutdown::Both);
        }
        if request.header("expect").is_some() {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length = request.length();
        if fault == Some(Fault::ResetInBody) {
            read_body(&mut client, &mut request, length / 2)?;
            return client.shutdown(Shutdown::Both);
        }
        if fault == Some(Fault::Interrupt) {
            read_body(&mut client, &mut request, length / 2)?;
            let interrupt = state.lock().unwrap().interrupt.take();
            if let Some(interrupt) = interrupt {
                interrupt(proxy);
                state.lock().unwrap().interrupt.get_or_insert(interrupt);
            }
            return client.shutdown(Shutdown::Both);
        }
        read_body(&mut client, &mut request, length)?;
        match fault {
            Some(Fault::Stall) => return wait_for_end(&mut client),
            Some(Fault::Skewed(seconds)) => {
                refuse_as_skewed(&mut client, seconds)?;
                continue;
            }
            // The response to a HEAD has no body.
            Some(Fault::Status(status, _)) if method == "HEAD" => {
                answer(&mut client, status, "")?;
                continue;
            }
            Some(Fault::Status(status, code)) => {
                let body = format!("<Error><Code>{code}</Code><Message>by the proxy</Message></Error>");
                answer(&mut client, status, &body)?;
                continue;
            }
            Some(Fault::Say(body)) => {
                answer(&mut client, 200, &body)?;
                continue;
            }
            Some(Fault::ErrorInside200) => {
                answer(
                    &mut client,
                    200,
                    "<Error><Code>InternalError</Code><Message>by the proxy</Message></Error>",
                )?;
                continue;
            }
            Some(Fault::FlipRequest) => request.flip(),
            Some(Fault::Overwrite) => {
                if let Some(remove) = &state.lock().unwrap().remove {
                    remove(&target);
                }
            }
            _ => {}
        }
        let mut answer = forward(upstream, &request, method == "HEAD")?;
        match fault {
            Some(Fault::LoseAnswer) => return client.shutdown(Shutdown::Both),
            Some(Fault::FlipAnswer) => answer.flip(),
            Some(Fault::Drip(time)) => {
                client.write_all(answer.head.as_bytes())?;
                let pause = time / u32::try_from(answer.body.len().max(1)).unwrap();
                for byte in &answer.body {
                    std::thread::sleep(pause);
                    client.write_all(&[*byte])?;
                }
                continue;
            }
            Some(Fault::NoLength | Fault::NoLengthAndNoEnd)
                if answer.header("transfer-encoding").is_none() =>
            {
                let whole = fault == Some(Fault::NoLength);
                client.write_all(answer.without_length(method == "HEAD", whole).as_slice())?;
                match whole {
                    true => continue,
                    false => return client.shutdown(Shutdown::Both),
                }
            }
            Some(Fault::TruncateAnswer | Fault::StallAnswer) => {
                client.write_all(answer.head.as_bytes())?;
                client.write_all(&answer.body[..answer.body.len() / 2])?;
                if fault == Some(Fault::StallAnswer) {
                    return wait_for_end(&mut client);
                }
                return client.shutdown(Shutdown::Both);
            }
            _ => {}
        }
        client.write_all(answer.head.as_bytes())?;
        client.write_all(&answer.body)?;
    }
}

/// Sends a request to the server and reads the complete response.
fn forward(upstream: &str, request: &Message, no_body: bool) -> io::Result<Message> {
    let mut server = TcpStream::connect(upstream)?;
    server.set_nodelay(true)?;
    server.set_read_timeout(Some(Duration::from_secs(60)))?;
    server.write_all(request.head.as_bytes())?;
    server.write_all(&request.body)?;
    loop {
        let mut answer = read_head(&mut server)?;
        let status = answer.head.split(' ').nth(1).unwrap_or_default().to_owned();
        if status.starts_with('1') {
            continue;
        }
        if no_body || status == "204" || status == "304" {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some() {
            // Kept as it is: the chunks end with an empty one.
            while !answer.body.ends_with(b"0\r\n\r\n") {
                let have = answer.body.len();
                read_body(&mut server, &mut answer, have + 1)?;
            }
            return Ok(answer);
        }
        let length = answer.length();
        read_body(&mut server, &mut answer, length)?;
        return Ok(answer);
    }
}

fn answer(client: &mut TcpStream, status: u16, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\r\n"
    );
    client.write_all(head.as_bytes())?;
    client.write_all(body.as_bytes())
}

/// Rejects a request like a service whose clock differs.
fn refuse_as_skewed(client: &mut TcpStream, seconds: i64) -> io::Result<()> {
    let time = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    let date = time.strftime("%a, %d %b %Y %H:%M:%S GMT");
    let body = "<Error><Code>RequestTimeTooSkewed</Code><Message>by the proxy</Message></Error>";
    let length = body.len();
    let head = format!("HTTP/1.1 403 Fault\r\nDate: {date}\r\nContent-Length: {length}\r\n\r\n{body}");
    client.write_all(head.as_bytes())
}

/// Reads up to the empty line, byte by byte, so that nothing after it is consumed.
fn read_head(stream: &mut TcpStream) -> io::Result<Message> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(Message { head: String::from_utf8_lossy(&head).into_owned(), body: Vec::new() })
}

/// Reads until the body has `length` bytes.
fn read_body(stream: &mut TcpStream, message: &mut Message, length: usize) -> io::Result<()> {
    let have = message.body.len();
    message.body.resize(length.max(have), 0);
    stream.read_exact(&mut message.body[have..])
}

fn wait_for_end(client: &mut TcpStream) -> io::Result<()> {
    io::copy(client, &mut io::sink()).map(drop)
}
