//! What an answer of the service means: the one place that decides what is worth trying again, and what an operator
//! is told.
//!
//! Messages repeat the service's own code and text and nothing that was sent: neither access keys nor signatures are
//! in either.

use super::address::Address;
use super::clock::time_of;
use crate::error::Error;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::error::Error as StdError;
use std::time::SystemTime;

/// A request that did not succeed.
#[derive(Debug)]
pub struct Failure {
    /// What the service has said.
    pub answer: Answer,
    /// Whether the same request may succeed in a moment.
    pub transient: bool,
    /// Whether an earlier attempt had no clear answer, so that it may have been carried out all the same.
    pub maybe_done: bool,
    /// What time it was for the service when it refused.
    pub service_time: Option<SystemTime>,
    /// The same for people.
    pub error: Error,
}

/// What the service has said, as far as anybody decides on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing, or nothing that can be understood: the request may have been carried out.
    None,
    /// That there is no such object, in so many words.
    NoSuchKey,
    /// 404 without a word, as `HEAD` has it: no object, or no bucket.
    NotFound,
    /// That there is no such multipart upload.
    NoSuchUpload,
    /// That the condition does not hold.
    PreconditionFailed,
    /// That the object ends before the range.
    InvalidRange,
    /// That it may not be done with these keys; without a word, as `HEAD` has it, also that it does not know them.
    Denied,
    /// That it was signed at another time than it is.
    Skewed,
    /// That it does not know these keys, or not any more.
    KeysRefused,
    /// That the service cannot do this.
    NotImplemented,
    /// That the request is wrong, a checksum among others.
    BadRequest,
    /// 400 without a word, as AWS answers a `HEAD` that was signed with expired keys.
    UnexplainedBadRequest,
    /// That it is too much now.
    SlowDown,
    /// Anything else.
    Other,
}

