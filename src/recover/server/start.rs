//! The start command of the recovered server: `pg_ctl` arguments, or a command for the operator.

use crate::config::Conninfo;
use crate::postgres::MajorVersion;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Characters that a shell interprets between double quotes. `pg_ctl` places the paths of the data directory
/// and the log there without escaping. Source: PostgreSQL `bin/pg_ctl/pg_ctl.c`, `start_postmaster`.
const UNSAFE_FOR_PG_CTL: [u8; 4] = *b"\"$`\\";

/// How to start the recovered server.
#[derive(Clone, Debug)]
pub struct ServerStart {
    /// Path of the program `pg_ctl`.
    pub pg_ctl: PathBuf,
    /// The data directory.
    pub data_directory: PathBuf,
    /// Receives the server's output until it has read its configuration.
    pub log: PathBuf,
    /// The port, if it must differ from the configured one.
    pub port: Option<u16>,
    /// Whether the data directory must be passed to the server, because its configuration names another one.
    pub name_data_directory: bool,
    /// The server's major version.
    pub version: MajorVersion,
    /// Connection settings for queries about its progress.
    pub conninfo: Conninfo,
}

impl ServerStart {
    /// The arguments of `pg_ctl`.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "-D".to_owned(),
            self.data_directory.display().to_string(),
            "-l".to_owned(),
            self.log.display().to_string(),
        ];
        let mut options = Vec::new();
        if let Some(port) = self.port {
            options.push(format!("-p {port}"));
        }
        if self.name_data_directory {
            // pg_ctl passes the options to a shell.
            let path = self.data_directory.display().to_string().replace('\'', "'\\''");
            options.push(format!("-c 'data_directory={path}'"));
        }
        if !options.is_empty() {
            arguments.extend(["-o".to_owned(), options.join(" ")]);
        }
        arguments
    }

    /// Whether `pg_ctl` can start a server in this directory.
    pub fn suits_pg_ctl(&self) -> bool {
        let is_unsafe =
            |path: &Path| path.as_os_str().as_bytes().iter().any(|b| UNSAFE_FOR_PG_CTL.contains(b));
        !is_unsafe(&self.data_directory) && !is_unsafe(&self.log)
    }

    /// The command for the operator to enter.
    pub fn command(&self) -> String {
        let line = |program: &Path, arguments: Vec<String>| {
            let words = std::iter::once(program.display().to_string()).chain(arguments);
            words.map(|word| quoted(&word)).collect::<Vec<_>>().join(" ")
        };
        if self.suits_pg_ctl() {
            let mut arguments = self.arguments();
            arguments.push("start".to_owned());
            return line(&self.pg_ctl, arguments);
        }
        let path = self.data_directory.display().to_string();
        let mut arguments = vec!["-D".to_owned(), path.clone()];
        arguments.extend(self.port.iter().flat_map(|port| ["-p".to_owned(), port.to_string()]));
        if self.name_data_directory {
            arguments.extend(["-c".to_owned(), format!("data_directory={path}")]);
        }
        let log = quoted(&self.log.display().to_string());
        format!("{} </dev/null >>{log} 2>&1 &", line(&self.pg_ctl.with_file_name("postgres"), arguments))
    }
}

/// Quotes a word for a shell command.
pub(super) fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@,=".contains(&byte);
    if word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::recover::server) fn start() -> ServerStart {
        ServerStart {
            pg_ctl: PathBuf::from("/usr/lib/postgresql/15/bin/pg_ctl"),
            data_directory: PathBuf::from("/srv/it's"),
            log: PathBuf::from("/srv/x.log"),
            port: Some(5433),
            name_data_directory: true,
            version: MajorVersion::V15,
            conninfo: Conninfo::new("").unwrap(),
        }
    }

    #[test]
    fn the_command_can_be_typed() {
        assert_eq!(
            start().command(),
            "/usr/lib/postgresql/15/bin/pg_ctl -D '/srv/it'\\''s' -l /srv/x.log -o \
             '-p 5433 -c '\\''data_directory=/srv/it'\\''\\'\\'''\\''s'\\''' start"
        );
        let plain =
            ServerStart { port: None, name_data_directory: false, data_directory: "/d".into(), ..start() };
        assert_eq!(plain.command(), "/usr/lib/postgresql/15/bin/pg_ctl -D /d -l /srv/x.log start");
        let is_unsafe = ServerStart { port: Some(7), data_directory: "/a \"b\"".into(), ..start() };
        assert!(start().suits_pg_ctl() && !is_unsafe.suits_pg_ctl());
        assert_eq!(
            is_unsafe.command(),
            "/usr/lib/postgresql/15/bin/postgres -D '/a \"b\"' -p 7 -c 'data_directory=/a \"b\"' </dev/null \
             >>/srv/x.log 2>&1 &"
        );
    }
}
