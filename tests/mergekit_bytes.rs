//! What mergekit 0.1.5 writes, byte for byte: `golden/mergekit/`, made by the script there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use deepwide::config::{DecoderConfig, DecoderFields, ModelType, RopeScaling};
use deepwide::growth::mergekit::{
    GateMode, MergeConfig, MergeError, ModelRef, MoeMergeOptions, PromptTokens, cheap_embed,
};
use deepwide::growth::{Grown, GrowthPlan, RouterRows};
use deepwide::weights::{Dtype, LayerTensor, MemoryWeights, RawTensor, TensorId, WeightSource};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// `golden.json`.
#[derive(Deserialize)]
struct Golden {
    models: BTreeMap<String, Model>,
    shape: Shape,
    merges: BTreeMap<String, Merge>,
    refused: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Model {
    model_type: ModelType,
    num_hidden_layers: usize,
    seed: u64,
    dtype: Dtype,
    #[serde(default)]
    tied: bool,
}

#[derive(Deserialize)]
struct Shape {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
}

#[derive(Deserialize)]
struct Merge {
    config: MergedConfig,
    /// Type and hash of each tensor but the routers.
    tensors: BTreeMap<String, (Dtype, String)>,
    #[serde(default)]
    routers: BTreeMap<String, Vec<f32>>,
}

#[derive(Deserialize)]
struct MergedConfig {
    model_type: ModelType,
    num_hidden_layers: usize,
    vocab_size: usize,
    tie_word_embeddings: bool,
    num_local_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mergekit")
}

fn golden() -> Golden {
    serde_json::from_slice(&fs::read(folder().join("golden.json")).expect("golden.json")).expect("its form")
}

impl Golden {
    fn source(&self, reference: &ModelRef) -> Result<MemoryWeights, String> {
        let model = self.models.get(&reference.path).ok_or_else(|| format!("no model {reference}"))?;
        let config = DecoderConfig::new(DecoderFields {
            model_type: model.model_type,
            vocab_size: self.shape.vocab_size,
            hidden_size: self.shape.hidden_size,
            intermediate_size: self.shape.intermediate_size,
            num_hidden_layers: model.num_hidden_layers,
            num_attention_heads: self.shape.num_attention_heads,
            num_key_value_heads: self.shape.num_key_value_heads,
            head_dim: self.shape.hidden_size / self.shape.num_attention_heads,
            max_position_embeddings: 64,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            sliding_window: None,
            tie_word_embeddings: model.tied,
            moe: None,
            unmodelled: serde_json::Map::new(),
        })
        .map_err(|error| error.to_string())?;
        let shapes = config.clone();
        Ok(MemoryWeights::new(config, |id| {
            let shape = id.shape(&shapes);
            let values = numbers(model.seed, &id.to_string(), shape.iter().product());
            RawTensor::from_f32(model.dtype, shape, &values)
        }))
    }
}

/// As `numbers` of the script.
fn numbers(seed: u64, name: &str, count: usize) -> Vec<f32> {
    let digest = Sha256::digest(format!("{seed}:{name}"));
    let mut state = u64::from_le_bytes(digest[..8].try_into().expect("8 bytes"));
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn hash(tensor: &RawTensor) -> String {
    Sha256::digest(tensor.bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn parsed(file: &Path) -> Result<MergeConfig, MergeError> {
    let name = file.file_name().expect("a name").to_string_lossy();
    MergeConfig::parse(&*name, &fs::read(file).expect("a config"))
}

/// The merged source, with the routers of a mode that reads prompts computed from the tokens that the tokenizer of
/// the script makes of them: 0 for `<s>`, 2 for a space, letters from 3 on.
fn view(golden: &Golden, config: &MergeConfig) -> Result<Box<dyn WeightSource>, MergeError> {
    let sources = config
        .models()
        .iter()
        .map(|reference| golden.source(reference))
        .collect::<Result<Vec<_>, _>>()
        .expect("known models");
    let configs: Vec<&DecoderConfig> = sources.iter().map(WeightSource::config).collect();
    let moe = match config {
        MergeConfig::Passthrough(config) => {
            let plan = GrowthPlan::MergeLayers(config.plan(&configs)?);
            return Ok(Box::new(Grown::merge(sources, [plan]).expect("a plan for these models")));
        }
        MergeConfig::Moe(moe) => moe,
    };
    let rows = (moe.gate_mode() == GateMode::CheapEmbed).then(|| {
        let ids = |prompt: &String| {
            let letters = prompt.chars().map(|c| if c == ' ' { 2 } else { c as u32 - 'a' as u32 + 3 });
            std::iter::once(0).chain(letters).collect::<Vec<u32>>()
        };
        let tokens = moe.experts().iter().map(|expert| PromptTokens {
            positive: expert.positive_prompts.iter().map(ids).collect(),
            negative: expert.negative_prompts.iter().map(ids).collect(),
        });
        let base = &sources[moe.base_model()];
        let rows = cheap_embed(base, &tokens.collect::<Vec<_>>()).expect("weights in memory");
        RouterRows::new(vec![rows; base.config().num_hidden_layers]).expect("finite rows")
    });
    let plan = moe.plan(&configs, &MoeMergeOptions { rows, ..MoeMergeOptions::default() })?;
    Ok(Box::new(Grown::merge(sources, [GrowthPlan::MergeExperts(plan)]).expect("a plan for these models")))
}

#[test]
fn every_tensor_has_the_bytes_that_mergekit_writes() {
    let golden = golden();
    let is_moe = |name: &&String| name.starts_with("moe_");
    assert!(golden.merges.keys().filter(is_moe).count() >= 5 && golden.merges.len() >= 25, "too few merges");
    let mut compared = 0;
    for (name, merge) in &golden.merges {
        let config = parsed(&folder().join(format!("{name}.yml"))).unwrap_or_else(|error| panic!("{error}"));
        let view = view(&golden, &config).unwrap_or_else(|error| panic!("{error}"));
        let is_router = |id: &TensorId| matches!(id, TensorId::Layer(_, LayerTensor::Router));
        let ids: Vec<TensorId> = TensorId::all(view.config()).into_iter().filter(|id| !is_router(id)).collect();
        assert_eq!(ids.len(), merge.tensors.len(), "{name}");
        for id in ids {
            let (dtype, expected) = &merge.tensors[&id.to_string()];
            let tensor = view.read(id).expect("weights in memory");
            assert_eq!((view.dtype(id), tensor.dtype()), (*dtype, *dtype), "{name}: {id:?}");
            assert_eq!(hash(&tensor), *expected, "{name}: {id:?}, {:?}", view.lineage(id));
            let mut streamed = Vec::new();
            let mut take = |piece: &[u8]| {
                streamed.extend_from_slice(piece);
                Ok(())
            };
            view.stream(id, &mut take).expect("weights in memory");
            assert_eq!(streamed, tensor.bytes(), "{name}: {id:?}");
            compared += 1;
        }
    }
    assert!(compared > 2000, "{compared} tensors");
}

#[test]
fn every_config_has_the_sizes_that_mergekit_writes() {
    let golden = golden();
    for (name, Merge { config: expected, .. }) in &golden.merges {
        let view = view(&golden, &parsed(&folder().join(format!("{name}.yml"))).unwrap()).unwrap();
        let found = view.config();
        assert_eq!(found.model_type, expected.model_type, "{name}");
        assert_eq!(found.num_hidden_layers, expected.num_hidden_layers, "{name}");
        assert_eq!(found.vocab_size, expected.vocab_size, "{name}");
        assert_eq!(found.tie_word_embeddings, expected.tie_word_embeddings, "{name}");
        assert_eq!(found.moe.map(|moe| moe.num_local_experts), expected.num_local_experts, "{name}");
        assert_eq!(found.moe.map(|moe| moe.num_experts_per_tok), expected.num_experts_per_tok, "{name}");
    }
}

#[test]
fn routers_from_embeddings_are_those_of_mergekit() {
    let golden = golden();
    let name = "moe_cheap_embed";
    let view = view(&golden, &parsed(&folder().join(format!("{name}.yml"))).unwrap()).unwrap();
    let routers = &golden.merges[name].routers;
    assert_eq!(routers.len(), view.config().num_hidden_layers);
    for (tensor, expected) in routers {
        let found = view.read(tensor.parse().expect("a router")).expect("weights in memory").to_f32();
        assert_eq!(found.len(), expected.len());
        let error = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= 1e-6, "{tensor}: {error:e}, of rows of length 1 printed to 6 places");
    }
}

/// Every config of `refused/`, what mergekit does with it, and what we say.
#[test]
fn what_we_refuse_or_mergekit_does_is_refused_with_a_reason() {
    let golden = golden();
    let mut told = Vec::new();
    for (name, theirs) in &golden.refused {
        let file = folder().join(format!("refused/{name}.yml"));
        let ours = match parsed(&file).and_then(|config| view(&golden, &config).map(drop)) {
            Ok(()) => "makes it".to_owned(),
            Err(error) => error.to_string(),
        };
        told.push(format!("{name}\n  mergekit: {theirs}\n  deepwide: {ours}"));
    }
    insta::assert_snapshot!(told.join("\n"), @r####"
empty_range
  mergekit: writes 3 tensors
  deepwide: "empty_range.yml": line 1, column 51: layer_range is [2, 2], which is empty, expected an end above the start
models_beside_base
  mergekit: ValueError: Merge method requires exactly 1 inputs for default.slices[0]; got 2
  deepwide: "models_beside_base.yml": line 1, column 10: models is "llama_a" beside base_model "llama_b", which is not supported, expected the base_model itself: passthrough copies one model
moe_identical_prompts
  mergekit: SystemExit: 1
  deepwide: "moe_identical_prompts.yml": line 6, column 3: all experts have the same prompts, expected different ones for gate_mode cheap_embed
moe_too_few
  mergekit: SystemExit: 1
  deepwide: "moe_too_few.yml": line 3, column 20: experts_per_token is 3, expected at most the number of experts, 2
moe_uniform_without_prompts
  mergekit: SystemExit: 1
  deepwide: makes it
nan_scale
  mergekit: writes 21 tensors
  deepwide: "nan_scale.yml": line 3, column 21: scale is .nan, expected a finite number
octal_range
  mergekit: writes 48 tensors
  deepwide: "octal_range.yml": line 1, column 55: layer_range is 05, expected a whole number of at least 0, in digits
other_parameter
  mergekit: writes 75 tensors
  deepwide: "other_parameter.yml": line 10, column 14: "scael" is not a key of the parameters of passthrough; did you mean scale?
out_of_bounds
  mergekit: RuntimeError: Tensor model.layers.6.input_layernorm.weight required but not present in model llama_a
  deepwide: "out_of_bounds.yml": line 1, column 51: layer_range is [4, 8], expected an end of at most 6, the layers of "llama_a"
reversed
  mergekit: writes 3 tensors
  deepwide: "reversed.yml": line 1, column 51: layer_range is [4, 2], which is reversed, expected an end above the start
two_sources
  mergekit: ValueError: Merge method requires exactly 1 inputs for default.slices[0]; got 2
  deepwide: "two_sources.yml": line 1, column 20: sources is a list of 2, which is not supported, expected a list of one source: passthrough copies
typing_error_in_dtype
  mergekit: RuntimeError: Unimplemented dtype "bfloat"
  deepwide: "typing_error_in_dtype.yml": line 10, column 8: dtype is text "bfloat", which is not supported, expected float32, float16 or bfloat16; did you mean bfloat16?
unknown_key
  mergekit: writes 75 tensors
  deepwide: "unknown_key.yml": line 9, column 1: "parmeters" is not a key of the config; did you mean parameters?
"####);
}
