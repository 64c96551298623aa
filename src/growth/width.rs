//! Growing wide: the MLP of each layer becomes a mixture of experts.

use serde::{Deserialize, Serialize};

use super::PlanError;
use crate::config::{DecoderConfig, MoeConfig};
use crate::weights::{LayerTensor, Like, Projection, Purpose, RandomStream, Recipe, RouterInit, Step, TensorId};

/// Sparse upcycling: `num_local_experts` copies of each MLP behind a new router; all else stays (Komatsuzaki et al., 2023,
/// arXiv:2212.05055, §3).
///
/// With [`ExpertInit::Copy`] and routing weights that sum to 1, as Mixtral's do, the result computes the function of
/// its source, whatever the router.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UpcyclePlan {
    /// Experts per layer, `E`.
    pub num_local_experts: usize,
    /// Experts per token, `k`.
    pub num_experts_per_tok: usize,
    /// Weight of the load-balancing loss beside the language-model loss.
    pub router_aux_loss_coef: f64,
    /// Initial experts.
    #[serde(rename = "experts")]
    pub init: ExpertInit,
    /// Initial router.
    pub router: RouterInit,
    /// Seed of every random number of the plan.
    pub seed: u64,
}

/// How an expert starts from the MLP of its layer. `mean` and `std` (population) are over all entries, in `f64`. Experts
/// draw independently, the first one too.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ExpertInit {
    /// The same bytes: only training makes experts differ.
    Copy,
    /// `w + relative_std · std(w) · N(0, 1)` for each matrix `w`.
    Noise {
        /// Standard deviation of the noise as a fraction of that of the weight; 0 is [`ExpertInit::Copy`].
        relative_std: f64,
    },
    /// Drop-upcycling: `⌊ratio · intermediate_size⌋` intermediate dimensions, the same in all three matrices of an
    /// expert (rows of gate and up, columns of down), are re-drawn from `N(mean, std)` of the entries they replace in that
    /// matrix (Nakamura et al., 2025, arXiv:2502.19261, §3).
    Drop {
        /// Fraction of the intermediate dimensions that is re-drawn; 0 is [`ExpertInit::Copy`].
        ratio: f64,
    },
}

impl UpcyclePlan {
    /// Copies behind a router from `N(0, 0.02)`, with Mixtral 8x7B's balancing loss of 0.02 and seed 0.
    ///
    /// ```
    /// use deepwide::growth::{ExpertInit, UpcyclePlan};
    /// let plan = UpcyclePlan { init: ExpertInit::Drop { ratio: 0.5 }, ..UpcyclePlan::new(8, 2) };
    /// assert_eq!((plan.num_local_experts, plan.num_experts_per_tok), (8, 2));
    /// ```
    pub fn new(num_local_experts: usize, num_experts_per_tok: usize) -> Self {
        Self {
            num_local_experts,
            num_experts_per_tok,
            router_aux_loss_coef: 0.02,
            init: ExpertInit::Copy,
            router: RouterInit::default(),
            seed: 0,
        }
    }

    /// Whether every expert of an MLP of this size starts as a copy, so that the function stays.
    pub fn copies(&self, intermediate_size: usize) -> bool {
        match self.init {
            ExpertInit::Copy => true,
            ExpertInit::Noise { relative_std } => relative_std == 0.0,
            ExpertInit::Drop { ratio } => dropped(ratio, intermediate_size) == 0,
        }
    }

    pub(super) fn config(&self, source: &DecoderConfig) -> Result<DecoderConfig, PlanError> {
        if let Some(MoeConfig { num_local_experts, .. }) = source.moe {
            return Err(PlanError::AlreadySparse { num_local_experts });
        }
        let grown = source.with_experts(MoeConfig {
            num_local_experts: self.num_local_experts,
            num_experts_per_tok: self.num_experts_per_tok,
            router_aux_loss_coef: self.router_aux_loss_coef,
        })?;
        match (self.init, self.router) {
            (ExpertInit::Noise { relative_std }, _) if !(0.0..=1.0).contains(&relative_std) => {
                Err(PlanError::OutOfRange { field: "relative_std", found: relative_std, expected: "from 0 to 1" })
            }
            (ExpertInit::Drop { ratio }, _) if !(0.0..=1.0).contains(&ratio) => {
                Err(PlanError::OutOfRange { field: "drop ratio", found: ratio, expected: "from 0 to 1" })
            }
            (_, RouterInit::Normal { std }) if !(std > 0.0 && std <= 1.0) => {
                Err(PlanError::OutOfRange { field: "router std", found: std, expected: "above 0, at most 1" })
            }
            (_, RouterInit::Orthogonal) if self.num_local_experts > source.hidden_size => {
                let (num_local_experts, hidden_size) = (self.num_local_experts, source.hidden_size);
                Err(PlanError::TooManyOrthogonalRows { num_local_experts, hidden_size })
            }
            _ => Ok(grown),
        }
    }

