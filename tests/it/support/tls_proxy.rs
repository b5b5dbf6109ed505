//! A man in the middle between pgark and the server: with its own certificate, with a canned response, or silent.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The request for TLS. Source: PostgreSQL's manual, "Message Formats", `SSLRequest`.
const QUESTION: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];

/// A running proxy; its threads end with the test run.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    silent: Arc<AtomicBool>,
}

/// The way in which TLS begins at the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Asked,
    /// Without a request; with or without the protocol name in ALPN.
    Direct {
        names_protocol: bool,
    },
}

impl Proxy {
    /// Terminates the client's TLS with this certificate, and opens another connection to the server, whose
    /// `db.example` certificate must come from `authority`.
    pub fn in_the_middle(
        upstream: &str,
        certificate: &Path,
        key: &Path,
        authority: &Path,
        begin: Begin,
    ) -> Proxy {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let mut config = builder.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        if let Begin::Direct { names_protocol: true } = begin {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        Proxy::start(upstream, move |mut client, mut server, _| {
            let (acceptor, connector) = (acceptor.clone(), connector.clone());
            async move {
                if begin == Begin::Asked {
                    client.read_exact(&mut [0; 8]).await?;
                    client.write_all(b"S").await?;
                }
                let mut client = acceptor.accept(client).await?;
                server.write_all(&QUESTION).await?;
                server.read_exact(&mut [0]).await?;
                let mut server =
                    connector.connect(ServerName::try_from("db.example").unwrap(), server).await?;
                copy_bidirectional(&mut client, &mut server).await.map(drop)
            }
        })
    }

    /// Responds to the request for TLS with this, and nothing else.
    pub fn saying(answer: &'static [u8], upstream: &str) -> Proxy {
        Proxy::start(upstream, move |mut client, _server, _| async move {
            client.read_exact(&mut [0; 8]).await?;
            client.write_all(answer).await?;
            client.read(&mut [0; 64]).await.map(drop)
        })
    }

    /// Forwards all data until it is silenced; then reads and discards.
    pub fn passing(upstream: &str) -> Proxy {
        Proxy::start(upstream, |mut client, mut server, silent| async move {
            let (mut from_client, mut from_server) = ([0; 8192], [0; 8192]);
            loop {
                let (length, to_server) = tokio::select! {
                    length = client.read(&mut from_client) => (length?, true),
                    length = server.read(&mut from_server) => (length?, false),
                };
                match (length, to_server, silent.load(Ordering::Acquire)) {
                    (0, ..) => return Ok(()),
                    (_, _, true) => {}
                    (length, true, _) => server.write_all(&from_client[..length]).await?,
                    (length, false, _) => client.write_all(&from_server[..length]).await?,
                }
            }
        })
    }

    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::Release);
    }

    fn start<F: Future<Output = std::io::Result<()>> + 'static>(
        upstream: &str,
        serve: impl Fn(TcpStream, TcpStream, Arc<AtomicBool>) -> F + Send + 'static,
    ) -> Proxy {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (upstream, silent) = (upstream.to_owned(), Arc::new(AtomicBool::new(false)));
        let fallen_silent = silent.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((client, _)) = listener.accept().await {
                    let Ok(server) = TcpStream::connect((upstream.as_str(), 5432)).await else { continue };
                    tokio::task::spawn_local(serve(client, server, fallen_silent.clone()));
                }
            });
        });
        Proxy { port, silent }
    }
}
