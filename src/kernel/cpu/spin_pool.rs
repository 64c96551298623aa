//! A thread pool for parallel loops of microseconds.
//!
//! A decoding step forks a hundred times for a few microseconds each, which a pool that queues jobs and parks its callers
//! cannot amortize. Here the caller takes tasks too. Helpers spin on one word between loops, run the [`Prefetcher`]
//! meanwhile, and park only after a while without work.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::thread::{self, Thread};

use super::prefetcher::{HelperRanges, PrefetchCursor, Prefetcher};

/// Polls before a waiting thread yields to the scheduler.
const SPINS_BEFORE_YIELD: u32 = 2_000;
/// Polls before a helper parks.
const SPINS_BEFORE_PARK: u32 = SPINS_BEFORE_YIELD + 60;
/// Bit of [`SpinPool::state`] that is set while no loop is open. The bits below count the active helpers, those above the
/// loops: adding this once opens a loop, adding it again closes it.
const CLOSED: u64 = 1 << 16;

/// The body of a loop.
type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// The helpers of the process, and the loop that they work on.
struct SpinPool {
    state: AtomicU64,
    /// Body of the open loop: a `&Task` on the caller's stack.
    task: AtomicPtr<&'static Task<'static>>,
    len: AtomicUsize,
    next: AtomicUsize,
    /// Helpers that may join the open loop, the first ones.
    max_helpers: AtomicUsize,
    /// Whether a helper that may join may be parked.
    parked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// As many as the largest loop so far may have. Locked by the thread whose loop is open.
    helpers: Mutex<Vec<Thread>>,
    /// Fewer than [`usize::MAX`] once the system has refused a thread.
    most_helpers: AtomicUsize,
    prefetcher: Prefetcher,
}

static POOL: SpinPool = SpinPool {
    state: AtomicU64::new(CLOSED),
    task: AtomicPtr::new(std::ptr::null_mut()),
    len: AtomicUsize::new(0),
    next: AtomicUsize::new(0),
    max_helpers: AtomicUsize::new(0),
    parked: AtomicBool::new(false),
    panic: Mutex::new(None),
    helpers: Mutex::new(Vec::new()),
    most_helpers: AtomicUsize::new(usize::MAX),
    prefetcher: Prefetcher::new(),
};

thread_local! {
    /// Index of a helper, from 1; 0 on all other threads.
    static THREAD_INDEX: Cell<usize> = const { Cell::new(0) };
}

/// The threads that a loop may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::kernel) enum Threads {
    /// As many as the caller's rayon pool has. The caller decides whether a loop is long enough to pay for the fork.
    Pool,
    /// The calling thread alone: the loop is itself a task of a parallel one.
    One,
}

impl Threads {
    /// Number of threads.
    pub(in crate::kernel) fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Pool => rayon::current_num_threads(),
        }
    }

    /// Runs `task(0)`, …, `task(len − 1)`, in order on one thread or by [`for_each`].
    pub(in crate::kernel) fn for_each(self, len: usize, task: impl Fn(usize) + Sync) {
        match self {
            Self::One => (0..len).for_each(task),
            Self::Pool => for_each(len, task),
        }
    }

    /// [`for_each`](Self::for_each) with work stealing: thread `t`, the caller being 0, takes the indices from `starts[t]` up to
    /// `starts[t + 1]` in order, then steals from the others. `starts` ascends from 0.
    pub(in crate::kernel) fn for_each_with_stealing(self, starts: &[usize], len: usize, task: impl Fn(usize) + Sync) {
        assert_eq!(starts.first(), Some(&0), "starts ascend from 0");
        let next: Vec<_> = starts.iter().map(|start| AtomicUsize::new(*start)).collect();
        let end = |share: usize| starts.get(share + 1).copied().unwrap_or(len);
        self.for_each(next.len(), |_| {
            let own = THREAD_INDEX.get() % next.len();
            for share in (own..next.len()).chain(0..own) {
                let take = || Some(next[share].fetch_add(1, Ordering::Relaxed)).filter(|index| *index < end(share));
                std::iter::from_fn(take).for_each(&task);
            }
        });
    }
}

/// Runs `task(0)`, …, `task(len − 1)`, each once, in any order, on as many threads as the caller's rayon pool has.
///
/// The caller runs all tasks itself while the pool is busy with another loop, and inside a task.
///
/// # Panics
/// If a task panics, after all running tasks have ended.
fn for_each(len: usize, task: impl Fn(usize) + Sync) {
    let max_helpers = if len > 1 { rayon::current_num_threads() - 1 } else { 0 };
    let helpers = match POOL.helpers.try_lock() {
        Ok(helpers) => Some(helpers),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    };
    match helpers {
        Some(mut helpers) if max_helpers > 0 => POOL.run(len, &mut helpers, max_helpers, &task),
        _ => (0..len).for_each(task),
    }
}

/// Publishes what the helpers should prefetch while they wait for the next loop.
pub(super) fn publish_prefetch(ranges: &[HelperRanges]) {
    POOL.prefetcher.publish(ranges);
}

