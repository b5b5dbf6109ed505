//! Many names: memory use does not grow with the repository, and grows with the cluster only as documented. Objects are
//! empty or tiny, and files are sparse, because only the names matter.

use crate::support::{Archive, Cluster, Site, give, segment_name, wants_everything};
use std::fs;
use std::path::Path;

/// Memory limit of every command, in addition to its list of the cluster's files.
const MEMORY_BYTES_MAX: u64 = 40 << 20;

/// Memory limit of a base backup for each file of the cluster; see docs/performance.md.
const MEMORY_PER_FILE_BYTES_MAX: u64 = 130;

/// The number of items in the short form, or in the long one.
fn number(short: u64, long: u64) -> u64 {
    if wants_everything() { long } else { short }
}

fn primary(site: &Site) -> Cluster {
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary
}

/// Creates empty objects with the names of this number of segments, after the existing ones.
fn fill_wal(archive: &Archive, segments: u64) {
    let mut made = None;
    // The test clusters' segments have 1 MiB.
    for number in (1 << 20)..(1 << 20) + segments {
        let path = archive.path(&segment_name(1, number, 1 << 20));
        let directory = path.parent().unwrap();
        if made.as_deref() != Some(directory) {
            fs::create_dir_all(directory).unwrap();
            give(directory);
            made = Some(directory.to_owned());
        }
        // Readable for all users; no write access is needed.
        fs::File::create_new(&path).unwrap();
    }
}

/// Copies a backup under other labels by linking its objects.
fn fill_backups(archive: &Archive, label: &str, backups: u64) {
    let original = archive.backup(label);
    let manifest = fs::read(original.join("manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for number in 0..backups {
        let copy = format!("{label}-{number}");
        let directory = archive.backup(&copy);
        fs::create_dir(&directory).unwrap();
        let put = |name: &str, content: &[u8]| {
            fs::write(directory.join(name), content).unwrap();
            give(&directory.join(name));
        };
        manifest["label"] = copy.as_str().into();
        put("manifest.json", manifest.to_string().as_bytes());
        for object in fs::read_dir(&original).unwrap().map(|entry| entry.unwrap().path()) {
            let name = object.file_name().unwrap();
            if name != "manifest.json" {
                fs::hard_link(&object, directory.join(name)).unwrap();
            }
        }
        give(&directory);
    }
}

/// Creates sparse files of one page in the directory of a database.
fn fill_cluster(data: &Path, files: u64) {
    let database = data.join("base/1");
    for number in 0..files {
        let path = database.join((1_000_000 + number).to_string());
        fs::File::create_new(&path).unwrap().set_len(8192).unwrap();
        give(&path);
    }
}

#[test]
fn memory_does_not_grow_with_the_repository() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    primary.pgark(&["base-backup", "--checkpoint", "fast", "--label", "one"]).run().expect(0);
    let archive = site.archive_of(&primary);
    let (segments, backups) = (number(10_000, 1_000_000), number(50, 1_000));
    fill_wal(&archive, segments);
    fill_backups(&archive, "one", backups);
    primary.pgark(&["agent", "stop"]).run().expect(0);

    let (info, peak_bytes) = primary.pgark(&["--json", "info"]).spawn().wait_measured();
    let info: serde_json::Value = serde_json::from_str(&info.expect(0).stdout).unwrap();
    assert_eq!(info["systems"][0]["backups"].as_array().unwrap().len() as u64, backups + 1);
    assert!(peak_bytes < MEMORY_BYTES_MAX, "info took {peak_bytes} bytes");

    let target = site.directory().join("recovered");
    let plan = ["recover", "--dry-run", "--target-immediate", "--backup", "one"];
    let (plan, peak_bytes) =
        primary.pgark(&plan).arg("--target-directory").arg(&target).spawn().wait_measured();
    plan.expect(0);
    assert!(peak_bytes < MEMORY_BYTES_MAX, "the plan took {peak_bytes} bytes");

    primary.get("00000009.history", "pg_wal/RECOVERYHISTORY").expect(1);
    let peak_bytes = primary.agent().anonymous_bytes().unwrap();
    assert!(peak_bytes < MEMORY_BYTES_MAX, "the agent took {peak_bytes} bytes");
}

#[test]
fn memory_grows_with_the_clusters_files_as_documented() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    let files = number(10_000, 1_000_000);
    fill_cluster(&primary.data(), files);
    let backup = primary.pgark(&["--json", "base-backup", "--checkpoint", "fast", "--label", "many"]);
    let (backup, peak_bytes) = backup.deadline(std::time::Duration::from_secs(600)).spawn().wait_measured();
    let summary: serde_json::Value = serde_json::from_str(&backup.expect(0).stdout).unwrap();
    assert!(summary["files"].as_u64().unwrap() > files);
    let limit = MEMORY_BYTES_MAX + files * MEMORY_PER_FILE_BYTES_MAX;
    assert!(peak_bytes < limit, "the backup took {peak_bytes} bytes");

    let target = site.directory().join("recovered");
    let restore = ["recover", "--target-immediate", "--backup", "many"];
    let restore = primary
        .pgark(&restore)
        .arg("--target-directory")
        .arg(&target)
        .deadline(std::time::Duration::from_secs(900));
    let (restore, peak_bytes) = restore.spawn().wait_measured();
    restore.expect(0);
    assert!(peak_bytes < MEMORY_BYTES_MAX, "the restore took {peak_bytes} bytes");
    assert!(target.join("base/1").join((1_000_000 + files - 1).to_string()).is_file());
}
