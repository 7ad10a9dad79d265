//! Ids of workers: what they are called in heartbeats and rows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who works: the machine, which is a host name or the id of an instance that a group scales, and the process, as in
/// `host-4711` and `i-0123456789abcdef0-4711`. What is read from a store may be any text.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(String);

impl WorkerId {
    /// Returns the id of the worker that is process `pid` of `machine`.
    #[must_use]
    pub fn new(machine: &str, pid: u32) -> Self {
        Self(format!("{machine}-{pid}"))
    }

    /// Returns the id that the sum of the workers long gone goes by, which no worker has.
    #[must_use]
    pub fn of_former_workers() -> Self {
        Self("former workers".to_owned())
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The machine and the process.
    fn parts(&self) -> Option<(&str, u32)> {
        let (machine, pid) = self.0.rsplit_once('-')?;
        Some((machine, pid.parse().ok()?))
    }

    /// Whether the worker is process `pid` of some machine.
    #[must_use]
    pub fn is_process(&self, pid: u32) -> bool {
        self.parts().is_some_and(|(_, own)| own == pid)
    }

    /// Returns the id of the EC2 instance that the worker runs on, `None` if it runs elsewhere.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.0.rsplit_once('-').map(|(machine, _)| machine).filter(|machine| machine.starts_with("i-"))
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&str> for WorkerId {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for WorkerId {
    fn from(text: String) -> Self {
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_and_process_are_told_apart() {
        let host = WorkerId::new("my-host", 47);
        assert_eq!((host.as_str(), host.instance()), ("my-host-47", None));
        assert!(host.is_process(47) && !host.is_process(7) && !host.is_process(147));
        let instance = WorkerId::new("i-0123456789abcdef0", 4711);
        assert_eq!(instance.instance(), Some("i-0123456789abcdef0"));
        assert!(instance.is_process(4711));
        let former = WorkerId::of_former_workers();
        assert!(former.instance().is_none() && !former.is_process(0));
        assert_eq!(serde_json::to_string(&host).unwrap(), "\"my-host-47\"");
    }
}
