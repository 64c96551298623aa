//! Tiles of bfloat16 products, summed in float32, in the tile registers of AMX (Intel, *Architecture Instruction Set
//! Extensions*, chapter 3).
//!
//! [`Rounded`] multiplies operands rounded to bfloat16. [`Split`] multiplies float32: each operand is the sum of three bfloat16
//! parts, and of the nine products of parts the three smallest are left out, which together are at most 2⁻²⁴ + 2⁻³⁴ of the
//! exact product, about as much as rounding to float32 may change it (Henry, Tang & Heinecke, *Leveraging the bfloat16
//! Artificial Intelligence Datatype for Higher-Precision Computations*, 2019). AMX has 16 times the multiply-adds of AVX-512, so that six products still pay.
//! Weights that were stored in bfloat16 have one part, and three products with the parts of the other operand.
//!
//! AMX sums in float32, rounds to nearest even, and takes denormal numbers for zeros, operands and results. So products below
//! 2⁻¹⁰⁰ lose those of their small parts. The order of summation depends on the depth alone.
#![expect(
    unsafe_code,
    reason = "instructions that have no intrinsics; a value of the type proves that this CPU has them"
)]

mod micro_kernel;
mod pair_panels;

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::ops::Range;
use std::sync::OnceLock;

use pair_panels::{RowsAre, Tile, pack_bfloat16, pack_pairs, tiles_of_panel};

use super::tiling::{COLUMNS, Tiles, Tiling, blocks, fitting, store};
use crate::kernel::cpu::mat::{Mat, SharedMat};
use crate::kernel::cpu::weight_rows::Widen;

/// Rows of a tile of `C`: two tile registers.
const ROWS: usize = 32;
/// Panels of `A` that are multiplied with all panels of a task's `B` before the next: they stay in L2.
const GROUP: usize = 4;

/// Products of operands with this many bfloat16 parts. A value is the proof that the CPU has AMX for bfloat16, and that the
/// system lets this process use it.
#[derive(Clone, Copy)]
pub(super) struct Amx<const PARTS: usize>(());

/// Rounds the operands to bfloat16.
pub(super) type Rounded = Amx<1>;
/// Splits the operands, float32, into parts.
pub(super) type Split = Amx<3>;

impl<const PARTS: usize> Amx<PARTS> {
    pub(super) fn detect() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        FOUND.get_or_init(|| has_instructions() && is_permitted()).then_some(Self(()))
    }
}

/// Whether the CPU has AMX-TILE and AMX-BF16.
fn has_instructions() -> bool {
    const BFLOAT16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    is_x86_feature_detected!("avx512f") && __cpuid_count(7, 0).edx & (BFLOAT16 | TILE) == BFLOAT16 | TILE
}

/// Asks Linux for the tile registers, which a process may use only after `arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`.
fn is_permitted() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: the call reads and writes no memory; the kernel changes rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

impl<const PARTS: usize> Tiling for Amx<PARTS> {
    type Packed = Tile;
    const ROWS: usize = ROWS;
    /// Packed `A` takes up to 19 MB. In blocks of 1,536 rows, packing `B` took 19 % of the products of 2,048 rows, and prefill of 2,048
    /// tokens of SmolLM2 was 3 to 7 % slower.
    const BLOCK_ROWS: usize = 4096;
    const TASK_COLUMNS: usize = 9 * COLUMNS;

    fn panel_len(depth: usize) -> usize {
        tiles_of_panel::<PARTS>(depth)
    }

    /// Nine panels of one part, or three of three.
    fn block_len(depth: usize) -> usize {
        Self::TASK_COLUMNS / COLUMNS * tiles_of_panel::<1>(depth)
    }

    fn pack_rows(self, a: Mat<'_>, rows: Range<usize>, depths: Range<usize>, panels: &mut [Tile]) {
        pack_pairs::<_, PARTS>(a, rows, depths, RowsAre::Lines, panels);
    }

    /// Bfloat16 numbers have no second part.
    fn pack_columns<'p, W: Widen>(
        self,
        b: Mat<'_, W>,
        columns: Range<usize>,
        depths: Range<usize>,
        panels: &'p mut [Tile],
    ) -> (Range<usize>, &'p [Tile]) {
        let b = b.t();
        let (most, len) = fitting(columns.clone(), tiles_of_panel::<1>(depths.len()), panels.len());
        if PARTS == 1 {
            pack_pairs::<_, 1>(b, most.clone(), depths, RowsAre::Pairs, &mut panels[..len]);
            return (most, &panels[..len]);
        }
        if pack_bfloat16(b, most.clone(), depths.clone(), RowsAre::Pairs, &mut panels[..len]) {
            return (most, &panels[..len]);
        }
        let (columns, len) = fitting(columns, tiles_of_panel::<PARTS>(depths.len()), panels.len());
        pack_pairs::<_, PARTS>(b, columns.clone(), depths, RowsAre::Pairs, &mut panels[..len]);
        (columns, &panels[..len])
    }

    fn multiply(self, Tiles { out, accumulate, depth, rows, columns, packed_a, packed_b }: Tiles<'_, Tile>) {
        let panel_of_a = tiles_of_panel::<PARTS>(depth);
        let panel_of_b = packed_b.len() / columns.len().div_ceil(COLUMNS);
        for (a, rows) in packed_a.chunks(GROUP * panel_of_a).zip(blocks(rows, GROUP * ROWS)) {
            for (b, columns) in packed_b.chunks_exact(panel_of_b).zip(blocks(columns.clone(), COLUMNS)) {
                self.group(a, b, out, accumulate, rows.clone(), columns);
            }
        }
    }
}

