//! What a mergekit file asks for, as a view.

use super::super::failure::Failure;
use super::growth::{Growth, first_matrix};
use super::noise::Noise;
use super::request::Request;
use super::{GrowArgs, gates, vocabularies};
use crate::config::DecoderConfig;
use crate::formats::Checkpoint;
use crate::growth::mergekit::{MergeConfig, MergeWarning, MoeMergeOptions};
use crate::growth::{Grown, GrowthPlan};
use crate::weights::{LayerTensor, Projection, WeightSource};

impl Request {
    /// The view, of models whose ids mean the same.
    pub(super) fn merged(&self, config: &MergeConfig, text: &[u8], args: &GrowArgs) -> Result<Growth<'_>, Failure> {
        let sources: Vec<&Checkpoint> = self.bases.iter().collect();
        let configs: Vec<&DecoderConfig> = sources.iter().map(|base| base.config()).collect();
        let other_tokenizers = vocabularies::compare(self)?;
        let (plan, still, warnings) = match config {
            MergeConfig::Passthrough(config) => {
                let plan = config.plan(&configs)?;
                let warnings = config.warnings(&plan, &configs);
                (GrowthPlan::MergeLayers(plan), None, warnings)
            }
            MergeConfig::Moe(config) => {
                let reads_prompts = config.gate_mode().reads_prompts();
                let rows = reads_prompts.then(|| gates::of_merge(config, &self.bases)).transpose()?;
                let options = MoeMergeOptions { seed: args.growth.seed, mergekit_compat: args.mergekit_compat, rows };
                let plan = config.plan(&configs, &options)?;
                let noise = plan.experts().iter().enumerate().find(|(_, expert)| expert.noise_std > 0.0);
                let still = noise.map(|(expert, noisy)| (expert, noisy.noise_std, plan.without_noise()));
                (GrowthPlan::MergeExperts(plan), still, config.warnings())
            }
        };
        let preserves = configs.len() == 1 && plan.preserves_function(configs[0])?;
        let rounds = plan.rounds();
        let source = Grown::merge(sources.clone(), [plan])?;
        let noise = match still {
            None => None,
            Some((expert, std, still)) => {
                let id = first_matrix(LayerTensor::Expert(expert, Projection::Gate));
                let still = Grown::merge(sources, [GrowthPlan::MergeExperts(still)])?;
                let what = format!("noise_scale {std} of expert {expert}");
                Some(Noise::sample(what, (&still, id), (&source, id))?)
            }
        };
        let kept = vec![(config.file_name().to_owned(), text.to_vec())];
        let warnings = warnings.iter().map(MergeWarning::to_string).chain(other_tokenizers).collect();
        Ok(Growth { source, warnings, kept, preserves, rounds, noise })
    }
}
