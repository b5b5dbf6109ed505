//! Time-outs by progress: a request may take as long as it wants while bytes move.
//!
//! The SDK's own read time-out counts from the start of a request, so that a large part on a slow line would need
//! one as long as the slowest line; here the clock starts anew with every piece of the body that goes out, and while a service that is at it
//! sends spaces, with every piece that comes in.

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

/// How much of a body is handed to the connection at a time; the connection itself keeps some hundred KiB.
const PIECE_BYTES: usize = 64 << 10;

tokio::task_local! {
    /// The progress of the request that the running task makes.
    static CURRENT: Progress;
}

/// When something has moved last.
#[derive(Clone, Debug)]
struct Progress {
    last: Arc<Mutex<Instant>>,
    /// Whether the request has something done, so that its answer may come slowly.
    is_post: Arc<AtomicBool>,
}

impl Progress {
    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a request as long as it moves; `None` when nothing has moved for `stall`.
pub async fn watched<T>(stall: Duration, request: impl Future<Output = T>) -> Option<T> {
    let last = Arc::new(Mutex::new(Instant::now()));
    let progress = Progress { last, is_post: Arc::default() };
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

/// Puts, after it was signed, a body that tells of its progress in place of one that does not; of answers too. Every answer
/// also says what time it is.
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

    /// Only of what has something done: the body of an object is read piece by piece, each with its own patience.
    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let headers = context.response().headers();
        // What a cache answers is as old as it says.
        let date = headers.get("date").filter(|_| headers.get("age").is_none());
        if let Some(time) = date.and_then(time_of) {
            self.0.observe(time);
        }
        let Ok(progress) = CURRENT.try_with(Clone::clone) else { return Ok(()) };
        if progress.is_post.load(Ordering::Relaxed) {
            let body = context.response_mut().body_mut();
            let source = std::mem::replace(body, SdkBody::taken());
            *body = SdkBody::from_body_1_x(ObservedAnswer { source, progress });
        }
        Ok(())
    }
}

/// The body of an answer, as it comes.
struct ObservedAnswer {
    source: SdkBody,
    progress: Progress,
}

impl Body for ObservedAnswer {
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

/// A body in memory, handed out piece by piece.
struct ObservedBody {
    source: SdkBody,
    /// What the source has handed out and we have not.
    piece: Bytes,
    left_bytes: u64,
    progress: Progress,
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
    async fn what_moves_is_waited_for_and_what_does_not_is_not() {
        let slow = watched(Duration::from_secs(5), async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                CURRENT.with(Progress::touch);
            }
            7
        });
        assert_eq!(slow.await, Some(7));
        assert_eq!(watched(Duration::from_secs(5), std::future::pending::<()>()).await, None);
    }
}
