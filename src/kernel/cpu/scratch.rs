//! Reused buffers of a thread.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use super::empty::empty;

/// Cap on the length of a cached buffer. For larger ones, allocating is cheap compared with their use.
const MAX_CACHED_LEN: usize = 1 << 19;

thread_local! {
    /// The cached buffers, latest last.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of arbitrary values. The buffer dropped last is reused first, while it is still in cache.
pub(in crate::kernel) struct Scratch {
    values: Vec<f32>,
    len: usize,
}

impl Scratch {
    pub(in crate::kernel) fn new(len: usize) -> Self {
        let mut values = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
        if values.len() < len {
            values = empty(len);
        } else if cfg!(test) {
            values[..len].fill(f32::NAN);
        }
        Self { values, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.values.len() <= MAX_CACHED_LEN {
            let values = std::mem::take(&mut self.values);
            // Fails while the thread exits; the buffer is then freed.
            let _ = FREE.try_with(|free| free.borrow_mut().push(values));
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_buffers_are_distinct_and_dropped_ones_are_reused() {
        let (mut first, second) = (Scratch::new(5), Scratch::new(7));
        assert_eq!((first.len(), second.len()), (5, 7));
        assert_ne!(first.as_ptr(), second.as_ptr());
        first.fill(1.0);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(Scratch::new(3).as_ptr(), address);
    }

    #[test]
    fn larger_buffers_are_freed() {
        let cached = || FREE.with_borrow(|free| free.iter().map(Vec::capacity).collect::<Vec<_>>());
        drop(Scratch::new(MAX_CACHED_LEN));
        assert_eq!(cached(), vec![MAX_CACHED_LEN]);
        drop(Scratch::new(MAX_CACHED_LEN + 1));
        assert!(cached().is_empty());
    }
}
