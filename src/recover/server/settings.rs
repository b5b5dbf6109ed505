//! Configures the recovery of a restored cluster: settings, signal file, maps.
//!
//! Owns: the content of `postgresql.auto.conf` and of the files beside the data directory. Does not own: when
//! they are written.

use super::standby::Role;
use crate::durable::{self, Disk};
use crate::error::{Context, Error, Result};
use crate::postgres::TargetSettings;
use crate::postgres::cluster::control_file::ServerLimits;
use crate::postgres::recovery::setting::quote_setting;
use crate::postgres::{MajorVersion, RecoveryTarget, SegmentName, TimelineId};
use crate::recover::place::read_restored;
use std::fs;
use std::io;
use std::path::Path;

/// Upper limit for the size of a configuration file, in bytes.
pub const CONFIGURATION_BYTES_MAX: u64 = 4 << 20;

/// Permissions of the files written here: access for the owner only.
const FILE_MODE: u32 = 0o600;

/// Settings of an earlier recovery, or of a standby, that would interfere with this recovery. Each is
/// overridden with an empty or default value, wherever the old value comes from.
const NEUTRALISED: [(&str, &str); 2] = [
    // Would remove WAL from the archive that recovery reads, after each restartpoint.
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
];

/// Whether the recovered cluster archives its own WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archiving {
    /// No archiving: a copy must neither write into the original's archive nor take over its subscriptions.
    Off,
    /// Archiving as in the original, whose place the cluster takes.
    On,
}

/// Which host and configuration the recovered cluster belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveredPlace {
    /// The place of the configured cluster, so the settings of its host apply unchanged.
    Own,
    /// Another place, where settings of the original would affect the original's host.
    Other {
        /// Its `archive_command`, if the cluster archives.
        archive_command: Option<String>,
    },
}

/// How much of the cluster is recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryScope {
    /// The entire cluster.
    Whole,
    /// Some databases only; the files of the others are empty.
    SomeDatabases,
}

/// Settings that the recovered server receives.
#[derive(Clone, Debug)]
pub struct RecoverySettings {
    /// Role of the server after recovery.
    pub role: Role,
    /// Where recovery ends.
    pub target: TargetSettings,
    /// Command that fetches WAL.
    pub restore_command: String,
    /// Whether the server archives after recovery.
    pub archiving: Archiving,
    /// Which host and configuration the cluster belongs to.
    pub place: RecoveredPlace,
    /// How much of the cluster is restored.
    pub part: RecoveryScope,
    /// Whether the cluster has in-place tablespaces (directories instead of links).
    pub in_place_tablespaces: bool,
    /// Lower bounds for settings that a server in recovery must not undercut.
    pub limits: ServerLimits,
    /// Major version of the server.
    pub version: MajorVersion,
}

/// What `restore_command` has to know about a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryPath {
    /// The timeline that recovery follows.
    pub timeline: TimelineId,
    /// The last segment that recovery is proven to need. A missing segment up to this one stops recovery,
    /// even with a target.
    pub proven_end: Option<SegmentName>,
}

/// The value of `restore_command`: a shell command in which the server replaces `%f` and `%p`. A standby
/// follows any later timeline.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when a path is not UTF-8, as no setting can hold it.
pub fn restore_command(
    archive_get: &Path,
    configuration: &Path,
    role: &Role,
    target: &RecoveryTarget,
    path: RecoveryPath,
) -> Result<String> {
    let timeline = path.timeline;
    let options = match (role, target, path.proven_end) {
        (Role::Standby(_), _, _) => String::new(),
        (Role::Recovered, RecoveryTarget::Latest, _) => format!(" --timeline {timeline}"),
        (Role::Recovered, _, None) => format!(" --with-target --timeline {timeline}"),
        (Role::Recovered, _, Some(end)) => format!(" --with-target --through {end} --timeline {timeline}"),
    };
    Ok(format!("{} --config {}{options} %f %p", shell_word(archive_get)?, shell_word(configuration)?))
}

/// The value of `archive_command` for a cluster with this configuration.
///
/// # Errors
/// As [`restore_command`].
pub fn archive_command(archive_push: &Path, configuration: &Path) -> Result<String> {
    Ok(format!("{} --config {} %p", shell_word(archive_push)?, shell_word(configuration)?))
}

