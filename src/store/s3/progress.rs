//! Timeouts by progress: a request may take any time while bytes move.
//!
//! The SDK's own read timeout counts from the start of a request. A large part on a slow line would need a timeout for
//! the slowest line. Here the time starts again with every piece of the body that is sent, and with every piece that is
//! received while a working service sends spaces.

use super::clock::{ServiceClock, time_of};
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How much of a body is handed to the connection at a time. The connection buffers some hundred KiB itself.
const PIECE_BYTES: usize = 64 << 10;

tokio::task_local! {
    /// The progress of the running task's request.
    static CURRENT: RequestProgress;
}

/// When bytes last moved.
#[derive(Clone, Debug)]
struct RequestProgress {
    last: Arc<Mutex<Instant>>,
    /// Whether the request has the service work, so that the response may come slowly.
    is_post: Arc<AtomicBool>,
}

impl RequestProgress {
    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a request while bytes move; `None` if none moved for `stall`.
pub async fn watched<T>(stall: Duration, request: impl Future<Output = T>) -> Option<T> {
    let last = Arc::new(Mutex::new(Instant::now()));
    let progress = RequestProgress { last, is_post: Arc::default() };
    let request = CURRENT.scope(progress.clone(), request);
    tokio::pin!(request);
    loop {
        let last = progress.last();
        tokio::select! {
            result = &mut request => return Some(result),
            () = sleep_until(last + stall) => {
                if progress.last() == last {
                    return None;
                }
            }
        }
    }
}

/// Replaces the body of a signed request, and that of a response, by one that records its progress. Also records the
/// time in every response.
#[derive(Debug)]
pub struct Observe(pub Arc<ServiceClock>);

impl Intercept for Observe {
    fn name(&self) -> &'static str {
        "Observe"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let Ok(progress) = CURRENT.try_with(Clone::clone) else { return Ok(()) };
        let request = context.request_mut();
        progress.is_post.store(request.method() == "POST", Ordering::Relaxed);
        let Some(length) = request.body().bytes().map(<[u8]>::len).filter(|length| *length > PIECE_BYTES)
        else {
            return Ok(());
        };
        let source = std::mem::replace(request.body_mut(), SdkBody::taken());
        let observed = ObservedBody { source, piece: Bytes::new(), left_bytes: length as u64, progress };
        *request.body_mut() = SdkBody::from_body_1_x(observed);
        Ok(())
    }

    /// Only for requests that have the service work. Readers of an object have a timeout for each piece.
    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let headers = context.response().headers();
        // The time of a cached response is out of date.
        let date = headers.get("date").filter(|_| headers.get("age").is_none());
        if let Some(time) = date.and_then(time_of) {
            self.0.observe(time);
        }
        let Ok(progress) = CURRENT.try_with(Clone::clone) else { return Ok(()) };
        if progress.is_post.load(Ordering::Relaxed) {
            let body = context.response_mut().body_mut();
            let source = std::mem::replace(body, SdkBody::taken());
            *body = SdkBody::from_body_1_x(ObservedResponse { source, progress });
        }
        Ok(())
    }
}

/// The body of a response.
struct ObservedResponse {
    source: SdkBody,
    progress: RequestProgress,
}

impl Body for ObservedResponse {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.source).poll_frame(context);
        if polled.is_ready() {
            self.progress.touch();
        }
        polled
    }
}

/// A body in memory, handed over piece by piece.
struct ObservedBody {
    source: SdkBody,
    /// What the source has handed over and this body has not.
    piece: Bytes,
    left_bytes: u64,
    progress: RequestProgress,
}

impl Body for ObservedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, BoxError>>> {
        self.progress.touch();
        if self.piece.is_empty() {
            match Pin::new(&mut self.source).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(content) => self.piece = content,
                    Err(_) => return Poll::Ready(None),
                },
                other => return other,
            }
        }
        let length = self.piece.len().min(PIECE_BYTES);
        self.left_bytes = self.left_bytes.saturating_sub(length as u64);
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_times_out_only_without_progress() {
        let slow = watched(Duration::from_secs(5), async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                CURRENT.with(RequestProgress::touch);
            }
            7
        });
        assert_eq!(slow.await, Some(7));
        assert_eq!(watched(Duration::from_secs(5), std::future::pending::<()>()).await, None);
    }
}
