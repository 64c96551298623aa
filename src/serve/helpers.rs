//! Threads for work that would hold up the thread of HTTP.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::ApiError;

/// Pieces of work at once; further ones wait. The cores are for the computing thread.
const AT_ONCE: usize = 4;

/// Runs pieces of work of one kind on other threads, so that streams continue.
#[derive(Debug, Clone)]
pub(super) struct Helpers(Arc<Semaphore>);

impl Default for Helpers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Helpers {
    /// The result of `work`. If the future is dropped, work that has not begun is dropped too; work that has begun runs to
    /// its end, and owns what it uses.
    ///
    /// # Errors
    /// If the work panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = self.0.clone().acquire_owned().await.expect("a semaphore that is never closed");
        let work = move || {
            let _turn = turn;
            work()
        };
        let failed = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be processed");
        spawn_blocking(work).await.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    /// Waits for `work`, but not for long.
    async fn briefly(work: impl Future) {
        assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
    }

    #[test]
    fn work_that_has_begun_keeps_what_it_owns_and_work_that_waits_lets_go_of_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (helpers, places) = (Helpers::default(), Arc::new(Semaphore::new(AT_ONCE + 1)));
            let mut ends = Vec::new();
            for _ in 0..AT_ONCE {
                let ((end, wait), place) = (channel::<()>(), places.clone().try_acquire_owned().unwrap());
                briefly(helpers.run(move || (place, wait.recv()))).await;
                ends.push(end);
            }
            assert_eq!(places.available_permits(), 1, "each piece of work has a place");
            let place = places.clone().try_acquire_owned().unwrap();
            briefly(helpers.run(move || drop(place))).await;
            assert_eq!(places.available_permits(), 1, "the fifth never begins");
            drop(ends);
            helpers.run(|| ()).await.unwrap();
            for _ in 0..100 {
                if places.available_permits() == AT_ONCE + 1 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("work that has ended keeps its place");
        });
    }
}
