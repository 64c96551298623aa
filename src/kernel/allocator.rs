//! A caching allocator for tensors, backed by huge pages.
//!
//! A forward pass allocates the same sizes again and again. If the memory went back to the operating system in between, its
//! pages would be faulted in and zeroed each time. And streaming a matrix from 4 KiB pages misses the TLB at every page, twice
//! as costly in a virtual machine. So blocks of 64 KiB and more are cut from segments of huge pages and stay with the
//! process, as in the caching allocators of GPUs.

#![expect(unsafe_code, reason = "`GlobalAlloc` is an unsafe trait on raw memory")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Smaller blocks come from [`System`].
const LARGE_BYTES: usize = 64 << 10;
/// Alignment and granularity of large blocks: a cache line.
const LINE_BYTES: usize = 64;
/// Size of a huge page.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Allocation from the system. Untouched pages take no memory.
const SEGMENT_BYTES: usize = 32 << 20;

/// A [global allocator](GlobalAlloc) that caches freed blocks of 64 KiB and more: best fit, adjacent free blocks merged.
/// Smaller blocks come from [`System`].
#[derive(Debug, Default)]
pub struct CachingAllocator {
    free: Mutex<FreeBlocks>,
}

impl CachingAllocator {
    /// An empty cache.
    pub const fn new() -> Self {
        Self { free: Mutex::new(FreeBlocks { by_address: BTreeMap::new(), by_size: BTreeSet::new() }) }
    }

    /// The nodes of the maps are small, so allocating them does not take this lock again.
    fn free(&self) -> MutexGuard<'_, FreeBlocks> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Size of a block of this layout in a segment; `None` if it comes from [`System`].
fn size_in_segment(layout: Layout) -> Option<usize> {
    (layout.size() >= LARGE_BYTES && layout.align() <= LINE_BYTES)
        .then(|| layout.size().checked_next_multiple_of(LINE_BYTES))
        .flatten()
}

// SAFETY: the layout alone decides whether a block comes from `System` or from the free blocks, and it is the same when the
// block is freed. A free block is removed from the maps before it is handed out, so live blocks do not overlap.
unsafe impl GlobalAlloc for CachingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(size) = size_in_segment(layout) else {
            // SAFETY: the caller guarantees the layout.
            return unsafe { System.alloc(layout) };
        };
        let mut free = self.free();
        if let Some(address) = free.take(size) {
            return with_exposed_provenance_mut(address);
        }
        let Some(segment) = new_segment(size) else { return null_mut() };
        free.put(segment.0, segment.1);
        free.take(size).map_or(null_mut(), with_exposed_provenance_mut)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match size_in_segment(layout) {
            Some(size) => self.free().put(block.expose_provenance(), size),
            // SAFETY: a block of this layout came from `System`.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller guarantees a valid size.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        if size_in_segment(layout).is_none() && size_in_segment(new).is_none() {
            // SAFETY: a block of this layout came from `System`, as the new one will.
            return unsafe { System.realloc(block, layout, new_size) };
        }
        // SAFETY: `alloc` returns memory disjoint from `block`, which holds `layout.size()` bytes and is not used again.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

/// Address and size of a new segment of at least `size` bytes.
fn new_segment(size: usize) -> Option<(usize, usize)> {
    let at_least = |bytes: usize| {
        let layout = Layout::from_size_align(bytes.checked_next_multiple_of(HUGE_PAGE_BYTES)?, HUGE_PAGE_BYTES).ok()?;
        // SAFETY: the size is not zero.
        let start = unsafe { System.alloc(layout) };
        if start.is_null() {
            return None;
        }
        advise_huge_pages(start, layout.size());
        Some((start.expose_provenance(), layout.size()))
    };
    // Under memory pressure, only what is needed.
    at_least(size.max(SEGMENT_BYTES)).or_else(|| at_least(size))
}

/// Advises the kernel to use huge pages. Failure is harmless.
fn advise_huge_pages(_start: *mut u8, _bytes: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: the range is one allocation; the advice changes its mapping, never its contents.
    let _small_pages_work_too =
        unsafe { rustix::mm::madvise(_start.cast(), _bytes, rustix::mm::Advice::LinuxHugepage) };
}

/// Free blocks, disjoint and never adjacent, by address and by size.
#[derive(Debug, Default)]
struct FreeBlocks {
    by_address: BTreeMap<usize, usize>,
    by_size: BTreeSet<(usize, usize)>,
}

impl FreeBlocks {
    /// Takes `size` bytes from the smallest block that fits; on ties, the lowest.
    fn take(&mut self, size: usize) -> Option<usize> {
        let &(found, address) = self.by_size.range((size, 0)..).next()?;
        self.remove(address, found);
        if found > size {
            self.insert(address + size, found - size);
        }
        Some(address)
    }

