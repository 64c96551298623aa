//! The product of packed panels, in assembly: the instructions of AMX have no stable intrinsics.
#![expect(unsafe_code, reason = "assembly")]

use std::arch::asm;

use super::Amx;
use super::pair_panels::Tile;

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

/// Loads two tiles of `A` from an offset in bytes.
macro_rules! load_a {
    ($offset:literal) => {
        concat!("tileloadd tmm4, [{a} + {row} + ", $offset, "]\ntileloadd tmm5, [{a} + {row} + 1024 + ", $offset, "]\n")
    };
}

/// Loads two tiles of `B` from an offset in bytes.
macro_rules! load_b {
    ($offset:literal) => {
        concat!(
            "tileloadd tmm6, [{b_next} + {row} + ",
            $offset,
            "]\ntileloadd tmm7, [{b_next} + {row} + 1024 + ",
            $offset,
            "]\n"
        )
    };
}

/// Prefetches a tile of an operand that has three parts, from an offset in bytes in the next turn. Turns that read 12 KiB,
/// more than the hardware fetches ahead, are 10 % faster.
macro_rules! prefetch {
    ($operand:literal, $offset:literal) => {
        concat!(
            ".irp at, 0, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960\n",
            "prefetcht0 [{",
            $operand,
            "} + 6144 + \\at + ",
            $offset,
            "]\n.endr\n"
        )
    };
}

/// Adds the four products of the loaded tiles.
macro_rules! products {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// The loops of [`Amx::panels`], with the instructions of a turn of the inner one, which reads `a_bytes` and `b_bytes`.
macro_rules! multiply_panels {
    (
        $a:ident, $b:ident, $count:ident, $turns:ident, $out:ident, $stride:ident, $accumulate:ident,
        $a_bytes:literal, $b_bytes:literal, { $($turn:expr),+ }
    ) => {
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
            $($turn,)+
            concat!("add {a}, ", $a_bytes),
            concat!("add {b_next}, ", $b_bytes),
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
            a = inout(reg) $a.as_ptr() => _,
            b = in(reg) $b.as_ptr(),
            row = in(reg) 64usize,
            turns = out(reg) _,
            turns_per_panel = in(reg) $turns,
            count = inout(reg) $count => _,
            out = inout(reg) $out => _,
            lower = out(reg) _,
            stride = in(reg) $stride * size_of::<f32>(),
            accumulate = in(reg) u32::from($accumulate),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

impl<const PARTS: usize> Amx<PARTS> {
    /// `C = A·B (+ C)` for `count` panels of `A` below each other and one panel of `B`, which may have one part only. `C` starts
    /// at `out`, with rows `stride` elements apart.
    ///
    /// # Safety
    /// `C`, `[count · ROWS, COLUMNS]`, can be written, and is not read or written meanwhile.
    pub(super) unsafe fn panels(
        self,
        a: &[Tile],
        b: &[Tile],
        count: usize,
        out: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        const { assert!(PARTS == 1 || PARTS == 3, "the products of other numbers of parts are not written") };
        if count == 0 || a.is_empty() {
            return;
        }
        // Each turn multiplies two tiles of every part.
        let turns = a.len() / (2 * PARTS * count);
        let parts_of_b = b.len() / (2 * turns);
        assert_eq!((a.len(), b.len()), (2 * PARTS * count * turns, 2 * parts_of_b * turns), "sizes of panels");
        // SAFETY: `self` proves the instructions. The loops read each tile of `a` once, and all of `b` for each panel, as
        // asserted. `out` is the caller's guarantee. The tile registers are released.
        unsafe {
            match (PARTS, parts_of_b) {
                (1, 1) => multiply_panels!(a, b, count, turns, out, stride, accumulate, "2048", "2048", {
                    load_a!("0"), load_b!("0"), products!()
                }),
                // The product of the first parts, the largest, is last. Prefetching all of `A` or any of `B` is no faster.
                (3, 1) => multiply_panels!(a, b, count, turns, out, stride, accumulate, "6144", "2048", {
                    load_b!("0"),
                    load_a!("4096"), products!(), prefetch!("a", "0"),
                    load_a!("2048"), products!(), prefetch!("a", "2048"),
                    load_a!("0"), products!(), prefetch!("a", "4096")
                }),
                // Each pair of parts differs from the one before in one operand, which alone is loaded.
                (3, 3) => multiply_panels!(a, b, count, turns, out, stride, accumulate, "6144", "6144", {
                    load_a!("4096"), load_b!("0"), products!(), prefetch!("a", "0"), prefetch!("b_next", "0"),
                    load_a!("2048"), products!(), prefetch!("a", "1024"), prefetch!("b_next", "1024"),
                    load_b!("2048"), products!(), prefetch!("a", "2048"), prefetch!("b_next", "2048"),
                    load_a!("0"), products!(), prefetch!("a", "3072"), prefetch!("b_next", "3072"),
                    load_b!("4096"), products!(), prefetch!("a", "4096"), prefetch!("b_next", "4096"),
                    load_b!("0"), products!(), prefetch!("a", "5120"), prefetch!("b_next", "5120")
                }),
                parts => unreachable!("products of {parts:?} parts"),
            }
        }
    }
}