impl<const PARTS: usize> Amx<PARTS> {
    /// The product of a group of panels of `A` and one panel of `B`.
    fn group(
        self,
        packed_a: &[Tile],
        b: &[Tile],
        out: &SharedMat<'_>,
        accumulate: bool,
        rows: Range<usize>,
        columns: Range<usize>,
    ) {
        let panel_len = packed_a.len() / rows.len().div_ceil(ROWS);
        let mut whole = 0;
        if columns.len() == COLUMNS {
            whole = rows.len() / ROWS;
            let rows = rows.start..rows.start + whole * ROWS;
            let (first, stride) = out.elements(rows, columns.clone());
            // SAFETY: `elements` checked the rows and columns, and `DepthBlock::rows` pairs each band of rows with each
            // block of columns once, so that no other reference to them exists.
            unsafe { self.panels(&packed_a[..whole * panel_len], b, whole, first, stride, accumulate) };
        }
        let rest = rows.start + whole * ROWS..rows.end;
        for (a, rows) in packed_a[whole * panel_len..].chunks_exact(panel_len).zip(blocks(rest, ROWS)) {
            let mut sums = [[0.0; COLUMNS]; ROWS];
            if accumulate {
                for (row, sums) in rows.clone().zip(&mut sums) {
                    // SAFETY: as above.
                    sums[..columns.len()].copy_from_slice(unsafe { out.row(row, columns.clone()) });
                }
            }
            // SAFETY: the sums are as large as one tile.
            unsafe { self.panels(a, b, 1, sums.as_mut_ptr().cast(), COLUMNS, accumulate) };
            store(out, rows, columns.clone(), &sums, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::tests::numbers;
    use super::super::{sums, tiled};
    use super::*;
    use crate::kernel::cpu::Threads;
    use crate::kernel::cpu::mat::MatMut;

    /// `Σ_k convert(a[i, k])·convert(b[k, j])` in float64, and the sum of the terms' sizes.
    fn expected(a: Mat<'_>, b: Mat<'_>, i: usize, j: usize, convert: fn(f32) -> f32) -> (f64, f64) {
        let converted = |mat: Mat<'_>, row: usize, column: usize| {
            f64::from(convert(mat.data[row * mat.row_stride + column * mat.col_stride]))
        };
        let terms = (0..a.cols).map(|k| converted(a, i, k) * converted(b, k, j));
        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
    }

    fn product<const PARTS: usize>(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
        let mut out = vec![0.0; a.rows * b.cols];
        let products = vec![(MatMut::new(&mut out, a.rows, b.cols), b)];
        tiled(Amx::<PARTS>::detect().expect("AMX"), sums(products), false, a, Threads::One);
        out
    }

    fn a_row_alone_and_in_a_batch<const PARTS: usize>() {
        if Amx::<PARTS>::detect().is_none() {
            return;
        }
        let (m, k, n) = (200, 1600, 50);
        let (a, b) = (numbers(m * k), numbers(n * k));
        let product = |rows: Range<usize>| {
            product::<PARTS>(Mat::new(&a[rows.start * k..rows.end * k], rows.len(), k), Mat::new(&b, n, k).t())
        };
        let together = product(0..m);
        for rows in [0..64, 5..70, 69..70, 100..200] {
            assert_eq!(product(rows.clone()), together[rows.start * n..rows.end * n], "{PARTS} parts");
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_whole_and_cut_tiles() {
        a_row_alone_and_in_a_batch::<1>();
        a_row_alone_and_in_a_batch::<3>();
    }

    /// Products of every layout against those of `convert`ed operands.
    fn products_are_those_of<const PARTS: usize>(convert: fn(f32) -> f32) {
        let Some(amx) = Amx::<PARTS>::detect() else { return };
        for (m, k, n) in [(1, 1, 1), (33, 5, 2), (64, 32, 64), (70, 1600, 130), (200, 7, 250), (31, 64, 32)] {
            // Not representable in bfloat16.
            let [a, b] = [numbers(m * (k + 3)), numbers(n * (k + 3))]
                .map(|numbers| numbers.iter().map(|number| number / 3.0).collect::<Vec<_>>());
            let along = [Mat::strided(&a, m, k, k + 3), Mat::strided(&b, n, k, k + 3).t()];
            let across = [Mat::strided(&a[..m * k], k, m, m).t(), Mat::strided(&b[..n * k], k, n, n)];
            for [a, b] in [along, across] {
                for (accumulate, threads) in [(false, Threads::One), (true, Threads::Pool)] {
                    let mut out = vec![3.0; m * (n + 2)];
                    let products = vec![(MatMut::strided(&mut out, m, n, n + 2), b)];
                    tiled(amx, sums(products), accumulate, a, threads);
                    for i in 0..m {
                        for j in 0..n {
                            let (sum, size) = expected(a, b, i, j, convert);
                            let sum = if accumulate { sum + 3.0 } else { sum };
                            let bound = f64::from(f32::EPSILON) * (k as f64).sqrt() * (size + 3.0);
                            let found = f64::from(out[i * (n + 2) + j]);
                            assert!((found - sum).abs() <= bound, "{m}×{k}×{n} at {i},{j}: {found} {sum}");
                        }
                    }
                    assert!(m == 1 || out[n] == 3.0, "elements between rows are not touched");
                }
            }
        }
    }

    #[test]
    fn products_of_one_part_are_those_of_rounded_operands() {
        products_are_those_of::<1>(|number| bf16::from_f32(number).to_f32());
    }

    #[test]
    fn products_of_three_parts_are_those_of_float32() {
        products_are_those_of::<3>(|number| number);
    }

    #[test]
    fn columns_of_bfloat16_have_the_bits_of_three_parts() {
        let Some(amx) = Split::detect() else { return };
        let (m, k, n) = (70, 1600, 40);
        let a: Vec<_> = numbers(m * k).iter().map(|number| number / 3.0).collect();
        let mut b: Vec<_> = numbers((n + 1) * k).iter().map(|number| bf16::from_f32(number / 3.0).to_f32()).collect();
        let one_part = product::<3>(Mat::new(&a, m, k), Mat::new(&b[..n * k], n, k).t());
        // The last column makes its block one of three parts.
        b[n * k..].fill(1.0 / 3.0);
        let three_parts = product::<3>(Mat::new(&a, m, k), Mat::new(&b, n + 1, k).t());
        let without_last: Vec<_> = three_parts.chunks_exact(n + 1).flat_map(|row| row[..n].to_vec()).collect();
        assert_eq!(one_part, without_last);
        let panels = &mut vec![[[0; 16]; 16]; Split::block_len(k)];
        let mut parts = |b: Mat<'_>| {
            let (columns, packed) = amx.pack_columns(b.t(), 0..b.rows, 0..k, panels);
            packed.len() / columns.len().div_ceil(COLUMNS) / tiles_of_panel::<1>(k)
        };
        assert_eq!([parts(Mat::new(&b[..n * k], n, k)), parts(Mat::new(&b, n + 1, k))], [1, 3]);
    }

    #[test]
    fn single_products_of_three_parts_are_within_an_epsilon() {
        if Split::detect().is_none() {
            return;
        }
        let significands = [1.0, 1.0 + f32::EPSILON, 1.999_999_9, 1.337_890_6, 1.003_906_3, 1.007_813_4, 1.732_050_8];
        // Products from 2⁻¹⁰⁰ to 2¹²².
        let numbers: Vec<f32> =
            significands.iter().flat_map(|s| [*s, -s * 2f32.powi(-50), s * 2f32.powi(60)]).collect();
        let found = product::<3>(Mat::new(&numbers, numbers.len(), 1), Mat::new(&numbers, 1, numbers.len()));
        for (index, found) in found.into_iter().enumerate() {
            let exact = f64::from(numbers[index / numbers.len()]) * f64::from(numbers[index % numbers.len()]);
            let error = (f64::from(found) - exact).abs() / exact.abs();
            assert!(error <= f64::from(f32::EPSILON), "{found} {exact}: {error:e}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_not_lost() {
        if Split::detect().is_none() {
            return;
        }
        for number in
            [f32::NAN, f32::from_bits(0x7fff_ffff), f32::from_bits(0xffff_8000), f32::INFINITY, -f32::INFINITY]
        {
            let mut a = numbers(40 * 40);
            a[17 * 40 + 3] = number;
            for found in [
                product::<3>(Mat::new(&a, 40, 40), Mat::new(&numbers(40 * 40), 40, 40)),
                product::<1>(Mat::new(&a, 40, 40), Mat::new(&numbers(40 * 40), 40, 40)),
            ] {
                for (index, found) in found.into_iter().enumerate() {
                    assert_eq!(found.is_finite(), index / 40 != 17, "{number} at {index}");
                }
            }
        }
    }
}
