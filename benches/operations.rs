//! Single operations against their references: cross entropy, attention, products, experts.

use std::time::Duration;

use burn::module::Param;
use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData, Tolerance};
use criterion::{Criterion, criterion_group};
use deepwide::kernel::attention::{CausalMask, attention, attention_reference};
use deepwide::kernel::blocks::BlockFormat;
use deepwide::kernel::expert_mlp::{Experts, StackedExperts, expert_mlp, expert_mlp_reference};
use deepwide::kernel::linear::{Weight, linear_all, linear_all_reference};
use deepwide::kernel::linear_cross_entropy::{linear_cross_entropy, linear_cross_entropy_reference};
use deepwide::kernel::quantized_weight::QuantizedWeight;

criterion_group!(benches, cross_entropy, self_attention, products, experts, blocks);

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn ids<const D: usize>(shape: [usize; D], below: usize, device: &Device) -> Tensor<D, Int> {
    let ids: Vec<i32> = (0..shape.iter().product()).map(|i: usize| (i * 7919 % below) as i32).collect();
    Tensor::from_data(TensorData::new(ids, shape), device)
}

/// Times a kernel and its reference, after checking that both agree within `tolerance`.
fn compare<const D: usize>(
    criterion: &mut Criterion,
    name: &str,
    tolerance: f64,
    kernel: impl Fn() -> Vec<Tensor<D>>,
    reference: impl Fn() -> Vec<Tensor<D>>,
) {
    for (found, expected) in kernel().into_iter().zip(reference()) {
        found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::rel_abs(tolerance, tolerance));
    }
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    group.bench_function("kernel", |b| b.iter(&kernel));
    group.bench_function("reference", |b| b.iter(&reference));
    group.finish();
}

/// Loss and gradients of 256 tokens, as in a training step.
fn cross_entropy(criterion: &mut Criterion) {
    let device = Device::flex().autodiff();
    for vocab_size in [49_152, 128_256] {
        let hidden = random([256, 576], &device).require_grad();
        let weight = (random([vocab_size, 576], &device) * 0.02).require_grad();
        let targets = ids([256], vocab_size, &device);
        let run = |f: fn(Tensor<2>, &Weight, Tensor<1, Int>) -> Tensor<1>| {
            let losses = f(hidden.clone(), &weight.clone().into(), targets.clone());
            let grads = losses.mean().backward();
            [&hidden, &weight].map(|leaf| leaf.grad(&grads).expect("a leaf")).to_vec()
        };
        let name = format!("cross entropy and gradients, 256 tokens of 576, {vocab_size} words");
        compare(criterion, &name, 1e-3, || run(linear_cross_entropy), || run(linear_cross_entropy_reference));
    }
}

fn self_attention(criterion: &mut Criterion) {
    let device = Device::flex();
    for (batch_size, num_queries, past) in [(1, 512, 0), (1, 2048, 0), (1, 1, 127), (1, 1, 2047), (32, 1, 95)] {
        let q = random([batch_size, num_queries, 9, 64], &device);
        let [k, v] = [(); 2].map(|()| random([batch_size, past + num_queries, 3, 64], &device));
        let mask = CausalMask::band(past, None);
        type Attention = fn(Tensor<4>, Tensor<4>, Tensor<4>, &CausalMask) -> Tensor<4>;
        let run = |f: Attention| vec![f(q.clone(), k.clone(), v.clone(), &mask)];
        let name = format!("attention, {batch_size} × {num_queries} queries after {past}, 9 heads on 3 of 64");
        compare(criterion, &name, 1e-4, || run(attention), || run(attention_reference));
    }
}

/// A kernel of `linear_all`, or its reference.
type LinearAll = fn(Tensor<2>, [&Weight; 1]) -> [Tensor<2>; 1];

/// Covers streamed, unpacked and packed weights.
fn products(criterion: &mut Criterion) {
    let device = Device::flex();
    for dtype in [DType::F32, DType::BF16] {
        let weight = Weight::from((random([1536, 576], &device) * 0.02).cast(dtype));
        for num_tokens in [1, 8, 32, 128, 512] {
            let x = random([num_tokens, 576], &device);
            let run = |f: LinearAll| f(x.clone(), [&weight]).to_vec();
            let name = format!("{dtype:?} [1536, 576], {num_tokens} tokens");
            compare(criterion, &name, 1e-3, || run(linear_all), || run(linear_all_reference));
        }
    }
}

fn experts(criterion: &mut Criterion) {
    let device = Device::flex();
    let stack = |rows, cols| Param::from_tensor(random([8, rows, cols], &device) * 0.02);
    let experts =
        StackedExperts { gate_proj: stack(1536, 576), up_proj: stack(1536, 576), down_proj: stack(576, 1536) };
    let experts = Experts::Stacked(experts);
    for num_tokens in [1, 512] {
        let (x, weights) = (random([num_tokens, 576], &device), random([num_tokens, 2], &device));
        let chosen = ids([num_tokens, 2], 8, &device);
        type ExpertMlp = fn(Tensor<2>, Tensor<2>, Tensor<2, Int>, &Experts) -> Tensor<2>;
        let run = |f: ExpertMlp| vec![f(x.clone(), weights.clone(), chosen.clone(), &experts)];
        let name = format!("experts, {num_tokens} tokens to 2 of 8, 576 to 1536");
        compare(criterion, &name, 1e-3, || run(expert_mlp), || run(expert_mlp_reference));
    }
}

/// The tolerance is wide because only the kernel rounds activations to 8 bits.
fn blocks(criterion: &mut Criterion) {
    let device = Device::flex();
    let (rows, cols) = (1536, 576);
    let values = (random([rows, cols], &device) * 0.02).into_data().try_into_vec::<f32>().expect("floats");
    for format in [BlockFormat::Q8_0, BlockFormat::Q4_0] {
        let weight = Weight::from(QuantizedWeight::quantize(format, [rows, cols], &values, &device));
        for num_tokens in [1, 512] {
            let x = random([num_tokens, cols], &device);
            let name = format!("{format:?} [{rows}, {cols}], {num_tokens} tokens");
            let run = |f: LinearAll| f(x.clone(), [&weight]).to_vec();
            compare(criterion, &name, 0.05, || run(linear_all), || run(linear_all_reference));
        }
    }
}
