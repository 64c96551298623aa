//! Memory that a thread uses again: a vector of its own would be made of zeros each time.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Most numbers of a piece that is kept; larger ones are allocated, and made of zeros, in less time than they are used.
const KEPT: usize = 1 << 19;

thread_local! {
    /// What the thread has used and will use again.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Numbers of any value, lent to one piece of work; the latest that was given back is lent first, so that what is small and
/// often wanted stays in the cache.
pub(in crate::kernel) struct Scratch {
    numbers: Vec<f32>,
    len: usize,
}

impl Scratch {
    pub(in crate::kernel) fn new(len: usize) -> Self {
        let mut numbers = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
        if numbers.len() < len {
            numbers = vec![0.0; len];
        }
        Self { numbers, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.numbers.len() <= KEPT {
            let numbers = std::mem::take(&mut self.numbers);
            // A thread that ends has nowhere to keep it.
            let _ = FREE.try_with(|free| free.borrow_mut().push(numbers));
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_at_once_are_distinct_and_one_after_the_other_the_same_memory() {
        let (mut first, second) = (Scratch::new(5), Scratch::new(7));
        assert_eq!((first.len(), second.len()), (5, 7));
        assert_ne!(first.as_ptr(), second.as_ptr());
        first.fill(1.0);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(Scratch::new(3).as_ptr(), address);
    }

    #[test]
    fn what_is_larger_than_is_kept_is_given_back() {
        let kept = || FREE.with_borrow(|free| free.iter().map(Vec::capacity).collect::<Vec<_>>());
        drop(Scratch::new(KEPT));
        assert_eq!(kept(), vec![KEPT]);
        drop(Scratch::new(KEPT + 1));
        assert!(kept().is_empty());
    }
}
