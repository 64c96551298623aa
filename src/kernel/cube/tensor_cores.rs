//! What kernels on tensor cores share: fragments of `SIDE × SIDE`, whose factors are bfloat16 and whose sums are float32.

use burn::backend::DType;
use burn::backend::cubecl::dtype_to_elem_type;
use burn_cubecl::cubecl::ir::features::{MmaConfig, Plane};
use burn_cubecl::cubecl::{self, client::Client, cmma, prelude::*};
use half::bf16;

/// Rows, columns and depth of a fragment.
pub const SIDE: usize = 16;
/// Units of a plane.
pub const PLANE: usize = 32;
/// Bytes to which fragments in shared memory have to be aligned.
pub const ALIGNMENT: usize = 32;
/// Bytes between the lines of a tile in shared memory, so that lines begin in different banks.
pub const PADDING_BYTES: usize = 16;

/// Whether a device has tensor cores for such fragments, planes of [`PLANE`] units that can wait for each other, and room for cubes of
/// `num_planes` planes with that much shared memory.
pub fn are_present(client: &Client, num_planes: usize, shared_bytes: usize) -> bool {
    let properties = client.properties();
    let hardware = &properties.hardware;
    let (side, plane) = (SIDE as u32, PLANE as u32);
    let [of_factors, of_sums] = [DType::BF16, DType::F32].map(dtype_to_elem_type);
    let fragments = MmaConfig { a_type: of_factors, b_type: of_factors, cd_type: of_sums, m: side, n: side, k: side };
    (hardware.plane_size_min, hardware.plane_size_max) == (plane, plane)
        && hardware.max_units_per_cube as usize >= num_planes * PLANE
        && hardware.max_shared_memory_size >= shared_bytes
        && properties.features.plane.is_superset(Plane::Ops | Plane::Sync)
        && properties.features.matmul.cmma.contains(&fragments)
}

/// Sums of zero, for that many fragments.
#[cube]
pub fn zeros(#[comptime] count: usize) -> Sequence<cmma::Matrix<f32>> {
    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..count {
        sums.push(cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            SIDE,
            SIDE,
            SIDE,
            cmma::MatrixLayout::Undefined,
            0.0,
        ));
    }
    sums
}

/// The factor that begins at element `start` of a tile of `len`, whose lines are `stride` apart.
#[cube]
pub fn factor(
    tile: &Shared<[bf16]>,
    start: usize,
    #[comptime] len: usize,
    #[comptime] stride: usize,
    #[comptime] ident: cmma::MatrixIdent,
    #[comptime] layout: cmma::MatrixLayout,
) -> cmma::Matrix<bf16> {
    let stride = comptime!(stride as u32);
    cmma::Matrix::<bf16>::from_slice(ident, SIDE, SIDE, SIDE, layout, &tile[start..len], stride)
}
