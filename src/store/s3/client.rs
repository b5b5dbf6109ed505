//! One client of the service with its runtime, and requests that are retried within one deadline.
//!
//! The client is created anew if the files of the access keys have changed, or if the service refuses the keys.
//!
//! The SDK's own retries are off: it counts attempts instead of time, and does not report whether an earlier attempt
//! had no response. That decides what "exists already" means.

use super::address::BucketAddress;
use super::clock::ServiceClock;
use super::connect::{Connected, DEFAULT_REGION, connect, http_client};
use super::errors::{RequestFailure, ResponseKind, judge, stalled};
use super::keys::KeyFiles;
use super::progress::watched;
use crate::config::S3Settings;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::store::ObjectKey;
use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::RequestPayer;
use std::error::Error as StdError;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder as RuntimeBuilder, Runtime};
use tokio::sync::{Mutex as AsyncMutex, OnceCell};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// The pause before the second attempt. It doubles with each attempt; the actual pause is a random part of its upper
/// half.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The first pause after the service has asked for a lower rate.
const PAUSE_SLOW_DOWN: Duration = Duration::from_secs(1);

/// How often the files of the access keys are checked for changes.
const CHECK_KEYS: Duration = Duration::from_secs(1);
/// How often they are read again because the service refuses the keys.
const REREAD_KEYS: Duration = Duration::from_secs(5);
/// How often a request is signed again because the clocks differ: once for each direction in which they may have
/// jumped.
const CORRECTIONS_MAX: u32 = 2;

/// Makes requests.
#[derive(Debug)]
pub struct S3Client {
    pub settings: S3Settings,
    place: BucketAddress,
    /// The clock of the service.
    pub clock: Arc<ServiceClock>,
    http_client: OnceCell<SharedHttpClient>,
    current: AsyncMutex<Option<Current>>,
    /// `None` only during the drop.
    runtime: Option<Runtime>,
    /// The time until which the service has asked for a lower rate.
    slow_until: Mutex<Option<Instant>>,
    /// The error after which a request is being retried; `None` again after a success.
    trouble: Mutex<Option<Error>>,
}

/// The current client.
#[derive(Debug)]
struct Current {
    connected: Arc<Connected>,
    /// The files of its access keys, as they were before the keys were read.
    files: KeyFiles,
    checked: Instant,
    read: Instant,
}

/// Which failures are retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// All transient failures.
    Transient,
    /// Only missing responses: the caller wants to see a refusal.
    NoResponse,
}

