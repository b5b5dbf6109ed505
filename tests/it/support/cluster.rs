//! A PostgreSQL data directory with its server and its pgark configuration.

use super::account::{create_private_directory, write_file};
use super::archive::CLUSTER_NAME;
use super::config::ConfigFile;
use super::processes::{Process, kill_all_of};
use super::programs::{faketime, pgark_program, postgres_program};
use super::run::{Outcome, Run, Running};
use super::template::{Template, copy_directory};
use super::wait::{PATIENCE, poll, wait_for, wait_until};
use super::wal::FakeWal;
use nix::sys::signal::Signal;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Servers differ in their socket directories, so all use the same port.
const PORT: u16 = 5432;

/// A data directory with its server (running or not), its `pgark.toml` and its spool. All files are in
/// `<site>/<name>/`: `data`, `socket`, `spool`, `pgark.toml`, `log`, `calls`.
#[derive(Debug)]
pub struct Cluster {
    site: PathBuf,
    home: PathBuf,
    template: Template,
    pub config: ConfigFile,
    /// The directory of the server's configuration files.
    configuration: PathBuf,
    /// Offset of the server's clock, in the form of libfaketime.
    clock: Option<String>,
    server: Option<Running>,
}

/// Shutdown modes of PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Fast,
    Immediate,
}

// --- The data directory ----------------------------------------------------------------------------------------------

impl Cluster {
    pub(super) fn create(site: &Path, name: &str, template: Template, fill: impl FnOnce(&Path)) -> Cluster {
        let home = site.join(name);
        create_private_directory(&home);
        create_private_directory(&home.join("socket"));
        create_private_directory(&home.join("spool"));
        fill(&home.join("data"));
        let config = ConfigFile::new(home.join("pgark.toml"));
        let configuration = home.join("data");
        let mut cluster = Cluster {
            site: site.to_owned(),
            home,
            template,
            config,
            configuration,
            clock: None,
            server: None,
        };
        cluster.append_conf(&format!(
            "listen_addresses = ''\nport = {PORT}\nunix_socket_directories = '{}'\nshared_buffers = 16MB\n\
             min_wal_size = {}MB\nlog_line_prefix = '%m [%p] %b '\n",
            cluster.socket_directory().display(),
            2 * template.segment_size_mib,
        ));
        cluster.write_default_config();
        cluster
    }

    fn write_default_config(&mut self) {
        let data = self.data();
        let repository = self.site.join("repository");
        let spool = self.spool();
        let conninfo = self.conninfo();
        self.config.set("cluster", CLUSTER_NAME);
        self.config.set("data_directory", data.as_path());
        self.config.set("repository.url", repository.as_path());
        self.config.set("connection.conninfo", conninfo.as_str());
        self.config.set("spool.directory", spool.as_path());
        self.config.set("push.deadline", "20s");
        self.config.set("get.deadline", "3s");
        self.config.set("get.standby_segment_deadline", "1s");
        self.config.set("get.standby_history_deadline", "2s");
    }

    /// A copy of this stopped cluster with its own `pgark.toml` and spool: it has the same system identifier and
    /// repository, and archiving is off.
    pub fn copy(&self, name: &str) -> Cluster {
        assert!(self.server.is_none(), "only a stopped cluster is copied");
        let copy =
            Cluster::create(&self.site, name, self.template, |data| copy_directory(&self.data(), data));
        copy.append_conf("archive_mode = off\n");
        copy
    }

    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    pub fn spool(&self) -> PathBuf {
        self.home.join("spool")
    }

    pub fn socket_directory(&self) -> PathBuf {
        self.home.join("socket")
    }

    pub fn template(&self) -> Template {
        self.template
    }

    /// The connection parameters of a superuser.
    pub fn conninfo(&self) -> String {
        format!("host={} port={PORT} user=postgres dbname=postgres", self.socket_directory().display())
    }

    /// The system identifier, from the first eight bytes of `pg_control`.
    pub fn system_identifier(&self) -> u64 {
        let control = std::fs::read(self.data().join("global/pg_control")).unwrap();
        u64::from_le_bytes(control[..8].try_into().unwrap())
    }

    /// The segment with the redo point of a stopped cluster, where the next start begins to read.
    pub fn checkpoint_segment(&self) -> String {
        let control = self.postgres_program("pg_controldata").arg(self.data()).run().expect(0).stdout;
        let line =
            control.lines().find(|line| line.contains("REDO WAL file")).expect("pg_controldata names it");
        line.rsplit(' ').next().unwrap_or_default().to_owned()
    }

