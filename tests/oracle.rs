//! A reference decoder in `f64`, written equation by equation, which the Burn models are compared with.
//!
//! It is slow and calls none of the library's models or kernels. `x` is the residual stream,
//! `[seq_length, hidden_size]`; weights are `[out, in]`, so a projection is `x · Wᵀ`.

use std::collections::HashMap;
use std::f64::consts::PI;
use std::path::Path;

use deepwide::config::{DecoderConfig, ModelType, MoeConfig, RopeScaling};
use deepwide::formats::HfDirectory;
use deepwide::model::{AnyDecoder, CausalLm};
use deepwide::weights::{Dtype, LayerTensor, MemoryWeights, Projection, RawTensor, TensorId, WeightSource};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, s};
use proptest::prelude::*;
use safetensors::SafeTensors;

use crate::models::{load, logits, rows, tokens};
use crate::pico;

/// How the chosen experts are weighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `softmax(top_k(scores))`: the weights of a token sum to 1 (Jiang et al., 2024, arXiv:2401.04088, §2.1).
    SoftmaxOverChosen,
    /// `top_k(softmax(scores))`, not renormalised, unlike Mixtral. For negative controls.
    SoftmaxOverAll,
}

/// A decoder in `f64`. Its fields are public so that negative controls can change them.
#[derive(Debug, Clone)]
pub struct Oracle {
    /// The shape of the decoder.
    pub config: DecoderConfig,
    /// The weights; a gain of `n` numbers is `[1, n]`.
    pub weights: HashMap<TensorId, Array2<f64>>,
    /// How the chosen experts are weighted.
    pub gate: Gate,
}

/// The output of a decoder for a text.
#[derive(Debug, Clone)]
pub struct OracleOutput {
    /// Logits of the next token at each position, `[seq_length, vocab_size]`.
    pub logits: Array2<f64>,
    /// One per layer; empty for a dense decoder.
    pub routing: Vec<OracleRouting>,
}

/// Which experts the tokens of a text visit in one layer.
#[derive(Debug, Clone)]
pub struct OracleRouting {
    /// Router logits, `[seq_length, num_local_experts]`.
    pub scores: Array2<f64>,
    /// The chosen experts of each token, best first.
    pub experts: Vec<Vec<usize>>,
    /// Their weights, in the same order.
    pub weights: Vec<Vec<f64>>,
}

impl Oracle {
    /// Reads every weight of `source`.
    ///
    /// # Panics
    /// If a weight cannot be read.
    pub fn read(source: &dyn WeightSource) -> Self {
        let config = source.config().clone();
        let weights = TensorId::all(&config)
            .into_iter()
            .map(|id| {
                let shape = id.shape(&config);
                let columns = shape[shape.len() - 1];
                let tensor = source.read(id).unwrap_or_else(|error| panic!("{id:?}: {error}"));
                let wide: Vec<f64> = tensor.to_f32().into_iter().map(f64::from).collect();
                (id, Array2::from_shape_vec((wide.len() / columns, columns), wide).expect("the shape of the weight"))
            })
            .collect();
        Self { config, weights, gate: Gate::SoftmaxOverChosen }
    }

    /// Logits at every position of one text.
    pub fn forward(&self, tokens: &[u32]) -> OracleOutput {
        let embeddings = &self.weights[&TensorId::EmbedTokens];
        let rows: Vec<usize> = tokens.iter().map(|token| *token as usize).collect();
        let mut x = embeddings.select(Axis(0), &rows);
        let mut routing = Vec::new();
        for layer in 0..self.config.num_hidden_layers {
            let normed = self.rms_norm(&x, TensorId::Layer(layer, LayerTensor::InputLayernorm));
            x = x + self.attention(&normed, layer);
            let normed = self.rms_norm(&x, TensorId::Layer(layer, LayerTensor::PostAttentionLayernorm));
            x = x + match self.config.moe {
                None => self.gated_mlp(&normed, layer, LayerTensor::Mlp),
                Some(moe) => {
                    let chosen = self.route(&normed, layer, &moe);
                    let y = self.experts(&normed, layer, &chosen);
                    routing.push(chosen);
                    y
                }
            };
        }
        let head = if self.config.tie_word_embeddings { TensorId::EmbedTokens } else { TensorId::LmHead };
        let logits = self.linear(&self.rms_norm(&x, TensorId::Norm), head);
        OracleOutput { logits, routing }
    }

