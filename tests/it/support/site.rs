//! The scratch directory of a scenario.

use super::account::create_private_directory;
use super::archive::Archive;
use super::cluster::Cluster;
use super::processes::kill_all_of;
use super::run_directory::{keeps_directories, run_directory};
use super::server_slots::ServerSlots;
use super::template::Template;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A scenario's directory with its repository, and the permission to run this many servers.
///
/// Declare it before the clusters: it is dropped last, kills all remaining processes and removes all files.
#[derive(Debug)]
pub struct Site {
    directory: PathBuf,
    _slots: ServerSlots,
}

impl Site {
    /// For scenarios without a server.
    pub fn without_server() -> Site {
        Site::with_servers(0)
    }

    /// Waits until this many more servers may run; at most two.
    pub fn with_servers(servers: usize) -> Site {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let slots = ServerSlots::take(servers);
        let directory = run_directory().join(COUNT.fetch_add(1, Ordering::Relaxed).to_string());
        create_private_directory(&directory);
        create_private_directory(&directory.join("repository"));
        Site { directory, _slots: slots }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn repository(&self) -> PathBuf {
        self.directory.join("repository")
    }

    /// A new stopped cluster of the default template, with its `pgark.toml` and spool.
    pub fn cluster(&self, name: &str) -> Cluster {
        self.cluster_of(name, Template::default())
    }

    pub fn cluster_of(&self, name: &str, template: Template) -> Cluster {
        Cluster::create(&self.directory, name, template, |data| template.copy_to(data))
    }

    /// The repository content of a cluster. All clusters of a site archive under the same name.
    pub fn archive_of(&self, cluster: &Cluster) -> Archive {
        Archive::new(self.repository(), cluster.system_identifier())
    }

    /// Makes the repository unavailable, like a failed file server.
    pub fn hide_repository(&self) {
        std::fs::rename(self.repository(), self.directory.join("hidden")).unwrap();
    }

    pub fn show_repository(&self) {
        std::fs::rename(self.directory.join("hidden"), self.repository()).unwrap();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        kill_all_of(&self.directory);
        if !keeps_directories() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}
