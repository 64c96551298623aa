//! Panics of backends as errors: Burn has no other answer to a driver that is missing.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, PoisonError};

/// One at a time replaces the hook of the process.
static HOOK: Mutex<()> = Mutex::new(());

/// The result of `run`, or the first line of the first panic on the way. CubeCL's devices have threads of their own, whose
/// panic is the cause; the caller's follows from it. None is printed.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let _guard = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let first = Arc::new(Mutex::new(None));
    let seen = first.clone();
    let printing = take_hook();
    set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("it panicked");
        let mut first = seen.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| message.lines().next().unwrap_or_default().trim_end_matches('.').to_owned());
    }));
    let result = catch_unwind(AssertUnwindSafe(run));
    set_hook(printing);
    result.map_err(|_| first.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_panic_is_told_whichever_thread_it_is_on() {
        let run = || std::thread::spawn(|| panic!("no driver:\nsearched everywhere")).join().expect("RecvError");
        assert_eq!(caught(run), Err("no driver:".to_owned()));
        assert_eq!(caught(|| 7), Ok(7));
    }
}
