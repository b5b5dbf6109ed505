//! The scratch place of one scenario.

use super::account::create_private_directory;
use super::archive::Archive;
use super::cluster::Cluster;
use super::processes::kill_all_of;
use super::run_directory::{keeps_directories, run_directory};
use super::server_slots::ServerSlots;
use super::template::Template;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// One scenario's directory with its repository, and the right to run so many servers.
///
/// Declare it before the clusters: it is dropped last, kills whatever still runs and removes everything.
#[derive(Debug)]
pub struct Site {
    directory: PathBuf,
    _slots: ServerSlots,
}

impl Site {
    /// For scenarios in which no server runs.
    pub fn without_server() -> Site {
        Site::with_servers(0)
    }

    /// Waits until so many more servers may run; never more than two.
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

    /// A new, stopped cluster of the default template, with its `pgark.toml` and spool.
    pub fn cluster(&self, name: &str) -> Cluster {
        self.cluster_of(name, Template::default())
    }

    pub fn cluster_of(&self, name: &str, template: Template) -> Cluster {
        Cluster::create(&self.directory, name, template, |data| template.copy_to(data))
    }

    /// What the repository holds of a cluster. All clusters of a site archive under the same name.
    pub fn archive_of(&self, cluster: &Cluster) -> Archive {
        Archive::new(self.repository(), cluster.system_identifier())
    }

    /// Makes the repository unreachable, as a file server that went away.
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