impl SpinPool {
    /// Opens a loop, works on it, closes it, and waits for the helpers that joined.
    fn run(&'static self, len: usize, helpers: &mut Vec<Thread>, max_helpers: usize, task: &Task<'_>) {
        self.spawn(helpers, max_helpers);
        self.task.store((&raw const task).cast_mut().cast(), Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
        let max_before = self.max_helpers.swap(max_helpers, Ordering::Relaxed);
        self.state.fetch_add(CLOSED, Ordering::SeqCst);
        if self.parked.swap(false, Ordering::SeqCst) || max_helpers > max_before {
            helpers.iter().take(max_helpers).for_each(Thread::unpark);
        }
        self.work(len, task);
        self.state.fetch_add(CLOSED, Ordering::Relaxed);
        let mut spins = 0;
        while !self.state.load(Ordering::Acquire).is_multiple_of(CLOSED) {
            backoff(&mut spins);
        }
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Takes indices until none is left. A panic is stored for the caller and ends the loop.
    fn work(&self, len: usize, task: &Task<'_>) {
        let take = || Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < len);
        let all = AssertUnwindSafe(|| std::iter::from_fn(take).for_each(task));
        if let Err(payload) = catch_unwind(all) {
            self.next.store(len, Ordering::Relaxed);
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
        }
    }

    /// Starts helpers until there are `num`. If the system refuses a thread, there are never more than then.
    fn spawn(&'static self, helpers: &mut Vec<Thread>, num: usize) {
        while helpers.len() < num.min(self.most_helpers.load(Ordering::Relaxed)) {
            let index = helpers.len();
            let named = thread::Builder::new().name(format!("kernel {index}"));
            let Ok(handle) = named.spawn(move || self.run_helper(index)) else {
                self.most_helpers.store(index, Ordering::Relaxed);
                return;
            };
            helpers.push(handle.thread().clone());
        }
    }

    /// Helper loop: joins every loop that it finds open and may join, and prefetches in between. The caller wakes those that
    /// may join: if one has said that it parks, and if they were fewer in the loop before.
    #[expect(unsafe_code, reason = "a helper borrows the task from the caller's stack")]
    fn run_helper(&self, index: usize) {
        THREAD_INDEX.set(index + 1);
        let mut done = CLOSED;
        let mut spins = 0;
        let mut cursor = PrefetchCursor::new(index);
        loop {
            let state = self.state.load(Ordering::Acquire);
            let (is_open, may_join) = (state & CLOSED == 0, index < self.max_helpers.load(Ordering::Relaxed));
            if !is_open || state / CLOSED == done || !may_join {
                cursor.step(&self.prefetcher);
                backoff(&mut spins);
                if spins > SPINS_BEFORE_PARK {
                    if may_join {
                        self.parked.store(true, Ordering::SeqCst);
                    }
                    if self.state.load(Ordering::SeqCst) / CLOSED == state / CLOSED {
                        thread::park();
                    }
                    spins = 0;
                }
            } else if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                // SAFETY: the loop was open when this helper was counted in, so its caller does not return, and its task
                // lives, until the helper is counted out below. The fields of the loop were written before it was opened,
                // which happens before this exchange.
                let task: &Task<'_> = unsafe { *self.task.load(Ordering::Relaxed) };
                self.work(self.len.load(Ordering::Relaxed), task);
                self.state.fetch_sub(1, Ordering::Release);
                done = state / CLOSED;
                spins = 0;
            }
        }
    }
}

/// Spins once; yields to the scheduler after many spins.
fn backoff(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS_BEFORE_YIELD { std::hint::spin_loop() } else { thread::yield_now() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    fn runs_of_each(len: usize) -> Vec<usize> {
        let runs: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
        for_each(len, |index| {
            runs[index].fetch_add(1, Ordering::Relaxed);
        });
        runs.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_runs_once_while_other_threads_use_the_pool() {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..3000).for_each(|len| assert_eq!(runs_of_each(len % 67), vec![1; len % 67])));
            }
        });
    }

    #[test]
    fn every_index_runs_once_with_stealing() {
        for (starts, len) in
            [(vec![0], 5), (vec![0, 3], 9), (vec![0, 0, 4, 4], 4), (vec![0, 1, 2, 50], 60), (vec![0], 0)]
        {
            for threads in [Threads::One, Threads::Pool] {
                let runs: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
                threads.for_each_with_stealing(&starts, len, |index| {
                    runs[index].fetch_add(1, Ordering::Relaxed);
                });
                let runs: Vec<_> = runs.into_iter().map(AtomicUsize::into_inner).collect();
                assert_eq!(runs, vec![1; len], "{starts:?}");
            }
        }
    }

    #[test]
    fn parked_helpers_are_woken() {
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(3));
            assert_eq!(runs_of_each(100), vec![1; 100]);
        }
    }

    #[test]
    fn a_task_may_run_a_loop() {
        let total = AtomicUsize::new(0);
        for_each(8, |_| {
            total.fetch_add(runs_of_each(5).len(), Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), 40);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let one_fails = || for_each(50, |index| assert!(index != 31, "task {index} fails"));
        let payload = catch_unwind(one_fails).expect_err("a task panicked");
        assert_eq!(payload.downcast_ref::<String>().map(String::as_str), Some("task 31 fails"));
        assert_eq!(runs_of_each(50), vec![1; 50]);
    }

    #[test]
    fn a_loop_has_as_many_threads_as_the_pool_of_its_caller() {
        for num_threads in [2, 4, 3] {
            let seen = Mutex::new(HashSet::new());
            let run = || {
                for_each(64, |_| {
                    thread::sleep(Duration::from_micros(50));
                    seen.lock().expect("no panic").insert(thread::current().id());
                });
                seen.lock().expect("no panic").len()
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().expect("a pool");
            // While another test has the helpers, the caller is alone.
            let most = pool.install(|| (0..2000).map(|_| run()).find(|num_seen| *num_seen >= num_threads));
            assert_eq!(most, Some(num_threads));
        }
    }

    #[test]
    fn a_pool_of_one_thread_stays_on_its_thread() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
        pool.install(|| {
            let caller = thread::current().id();
            for_each(50, |_| assert_eq!(thread::current().id(), caller));
        });
    }
}