    /// The recipe of a weight of the result; `source` and `like` describe the source.
    pub(super) fn recipe(&self, source: &DecoderConfig, like: &dyn Fn(TensorId) -> Like, id: TensorId) -> Recipe {
        match id {
            TensorId::Layer(layer, LayerTensor::Router) => Recipe::created_by(Step::Router {
                init: self.router,
                shape: [self.num_local_experts, source.hidden_size],
                like: like(TensorId::Layer(layer, LayerTensor::Mlp(Projection::Gate))),
                values: self.stream(layer, Purpose::Router),
            }),
            TensorId::Layer(layer, LayerTensor::Expert(expert, projection)) => {
                assert!(expert < self.num_local_experts, "expert {expert} of {}", self.num_local_experts);
                let step = self.expert(source.intermediate_size, layer, expert, projection);
                Recipe::of(TensorId::Layer(layer, LayerTensor::Mlp(projection))).then(step)
            }
            TensorId::Layer(_, LayerTensor::Mlp(_)) => panic!("{id:?} of a decoder whose MLPs are experts"),
            id => Recipe::of(id),
        }
    }

    fn expert(&self, intermediate_size: usize, layer: usize, expert: usize, projection: Projection) -> Step {
        let values = self.stream(layer, Purpose::Values(expert, projection));
        match self.init {
            ExpertInit::Noise { relative_std } if relative_std > 0.0 => Step::RelativeNoise { relative_std, values },
            ExpertInit::Drop { ratio } if dropped(ratio, intermediate_size) > 0 => {
                let dimensions = self.stream(layer, Purpose::Dropped(expert));
                Step::Drop { num_dimensions: dropped(ratio, intermediate_size), projection, dimensions, values }
            }
            _ => Step::Copy,
        }
    }

    fn stream(&self, layer: usize, purpose: Purpose) -> RandomStream {
        RandomStream { seed: self.seed, layer, purpose }
    }
}

