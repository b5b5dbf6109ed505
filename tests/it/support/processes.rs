//! Other processes, according to `/proc`.

use super::wait::poll;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A process that is not a child of the test; it may end at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub i32);

impl Process {
    /// Whether it is running; a zombie is not.
    pub fn is_alive(self) -> bool {
        std::fs::read_to_string(self.proc("stat"))
            .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
    }

    pub fn signal(self, signal: Signal) {
        assert!(self.0 > 1, "process {} is not ours", self.0);
        let _ = kill(Pid::from_raw(self.0), signal);
    }

    /// Kills it and waits for its end.
    pub fn kill(self) {
        self.signal(Signal::SIGKILL);
        let gone = poll(Duration::from_secs(10), || (!self.is_alive()).then_some(()));
        assert!(gone.is_some(), "process {} does not die", self.0);
    }

    /// Its memory without mapped files; `None` if it has ended.
    pub fn anonymous_bytes(self) -> Option<u64> {
        let status = std::fs::read_to_string(self.proc("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    }

    pub fn working_directory(self) -> Option<PathBuf> {
        std::fs::read_link(self.proc("cwd")).ok()
    }

    /// The program and its arguments, separated by spaces.
    pub fn command_line(self) -> String {
        let bytes = std::fs::read(self.proc("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    }

    /// Its environment variables as `name=value`.
    pub fn environment(self) -> Vec<String> {
        let bytes = std::fs::read(self.proc("environ")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).split_terminator('\0').map(str::to_owned).collect()
    }

    /// The targets of its file descriptors: paths, `socket:[…]`, `pipe:[…]`.
    pub fn open_files(self) -> Vec<String> {
        let entries = std::fs::read_dir(self.proc("fd")).into_iter().flatten();
        entries
            .filter_map(|entry| {
                Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned())
            })
            .collect()
    }

    /// Whether it has an open socket: a small program has one while it talks to its agent.
    pub fn has_socket(self) -> bool {
        self.open_files().iter().any(|file| file.starts_with("socket:"))
    }

    /// Its peak memory use.
    pub fn peak_memory_bytes(self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line for the peak");
        line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap() << 10
    }

    pub fn parent(self) -> Option<Process> {
        self.stat_field(1).map(Process)
    }

    /// Its session ID.
    pub fn session(self) -> Option<i32> {
        self.stat_field(3)
    }

    /// A number from `/proc/<pid>/stat`, counted from the state.
    fn stat_field(self, index: usize) -> Option<i32> {
        // The state follows the program name, which is in parentheses and may contain any characters.
        let stat = std::fs::read_to_string(self.proc("stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(index)?.parse().ok()
    }

    /// A memory size from `/proc/<pid>/status`, in KiB.
    pub fn status_kib(self, field: &str) -> Option<u64> {
        let status = std::fs::read_to_string(self.proc("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    }

    /// All processes of the machine.
    pub fn all() -> Vec<Process> {
        let entries = std::fs::read_dir("/proc").unwrap();
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Process)).collect()
    }

    /// The processes that work in `directory` or below it, or have such a path as an argument.
    pub fn all_of(directory: &Path) -> Vec<Process> {
        let below = format!("{}/", directory.display());
        let own = Process(std::process::id() as i32);
        let belongs = |process: &Process| {
            process.working_directory().is_some_and(|cwd| cwd.starts_with(directory))
                || process.command_line().contains(&below)
        };
        Process::all().into_iter().filter(|process| *process != own && belongs(process)).collect()
    }

    fn proc(self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.0).into()
    }
}

/// Kills all processes of a directory, including those that start meanwhile.
pub fn kill_all_of(directory: &Path) {
    let none_left = poll(Duration::from_secs(20), || {
        let left: Vec<Process> =
            Process::all_of(directory).into_iter().filter(|process| process.is_alive()).collect();
        left.iter().for_each(|process| process.signal(Signal::SIGKILL));
        left.is_empty().then_some(())
    });
    if none_left.is_none() {
        eprintln!("processes of {} do not die", directory.display());
    }
}
