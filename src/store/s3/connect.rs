//! The endpoint, region and access keys of a bucket: after the configuration, found in the same way as by other AWS
//! tools.

use super::address::BucketAddress;
use super::clock::ServiceClock;
use super::progress::Observe;
use crate::config::{S3Settings, without_user_information};
use crate::error::{Context, Error, Result};
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, ProvideCredentials, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The region that AWS uses for requests without one.
pub const DEFAULT_REGION: &str = "us-east-1";

const BEGIN_CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The client, and the address that was found for it.
#[derive(Debug)]
pub struct Connected {
    pub client: Client,
    pub address: BucketAddress,
    /// Whether requests are encrypted in transit, which makes a signature of the content superfluous.
    pub encrypted: bool,
    /// Whether the service has responded, so that the SDK knows the difference between the clocks.
    pub has_responded: AtomicBool,
    keys: Option<SharedCredentialsProvider>,
}

impl Connected {
    /// Whether the access keys of both are the same, as far as they are available.
    pub async fn has_keys_of(&self, other: &Connected) -> bool {
        match (self.keys().await, other.keys().await) {
            (Some(ours), Some(theirs)) => {
                (ours.access_key_id(), ours.secret_access_key(), ours.session_token())
                    == (theirs.access_key_id(), theirs.secret_access_key(), theirs.session_token())
            }
            (ours, _) => ours.is_none(),
        }
    }

    async fn keys(&self) -> Option<Credentials> {
        self.keys.as_ref()?.provide_credentials().await.ok()
    }
}

/// Finds the endpoint, region and current access keys. A new connection reads the keys again.
pub async fn connect(
    place: &BucketAddress,
    settings: &S3Settings,
    http_client: SharedHttpClient,
    clock: Arc<ServiceClock>,
) -> Result<Connected> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(settings.connect_timeout).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(profile) = &settings.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(file) = &settings.credentials_file {
        // The SDK ignores a file that it cannot read, and reports that there are no keys.
        std::fs::File::open(file)
            .context(|| format!("could not open s3.credentials_file \"{}\"", file.display()))?;
        let files = EnvConfigFiles::builder()
            .include_default_config_file(true)
            .with_file(EnvConfigFileKind::Credentials, file);
        loader = loader.profile_files(files.build());
    }
    // Without a request to the machine's metadata service, which takes seconds if there is none.
    let region = match &settings.region {
        Some(region) => RegionProviderChain::first_try(Region::new(region.clone())),
        None => {
            RegionProviderChain::first_try(aws_config::environment::EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .or_else(Region::new(DEFAULT_REGION))
        }
    };
    loader = loader.region(region);
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(endpoint.trim_end_matches('/'));
    }
    let shared = loader.load().await;
    // From here on only for messages. The endpoint from the environment may contain anything.
    let endpoint = shared.endpoint_url().map(without_user_information);
    let encrypted = !endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    if !encrypted && !settings.allow_http {
        return Err(Error::usage(format!(
            "the endpoint {} is not encrypted",
            endpoint.as_deref().unwrap_or_default()
        ))
        .hint("Use https://, or set s3.allow_http = true on a trusted network."));
    }
    let config = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(settings.path_style.unwrap_or(endpoint.is_some()))
        // pgark sets checksums itself: the SDK prefers streamed ones, which several services refuse.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .interceptor(Observe(clock))
        .build();
    let region = shared.region().map_or_else(|| place.region.clone(), ToString::to_string);
    let address = BucketAddress { region, endpoint, ..place.clone() };
    Ok(Connected {
        client: Client::from_conf(config),
        address,
        encrypted,
        has_responded: AtomicBool::new(false),
        keys: shared.credentials_provider(),
    })
}

/// Creates connections and keeps them for later requests.
pub fn http_client(ca_file: Option<&Path>) -> Result<SharedHttpClient> {
    let mut trusted = TrustStore::empty().with_native_roots(true);
    if let Some(path) = ca_file {
        let what = || format!("could not read s3.ca_file \"{}\"", path.display());
        let pem = std::fs::read(path).context(what)?;
        // The TLS library would panic on a file without a certificate.
        if !pem.windows(BEGIN_CERTIFICATE.len()).any(|window| window == BEGIN_CERTIFICATE) {
            return Err(Error::usage(format!("s3.ca_file \"{}\" holds no certificate", path.display()))
                .hint("The file must be in PEM format, with lines \"-----BEGIN CERTIFICATE-----\"."));
        }
        trusted = trusted.with_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|error| Error::usage("could not set up TLS").caused_by(error))?;
    Ok(Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(context).build_https())
}
