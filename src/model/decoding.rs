//! Decoding: passes of one token per sequence.

use std::fmt;
use std::thread::{self, ThreadId};

use burn::tensor::{DType, Device};

use super::{CausalLm, CausalLmOutput, HiddenStates, KvCache, Positions, Rotation, TokenBatch};
use crate::config::DecoderConfig;
use crate::kernel::attention::{Band, CausalMask, op_of_step};
use crate::kernel::graph::{self, Buffer, CaptureError, Graph, Input};
use crate::trace::{self, Op};

/// Decodes with a model. On devices with [graphs](graph), a pass that comes for the second time, with the same buffers of the
/// cache, is captured, and replayed from then on: the host launches one graph in place of every kernel. Results have the same
/// bits. If the device refuses a capture, no other is tried.
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
    mode: DecodingMode,
}

/// How passes are computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodingMode {
    /// Directly, at least so far.
    Direct,
    /// As replays, those between captures excepted.
    Replayed,
    /// Directly, since the device refused a capture.
    Refused(CaptureError),
}

impl fmt::Display for DecodingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => write!(f, "direct"),
            Self::Replayed => write!(f, "replayed"),
            Self::Refused(error) => write!(f, "direct: {error}"),
        }
    }
}

/// What a captured pass is bound to. Rows and capacity are those of the buffers.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    thread: ThreadId,
    cache: Vec<Buffer>,
}

impl Place {
    /// That of a pass on this thread, if the device of the cache has graphs and the cache has buffers.
    fn of(cache: &KvCache) -> Option<Self> {
        cache.buffers().map(|cache| Self { thread: thread::current().id(), cache })
    }
}

impl<'a, M: CausalLm> Decoding<'a, M> {
    /// Decoding with a model on its device.
    ///
    /// CubeCL has a stream per thread. Weights and cache should be made on the thread that decodes: CUDA probably refuses a
    /// capture that has to wait for the stream of another thread, and no other is tried.
    pub fn new(model: &'a M, device: &Device) -> Self {
        Self { model, device: device.clone(), latest: None, captured: None, mode: DecodingMode::Direct }
    }

    /// How passes have been computed so far.
    pub fn mode(&self) -> &DecodingMode {
        &self.mode
    }

    /// Captures the pass of a cache with room for a token of each sequence, where that is possible, so that the next pass is a
    /// replay already. The sequences stay as they are, and nothing is counted.
    ///
    /// # Panics
    /// As [`pass`](Self::pass).
    pub fn prepare(&mut self, cache: &mut KvCache) {
        let ids = vec![Some(0); cache.lens().len()];
        if !graph::has_graphs(&self.device) {
            return;
        }
        // The first pass makes the buffers of a new cache.
        for _ in 0..3 {
            let is_captured = self.captured.is_some() && Place::of(cache) == self.latest;
            if is_captured || self.is_direct(ids.len()) {
                return;
            }
            let past = cache.lens().to_vec();
            trace::uncounted(|| self.pass(&ids, cache));
            cut_back(cache, &past);
        }
    }

