//! Packing buffers.

use std::cell::RefCell;

use bytemuck::{Pod, Zeroable};

/// A cache line, so that no load of a packed vector crosses two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: an array of bytes as large as its alignment, without padding.
#[expect(unsafe_code, reason = "bytemuck derives these only with its optional macro")]
unsafe impl Zeroable for Line {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "bytemuck derives these only with its optional macro")]
unsafe impl Pod for Line {}

thread_local! {
    /// The buffers of this thread that are not in use, last dropped last.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of arbitrary values that starts at a cache line, reused by the products of a thread.
pub(super) struct Buffer(Vec<Line>);

impl Buffer {
    pub(super) fn new() -> Self {
        Self(FREE.with_borrow_mut(Vec::pop).unwrap_or_default())
    }

    /// The first `len` elements.
    pub(super) fn elements<P: Pod>(&mut self, len: usize) -> &mut [P] {
        let lines = (len * size_of::<P>()).div_ceil(size_of::<Line>());
        if self.0.len() < lines {
            self.0.resize(lines, Line::zeroed());
        }
        &mut bytemuck::cast_slice_mut(&mut self.0[..lines])[..len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.0);
        // Fails while the thread exits; the buffer is then freed.
        let _ = FREE.try_with(|free| free.borrow_mut().push(lines));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_of_any_size_serves_elements_of_any_size() {
        let mut buffer = Buffer::new();
        assert_eq!(buffer.elements::<f32>(17 * 16).len(), 17 * 16);
        assert_eq!(buffer.elements::<[[u32; 16]; 16]>(1).len(), 1);
        assert_eq!(buffer.elements::<u8>(65).len(), 65);
    }

    #[test]
    fn live_buffers_are_distinct_and_start_at_cache_lines() {
        let (mut first, mut second) = (Buffer::new(), Buffer::new());
        let (one, other) = (first.elements::<f32>(5), second.elements::<u16>(70));
        assert_eq!((one.len(), other.len()), (5, 70));
        for address in [one.as_ptr().addr(), other.as_ptr().addr()] {
            assert_eq!(address % 64, 0);
        }
        one.fill(1.0);
        other.fill(2);
        assert!(one.iter().all(|number| *number == 1.0));
        let address = one.as_ptr().addr();
        drop(first);
        assert_eq!(Buffer::new().elements::<f32>(3).as_ptr().addr(), address, "a dropped buffer is reused");
    }
}
