//! One growth of a decoder, as plain data.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::depth::LayerPlan;
use super::error::PlanError;
use super::granularity;
use super::merge_experts::{ExpertMerge, MergedExpert};
use super::merge_layers::LayerMerge;
use super::routers::RouterRows;
use super::width::{ExpertInit, UpcyclePlan};
use crate::config::DecoderConfig;
use crate::lora::LoraAdapter;
use crate::weights::{Dtype, Like, LowRank, Recipe, Step, TensorId};

/// One growth of a decoder. Growths in a list are applied in order; a merge can only be the first.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum GrowthPlan {
    /// Deep: [`LayerPlan::depth_up_scaling`] of whatever depth the source has.
    DepthUpScaling {
        /// Layers dropped from each copy, `m`.
        overlap: usize,
    },
    /// Deep: [`LayerPlan::stack`].
    Stack {
        /// Copies of the source.
        copies: usize,
    },
    /// Deep: [`LayerPlan::identity_blocks`].
    IdentityBlocks {
        /// Blocks inserted.
        num_blocks: usize,
    },
    /// Deep: layers repeated, reordered or left out.
    Splice(LayerPlan),
    /// Wide: each MLP becomes a mixture of experts.
    Upcycle(UpcyclePlan),
    /// The routers of a mixture are replaced, in the type they have.
    Routers {
        /// The new routers.
        #[serde(rename = "blake3")]
        rows: RouterRows,
        /// Name of the file with the prompts that the rows were computed from.
        prompts: Option<String>,
    },
    /// Each expert is cut into equal parts that are visited together (fine-grained experts).
    Granularity {
        /// Parts per expert, `G`.
        num_parts: usize,
    },
    /// Each weight is rounded to one type. Integers cannot be, and a finite number must not become infinite.
    Cast {
        /// The type.
        dtype: Dtype,
    },
    /// The updates of an adapter are added to the matrices.
    Lora {
        /// The adapter.
        #[serde(skip)]
        adapter: Arc<LoraAdapter>,
        /// Its name.
        name: String,
        /// The hash of its factors, BLAKE3 in hexadecimal.
        blake3: String,
        /// The hash of its config, on which the scale of the updates depends.
        config_blake3: String,
    },
    /// Layers of several models, one on the other.
    #[serde(rename = "mergekit_passthrough")]
    MergeLayers(LayerMerge),
    /// The MLPs of several models as experts.
    #[serde(rename = "mergekit_moe")]
    MergeExperts(ExpertMerge),
}

