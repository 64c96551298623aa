//! Prefill and decoding of whole decoders on the CPU, dense and sparse at equal active FLOPs.

use std::time::Duration;

use burn::tensor::{Device, Int, Tensor, TensorData};
use criterion::{Criterion, Throughput, criterion_group};
use deepwide::config::{DecoderConfig, MoeConfig};
use deepwide::model::{CausalLm, DenseDecoder, KvCache, MoeDecoder};
use deepwide::weights::MemoryWeights;

criterion_group!(benches, prefill, decode);

const PROMPT: usize = 512;

fn tokens(batch_size: usize, len: usize, device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i32> = (0..batch_size * len).map(|i| (i * 7919 % 49_152) as i32).collect();
    Tensor::from_data(TensorData::new(ids, [batch_size, len]), device)
}

/// SmolLM2-135M, its 8×top-2 child, and the dense model whose MLP is twice as wide: equal active FLOPs, router apart.
fn models(device: &Device) -> (DenseDecoder, MoeDecoder, DenseDecoder) {
    let base = DecoderConfig::smollm2_135m();
    let moe = MoeConfig { num_local_experts: 8, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 };
    let wide = base.with_experts(moe).expect("eight experts, two chosen");
    let active = base.with(|f| f.intermediate_size *= 2).expect("a wider MLP");
    let weights = |config| MemoryWeights::untrained(config, 0.02, 1);
    (
        DenseDecoder::load(&weights(base), device).expect("in memory"),
        MoeDecoder::load(&weights(wide), device).expect("in memory"),
        DenseDecoder::load(&weights(active), device).expect("in memory"),
    )
}

fn last_logits<M: CausalLm>(model: &M, tokens: Tensor<2, Int>) -> Tensor<3> {
    let hidden = model.hidden_states(tokens, None).last;
    let [_, len, _] = hidden.dims();
    model.lm_head(hidden.narrow(1, len - 1, 1))
}

fn prefill(criterion: &mut Criterion) {
    let device = Device::flex();
    let (dense, moe, active) = models(&device);
    let mut group = criterion.benchmark_group("prefill 512, SmolLM2-135M f32");
    group.sample_size(10).measurement_time(Duration::from_secs(8)).throughput(Throughput::Elements(PROMPT as u64));
    group.bench_function("dense", |b| b.iter(|| last_logits(&dense, tokens(1, PROMPT, &device))));
    group.bench_function("moe 8x top-2", |b| b.iter(|| last_logits(&moe, tokens(1, PROMPT, &device))));
    group
        .bench_function("dense of equal active FLOPs", |b| b.iter(|| last_logits(&active, tokens(1, PROMPT, &device))));
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let device = Device::flex();
    let (dense, moe, active) = models(&device);
    let mut group = criterion.benchmark_group("decode 8 after 128, SmolLM2-135M f32");
    group.sample_size(10).measurement_time(Duration::from_secs(8)).throughput(Throughput::Elements(8));
    fn run<M: CausalLm>(model: &M, cache: &mut KvCache, device: &Device) {
        cache.truncate(128);
        for _ in 0..8 {
            let hidden = model.hidden_states(tokens(1, 1, device), Some(cache)).last;
            std::hint::black_box(model.lm_head(hidden));
        }
    }
    fn primed<M: CausalLm>(model: &M, device: &Device) -> KvCache {
        let mut cache = KvCache::new(model.config(), 1, 136, device);
        model.hidden_states(tokens(1, 128, device), Some(&mut cache));
        cache
    }
    let mut cache = primed(&dense, &device);
    group.bench_function("dense", |b| b.iter(|| run(&dense, &mut cache, &device)));
    let mut cache = primed(&moe, &device);
    group.bench_function("moe 8x top-2", |b| b.iter(|| run(&moe, &mut cache, &device)));
    let mut cache = primed(&active, &device);
    group.bench_function("dense of equal active FLOPs", |b| b.iter(|| run(&active, &mut cache, &device)));
    group.finish();
}