/// The codes for keys that the service does not know, and for those that it knows no more.
const KEYS_REFUSED: [&str; 4] =
    ["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "UnrecognizedClientException"];
const KEYS_EXPIRED: [&str; 4] =
    ["ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException", "RequestExpired"];

/// Judges a failed request.
pub fn judge<E>(address: &Address, error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match error {
        SdkError::ServiceError(answered) => {
            let raw = answered.raw();
            let status = raw.status().as_u16();
            let region = raw.headers().get("x-amz-bucket-region");
            let said = said(address, status, answered.err().code(), answered.err().message(), region);
            Failure { service_time: raw.headers().get("date").and_then(time_of), ..said }
        }
        SdkError::ResponseError(answered) => {
            let status = answered.raw().status().as_u16();
            match status {
                // Not of S3 at all: what a proxy says of an object is not believed.
                300..=499 => said(address, status, Some("(not an S3 response)"), None, None),
                _ => unanswered(format!(
                    "the response (status {status}) is truncated or not an S3 response: {}",
                    deepest(error)
                )),
            }
        }
        SdkError::TimeoutError(_) => unanswered("no connection within s3.connect_timeout".to_owned()),
        other => not_sent(address, other),
    }
}

/// Nothing has moved for too long.
pub fn stalled(seconds: u64) -> Failure {
    unanswered(format!("no data was transferred for {seconds} s"))
}

/// The answer did not come, or cannot be understood.
pub fn unanswered(message: String) -> Failure {
    Failure {
        answer: Answer::None,
        transient: true,
        maybe_done: true,
        service_time: None,
        error: Error::unavailable(message),
    }
}

fn said(
    address: &Address,
    status: u16,
    code: Option<&str>,
    message: Option<&str>,
    bucket_region: Option<&str>,
) -> Failure {
    let known = code.unwrap_or_default();
    // Garage has no code of its own for keys that it does not know.
    let unknown_keys =
        known == "AccessDenied" && message.is_some_and(|message| message.contains("nvalid signature"));
    let told = if unknown_keys { "SignatureDoesNotMatch" } else { known };
    let answer = match (known, status) {
        _ if KEYS_REFUSED.contains(&told) || KEYS_EXPIRED.contains(&told) => Answer::KeysRefused,
        ("RequestTimeTooSkewed", _) => Answer::Skewed,
        ("NoSuchKey", _) => Answer::NoSuchKey,
        ("NoSuchUpload", _) => Answer::NoSuchUpload,
        ("NotFound" | "", 404) => Answer::NotFound,
        ("PreconditionFailed", _) | (_, 412) => Answer::PreconditionFailed,
        ("InvalidRange", _) | (_, 416) => Answer::InvalidRange,
        ("SlowDown" | "ServiceUnavailable" | "Throttling" | "RequestLimitExceeded", _) | (_, 429 | 503) => {
            Answer::SlowDown
        }
        ("NotImplemented", _) | (_, 501) => Answer::NotImplemented,
        ("RequestTimeout" | "InternalError" | "OperationAborted" | "ConditionalRequestConflict", _) => {
            Answer::None
        }
        (_, 500..=599) => Answer::None,
        (_, 403) => Answer::Denied,
        ("", 400) => Answer::UnexplainedBadRequest,
        (_, 400) => Answer::BadRequest,
        _ => Answer::Other,
    };
    // Damaged on the way: S3 has refused it, so it is sent again.
    let damaged_on_the_way = matches!(
        known,
        "BadDigest"
            | "InvalidDigest"
            | "IncompleteBody"
            | "XAmzContentSHA256Mismatch"
            | "XAmzContentChecksumMismatch"
    );
    let conflict = matches!(known, "OperationAborted" | "ConditionalRequestConflict")
        || status == 409 && known.is_empty();
    let transient = matches!(answer, Answer::None | Answer::SlowDown) || damaged_on_the_way || conflict;
    let (text, hint) = wording(address, status, told, bucket_region);
    let cause = match (known, message) {
        ("", _) => format!("status {status}"),
        (code, Some(message)) => format!("{code}: {}", message.trim_end_matches('.')),
        (code, None) => format!("{code}, status {status}"),
    };
    let error = Error::unavailable(format!("{text} ({cause})"));
    let error = match hint {
        Some(hint) => error.hint(hint),
        None => error,
    };
    Failure { answer, transient, maybe_done: answer == Answer::None && !conflict, service_time: None, error }
}

/// What an answer means to an operator, and what to do.
fn wording(
    address: &Address,
    status: u16,
    code: &str,
    bucket_region: Option<&str>,
) -> (String, Option<String>) {
    let bucket = &address.bucket;
    let elsewhere = bucket_region.filter(|region| *region != address.region);
    match (code, status) {
        ("NoSuchBucket", _) => (
            format!("there is no bucket \"{bucket}\""),
            Some(format!("Check repository.url and s3.endpoint ({}); pgark never creates a bucket.", address.endpoint())),
        ),
        ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException", _) | (_, 301 | 307) => (
            match elsewhere {
                Some(region) => format!("the bucket \"{bucket}\" is in the region {region}, not in {}", address.region),
                None => format!("the bucket \"{bucket}\" is not in the region {}", address.region),
            },
            Some(format!("Set s3.region to {}.", elsewhere.unwrap_or("that of the bucket"))),
        ),
        ("RequestTimeTooSkewed", _) => (
            "the clocks of this host and the service differ too much".to_owned(),
            Some("Check the time of this host (timedatectl). S3 accepts a difference of at most 15 minutes.".to_owned()),
        ),
        (code, _) if KEYS_EXPIRED.contains(&code) => (
            "the access keys have expired".to_owned(),
            Some("Renew the session token, or use a role or profile with automatically renewed keys.".to_owned()),
        ),
        (code, _) if KEYS_REFUSED.contains(&code) => (
            "the service does not know these access keys".to_owned(),
            Some("Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile that s3.profile names.".to_owned()),
        ),
        (code, _) if code.starts_with("KMS.") => (
            "the encryption key cannot be used".to_owned(),
            Some("Check s3.kms_key_id, and that the policy of the key allows kms:GenerateDataKey and kms:Decrypt.".to_owned()),
        ),
        (_, 401 | 403) => (
            "access denied".to_owned(),
            Some(format!(
                "Check the policy for \"{}\": s3:PutObject, s3:GetObject, and s3:ListBucket on the bucket itself.",
                address.location()
            )),
        ),
        ("SlowDown", _) | (_, 429 | 503) => ("the service asks for a lower request rate".to_owned(), None),
        (_, 500..=599) => ("the service reported an internal error".to_owned(), None),
        _ => ("the service rejected the request".to_owned(), None),
    }
}