    /// The training loss over texts of one length, in nats: next-token cross-entropy, plus `router_aux_loss_coef` times
    /// the balancing loss of all tokens averaged over layers.
    pub fn loss_nats(&self, texts: &[Vec<u32>]) -> f64 {
        let outputs: Vec<OracleOutput> = texts.iter().map(|text| self.forward(text)).collect();
        let cross_entropies = outputs.iter().zip(texts).map(|(output, text)| cross_entropy_nats(&output.logits, text));
        let cross_entropy = cross_entropies.sum::<f64>() / texts.len() as f64;
        let Some(moe) = self.config.moe else { return cross_entropy };
        let num_layers = self.config.num_hidden_layers;
        let balance = |layer| load_balancing_loss(&OracleRouting::of_all(&outputs, layer));
        cross_entropy + moe.router_aux_loss_coef * (0..num_layers).map(balance).sum::<f64>() / num_layers as f64
    }

    /// `x · Wᵀ`.
    fn linear(&self, x: &Array2<f64>, weight: TensorId) -> Array2<f64> {
        x.dot(&self.weights[&weight].t())
    }

    /// `x / sqrt(mean(x²) + ε) · gain`.
    fn rms_norm(&self, x: &Array2<f64>, gain: TensorId) -> Array2<f64> {
        let mean_square = x.mapv(|v| v * v).mean_axis(Axis(1)).expect("a hidden size above 0").insert_axis(Axis(1));
        x / (mean_square + self.config.rms_norm_eps).mapv(f64::sqrt) * &self.weights[&gain]
    }

    /// `softmax(q·kᵀ / sqrt(head_dim) + mask) · v` per query head, then the output projection.
    fn attention(&self, x: &Array2<f64>, layer: usize) -> Array2<f64> {
        let id = |tensor| TensorId::Layer(layer, tensor);
        let (q, k, v) = (
            self.linear(x, id(LayerTensor::QProj)),
            self.linear(x, id(LayerTensor::KProj)),
            self.linear(x, id(LayerTensor::VProj)),
        );
        let (d, seq_length) = (self.config.head_dim, x.nrows());
        let query_heads_per_kv_head = self.config.num_attention_heads / self.config.num_key_value_heads;
        let mut heads = Array2::zeros(q.dim());
        for head in 0..self.config.num_attention_heads {
            let kv_head = head / query_heads_per_kv_head;
            let q = self.rotated(q.slice(s![.., head * d..(head + 1) * d]));
            let k = self.rotated(k.slice(s![.., kv_head * d..(kv_head + 1) * d]));
            let v = v.slice(s![.., kv_head * d..(kv_head + 1) * d]);
            for i in 0..seq_length {
                let seen: Vec<usize> = (0..seq_length).filter(|&j| self.attends(i, j)).collect();
                let scores: Array1<f64> = seen.iter().map(|&j| q.row(i).dot(&k.row(j)) / (d as f64).sqrt()).collect();
                let mut mixed = heads.slice_mut(s![i, head * d..(head + 1) * d]);
                for (probability, &j) in softmax(scores.view()).iter().zip(&seen) {
                    mixed.scaled_add(*probability, &v.row(j));
                }
            }
        }
        self.linear(&heads, id(LayerTensor::OProj))
    }

    /// Token `i` attends to `j` if `j <= i`, and `i - window < j` where there is a window.
    fn attends(&self, i: usize, j: usize) -> bool {
        j <= i && self.config.sliding_window.is_none_or(|window| i - j < window)
    }