    /// Continues each sequence of the cache by a token, or not if it has none in this pass. Its logits are
    /// `[batch_size, 1, vocab_size]`. The next pass may overwrite the tensors of the result.
    ///
    /// # Panics
    /// As [`CausalLm::hidden_states`].
    pub fn pass(&mut self, ids: &[Option<u32>], cache: &mut KvCache) -> CausalLmOutput {
        if self.is_direct(ids.len()) {
            return self.direct(ids, cache);
        }
        let place = Place::of(cache);
        if place.is_none() || place != self.latest {
            // The earlier graph would keep its memory.
            self.captured = None;
            self.latest = place;
            return self.direct(ids, cache);
        }
        let past = cache.lens().to_vec();
        // Refuses positions that the model does not have before the cache changes.
        let numbers = Numbers::new(self.model.config(), ids, &past);
        cache.append(ids.iter().map(|id| usize::from(id.is_some())));
        let captured = match self.captured.take() {
            Some(captured) => {
                captured.inputs.write(&numbers);
                Ok(captured)
            }
            None => CapturedPass::new(self.model, &numbers, cache, &self.device),
        };
        match captured {
            Ok(captured) => {
                self.mode = DecodingMode::Replayed;
                let captured = self.captured.insert(captured);
                captured.count(self.model.config(), &numbers);
                captured.graph.replay().clone()
            }
            Err(error) => {
                self.mode = DecodingMode::Refused(error);
                cut_back(cache, &past);
                self.direct(ids, cache)
            }
        }
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

    /// Whether passes of so many rows are not captured now, whatever their cache.
    fn is_direct(&self, num_rows: usize) -> bool {
        matches!(self.mode, DecodingMode::Refused(_)) || trace::is_recording() || self.model.waits_for_host(num_rows)
    }

    fn direct(&self, ids: &[Option<u32>], cache: &mut KvCache) -> CausalLmOutput {
        let ids: Vec<&[u32]> = ids.iter().map(Option::as_slice).collect();
        let HiddenStates { last, routing } =
            self.model.hidden_states(TokenBatch::padded(&ids, &self.device), Some(cache));
        CausalLmOutput { logits: self.model.lm_head(last), routing }
    }
}

/// Cuts the sequences back to these lengths.
fn cut_back(cache: &mut KvCache, lens: &[usize]) {
    lens.iter().enumerate().for_each(|(sequence, len)| cache.truncate_sequence(sequence, *len));
}

/// A pass that is replayed.
#[derive(Debug)]
struct CapturedPass {
    inputs: Inputs,
    graph: Graph<CausalLmOutput>,
    /// What it counts without attention.
    op: Op,
    /// The type of keys and values.
    dtype: DType,
}

impl CapturedPass {
    /// Captures the pass of tokens that are part of the cache already.
    ///
    /// # Errors
    /// If the device refuses it.
    fn new<M: CausalLm>(
        model: &M,
        numbers: &Numbers,
        cache: &mut KvCache,
        device: &Device,
    ) -> Result<Self, CaptureError> {
        let config = model.config();
        let inputs = Inputs::new(config, numbers.ids.len(), device);
        inputs.write(numbers);
        let mask = CausalMask::of_bounds(inputs.bounds.tensor(), cache.capacity(), config.sliding_window);
        let positions = Positions { rotation: Rotation { cos: inputs.cos.tensor(), sin: inputs.sin.tensor() }, mask };
        let mut op = Op::default();
        let graph = Graph::capture(device, || {
            let pass = || {
                let HiddenStates { last, routing } = model.hidden_states_at(inputs.ids.tensor(), &positions, cache);
                CausalLmOutput { logits: model.lm_head(last), routing }
            };
            let (output, counted) = trace::uncounted(pass);
            op = counted;
            output
        })?;
        Ok(Self { inputs, graph, op, dtype: cache.dtype() })
    }