/// There was no answer, or not even a request.
fn not_sent<E>(address: &Address, error: &SdkError<E, HttpResponse>) -> Failure
where
    E: StdError + 'static,
{
    let chain: Vec<&(dyn StdError + 'static)> = causes(error);
    let credentials = chain.iter().find_map(|cause| cause.downcast_ref::<CredentialsError>());
    let reason = deepest(error);
    let (transient, told) = match credentials {
        Some(CredentialsError::ProviderTimedOut(_)) => {
            (true, Error::unavailable(format!("could not get access keys: {reason}")))
        }
        // Not again here: the SDK has asked each source as often as is good for it.
        Some(_) => (
            false,
            Error::unavailable(format!("could not get access keys: {reason}")).hint(
                "Provide keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the profile (s3.profile, \
                 s3.credentials_file), by a web identity, or by the role of the container or machine.",
            ),
        ),
        // The text of rustls, whose types are not ours to name.
        None if reason.contains("certificate") || reason.contains("HandshakeFailure") => (
            false,
            Error::unavailable(format!(
                "the certificate of {} is not accepted: {reason}",
                address.endpoint()
            ))
            .hint(
                "For a private certificate authority, set s3.ca_file. Otherwise check the host name and the dates of the \
                 certificate.",
            ),
        ),
        None if matches!(error, SdkError::ConstructionFailure(_)) => {
            (false, Error::unavailable(format!("could not send a request: {reason}")))
        }
        None => (true, Error::unavailable(format!("no response from {}: {reason}", address.endpoint()))),
    };
    // A connection that broke may have carried the whole request before.
    Failure { answer: Answer::None, transient, maybe_done: transient, service_time: None, error: told }
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> Vec<&'a (dyn StdError + 'static)> {
    let mut causes = vec![error];
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    causes
}

/// The first cause of all, which alone says something: those above it say "dispatch failure" and the like.
fn deepest(error: &(dyn StdError + 'static)) -> String {
    let text = causes(error).last().map(ToString::to_string).unwrap_or_default();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Address {
        Address {
            bucket: "wal".to_owned(),
            prefix: "prod".to_owned(),
            region: "eu-central-1".to_owned(),
            endpoint: Some("https://s3.example.com".to_owned()),
        }
    }

    #[test]
    fn tells_what_may_pass_from_what_will_not() {
        for (status, code, answer, transient) in [
            (404, Some("NoSuchKey"), Answer::NoSuchKey, false),
            (404, None, Answer::NotFound, false),
            (404, Some("NoSuchBucket"), Answer::Other, false),
            (404, Some("NoSuchUpload"), Answer::NoSuchUpload, false),
            (412, Some("PreconditionFailed"), Answer::PreconditionFailed, false),
            (412, None, Answer::PreconditionFailed, false),
            (409, Some("ConditionalRequestConflict"), Answer::None, true),
            (416, Some("InvalidRange"), Answer::InvalidRange, false),
            (403, Some("AccessDenied"), Answer::Denied, false),
            (403, None, Answer::Denied, false),
            (403, Some("RequestTimeTooSkewed"), Answer::Skewed, false),
            (403, Some("InvalidAccessKeyId"), Answer::KeysRefused, false),
            (400, Some("ExpiredToken"), Answer::KeysRefused, false),
            (400, Some("BadDigest"), Answer::BadRequest, true),
            (400, Some("RequestTimeout"), Answer::None, true),
            (400, Some("InvalidArgument"), Answer::BadRequest, false),
            (503, Some("SlowDown"), Answer::SlowDown, true),
            (500, Some("InternalError"), Answer::None, true),
            (200, Some("InternalError"), Answer::None, true),
            (502, None, Answer::None, true),
            (501, Some("NotImplemented"), Answer::NotImplemented, false),
        ] {
            let failure = said(&address(), status, code, None, None);
            assert_eq!((failure.answer, failure.transient), (answer, transient), "{status} {code:?}");
            assert_eq!(failure.error.kind(), crate::error::ErrorKind::Unavailable);
        }
    }

    #[test]
    fn each_usual_trouble_has_its_own_words() {
        let report = |status, code, region| {
            said(&address(), status, Some(code), Some("Text of the service."), region).error.report()
        };
        assert_eq!(
            report(404, "NoSuchBucket", None),
            "there is no bucket \"wal\" (NoSuchBucket: Text of the service)\nHINT: Check repository.url and s3.endpoint \
             (https://s3.example.com); pgark never creates a bucket."
        );
        assert_eq!(
            report(301, "PermanentRedirect", Some("us-west-2")),
            "the bucket \"wal\" is in the region us-west-2, not in eu-central-1 \
             (PermanentRedirect: Text of the service)\nHINT: Set s3.region to us-west-2."
        );
        assert!(report(403, "RequestTimeTooSkewed", None).contains("HINT: Check the time of this host"));
        assert!(report(400, "ExpiredToken", None).starts_with("the access keys have expired"));
        assert!(
            report(403, "InvalidAccessKeyId", None)
                .starts_with("the service does not know these access keys")
        );
        let garage = said(&address(), 403, Some("AccessDenied"), Some("Forbidden: Invalid signature"), None);
        assert!(garage.error.report().starts_with("the service does not know these access keys"));
        assert!(report(403, "AccessDenied", None).contains("\"s3://wal/prod\": s3:PutObject"));
        assert!(report(400, "KMS.DisabledException", None).contains("s3.kms_key_id"));
    }
}
