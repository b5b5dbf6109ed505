//! What a response of the service means. Only this module decides whether to retry a request, and what an operator
//! reads.
//!
//! Messages repeat the service's own code and text, but nothing that was sent. Neither contains access keys or
//! signatures.

use super::address::BucketAddress;
use super::clock::time_of;
use crate::error::Error;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::error::Error as StdError;
use std::time::SystemTime;

/// A request that did not succeed.
#[derive(Debug)]
pub struct RequestFailure {
    /// What the service has responded.
    pub response: ResponseKind,
    /// Whether the same request may succeed soon.
    pub transient: bool,
    /// Whether an earlier attempt had no clear response, so that it may have been carried out.
    pub maybe_done: bool,
    /// The service's time at a refusal.
    pub service_time: Option<SystemTime>,
    /// The error for people.
    pub error: Error,
}

/// The responses that pgark distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// None, or an unintelligible one. The request may have been carried out.
    None,
    /// There is no such object.
    NoSuchKey,
    /// 404 without an explanation, as for `HEAD`: no object, or no bucket.
    NotFound,
    /// There is no such multipart upload.
    NoSuchUpload,
    /// The condition does not hold.
    PreconditionFailed,
    /// The object ends before the range.
    InvalidRange,
    /// These keys do not permit it. Without an explanation, as for `HEAD`, the keys may also be unknown.
    Denied,
    /// The time of the signature is wrong.
    Skewed,
    /// The keys are unknown or have expired.
    KeysRefused,
    /// The service does not implement it.
    NotImplemented,
    /// The request is wrong, for example a checksum.
    BadRequest,
    /// 400 without an explanation. AWS responds so to a `HEAD` signed with expired keys.
    UnexplainedBadRequest,
    /// The request rate is too high.
    SlowDown,
    /// Anything else.
    Other,
}

/// The codes for unknown keys, and for expired ones.
const KEYS_REFUSED: [&str; 4] =
    ["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "UnrecognizedClientException"];
const KEYS_EXPIRED: [&str; 4] =
    ["ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException", "RequestExpired"];

/// Judges a failed request.
pub fn judge<E>(address: &BucketAddress, error: &SdkError<E, HttpResponse>) -> RequestFailure
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match error {
        SdkError::ServiceError(response) => {
            let raw = response.raw();
            let status = raw.status().as_u16();
            let region = raw.headers().get("x-amz-bucket-region");
            let failure =
                from_response(address, status, response.err().code(), response.err().message(), region);
            RequestFailure { service_time: raw.headers().get("date").and_then(time_of), ..failure }
        }
        SdkError::ResponseError(response) => {
            let status = response.raw().status().as_u16();
            match status {
                // Not from S3: a proxy's statement about an object is not trusted.
                300..=499 => from_response(address, status, Some("(not an S3 response)"), None, None),
                _ => no_response(format!(
                    "the response (status {status}) is truncated or not an S3 response: {}",
                    root_cause(error)
                )),
            }
        }
        SdkError::TimeoutError(_) => no_response("no connection within s3.connect_timeout".to_owned()),
        other => not_sent(address, other),
    }
}

/// No data was transferred for too long.
pub fn stalled(seconds: u64) -> RequestFailure {
    no_response(format!("no data was transferred for {seconds} s"))
}

/// There was no response, or an unintelligible one.
pub fn no_response(message: String) -> RequestFailure {
    RequestFailure {
        response: ResponseKind::None,
        transient: true,
        maybe_done: true,
        service_time: None,
        error: Error::unavailable(message),
    }
}

fn from_response(
    address: &BucketAddress,
    status: u16,
    code: Option<&str>,
    message: Option<&str>,
    bucket_region: Option<&str>,
) -> RequestFailure {
    let known = code.unwrap_or_default();
    // Garage has no code of its own for unknown keys.
    let unknown_keys =
        known == "AccessDenied" && message.is_some_and(|message| message.contains("nvalid signature"));
    let effective = if unknown_keys { "SignatureDoesNotMatch" } else { known };
    let response = match (known, status) {
        _ if KEYS_REFUSED.contains(&effective) || KEYS_EXPIRED.contains(&effective) => {
            ResponseKind::KeysRefused
        }
        ("RequestTimeTooSkewed", _) => ResponseKind::Skewed,
        ("NoSuchKey", _) => ResponseKind::NoSuchKey,
        ("NoSuchUpload", _) => ResponseKind::NoSuchUpload,
        ("NotFound" | "", 404) => ResponseKind::NotFound,
        ("PreconditionFailed", _) | (_, 412) => ResponseKind::PreconditionFailed,
        ("InvalidRange", _) | (_, 416) => ResponseKind::InvalidRange,
        ("SlowDown" | "ServiceUnavailable" | "Throttling" | "RequestLimitExceeded", _) | (_, 429 | 503) => {
            ResponseKind::SlowDown
        }
        ("NotImplemented", _) | (_, 501) => ResponseKind::NotImplemented,
        ("RequestTimeout" | "InternalError" | "OperationAborted" | "ConditionalRequestConflict", _) => {
            ResponseKind::None
        }
        (_, 500..=599) => ResponseKind::None,
        (_, 403) => ResponseKind::Denied,
        ("", 400) => ResponseKind::UnexplainedBadRequest,
        (_, 400) => ResponseKind::BadRequest,
        _ => ResponseKind::Other,
    };
    // Damaged in transit. S3 has refused it, so it is sent again.
    let damaged_in_transit = matches!(
        known,
        "BadDigest"
            | "InvalidDigest"
            | "IncompleteBody"
            | "XAmzContentSHA256Mismatch"
            | "XAmzContentChecksumMismatch"
    );
    let conflict = matches!(known, "OperationAborted" | "ConditionalRequestConflict")
        || status == 409 && known.is_empty();
    let transient =
        matches!(response, ResponseKind::None | ResponseKind::SlowDown) || damaged_in_transit || conflict;
    let (text, hint) = wording(address, status, effective, bucket_region);
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
    RequestFailure {
        response,
        transient,
        maybe_done: response == ResponseKind::None && !conflict,
        service_time: None,
        error,
    }
}