    /// Counts what a replay computes.
    fn count(&self, config: &DecoderConfig, numbers: &Numbers) {
        let num_keys = numbers.bounds.iter().map(|[first, end]| (end - first) as usize).sum();
        let [heads, kv_heads] = [config.num_attention_heads, config.num_key_value_heads];
        let layer = op_of_step(heads, kv_heads, config.head_dim, num_keys, self.dtype);
        let Op { multiply_adds, bytes, parameters } = self.op;
        trace::count(Op {
            multiply_adds: multiply_adds + config.num_hidden_layers * layer.multiply_adds,
            bytes: bytes + config.num_hidden_layers * layer.bytes,
            parameters,
        });
    }
}

/// What the host gives to a pass of a token per row. A row without a token has any, at position 0, that sees nothing.
#[derive(Debug)]
struct Numbers {
    ids: Vec<i32>,
    /// Cosines and sines of each row.
    tables: [Vec<f32>; 2],
    /// The first key that each token sees, and one past the last, its own; twice 0 without a token.
    bounds: Vec<[i32; 2]>,
}

impl Numbers {
    /// Those of these tokens behind `past` positions each.
    ///
    /// # Panics
    /// If a token is not below `max_position_embeddings`.
    fn new(config: &DecoderConfig, ids: &[Option<u32>], past: &[usize]) -> Self {
        let rows = || ids.iter().zip(past);
        let positions: Vec<usize> = rows().map(|(id, past)| if id.is_some() { *past } else { 0 }).collect();
        let bounds = |(id, past): (&Option<u32>, &usize)| {
            let keys = Band { past: *past, window: config.sliding_window }.keys(0);
            if id.is_some() { [keys.start as i32, keys.end as i32] } else { [0, 0] }
        };
        Self {
            ids: ids.iter().map(|id| id.map_or(0, |id| id as i32)).collect(),
            tables: Rotation::tables(config, &positions),
            bounds: rows().map(bounds).collect(),
        }
    }
}

/// What a captured pass reads them from.
#[derive(Debug)]
struct Inputs {
    ids: Input<2, i32>,
    cos: Input<3, f32>,
    sin: Input<3, f32>,
    bounds: Input<3, i32>,
}

impl Inputs {
    fn new(config: &DecoderConfig, batch_size: usize, device: &Device) -> Self {
        let table = || Input::zeros([batch_size, 1, config.head_dim / 2], device);
        Self {
            ids: Input::zeros([batch_size, 1], device),
            cos: table(),
            sin: table(),
            bounds: Input::zeros([batch_size, 1, 2], device),
        }
    }

    fn write(&self, Numbers { ids, tables: [cos, sin], bounds }: &Numbers) {
        self.ids.write(ids);
        self.cos.write(cos);
        self.sin.write(sin);
        self.bounds.write(bounds.as_flattened());
    }
}

#[cfg(test)]
#[cfg(feature = "cube")]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use burn::tensor::Tensor;

    use super::*;
    use crate::config::{DecoderFields, ModelType, MoeConfig};
    use crate::device::cube_devices;
    use crate::kernel::blocks::BlockFormat;
    use crate::load::Precision;
    use crate::lora::{LoraAdapter, LoraConfig};
    use crate::model::AnyDecoder;
    use crate::weights::{Dtype, LowRank, MemoryWeights};

