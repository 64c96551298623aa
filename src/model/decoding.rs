//! Decoding: passes of one token per sequence.

use std::thread::{self, ThreadId};

use burn::tensor::{Device, Int, Tensor};

use super::{CausalLm, CausalLmOutput, HiddenStates, KvCache, Positions, Rotation, TokenBatch};
use crate::config::DecoderConfig;
use crate::kernel::attention::{Band, CausalMask, op_of_step};
use crate::kernel::graph::{self, Buffer, Graph};
use crate::trace::{self, Op};

/// Decodes with a model. On devices with [graphs](graph), a pass that comes for the second time, with the same buffers of the
/// cache, is captured, and replayed from then on: the host launches one graph in place of every kernel. Results have the same
/// bits.
///
/// Passes that [wait for the host](CausalLm::waits_for_host), and those of a [record](trace::record), are computed directly.
#[derive(Debug)]
pub struct Decoding<'a, M> {
    model: &'a M,
    device: Device,
    /// Where the latest pass that might be captured was computed.
    latest: Option<Place>,
    /// The pass at that place.
    captured: Option<CapturedPass>,
    /// Whether the device refused a capture.
    is_refused: bool,
}

/// What a captured pass is bound to. Rows and capacity are those of the buffers.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    thread: ThreadId,
    cache: Vec<Buffer>,
}

impl<'a, M: CausalLm> Decoding<'a, M> {
    /// Decoding with a model on its device.
    pub fn new(model: &'a M, device: &Device) -> Self {
        Self { model, device: device.clone(), latest: None, captured: None, is_refused: false }
    }

    /// Continues each sequence of the cache by a token, or not if it has none in this pass. Its logits are
    /// `[batch_size, 1, vocab_size]`. The next pass may overwrite the tensors of the result.
    ///
    /// # Panics
    /// As [`CausalLm::hidden_states`].
    pub fn pass(&mut self, ids: &[Option<u32>], cache: &mut KvCache) -> CausalLmOutput {
        if self.is_refused || trace::is_recording() || self.model.waits_for_host(ids.len()) {
            return self.direct(ids, cache);
        }
        let place = cache.buffers().map(|cache| Place { thread: thread::current().id(), cache });
        if place.is_none() || place != self.latest {
            // The graph of another place holds the memory there.
            self.captured = None;
            self.latest = place;
            return self.direct(ids, cache);
        }
        let past = cache.lens().to_vec();
        cache.append(ids.iter().map(|id| usize::from(id.is_some())));
        if let Some(captured) = &self.captured {
            captured.inputs.write(self.model.config(), ids, &past);
        } else {
            self.captured = CapturedPass::new(self.model, ids, &past, cache, &self.device);
        }
        let Some(captured) = &mut self.captured else {
            self.is_refused = true;
            past.iter().enumerate().for_each(|(sequence, len)| cache.truncate_sequence(sequence, *len));
            return self.direct(ids, cache);
        };
        captured.count(self.model.config(), ids, &past);
        captured.graph.replay().clone()
    }

    /// Whether the latest pass was a replay.
    #[cfg(all(test, feature = "cube"))]
    pub(crate) fn is_captured(&self) -> bool {
        self.captured.is_some()
    }

    /// Gives back the memory of a captured pass.
    pub fn release(&mut self) {
        (self.latest, self.captured) = (None, None);
    }

    fn direct(&self, ids: &[Option<u32>], cache: &mut KvCache) -> CausalLmOutput {
        let ids: Vec<&[u32]> = ids.iter().map(Option::as_slice).collect();
        let HiddenStates { last, routing } =
            self.model.hidden_states(TokenBatch::padded(&ids, &self.device), Some(cache));
        CausalLmOutput { logits: self.model.lm_head(last), routing }
    }
}

/// A pass that is replayed.
#[derive(Debug)]
struct CapturedPass {
    inputs: Inputs,
    graph: Graph<CausalLmOutput>,
    /// What it counts without attention.
    op: Op,
}

impl CapturedPass {
    /// Captures the pass of these tokens, which are part of the cache already, behind `past` positions each.
    fn new<M: CausalLm>(
        model: &M,
        ids: &[Option<u32>],
        past: &[usize],
        cache: &mut KvCache,
        device: &Device,
    ) -> Option<Self> {
        let config = model.config();
        let inputs = Inputs::new(config, ids.len(), device);
        inputs.write(config, ids, past);
        let mask = CausalMask::of_bounds(inputs.bounds.clone(), cache.capacity(), config.sliding_window);
        let positions = Positions { rotation: inputs.rotation.clone(), mask };
        let mut op = Op::default();
        let graph = Graph::capture(device, || {
            let pass = || {
                let HiddenStates { last, routing } = model.hidden_states_at(inputs.ids.clone(), &positions, cache);
                CausalLmOutput { logits: model.lm_head(last), routing }
            };
            let (output, counted) = trace::uncounted(pass);
            op = counted;
            output
        })?;
        Some(Self { inputs, graph, op })
    }

