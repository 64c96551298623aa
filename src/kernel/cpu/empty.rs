//! Outputs that need no zeroing.

/// `len` elements of arbitrary values, for an output that is written whole. They are NaN in this crate's unit tests, where an
/// element that is not written shows.
#[expect(unsafe_code, reason = "zeroing writes every element once more, 6 % of the time of a long prefill")]
pub(in crate::kernel) fn empty(len: usize) -> Vec<f32> {
    if cfg!(test) {
        return vec![f32::NAN; len];
    }
    let mut values = Vec::<f32>::with_capacity(len);
    // SAFETY: to the compiler, the assembly writes any bytes to memory whose address it has, so that the elements are
    // initialized; the bytes are those that are there. Every pattern of bits is a float.
    unsafe {
        std::arch::asm!("/* {} */", in(reg) values.as_mut_ptr(), options(nostack, preserves_flags));
        values.set_len(len);
    }
    values
}
