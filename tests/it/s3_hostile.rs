//! A service with arbitrary responses: none is taken as success, and only an explicit statement as absence.

use crate::support::{Cluster, Site};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

const SEGMENT: u64 = 0x40;

/// Responds to all requests of a scenario; `PGARK_TEST_SEED` repeats a run.
struct Babbler {
    endpoint: String,
    answers: Arc<Mutex<Vec<String>>>,
}

/// Reproducible numbers: xorshift.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.next(from.len())]
    }
}

impl Babbler {
    fn start(seed: u64) -> Babbler {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let answers = Arc::new(Mutex::new(Vec::new()));
        let (told, count) = (answers.clone(), AtomicU64::new(0));
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { continue };
                let numbers =
                    Numbers(seed.wrapping_add(count.fetch_add(1, Ordering::Relaxed) * 0x9E37_79B9) | 1);
                let told = told.clone();
                thread::spawn(move || drop(babble(client, numbers, &told)));
            }
        });
        Babbler { endpoint, answers }
    }

    fn serve(&self, cluster: &mut Cluster) {
        let credentials = cluster.data().parent().unwrap().join("credentials");
        std::fs::write(&credentials, "[default]\naws_access_key_id = a\naws_secret_access_key = s\n")
            .unwrap();
        crate::support::give(&credentials);
        cluster.config.set("repository.url", "s3://wal/prod");
        cluster.config.set("s3.endpoint", self.endpoint.as_str());
        cluster.config.set("s3.region", "us-east-1");
        cluster.config.set("s3.credentials_file", credentials.as_path());
        cluster.config.set("s3.allow_http", true);
        cluster.config.set("s3.stall_timeout", "1s");
        cluster.config.set("s3.retry_deadline", "1s");
        cluster.config.set("push.deadline", "2s");
        cluster.config.set("get.deadline", "2s");
    }
}

/// Responds to the requests of one connection until it is closed.
fn babble(mut client: TcpStream, mut numbers: Numbers, told: &Mutex<Vec<String>>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    loop {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            client.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        if head.contains("expect: 100-continue") {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        client.read_exact(&mut body)?;
        let status = *numbers
            .pick(&[200, 200, 200, 204, 206, 301, 400, 403, 404, 405, 409, 411, 412, 416, 429, 500, 503]);
        let body = nonsense(&mut numbers);
        // Sometimes announces more than it sends.
        let announced = body.len() + if numbers.next(8) == 0 { 7 } else { 0 };
        told.lock().unwrap().push(format!("{} {status} {}", head.lines().next().unwrap_or(""), body.len()));
        let extra = numbers.pick(&[
            "",
            "ETag: \"\"\r\n",
            "x-amz-checksum-crc32: !!!!\r\n",
            "x-amz-bucket-region: ../../etc\r\n",
            "Content-Range: bytes 5-1/0\r\n",
            "Content-Type: application/xml\r\n",
            "Content-Encoding: gzip\r\n",
            "Retry-After: 99999999999999999999\r\n",
        ]);
        write!(client, "HTTP/1.1 {status} Whatever\r\nContent-Length: {announced}\r\n{extra}\r\n")?;
        client.write_all(&body)?;
        if announced != body.len() {
            return Ok(());
        }
    }
}

/// The body of a response, which never states explicitly that an object does not exist.
fn nonsense(numbers: &mut Numbers) -> Vec<u8> {
    let entry = |key: &str| {
        format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>{key}</Key><Size>-1</Size></Contents>\
             <CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes></ListBucketResult>"
        )
    };
    match numbers.next(11) {
        0 => Vec::new(),
        1 => (0..numbers.next(4096)).map(|_| numbers.next(256) as u8).collect(),
        2 => b"<?xml version=\"1.0\"?><Error><Code>NoSuch".to_vec(),
        3 => format!("<Error><Code>{}</Code></Error>", "A".repeat(numbers.next(1 << 16))).into_bytes(),
        4 => "<a>".repeat(50_000).into_bytes(),
        5 => b"<!DOCTYPE z [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">]><Error><Code>&b;</Code></Error>".to_vec(),
        6 => entry("../../../../etc/passwd").into_bytes(),
        7 => entry("prod/main/18446744073709551615/wal/00000001/FFFFFFFF/\u{202e}").into_bytes(),
        8 => b"{\"version\":4294967296,\"conditional_put\":\"yes\"}".to_vec(),
        9 => b"<Error><Code>InternalError</Code><Message>\x1b[2J\x07 evil</Message></Error>".to_vec(),
        _ => vec![0x50, 0x2A, 0x4D, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
    }
}

#[test]
fn no_nonsense_of_the_service_is_taken_for_an_answer() {
    let seed = std::env::var("PGARK_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("PGARK_TEST_SEED={seed}");
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    let babbler = Babbler::start(seed);
    babbler.serve(&mut cluster);
    let wal = cluster.fake_wal();
    cluster.recover_from_archive();
    for number in 0..6 {
        let name = wal.name(SEGMENT + number);
        cluster.put_wal(&name, wal.bytes(SEGMENT + number, 1));
        let pushed = cluster.push(&format!("pg_wal/{name}"));
        assert!(matches!(pushed.code, Some(3 | 4)), "{pushed}");
        assert!(
            !pushed.stderr.contains('\u{1b}'),
            "what the service says reaches the terminal as it is: {pushed}"
        );
        let got = cluster.get(&name, "pg_wal/RECOVERYXLOG");
        assert_eq!(got.code, Some(126), "{got}");
        assert!(!cluster.has("pg_wal/RECOVERYXLOG"));
    }
    for command in [&["info"][..], &["recover", "--latest", "--target-directory", "/nonexistent/x"]] {
        let outcome = cluster.pgark(command).run();
        assert!(matches!(outcome.code, Some(1..=4)), "{outcome}");
        assert!(!outcome.stderr.contains("defect"), "{outcome}");
    }
    assert!(cluster.agent().is_alive());
    assert!(babbler.answers.lock().unwrap().len() > 12, "{:?}", babbler.answers.lock().unwrap());
}
