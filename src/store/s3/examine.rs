//! What the bucket allows and guarantees, for `pgark check`.

use super::behavior::ContentCheck;
use super::client::Retry;
use super::put::{Sums, lock_mode};
use super::{S3Inner, probe};
use crate::config::time_text;
use crate::error::Result;
use crate::store::Observation;

/// Inspects permissions and guarantees. Without delete permission an object of the probe remains.
///
/// # Errors
/// Unavailable if the bucket cannot be listed, written or read: then nothing works.
pub async fn examine(store: &S3Inner) -> Result<Vec<Observation>> {
    store.check_bucket().await?;
    let behavior = store.behavior().await?;
    let mut observations = Vec::new();
    observations.push(if behavior.refuses_second_put {
        Observation::good("conditional writes", "the service refuses to overwrite an existing object")
    } else {
        Observation::weak(
            "conditional writes",
            "the service ignores If-None-Match and overwrites; pgark checks before and after each put",
            "Make sure that no two servers archive under one cluster name: of two simultaneous puts the later one would win.",
        )
    });
    observations.push(match behavior.check {
        ContentCheck::Crc32 => Observation::good("checksums", "the service verifies a CRC-32 of each object"),
        ContentCheck::Md5 => Observation::good("checksums", "the service verifies an MD5 of each object"),
        ContentCheck::Nothing => Observation::weak(
            "checksums",
            "the service verifies no checksum; pgark reads back each stored object",
            "Expect twice the traffic, or use a service that verifies checksums.",
        ),
    });
    observations.push(rights(store, behavior.check).await?);
    observations.push(versioning(store).await);
    observations.extend(clock(store));
    observations.push(match store.client.settings.lock {
        Some(lock) => Observation::good(
            "object lock",
            format!(
                "stored objects are locked for {} in mode {}; the lock was tested",
                time_text(lock.retention),
                lock_mode(lock.mode).as_str()
            ),
        ),
        None => Observation::good(
            "object lock",
            "not enabled: access keys with delete permission can delete WAL and backups (s3.object_lock_mode)",
        ),
    });
    Ok(observations)
}

async fn rights(store: &S3Inner, check: ContentCheck) -> Result<Observation> {
    let key = probe::own_object(store);
    let content = b"pgark check\n";
    probe::try_put(store, &key, content, Sums::of(content, check), probe::Condition::None, None)
        .await?
        .accepted()?;
    probe::read_back(store, &key, content).await?;
    Ok(match probe::remove(store, &key, None).await {
        true => Observation::good("rights", "objects can be listed, stored, read and deleted"),
        false => Observation::good(
            "rights",
            "objects can be listed, stored and read, but not deleted: remove old and abandoned backups with other access keys",
        ),
    })
}

/// Reports that requests succeed only because they are signed with the service's time.
fn clock(store: &S3Inner) -> Option<Observation> {
    let difference_s = store.client.clock.difference_s();
    (difference_s != 0).then(|| {
        Observation::weak(
            "clock",
            format!(
                "the service's clock is {difference_s} s ahead of this host's; requests are signed with the service's time"
            ),
            "Set the time of this host (timedatectl): backups and recovery targets depend on it.",
        )
    })
}

async fn versioning(store: &S3Inner) -> Observation {
    let asked = store
        .client
        .request(Retry::Transient, |to| to.client.get_bucket_versioning().bucket(&to.address.bucket).send());
    let state = match asked.await {
        Ok(response) => match response.status().map(|status| status.as_str()) {
            Some("Enabled") => {
                "enabled: deleted or overwritten objects remain as older versions, at a cost, until a lifecycle rule removes them"
                    .to_owned()
            }
            Some("Suspended") => "suspended: objects deleted from now on cannot be restored".to_owned(),
            Some(other) => other.to_lowercase(),
            None => "never enabled: deleted objects cannot be restored".to_owned(),
        },
        Err(failure) => format!("unknown: {}", failure.error),
    };
    Observation::good("versioning", state)
}
