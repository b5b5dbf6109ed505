//! What the bucket allows and guarantees, for `pgark check`.

use super::client::Retry;
use super::put::{Sums, lock_mode};
use super::{ContentCheck, Inner, probe};
use crate::error::Result;
use crate::store::Observation;

/// Looks at rights and guarantees. Leaves an object of the probe's where it may not delete.
///
/// # Errors
/// That the bucket cannot be listed, written or read: then nothing works.
pub async fn examine(store: &Inner) -> Result<Vec<Observation>> {
    store.check_bucket().await?;
    let behaviour = store.behaviour().await?;
    let mut observations = Vec::new();
    observations.push(if behaviour.refuses_second_put {
        Observation::good("conditional writes", "the service refuses to store a name twice")
    } else {
        Observation::weak(
            "conditional writes",
            "the service overwrites in spite of If-None-Match; pgark looks before and after each put",
            "Make sure that no two servers archive under one cluster name: within one moment the later one would win.",
        )
    });
    observations.push(match behaviour.check {
        ContentCheck::Crc32 => {
            Observation::good("checksums", "the service compares a CRC-32 with what it stores")
        }
        ContentCheck::Md5 => {
            Observation::good("checksums", "the service compares an MD5 with what it stores")
        }
        ContentCheck::Nothing => Observation::weak(
            "checksums",
            "the service compares no checksum; pgark reads back what it has stored",
            "Expect twice the traffic, or use a service that checks.",
        ),
    });
    observations.push(rights(store, behaviour.check).await?);
    observations.push(versioning(store).await);
    observations.extend(clock(store));
    observations.push(match store.client.settings.lock {
        Some(lock) => Observation::good(
            "object lock",
            format!(
                "what is stored is locked for {} days in mode {}, which was seen to hold",
                lock.days,
                lock_mode(lock.mode).as_str()
            ),
        ),
        None => Observation::good(
            "object lock",
            "not asked for: whoever has keys that may delete can delete WAL and backups (s3.object_lock_mode)",
        ),
    });
    Ok(observations)
}

async fn rights(store: &Inner, check: ContentCheck) -> Result<Observation> {
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
            "objects can be listed, stored and read, and not deleted: old backups, and what an unfinished one leaves, \
             have to be removed by somebody else",
        ),
    })
}

/// That requests only succeed because they are signed by the service's clock.
fn clock(store: &Inner) -> Option<Observation> {
    let difference_s = store.client.clock.difference_s();
    (difference_s != 0).then(|| {
        Observation::weak(
            "clock",
            format!(
                "the service's clock is {difference_s} s ahead of this host's; requests are signed by it"
            ),
            "Set the time of this host (timedatectl): backups and recovery targets go by it.",
        )
    })
}

async fn versioning(store: &Inner) -> Observation {
    let asked = store
        .client
        .request(Retry::Transient, |to| to.client.get_bucket_versioning().bucket(&to.address.bucket).send());
    let state = match asked.await {
        Ok(answer) => match answer.status().map(|status| status.as_str()) {
            Some("Enabled") => {
                "on: what is deleted or replaced stays as an older version, and costs, until a lifecycle rule ends it"
                    .to_owned()
            }
            Some("Suspended") => "suspended: what is deleted from now on is gone".to_owned(),
            Some(other) => other.to_lowercase(),
            None => "never switched on: what is deleted is gone".to_owned(),
        },
        Err(failure) => format!("not known: {}", failure.error),
    };
    Observation::good("versioning", state)
}
