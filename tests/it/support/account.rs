//! The user that runs PostgreSQL and pgark.

use super::programs::search_path;
use nix::unistd::{User, geteuid};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The user created by PostgreSQL's package; tests started by root run everything as this user.
const SERVER_USER: &str = "postgres";

/// Whether the tests run as root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// The user to switch to if the tests run as root.
fn server_user() -> Option<&'static User> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    let find = || {
        User::from_name(SERVER_USER)
            .expect("the user database answers")
            .unwrap_or_else(|| panic!("root needs a user \"{SERVER_USER}\" to run PostgreSQL as"))
    };
    USER.get_or_init(|| is_root().then(find)).as_ref()
}

/// A command that runs as the owner of the data directories, without the test's environment.
pub fn command(program: &Path) -> Command {
    let mut command = command_as_caller(program);
    if let Some(user) = server_user() {
        use std::os::unix::process::CommandExt;
        // Not runuser: its intermediate process turns a signal into the status 128+n.
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// A command that runs as the user that started the tests.
pub fn command_as_caller(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", search_path()).env("LC_ALL", "C").env("HOME", "/").env("TZ", "UTC");
    command
}

/// Makes a file or directory owned by the user that runs everything.
pub fn give(path: &Path) {
    if let Some(user) = server_user() {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .unwrap_or_else(|error| panic!("could not give away {}: {error}", path.display()));
    }
}

/// Creates a private directory owned by the user that runs everything.
pub fn create_private_directory(path: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .unwrap_or_else(|error| panic!("could not create {}: {error}", path.display()));
    give(path);
}

/// Writes a file owned by the user that runs everything.
pub fn write_file(path: &Path, content: impl AsRef<[u8]>) {
    // Creates a new file, because the old one may be read-only.
    let _ = std::fs::remove_file(path);
    std::fs::write(path, content)
        .unwrap_or_else(|error| panic!("could not write {}: {error}", path.display()));
    give(path);
}
