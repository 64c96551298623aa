//! Single operations beside their references, which are made of Burn's own: cross entropy over a vocabulary, attention,
//! experts, products with blocks.

use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group};
use deepwide::kernel::attention::{Visibility, attention, attention_reference};
use deepwide::kernel::expert_mlp::{ExpertWeights, expert_mlp, expert_mlp_reference};
use deepwide::kernel::linear_cross_entropy::{linear_cross_entropy, linear_cross_entropy_reference};
use deepwide::kernel::projections::Weight;
use deepwide::kernel::quantized_linear::{BlockFormat, QuantizedMatrix, quantized_linear, quantized_linear_reference};

criterion_group!(benches, cross_entropy, self_attention, experts, blocks);

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn ids<const D: usize>(shape: [usize; D], below: usize, device: &Device) -> Tensor<D, Int> {
    let ids: Vec<i32> = (0..shape.iter().product()).map(|i: usize| (i * 7919 % below) as i32).collect();
    Tensor::from_data(TensorData::new(ids, shape), device)
}

/// A group of few and long samples.
fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    group
}

/// Loss and gradients of 256 tokens, as a training step wants them.
fn cross_entropy(criterion: &mut Criterion) {
    let device = Device::flex().autodiff();
    for vocab_size in [49_152, 128_256] {
        let mut group =
            group(criterion, &format!("cross entropy and gradients, 256 tokens of 576, {vocab_size} words"));
        let hidden = random([256, 576], &device).require_grad();
        let weight = (random([vocab_size, 576], &device) * 0.02).require_grad();
        let targets = ids([256], vocab_size, &device);
        let run = |f: fn(Tensor<2>, Weight, Tensor<1, Int>) -> Tensor<1>| {
            let grads = f(hidden.clone(), Weight::Float(weight.clone()), targets.clone()).backward();
            (hidden.grad(&grads), weight.grad(&grads))
        };
        group.bench_function("kernel", |b| b.iter(|| run(linear_cross_entropy)));
        group.bench_function("reference", |b| b.iter(|| run(linear_cross_entropy_reference)));
        group.finish();
    }
}

fn self_attention(criterion: &mut Criterion) {
    let device = Device::flex();
    for (num_queries, past) in [(512, 0), (1, 2047)] {
        let mut group =
            group(criterion, &format!("attention, {num_queries} queries behind {past}, 9 heads on 3 of 64"));
        let q = random([1, num_queries, 9, 64], &device);
        let (k, v) = (random([1, past + num_queries, 3, 64], &device), random([1, past + num_queries, 3, 64], &device));
        let visibility = Visibility { past, window: None };
        type Attention = fn(Tensor<4>, Tensor<4>, Tensor<4>, Visibility) -> Tensor<4>;
        let run = |f: Attention| f(q.clone(), k.clone(), v.clone(), visibility);
        group.bench_function("kernel", |b| b.iter(|| run(attention)));
        group.bench_function("reference", |b| b.iter(|| run(attention_reference)));
        group.finish();
    }
}

fn experts(criterion: &mut Criterion) {
    let device = Device::flex();
    let stack = |rows, cols| random([8, rows, cols], &device) * 0.02;
    let mlp = ExpertWeights { gate: stack(1536, 576), up: stack(1536, 576), down: stack(576, 1536) };
    for num_tokens in [1, 512] {
        let mut group = group(criterion, &format!("experts, {num_tokens} tokens to 2 of 8, 576 to 1536"));
        let (x, weights) = (random([num_tokens, 576], &device), random([num_tokens, 2], &device));
        let chosen = ids([num_tokens, 2], 8, &device);
        type Experts = fn(Tensor<2>, Tensor<2>, Tensor<2, Int>, ExpertWeights) -> Tensor<2>;
        let run = |f: Experts| f(x.clone(), weights.clone(), chosen.clone(), mlp.clone());
        group.bench_function("kernel", |b| b.iter(|| run(expert_mlp)));
        group.bench_function("reference", |b| b.iter(|| run(expert_mlp_reference)));
        group.finish();
    }
}

fn blocks(criterion: &mut Criterion) {
    let device = Device::flex();
    let (rows, cols) = (1536, 576);
    let values = random([rows, cols], &device).into_data().try_into_vec::<f32>().expect("floats");
    for format in [BlockFormat::Q8_0, BlockFormat::Q4_0] {
        let weight = Arc::new(QuantizedMatrix::quantize(format, [rows, cols], &values));
        for num_tokens in [1, 512] {
            let mut group = group(criterion, &format!("{format:?} [{rows}, {cols}], {num_tokens} tokens"));
            let x = random([num_tokens, cols], &device);
            group.bench_function("kernel", |b| b.iter(|| quantized_linear(x.clone(), &weight)));
            group.bench_function("reference", |b| b.iter(|| quantized_linear_reference(x.clone(), &weight)));
            group.finish();
        }
    }
}