impl S3Client {
    /// Accesses nothing.
    pub fn new(bucket: &str, prefix: &str, settings: S3Settings) -> S3Client {
        let place = BucketAddress {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            region: settings.region.clone().unwrap_or_else(|| DEFAULT_REGION.to_owned()),
            endpoint: settings.endpoint.clone(),
        };
        // Two threads move and encrypt bytes. Callers wait on threads of their own.
        let runtime =
            RuntimeBuilder::new_multi_thread().worker_threads(2).thread_name("s3").enable_all().build();
        S3Client {
            settings,
            place,
            clock: Arc::default(),
            http_client: OnceCell::new(),
            current: AsyncMutex::default(),
            runtime: runtime.ok(),
            slow_until: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    /// Waits for a task on the calling thread, which must not belong to an asynchronous runtime.
    pub fn wait<T>(&self, task: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime()?.block_on(task)
    }

    /// Runs a task concurrently with its caller.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<tokio::task::JoinHandle<T>> {
        Ok(self.runtime()?.spawn(task))
    }

    fn runtime(&self) -> Result<&Runtime> {
        self.runtime.as_ref().ok_or_else(|| Error::unavailable("could not start the runtime for S3"))
    }

    /// The address from the configuration.
    pub fn place(&self) -> &BucketAddress {
        &self.place
    }

    /// The client; created by the first call, and anew if the files of its access keys have changed.
    async fn connected(&self) -> Result<Arc<Connected>> {
        let mut current = self.current.lock().await;
        let Some(known) = current.as_mut() else {
            let made = self.connect().await?;
            return Ok(current.insert(made).connected.clone());
        };
        if known.checked.elapsed() >= CHECK_KEYS {
            known.checked = Instant::now();
            if KeyFiles::inspect(&self.settings) != known.files {
                match self.connect().await {
                    Ok(made) => {
                        tracing::info!("reloaded the access keys after their files changed");
                        *known = made;
                    }
                    // They may be incomplete at this moment. The current keys may still be valid.
                    Err(error) => tracing::warn!(%error, "could not use the changed access keys"),
                }
            }
        }
        Ok(known.connected.clone())
    }

    /// The client with the current access keys, if they differ from those that the service has `refused`.
    async fn with_other_keys(&self, refused: &Arc<Connected>) -> Option<Arc<Connected>> {
        {
            let mut current = self.current.lock().await;
            let known = current.as_mut()?;
            if !Arc::ptr_eq(&known.connected, refused) {
                return Some(known.connected.clone());
            }
            if known.read.elapsed() < REREAD_KEYS {
                return None;
            }
            known.read = Instant::now();
        }
        // A program or service that provides keys may hang. This request waits for a limited time, and no other request
        // waits.
        let read = async {
            let made = self.connect().await.ok()?;
            let same = made.connected.has_keys_of(refused).await;
            Some((made, same))
        };
        let (made, same) = timeout(self.settings.stall_timeout, read).await.ok()??;
        let mut current = self.current.lock().await;
        let known = current.as_mut()?;
        // Even if the keys are equal: a program has just provided both, but the refused client may have cached older
        // keys.
        if Arc::ptr_eq(&known.connected, refused) {
            *known = made;
        }
        (!same).then(|| known.connected.clone())
    }

    async fn connect(&self) -> Result<Current> {
        let files = KeyFiles::inspect(&self.settings);
        let http = || async { http_client(self.settings.ca_file.as_deref()) };
        let http = self.http_client.get_or_try_init(http).await?.clone();
        let connected = connect(&self.place, &self.settings, http, self.clock.clone()).await?;
        let now = Instant::now();
        Ok(Current { connected: Arc::new(connected), files, checked: now, read: now })
    }

    /// Who pays for a request.
    pub fn payer(&self) -> Option<RequestPayer> {
        self.settings.requester_pays.then_some(RequestPayer::Requester)
    }

    /// Makes a request and retries it until it succeeds, the failure is final, or the deadline passes.
    pub async fn request<T, E, F>(
        &self,
        retry: Retry,
        attempt: impl Fn(&Connected) -> F,
    ) -> std::result::Result<T, RequestFailure>
    where
        E: ProvideErrorMetadata + StdError + 'static,
        F: Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>>,
    {
        self.request_within(self.settings.retry_deadline, retry, attempt).await
    }

    /// As [`S3Client::request`], with another deadline.
    pub async fn request_within<T, E, F>(
        &self,
        deadline: Duration,
        retry: Retry,
        attempt: impl Fn(&Connected) -> F,
    ) -> std::result::Result<T, RequestFailure>
    where
        E: ProvideErrorMetadata + StdError + 'static,
        F: Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>>,
    {
        let mut connected = self.connected().await.map_err(RequestFailure::before)?;
        let stall = self.settings.stall_timeout;
        let deadline = Instant::now() + deadline;
        let mut corrections = 0;
        let mut changed_keys = false;
        let mut pause = PAUSE_FIRST;
        let mut maybe_done = false;
        loop {
            self.wait_for_rate().await;
            failpoint::step("request");
            let began = Instant::now();
            let result = watched(stall, attempt(&connected)).await;
            let duration_ms = began.elapsed().as_millis() as u64;
            tracing::trace!(succeeded = matches!(result, Some(Ok(_))), duration_ms, "attempted a request");
            failpoint::step("answer");
            let failure = match result {
                Some(Ok(output)) => {
                    connected.has_responded.store(true, Ordering::Relaxed);
                    self.set_trouble(None);
                    return Ok(output);
                }
                Some(Err(error)) => judge(&connected.address, &error),
                None => stalled(stall.as_secs()),
            };
            // A new client learns the difference between the clocks from its first response.
            let is_first = !connected.has_responded.swap(true, Ordering::Relaxed);
            if failure.is_refusal() && Instant::now() < deadline {
                let corrected = self.clock.correct(failure.service_time)
                    || failure.response == ResponseKind::Skewed
                    || is_first && self.clock.difference_s() != 0;
                if corrected && failure.service_time.is_some() && corrections < CORRECTIONS_MAX {
                    corrections += 1;
                    continue;
                }
                // Only once: some providers return different keys each time.
                if !changed_keys && let Some(other) = self.with_other_keys(&connected).await {
                    changed_keys = true;
                    connected = other;
                    continue;
                }
            }
            if failure.response == ResponseKind::SlowDown {
                pause = pause.max(PAUSE_SLOW_DOWN);
            }
            let waits = jittered(pause);
            maybe_done |= failure.maybe_done;
            let again = match retry {
                Retry::Transient => failure.transient,
                Retry::NoResponse => {
                    failure.transient
                        && matches!(failure.response, ResponseKind::None | ResponseKind::SlowDown)
                }
            };
            if !again || Instant::now() + waits > deadline {
                return Err(RequestFailure { maybe_done, ..failure });
            }
            tracing::debug!(error = %failure.error, pause_ms = waits.as_millis() as u64, "retrying a request");
            self.set_trouble(Some(failure.error.replica()));
            if failure.response == ResponseKind::SlowDown {
                self.slow_down(waits);
            }
            sleep(waits).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The error after which a request is being retried at this moment.
    pub fn trouble(&self) -> Option<Error> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Error::replica)
    }

    /// Records why a request is retried, or that requests succeed.
    pub fn set_trouble(&self, trouble: Option<Error>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Waits while the service wants a lower rate.
    async fn wait_for_rate(&self) {
        let until = *self.slow_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = until {
            sleep_until(until).await;
        }
    }

    /// Delays the requests of all threads, which would otherwise continue at their own rate.
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
        // Dropping it in an asynchronous context, as the ending agent does, would panic. None of our requests is in
        // flight.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl RequestFailure {
    /// Whether the service has refused the keys or the time of the signature, or may have done so.
    fn is_refusal(&self) -> bool {
        matches!(
            self.response,
            ResponseKind::Denied
                | ResponseKind::UnexplainedBadRequest
                | ResponseKind::KeysRefused
                | ResponseKind::Skewed
        )
    }

    /// The failure of a request that was never sent.
    fn before(error: Error) -> RequestFailure {
        RequestFailure {
            response: ResponseKind::None,
            transient: false,
            maybe_done: false,
            service_time: None,
            error,
        }
    }
}

/// From half of `pause` to all of it, so that clients that failed together do not return together.
fn jittered(pause: Duration) -> Duration {
    let share = f64::from(u32::try_from(random() >> 32).unwrap_or_default()) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + share / 2.0)
}

/// An unpredictable number, from the keys of the standard library's hash tables.
pub fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