impl GrowthPlan {
    /// The config of what this makes of `source`; a merge knows its own.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn config(&self, source: &DecoderConfig) -> Result<DecoderConfig, PlanError> {
        if let Some(layers) = self.layers(source.num_hidden_layers)? {
            return layers.config(source);
        }
        match self {
            Self::Upcycle(plan) => plan.config(source),
            Self::Granularity { num_parts } => granularity::config(source, *num_parts),
            Self::Routers { rows, .. } => rows.fit(source).map(|()| source.clone()),
            Self::Lora { adapter, .. } => Ok(adapter.check(source).map(|()| source.clone())?),
            Self::Cast { dtype } if !dtype.is_computed_with() => Err(PlanError::BadType { found: *dtype }),
            Self::MergeLayers(plan) => Ok(plan.config.clone()),
            Self::MergeExperts(plan) => Ok(plan.config.clone()),
            _ => Ok(source.clone()),
        }
    }

    /// The config after all of `plans`.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn config_after(plans: &[Self], source: &DecoderConfig) -> Result<DecoderConfig, PlanError> {
        plans.iter().try_fold(source.clone(), |config, plan| plan.config(&config))
    }

    /// The layers that a growth in depth takes from a source of `num_layers`; `None` for other growths.
    ///
    /// # Errors
    /// Those of the constructors of [`LayerPlan`].
    pub fn layers(&self, num_layers: usize) -> Result<Option<LayerPlan>, PlanError> {
        Ok(Some(match self {
            Self::DepthUpScaling { overlap } => LayerPlan::depth_up_scaling(num_layers, *overlap)?,
            Self::Stack { copies } => LayerPlan::stack(num_layers, *copies)?,
            Self::IdentityBlocks { num_blocks } => LayerPlan::identity_blocks(num_layers, *num_blocks)?,
            Self::Splice(layers) => layers.clone(),
            _ => return Ok(None),
        }))
    }

    /// Whether the result computes the function of a source of this config, up to rounding and whatever its weights.
    ///
    /// # Errors
    /// Those of [`layers`](Self::layers).
    pub fn preserves_function(&self, source: &DecoderConfig) -> Result<bool, PlanError> {
        if let Some(layers) = self.layers(source.num_hidden_layers)? {
            return Ok(layers.preserves_function());
        }
        Ok(match self {
            Self::Upcycle(plan) => plan.copies(source.intermediate_size),
            // New rows change nothing only before identical experts, which an upcycle answers for.
            Self::Routers { .. } | Self::Granularity { .. } | Self::Cast { .. } => true,
            Self::MergeExperts(plan) => {
                let unchanged = |expert: &MergedExpert| expert.noise_std == 0.0 && expert.residual_scale == 1.0;
                plan.models.len() == 1 && plan.experts.iter().all(unchanged)
            }
            _ => false,
        })
    }

    /// Whether weights are computed, and so rounded to their type, although the function is preserved.
    pub fn rounds(&self) -> bool {
        match self {
            Self::Granularity { num_parts } => !num_parts.is_power_of_two(),
            Self::MergeExperts(_) | Self::Cast { .. } => true,
            _ => false,
        }
    }

    /// The same growth with another seed for its random numbers, if it draws any.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        match self {
            Self::Upcycle(plan) => Self::Upcycle(UpcyclePlan { seed, ..plan }),
            Self::MergeExperts(plan) => Self::MergeExperts(ExpertMerge { seed, ..plan }),
            other => other,
        }
    }

    /// Models that it reads.
    pub(super) fn num_models(&self) -> usize {
        match self {
            Self::MergeLayers(plan) => plan.models.len(),
            Self::MergeExperts(plan) => plan.models.len(),
            _ => 1,
        }
    }

    pub(super) fn is_merge(&self) -> bool {
        matches!(self, Self::MergeLayers(_) | Self::MergeExperts(_))
    }

    /// The recipe of a weight of the result. `source` is the config before, and `like` describes a weight of each model
    /// before. `layers` is what [`layers`](Self::layers) gives for `source`.
    pub(super) fn recipe(
        &self,
        source: &DecoderConfig,
        layers: Option<&LayerPlan>,
        like: &dyn Fn(usize, TensorId) -> Like,
        id: TensorId,
    ) -> Recipe {
        let like_only = |id| like(0, id);
        match (self, layers) {
            (_, Some(layers)) => layers.recipe(source, &like_only, id),
            (Self::Upcycle(plan), _) => plan.recipe(source, &like_only, id),
            (Self::Routers { rows, .. }, _) => rows.recipe(source, &like_only, id),
            (Self::Granularity { num_parts }, _) => granularity::recipe(*num_parts, id),
            (Self::Lora { adapter, .. }, _) => {
                let step = |update: &Arc<LowRank>| {
                    let LowRank { rank, scale, .. } = **update;
                    Recipe::of(id).then(Step::LowRank { rank, scale, update: update.clone() })
                };
                adapter.get(id).map_or_else(|| Recipe::of(id), step)
            }
            (Self::Cast { dtype }, _) => Recipe::of(id).then(Step::Cast { dtype: *dtype }),
            (Self::MergeLayers(plan), _) => plan.recipe(id),
            (Self::MergeExperts(plan), _) => plan.recipe(like, id),
            _ => unreachable!("growths in depth have layers"),
        }
    }
}