    /// Turns coordinates `i` and `i + head_dim/2` of the head at position `p` by `p · frequency_i`
    /// (Su et al., 2021, arXiv:2104.09864, §3.4, with the pairs split in halves).
    fn rotated(&self, head: ArrayView2<f64>) -> Array2<f64> {
        let half = self.config.head_dim / 2;
        let mut turned = head.to_owned();
        for (position, row) in head.rows().into_iter().enumerate() {
            let factor = match self.config.rope_scaling {
                RopeScaling::Yarn { attention_factor, .. } => attention_factor,
                _ => 1.0,
            };
            for (i, frequency) in self.frequencies().into_iter().enumerate() {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (sin, cos) = (factor * sin, factor * cos);
                turned[[position, i]] = row[i] * cos - row[i + half] * sin;
                turned[[position, i + half]] = row[i + half] * cos + row[i] * sin;
            }
        }
        turned
    }

    /// `rope_theta^(-2i/head_dim)`, scaled as the config says.
    fn frequencies(&self) -> Vec<f64> {
        let d = self.config.head_dim;
        let frequency = |i: usize| self.config.rope_theta.powf(-((2 * i) as f64) / d as f64);
        let yarn = |i: usize| yarn_divided(i, &self.config, frequency(i));
        (0..d / 2).map(|i| yarn(i).unwrap_or_else(|| scaled(frequency(i), self.config.rope_scaling))).collect()
    }

    /// `down(silu(gate(x)) · up(x))`.
    fn gated_mlp(&self, x: &Array2<f64>, layer: usize, matrix: impl Fn(Projection) -> LayerTensor) -> Array2<f64> {
        let id = |projection| TensorId::Layer(layer, matrix(projection));
        let gate = self.linear(x, id(Projection::Gate)).mapv(|v| v / (1.0 + (-v).exp()));
        self.linear(&(gate * self.linear(x, id(Projection::Up))), id(Projection::Down))
    }

    fn route(&self, x: &Array2<f64>, layer: usize, moe: &MoeConfig) -> OracleRouting {
        let scores = self.linear(x, TensorId::Layer(layer, LayerTensor::Router));
        let experts: Vec<Vec<usize>> =
            scores.rows().into_iter().map(|row| top_k(row, moe.num_experts_per_tok)).collect();
        let weights = scores
            .rows()
            .into_iter()
            .zip(&experts)
            .map(|(row, chosen)| match self.gate {
                Gate::SoftmaxOverChosen => softmax(row.select(Axis(0), chosen).view()).to_vec(),
                Gate::SoftmaxOverAll => softmax(row).select(Axis(0), chosen).to_vec(),
            })
            .collect();
        OracleRouting { scores, experts, weights }
    }

    /// `y = Σ_e weight_e · expert_e(x)` over the chosen experts of each token.
    fn experts(&self, x: &Array2<f64>, layer: usize, routing: &OracleRouting) -> Array2<f64> {
        let mut y = Array2::zeros(x.dim());
        for expert in 0..routing.scores.ncols() {
            let answer = self.gated_mlp(x, layer, |projection| LayerTensor::Expert(expert, projection));
            for (token, (experts, weights)) in routing.experts.iter().zip(&routing.weights).enumerate() {
                if let Some(rank) = experts.iter().position(|chosen| *chosen == expert) {
                    y.row_mut(token).scaled_add(weights[rank], &answer.row(token));
                }
            }
        }
        y
    }
}

impl OracleRouting {
    /// The routing of one layer over the tokens of several texts.
    pub fn of_all(outputs: &[OracleOutput], layer: usize) -> Self {
        let layers = || outputs.iter().map(|output| &output.routing[layer]);
        let scores: Vec<ArrayView2<f64>> = layers().map(|routing| routing.scores.view()).collect();
        Self {
            scores: ndarray::concatenate(Axis(0), &scores).expect("the same experts"),
            experts: layers().flat_map(|routing| routing.experts.clone()).collect(),
            weights: layers().flat_map(|routing| routing.weights.clone()).collect(),
        }
    }

