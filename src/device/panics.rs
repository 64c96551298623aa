//! Panics of backends as errors: Burn panics if a driver is missing.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, PoisonError};

/// One at a time replaces the hook of the process.
static HOOK: Mutex<()> = Mutex::new(());

/// The result of `run`, or the first line of the first panic on the way. CubeCL's devices have threads of their own, whose
/// panic is the cause; the caller's follows from it. Panics are printed only if `run` has a result: they are of other threads.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    match held(run) {
        (Ok(result), panics) => {
            panics.iter().for_each(|panic| eprintln!("{}", panic.report));
            Ok(result)
        }
        (Err(_), panics) => Err(panics.into_iter().next().map(|panic| panic.reason).unwrap_or_default()),
    }
}

/// A panic that was not printed.
struct Panic {
    /// The first line of its message.
    reason: String,
    /// Thread, place and message, as they are printed by default.
    report: String,
}

/// The result of `run`, and the panics of all threads meanwhile, in their order.
fn held<T>(run: impl FnOnce() -> T) -> (std::thread::Result<T>, Vec<Panic>) {
    let _guard = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let panics = Arc::new(Mutex::new(Vec::new()));
    let seen = panics.clone();
    let printing = take_hook();
    set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("it panicked");
        let reason = message.lines().next().unwrap_or_default().trim_end_matches('.').to_owned();
        let thread = std::thread::current();
        let report = format!("thread {:?} {panic}", thread.name().unwrap_or("<unnamed>"));
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(Panic { reason, report });
    }));
    let result = catch_unwind(AssertUnwindSafe(run));
    set_hook(printing);
    let panics = std::mem::take(&mut *panics.lock().unwrap_or_else(PoisonError::into_inner));
    (result, panics)
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

    #[test]
    fn panics_of_other_threads_are_reported_if_the_run_has_a_result() {
        let elsewhere = || std::thread::Builder::new().name("device".to_owned()).spawn(|| panic!("lost")).unwrap();
        let (result, panics) = held(|| elsewhere().join().is_err());
        assert!(result.unwrap());
        let [Panic { reason, report }] = &panics[..] else { panic!("one panic") };
        assert_eq!(reason, "lost");
        assert!(report.starts_with("thread \"device\" panicked at ") && report.contains("lost"), "{report}");
    }
}
