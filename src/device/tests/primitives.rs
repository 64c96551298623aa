//! Burn's operations that references and models are composed of, at odd sizes.

use burn::tensor::activation::{log_softmax, sigmoid, silu, softmax};
use burn::tensor::{Bool, DType, Device, IndexingUpdateOp, Int, Tensor};

use crate::device::check::{Operation, flat, numbers, tokens};

fn ints<const D: usize>(x: Tensor<D, Int>) -> Vec<f32> {
    x.into_data().iter::<i64>().map(|x| x as f32).collect()
}

fn bools<const D: usize>(x: Tensor<D, Bool>) -> Vec<f32> {
    x.into_data().iter::<bool>().map(|x| f32::from(u8::from(x))).collect()
}

fn indices(len: usize, below: usize, device: &Device) -> Tensor<1, Int> {
    tokens([1, len], below, device).reshape([len])
}

fn product(rows: usize, inner: usize, columns: usize, device: &Device) -> Vec<f32> {
    flat(numbers::<2>(0, [rows, inner], device).matmul(numbers::<2>(1, [inner, columns], device)))
}

fn product_nt(rows: usize, inner: usize, columns: usize, device: &Device) -> Vec<f32> {
    flat(numbers::<2>(0, [rows, inner], device).matmul(numbers::<2>(1, [columns, inner], device).transpose()))
}