    /// The smallest distance of a token's last chosen score to its best score not chosen. Where it is below float32's
    /// precision, a model may rightly choose differently.
    pub fn margin(&self) -> f64 {
        self.scores
            .rows()
            .into_iter()
            .zip(&self.experts)
            .map(|(row, chosen)| {
                let order = top_k(row, row.len());
                order.get(chosen.len()).map_or(f64::INFINITY, |refused| row[chosen[chosen.len() - 1]] - row[*refused])
            })
            .fold(f64::INFINITY, f64::min)
    }
}

/// `-log softmax(logits_i)[token_{i+1}]` of each token but the first, in nats.
fn cross_entropies_nats(logits: ArrayView2<f64>, tokens: &[u32]) -> Vec<f64> {
    let nats = logits.rows().into_iter().zip(&tokens[1..]).map(|(row, next)| {
        let highest = row.fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        highest + row.mapv(|v| (v - highest).exp()).sum().ln() - row[*next as usize]
    });
    nats.collect()
}

/// Mean over the text of `-log softmax(logits_i)[token_{i+1}]`, in nats.
pub fn cross_entropy_nats(logits: &Array2<f64>, tokens: &[u32]) -> f64 {
    cross_entropies_nats(logits.view(), tokens).iter().sum::<f64>() / (tokens.len() - 1) as f64
}

/// `E · Σ_e f_e · P_e` of one layer: `f_e` is the number of tokens that chose expert `e` in any of their `k` choices,
/// `P_e` its mean probability under a softmax over all experts, both per token (Fedus et al., 2022,
/// arXiv:2101.03961, §2.2, summed over the `k` choices as transformers does). `k` when balanced.
pub fn load_balancing_loss(routing: &OracleRouting) -> f64 {
    let (num_tokens, num_experts) = routing.scores.dim();
    let probabilities: Vec<Array1<f64>> = routing.scores.rows().into_iter().map(softmax).collect();
    let share = |expert: usize| {
        let chosen = routing.experts.iter().flatten().filter(|chosen| **chosen == expert).count() as f64;
        let probability = probabilities.iter().map(|row| row[expert]).sum::<f64>();
        chosen / num_tokens as f64 * probability / num_tokens as f64
    };
    num_experts as f64 * (0..num_experts).map(share).sum::<f64>()
}

/// `exp(x_i) / Σ_j exp(x_j)`.
fn softmax(x: ArrayView1<f64>) -> Array1<f64> {
    let highest = x.fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let powers = x.mapv(|v| (v - highest).exp());
    let sum = powers.sum();
    powers / sum
}

/// The indices of the `k` largest numbers, largest first; of equal numbers the lowest index.
fn top_k(x: ArrayView1<f64>, k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
    order.truncate(k);
    order
}

/// The frequency of pair `i` under YaRN: divided by the factor if the pair turns less than `beta_slow` times in the
/// original context, kept if more than `beta_fast` times, blended in between by its index.
fn yarn_divided(i: usize, config: &DecoderConfig, frequency: f64) -> Option<f64> {
    let RopeScaling::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } =
        config.rope_scaling
    else {
        return None;
    };
    let index = |turns: f64| {
        let wavelengths = original_max_position_embeddings as f64 / (2.0 * PI * turns);
        wavelengths.log(config.rope_theta) * config.head_dim as f64 / 2.0
    };
    let (mut first, mut last) = (index(beta_fast), index(beta_slow));
    if truncate {
        (first, last) = (first.floor(), last.ceil());
    }
    let (first, last) = (first.max(0.0), last.min(config.head_dim as f64 - 1.0));
    let blend = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
    Some((1.0 - blend) * frequency + blend * frequency / factor)
}

