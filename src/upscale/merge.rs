//! The grown view of a mergekit file.

use super::growth::Growth;
use super::noise::NoiseSample;
use super::vocabularies;
use super::{Request, Sources, UpscaleError, router_rows};
use crate::config::DecoderConfig;
use crate::formats::Checkpoint;
use crate::growth::mergekit::{MergeConfig, MergeWarning, MoeMergeOptions};
use crate::growth::{Grown, GrowthPlan};
use crate::weights::{LayerTensor, Projection, TensorId, WeightSource};

/// What decides a merge beside its file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MergeOptions {
    /// Seed of every random number.
    pub seed: u64,
    /// Draw routers of `gate_mode: random` with a standard deviation of 1, as mergekit does.
    pub mergekit_compat: bool,
}

impl<'a> Growth<'a> {
    /// Merges the models of a mergekit file, whose token ids must have one meaning.
    ///
    /// # Errors
    /// [`UpscaleError`].
    ///
    /// # Panics
    /// If the request is no mergekit file.
    pub fn of_merge(sources: &'a Sources, options: MergeOptions) -> Result<Self, UpscaleError> {
        let Request::Merge { config, text, .. } = &sources.request else { panic!("a mergekit file") };
        let models: Vec<&Checkpoint> = sources.bases.iter().collect();
        let configs: Vec<&DecoderConfig> = models.iter().map(|base| base.config()).collect();
        let other_tokenizers = vocabularies::compare(sources)?;
        let (plan, noisy, warnings) = match &**config {
            MergeConfig::Passthrough(config) => {
                let plan = config.plan(&configs)?;
                let warnings = config.warnings(&plan, &configs);
                (GrowthPlan::MergeLayers(plan), None, warnings)
            }
            MergeConfig::Moe(config) => {
                let reads_prompts = config.gate_mode().reads_prompts();
                let rows = reads_prompts.then(|| router_rows::of_merge(config, &sources.bases)).transpose()?;
                let MergeOptions { seed, mergekit_compat } = options;
                let plan = config.plan(&configs, &MoeMergeOptions { seed, mergekit_compat, rows })?;
                let noisy = plan.experts().iter().enumerate().find(|(_, expert)| expert.noise_std > 0.0);
                let noisy = noisy.map(|(expert, noisy)| (expert, noisy.noise_std, plan.without_noise()));
                (GrowthPlan::MergeExperts(plan), noisy, config.warnings())
            }
        };
        let preserves = configs.len() == 1 && plan.preserves_function(configs[0])?;
        let rounds = plan.rounds();
        let source = Grown::merge(models.clone(), [plan])?;
        source.check_types()?;
        let sample = |(expert, std, still)| {
            let id = TensorId::Layer(0, LayerTensor::Expert(expert, Projection::Gate));
            let still = Grown::merge(models, [GrowthPlan::MergeExperts(still)])?;
            NoiseSample::read(format!("noise_scale {std} of expert {expert}"), &still, &source, id)
        };
        let noise = noisy.map(sample).transpose()?;
        let configs = vec![(config.file_name().to_owned(), text.clone())];
        let warnings = warnings.iter().map(MergeWarning::to_string).chain(other_tokenizers).collect();
        Ok(Self { source, warnings, configs, preserves, rounds, noise })
    }
}
