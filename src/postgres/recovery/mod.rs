//! Recovery targets, and the settings that express them.

pub mod setting;
pub mod target;
pub mod time;
