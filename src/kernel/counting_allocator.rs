//! An allocator that counts: bytes in use, and the most that were in use.

#![expect(unsafe_code, reason = "`GlobalAlloc` is an unsafe trait on raw memory")]

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A [global allocator](GlobalAlloc) that counts the bytes that another one hands out, as they were asked for.
#[derive(Debug, Default)]
pub struct CountingAllocator<A> {
    live_bytes: AtomicUsize,
    peak_bytes: AtomicUsize,
    inner: A,
}

impl<A> CountingAllocator<A> {
    /// Counts for `inner`, from 0.
    pub const fn new(inner: A) -> Self {
        Self { live_bytes: AtomicUsize::new(0), peak_bytes: AtomicUsize::new(0), inner }
    }

    /// Bytes in use.
    pub fn live_bytes(&self) -> usize {
        self.live_bytes.load(Ordering::Relaxed)
    }

    /// Most bytes in use since the last [`reset_peak`](Self::reset_peak).
    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes.load(Ordering::Relaxed)
    }

    /// Begins a new peak at the bytes in use now.
    pub fn reset_peak(&self) {
        self.peak_bytes.store(self.live_bytes(), Ordering::Relaxed);
    }

    fn add(&self, bytes: usize) {
        let live = self.live_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak_bytes.fetch_max(live, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: usize) {
        self.live_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed to the inner allocator as it is; counting touches no memory that is handed out.
unsafe impl<A: GlobalAlloc> GlobalAlloc for &CountingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: the caller's contract.
        unsafe { self.inner.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.add(layout.size());
        // SAFETY: the caller's contract.
        unsafe { self.inner.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.subtract(layout.size());
        // SAFETY: the caller's contract.
        unsafe { self.inner.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // While a block moves, both are in use.
        self.add(new_size);
        self.subtract(layout.size());
        // SAFETY: the caller's contract.
        unsafe { self.inner.realloc(block, layout, new_size) }
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    #[test]
    fn live_bytes_fall_and_the_peak_stays() {
        let counting = &CountingAllocator::new(System);
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        // SAFETY: blocks are freed once, with the layouts that they have.
        unsafe {
            let first = counting.alloc(layout(100));
            let first = counting.realloc(first, layout(100), 300);
            assert_eq!((counting.live_bytes(), counting.peak_bytes()), (300, 400));
            let second = counting.alloc_zeroed(layout(50));
            counting.dealloc(first, layout(300));
            counting.reset_peak();
            assert_eq!((counting.live_bytes(), counting.peak_bytes()), (50, 50));
            counting.dealloc(second, layout(50));
        }
        assert_eq!((counting.live_bytes(), counting.peak_bytes()), (0, 50));
    }
}