/// Quotes a path as one word of a shell command in which the server replaces `%`.
fn shell_word(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| {
        Error::usage(format!("\"{}\" is not UTF-8", path.display()))
            .hint("A setting of the server must contain this path. Choose another directory.")
    })?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@,=".contains(&byte);
    let word = if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    };
    Ok(word.replace('%', "%%"))
}

impl RecoverySettings {
    /// The lines for `postgresql.auto.conf`. `staged` holds the configuration files of the data directory;
    /// limits that are higher there are kept.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a value that no setting can hold.
    pub fn render(&self, staged: &[&[u8]]) -> Result<String> {
        let mut lines = String::from("# Written by pgark recover.\n");
        let mut add = |name: &str, value: &str| -> Result<()> {
            lines.push_str(&format!("{name} = {}\n", quote_setting(value)?));
            Ok(())
        };
        add("restore_command", &self.restore_command)?;
        for (name, value) in NEUTRALISED {
            add(name, value)?;
        }
        for (name, value) in self.role.settings() {
            add(name, &value)?;
        }
        for (name, value) in self.version.facts().settings_of_recovery {
            add(name, value)?;
        }
        // Without it, pausing at the target would shut the server down.
        add("hot_standby", "on")?;
        for (name, least) in self.limits.named() {
            let staged = staged.iter().rev().find_map(|content| number_in(content, name));
            add(name, &staged.unwrap_or_default().max(u64::from(least)).to_string())?;
        }
        if let RecoveredPlace::Other { archive_command } = &self.place {
            // The server would overwrite the original's PID file, and remove it at shutdown.
            add("external_pid_file", "")?;
            // If archiving is enabled later, it must not write into the original's archive.
            add("archive_command", archive_command.as_deref().unwrap_or_default())?;
            if self.version.facts().has_archive_library {
                add("archive_library", "")?;
            }
        }
        if self.in_place_tablespaces {
            // Without it the server panics at consistency, because it takes such directories for damage. The
            // original may have set it in a single session. Source: PostgreSQL
            // `access/transam/xlogrecovery.c`, `CheckTablespaceDirectory`.
            add("allow_in_place_tablespaces", "on")?;
        }
        if self.role == Role::Recovered {
            // The first commit would otherwise wait for standbys that follow another server.
            add("synchronous_standby_names", "")?;
        }
        if self.archiving == Archiving::Off {
            add("archive_mode", "off")?;
            // After promotion the server would connect to the publishers and consume what their slots retain
            // for the original.
            add("max_logical_replication_workers", "0")?;
        }
        if self.part == RecoveryScope::SomeDatabases {
            // WAL refers to pages that were not restored, and no process may read the empty databases until
            // they are dropped.
            add("ignore_invalid_pages", "on")?;
            add("autovacuum", "off")?;
        }
        lines.push_str(&self.target.render()?);
        Ok(lines)
    }
}

/// The setting that `line` of a configuration file assigns, in lower case, and the rest of the line.
fn setting_of(line: &[u8]) -> Option<(String, &[u8])> {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|byte| !byte.is_ascii_alphanumeric() && !b"_.".contains(byte));
    let (name, rest) = line.split_at_checked(end.unwrap_or(line.len()))?;
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    let rest = rest.trim_ascii_start();
    let rest = rest.strip_prefix(b"=").unwrap_or(rest).trim_ascii_start();
    (!name.is_empty()).then_some((name, rest))
}

/// The integer value of a setting in a configuration file; the last assignment wins.
fn number_in(content: &[u8], name: &str) -> Option<u64> {
    let value = value_in(content, name)?;
    value.parse().ok()
}

/// The value of a setting in a configuration file, without quotes; the last assignment wins. Included files
/// are not read.
pub fn value_in(content: &[u8], name: &str) -> Option<String> {
    let mut values = content.split(|byte| *byte == b'\n').filter_map(setting_of);
    let (_, value) = values.rfind(|(found, _)| found == name)?;
    let value = match value {
        [b'\'', quoted @ ..] => {
            let end = quoted.iter().position(|byte| *byte == b'\'').unwrap_or(quoted.len());
            quoted.get(..end)?
        }
        plain => {
            let end = plain.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'#');
            plain.get(..end.unwrap_or(plain.len()))?
        }
    };
    Some(String::from_utf8_lossy(value).into_owned())
}

