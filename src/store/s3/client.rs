//! The way to the service: one client and its runtime, and requests that are tried again inside one deadline.
//!
//! The SDK's own retries are off: it counts attempts and not time, and does not tell whether an attempt that had no
//! answer came before, which decides what "exists already" means.

use super::errors::{Answer, Failure, judge, stalled};
use super::progress::{ObserveBody, watched};
use crate::config::{S3Settings, without_user_information};
use crate::error::{Context, Error, Result};
use crate::failpoint;
use crate::store::ObjectKey;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::RequestPayer;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use std::error::Error as StdError;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder as RuntimeBuilder, Runtime};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, sleep_until};

/// The pause before the second attempt; it doubles, and each is drawn from its upper half.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The first pause where the service has said that it is too much.
const PAUSE_SLOW_DOWN: Duration = Duration::from_secs(1);

/// Where AWS signs and routes requests that name no region.
const REGION_OF_NOBODY: &str = "us-east-1";

/// Where objects lie, for requests and for messages.
#[derive(Clone, Debug)]
pub struct Address {
    pub bucket: String,
    /// Without a slash at either end.
    pub prefix: String,
    pub region: String,
    pub endpoint: Option<String>,
}

impl Address {
    /// `s3://bucket/prefix`.
    pub fn location(&self) -> String {
        match self.prefix.as_str() {
            "" => format!("s3://{}", self.bucket),
            prefix => format!("s3://{}/{prefix}", self.bucket),
        }
    }

    pub fn endpoint(&self) -> &str {
        self.endpoint.as_deref().unwrap_or("AWS")
    }

    /// The full key of a name within the store.
    pub fn full_key(&self, key: &str) -> String {
        match self.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }
}

/// Makes requests.
#[derive(Debug)]
pub struct S3Client {
    pub settings: S3Settings,
    place: Address,
    connected: OnceCell<Connected>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    /// Until when the service wants to be left alone.
    slow_until: Mutex<Option<Instant>>,
    /// Why something is being tried again, as long as no request has succeeded since.
    trouble: Mutex<Option<Error>>,
}

/// The client, and where it turned out to go.
#[derive(Debug)]
pub struct Connected {
    pub client: Client,
    pub address: Address,
    /// Whether requests are encrypted on their way, which makes the signature of the content superfluous.
    pub encrypted: bool,
}

/// Which failures are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Whatever may pass.
    Transient,
    /// Only what had no answer: a refusal is what somebody wants to see.
    Unanswered,
}

