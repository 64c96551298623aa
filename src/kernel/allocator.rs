//! Memory of tensors: large blocks are kept when they are freed, and lie in huge pages.
//!
//! A forward pass asks for the same sizes again and again. Given back to the operating system between two operations,
//! their pages are faulted in and cleared anew each time; and a matrix that is streamed from pages of 4 KiB misses the
//! translation buffer at every page, which a virtual machine pays twice. So blocks of 64 KiB and more are cut from
//! segments that ask for huge pages, begin at a cache line, and stay with the process, as in the caching allocators of
//! device memory.

#![expect(unsafe_code, reason = "an allocator is an unsafe trait, and its blocks are raw memory")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Smaller blocks are the system's.
const LARGE_BYTES: usize = 64 << 10;
/// Where a large block begins, and what its size is a multiple of: a cache line.
const LINE_BYTES: usize = 64;
/// What the processor maps with one entry, where the kernel grants it.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// What is asked of the system at once. What is not touched of it takes no memory.
const SEGMENT_BYTES: usize = 32 << 20;

/// A [global allocator](GlobalAlloc) that keeps freed blocks of 64 KiB and more for the next use: the smallest that is
/// large enough is taken, neighbours are joined. Smaller ones are [`System`]'s.
#[derive(Debug, Default)]
pub struct CachingAllocator {
    free: Mutex<FreeBlocks>,
}

impl CachingAllocator {
    /// An allocator that holds nothing yet.
    pub const fn new() -> Self {
        Self { free: Mutex::new(FreeBlocks { by_place: BTreeMap::new(), by_size: BTreeSet::new() }) }
    }

    /// Nodes of the maps are small, so nothing that is done under this lock asks for it again.
    fn free(&self) -> MutexGuard<'_, FreeBlocks> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The size that a block of this layout has in a segment; `None` if it is the system's.
fn size_in_segment(layout: Layout) -> Option<usize> {
    (layout.size() >= LARGE_BYTES && layout.align() <= LINE_BYTES)
        .then(|| layout.size().checked_next_multiple_of(LINE_BYTES))
        .flatten()
}

// SAFETY: a block is handed out by exactly one of `System` and the free blocks, told apart by the layout alone, which is
// the same when it comes back; a free block is removed from the maps before it is handed out, so no two live ones overlap.
unsafe impl GlobalAlloc for CachingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(size) = size_in_segment(layout) else {
            // SAFETY: the caller's promise on the layout is passed on.
            return unsafe { System.alloc(layout) };
        };
        let mut free = self.free();
        if let Some(place) = free.take(size) {
            return with_exposed_provenance_mut(place);
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
        // SAFETY: the caller promises a size that makes a layout.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        if size_in_segment(layout).is_none() && size_in_segment(new).is_none() {
            // SAFETY: a block of this layout came from `System`, and stays there.
            return unsafe { System.realloc(block, layout, new_size) };
        }
        // SAFETY: `alloc` gives other memory than `block`, which holds `layout.size()` bytes and is not used again.
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

/// Place and size of new memory that holds `size` bytes: a segment, or more if a block does not fit one.
fn new_segment(size: usize) -> Option<(usize, usize)> {
    let at_least = |bytes: usize| {
        let layout = Layout::from_size_align(bytes.checked_next_multiple_of(HUGE_PAGE_BYTES)?, HUGE_PAGE_BYTES).ok()?;
        // SAFETY: the size is not zero.
        let start = unsafe { System.alloc(layout) };
        if start.is_null() {
            return None;
        }
        ask_for_huge_pages(start, layout.size());
        Some((start.expose_provenance(), layout.size()))
    };
    // Where memory is short, what is needed and no more.
    at_least(size.max(SEGMENT_BYTES)).or_else(|| at_least(size))
}

/// Tells the kernel; it is no failure if it does not listen.
fn ask_for_huge_pages(_start: *mut u8, _bytes: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: the range is one allocation; the advice changes how it is mapped, never what it holds.
    let _small_pages_do_as_well =
        unsafe { rustix::mm::madvise(_start.cast(), _bytes, rustix::mm::Advice::LinuxHugepage) };
}

/// Free memory, disjoint and never adjacent: by address, and by size.
#[derive(Debug, Default)]
struct FreeBlocks {
    by_place: BTreeMap<usize, usize>,
    by_size: BTreeSet<(usize, usize)>,
}

impl FreeBlocks {
    /// Takes `size` bytes from the smallest block that holds them, the lowest of several.
    fn take(&mut self, size: usize) -> Option<usize> {
        let &(found, place) = self.by_size.range((size, 0)..).next()?;
        self.remove(place, found);
        if found > size {
            self.insert(place + size, found - size);
        }
        Some(place)
    }

    /// Puts a block back, joined with free neighbours.
    fn put(&mut self, mut place: usize, mut size: usize) {
        if let Some((&before, &length)) = self.by_place.range(..place).next_back()
            && before + length == place
        {
            self.remove(before, length);
            (place, size) = (before, length + size);
        }
        if let Some(&length) = self.by_place.get(&(place + size)) {
            self.remove(place + size, length);
            size += length;
        }
        self.insert(place, size);
    }

    fn insert(&mut self, place: usize, size: usize) {
        self.by_place.insert(place, size);
        self.by_size.insert((size, place));
    }

    fn remove(&mut self, place: usize, size: usize) {
        self.by_place.remove(&place);
        self.by_size.remove(&(size, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// A block that fills itself with a mark, and says whether it is still there.
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
            let kept = self.layout.size().min(size);
            // SAFETY: the block came from this allocator with this layout.
            unsafe {
                self.start = self.heap.realloc(self.start, self.layout, size);
                assert!(std::slice::from_raw_parts(self.start, kept).iter().all(|&byte| byte == self.mark));
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
                assert!(bytes.iter().all(|&byte| byte == self.mark), "somebody wrote into a block of another");
                self.heap.dealloc(self.start, self.layout);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn blocks_never_overlap_and_keep_their_bytes_when_they_grow(
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
            // All is joined again: what is free are whole segments.
            let free = heap.free();
            prop_assert!(free.by_place.values().all(|size| size % HUGE_PAGE_BYTES == 0));
            prop_assert_eq!(free.by_place.len(), free.by_size.len());
        }
    }

    #[test]
    fn a_freed_block_is_the_next_one_of_its_size() {
        let heap = CachingAllocator::new();
        let (one, _between) = (Block::new(&heap, 3 << 20, 1), Block::new(&heap, 1 << 20, 2));
        let place = one.start;
        drop(one);
        assert_eq!(Block::new(&heap, 3 << 20, 3).start, place);
    }

    #[test]
    fn large_blocks_begin_at_a_cache_line() {
        let heap = CachingAllocator::new();
        let blocks: Vec<Block> = (0..9).map(|i| Block::new(&heap, LARGE_BYTES + i * 4, 1)).collect();
        assert!(blocks.iter().all(|block| block.start.addr() % LINE_BYTES == 0));
    }

    #[test]
    fn threads_share_it() {
        let heap = CachingAllocator::new();
        std::thread::scope(|scope| {
            for mark in 1..5 {
                // A `Block` checks its bytes when it is dropped.
                let heap = &heap;
                scope.spawn(move || (1..200).for_each(|i| drop(Block::new(heap, i * 1021, mark))));
            }
        });
    }
}