/// What a response means to an operator, and what to do about it.
fn wording(
    address: &BucketAddress,
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

/// There was no response, or the request was not sent.
fn not_sent<E>(address: &BucketAddress, error: &SdkError<E, HttpResponse>) -> RequestFailure
where
    E: StdError + 'static,
{
    let chain: Vec<&(dyn StdError + 'static)> = causes(error);
    let credentials = chain.iter().find_map(|cause| cause.downcast_ref::<CredentialsError>());
    let reason = root_cause(error);
    let (transient, reported) = match credentials {
        Some(CredentialsError::ProviderTimedOut(_)) => {
            (true, Error::unavailable(format!("could not get access keys: {reason}")))
        }
        // Not retried here: the SDK has already asked each source repeatedly.
        Some(_) => (
            false,
            Error::unavailable(format!("could not get access keys: {reason}")).hint(
                "Provide keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the profile (s3.profile, \
                 s3.credentials_file), by a web identity, or by the role of the container or machine.",
            ),
        ),
        // The text of rustls, because its types are not accessible here.
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
    // A connection may fail after it has carried the whole request.
    RequestFailure {
        response: ResponseKind::None,
        transient,
        maybe_done: transient,
        service_time: None,
        error: reported,
    }
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

/// The innermost cause, the only informative one: the outer ones say "dispatch failure" and the like.
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let text = causes(error).last().map(ToString::to_string).unwrap_or_default();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> BucketAddress {
        BucketAddress {
            bucket: "wal".to_owned(),
            prefix: "prod".to_owned(),
            region: "eu-central-1".to_owned(),
            endpoint: Some("https://s3.example.com".to_owned()),
        }
    }

    #[test]
    fn transient_failures_are_distinguished() {
        for (status, code, response, transient) in [
            (404, Some("NoSuchKey"), ResponseKind::NoSuchKey, false),
            (404, None, ResponseKind::NotFound, false),
            (404, Some("NoSuchBucket"), ResponseKind::Other, false),
            (404, Some("NoSuchUpload"), ResponseKind::NoSuchUpload, false),
            (412, Some("PreconditionFailed"), ResponseKind::PreconditionFailed, false),
            (412, None, ResponseKind::PreconditionFailed, false),
            (409, Some("ConditionalRequestConflict"), ResponseKind::None, true),
            (416, Some("InvalidRange"), ResponseKind::InvalidRange, false),
            (403, Some("AccessDenied"), ResponseKind::Denied, false),
            (403, None, ResponseKind::Denied, false),
            (403, Some("RequestTimeTooSkewed"), ResponseKind::Skewed, false),
            (403, Some("InvalidAccessKeyId"), ResponseKind::KeysRefused, false),
            (400, Some("ExpiredToken"), ResponseKind::KeysRefused, false),
            (400, Some("BadDigest"), ResponseKind::BadRequest, true),
            (400, Some("RequestTimeout"), ResponseKind::None, true),
            (400, Some("InvalidArgument"), ResponseKind::BadRequest, false),
            (503, Some("SlowDown"), ResponseKind::SlowDown, true),
            (500, Some("InternalError"), ResponseKind::None, true),
            (200, Some("InternalError"), ResponseKind::None, true),
            (502, None, ResponseKind::None, true),
            (501, Some("NotImplemented"), ResponseKind::NotImplemented, false),
        ] {
            let failure = from_response(&address(), status, code, None, None);
            assert_eq!((failure.response, failure.transient), (response, transient), "{status} {code:?}");
            assert_eq!(failure.error.kind(), crate::error::ErrorKind::Unavailable);
        }
    }

    #[test]
    fn each_usual_failure_has_its_own_message() {
        let report = |status, code, region| {
            from_response(&address(), status, Some(code), Some("Text of the service."), region).error.report()
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
        let garage =
            from_response(&address(), 403, Some("AccessDenied"), Some("Forbidden: Invalid signature"), None);
        assert!(garage.error.report().starts_with("the service does not know these access keys"));
        assert!(report(403, "AccessDenied", None).contains("\"s3://wal/prod\": s3:PutObject"));
        assert!(report(400, "KMS.DisabledException", None).contains("s3.kms_key_id"));
    }
}
