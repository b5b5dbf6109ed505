//! `pgark version`.

use super::CommandContext;
use super::store::STORES;
use pgark::config::keys::{Key, Kind};
use pgark::error::Result;
use pgark::postgres::MajorVersion;
use pgark::repository::FORMAT_VERSION;
use pgark::repository::backup::StoredBackup;
use serde::Serialize;
use std::process::ExitCode;

pub const MORE_HELP: &str = "\
Exit status:
  0  the version is shown

Examples:
  pgark version --verbose
  pgark version --json";

/// How this pgark was built, and what it supports.
#[derive(Serialize)]
struct VersionDocument {
    version: &'static str,
    /// The optional features that are compiled in.
    features: Vec<&'static str>,
    /// The target triple.
    target: &'static str,
    tls: &'static str,
    /// The major versions that can be read without assume_version.
    postgresql: Vec<u32>,
    /// The versions of these formats that are written; older ones are read, too.
    repository_format: u32,
    manifest_format: u32,
    compression: &'static [&'static str],
    stores: &'static [&'static str],
}

pub fn run(context: &CommandContext) -> Result<ExitCode> {
    let version = VersionDocument {
        version: env!("CARGO_PKG_VERSION"),
        features: features(),
        target: env!("TARGET_TRIPLE"),
        tls: "rustls with ring",
        postgresql: MajorVersion::ALL.iter().map(|version| version.as_u32()).collect(),
        repository_format: FORMAT_VERSION,
        manifest_format: StoredBackup::VERSION,
        compression: methods(),
        stores: STORES,
    };
    context
        .output
        .result(&version, || if context.verbose.is_some() { text(&version) } else { line(&version) });
    Ok(ExitCode::SUCCESS)
}

fn features() -> Vec<&'static str> {
    let features = [("s3", cfg!(feature = "s3")), ("failpoints", cfg!(feature = "failpoints"))];
    features.into_iter().filter(|(_, is_on)| *is_on).map(|(name, _)| name).collect()
}

/// The words of `compression.method`.
fn methods() -> &'static [&'static str] {
    match Key::find("compression.method").map(|key| key.kind) {
        Some(Kind::OneOf(words)) => words,
        _ => &[],
    }
}

/// The same as `--version`.
fn line(version: &VersionDocument) -> String {
    format!("pgark {}", version.version)
}

fn text(version: &VersionDocument) -> String {
    let listed = |words: &[&str]| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    let majors: Vec<String> = version.postgresql.iter().map(u32::to_string).collect();
    let lines = [
        line(version),
        format!("features     {}", listed(&version.features)),
        format!("target       {}", version.target),
        format!("TLS          {}", version.tls),
        format!("PostgreSQL   {}", majors.join(", ")),
        format!(
            "repository   format {}, backup manifests {}",
            version.repository_format, version.manifest_format
        ),
        format!("compression  {}", listed(version.compression)),
        format!("stores       {}", listed(version.stores)),
    ];
    lines.join("\n")
}