/// `postgresql.auto.conf` with `lines` appended and earlier assignments of the same settings removed.
fn rewrite(old: &[u8], lines: &str) -> Vec<u8> {
    let ours: Vec<String> =
        lines.lines().filter_map(|line| setting_of(line.as_bytes())).map(|(name, _)| name).collect();
    let mut content = Vec::new();
    for line in old.split_inclusive(|byte| *byte == b'\n') {
        let replaced = setting_of(line)
            .is_some_and(|(name, _)| ours.contains(&name) || name.starts_with("recovery_target"));
        if !replaced {
            content.extend_from_slice(line);
        }
    }
    if content.last().is_some_and(|last| *last != b'\n') {
        content.push(b'\n');
    }
    content.extend_from_slice(lines.as_bytes());
    content
}

/// Writes the settings into the data directory and requests recovery with the signal file.
///
/// # Errors
/// The operating system's, and those of [`RecoverySettings::render`].
pub fn configure(disk: &dyn Disk, data_directory: &Path, settings: &RecoverySettings) -> Result<()> {
    let auto_path = data_directory.join("postgresql.auto.conf");
    let main = read_restored(&data_directory.join("postgresql.conf"), CONFIGURATION_BYTES_MAX)?;
    let auto = read_restored(&auto_path, CONFIGURATION_BYTES_MAX)?.unwrap_or_default();
    let lines = settings.render(&[main.as_deref().unwrap_or_default(), &auto])?;
    durable::replace_file(disk, &auto_path, &rewrite(&auto, &lines), FILE_MODE)?;
    let (wanted, unwanted) = settings.role.signal_files();
    match disk.remove_file(&data_directory.join(unwanted)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io(format!("could not remove {unwanted}"), error));
        }
        _ => {}
    }
    durable::replace_file(disk, &data_directory.join(wanted), b"", FILE_MODE)
}

/// Removes the settings of the finished recovery, because copies inherit them. A standby made from this
/// server (`pg_basebackup`, `pg_rewind`) would recover to the same target, or fail to start.
/// `restore_command` becomes that of a standby.
///
/// # Errors
/// The operating system's, and [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a value that no setting can hold.
pub fn forget_target(disk: &dyn Disk, data_directory: &Path, restore_command: &str) -> Result<()> {
    let path = data_directory.join("postgresql.auto.conf");
    let old = read_restored(&path, CONFIGURATION_BYTES_MAX)?.unwrap_or_default();
    let line = format!("restore_command = {}\n", quote_setting(restore_command)?);
    durable::replace_file(disk, &path, &rewrite(&old, &line), FILE_MODE)
}

