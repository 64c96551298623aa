//! Threads that share the tasks of one short loop.
//!
//! A decoding step forks a hundred times for a few microseconds each. A thread pool that queues jobs and puts its
//! callers to sleep costs more than that; here the caller works along, the helpers watch one word of memory between
//! loops, read ahead meanwhile if they have been told what, and go to sleep only when nothing has come for a while.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::{self, Thread};

use super::ahead::{Ahead, Reading, Share};

/// How often a thread looks for a change before it lets other threads run, and before a helper sleeps.
const LOOKS_BEFORE_YIELDING: u32 = 2_000;
const LOOKS_BEFORE_SLEEPING: u32 = LOOKS_BEFORE_YIELDING + 60;
/// This bit of [`SpinPool::state`] is set while no loop is open. The bits below count the helpers at work; those above
/// count the loops, so that adding this much opens a loop, and adding it again closes that loop.
const CLOSED: u64 = 1 << 16;

/// A task of the loop that is open.
type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// The helpers of the process and the loop that they work on.
struct SpinPool {
    state: AtomicU64,
    /// Of the open loop, a `&Task` on its caller's stack.
    task: AtomicPtr<&'static Task<'static>>,
    len: AtomicUsize,
    next: AtomicUsize,
    /// Most helpers that may join the open loop.
    limit: AtomicUsize,
    sleeping: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Held by the thread whose loop is open.
    caller: Mutex<()>,
    helpers: OnceLock<Vec<Thread>>,
    ahead: Ahead,
}

static TEAM: SpinPool = SpinPool {
    state: AtomicU64::new(CLOSED),
    task: AtomicPtr::new(std::ptr::null_mut()),
    len: AtomicUsize::new(0),
    next: AtomicUsize::new(0),
    limit: AtomicUsize::new(0),
    sleeping: AtomicBool::new(false),
    panic: Mutex::new(None),
    caller: Mutex::new(()),
    helpers: OnceLock::new(),
    ahead: Ahead::new(),
};

thread_local! {
    /// Of a helper, from 1 on; 0 of every other thread.
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// Whether a product may use the whole thread pool or is one task of a parallel loop.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::kernel) enum Threads {
    /// As many as there are, if the product is large enough to pay for the fork.
    Pool,
    /// The calling thread.
    One,
}

impl Threads {
    /// How many there are.
    pub(in crate::kernel) fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Pool => rayon::current_num_threads(),
        }
    }

    /// Runs `task(0)`, …, `task(len − 1)`: on the calling thread in order, or as [`for_each`].
    pub(in crate::kernel) fn for_each(self, len: usize, task: impl Fn(usize) + Sync) {
        match self {
            Self::One => (0..len).for_each(task),
            Self::Pool => for_each(len, task),
        }
    }

    /// The same, but each thread takes neighbouring indices, one after the other, as long as there are any: those from its
    /// start to the next, of as many starts as there are threads, the caller's first. One that is done with its own goes on
    /// with others'. The starts begin at 0 and ascend.
    pub(in crate::kernel) fn for_each_in_shares(self, starts: &[usize], len: usize, task: impl Fn(usize) + Sync) {
        assert_eq!(starts.first(), Some(&0), "the first share begins with the first task");
        let next: Vec<_> = starts.iter().map(|start| AtomicUsize::new(*start)).collect();
        let end = |share: usize| starts.get(share + 1).copied().unwrap_or(len);
        self.for_each(next.len(), |_| {
            let own = NUMBER.get() % next.len();
            for share in (own..next.len()).chain(0..own) {
                let taken = || Some(next[share].fetch_add(1, Ordering::Relaxed)).filter(|index| *index < end(share));
                std::iter::from_fn(taken).for_each(&task);
            }
        });
    }
}

/// Runs `task(0)`, …, `task(len − 1)`, each once, in any order, on as many threads as the caller's rayon pool has.
///
/// While the team works for another thread, and inside one of its own tasks, the caller does all of it.
///
/// # Panics
/// If a task does, once all that had begun have ended.
fn for_each(len: usize, task: impl Fn(usize) + Sync) {
    let helpers = if len > 1 { rayon::current_num_threads() - 1 } else { 0 };
    let caller = match TEAM.caller.try_lock() {
        Ok(caller) => Some(caller),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    };
    match caller {
        Some(_held) if helpers > 0 => TEAM.run(len, helpers, &task),
        _ => (0..len).for_each(task),
    }
}

/// Has the helpers ask for what they will read next, while they wait for the next loop: see [`Ahead::announce`].
pub(super) fn read_ahead(shares: &[Share]) {
    TEAM.ahead.announce(shares);
}