/// A rotary frequency stretched for longer contexts.
fn scaled(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Default | RopeScaling::Dynamic { .. } | RopeScaling::Yarn { .. } => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let turns = original_max_position_embeddings as f64 * frequency / (2.0 * PI);
            if turns < low_freq_factor {
                frequency / factor
            } else if turns > high_freq_factor {
                frequency
            } else {
                let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// The largest absolute difference.
pub fn distance(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    assert_eq!(a.dim(), b.dim(), "logits of different shapes");
    assert!(a.iter().chain(b).all(|v| v.is_finite()), "a logit is not a finite number");
    (a - b).fold(0.0, |largest, v| largest.max(v.abs()))
}

/// The largest difference, in units of the largest number of `expected`.
pub fn relative_distance(actual: &Array2<f64>, expected: &Array2<f64>) -> f64 {
    distance(actual, expected) / expected.fold(f64::MIN_POSITIVE, |largest, v| largest.max(v.abs()))
}

/// The outputs of transformers for some texts, and the checkpoint.
struct Golden {
    name: String,
    checkpoint: HfDirectory,
    texts: Vec<Vec<u32>>,
    /// Every other tensor of the file, with all axes but the last flattened: one row per token, if it has tokens.
    answers: HashMap<String, Array2<f64>>,
}

impl Golden {
    fn all() -> Vec<Self> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
        let entries = std::fs::read_dir(folder).expect("tests/golden");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry of tests/golden").path()).collect();
        paths.retain(|path| path.join("config.json").is_file());
        paths.sort();
        paths.iter().map(|path| Self::open(path)).collect()
    }

    fn open(path: &Path) -> Self {
        let name = path.file_name().expect("a folder").to_string_lossy().into_owned();
        let bytes = std::fs::read(path.join("golden.safetensors")).expect("golden.safetensors");
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let ids = file.tensor("input_ids").expect("input_ids");
        assert_eq!(ids.dtype(), safetensors::Dtype::I32, "{name}: input_ids");
        let seq_length = ids.shape()[ids.shape().len() - 1];
        let texts = numbers(ids.data(), u32::from_le_bytes).chunks(seq_length).map(<[u32]>::to_vec).collect();
        let mut tensors = file.tensors();
        tensors.retain(|(_, tensor)| tensor.dtype() == safetensors::Dtype::F32);
        let answers = tensors.into_iter().map(|(name, tensor)| {
            let columns = tensor.shape()[tensor.shape().len() - 1];
            let values = numbers(tensor.data(), |bytes| f64::from(f32::from_le_bytes(bytes)));
            (name, Array2::from_shape_vec((values.len() / columns, columns), values).expect("the shape of the tensor"))
        });
        let answers = answers.collect();
        Self { name, checkpoint: HfDirectory::open(path).expect("a checkpoint"), texts, answers }
    }

    fn outputs(&self, oracle: &Oracle) -> Vec<OracleOutput> {
        self.texts.iter().map(|text| oracle.forward(text)).collect()
    }

    /// Distance of an oracle's logits from those of transformers.
    fn distance(&self, oracle: &Oracle) -> f64 {
        let outputs = self.outputs(oracle);
        let logits: Vec<ArrayView2<f64>> = outputs.iter().map(|output| output.logits.view()).collect();
        distance(&ndarray::concatenate(Axis(0), &logits).expect("one vocabulary"), &self.answers["logits"])
    }

    /// The number that the file holds under this name.
    fn number(&self, name: &str) -> Option<f64> {
        self.answers.get(name).map(|answer| answer[[0, 0]])
    }
}

fn numbers<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|chunk| read(chunk.try_into().expect("N bytes"))).collect()
}

/// A Mixtral of pico size, with a window and two of four experts.
fn pico_mixtral() -> DecoderConfig {
    let moe = MoeConfig { num_local_experts: 4, num_experts_per_tok: 2, router_aux_loss_coef: 0.02 };
    let sizes = DecoderConfig::pico().with(|f| {
        (f.vocab_size, f.hidden_size, f.intermediate_size, f.num_hidden_layers) = (40, 24, 32, 2);
        (f.num_attention_heads, f.num_key_value_heads, f.head_dim) = (4, 2, 8);
    });
    let sparse = sizes.and_then(|config| config.with_experts(moe));
    sparse.and_then(|config| config.with(|f| f.sliding_window = Some(5))).expect("a small Mixtral")
}