/// Makes the data directory startable if the original's configuration lay elsewhere, as on Debian. Writes
/// missing files with default values; returns whether `postgresql.conf` was missing.
///
/// `access` is the original's `pg_hba.conf`, if the backup holds a copy.
///
/// # Errors
/// The operating system's.
pub fn complete_configuration(
    disk: &dyn Disk,
    data_directory: &Path,
    copies: &Path,
    access: Option<&[u8]>,
) -> Result<bool> {
    let missing = |name: &str| fs::symlink_metadata(data_directory.join(name)).is_err();
    let write = |name: &str, content: &[u8]| {
        durable::replace_file(disk, &data_directory.join(name), content, FILE_MODE)
            .context(|| "could not complete the configuration")
    };
    if missing("pg_hba.conf") {
        write("pg_hba.conf", access.unwrap_or(b"# Written by pgark recover.\nlocal all all peer\n"))?;
    }
    if missing("pg_ident.conf") {
        write("pg_ident.conf", b"# Written by pgark recover.\n")?;
    }
    if !missing("postgresql.conf") {
        return Ok(false);
    }
    let content = format!(
        "# Written by pgark recover: the original cluster's configuration was outside its data directory. Copies are\n\
         # in \"{}\". PostgreSQL's defaults apply to all other settings.\n\
         listen_addresses = 'localhost'\n",
        copies.display()
    );
    write("postgresql.conf", content.as_bytes()).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::RealDisk;
    use crate::postgres::{TargetAction, TargetBound, TargetTimeline};
    use crate::recover::server::standby::StandbySettings;

    fn settings() -> RecoverySettings {
        let timeline = TimelineId::new(2).unwrap();
        let target = RecoveryTarget::Lsn("0/3000028".parse().unwrap());
        RecoverySettings {
            role: Role::Recovered,
            restore_command: restore_command(
                Path::new("/usr/bin/archive-get"),
                Path::new("/srv/it's 100%/data.toml"),
                &Role::Recovered,
                &target,
                RecoveryPath { timeline, proven_end: "000000020000000000000003".parse().ok() },
            )
            .unwrap(),
            target: TargetSettings {
                target,
                bound: TargetBound::Inclusive,
                timeline: TargetTimeline::Id(timeline),
                action: TargetAction::Pause,
            },
            in_place_tablespaces: false,
            archiving: Archiving::Off,
            place: RecoveredPlace::Other { archive_command: None },
            part: RecoveryScope::Whole,
            limits: ServerLimits {
                max_connections: 100,
                max_worker_processes: 8,
                max_wal_senders: 10,
                max_prepared_transactions: 0,
                max_locks_per_transaction: 64,
            },
            version: MajorVersion::V15,
        }
    }

    #[test]
    fn the_command_is_quoted_for_the_shell_and_the_server() {
        assert_eq!(
            settings().restore_command,
            "/usr/bin/archive-get --config '/srv/it'\\''s 100%%/data.toml' --with-target --through \
             000000020000000000000003 --timeline 2 %f %p"
        );
        let rendered = settings().render(&[]).unwrap();
        assert!(rendered.contains(
            "restore_command = '/usr/bin/archive-get --config ''/srv/it''\\\\''''s 100%%/data.toml'' --with-target \
             --through 000000020000000000000003 --timeline 2 %f %p'\n"
        ));
        let path = RecoveryPath { timeline: TimelineId::FIRST, proven_end: None };
        let command = |role: &Role, target: &RecoveryTarget| {
            restore_command(Path::new("/a"), Path::new("/b"), role, target, path).unwrap()
        };
        let latest = |role: &Role| command(role, &RecoveryTarget::Latest);
        assert_eq!(
            command(&Role::Recovered, &RecoveryTarget::Immediate),
            "/a --config /b --with-target --timeline 1 %f %p"
        );
        assert_eq!(latest(&Role::Recovered), "/a --config /b --timeline 1 %f %p");
        let standby = Role::Standby(StandbySettings { primary: None, apply_delay: None });
        assert_eq!(latest(&standby), "/a --config /b %f %p");
    }

    #[test]
    fn larger_limits_are_kept_and_smaller_ones_raised() {
        let main =
            b"max_connections = 50\n#max_wal_senders = 99\nmax_wal_senders=20 # more\nMAX_CONNECTIONS '70'\n";
        let auto = b"max_locks_per_transaction = '128'\n";
        let rendered = settings().render(&[main, auto]).unwrap();
        for line in [
            "max_connections = '100'\n",
            "max_wal_senders = '20'\n",
            "max_locks_per_transaction = '128'\n",
            "max_worker_processes = '8'\n",
            "archive_mode = 'off'\n",
            "max_logical_replication_workers = '0'\n",
            "promote_trigger_file = ''\n",
        ] {
            assert!(rendered.contains(line), "{line} in {rendered}");
        }
        let kept = RecoverySettings { archiving: Archiving::On, version: MajorVersion::V16, ..settings() };
        let kept = kept.render(&[]).unwrap();
        assert!(!kept.contains("archive_mode") && !kept.contains("max_logical_replication_workers"));
        assert!(!kept.contains("promote_trigger_file"), "16 does not know it, and would not start");
    }

    #[test]
    fn a_copy_does_not_reach_into_the_place_of_its_original() {
        let copy = settings().render(&[]).unwrap();
        for name in ["external_pid_file", "archive_command", "archive_library", "synchronous_standby_names"] {
            assert!(copy.contains(&format!("{name} = ''\n")), "{name} in {copy}");
        }
        let place = RecoveredPlace::Other { archive_command: Some("push %p".to_owned()) };
        let archives =
            RecoverySettings { archiving: Archiving::On, place, version: MajorVersion::V14, ..settings() };
        let archives = archives.render(&[]).unwrap();
        assert!(archives.contains("archive_command = 'push %p'\n") && !archives.contains("archive_library"));
        let standby = Role::Standby(StandbySettings { primary: None, apply_delay: None });
        let own = RecoverySettings {
            place: RecoveredPlace::Own,
            role: standby,
            archiving: Archiving::On,
            ..settings()
        };
        let own = own.render(&[]).unwrap();
        for name in ["external_pid_file", "archive_command", "archive_library", "synchronous_standby_names"] {
            assert!(!own.contains(&format!("\n{name}")), "{name} in {own}");
        }
    }

    #[test]
    fn a_target_that_was_reached_is_forgotten() {
        let scratch = tempfile::tempdir().unwrap();
        configure(&RealDisk, scratch.path(), &settings()).unwrap();
        let auto = scratch.path().join("postgresql.auto.conf");
        let before = fs::read_to_string(&auto).unwrap();
        forget_target(&RealDisk, scratch.path(), "archive-get %f %p").unwrap();
        let after = fs::read_to_string(&auto).unwrap();
        assert!(before.contains("recovery_target_lsn") && !after.contains("recovery_target"), "{after}");
        assert!(
            after.ends_with("restore_command = 'archive-get %f %p'\n") && !after.contains("--with-target")
        );
        assert!(after.contains("archive_mode = 'off'"));
    }

    #[test]
    fn old_recovery_settings_go_and_others_stay() {
        let scratch = tempfile::tempdir().unwrap();
        let auto = scratch.path().join("postgresql.auto.conf");
        fs::write(
            &auto,
            b"# Do not edit\nwork_mem = '8MB'\nRecovery_Target_Time = '2020-01-01'\nrestore_command = 'cp x'\n\
              primary_conninfo = 'host=\xff'\narchive_mode = 'always'",
        )
        .unwrap();
        fs::write(scratch.path().join("standby.signal"), b"").unwrap();
        configure(&RealDisk, scratch.path(), &settings()).unwrap();
        let once = fs::read(&auto).unwrap();
        let text = String::from_utf8_lossy(&once);
        assert!(
            text.starts_with(
                "# Do not edit\nwork_mem = '8MB'\nprimary_conninfo = 'host=\u{FFFD}'\n# Written"
            )
        );
        assert_eq!(text.matches("restore_command").count(), 1);
        assert!(!text.contains("2020") && !text.contains("always"), "{text}");
        assert_eq!(text.matches("recovery_target_time =").count(), 1);
        assert!(scratch.path().join("recovery.signal").exists());
        assert!(!scratch.path().join("standby.signal").exists());

        let standby = StandbySettings { primary: None, apply_delay: None };
        let settings = RecoverySettings { role: Role::Standby(standby), ..settings() };
        configure(&RealDisk, scratch.path(), &settings).unwrap();
        let text = fs::read(&auto).unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains("host="), "the primary of another standby: {text}");
        assert!(!scratch.path().join("recovery.signal").exists());
        assert!(scratch.path().join("standby.signal").exists());
    }

    #[test]
    fn what_lay_elsewhere_is_completed() {
        let scratch = tempfile::tempdir().unwrap();
        let complete = || {
            complete_configuration(
                &RealDisk,
                scratch.path(),
                Path::new("/copies"),
                Some(b"local all all trust\n"),
            )
            .unwrap()
        };
        assert!(complete());
        assert_eq!(fs::read(scratch.path().join("pg_hba.conf")).unwrap(), b"local all all trust\n");
        assert!(!complete(), "what is there stays");
    }

    #[test]
    fn values_are_read_as_the_server_does() {
        let content = b"port = 5433\n port=5434 # x\n#port = 1\ndata_directory '/a b' # y\nporto = 3\n";
        assert_eq!(value_in(content, "port").as_deref(), Some("5434"));
        assert_eq!(value_in(content, "data_directory").as_deref(), Some("/a b"));
        assert_eq!(value_in(content, "hba_file"), None);
    }
}
