//! The system's limit of open files, which connections must leave some of: without one the health check could not be
//! answered either.

use rustix::process::{Resource, getrlimit, setrlimit};

/// What a connection may have open: itself, and a file that it uploads.
const EACH: u64 = 2;

/// For all else: the database, pipes of workers, connections to stores, and those that wait for a place or are refused.
const OTHERS: u64 = 288;

/// How many connections there may be, `most` at most. Raises the limit of open files as far as this process may.
pub(super) fn affordable(most: usize) -> usize {
    let before = getrlimit(Resource::Nofile);
    let mut limit = before;
    limit.current = limit.maximum;
    if before.current != before.maximum
        && let Err(error) = setrlimit(Resource::Nofile, limit)
    {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
    let files = getrlimit(Resource::Nofile).current;
    let affordable = files.map_or(most, |files| within(files, most));
    if affordable < most {
        tracing::warn!(
            files,
            "the limit of open files allows for {affordable} connections, not for {most}; raise it (ulimit -n)"
        );
    }
    affordable
}

/// How many connections, `most` at most, are within a limit of so many files.
fn within(files: u64, most: usize) -> usize {
    let affordable = files.saturating_sub(OTHERS) / EACH;
    usize::try_from(affordable).unwrap_or(usize::MAX).clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_rest() {
        assert_eq!(
            [(1 << 20, 512), (1024, 512), (400, 512), (20, 512), (1024, 4)].map(|(files, most)| within(files, most)),
            [512, 368, 56, 1, 4]
        );
    }
}