impl S3Client {
    /// Touches nothing.
    pub fn new(bucket: &str, prefix: &str, settings: S3Settings) -> S3Client {
        let place = Address {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            region: settings.region.clone().unwrap_or_else(|| REGION_OF_NOBODY.to_owned()),
            endpoint: settings.endpoint.clone(),
        };
        // Two threads move bytes and encrypt them; whoever waits has a thread of its own.
        let runtime =
            RuntimeBuilder::new_multi_thread().worker_threads(2).thread_name("s3").enable_all().build();
        S3Client {
            settings,
            place,
            connected: OnceCell::new(),
            runtime: runtime.ok(),
            slow_until: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    /// Waits for a task on the calling thread, which must not be one of an asynchronous runtime.
    pub fn wait<T>(&self, task: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime()?.block_on(task)
    }

    /// Runs a task beside its caller.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<tokio::task::JoinHandle<T>> {
        Ok(self.runtime()?.spawn(task))
    }

    fn runtime(&self) -> Result<&Runtime> {
        self.runtime.as_ref().ok_or_else(|| Error::unavailable("could not start the runtime for S3"))
    }

    /// The place as the configuration has it.
    pub fn place(&self) -> &Address {
        &self.place
    }

    /// The client; made at the first call.
    pub async fn connected(&self) -> Result<&Connected> {
        self.connected.get_or_try_init(|| connect(&self.place, &self.settings)).await
    }

    /// Who pays for a request.
    pub fn payer(&self) -> Option<RequestPayer> {
        self.settings.requester_pays.then_some(RequestPayer::Requester)
    }

    /// Makes a request, again and again until it is answered, the answer is final, or the deadline passes.
    pub async fn request<T, E, F>(
        &self,
        retry: Retry,
        attempt: impl Fn(&Connected) -> F,
    ) -> std::result::Result<T, Failure>
    where
        E: ProvideErrorMetadata + StdError + 'static,
        F: Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>>,
    {
        self.request_within(self.settings.stall_timeout, retry, attempt).await
    }

    /// As [`S3Client::request`], with another patience for a request in which nothing moves.
    pub async fn request_within<T, E, F>(
        &self,
        stall: Duration,
        retry: Retry,
        attempt: impl Fn(&Connected) -> F,
    ) -> std::result::Result<T, Failure>
    where
        E: ProvideErrorMetadata + StdError + 'static,
        F: Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>>,
    {
        let connected = self.connected().await.map_err(Failure::before)?;
        let deadline = Instant::now() + self.settings.retry_deadline;
        let mut pause = PAUSE_FIRST;
        let mut maybe_done = false;
        loop {
            self.give_way().await;
            failpoint::step("request");
            let answered = watched(stall, attempt(connected)).await;
            failpoint::step("answer");
            let failure = match answered {
                Some(Ok(output)) => {
                    self.set_trouble(None);
                    return Ok(output);
                }
                Some(Err(error)) => judge(&connected.address, &error),
                None => stalled(stall.as_secs()),
            };
            if failure.answer == Answer::SlowDown {
                pause = pause.max(PAUSE_SLOW_DOWN);
            }
            let waits = jittered(pause);
            maybe_done |= failure.maybe_done;
            let again = match retry {
                Retry::Transient => failure.transient,
                Retry::Unanswered => {
                    failure.transient && matches!(failure.answer, Answer::None | Answer::SlowDown)
                }
            };
            if !again || Instant::now() + waits > deadline {
                return Err(Failure { maybe_done, ..failure });
            }
            tracing::debug!(error = %failure.error, pause_ms = waits.as_millis() as u64, "tries a request again");
            self.set_trouble(Some(failure.error.replica()));
            if failure.answer == Answer::SlowDown {
                self.slow_down(waits);
            }
            sleep(waits).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Why something is being tried again at this moment.
    pub fn trouble(&self) -> Option<Error> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Error::replica)
    }

    /// Notes why something is tried again, or that requests succeed.
    pub fn set_trouble(&self, trouble: Option<Error>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Waits while the service wants to be left alone.
    async fn give_way(&self) {
        let until = *self.slow_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = until {
            sleep_until(until).await;
        }
    }

    /// Keeps requests of all threads back: each for itself would go on asking.
    fn slow_down(&self, pause: Duration) {
        let mut until = self.slow_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(Some(Instant::now() + pause));
    }

    /// The full key of an object.
    pub fn full_key(&self, key: &ObjectKey) -> String {
        self.place.full_key(key.as_str())
    }

    /// `s3://bucket/prefix/key`, for messages.
    pub fn locate(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.place.location())
    }
}

impl Drop for S3Client {
    fn drop(&mut self) {
        // Dropping it in an asynchronous context, where the agent ends, would panic; nothing of ours is in flight.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Failure {
    /// A request that was never made.
    fn before(error: Error) -> Failure {
        Failure { answer: Answer::None, transient: false, maybe_done: false, error }
    }
}

/// From half of `pause` to all of it: clients that failed together must not come back together.
fn jittered(pause: Duration) -> Duration {
    let share = f64::from(u32::try_from(random() >> 32).unwrap_or_default()) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + share / 2.0)
}

/// A number that nobody can expect, from the keys of the standard library's hash tables.
pub fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// Finds endpoint, region and access keys as every AWS tool does, after what the configuration says.
async fn connect(place: &Address, settings: &S3Settings) -> Result<Connected> {
    let http_client = http_client(settings.ca_file.as_deref())?;
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(settings.connect_timeout).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(profile) = &settings.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(file) = &settings.credentials_file {
        // The SDK passes over a file that it cannot read, and says that there are no keys.
        std::fs::File::open(file)
            .context(|| format!("could not open s3.credentials_file \"{}\"", file.display()))?;
        let files = EnvConfigFiles::builder()
            .include_default_config_file(true)
            .with_file(EnvConfigFileKind::Credentials, file);
        loader = loader.profile_files(files.build());
    }
    // Without the question to a machine's metadata, which waits for seconds where there is none.
    let region = match &settings.region {
        Some(region) => RegionProviderChain::first_try(Region::new(region.clone())),
        None => {
            RegionProviderChain::first_try(aws_config::environment::EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .or_else(Region::new(REGION_OF_NOBODY))
        }
    };
    loader = loader.region(region);
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(endpoint.trim_end_matches('/'));
    }
    let shared = loader.load().await;
    // Only for messages from here on; that of the environment may hold anything.
    let endpoint = shared.endpoint_url().map(without_user_information);
    let encrypted = !endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    if !encrypted && !settings.allow_http {
        return Err(Error::usage(format!(
            "the endpoint {} is not encrypted",
            endpoint.as_deref().unwrap_or_default()
        ))
        .hint("Use https://, or set s3.allow_http = true where nobody can listen."));
    }
    let config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(settings.path_style.unwrap_or(endpoint.is_some()))
        // Checksums are set by us: streamed ones, which the SDK prefers, are refused by several services.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .interceptor(ObserveBody)
        .build();
    let region = shared.region().map_or_else(|| place.region.clone(), ToString::to_string);
    let address = Address { region, endpoint, ..place.clone() };
    Ok(Connected { client: Client::from_conf(config), address, encrypted })
}

fn http_client(ca_file: Option<&Path>) -> Result<SharedHttpClient> {
    let mut trusted = TrustStore::empty().with_native_roots(true);
    if let Some(path) = ca_file {
        let what = || format!("could not read s3.ca_file \"{}\"", path.display());
        let pem = std::fs::read(path).context(what)?;
        // What is no certificate would end in a panic further below.
        if !pem.windows(BEGIN_CERTIFICATE.len()).any(|window| window == BEGIN_CERTIFICATE) {
            return Err(Error::usage(format!("s3.ca_file \"{}\" holds no certificate", path.display()))
                .hint("It must be in PEM form, with lines \"-----BEGIN CERTIFICATE-----\"."));
        }
        trusted = trusted.with_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|error| Error::usage("could not set up TLS").caused_by(error))?;
    Ok(Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(context).build_https())
}

const BEGIN_CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";