    /// Counts what a replay computes.
    fn count(&self, config: &DecoderConfig, ids: &[Option<u32>], past: &[usize]) {
        let num_keys = bounds(config, ids, past).iter().map(|[first, end]| (end - first) as usize).sum();
        let layer = op_of_step(config.num_attention_heads, config.num_key_value_heads, config.head_dim, num_keys);
        let Op { multiply_adds, bytes, parameters } = self.op;
        trace::count(Op {
            multiply_adds: multiply_adds + config.num_hidden_layers * layer.multiply_adds,
            bytes: bytes + config.num_hidden_layers * layer.bytes,
            parameters,
        });
    }
}

/// What the host gives to a captured pass.
#[derive(Debug)]
struct Inputs {
    ids: Tensor<2, Int>,
    rotation: Rotation,
    bounds: Tensor<3, Int>,
}

impl Inputs {
    fn new(config: &DecoderConfig, batch_size: usize, device: &Device) -> Self {
        let table = || graph::floats([batch_size, 1, config.head_dim / 2], device);
        Self {
            ids: graph::ints([batch_size, 1], device),
            rotation: Rotation { cos: table(), sin: table() },
            bounds: graph::ints([batch_size, 1, 2], device),
        }
    }

    /// Those of these tokens behind `past` positions each. A row without a token has any, at position 0, that sees nothing.
    fn write(&self, config: &DecoderConfig, ids: &[Option<u32>], past: &[usize]) {
        let numbers: Vec<i32> = ids.iter().map(|id| id.map_or(0, |id| id as i32)).collect();
        graph::write_ints(&self.ids, &numbers);
        let positions: Vec<usize> =
            ids.iter().zip(past).map(|(id, past)| if id.is_some() { *past } else { 0 }).collect();
        let [cos, sin] = Rotation::tables(config, &positions);
        graph::write_floats(&self.rotation.cos, &cos);
        graph::write_floats(&self.rotation.sin, &sin);
        graph::write_ints(&self.bounds, bounds(config, ids, past).as_flattened());
    }
}

/// The first key that each token sees, and one past the last, its own; twice 0 without a token.
fn bounds(config: &DecoderConfig, ids: &[Option<u32>], past: &[usize]) -> Vec<[i32; 2]> {
    let of_token = |(id, past): (&Option<u32>, &usize)| {
        let keys = Band { past: *past, window: config.sliding_window }.keys(0);
        if id.is_some() { [keys.start as i32, keys.end as i32] } else { [0, 0] }
    };
    ids.iter().zip(past).map(of_token).collect()
}

#[cfg(test)]
#[cfg(feature = "cube")]
mod tests {
    use super::*;
    use crate::config::{DecoderFields, ModelType, MoeConfig};
    use crate::device::cube_devices;
    use crate::kernel::blocks::BlockFormat;
    use crate::load::Precision;
    use crate::model::AnyDecoder;
    use crate::weights::MemoryWeights;

    /// A dense decoder, one with a window, a mixture, and a quantized one.
    fn decoders(device: &Device) -> Vec<AnyDecoder> {
        let small = |fields: &mut DecoderFields| (fields.num_hidden_layers, fields.intermediate_size) = (2, 320);
        let small = DecoderConfig::pico().with(small).expect("sound");
        let window = small.with(|f| (f.model_type, f.sliding_window) = (ModelType::Mistral, Some(70))).expect("sound");
        let moe = MoeConfig { num_local_experts: 5, num_experts_per_tok: 2, router_aux_loss_coef: 0.0 };
        let sparse = small.with_experts(moe).expect("sound");
        let quantized = Precision::Blocks(Some(BlockFormat::Q8_0));
        let load = |(config, precision)| {
            AnyDecoder::load_as(&MemoryWeights::untrained(config, 0.1, 1), precision, device).expect("in memory")
        };
        let [small, window] = [small, window].map(|config| (config, Precision::FLOAT32));
        [small, window, (sparse.clone(), Precision::FLOAT32), (sparse, quantized)].map(load).into()
    }

    /// Numbers of a pass: logits, and the routing of each layer.
    fn bits(output: &CausalLmOutput) -> Vec<u32> {
        let weights = output.routing.iter().map(|routing| routing.weights.clone().into_data());
        let all = std::iter::once(output.logits.clone().into_data()).chain(weights);
        all.flat_map(|data| data.iter::<f32>().map(f32::to_bits).collect::<Vec<_>>()).collect()
    }

