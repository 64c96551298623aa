//! Tiles of bfloat16 products, summed in float32, in the tile registers of AMX (Intel, *Architecture Instruction Set
//! Extensions*, chapter 3).
//!
//! Products are those of operands rounded to bfloat16. AMX sums them in float32, rounds to nearest even, and treats denormal
//! numbers as zero. The order of summation depends on the depth alone.
#![expect(
    unsafe_code,
    reason = "instructions that have no intrinsics; a value of the type proves that this CPU has them"
)]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::ops::Range;
use std::sync::OnceLock;

use super::pair_panels::{RowsAre, Tile, pack_pairs, tiles_of_panel};
use super::tiling::{COLUMNS, Tiles, Tiling, blocks, store};
use crate::kernel::cpu::mat::Mat;
use crate::kernel::cpu::weight_rows::Widen;

/// Rows of a tile of `C`: two tile registers.
const ROWS: usize = 32;

/// Proof that the CPU has AMX for bfloat16, and that the system lets this process use it.
#[derive(Clone, Copy)]
pub(super) struct Amx(());

impl Amx {
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

impl Tiling for Amx {
    type Packed = Tile;
    const ROWS: usize = ROWS;

    fn panel_len(_lines: usize, depth: usize) -> usize {
        tiles_of_panel(depth)
    }

    fn pack_rows(self, a: Mat<'_>, rows: Range<usize>, depths: Range<usize>, panels: &mut [Tile]) {
        pack_pairs(a, rows, depths, RowsAre::Lines, panels);
    }

    fn pack_columns<W: Widen>(self, b: Mat<'_, W>, columns: Range<usize>, depths: Range<usize>, panels: &mut [Tile]) {
        pack_pairs(b.t(), columns, depths, RowsAre::Pairs, panels);
    }