const TEXT: [u32; 12] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 8, 39];

#[test]
fn the_oracle_agrees_with_transformers() {
    let golden = Golden::all();
    assert!(!golden.is_empty(), "no golden files");
    for golden in golden {
        let distance = golden.distance(&Oracle::read(&golden.checkpoint));
        assert!(distance <= 1e-4, "{}: {distance:e} from transformers", golden.name);
    }
}

#[test]
fn router_logits_and_balancing_losses_agree_with_transformers() {
    let mut routers = 0;
    for golden in Golden::all() {
        let outputs = golden.outputs(&Oracle::read(&golden.checkpoint));
        for layer in 0..outputs[0].routing.len() {
            let routing = OracleRouting::of_all(&outputs, layer);
            let scores = distance(&routing.scores, &golden.answers[&format!("router_logits.{layer}")]);
            assert!(scores <= 1e-4, "{}: router of layer {layer} is {scores:e} from transformers", golden.name);
            let expected = golden.number(&format!("aux_loss.{layer}")).expect("the balancing loss of the layer");
            let loss = load_balancing_loss(&routing);
            assert!((loss - expected).abs() <= 1e-5, "{}: balancing loss {loss}, not {expected}", golden.name);
            routers += 1;
        }
    }
    assert!(routers > 0, "no routers");
}

#[test]
fn training_losses_agree_with_transformers() {
    let mut losses = 0;
    for golden in Golden::all() {
        let Some(expected) = golden.number("loss") else { continue };
        let loss = Oracle::read(&golden.checkpoint).loss_nats(&golden.texts);
        assert!((loss - expected).abs() <= 1e-5, "{}: a loss of {loss}, not {expected}", golden.name);
        losses += 1;
    }
    assert!(losses > 0, "no losses");
}

#[test]
fn the_loss_of_each_token_follows_from_the_logits_of_transformers() {
    let device = pico::device();
    for golden in Golden::all() {
        let model = AnyDecoder::load(&golden.checkpoint, &device).expect("a checkpoint");
        let [num_texts, seq_length] = [golden.texts.len(), golden.texts[0].len()];
        let ids = tokens(&golden.texts, &device);
        let hidden = model.hidden_states(ids.clone(), None).last.slice([0..num_texts, 0..seq_length - 1]);
        let losses = rows(model.token_losses(hidden.clone(), ids.clone().slice([0..num_texts, 1..seq_length])));
        let of_inputs = rows(model.token_losses(hidden, ids.slice([0..num_texts, 0..seq_length - 1])));
        let logits = golden.answers["logits"].axis_chunks_iter(Axis(0), seq_length);
        let expected: Vec<f64> =
            logits.zip(&golden.texts).flat_map(|(logits, text)| cross_entropies_nats(logits, text)).collect();
        let expected = Array2::from_shape_vec(losses.dim(), expected).expect("a loss a target");
        let off = distance(&losses, &expected);
        assert!(off <= 1e-4, "{}: losses are {off:e} nats from those of transformers", golden.name);
        let off = distance(&of_inputs, &expected);
        assert!(off > 1e-2, "{}: losses of other targets go unnoticed", golden.name);
    }
}

#[test]
fn an_oracle_with_one_wrong_detail_disagrees_with_transformers() {
    let mut controls = 0;
    for golden in Golden::all() {
        let oracle = Oracle::read(&golden.checkpoint);
        for (mistake, wrong) in mistakes(&oracle) {
            let distance = golden.distance(&wrong);
            assert!(distance > 1e-4, "{}: {mistake} goes unnoticed, {distance:e}", golden.name);
            controls += 1;
        }
    }
    assert!(controls > 0, "no controls");
}

