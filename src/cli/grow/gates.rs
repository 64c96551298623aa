//! Router rows made of prompts: what the router of each layer would see of them.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::super::{CliError, device::device};
use super::check::within_vocabulary;
use crate::growth::mergekit::{GateMode, MoeMergeConfig};
use crate::growth::{PlanError, RouterRows};
use crate::model::DenseDecoder;
use crate::tokenizer::Tokenizer;
use crate::weights::{Checkpoint, TensorId, WeightSource};

/// Rows for `--router hidden`: line `e` of the file is what expert `e` should be good at; each token of it counts.
pub(super) fn from_file(
    file: &Path,
    source: &dyn WeightSource,
    base: &Checkpoint,
    num_experts: usize,
) -> Result<RouterRows, CliError> {
    let text = std::fs::read_to_string(file).map_err(|source| CliError::Read { path: file.to_owned(), source })?;
    let prompts: Vec<Prompts> =
        text.lines().map(|line| Prompts { positive: vec![line.to_owned()], negative: Vec::new() }).collect();
    if prompts.len() != num_experts {
        return Err(CliError::PromptCount { path: file.to_owned(), found: prompts.len(), expected: num_experts });
    }
    rows(&prompts, source, base, Pooling::AllTokens)
}

/// Rows for a gate mode of mergekit-moe that reads prompts.
pub(super) fn of_merge(config: &MoeMergeConfig, bases: &[Checkpoint]) -> Result<RouterRows, CliError> {
    let prompts: Vec<Prompts> = config
        .experts()
        .iter()
        .map(|expert| Prompts { positive: expert.positive_prompts.clone(), negative: expert.negative_prompts.clone() })
        .collect();
    let base = &bases[config.base_model()];
    let pooling = match config.gate_mode() {
        GateMode::HiddenAvg => Pooling::AllTokens,
        GateMode::CheapEmbed => Pooling::Embeddings,
        _ => Pooling::LastToken,
    };
    rows(&prompts, base, base, pooling)
}

/// From the ids of a prompt to one vector a layer.
type Vectors<'a> = dyn Fn(&[u32]) -> Vec<Vec<f32>> + 'a;

struct Prompts {
    positive: Vec<String>,
    negative: Vec<String>,
}

/// What of a prompt becomes one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pooling {
    /// The router's inputs of the last token.
    LastToken,
    /// The router's inputs of all tokens.
    AllTokens,
    /// The embeddings of all tokens, for every layer the same.
    Embeddings,
}

fn rows(
    prompts: &[Prompts],
    source: &dyn WeightSource,
    base: &Checkpoint,
    pooling: Pooling,
) -> Result<RouterRows, CliError> {
    if let Some(moe) = source.config().moe {
        return Err(PlanError::AlreadySparse { num_local_experts: moe.num_local_experts }.into());
    }
    let tokenizer = Tokenizer::from_json(base.tokenizer_json()?.as_slice(), &base.path().join("tokenizer.json"))?;
    let vectors: Box<Vectors<'_>> = if pooling == Pooling::Embeddings {
        let (table, width) = (source.read(TensorId::EmbedTokens)?.to_f32(), source.config().hidden_size);
        let num_layers = source.config().num_hidden_layers;
        Box::new(move |ids| {
            let sum = ids.iter().fold(vec![0.0; width], |mut sum: Vec<f32>, &id| {
                sum.iter_mut().zip(&table[id as usize * width..]).for_each(|(s, x)| *s += x);
                sum
            });
            vec![sum.into_iter().map(|x| x / ids.len() as f32).collect(); num_layers]
        })
    } else {
        let device = device("flex")?;
        let model = DenseDecoder::load(&source, &device)?;
        Box::new(move |ids| router_inputs(&model, ids, pooling, &device))
    };
    let mut layers = vec![Vec::new(); source.config().num_hidden_layers];
    for (expert, of) in prompts.iter().enumerate() {
        let pooled = |texts: &[String]| -> Result<Vec<Vec<f32>>, CliError> {
            let mut sum = vec![vec![0.0; source.config().hidden_size]; layers.len()];
            for text in texts {
                let ids = tokenizer.encode_with_special_tokens(text)?;
                if ids.is_empty() || text.trim().is_empty() {
                    return Err(CliError::EmptyPrompt { expert });
                }
                within_vocabulary(&ids, source.config())?;
                let ids = &ids[..ids.len().min(source.config().max_position_embeddings)];
                for (sum, vector) in sum.iter_mut().zip(vectors(ids)) {
                    sum.iter_mut().zip(vector).for_each(|(s, x)| *s += x / texts.len() as f32);
                }
            }
            Ok(sum)
        };
        let (positive, negative) = (pooled(&of.positive)?, pooled(&of.negative)?);
        for (layer, (p, n)) in layers.iter_mut().zip(positive.iter().zip(&negative)) {
            layer.extend(RouterRows::direction(p, n));
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