    /// Takes memory of many sizes, fills it with numbers that would spoil all others, and frees a half of it.
    fn other_work(device: &Device) -> Vec<Tensor<1>> {
        let all = (0..40).map(|i| Tensor::full([32 << (i % 10)], 1e30, device));
        all.enumerate().filter(|(i, _)| i % 2 == 0).map(|(_, x)| x).collect()
    }

    #[test]
    fn replayed_passes_have_the_bits_of_direct_ones() {
        const NUM_STEPS: usize = 9;
        for (name, device) in cube_devices() {
            for (index, model) in decoders(&device).into_iter().enumerate() {
                let vocab_size = model.config().vocab_size;
                let prompt = |len: usize| (0..len).map(|i| (i * i % vocab_size) as u32).collect::<Vec<_>>();
                // One sequence crosses the boundary of the first chunk of keys while it grows, another has one key.
                let prompts = [prompt(124), prompt(1), prompt(60)];
                let mut expected_cache = KvCache::new(model.config(), 3, 140, &device);
                model.hidden_states(TokenBatch::padded(&prompts, &device), Some(&mut expected_cache));
                let mut cache = expected_cache.gather(&[0, 1, 2], 140);
                let mut decoding = Decoding::new(&model, &device);
                let mut held = Vec::new();
                let mut num_replays = 0;
                for step in 0..2 * NUM_STEPS {
                    if step == NUM_STEPS {
                        // Larger buffers, and other rows.
                        cache = cache.gather(&[2, 0, 1], 300);
                        expected_cache = expected_cache.gather(&[2, 0, 1], 300);
                    }
                    if step == 5 {
                        // Another sequence takes the place of one, in the same buffers.
                        let other = expected_cache.gather(&[2], 140);
                        cache.write_sequence(1, &other, 0);
                        expected_cache.write_sequence(1, &other, 0);
                    }
                    let id = |row: usize| ((step * 31 + row * 7) % vocab_size) as u32;
                    // A row without a token in some passes.
                    let ids = [Some(id(0)), (step % 4 != 3).then(|| id(1)), Some(id(2))];
                    let found = bits(&decoding.pass(&ids, &mut cache));
                    num_replays += usize::from(decoding.is_captured());
                    held.extend(other_work(&device));
                    let expected = bits(&decoding.direct(&ids, &mut expected_cache));
                    let case = format!("{name}, decoder {index}, step {step}");
                    assert!(found.iter().all(|bits| f32::from_bits(*bits).is_finite()), "{case}");
                    assert_eq!(found, expected, "{case}");
                    assert_eq!(cache.lens(), expected_cache.lens(), "{case}");
                }
                assert_eq!(num_replays, 2 * (NUM_STEPS - 1), "{name}: the first pass of each capacity is direct");
                assert!(held.iter().all(|x| x.to_data().iter::<f32>().all(|x| x == 1e30)), "{name}");
            }
        }
    }

    #[test]
    fn operations_of_replayed_passes_are_counted() {
        for (name, device) in cube_devices() {
            for model in decoders(&device) {
                let mut cache = KvCache::new(model.config(), 2, 90, &device);
                let mut decoding = Decoding::new(&model, &device);
                for step in 0..80 {
                    let ids = [Some(step), (step > 2).then_some(7)];
                    let (_, found) = trace::executed_flops(|| decoding.pass(&ids, &mut cache));
                    if [1, 2, 3, 79].contains(&step) {
                        let mut other = cache.gather(&[0, 1], 90);
                        ids.iter().enumerate().filter(|(_, id)| id.is_some()).for_each(|(row, _)| {
                            other.truncate_sequence(row, other.lens()[row] - 1);
                        });
                        let (_, expected) = trace::executed_flops(|| decoding.direct(&ids, &mut other));
                        assert_eq!((found, decoding.is_captured()), (expected, true), "{name}, step {step}");
                    }
                }
            }
        }
    }

    #[test]
    fn passes_that_need_the_host_are_not_captured() {
        for (_, device) in cube_devices() {
            let sparse = decoders(&device).remove(2).with_selection_bias(&[vec![0.0; 5], vec![0.0; 5]]);
            let mut cache = KvCache::new(sparse.config(), 1, 9, &device);
            let mut decoding = Decoding::new(&sparse, &device);
            (0..4).for_each(|id| drop(decoding.pass(&[Some(id)], &mut cache)));
            assert!(!decoding.is_captured() && !decoding.is_refused && cache.lens() == [4]);
        }
    }

    #[test]
    #[should_panic(expected = "4 positions do not fit a cache of 3")]
    fn a_full_cache_refuses_a_captured_pass() {
        let device = cube_devices().next().map_or_else(Device::flex, |(_, device)| device);
        let model = decoders(&device).remove(0);
        let mut cache = KvCache::new(model.config(), 1, 3, &device);
        let mut decoding = Decoding::new(&model, &device);
        (0..4).for_each(|id| drop(decoding.pass(&[Some(id)], &mut cache)));
    }
}