/// The same decoder with one detail wrong, for each detail that applies to it.
fn mistakes(oracle: &Oracle) -> Vec<(&'static str, Oracle)> {
    let config = &oracle.config;
    let with = |config: DecoderConfig| Oracle { config, ..oracle.clone() };
    let mut wrong = vec![
        ("another rope_theta", with(config.with(|f| f.rope_theta *= 2.0).expect("a positive theta"))),
        ("a larger epsilon", with(config.with(|f| f.rms_norm_eps += 0.1).expect("a positive epsilon"))),
    ];
    if config.rope_scaling != RopeScaling::Default {
        let unscaled = config.with(|f| f.rope_scaling = RopeScaling::Default);
        wrong.push(("unscaled frequencies", with(unscaled.expect("default frequencies"))));
    }
    if config.sliding_window.is_some() {
        let wider = config.with(|f| f.sliding_window = f.sliding_window.map(|window| window + 1));
        wrong.push(("a window wider by one", with(wider.expect("a window"))));
    }
    if config.moe.is_some_and(|moe| moe.num_experts_per_tok < moe.num_local_experts) {
        wrong.push(("gates that are not renormalised", Oracle { gate: Gate::SoftmaxOverAll, ..oracle.clone() }));
    }
    wrong
}

proptest! {
    #![proptest_config(pico::cases(96))]

    #[test]
    fn burn_decoders_agree_with_the_oracle((config, seed, text) in pico::decoder_seed_and_text()) {
        let weights = pico::random_weights(&config, seed);
        let expected = Oracle::read(&weights).forward(&text);
        prop_assume!(expected.routing.iter().all(|routing| routing.margin() > 1e-4));
        let distance = relative_distance(&logits(&load(&weights, &pico::device()), &[&text]), &expected.logits);
        prop_assert!(distance <= 1e-5, "{distance:e} of the largest logit");
    }

    #[test]
    fn gates_that_are_not_renormalised_change_the_logits(
        (config, seed) in (pico::sparse_decoders(), any::<u64>())
    ) {
        let moe = config.moe.expect("experts");
        let oracle = Oracle::read(&pico::random_weights(&config, seed));
        let text = [1, 2, 3, 4, 5, 6, 7, 8];
        let wrong = Oracle { gate: Gate::SoftmaxOverAll, ..oracle.clone() }.forward(&text).logits;
        let noticed = relative_distance(&wrong, &oracle.forward(&text).logits) > 1e-5;
        prop_assert_eq!(noticed, moe.num_experts_per_tok < moe.num_local_experts);
    }

    #[test]
    fn a_token_sees_neither_later_tokens_nor_tokens_before_its_windows(
        (config, seed, text) in pico::decoder_seed_and_text(),
        at in any::<prop::sample::Index>(),
    ) {
        let oracle = Oracle::read(&pico::random_weights(&config, seed));
        let at = at.index(text.len());
        let mut other = text.clone();
        other[at] = (text[at] + 1) % config.vocab_size as u32;
        let (before, after) = (oracle.forward(&text).logits, oracle.forward(&other).logits);
        let reach = config.sliding_window.map_or(text.len(), |window| (window - 1) * config.num_hidden_layers + 1);
        for position in 0..text.len() {
            let sees = position >= at && position - at < reach;
            prop_assert_eq!(before.row(position) != after.row(position), sees, "position {}", position);
        }
    }
}

#[test]
fn every_kind_of_mistake_changes_the_logits_of_random_weights() {
    let scaled = pico_mixtral().with(|f| f.rope_scaling = RopeScaling::Linear { factor: 2.0 });
    let oracle = Oracle::read(&pico::random_weights(&scaled.expect("linear scaling"), 1));
    let mistakes = mistakes(&oracle);
    assert_eq!(mistakes.len(), 5);
    for (mistake, wrong) in mistakes {
        let distance = relative_distance(&wrong.forward(&TEXT).logits, &oracle.forward(&TEXT).logits);
        assert!(distance > 1e-5, "{mistake} goes unnoticed, {distance:e}");
    }
}