impl SpinPool {
    /// Opens a loop, works on it, closes it, and waits for the helpers that have joined.
    fn run(&'static self, len: usize, helpers: usize, task: &Task<'_>) {
        let threads = self.helpers.get_or_init(|| self.spawn(helpers));
        self.task.store((&raw const task).cast_mut().cast(), Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
        self.limit.store(helpers, Ordering::Relaxed);
        self.state.fetch_add(CLOSED, Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            threads.iter().for_each(Thread::unpark);
        }
        self.work(len, task);
        self.state.fetch_add(CLOSED, Ordering::Relaxed);
        let mut looks = 0;
        while !self.state.load(Ordering::Acquire).is_multiple_of(CLOSED) {
            look_again(&mut looks);
        }
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Takes one index after another until none is left; a panic is kept for the caller and ends the loop.
    fn work(&self, len: usize, task: &Task<'_>) {
        let taken = || Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < len);
        let all = AssertUnwindSafe(|| std::iter::from_fn(taken).for_each(task));
        if let Err(payload) = catch_unwind(all) {
            self.next.store(len, Ordering::Relaxed);
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
        }
    }

    fn spawn(&'static self, helpers: usize) -> Vec<Thread> {
        let start = |index| {
            let named = thread::Builder::new().name(format!("kernel {index}"));
            named.spawn(move || self.help(index)).map(|handle| handle.thread().clone())
        };
        // Where no thread can be had, there are fewer.
        (0..helpers).map_while(|index| start(index).ok()).collect()
    }

    /// The life of a helper: joins every loop that it sees open.
    #[expect(unsafe_code, reason = "a helper borrows the task from the stack of the caller")]
    fn help(&self, index: usize) {
        NUMBER.set(index + 1);
        let mut done = CLOSED;
        let mut looks = 0;
        let mut reading = Reading::of(index);
        loop {
            let state = self.state.load(Ordering::Acquire);
            let (count, open) = ((state % CLOSED) as usize, state & CLOSED == 0);
            if !open || state / CLOSED == done || count >= self.limit.load(Ordering::Relaxed) {
                reading.go_on(&self.ahead);
                look_again(&mut looks);
                if looks > LOOKS_BEFORE_SLEEPING {
                    self.sleeping.store(true, Ordering::SeqCst);
                    if self.state.load(Ordering::SeqCst) / CLOSED == state / CLOSED {
                        thread::park();
                    }
                    looks = 0;
                }
            } else if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                // SAFETY: the loop was open when this helper was counted in, so its caller does not return, and its
                // task stays, until the helper is counted out below. The fields of the loop were written before it was
                // opened, and this exchange has read the opening.
                let task: &Task<'_> = unsafe { *self.task.load(Ordering::Relaxed) };
                self.work(self.len.load(Ordering::Relaxed), task);
                self.state.fetch_sub(1, Ordering::Release);
                done = state / CLOSED;
                looks = 0;
            }
        }
    }
}

/// Waits a moment; after many moments, lets another thread run.
fn look_again(looks: &mut u32) {
    *looks += 1;
    if *looks < LOOKS_BEFORE_YIELDING { std::hint::spin_loop() } else { thread::yield_now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs_of_each(len: usize) -> Vec<usize> {
        let runs: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
        for_each(len, |index| {
            runs[index].fetch_add(1, Ordering::Relaxed);
        });
        runs.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_runs_once_whoever_else_uses_the_team() {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..3000).for_each(|len| assert_eq!(runs_of_each(len % 67), vec![1; len % 67])));
            }
        });
    }

    #[test]
    fn every_index_of_every_share_runs_once() {
        for (starts, len) in
            [(vec![0], 5), (vec![0, 3], 9), (vec![0, 0, 4, 4], 4), (vec![0, 1, 2, 50], 60), (vec![0], 0)]
        {
            for threads in [Threads::One, Threads::Pool] {
                let runs: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
                threads.for_each_in_shares(&starts, len, |index| {
                    runs[index].fetch_add(1, Ordering::Relaxed);
                });
                let runs: Vec<_> = runs.into_iter().map(AtomicUsize::into_inner).collect();
                assert_eq!(runs, vec![1; len], "{starts:?}");
            }
        }
    }

    #[test]
    fn helpers_that_fell_asleep_are_woken() {
        for _ in 0..5 {
            thread::sleep(std::time::Duration::from_millis(3));
            assert_eq!(runs_of_each(100), vec![1; 100]);
        }
    }

    #[test]
    fn a_task_may_run_a_loop_of_its_own() {
        let total = AtomicUsize::new(0);
        for_each(8, |_| {
            total.fetch_add(runs_of_each(5).len(), Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), 40);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let one_fails = || for_each(50, |index| assert!(index != 31, "task {index} fails"));
        let payload = catch_unwind(one_fails).expect_err("a task panicked");
        assert_eq!(payload.downcast_ref::<String>().map(String::as_str), Some("task 31 fails"));
        assert_eq!(runs_of_each(50), vec![1; 50]);
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