/// As the paper's code counts, `int(r · f)`: the product in `f64`, truncated.
fn dropped(ratio: f64, intermediate_size: usize) -> usize {
    (ratio * intermediate_size as f64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigError;
    use crate::weights::Dtype;

    fn refused(plan: UpcyclePlan) -> PlanError {
        plan.config(&DecoderConfig::pico()).unwrap_err()
    }

    fn recipe(plan: UpcyclePlan, id: TensorId) -> Recipe {
        plan.recipe(&DecoderConfig::pico(), &|id| Like { id, dtype: Dtype::Float32 }, id)
    }

    #[test]
    fn mistral_upcycled_has_the_sizes_of_mixtral() {
        let base = DecoderConfig::mistral_7b().with(|f| f.sliding_window = None).unwrap();
        let grown = UpcyclePlan::new(8, 2).config(&base).unwrap();
        assert_eq!(grown, DecoderConfig::mixtral_8x7b().with(|f| f.rope_theta = 10_000.0).unwrap());
    }

    #[test]
    fn only_a_dense_decoder_can_be_upcycled() {
        let error = UpcyclePlan::new(4, 2).config(&DecoderConfig::mixtral_8x7b()).unwrap_err();
        assert_eq!(error.to_string(), "the source has 8 experts per layer already, expected a dense decoder");
    }

    #[test]
    fn experts_follow_the_rules_of_every_config() {
        let zero = |field| PlanError::Config(ConfigError::Zero { field });
        assert_eq!(refused(UpcyclePlan::new(0, 0)), zero("num_local_experts"));
        assert_eq!(refused(UpcyclePlan::new(4, 0)), zero("num_experts_per_tok"));
        let too_few = ConfigError::TooFewExperts { chosen: 5, available: 4 };
        assert_eq!(refused(UpcyclePlan::new(4, 5)), PlanError::Config(too_few));
        let plan = UpcyclePlan { router_aux_loss_coef: -1.0, ..UpcyclePlan::new(4, 2) };
        assert_eq!(refused(plan), PlanError::Config(ConfigError::BadAuxLossCoef { value: -1.0 }));
    }

    #[test]
    fn noise_is_a_number_from_0_to_1() {
        for found in [-0.1, 1.5, f64::INFINITY, f64::NAN] {
            let init = ExpertInit::Noise { relative_std: found };
            let message = refused(UpcyclePlan { init, ..UpcyclePlan::new(4, 2) }).to_string();
            assert_eq!(message, format!("relative_std is {found}, expected a number from 0 to 1"));
        }
    }

    #[test]
    fn a_drop_ratio_is_a_number_from_0_to_1() {
        for found in [-0.1, 1.1, f64::NAN] {
            let init = ExpertInit::Drop { ratio: found };
            let message = refused(UpcyclePlan { init, ..UpcyclePlan::new(4, 2) }).to_string();
            assert_eq!(message, format!("drop ratio is {found}, expected a number from 0 to 1"));
        }
    }

    #[test]
    fn a_router_std_is_a_number_above_0() {
        for found in [0.0, -0.02, 1e30, f64::NAN] {
            let router = RouterInit::Normal { std: found };
            let message = refused(UpcyclePlan { router, ..UpcyclePlan::new(4, 2) }).to_string();
            assert_eq!(message, format!("router std is {found}, expected a number above 0, at most 1"));
        }
    }

    #[test]
    fn orthogonal_rows_need_a_dimension_each() {
        let plan = |experts| UpcyclePlan { router: RouterInit::Orthogonal, ..UpcyclePlan::new(experts, 2) };
        assert!(plan(96).config(&DecoderConfig::pico()).is_ok());
        let message = "num_local_experts is 97, expected at most hidden_size 96 for orthogonal router rows";
        assert_eq!(refused(plan(97)).to_string(), message);
    }

    #[test]
    fn the_dropped_dimensions_are_counted_as_the_published_code_counts() {
        assert_eq!(dropped(0.5, 336), 168);
        assert_eq!(dropped(0.5, 5), 2);
        assert_eq!(dropped(0.29, 100), 28);
        assert_eq!((dropped(0.0, 7), dropped(1.0, 7)), (0, 7));
    }

    #[test]
    fn nothing_to_add_and_nothing_to_drop_are_copies() {
        let config = DecoderConfig::pico();
        let gate = TensorId::Layer(1, LayerTensor::Mlp(Projection::Gate));
        let expert = TensorId::Layer(1, LayerTensor::Expert(3, Projection::Gate));
        for init in [ExpertInit::Copy, ExpertInit::Noise { relative_std: 0.0 }, ExpertInit::Drop { ratio: 0.002 }] {
            let plan = UpcyclePlan { init, ..UpcyclePlan::new(4, 2) };
            assert!(plan.copies(config.intermediate_size));
            assert_eq!(recipe(plan, expert).copied(), Some(gate));
        }
    }

    #[test]
    fn the_three_matrices_of_an_expert_drop_the_same_dimensions() {
        let plan = UpcyclePlan { init: ExpertInit::Drop { ratio: 0.5 }, seed: 9, ..UpcyclePlan::new(4, 2) };
        let dimensions = |expert| {
            Projection::ALL.map(|p| match recipe(plan, TensorId::Layer(1, LayerTensor::Expert(expert, p))).steps[..] {
                [Step::Drop { dimensions, num_dimensions: 168, projection, .. }] if projection == p => dimensions,
                ref other => panic!("{other:?}"),
            })
        };
        assert_eq!(dimensions(2), [RandomStream { seed: 9, layer: 1, purpose: Purpose::Dropped(2) }; 3]);
        assert_ne!(dimensions(2), dimensions(3));
    }

    #[test]
    fn a_plan_survives_being_written_down() {
        for init in [ExpertInit::Copy, ExpertInit::Noise { relative_std: 0.01 }, ExpertInit::Drop { ratio: 0.5 }] {
            for router in [RouterInit::default(), RouterInit::Uniform, RouterInit::Zero, RouterInit::Orthogonal] {
                let plan = UpcyclePlan { init, router, seed: u64::MAX, ..UpcyclePlan::new(8, 2) };
                let text = serde_json::to_string(&plan).unwrap();
                assert_eq!(serde_json::from_str::<UpcyclePlan>(&text).unwrap(), plan, "{text}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "expert 4 of 4")]
    fn there_is_no_expert_beyond_the_last() {
        let id = TensorId::Layer(0, LayerTensor::Expert(4, Projection::Up));
        recipe(UpcyclePlan::new(4, 2), id);
    }

    #[test]
    #[should_panic(expected = "whose MLPs are experts")]
    fn the_dense_mlp_is_gone() {
        let id = TensorId::Layer(0, LayerTensor::Mlp(Projection::Up));
        recipe(UpcyclePlan::new(4, 2), id);
    }
}
