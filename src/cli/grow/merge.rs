//! What a mergekit file asks for, as a view.

use super::super::failure::Failure;
use super::growth::{Growth, first_matrix};
use super::noise::Noise;
use super::operator::Operator;
use super::request::Request;
use super::{GrowArgs, gates, vocabularies};
use crate::formats::Checkpoint;
use crate::growth::mergekit::{MergeConfig, MergeWarning, Merged, MoeMerge, MoeMergeOptions};
use crate::weights::{LayerTensor, Projection};

impl Request {
    /// The view, of models whose ids mean the same.
    pub(super) fn merged(&self, config: &MergeConfig, text: &[u8], args: &GrowArgs) -> Result<Growth<'_>, Failure> {
        let sources: Vec<&Checkpoint> = self.bases.iter().collect();
        let other_tokenizers = vocabularies::compare(self)?;
        let kept = vec![(config.kept_as().to_owned(), text.to_vec())];
        let told = |warnings: &[MergeWarning]| warnings.iter().map(MergeWarning::to_string).collect::<Vec<String>>();
        match config {
            MergeConfig::Passthrough(passthrough) => {
                let merged = Merged::new(passthrough, sources)?;
                let operators = vec![Operator::MergekitPassthrough { layers: merged.plan().to_string() }];
                let mut warnings = told(merged.plan().warnings());
                warnings.extend(other_tokenizers);
                let source = Box::new(merged);
                let (preserves, rounds) = (false, false);
                Ok(Growth { source, operators, warnings, kept, preserves, rounds, noise: None })
            }
            MergeConfig::Moe(moe) => {
                let rows =
                    if moe.gate_mode().reads_prompts() { Some(gates::of_merge(moe, &self.bases)?) } else { None };
                let options = MoeMergeOptions { seed: args.growth.seed, mergekit_compat: args.mergekit_compat, rows };
                let still = MoeMerge::new(&moe.without_noise(), sources.clone(), &options)?;
                let merged = MoeMerge::new(moe, sources, &options)?;
                let mut warnings = told(merged.plan().warnings());
                warnings.extend(other_tokenizers);
                let noise = moe.experts().iter().zip(0..).find_map(|(e, i)| Some((i, e.noise_scale?)));
                let sample = |(expert, std)| {
                    let id = first_matrix(LayerTensor::Expert(expert, Projection::Gate));
                    Noise::sample(format!("noise_scale {std} of expert {expert}"), (&still, id), (&merged, id))
                };
                let noise = noise.filter(|(_, std)| *std > 0.0).map(sample).transpose()?;
                let operators = vec![Operator::MergekitMoe {
                    num_local_experts: moe.experts().len(),
                    gate_mode: moe.gate_mode().name(),
                    seed: args.growth.seed,
                }];
                let preserves = self.bases.len() == 1
                    && moe.experts().iter().all(|e| e.noise_scale.is_none() && e.residual_scale.is_none());
                let source = Box::new(merged);
                Ok(Growth { source, operators, warnings, kept, preserves, rounds: true, noise })
            }
        }
    }
}