    fn multiply(self, Tiles { out, accumulate, depth, rows, columns, packed_a, packed_b }: Tiles<'_, Tile>) {
        let per_panel = tiles_of_panel(depth);
        for (b, columns) in packed_b.chunks_exact(per_panel).zip(blocks(columns, COLUMNS)) {
            let mut whole = 0;
            if columns.len() == COLUMNS {
                whole = rows.len() / ROWS;
                let rows = rows.start..rows.start + whole * ROWS;
                let (first, stride) = out.elements(rows, columns.clone());
                // SAFETY: `elements` checked the rows and columns, and `DepthBlock::rows` pairs each band of rows with each
                // block of columns once, so that no other reference to them exists.
                unsafe { self.panels(&packed_a[..whole * per_panel], b, whole, first, stride, accumulate) };
            }
            let rest = rows.start + whole * ROWS..rows.end;
            for (a, rows) in packed_a[whole * per_panel..].chunks_exact(per_panel).zip(blocks(rest, ROWS)) {
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
}

/// The operand of `LDTILECFG`: eight registers of sixteen rows of 64 bytes.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static TILE_CONFIG: TileConfig = {
    let mut config = TileConfig { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let mut register = 0;
    while register < 8 {
        config.row_bytes[register] = 64;
        config.rows[register] = 16;
        register += 1;
    }
    config
};

impl Amx {
    /// `C = A·B (+ C)` for `count` panels of `A` below each other and one panel of `B`. `C` starts at `out`, with rows `stride`
    /// elements apart.
    ///
    /// # Safety
    /// `C`, `[count · ROWS, COLUMNS]`, can be written, and is not read or written meanwhile.
    unsafe fn panels(self, a: &[Tile], b: &[Tile], count: usize, out: *mut f32, stride: usize, accumulate: bool) {
        assert_eq!(a.len(), count * b.len(), "sizes of panels");
        if count == 0 || b.is_empty() {
            return;
        }
        // SAFETY: `self` proves the instructions. The loops read each tile of `a` once, and all of `b` for each panel: two tiles
        // of each, 2 KiB, per turn of the inner loop. `out` is the caller's guarantee. The tile registers are released.
        unsafe {
            asm!(
                "ldtilecfg [{b_next}]",
                "2:",
                "lea {lower}, [{out} + 8*{stride}]",
                "lea {lower}, [{lower} + 8*{stride}]",
                "test {accumulate:e}, {accumulate:e}",
                "jnz 3f",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "jmp 4f",
                "3:",
                "tileloadd tmm0, [{out} + {stride}]",
                "tileloadd tmm1, [{out} + {stride} + 64]",
                "tileloadd tmm2, [{lower} + {stride}]",
                "tileloadd tmm3, [{lower} + {stride} + 64]",
                "4:",
                "mov {b_next}, {b}",
                "mov {turns}, {turns_per_panel}",
                "5:",
                "tileloadd tmm4, [{a} + {row}]",
                "tileloadd tmm6, [{b_next} + {row}]",
                "tileloadd tmm5, [{a} + {row} + 1024]",
                "tileloadd tmm7, [{b_next} + {row} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 2048",
                "add {b_next}, 2048",
                "dec {turns}",
                "jnz 5b",
                "tilestored [{out} + {stride}], tmm0",
                "tilestored [{out} + {stride} + 64], tmm1",
                "tilestored [{lower} + {stride}], tmm2",
                "tilestored [{lower} + {stride} + 64], tmm3",
                "lea {out}, [{lower} + 8*{stride}]",
                "lea {out}, [{out} + 8*{stride}]",
                "dec {count}",
                "jnz 2b",
                "tilerelease",
                // Holds the configuration until the first turn.
                b_next = inout(reg) &raw const TILE_CONFIG => _,
                a = inout(reg) a.as_ptr() => _,
                b = in(reg) b.as_ptr(),
                row = in(reg) 64usize,
                turns = out(reg) _,
                turns_per_panel = in(reg) b.len() / 2,
                count = inout(reg) count => _,
                out = inout(reg) out => _,
                lower = out(reg) _,
                stride = in(reg) stride * size_of::<f32>(),
                accumulate = in(reg) u32::from(accumulate),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::gemms_tiled;
    use super::super::tests::numbers;
    use super::*;
    use crate::kernel::cpu::Threads;
    use crate::kernel::cpu::mat::MatMut;

    /// `Σ_k round(a[i, k])·round(b[k, j])` in float64, and the sum of the terms' sizes.
    fn expected(a: Mat<'_>, b: Mat<'_>, i: usize, j: usize) -> (f64, f64) {
        let rounded = |mat: Mat<'_>, row: usize, column: usize| {
            f64::from(bf16::from_f32(mat.data[row * mat.row_stride + column * mat.col_stride]).to_f32())
        };
        let terms = (0..a.cols).map(|k| rounded(a, i, k) * rounded(b, k, j));
        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
    }

    #[test]
    fn a_row_has_the_same_bits_in_whole_and_cut_tiles() {
        let Some(amx) = Amx::detect() else { return };
        let (m, k, n) = (70, 1600, 50);
        let (a, b) = (numbers(m * k), numbers(n * k));
        let product = |rows: std::ops::Range<usize>| {
            let mut out = vec![0.0; rows.len() * n];
            let a = Mat::new(&a[rows.start * k..rows.end * k], rows.len(), k);
            let products = vec![(MatMut::new(&mut out, rows.len(), n), Mat::new(&b, n, k).t())];
            gemms_tiled(amx, products, false, a, Threads::One);
            out
        };
        let together = product(0..m);
        for rows in [0..64, 5..70, 69..70] {
            assert_eq!(product(rows.clone()), together[rows.start * n..rows.end * n]);
        }
    }

    #[test]
    fn products_are_those_of_rounded_operands() {
        let Some(amx) = Amx::detect() else { return };
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
                    gemms_tiled(amx, products, accumulate, a, threads);
                    for i in 0..m {
                        for j in 0..n {
                            let (sum, size) = expected(a, b, i, j);
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
}
