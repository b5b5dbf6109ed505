//! The process of an agent as seen from here: an agent in another container has a different process id there.

use nix::unistd::Uid;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The process id of an agent in its own PID namespace; 0 where it has none in ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentProcess(pub u32);

impl AgentProcess {
    /// The process id, if it is that of an agent that this user may end.
    pub fn visible(self) -> Option<u32> {
        let process = PathBuf::from(format!("/proc/{}", self.0));
        let is_ours = fs::metadata(&process).is_ok_and(|process| process.uid() == Uid::effective().as_raw());
        let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
        let is_agent = arguments.split(|byte| *byte == 0).any(|argument| argument == b"agent");
        (self.0 != 0 && is_ours && is_agent).then_some(self.0)
    }

    /// What an operator can do with an agent that does not respond.
    pub fn stop_hint(self) -> String {
        match self.visible() {
            Some(process) => {
                format!("Run kill -KILL {process}; this is safe, and the next call starts another agent.")
            }
            None => "It is not visible from here: stop it in the container where it runs. This is safe."
                .to_owned(),
        }
    }
}

impl fmt::Display for AgentProcess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => formatter.write_str("a process of another container"),
            process => write!(formatter, "process {process}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_agent_that_can_be_seen_is_one_to_kill() {
        for process in [0, 1, std::process::id(), u32::MAX] {
            let process = AgentProcess(process);
            assert_eq!(process.visible(), None, "{process}");
            assert!(!process.stop_hint().contains("kill"));
        }
        assert_eq!(AgentProcess(0).to_string(), "a process of another container");
        assert_eq!(AgentProcess(7).to_string(), "process 7");
    }
}
