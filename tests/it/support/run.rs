//! Runs programs, to completion or in the background, and captures their outcome.

use super::account::{command, command_as_caller};
use super::processes::Process;
use super::run_directory::run_directory;
use super::wait::{PATIENCE, poll};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A program about to be run, as the owner of the data directories.
#[derive(Debug)]
pub struct Run {
    command: Command,
    shown: String,
    deadline: Duration,
}

impl Run {
    pub fn new(program: impl AsRef<Path>) -> Run {
        Run::with(command(program.as_ref()), program.as_ref())
    }

    /// Runs as the user that started the tests, which may be root.
    pub fn as_caller(program: impl AsRef<Path>) -> Run {
        Run::with(command_as_caller(program.as_ref()), program.as_ref())
    }

    fn with(command: Command, program: &Path) -> Run {
        let shown = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Run { command, shown, deadline: PATIENCE }.in_directory("/")
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.shown = format!("{} {}", self.shown, arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    pub fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Run {
        args.into_iter().fold(self, Run::arg)
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    pub fn in_directory(mut self, directory: impl AsRef<Path>) -> Run {
        self.command.current_dir(directory);
        self
    }

    /// Sets the time limit, after which the program is killed and the test fails.
    pub fn deadline(mut self, deadline: Duration) -> Run {
        self.deadline = deadline;
        self
    }

    /// Runs it to completion.
    pub fn run(self) -> Outcome {
        self.spawn().wait()
    }

    /// Starts it. Its output goes to files: a pipe would stay open until the last process that inherited it ends.
    pub fn spawn(mut self) -> Running {
        let stdout = OutputFile::create();
        let stderr = OutputFile::create();
        self.command.stdin(Stdio::null()).stdout(stdout.writer()).stderr(stderr.writer());
        let child =
            self.command.spawn().unwrap_or_else(|error| panic!("could not start {}: {error}", self.shown));
        Running { child, shown: self.shown, deadline: self.deadline, started: Instant::now(), stdout, stderr }
    }
}

/// A file in the run's directory for the output of a program.
#[derive(Debug)]
struct OutputFile(PathBuf);

impl OutputFile {
    fn create() -> OutputFile {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = run_directory().join(format!("output-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        File::create_new(&path).unwrap();
        OutputFile(path)
    }

    fn writer(&self) -> File {
        File::options().append(true).open(&self.0).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.0).unwrap()).into_owned()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
    deadline: Duration,
    started: Instant,
    stdout: OutputFile,
    stderr: OutputFile,
}

impl Running {
    pub fn process(&self) -> Process {
        Process(self.child.id() as i32)
    }

    pub fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// The files with its output.
    pub fn output_paths(&self) -> [&Path; 2] {
        [&self.stdout.0, &self.stderr.0]
    }

    /// Its status, if it has exited.
    pub fn try_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its exit; panics after the deadline.
    pub fn wait(mut self) -> Outcome {
        let status = poll(self.deadline, || self.try_status());
        let seconds = self.started.elapsed();
        let Some(status) = status else {
            panic!("{} did not end in {:?}\n{}", self.shown, self.deadline, self.stderr.text());
        };
        Outcome {
            shown: self.shown.clone(),
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
            took: seconds,
        }
    }
}

impl Running {
    /// As [`Running::wait`]; also returns the peak of its own memory in bytes, as sampled.
    pub fn wait_measured(self) -> (Outcome, u64) {
        let (process, mut peak_bytes) = (self.process(), 0);
        let ended = poll(self.deadline, || {
            peak_bytes = peak_bytes.max(process.anonymous_bytes().unwrap_or(0));
            (!process.is_alive()).then_some(())
        });
        assert!(ended.is_some(), "{} did not end in {:?}", self.shown, self.deadline);
        assert!(peak_bytes > 0, "{} was never looked at", self.shown);
        (self.wait(), peak_bytes)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The outcome of a program.
#[derive(Debug)]
pub struct Outcome {
    shown: String,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Outcome {
    /// Asserts the exit status.
    #[track_caller]
    pub fn expect(self, code: i32) -> Outcome {
        assert_eq!(self.code, Some(code), "the exit status of\n{self}");
        self
    }

    /// Asserts that stderr contains this text, ignoring case.
    #[track_caller]
    pub fn says(self, text: &str) -> Outcome {
        assert!(
            self.stderr.to_lowercase().contains(&text.to_lowercase()),
            "\"{text}\" is not said by\n{self}"
        );
        self
    }

    /// Asserts the maximum run time.
    #[track_caller]
    pub fn within(self, limit: Duration) -> Outcome {
        assert!(self.took <= limit, "longer than {limit:?} took\n{self}");
        self
    }

    #[track_caller]
    pub fn killed_by(self, signal: Signal) -> Outcome {
        assert_eq!(self.signal, Some(signal as i32), "the signal that ended\n{self}");
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "  {}", self.shown)?;
        writeln!(f, "  status {:?}, signal {:?}, after {:?}", self.code, self.signal, self.took)?;
        writeln!(f, "  stdout: {}", self.stdout.trim_end())?;
        write!(f, "  stderr: {}", self.stderr.trim_end())
    }
}