/// `depth up-scaling, m = 8`; `8×top-2 mixture, experts with noise 0.01, router normal(0.02)`.
impl fmt::Display for GrowthPlan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        match self {
            Self::DepthUpScaling { overlap } => write!(f, "depth up-scaling, m = {overlap}"),
            Self::Stack { copies: 1 } => f.write_str("a stack of 1 copy"),
            Self::Stack { copies } => write!(f, "a stack of {copies} copies"),
            Self::IdentityBlocks { num_blocks } => write!(f, "{num_blocks} identity block{}", plural(*num_blocks)),
            Self::Splice(layers) => write!(f, "layers {layers}"),
            Self::Upcycle(UpcyclePlan { num_local_experts, num_experts_per_tok, init, router, .. }) => {
                write!(f, "{num_local_experts}×top-{num_experts_per_tok} mixture, experts ")?;
                match init {
                    ExpertInit::Copy => f.write_str("copied")?,
                    ExpertInit::Noise { relative_std } => write!(f, "with noise {relative_std}")?,
                    ExpertInit::Drop { ratio } => write!(f, "with {ratio} of their dimensions re-drawn")?,
                }
                write!(f, ", router {router}")
            }
            Self::Routers { prompts: Some(prompts), .. } => write!(f, "routers from the hidden states of {prompts}"),
            Self::Routers { prompts: None, .. } => f.write_str("given routers"),
            Self::Granularity { num_parts } => write!(f, "experts in {num_parts} part{}", plural(*num_parts)),
            Self::Cast { dtype } => write!(f, "rounded to {dtype}"),
            Self::Lora { name, .. } => write!(f, "adapter {} merged in", crate::error::cut(name)),
            Self::MergeLayers(plan) => write!(f, "mergekit passthrough: {plan}"),
            Self::MergeExperts(plan) => {
                write!(f, "mergekit-moe: {} experts, gates {}", plan.experts.len(), plan.gate_mode)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::weights::RouterInit;

    #[test]
    fn a_title_has_every_setting() {
        let plan = UpcyclePlan { init: ExpertInit::Drop { ratio: 0.5 }, ..UpcyclePlan::new(8, 2) };
        let expected = "8×top-2 mixture, experts with 0.5 of their dimensions re-drawn, router normal(0.02)";
        assert_eq!(GrowthPlan::Upcycle(plan).to_string(), expected);
        assert_eq!(GrowthPlan::Stack { copies: 3 }.to_string(), "a stack of 3 copies");
        assert_eq!(GrowthPlan::IdentityBlocks { num_blocks: 1 }.to_string(), "1 identity block");
    }

    #[test]
    fn a_record_is_made_of_kinds_and_numbers() {
        let plan = UpcyclePlan { router: RouterInit::Zero, seed: 7, ..UpcyclePlan::new(4, 2) };
        let expected = json!({
            "kind": "upcycle",
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "router_aux_loss_coef": 0.02,
            "experts": {"kind": "copy"},
            "router": {"kind": "zero"},
            "seed": 7,
        });
        assert_eq!(json!(GrowthPlan::Upcycle(plan)), expected);
        let deep = GrowthPlan::DepthUpScaling { overlap: 8 };
        assert_eq!(json!(deep), json!({"kind": "depth_up_scaling", "overlap": 8}));
        let finer = GrowthPlan::Granularity { num_parts: 2 };
        assert_eq!(json!(finer), json!({"kind": "granularity", "num_parts": 2}));
    }

    #[test]
    fn routers_of_other_rows_have_another_record() {
        let record = |w: f32| {
            let rows = RouterRows::new(vec![vec![w; 4]]).unwrap();
            json!(GrowthPlan::Routers { rows, prompts: Some("prompts.txt".to_owned()) })
        };
        assert_eq!(record(0.5), record(0.5));
        assert_ne!(record(0.5), record(0.25));
        assert_eq!((&record(0.5)["kind"], &record(0.5)["prompts"]), (&json!("routers"), &json!("prompts.txt")));
    }

    #[test]
    fn a_list_of_plans_has_one_config() {
        let base = DecoderConfig::pico();
        let plans = [
            GrowthPlan::DepthUpScaling { overlap: 2 },
            GrowthPlan::Upcycle(UpcyclePlan::new(4, 2)),
            GrowthPlan::Granularity { num_parts: 2 },
            GrowthPlan::Stack { copies: 2 },
        ];
        let grown = GrowthPlan::config_after(&plans, &base).unwrap();
        assert_eq!((grown.num_hidden_layers, grown.moe.unwrap().num_local_experts), (24, 8));
        assert_eq!(GrowthPlan::config_after(&[], &base).unwrap(), base);
        assert_eq!(GrowthPlan::config_after(&plans[2..], &base), Err(PlanError::Dense));
    }

    #[test]
    fn only_types_that_decoders_compute_in_can_be_cast_to() {
        let refused = GrowthPlan::Cast { dtype: Dtype::Int8 }.config(&DecoderConfig::pico());
        assert_eq!(refused, Err(PlanError::BadType { found: Dtype::Int8 }));
    }
}