#[test]
fn attention_scores_depend_on_the_distance_of_two_tokens_only() {
    let oracle = Oracle::read(&pico::random_weights(&pico_mixtral(), 2));
    let head_dim = oracle.config.head_dim;
    let head = |phase: f64| Array2::from_shape_fn((9, head_dim), |(_, i)| (phase + i as f64).sin());
    let (q, k) = (oracle.rotated(head(0.3).view()), oracle.rotated(head(1.1).view()));
    for shift in 0..5 {
        let difference = q.row(3).dot(&k.row(1)) - q.row(3 + shift).dot(&k.row(1 + shift));
        assert!(difference.abs() < 1e-12, "shift {shift}: {difference:e}");
    }
    assert!((q.row(3).dot(&k.row(1)) - q.row(4).dot(&k.row(1))).abs() > 1e-3);
}

#[test]
fn llama3_scaling_keeps_high_frequencies_divides_low_ones_and_ramps_between() {
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    let turns = |turns: f64| turns * 2.0 * PI / 64.0;
    assert_eq!(scaled(turns(5.0), llama3), turns(5.0));
    assert_eq!(scaled(turns(0.5), llama3), turns(0.5) / 8.0);
    assert!((scaled(turns(2.5), llama3) - turns(2.5) * (0.5 + 0.5 / 8.0)).abs() < 1e-15);
}

#[test]
fn equal_scores_choose_the_lowest_experts() {
    assert_eq!(top_k(ArrayView1::from(&[1.0, 2.0, 2.0, 0.0, 2.0]), 2), [1, 2]);
    assert_eq!(top_k(ArrayView1::from(&[0.0; 5]), 3), [0, 1, 2]);
}

#[test]
fn experts_that_are_copies_equal_the_mlp_only_with_renormalised_gates() {
    let sparse = pico_mixtral();
    let dense = sparse.with(|f| {
        f.model_type = ModelType::Mistral;
        f.moe = None;
    });
    let dense = pico::random_weights(&dense.expect("a small Mistral"), 3);
    let router = |shape: Vec<usize>| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| (i as f32).sin()).collect();
        RawTensor::from_f32(Dtype::Float32, shape, &values)
    };
    let upcycled = MemoryWeights::new(sparse.clone(), |id| match id {
        TensorId::Layer(_, LayerTensor::Router) => router(id.shape(&sparse)),
        TensorId::Layer(layer, LayerTensor::Expert(_, projection)) => {
            dense.read(TensorId::Layer(layer, LayerTensor::Mlp(projection))).expect("weights in memory")
        }
        _ => dense.read(id).expect("weights in memory"),
    });
    let expected = Oracle::read(&dense).forward(&TEXT).logits;
    let oracle = Oracle::read(&upcycled);
    assert!(relative_distance(&oracle.forward(&TEXT).logits, &expected) < 1e-13);
    let wrong = Oracle { gate: Gate::SoftmaxOverAll, ..oracle };
    assert!(relative_distance(&wrong.forward(&TEXT).logits, &expected) > 0.01);
}

#[test]
fn a_model_of_zeros_has_the_loss_of_uniform_predictions_and_routing() {
    let mut oracle = Oracle::read(&pico::random_weights(&pico_mixtral(), 4));
    for (id, weight) in &mut oracle.weights {
        if matches!(id, TensorId::EmbedTokens | TensorId::Layer(_, LayerTensor::Router)) {
            weight.fill(0.0);
        }
    }
    let expected = 40f64.ln() + 0.02 * 2.0;
    assert!((oracle.loss_nats(&[TEXT.to_vec(), TEXT.to_vec()]) - expected).abs() < 1e-12);
}

#[test]
fn a_collapsed_router_has_a_balancing_loss_of_the_number_of_experts() {
    let collapsed = |num_experts: usize| OracleRouting {
        scores: Array2::from_shape_fn((6, num_experts), |(_, expert)| if expert == 1 { 1e3 } else { 0.0 }),
        experts: vec![vec![1]; 6],
        weights: vec![vec![1.0]; 6],
    };
    assert!((load_balancing_loss(&collapsed(4)) - 4.0).abs() < 1e-12);
    assert!((load_balancing_loss(&collapsed(8)) - 8.0).abs() < 1e-12);
}
