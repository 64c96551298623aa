//! Growing wide: every dense MLP becomes a mixture of experts.
//!
//! An [`UpcyclePlan`] says how many experts there are and how they start; reading weights by it is the business of
//! [`Grown`](super::Grown).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::random_stream::{Purpose, RandomStream};
use super::{PlanError, Recipe};
use crate::config::{DecoderConfig, MoeConfig};
use crate::weights::{Change, LayerTensor, Projection, TensorId};

/// Standard deviation of a fresh router: that of a fresh linear layer in the published models.
const ROUTER_STD: f64 = 0.02;

/// Sparse upcycling: `num_local_experts` copies of each MLP behind a fresh router, all else untouched (Komatsuzaki
/// et al., 2023, arXiv:2212.05055, §3).
///
/// With [`ExpertInit::Copy`] and routing weights that sum to 1, as Mixtral's do, the result computes the function of
/// its source, whatever the router.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UpcyclePlan {
    /// Experts per layer, `E`.
    pub num_local_experts: usize,
    /// Experts that each token visits, `k`.
    pub num_experts_per_tok: usize,
    /// Weight of the load-balancing loss beside the language-model loss.
    pub router_aux_loss_coef: f64,
    /// How an expert starts from the dense MLP.
    pub init: ExpertInit,
    /// How the router starts.
    pub router: RouterInit,
    /// Decides every random number of the plan.
    pub seed: u64,
}

/// How an expert starts from the MLP of its layer. `std` and `mean` are those of all entries, in `f64`, and `std`
/// divides by their number. Experts draw independently, the first one too.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ExpertInit {
    /// The same bytes: experts differ only once training makes them.
    Copy,
    /// `w + relative_std · std(w) · N(0, 1)` in each matrix `w`.
    Noise {
        /// Size of the noise beside the weights; 0 is [`ExpertInit::Copy`].
        relative_std: f64,
    },
    /// Drop-upcycling: `⌊ratio · intermediate_size⌋` intermediate dimensions, the same in all three matrices of an
    /// expert (rows of gate and up, columns of down), are re-drawn from `N(mean, std)` of what they hold in that
    /// matrix (Nakamura et al., 2025, arXiv:2502.19261, §3).
    Drop {
        /// Part of the intermediate dimensions that is re-drawn; 0 is [`ExpertInit::Copy`].
        ratio: f64,
    },
}

/// How the router of each layer, `[num_local_experts, hidden_size]`, starts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum RouterInit {
    /// Entries from `N(0, std)`.
    Normal {
        /// Standard deviation; 0.02 by default.
        std: f64,
    },
    /// Entries from the uniform distribution on `±1/√hidden_size`: the start of a fresh `torch.nn.Linear`.
    Uniform,
    /// Zeros: every score ties, so only the order of the experts decides until training breaks the tie.
    Zero,
    /// Rows at right angles, each of length `0.02 · √hidden_size`: the root mean square length of a row of
    /// `Normal { std: 0.02 }`.
    Orthogonal,
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

    pub(super) fn config(&self, source: &DecoderConfig) -> Result<DecoderConfig, PlanError> {
        if let Some(MoeConfig { num_local_experts, .. }) = source.moe {
            return Err(PlanError::AlreadySparse { num_local_experts });
        }
        let grown = source.with_experts(MoeConfig {
            num_local_experts: self.num_local_experts,
            num_experts_per_tok: self.num_experts_per_tok,
            router_aux_loss_coef: self.router_aux_loss_coef,
        })?;
        self.init.check()?;
        self.router.check(self.num_local_experts, source.hidden_size)?;
        Ok(grown)
    }

    pub(super) fn recipe(&self, source: &DecoderConfig, id: TensorId) -> Recipe {
        match id {
            TensorId::Layer(layer, LayerTensor::Router) => Recipe::Router {
                like: TensorId::Layer(layer, LayerTensor::Mlp(Projection::Gate)),
                init: self.router,
                values: self.draws(layer, Purpose::Router),
            },
            TensorId::Layer(layer, LayerTensor::Expert(expert, projection)) => {
                assert!(expert < self.num_local_experts, "expert {expert} of {}", self.num_local_experts);
                self.expert(source, layer, expert, projection)
            }
            TensorId::Layer(_, LayerTensor::Mlp(_)) => panic!("{id:?} of a decoder whose MLPs are experts"),
            id => Recipe::Copy { source: id },
        }
    }

    fn expert(&self, config: &DecoderConfig, layer: usize, expert: usize, projection: Projection) -> Recipe {
        let source = TensorId::Layer(layer, LayerTensor::Mlp(projection));
        let values = self.draws(layer, Purpose::Values(expert, projection));
        match self.init {
            ExpertInit::Noise { relative_std } if relative_std > 0.0 => Recipe::Noise { source, relative_std, values },
            ExpertInit::Drop { ratio } if dropped(ratio, config.intermediate_size) > 0 => Recipe::Drop {
                source,
                count: dropped(ratio, config.intermediate_size),
                dimensions: self.draws(layer, Purpose::Dropped(expert)),
                values,
            },
            ExpertInit::Copy | ExpertInit::Noise { .. } | ExpertInit::Drop { .. } => Recipe::Copy { source },
        }
    }

    fn draws(&self, layer: usize, purpose: Purpose) -> RandomStream {
        RandomStream { seed: self.seed, layer, purpose }
    }
}

