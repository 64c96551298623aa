//! What a `mergekit-moe` config makes of its models.

use super::error::{Difference, Fault, MergeError, MergeWarning, Position};
use super::moe::{GateMode, MoeMergeConfig, same_prompts};
use crate::config::{DecoderConfig, MoeConfig};
use crate::growth::{PlanError, RouterInit, RouterRows, UpcyclePlan};

/// What decides the routers and the noise of a merge, beside its config.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MoeMergeOptions {
    /// Decides every random number.
    pub seed: u64,
    /// Start the routers of `gate_mode: random` from `N(0, 1)`, as mergekit does, and not from `N(0, 0.02)`: after
    /// the norm, their logits have a deviation of about `√hidden_size`, so each token knows but one expert.
    pub mergekit_compat: bool,
    /// The routers, for a mode that reads prompts.
    pub rows: Option<RouterRows>,
}

/// How the routers of a merge start.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum MergedRouter {
    /// Drawn.
    Init(RouterInit),
    /// Given.
    Rows(RouterRows),
}

/// A mixture of experts made of several models, checked; computed from configs alone.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeMergePlan {
    pub(super) config: DecoderConfig,
    pub(super) router: MergedRouter,
    pub(super) seed: u64,
    warnings: Vec<MergeWarning>,
}

impl MoeMergeConfig {
    /// The plan for models of these configs, in the order of [`models`](Self::models).
    ///
    /// The result has the fields of `base_model`, rotary scaling and sliding window among them; mergekit drops the
    /// window.
    ///
    /// # Errors
    /// A [`MergeError`] whose fault is [`Fault::AlreadySparse`], [`Fault::ModelsDiffer`], [`Fault::NoRouterRows`] or
    /// [`Fault::Plan`].
    ///
    /// # Panics
    /// If there are not as many configs as models.
    pub fn plan(&self, configs: &[&DecoderConfig], options: &MoeMergeOptions) -> Result<MoeMergePlan, MergeError> {
        assert_eq!(configs.len(), self.models().len(), "a config for each model");
        let refuse = |at: Position, fault| MergeError { file: self.file.clone(), at, fault };
        let name = |model: usize| self.models()[model].to_string();
        let base = configs[self.base_model];
        let places = std::iter::once((self.at, self.base_model));
        let experts = self.experts_at.iter().copied().zip(self.experts.iter().map(|expert| expert.model));
        for (at, model) in places.chain(experts) {
            if let Some(MoeConfig { num_local_experts, .. }) = configs[model].moe {
                return Err(refuse(at, Fault::AlreadySparse { model: name(model), num_local_experts }));
            }
            let differences = differences(base, configs[model]);
            if !differences.is_empty() {
                let (first, other) = (name(self.base_model), name(model));
                return Err(refuse(at, Fault::ModelsDiffer { first, other, differences }));
            }
        }
        let like = UpcyclePlan::new(self.experts.len(), self.experts_per_token);
        let moe = MoeConfig {
            num_local_experts: like.num_local_experts,
            num_experts_per_tok: like.num_experts_per_tok,
            router_aux_loss_coef: like.router_aux_loss_coef,
        };
        let plan_fault = |error: PlanError| refuse(self.at, Fault::Plan(error));
        let config = base.with_experts(moe).map_err(|error| plan_fault(error.into()))?;
        let router = match (self.gate_mode, &options.rows) {
            (_, Some(rows)) => {
                rows.fit(&config).map_err(plan_fault)?;
                MergedRouter::Rows(rows.clone())
            }
            (GateMode::Random, None) if options.mergekit_compat => MergedRouter::Init(RouterInit::Normal { std: 1.0 }),
            (GateMode::Random, None) => MergedRouter::Init(RouterInit::default()),
            (GateMode::UniformRandom, None) => MergedRouter::Init(RouterInit::Uniform),
            (mode, None) => return Err(refuse(self.at, Fault::NoRouterRows { gate_mode: mode.name() })),
        };
        Ok(MoeMergePlan { config, router, seed: options.seed, warnings: self.warnings() })
    }

    fn warnings(&self) -> Vec<MergeWarning> {
        let mut warnings = Vec::new();
        if self.experts.len() == 1 {
            warnings.push(MergeWarning::OneExpert);
        }
        let pairs = (0..self.experts.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
        let same = |&(first, second): &(usize, usize)| same_prompts(&self.experts[first], &self.experts[second]);
        if let Some((first, second)) = pairs.filter(|_| self.gate_mode.reads_prompts()).find(same) {
            warnings.push(MergeWarning::SamePrompts { first, second });
        }
        warnings
    }
}

impl MoeMergePlan {
    /// The decoder that the plan makes.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// What may not be meant.
    pub fn warnings(&self) -> &[MergeWarning] {
        &self.warnings
    }
}

/// Fields in which the model of an expert must agree with the base: those that an MLP has to do with.
fn differences(base: &DecoderConfig, expert: &DecoderConfig) -> Vec<Difference> {
    let sizes = |config: &DecoderConfig| {
        [
            ("model_type", format!("{:?}", config.model_type).to_lowercase()),
            ("hidden_size", config.hidden_size.to_string()),
            ("intermediate_size", config.intermediate_size.to_string()),
            ("num_hidden_layers", config.num_hidden_layers.to_string()),
        ]
    };
    let pairs = sizes(base).into_iter().zip(sizes(expert)).filter(|(base, expert)| base != expert);
    pairs.map(|((field, first), (_, other))| Difference { field: field.to_owned(), first, other }).collect()
}
