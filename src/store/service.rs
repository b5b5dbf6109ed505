//! A store apart from its objects: the directory or bucket itself.

use crate::error::{Error, Result};
use jiff::Timestamp;
use std::fmt::Debug;

/// The directory or bucket itself, for messages, `pgark check` and maintenance.
pub trait StoreService: Send + Sync + Debug {
    /// The location as the configuration names it, for messages.
    fn location(&self) -> String;

    /// The time by the clock of the store. Hosts judge the age of each other's objects by it.
    fn now(&self) -> Result<Timestamp>;

    /// The error after which the store is retrying a call at this moment.
    fn trouble(&self) -> Option<Error>;

    /// Inspects what the place allows and guarantees; empty if there is nothing to report.
    fn examine(&self) -> Result<Vec<Observation>>;

    /// Removes what dead writers left behind; returns the number of removed objects.
    fn sweep(&self) -> Result<u64>;
}

/// Something that a store allows or guarantees, or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The subject, in a word or two.
    pub what: &'static str,
    /// The finding.
    pub detail: String,
    /// What to do about it, if it is not as it should be.
    pub advice: Option<String>,
}

impl Observation {
    /// As it should be.
    pub fn good(what: &'static str, detail: impl Into<String>) -> Observation {
        Observation { what, detail: detail.into(), advice: None }
    }

    /// Usable, but not as it should be.
    pub fn weak(what: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Observation {
        Observation { what, detail: detail.into(), advice: Some(advice.into()) }
    }
}