    /// Returns a block, merged with adjacent free blocks.
    fn put(&mut self, mut address: usize, mut size: usize) {
        if let Some((&before, &length)) = self.by_address.range(..address).next_back()
            && before + length == address
        {
            self.remove(before, length);
            (address, size) = (before, length + size);
        }
        if let Some(&length) = self.by_address.get(&(address + size)) {
            self.remove(address + size, length);
            size += length;
        }
        self.insert(address, size);
    }

    fn insert(&mut self, address: usize, size: usize) {
        self.by_address.insert(address, size);
        self.by_size.insert((size, address));
    }

    fn remove(&mut self, address: usize, size: usize) {
        self.by_address.remove(&address);
        self.by_size.remove(&(size, address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// A block filled with a mark, which is verified on drop.
    struct Block<'a> {
        heap: &'a CachingAllocator,
        start: *mut u8,
        layout: Layout,
        mark: u8,
    }

    impl<'a> Block<'a> {
        fn new(heap: &'a CachingAllocator, size: usize, mark: u8) -> Self {
            let layout = Layout::from_size_align(size, 4).unwrap();
            // SAFETY: sizes of these tests are not zero; the block is as large as its layout says.
            let start = unsafe {
                let start = heap.alloc(layout);
                start.write_bytes(mark, size);
                start
            };
            Self { heap, start, layout, mark }
        }

        fn resize(&mut self, size: usize) {
            let preserved = self.layout.size().min(size);
            // SAFETY: the block came from this allocator with this layout.
            unsafe {
                self.start = self.heap.realloc(self.start, self.layout, size);
                assert!(std::slice::from_raw_parts(self.start, preserved).iter().all(|&byte| byte == self.mark));
                self.start.write_bytes(self.mark, size);
            }
            self.layout = Layout::from_size_align(size, 4).unwrap();
        }
    }

    impl Drop for Block<'_> {
        fn drop(&mut self) {
            // SAFETY: as in `resize`; the block is not used again.
            unsafe {
                let bytes = std::slice::from_raw_parts(self.start, self.layout.size());
                assert!(bytes.iter().all(|&byte| byte == self.mark), "blocks overlap");
                self.heap.dealloc(self.start, self.layout);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn blocks_never_overlap_and_keep_their_bytes_when_resized(
            steps in prop::collection::vec((0_usize..24, 1_usize..300_000), 1..80),
        ) {
            let heap = CachingAllocator::new();
            let mut blocks: Vec<Block> = Vec::new();
            for (mark, &(index, size)) in (1..).zip(&steps) {
                match index {
                    0..4 if index < blocks.len() => blocks[index].resize(size),
                    4..12 if index - 4 < blocks.len() => drop(blocks.swap_remove(index - 4)),
                    _ => blocks.push(Block::new(&heap, size, mark)),
                }
            }
            drop(blocks);
            // All blocks are merged into whole segments again.
            let free = heap.free();
            prop_assert!(free.by_address.values().all(|size| size % HUGE_PAGE_BYTES == 0));
            prop_assert_eq!(free.by_address.len(), free.by_size.len());
        }
    }

    #[test]
    fn a_freed_block_is_reused_for_its_size() {
        let heap = CachingAllocator::new();
        let (one, _between) = (Block::new(&heap, 3 << 20, 1), Block::new(&heap, 1 << 20, 2));
        let address = one.start;
        drop(one);
        assert_eq!(Block::new(&heap, 3 << 20, 3).start, address);
    }

    #[test]
    fn large_blocks_are_aligned_to_cache_lines() {
        let heap = CachingAllocator::new();
        let blocks: Vec<Block> = (0..9).map(|i| Block::new(&heap, LARGE_BYTES + i * 4, 1)).collect();
        assert!(blocks.iter().all(|block| block.start.addr() % LINE_BYTES == 0));
    }

    #[test]
    fn threads_share_the_allocator() {
        let heap = CachingAllocator::new();
        std::thread::scope(|scope| {
            for mark in 1..5 {
                let heap = &heap;
                scope.spawn(move || (1..200).for_each(|i| drop(Block::new(heap, i * 1021, mark))));
            }
        });
    }
}