    /// Generates segments like those of this cluster.
    pub fn fake_wal(&self) -> FakeWal {
        FakeWal::of(&self.data(), self.system_identifier(), self.template.segment_size())
    }

    /// Appends to `postgresql.conf`; the last value of a setting takes effect.
    pub fn append_conf(&self, text: &str) {
        let path = self.configuration.join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Moves the server's configuration files out of the data directory, as on Debian; returns the new directory.
    pub fn move_configuration(&mut self) -> PathBuf {
        let to = self.home.join("configuration");
        create_private_directory(&to);
        let names = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "pg_hosts.conf"];
        // The last file exists from version 19 on.
        for name in names.into_iter().filter(|name| self.has(name)) {
            std::fs::rename(self.data().join(name), to.join(name)).unwrap();
        }
        self.configuration = to.clone();
        let data = self.data();
        self.append_conf(&format!("data_directory = '{}'\n", data.display()));
        to
    }

    /// Writes a file at a path relative to the data directory.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        write_file(&self.data().join(path), content);
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        let path = self.data().join(path);
        std::fs::read(&path).unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()))
    }

    pub fn has(&self, path: &str) -> bool {
        self.data().join(path).exists()
    }
}

// --- pgark -----------------------------------------------------------------------------------------------------------

impl Cluster {
    /// Enables archiving through pgark.
    pub fn archive(&self) {
        let push = pgark_program("archive-push");
        let config = self.config.path.display();
        self.append_conf(&format!(
            "archive_mode = on\narchive_command = '{} --config {config} %p'\n",
            push.display()
        ));
    }

    /// Makes the next start recover to the end of the archive and promote.
    pub fn recover_from_archive(&self) {
        self.restore_by_command(&[]);
        self.write("recovery.signal", "");
    }

    /// Makes the next start a standby that restores from the archive.
    pub fn stand_by(&self) {
        self.restore_by_command(&[]);
        self.write("standby.signal", "");
    }

    /// Sets a restore_command with these options that logs each call; see [`Cluster::calls`].
    pub fn restore_by_command(&self, options: &[&str]) {
        let get = pgark_program("archive-get");
        let command = format!(
            "{} --config {} {} %f %p; status=$?; echo %f $status >> {}; exit $status",
            get.display(),
            self.config.path.display(),
            options.join(" "),
            self.home.join("calls").display()
        );
        self.append_conf(&format!("restore_command = '{command}'\nwal_retrieve_retry_interval = 100ms\n"));
    }

    /// Makes the restore_command that `pgark recover` wrote into the data directory log each call.
    pub fn note_calls_of_recovered(&self) {
        let auto = String::from_utf8(self.read("postgresql.auto.conf")).unwrap();
        let mut lines = auto.lines().filter_map(|line| line.strip_prefix("restore_command = '"));
        let command = lines.next_back().and_then(|rest| rest.strip_suffix("'")).expect("a restore_command");
        let calls = self.home.join("calls");
        let noted = format!("{command}; status=$?; echo %f $status >> {}; exit $status", calls.display());
        self.write("postgresql.auto.conf", format!("{auto}restore_command = '{noted}'\n"));
    }

    /// The files that the server requested through restore_command, with the exit status of each call.
    pub fn calls(&self) -> Vec<(String, i32)> {
        let text = std::fs::read_to_string(self.home.join("calls")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.map(|(name, status)| (name.to_owned(), status.parse().unwrap())).collect()
    }

    /// One of pgark's programs with this cluster's configuration, run in the data directory.
    pub fn program(&self, name: &str) -> Run {
        Run::new(pgark_program(name)).arg("--config").arg(&self.config.path).in_directory(self.data())
    }

    /// `pgark SUBCOMMAND… --config FILE`, as run by an operator.
    pub fn pgark(&self, subcommand: &[&str]) -> Run {
        Run::new(pgark_program("pgark")).args(subcommand).arg("--config").arg(&self.config.path)
    }

    /// `archive-push PATH`, with a path as in `%p`.
    pub fn push(&self, path: &str) -> Outcome {
        self.program("archive-push").arg(path).run()
    }

    /// `archive-get NAME DESTINATION`.
    pub fn get(&self, name: &str, destination: &str) -> Outcome {
        self.program("archive-get").arg(name).arg(destination).run()
    }

    /// Writes a file into `pg_wal`.
    pub fn put_wal(&self, name: &str, content: impl AsRef<[u8]>) {
        self.write(&format!("pg_wal/{name}"), content);
    }

    /// Writes a file into `pg_wal`, archives it and removes it again, as a server does over time: afterwards only the
    /// archive has it.
    #[track_caller]
    pub fn archive_file(&self, name: &str, content: impl AsRef<[u8]>) {
        self.put_wal(name, content);
        self.push(&format!("pg_wal/{name}")).expect(0);
        std::fs::remove_file(self.data().join("pg_wal").join(name)).unwrap();
    }

    /// The running agent of this cluster, from the process ID in `agent.lock`.
    pub fn find_agent(&self) -> Option<Process> {
        let text = std::fs::read_to_string(self.spool().join("agent.lock")).ok()?;
        let process = Process(text.lines().next()?.trim().parse().ok()?);
        // The process ID may be that of an ended agent, and now belong to another program.
        (process.is_alive() && process.command_line().contains("agent")).then_some(process)
    }

    pub fn agent(&self) -> Process {
        wait_for("an agent that runs", PATIENCE, || self.find_agent())
    }
}

// --- The server ------------------------------------------------------------------------------------------------------

impl Cluster {
    /// Starts the server and waits until it accepts connections.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_without_waiting();
        self.wait_until_ready("the server did not start");
    }