const OPERATIONS: [Operation; 62] = [
    ("matmul 1x1x1", |device| product(1, 1, 1, device)),
    ("matmul 1x24x37", |device| product(1, 24, 37, device)),
    ("matmul 7x5x3", |device| product(7, 5, 3, device)),
    ("matmul 33x64x65", |device| product(33, 64, 65, device)),
    ("matmul 128x129x130", |device| product(128, 129, 130, device)),
    ("matmul 64x64x64", |device| product(64, 64, 64, device)),
    ("matmul transposed 1x24x37", |device| product_nt(1, 24, 37, device)),
    ("matmul transposed 7x5x3", |device| product_nt(7, 5, 3, device)),
    ("matmul transposed 33x64x65", |device| product_nt(33, 64, 65, device)),
    ("matmul transposed 64x64x512", |device| product_nt(64, 64, 512, device)),
    ("matmul transposed 128x129x130", |device| product_nt(128, 129, 130, device)),
    ("matmul of a transposed left", |device| {
        flat(numbers::<2>(0, [33, 19], device).transpose().matmul(numbers::<2>(1, [33, 21], device)))
    }),
    ("matmul in batches", |device| {
        flat(numbers::<4>(0, [2, 3, 7, 9], device).matmul(numbers::<4>(1, [2, 3, 9, 11], device)))
    }),
    ("matmul in batches, swapped and transposed", |device| {
        let [q, k] = [0, 1].map(|salt| numbers::<4>(salt, [2, 7, 3, 9], device).swap_dims(1, 2));
        flat(q.matmul(k.transpose()))
    }),
    ("matmul in batches, expanded", |device| {
        let q = numbers::<4>(0, [2, 6, 5, 8], device);
        let k = numbers::<4>(1, [2, 5, 3, 8], device).swap_dims(1, 2).unsqueeze_dim::<5>(2);
        flat(q.matmul(k.expand([2, 3, 2, 5, 8]).reshape([2, 6, 5, 8]).transpose()))
    }),
    ("add, broadcast", |device| flat(numbers::<3>(0, [3, 5, 7], device) + numbers::<3>(1, [1, 5, 1], device))),
    ("mul, broadcast", |device| flat(numbers::<3>(0, [3, 1, 7], device) * numbers::<3>(1, [3, 5, 7], device))),
    ("sub and div of scalars", |device| flat((numbers::<2>(0, [9, 7], device) - 0.5) / 3.0)),
    ("exp", |device| flat((numbers::<1>(0, [101], device) * 9.0).exp())),
    ("log", |device| flat((numbers::<1>(0, [101], device).abs() + 0.1).log())),
    ("sqrt and recip", |device| flat((numbers::<1>(0, [101], device).abs() + 0.1).sqrt().recip())),
    ("square and powi", |device| flat(numbers::<1>(0, [101], device).square().powi_scalar(2))),
    ("cos and sin", |device| flat((numbers::<1>(0, [101], device) * 9.0).cos().sin())),
    ("neg, abs and sign", |device| flat((-numbers::<1>(0, [101], device)).abs().neg().sign())),
    ("sigmoid", |device| flat(sigmoid(numbers::<1>(0, [101], device) * 9.0))),
    ("silu", |device| flat(silu(numbers::<2>(0, [9, 11], device) * 9.0))),
    ("softmax", |device| flat(softmax(numbers::<2>(0, [9, 37], device) * 9.0, 1))),
    ("softmax of a long row", |device| flat(softmax(numbers::<2>(0, [3, 1030], device) * 9.0, 1))),
    ("softmax with hidden keys", |device| {
        let x = numbers::<4>(0, [2, 3, 5, 9], device);
        let hidden = x.clone().lower_elem(0.0);
        flat(softmax(x.mask_fill(hidden, f32::NEG_INFINITY), 3))
    }),
    ("log_softmax", |device| flat(log_softmax(numbers::<2>(0, [9, 513], device) * 9.0, 1))),
    ("sum", |device| flat(numbers::<2>(0, [33, 41], device).sum())),
    ("mean", |device| flat(numbers::<2>(0, [33, 41], device).abs().mean())),
    ("sum_dim, last", |device| flat(numbers::<3>(0, [3, 5, 70], device).sum_dim(2))),
    ("sum_dim, first", |device| flat(numbers::<3>(0, [33, 5, 7], device).sum_dim(0))),
    ("sum_dim, middle", |device| flat(numbers::<3>(0, [3, 35, 7], device).sum_dim(1))),
    ("mean_dim, last", |device| flat(numbers::<3>(0, [2, 5, 64], device).square().mean_dim(2))),
    ("mean_dim, first", |device| flat(numbers::<2>(0, [64, 5], device).square().mean_dim(0))),
    ("max_dim", |device| flat(numbers::<2>(0, [9, 71], device).max_dim(1))),
    ("max", |device| flat(numbers::<2>(0, [9, 71], device).abs().max())),
    ("argmax", |device| ints(numbers::<2>(0, [9, 71], device).argmax(1))),
    ("topk", |device| {
        let (values, indices) = numbers::<2>(0, [9, 8], device).topk_with_indices(2, 1);
        [flat(values), ints(indices)].concat()
    }),
    ("sort", |device| {
        let (values, indices) = numbers::<2>(0, [5, 37], device).sort_descending_with_indices(1);
        [flat(values), ints(indices)].concat()
    }),
    ("select rows", |device| flat(numbers::<2>(0, [37, 24], device).select(0, indices(10, 37, device)))),
    ("select columns", |device| flat(numbers::<2>(0, [7, 24], device).select(1, indices(10, 24, device)))),
    ("select_assign", |device| {
        let values = numbers::<2>(1, [10, 24], device);
        let table = numbers::<2>(0, [37, 24], device);
        flat(table.select_assign(0, indices(10, 37, device), values, IndexingUpdateOp::Add))
    }),
    ("gather", |device| flat(numbers::<2>(0, [10, 37], device).gather(1, tokens([10, 1], 37, device)))),
    ("scatter", |device| {
        let values = numbers::<2>(1, [10, 4], device);
        let places = tokens([10, 4], 9, device);
        flat(numbers::<2>(0, [10, 9], device).scatter(1, places, values, IndexingUpdateOp::Add))
    }),
    ("slice_assign", |device| {
        let x = numbers::<4>(0, [2, 9, 3, 4], device);
        flat(x.slice_assign([0..2, 5..7, 0..3, 0..4], numbers::<4>(1, [2, 2, 3, 4], device)))
    }),
    ("slice and narrow", |device| flat(numbers::<3>(0, [5, 9, 7], device).slice([1..4, 2..9]).narrow(2, 3, 2))),
    ("cat, last", |device| {
        flat(Tensor::cat(vec![numbers::<3>(0, [2, 3, 5], device), numbers::<3>(1, [2, 3, 4], device)], 2))
    }),
    ("cat, first", |device| {
        flat(Tensor::cat(vec![numbers::<2>(0, [2, 5], device), numbers::<2>(1, [3, 5], device)], 0))
    }),
    ("swap_dims and reshape", |device| flat(numbers::<3>(0, [3, 5, 7], device).swap_dims(0, 1).reshape([5, 21]))),
    ("repeat_dim", |device| flat(numbers::<2>(0, [3, 5], device).repeat_dim(0, 4))),
    ("mask_fill", |device| {
        let x = numbers::<2>(0, [9, 7], device);
        flat(x.clone().mask_fill(x.lower_elem(0.2), -3.0))
    }),
    ("compare ints, broadcast", |device| {
        let keys = Tensor::<1, Int>::arange(0..9, device).reshape([1, 9]).expand([5, 9]);
        let first = Tensor::<1, Int>::arange(2..7, device).reshape([5, 1]).expand([5, 9]);
        bools(keys.clone().lower(first.clone()).bool_or(keys.greater_equal(first.clamp_min(4).add_scalar(2))))
    }),
    ("equal_elem", |device| bools(tokens([5, 7], 6, device).equal_elem(5))),
    ("not_equal_elem", |device| bools(tokens([5, 7], 6, device).not_equal_elem(5))),
    ("remainder and mul of ints", |device| {
        ints(Tensor::<1, Int>::arange(0..100, device).mul_scalar(7).remainder_scalar(37))
    }),
    ("ints as floats", |device| flat(Tensor::<1, Int>::arange(0..100, device).float())),
    ("booleans as floats", |device| flat(tokens([5, 7], 6, device).equal_elem(5).float())),
    ("sums of ints", |device| ints(tokens([5, 7], 6, device).sum_dim(1))),
    ("bfloat16 and back", |device| {
        // SwiftShader ends the process.
        let device = if device.supports_dtype(DType::BF16) { device.clone() } else { Device::flex() };
        flat(numbers::<2>(0, [7, 9], &device).cast(DType::BF16).cast(DType::F32))
    }),
];

#[test]
fn primitives_give_the_numbers_of_flex() {
    super::assert_equal_to_flex(&OPERATIONS);
}
