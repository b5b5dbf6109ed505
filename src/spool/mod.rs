//! The local meeting place of the small programs and the agent.
//!
//! Owns: where the socket, the lock, the log and the fetched-ahead files lie, what is said on the socket, and how the
//! agent is started. Does not own: what the agent does (that is `agent/`). Nothing in a spool is needed after a
//! crash: it may be deleted at any time while no agent runs.

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