    /// Waits until a started server accepts connections.
    #[track_caller]
    pub fn wait_until_ready(&mut self, otherwise: &str) {
        let ready = poll(PATIENCE, || {
            let ended = self.server.as_mut().is_some_and(|server| server.try_status().is_some());
            (ended || self.is_ready()).then_some(!ended)
        });
        assert_eq!(ready, Some(true), "{otherwise}");
    }

    /// Removes a stopped cluster, for scenarios that create many.
    pub fn remove(self) {
        assert!(self.server.is_none(), "only a stopped cluster is removed");
        std::fs::remove_dir_all(&self.home).unwrap();
    }

    /// Starts the server without waiting; recovery may take a while, or fail.
    pub fn start_without_waiting(&mut self) {
        assert!(self.server.is_none(), "the server runs already");
        let log = self.log_path();
        // A shell appends the output to the log; exec makes signals reach the server.
        let server = Run::new("/bin/sh")
            .arg("-c")
            .arg("exec \"$0\" -D \"$1\" >>\"$2\" 2>&1")
            .args([postgres_program("postgres"), self.configuration.clone(), log])
            .in_directory(&self.home);
        let server = match &self.clock {
            Some(offset) => server.env("LD_PRELOAD", faketime()).env("FAKETIME", offset.as_str()),
            None => server,
        };
        self.server = Some(server.spawn());
    }

    /// Offsets the clock of servers started from now on: `+1h`.
    pub fn set_clock(&mut self, offset: Option<&str>) {
        self.clock = offset.map(str::to_owned);
    }

    /// Reads the status in `postmaster.pid`; ignores a file left behind by a killed server.
    fn is_ready(&self) -> bool {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let ours = self.server.as_ref().map(|server| server.process().0.to_string());
        lines.first().copied() == ours.as_deref() && lines.get(7) == Some(&"ready")
    }

    /// Waits until the server has exited without a request; returns whether its status was 0.
    pub fn wait_for_end(&mut self) -> bool {
        let mut server = self.server.take().expect("a server that was started");
        let status = wait_for("the end of the server", PATIENCE, || server.try_status());
        wait_until("the end of its processes", PATIENCE, || self.processes().is_empty());
        status.success()
    }

    /// Stops the server and waits for its exit.
    pub fn stop(&mut self, how: Stop) {
        let server = self.server.as_ref().expect("a server that runs");
        server.signal(match how {
            Stop::Fast => Signal::SIGINT,
            Stop::Immediate => Signal::SIGQUIT,
        });
        self.wait_for_end();
    }

    /// Kills all processes of the server at once. Unlike in a power failure, written data stays in the cache.
    pub fn kill9(&mut self) {
        self.server = None;
        kill_all_of(&self.data());
    }

    /// Kills all processes of the server at once, except the spared ones among those that it has started.
    pub fn kill_server_but_not(&mut self, spared: &dyn Fn(Process) -> bool) {
        let of_server = |process: &Process| process.command_line().contains("postgres") && !spared(*process);
        for process in self.processes().into_iter().filter(of_server) {
            process.signal(Signal::SIGKILL);
        }
        self.server = None; // waits for it: a zombie would count as alive
        wait_until("the server's processes are gone", PATIENCE, || {
            self.processes().iter().filter(|process| process.is_alive()).filter(|p| of_server(p)).count() == 0
        });
    }