    /// A dense decoder, one with a window, a mixture, a quantized one, one with an adapter, and one in each 16-bit type that the
    /// device has.
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
        let halves = [(DType::BF16, Dtype::Bfloat16), (DType::F16, Dtype::Float16)].into_iter();
        let halves = halves.filter(|(dtype, _)| device.supports_dtype(*dtype));
        let halves: Vec<_> = halves.map(|(_, dtype)| load((small.clone(), Precision::Float(dtype)))).collect();
        let [small, window] = [small, window].map(|config| (config, Precision::FLOAT32));
        let adapted = adapted(load(small.clone()));
        let float = [small, window, (sparse.clone(), Precision::FLOAT32), (sparse, quantized)].map(load);
        float.into_iter().chain([adapted]).chain(halves).collect()
    }

    /// With an adapter that changes all linear maps.
    fn adapted(model: AnyDecoder) -> AnyDecoder {
        let initial = LoraAdapter::initial(LoraConfig::default(), model.config(), 1).expect("linear maps");
        let changed = |(id, update): (_, &Arc<LowRank>)| {
            let b = (0..update.b.len()).map(|i| (i % 7) as f32 * 0.01 - 0.03).collect();
            (id, Arc::new(LowRank { b, ..(**update).clone() }))
        };
        let updates = initial.updates().map(changed).collect();
        let adapter = LoraAdapter::new(LoraConfig::default(), model.config(), updates).expect("the same sizes");
        model.with_adapter(&adapter).expect("its targets")
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
            for (index, model) in decoders(&device).into_iter().enumerate() {
                let mut cache = KvCache::new(model.config(), 2, 90, &device);
                let mut decoding = Decoding::new(&model, &device);
                for step in 0..80 {
                    let ids = [Some(step), (step > 2).then_some(7)];
                    let (_, found) = trace::uncounted(|| decoding.pass(&ids, &mut cache));
                    if [2, 3, 79].contains(&step) {
                        let mut other = cache.gather(&[0, 1], 90);
                        ids.iter().enumerate().filter(|(_, id)| id.is_some()).for_each(|(row, _)| {
                            other.truncate_sequence(row, other.lens()[row] - 1);
                        });
                        let (_, expected) = trace::uncounted(|| decoding.direct(&ids, &mut other));
                        let case = format!("{name}, decoder {index}, step {step}");
                        assert_eq!((found, decoding.is_captured()), (expected, true), "{case}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_prepared_pass_is_captured_and_leaves_the_sequences_as_they_are() {
        for (name, device) in cube_devices() {
            for (index, model) in decoders(&device).into_iter().enumerate() {
                let [mut cache, mut expected_cache] = [(); 2].map(|()| KvCache::new(model.config(), 2, 1, &device));
                let mut decoding = Decoding::new(&model, &device);
                let ((), counted) = trace::uncounted(|| decoding.prepare(&mut cache));
                let case = format!("{name}, decoder {index}");
                assert_eq!(
                    (counted, cache.lens(), decoding.is_captured()),
                    (Op::default(), &[0, 0][..], true),
                    "{case}"
                );
                let ids = [Some(3), Some(5)];
                let found = bits(&decoding.pass(&ids, &mut cache));
                assert_eq!(found, bits(&decoding.direct(&ids, &mut expected_cache)), "{case}");
                assert_eq!(*decoding.mode(), DecodingMode::Replayed, "{case}");
            }
        }
    }

    #[test]
    fn passes_that_need_the_host_are_not_captured() {
        for (_, device) in cube_devices() {
            let sparse = || decoders(&device).remove(2);
            for model in [sparse().with_selection_bias(&[vec![0.0; 5], vec![0.0; 5]]), adapted(sparse())] {
                let mut cache = KvCache::new(model.config(), 1, 9, &device);
                let mut decoding = Decoding::new(&model, &device);
                decoding.prepare(&mut cache);
                (0..4).for_each(|id| drop(decoding.pass(&[Some(id)], &mut cache)));
                assert!(!decoding.is_captured() && *decoding.mode() == DecodingMode::Direct && cache.lens() == [4]);
            }
        }
    }

    /// The message of the panic of the fourth pass, of a decoder with so many positions and a cache of so many, and the length of
    /// the cache then.
    fn refusal(num_positions: usize, capacity: usize, device: &Device) -> (String, usize) {
        let config =
            DecoderConfig::pico().with(|fields| fields.max_position_embeddings = num_positions).expect("sound");
        let weights = MemoryWeights::untrained(config, 0.1, 1);
        let model = AnyDecoder::load(&weights, device).expect("in memory");
        let mut cache = KvCache::new(model.config(), 1, capacity, device);
        let mut decoding = Decoding::new(&model, device);
        (0..3).for_each(|id| drop(decoding.pass(&[Some(id)], &mut cache)));
        assert!(decoding.is_captured());
        let fourth = AssertUnwindSafe(|| drop(decoding.pass(&[Some(3)], &mut cache)));
        let panic = catch_unwind(fourth).expect_err("it does not fit");
        (panic.downcast_ref::<String>().cloned().unwrap_or_default(), cache.lens()[0])
    }

    #[test]
    fn a_full_cache_refuses_a_captured_pass() {
        for (_, device) in cube_devices() {
            let (message, _) = refusal(9, 3, &device);
            assert!(message.contains("4 positions do not fit a cache of 3"), "{message}");
        }
    }

    #[test]
    fn a_captured_pass_behind_the_last_position_is_refused_before_the_cache_changes() {
        for (_, device) in cube_devices() {
            let (message, len) = refusal(3, 9, &device);
            assert!(message.contains("position 3 is not below max_position_embeddings 3"), "{message}");
            assert_eq!(len, 3);
        }
    }
}
