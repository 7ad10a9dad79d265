//! The threads of one network: they share out the tasks of a layer by an atomic ticket.
//!
//! A layer lasts well under a millisecond, so between layers a thread spins for a moment before it sleeps; the sleep
//! keeps idle workers off the processor when several processes share the machine. With one thread there are no atomics
//! at all.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// A layer's task: called with its index and the index of the thread that runs it.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Looks for work before a helper sleeps: some 50 microseconds.
const SPINS_BEFORE_SLEEP: u32 = 20_000;

/// Looks for the last task's end before the caller lets others run.
const SPINS_BEFORE_YIELD: u32 = 2_000;

/// A team of threads, the caller among them.
pub(super) struct Threads {
    state: Arc<State>,
    helpers: Vec<JoinHandle<()>>,
}

struct State {
    /// Number of tasks in the upper half, next task in the lower.
    ticket: AtomicU64,
    done: AtomicUsize,
    task: UnsafeCell<Option<*const Task<'static>>>,
    asleep: Vec<AtomicBool>,
    quit: AtomicBool,
}

// SAFETY: `task` is written only while no thread holds a valid ticket (`Threads::run`), and read only by one that does.
unsafe impl Sync for State {}
// SAFETY: the pointer in `task` outlives every valid ticket.
unsafe impl Send for State {}

impl State {
    fn has_work(&self) -> bool {
        let ticket = self.ticket.load(Ordering::SeqCst);
        (ticket as u32) < (ticket >> 32) as u32
    }

    /// Runs one task if there is one left.
    fn step(&self, thread: usize) -> bool {
        if !self.has_work() {
            return false;
        }
        let ticket = self.ticket.fetch_add(1, Ordering::AcqRel);
        let (tasks, index) = ((ticket >> 32) as u32, ticket as u32);
        if index >= tasks {
            return false;
        }
        let _abort = AbortOnPanic;
        // SAFETY: this ticket is valid, so `run` has set the task before it published the ticket, and waits for us
        // before it returns.
        let task = unsafe { &*(*self.task.get()).expect("a valid ticket has a task") };
        task(index as usize, thread);
        self.done.fetch_add(1, Ordering::AcqRel);
        true
    }

    fn help(&self, thread: usize) {
        let mut spins = 0;
        while !self.quit.load(Ordering::Acquire) {
            if self.step(thread) {
                spins = 0;
            } else if spins < SPINS_BEFORE_SLEEP {
                spins += 1;
                std::hint::spin_loop();
            } else {
                self.asleep[thread].store(true, Ordering::SeqCst);
                if !self.has_work() && !self.quit.load(Ordering::SeqCst) {
                    std::thread::park();
                }
                self.asleep[thread].store(false, Ordering::SeqCst);
                spins = 0;
            }
        }
    }
}

/// A task borrows from the caller's stack, so a panic must not unwind past the others that use it.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Threads {
    /// A team of `count` threads, of which `count - 1` are started.
    pub(super) fn new(count: usize) -> std::io::Result<Self> {
        let mut threads = Self {
            state: Arc::new(State {
                ticket: AtomicU64::new(0),
                done: AtomicUsize::new(0),
                task: UnsafeCell::new(None),
                asleep: (0..count).map(|_| AtomicBool::new(false)).collect(),
                quit: AtomicBool::new(false),
            }),
            helpers: Vec::new(),
        };
        for thread in 1..count {
            let state = Arc::clone(&threads.state);
            let name = format!("kernel-{thread}");
            threads.helpers.push(std::thread::Builder::new().name(name).spawn(move || state.help(thread))?);
        }
        Ok(threads)
    }

    /// Threads in the team.
    pub(super) fn count(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `task(index, thread)` for every index below `tasks`, each once, and returns when all are done. Needs
    /// `&mut`: one layer at a time.
    pub(super) fn run(&mut self, tasks: usize, task: &Task<'_>) {
        if self.helpers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(|index| task(index, 0));
            return;
        }
        let count = u32::try_from(tasks).expect("a layer has fewer than 2^32 tasks");
        let state = &*self.state;
        // SAFETY: no valid ticket is out (the previous `run` waited for all), so nobody reads the cell; the lifetime is
        // erased only until all tasks are done, below.
        unsafe { *state.task.get() = Some(std::mem::transmute::<&Task<'_>, *const Task<'static>>(task)) };
        state.done.store(0, Ordering::Relaxed);
        state.ticket.store(u64::from(count) << 32, Ordering::SeqCst);
        for (helper, asleep) in self.helpers.iter().zip(&state.asleep[1..]) {
            if asleep.load(Ordering::SeqCst) {
                helper.thread().unpark();
            }
        }
        while state.step(0) {}
        let mut spins = 0;
        while state.done.load(Ordering::Acquire) < tasks {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.state.quit.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            helper.join().expect("a helper cannot panic: a task that does aborts the process");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for count in [1, 2, 3, 8] {
            let mut threads = Threads::new(count).unwrap();
            for tasks in [0, 1, 2, 7, 100].into_iter().cycle().take(500) {
                let calls: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                threads.run(tasks, &|index, thread| {
                    assert!(thread < count);
                    calls[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn helpers_wake_up_again_after_they_fell_asleep() {
        let mut threads = Threads::new(2).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !threads.state.asleep[1].load(Ordering::SeqCst) {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        // Task 0 waits for task 1, so one thread alone would never finish.
        let met = AtomicUsize::new(0);
        threads.run(2, &|_, _| {
            met.fetch_add(1, Ordering::SeqCst);
            while met.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
        });
    }
}
