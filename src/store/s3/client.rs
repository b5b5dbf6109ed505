//! The way to the service: one client and its runtime, and requests that are tried again inside one deadline.
//!
//! A client is made anew when the files of the access keys have changed, or when the service refuses the keys.
//!
//! The SDK's own retries are off: it counts attempts and not time, and does not tell whether an attempt that had no
//! answer came before, which decides what "exists already" means.

use super::address::Address;
use super::clock::ServiceClock;
use super::connect::{Connected, REGION_OF_NOBODY, connect, http_client};
use super::errors::{Answer, Failure, judge, stalled};
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

/// The pause before the second attempt; it doubles, and each is drawn from its upper half.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The first pause where the service has said that it is too much.
const PAUSE_SLOW_DOWN: Duration = Duration::from_secs(1);

/// How often the files of the access keys are looked at.
const LOOK_AT_KEYS: Duration = Duration::from_secs(1);
/// How often they are read again because the service refuses the keys.
const READ_KEYS_AGAIN: Duration = Duration::from_secs(5);
/// How often a request is signed anew because the clocks differ: once for each way that they may have jumped meanwhile.
const CORRECTIONS_MAX: u32 = 2;

/// Makes requests.
#[derive(Debug)]
pub struct S3Client {
    pub settings: S3Settings,
    place: Address,
    /// What time it is for the service.
    pub clock: Arc<ServiceClock>,
    http_client: OnceCell<SharedHttpClient>,
    current: AsyncMutex<Option<Current>>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    /// Until when the service wants to be left alone.
    slow_until: Mutex<Option<Instant>>,
    /// Why something is being tried again, as long as no request has succeeded since.
    trouble: Mutex<Option<Error>>,
}

/// The client of now.
#[derive(Debug)]
struct Current {
    connected: Arc<Connected>,
    /// The files of its access keys, before they were read.
    files: KeyFiles,
    looked: Instant,
    read: Instant,
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
            clock: Arc::default(),
            http_client: OnceCell::new(),
            current: AsyncMutex::default(),
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

    /// The client: made at the first call, and anew when the files of its access keys have changed.
    async fn connected(&self) -> Result<Arc<Connected>> {
        let mut current = self.current.lock().await;
        let Some(known) = current.as_mut() else {
            let made = self.connect().await?;
            return Ok(current.insert(made).connected.clone());
        };
        if known.looked.elapsed() >= LOOK_AT_KEYS {
            known.looked = Instant::now();
            if KeyFiles::look(&self.settings) != known.files {
                match self.connect().await {
                    Ok(made) => {
                        tracing::info!("reloaded the access keys after their files changed");
                        *known = made;
                    }
                    // Perhaps they are just being written. What we have may still be right.
                    Err(error) => tracing::warn!(%error, "could not use the changed access keys"),
                }
            }
        }
        Ok(known.connected.clone())
    }

    /// The client with the access keys of now, if those are others than the ones that the service has `refused`.
    async fn with_other_keys(&self, refused: &Arc<Connected>) -> Option<Arc<Connected>> {
        {
            let mut current = self.current.lock().await;
            let known = current.as_mut()?;
            if !Arc::ptr_eq(&known.connected, refused) {
                return Some(known.connected.clone());
            }
            if known.read.elapsed() < READ_KEYS_AGAIN {
                return None;
            }
            known.read = Instant::now();
        }
        // A program or service that provides keys may hang. This request waits for a limited time, and no other one waits.
        let read = async {
            let made = self.connect().await.ok()?;
            let same = made.connected.has_keys_of(refused).await;
            Some((made, same))
        };
        let (made, same) = timeout(self.settings.stall_timeout, read).await.ok()??;
        let mut current = self.current.lock().await;
        let known = current.as_mut()?;
        // Even if the keys are equal: a program was just called for both, but the refused client may have cached older keys.
        if Arc::ptr_eq(&known.connected, refused) {
            *known = made;
        }
        (!same).then(|| known.connected.clone())
    }

    async fn connect(&self) -> Result<Current> {
        let files = KeyFiles::look(&self.settings);
        let http = || async { http_client(self.settings.ca_file.as_deref()) };
        let http = self.http_client.get_or_try_init(http).await?.clone();
        let connected = connect(&self.place, &self.settings, http, self.clock.clone()).await?;
        let now = Instant::now();
        Ok(Current { connected: Arc::new(connected), files, looked: now, read: now })
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
        self.request_within(self.settings.retry_deadline, retry, attempt).await
    }

    /// As [`S3Client::request`], with another deadline.
    pub async fn request_within<T, E, F>(
        &self,
        deadline: Duration,
        retry: Retry,
        attempt: impl Fn(&Connected) -> F,
    ) -> std::result::Result<T, Failure>
    where
        E: ProvideErrorMetadata + StdError + 'static,
        F: Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>>,
    {
        let mut connected = self.connected().await.map_err(Failure::before)?;
        let stall = self.settings.stall_timeout;
        let deadline = Instant::now() + deadline;
        let mut corrections = 0;
        let mut changed_keys = false;
        let mut pause = PAUSE_FIRST;
        let mut maybe_done = false;
        loop {
            self.give_way().await;
            failpoint::step("request");
            let answered = watched(stall, attempt(&connected)).await;
            failpoint::step("answer");
            let failure = match answered {
                Some(Ok(output)) => {
                    connected.is_answered.store(true, Ordering::Relaxed);
                    self.set_trouble(None);
                    return Ok(output);
                }
                Some(Err(error)) => judge(&connected.address, &error),
                None => stalled(stall.as_secs()),
            };
            // A new client learns the difference of the clocks from its first answer.
            let is_first = !connected.is_answered.swap(true, Ordering::Relaxed);
            if failure.is_refusal() && Instant::now() < deadline {
                let corrected = self.clock.correct(failure.service_time)
                    || failure.answer == Answer::Skewed
                    || is_first && self.clock.difference_s() != 0;
                if corrected && failure.service_time.is_some() && corrections < CORRECTIONS_MAX {
                    corrections += 1;
                    continue;
                }
                // Once only: some providers have other keys whenever they are asked.
                if !changed_keys && let Some(other) = self.with_other_keys(&connected).await {
                    changed_keys = true;
                    connected = other;
                    continue;
                }
            }
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
            tracing::debug!(error = %failure.error, pause_ms = waits.as_millis() as u64, "retrying a request");
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
    /// Whether the service has refused the keys or the time with which the request was signed, or may have.
    fn is_refusal(&self) -> bool {
        matches!(
            self.answer,
            Answer::Denied | Answer::UnexplainedBadRequest | Answer::KeysRefused | Answer::Skewed
        )
    }

    /// A request that was never made.
    fn before(error: Error) -> Failure {
        Failure { answer: Answer::None, transient: false, maybe_done: false, service_time: None, error }
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
