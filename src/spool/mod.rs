//! The local meeting place of the small programs and the agent.
//!
//! Owns: the paths of the socket, the lock, the log and the prefetched files; the protocol on the socket;
//! starting the agent. Does not own: the agent's work (that is `agent/`). After a crash nothing in a spool is
//! needed: it may be deleted at any time while no agent runs.

mod client;
mod launch;
mod path;
mod process;
mod protocol;
mod wait;

pub use client::{Conversation, Patience, ask, ask_running, listener};
pub use path::{SOCKET_PATH_BYTES_MAX, Spool};
pub use process::AgentProcess;
pub use protocol::{
    Answer, GetRequest, MESSAGE_BYTES_MAX, PushRequest, Request, TargetRule, read_answer, read_request,
    write_answer, write_request,
};
pub use wait::{Until, Waiting};