impl ExpertInit {
    fn check(&self) -> Result<(), PlanError> {
        match *self {
            Self::Noise { relative_std: found } if !(0.0..=1.0).contains(&found) => Err(PlanError::BadNoise { found }),
            Self::Drop { ratio: found } if !(0.0..=1.0).contains(&found) => Err(PlanError::BadDropRatio { found }),
            _ => Ok(()),
        }
    }
}

impl RouterInit {
    /// The same for the record of a router.
    pub(super) fn change(self) -> Change {
        let std = if let Self::Normal { std } = self { Some(std) } else { None };
        Change::Router { init: self.name(), std }
    }

    /// Its name, without numbers.
    fn name(self) -> &'static str {
        match self {
            Self::Normal { .. } => "normal",
            Self::Uniform => "uniform",
            Self::Zero => "zero",
            Self::Orthogonal => "orthogonal",
        }
    }

    /// Length of an orthogonal row.
    pub(super) fn orthogonal_norm(hidden_size: usize) -> f64 {
        ROUTER_STD * (hidden_size as f64).sqrt()
    }

    fn check(&self, num_local_experts: usize, hidden_size: usize) -> Result<(), PlanError> {
        match *self {
            Self::Normal { std: found } if !(found > 0.0 && found <= 1.0) => Err(PlanError::BadRouterStd { found }),
            Self::Orthogonal if num_local_experts > hidden_size => {
                Err(PlanError::TooManyOrthogonalRows { num_local_experts, hidden_size })
            }
            _ => Ok(()),
        }
    }
}

/// `Normal { std: 0.02 }`.
impl Default for RouterInit {
    fn default() -> Self {
        Self::Normal { std: ROUTER_STD }
    }
}

/// `normal(0.02)`, `uniform`, `zero`, `orthogonal`.
impl fmt::Display for RouterInit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Normal { std } => write!(f, "normal({std})"),
            _ => f.write_str(self.name()),
        }
    }
}

/// Like the paper's code, `int(r · f)`: the product in `f64`, truncated.
fn dropped(ratio: f64, intermediate_size: usize) -> usize {
    (ratio * intermediate_size as f64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigError;

    fn refused(plan: UpcyclePlan) -> PlanError {
        plan.config(&DecoderConfig::pico()).unwrap_err()
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
            assert_eq!(plan.recipe(&config, expert), Recipe::Copy { source: gate });
        }
    }

    #[test]
    fn the_three_matrices_of_an_expert_drop_the_same_dimensions() {
        let config = DecoderConfig::pico();
        let plan = UpcyclePlan { init: ExpertInit::Drop { ratio: 0.5 }, seed: 9, ..UpcyclePlan::new(4, 2) };
        let dimensions = |expert| {
            Projection::ALL.map(|p| match plan.recipe(&config, TensorId::Layer(1, LayerTensor::Expert(expert, p))) {
                Recipe::Drop { dimensions, count: 168, .. } => dimensions,
                other => panic!("{other:?}"),
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
        UpcyclePlan::new(4, 2).recipe(&DecoderConfig::pico(), id);
    }

    #[test]
    #[should_panic(expected = "whose MLPs are experts")]
    fn the_dense_mlp_is_gone() {
        let id = TensorId::Layer(0, LayerTensor::Mlp(Projection::Up));
        UpcyclePlan::new(4, 2).recipe(&DecoderConfig::pico(), id);
    }
}
