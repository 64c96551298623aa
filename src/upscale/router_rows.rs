//! Router rows computed from prompts: the mean input that the router of each layer would get.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::UpscaleError;
use super::preservation::{tokenizer_of, within_vocabulary};
use crate::device::device;
use crate::error::FileError;
use crate::formats::Checkpoint;
use crate::growth::mergekit::{GateMode, MoeMergeConfig, PromptTokens, cheap_embed};
use crate::growth::{PlanError, RouterRows};
use crate::model::DenseDecoder;
use crate::tokenizer::Tokenizer;
use crate::weights::WeightSource;

/// Rows from a file whose line `e` is the prompt of expert `e`; all its tokens count.
pub(super) fn from_file(
    file: &Path,
    source: &dyn WeightSource,
    base: &Checkpoint,
    num_experts: usize,
) -> Result<RouterRows, UpscaleError> {
    let text = std::fs::read_to_string(file).map_err(FileError::io(file))?;
    let prompts: Vec<[Vec<String>; 2]> = text.lines().map(|line| [vec![line.to_owned()], Vec::new()]).collect();
    if prompts.len() != num_experts {
        return Err(UpscaleError::PromptCount { path: file.to_owned(), found: prompts.len(), expected: num_experts });
    }
    let prompts = tokens(prompts, base, |tokenizer, text| Ok(tokenizer.encode_with_special_tokens(text)?))?;
    rows(&prompts, source, Pooling::AllTokens)
}

/// Rows for a gate mode of mergekit-moe that reads prompts.
pub(super) fn of_merge(config: &MoeMergeConfig, bases: &[Checkpoint]) -> Result<RouterRows, UpscaleError> {
    let base = &bases[config.base_model()];
    if let Some(moe) = base.config().moe {
        return Err(PlanError::AlreadySparse { num_local_experts: moe.num_local_experts }.into());
    }
    let experts = config.experts().iter();
    let prompts = experts.map(|expert| [expert.positive_prompts.clone(), expert.negative_prompts.clone()]);
    // As in mergekit: the BOS token, whether or not the tokenizer adds it, and no other special token.
    let bos = base.bos_token()?;
    let prompts = tokens(prompts, base, |tokenizer, text| {
        let bos = bos.as_ref().and_then(|token| tokenizer.token_to_id(token));
        Ok(bos.into_iter().chain(tokenizer.encode(text)?).collect())
    })?;
    match config.gate_mode() {
        GateMode::CheapEmbed => {
            let rows = cheap_embed(base, &prompts)?;
            Ok(RouterRows::new(vec![rows; base.config().num_hidden_layers])?)
        }
        GateMode::HiddenAvg => rows(&prompts, base, Pooling::AllTokens),
        _ => rows(&prompts, base, Pooling::LastToken),
    }
}

/// The token ids of every expert's prompts, positive and negative.
fn tokens(
    prompts: impl IntoIterator<Item = [Vec<String>; 2]>,
    base: &Checkpoint,
    encode: impl Fn(&Tokenizer, &str) -> Result<Vec<u32>, UpscaleError>,
) -> Result<Vec<PromptTokens>, UpscaleError> {
    let tokenizer = tokenizer_of(base)?;
    let mut experts = Vec::new();
    for (expert, texts) in prompts.into_iter().enumerate() {
        let ids = |text: &String| -> Result<Vec<u32>, UpscaleError> {
            let ids = encode(&tokenizer, text)?;
            if ids.is_empty() || text.trim().is_empty() {
                return Err(UpscaleError::EmptyPrompt { expert });
            }
            within_vocabulary(&ids, base.config())?;
            Ok(ids)
        };
        let [positive, negative] = texts.map(|texts| texts.iter().map(ids).collect::<Result<Vec<_>, _>>());
        experts.push(PromptTokens { positive: positive?, negative: negative? });
    }
    Ok(experts)
}

/// How the router inputs of a prompt become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pooling {
    /// The input of the last token.
    LastToken,
    /// The mean over all tokens.
    AllTokens,
}

/// Per layer and expert, the direction from the mean over negative prompts to that over positive ones.
fn rows(prompts: &[PromptTokens], source: &dyn WeightSource, pooling: Pooling) -> Result<RouterRows, UpscaleError> {
    let (config, device) = (source.config(), device("flex")?);
    config.computable()?;
    let model = DenseDecoder::load(&source, &device)?;
    let mean = |prompts: &[Vec<u32>]| {
        let mut mean = vec![vec![0.0; config.hidden_size]; config.num_hidden_layers];
        for ids in prompts {
            let ids = &ids[..ids.len().min(config.max_position_embeddings)];
            for (mean, vector) in mean.iter_mut().zip(router_inputs(&model, ids, pooling, &device)) {
                mean.iter_mut().zip(vector).for_each(|(m, x)| *m += x / prompts.len() as f32);
            }
        }
        mean
    };
    let mut layers = vec![Vec::new(); config.num_hidden_layers];
    for of in prompts {
        for (layer, (p, n)) in layers.iter_mut().zip(mean(&of.positive).iter().zip(mean(&of.negative))) {
            layer.extend(RouterRows::direction(p, &n));
        }
    }
    Ok(RouterRows::new(layers)?)
}

/// One vector a layer.
fn router_inputs(model: &DenseDecoder, ids: &[u32], pooling: Pooling, device: &Device) -> Vec<Vec<f32>> {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let num_tokens = ids.len();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, num_tokens]), device);
    let pooled = |input: Tensor<3>| {
        let kept = match pooling {
            Pooling::LastToken => input.slice([0..1, num_tokens - 1..num_tokens]),
            _ => input,
        };
        kept.mean_dim(1).into_data().iter::<f32>().collect()
    };
    model.mlp_inputs(tokens).into_iter().map(pooled).collect()
}