    /// The processes that work in the data directory: the server's, and those that it started.
    pub fn processes(&self) -> Vec<Process> {
        let data = self.data();
        let works_there =
            |process: &Process| process.working_directory().is_some_and(|cwd| cwd.starts_with(&data));
        Process::all().into_iter().filter(works_there).collect()
    }

    /// Runs SQL as superuser; returns rows as lines, with columns separated by `|`.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    /// Runs SQL in another database.
    #[track_caller]
    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        let outcome = self.try_psql_in(database, sql).expect(0);
        outcome.stdout.trim_end().to_owned()
    }

    pub fn try_psql(&self, sql: &str) -> Outcome {
        self.try_psql_in("postgres", sql)
    }

    fn try_psql_in(&self, database: &str, sql: &str) -> Outcome {
        let conninfo = self.conninfo().replace("dbname=postgres", &format!("dbname={database}"));
        let run = Run::new(postgres_program("psql")).args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]);
        run.arg("-d").arg(conninfo).arg("-c").arg(sql).run()
    }

    /// `server_version_num` of the running server.
    pub fn version_num(&self) -> u32 {
        self.psql("SHOW server_version_num").parse().unwrap()
    }

    /// Asserts that all pages of a stopped server's data directory have correct checksums.
    #[track_caller]
    pub fn check_pages(&self, data: &Path) {
        let has_tablespaces = std::fs::read_dir(data.join("pg_tblspc")).unwrap().next().is_some();
        if has_tablespaces && std::fs::read(data.join("PG_VERSION")).unwrap().starts_with(b"13") {
            eprintln!(
                "skipped: the pages of tablespaces, in which another version's pg_checksums finds nothing of 13"
            );
            return;
        }
        self.postgres_program("pg_checksums").args(["--check", "-D"]).arg(data).run().expect(0);
    }

    /// One of PostgreSQL's other programs.
    pub fn postgres_program(&self, name: &str) -> Run {
        Run::new(postgres_program(name)).in_directory(&self.home)
    }

    /// The major version of the data directory.
    pub fn major(&self) -> u32 {
        String::from_utf8(self.read("PG_VERSION")).unwrap().trim().parse().unwrap()
    }

    /// Whether the major version is at least `major`.
    pub fn is_from(&self, major: u32) -> bool {
        self.major() >= major
    }

    /// The directory of PostgreSQL's programs.
    pub fn pg_bin(&self) -> PathBuf {
        let program = postgres_program("postgres");
        program.parent().expect("a program lies in a directory").to_owned()
    }

    /// Polls a query until it returns `expected`.
    #[track_caller]
    pub fn wait_for_row(&self, sql: &str, expected: &str) {
        let mut last = String::new();
        let came = poll(PATIENCE, || {
            let outcome = self.try_psql(sql);
            last = if outcome.code == Some(0) {
                outcome.stdout.trim_end().to_owned()
            } else {
                outcome.to_string()
            };
            (last == expected).then_some(())
        });
        assert!(came.is_some(), "waited in vain for \"{expected}\" from: {sql}\nthe last answer: {last}");
    }

    /// Ends the current segment and returns its name. Writes a record first, because an empty segment is not switched.
    pub fn switch_wal(&self) -> String {
        self.psql("SELECT pg_create_restore_point('switch')");
        self.psql("SELECT pg_walfile_name(pg_switch_wal())")
    }

    /// Waits until the server considers this file and all earlier ones archived.
    #[track_caller]
    pub fn wait_archived(&self, name: &str) {
        self.wait_for_row(&format!("SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver"), "t");
    }

    /// Waits until recovery has ended and the server accepts writes.
    pub fn wait_promoted(&self) {
        self.wait_for_row("SELECT pg_is_in_recovery()", "f");
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.home.join("log")
    }

    /// Shows the ends of the logs after a failure.
    fn show_logs(&self) {
        let mut logs = vec![self.log_path()];
        let spool = std::fs::read_dir(self.spool())
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()));
        logs.extend(spool.filter(|path| path.to_string_lossy().contains("log")));
        for path in logs.iter().filter(|path| path.is_file()) {
            let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- the end of {}", path.display());
            lines[lines.len().saturating_sub(40)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // Not SIGKILL at first: the server would leave its shared memory behind.
            server.signal(Signal::SIGQUIT);
            poll(Duration::from_secs(10), || server.try_status());
        }
        kill_all_of(&self.home);
        if std::thread::panicking() {
            self.show_logs();
        }
    }
}
