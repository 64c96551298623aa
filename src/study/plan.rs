//! The plan of a study, made from configs before any weight is read.

use super::error::StudyError;
use crate::config::{DecoderConfig, MoeConfig};
use crate::growth::{GrowthPlan, LayerPlan, UpcyclePlan};
use crate::profile::flops::train_flops;
use crate::profile::matching::{Context, iso_flop_overlap};
use crate::report::{ArmKind, UNEQUAL_FLOPS};

/// The choices of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanOptions {
    /// Overlaps `m` of deep arms besides the iso-FLOP one.
    pub overlaps: Vec<usize>,
    /// Experts per layer of the wide arm.
    pub num_local_experts: usize,
    /// Experts per token of the wide arm.
    pub num_experts_per_tok: usize,
    /// Training FLOPs of each arm.
    pub budget: Budget,
    /// Windows per update.
    pub batch_size: usize,
    /// Tokens per window.
    pub seq_length: usize,
}

/// The training compute of each arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// Training FLOPs.
    Flops(u64),
    /// The training FLOPs of the dense control on this many tokens.
    ControlTokens(u64),
}

/// One arm: how it grows from the base, and how long it trains.
#[derive(Debug, Clone)]
pub struct ArmSpec {
    /// Display name, unique in the study.
    pub name: String,
    /// Deep, wide, or the control.
    pub kind: ArmKind,
    /// The growths in order, none for the control. A run sets the seed of fresh weights.
    pub growth: Vec<GrowthPlan>,
    /// Shape after growth.
    pub config: DecoderConfig,
    /// Number of updates whose FLOPs are nearest to the budget.
    pub num_steps: usize,
}

/// The arms of a study and their budget.
#[derive(Debug, Clone)]
pub struct StudyPlan {
    /// The arms, the dense control first.
    pub arms: Vec<ArmSpec>,
    /// Training FLOPs of each arm.
    pub budget_flops: u64,
    /// The quantity that is equal between arms, in words, and how far updates that are whole miss it.
    pub match_rule: String,
}

impl StudyPlan {
    /// Plans a dense control, a deep arm at the iso-FLOP overlap, one at each overlap asked for, and a wide arm.
    ///
    /// # Errors
    /// [`StudyError`], before anything is run.
    pub fn new(base: &DecoderConfig, options: &PlanOptions) -> Result<Self, StudyError> {
        if let Some(MoeConfig { num_local_experts, .. }) = base.moe {
            return Err(StudyError::SparseBase { num_local_experts });
        }
        let upcycle = UpcyclePlan::new(options.num_local_experts, options.num_experts_per_tok);
        let wide = GrowthPlan::Upcycle(upcycle);
        let moe = wide.config(base)?.moe.expect("upcycling makes experts");
        let matched = iso_flop_overlap(base, moe, Context::CausalMean(options.seq_length as u64))?;
        let mut growths = vec![("dense control".to_owned(), ArmKind::Dense, Vec::new())];
        let mut overlaps = vec![matched.overlap];
        for &overlap in &options.overlaps {
            if overlaps[1..].contains(&overlap) {
                return Err(StudyError::RepeatedOverlap { overlap });
            }
            overlaps.push(overlap);
        }
        if overlaps[1..].contains(&matched.overlap) {
            overlaps.remove(0);
        }
        for overlap in overlaps {
            let plan = LayerPlan::depth_up_scaling(base.num_hidden_layers, overlap)?;
            growths.push((format!("DUS m={overlap}"), ArmKind::Deep, vec![GrowthPlan::Splice(plan)]));
        }
        let name = format!("MoE {}×top-{}", moe.num_local_experts, moe.num_experts_per_tok);
        growths.push((name, ArmKind::Wide, vec![wide]));
        let update_flops =
            |config: &DecoderConfig| small(train_flops(config, options.batch_size as u64, options.seq_length as u64));
        let budget_flops = match options.budget {
            Budget::Flops(flops) => flops,
            Budget::ControlTokens(tokens) => {
                let per_update = options.batch_size as u128 * options.seq_length as u128;
                small(u128::from(tokens) * u128::from(update_flops(base)) / per_update)
            }
        };
        let arm = |(name, kind, growth): (String, ArmKind, Vec<GrowthPlan>)| {
            let config = growth.iter().try_fold(base.clone(), |config, plan| plan.config(&config))?;
            let update_flops = update_flops(&config);
            if budget_flops < update_flops {
                return Err(StudyError::BudgetTooSmall { arm: name, budget_flops, update_flops });
            }
            let num_steps = (budget_flops as f64 / update_flops as f64).round() as usize;
            Ok(ArmSpec { name, kind, growth, config, num_steps })
        };
        let arms = growths.into_iter().map(arm).collect::<Result<Vec<_>, _>>()?;
        let budget = budget_flops as f64;
        let missed = |arm: &ArmSpec| (arm.num_steps as f64 * update_flops(&arm.config) as f64 - budget).abs() / budget;
        let most_missed = arms.iter().map(missed).fold(0.0, f64::max);
        let equal = match most_missed <= UNEQUAL_FLOPS {
            true => "equal training FLOPs".to_owned(),
            false => {
                let percent = 100.0 * most_missed;
                format!("training FLOPs within {percent:.1} % of the budget")
            }
        };
        let match_rule = format!("{equal}; m={} is nearest, ratio {:.3}", matched.overlap, matched.ratio);
        Ok(Self { arms, budget_flops, match_rule })
    }
}

/// A count as a record holds it, at most `u64::MAX`.
fn small(flops: u128) -> u64 {
    u64::try_from(flops).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::growth::PlanError;

    /// Options of a small study on the built-in base.
    pub(in crate::study) fn options() -> PlanOptions {
        PlanOptions {
            overlaps: Vec::new(),
            num_local_experts: 8,
            num_experts_per_tok: 2,
            budget: Budget::Flops(1_000_000_000_000),
            batch_size: 8,
            seq_length: 128,
        }
    }

    fn refused(change: impl FnOnce(&mut PlanOptions)) -> StudyError {
        let mut options = options();
        change(&mut options);
        StudyPlan::new(&DecoderConfig::pico(), &options).unwrap_err()
    }

    #[test]
    fn arms_spend_the_budget_to_within_half_an_update() {
        let mut options = options();
        options.overlaps = vec![0, 3];
        let plan = StudyPlan::new(&DecoderConfig::pico(), &options).unwrap();
        assert_eq!(plan.arms.len(), 5);
        for arm in &plan.arms {
            let update = train_flops(&arm.config, 8, 128) as f64;
            let spent = update * arm.num_steps as f64;
            assert!((spent - 1e12).abs() <= update / 2.0, "{}: {spent}", arm.name);
        }
    }

    #[test]
    fn training_flops_are_called_equal_only_if_whole_updates_spend_the_budget() {
        let rule = |tokens: u64| {
            let options = PlanOptions { budget: Budget::ControlTokens(tokens), ..options() };
            StudyPlan::new(&DecoderConfig::pico(), &options).unwrap()
        };
        let many = rule(1000 * 8 * 128);
        assert!(many.match_rule.starts_with("equal training FLOPs; m="), "{}", many.match_rule);
        let few = rule(2 * 8 * 128);
        let missed = |arm: &ArmSpec| {
            let spent = arm.num_steps as f64 * train_flops(&arm.config, 8, 128) as f64;
            (spent / few.budget_flops as f64 - 1.0).abs()
        };
        let most = few.arms.iter().map(missed).fold(0.0, f64::max);
        assert!(most > UNEQUAL_FLOPS);
        let expected = format!("training FLOPs within {:.1} % of the budget; m=", 100.0 * most);
        assert!(few.match_rule.starts_with(&expected), "{}", few.match_rule);
    }

    #[test]
    fn tokens_of_the_control_set_the_flops_of_every_arm() {
        let mut options = options();
        options.budget = Budget::ControlTokens(100 * 8 * 128);
        let plan = StudyPlan::new(&DecoderConfig::pico(), &options).unwrap();
        assert_eq!(plan.arms[0].num_steps, 100);
        assert!(plan.arms[1].num_steps < 70);
    }

    #[test]
    fn the_iso_flop_overlap_is_not_run_twice() {
        let plan = StudyPlan::new(&DecoderConfig::pico(), &options()).unwrap();
        let [GrowthPlan::Splice(_)] = plan.arms[1].growth[..] else { panic!("a deep arm") };
        let overlap = 8 - plan.arms[1].config.num_hidden_layers / 2;
        let mut options = options();
        options.overlaps = vec![overlap];
        assert_eq!(StudyPlan::new(&DecoderConfig::pico(), &options).unwrap().arms.len(), 3);
    }

    #[test]
    fn impossible_plans_are_refused() {
        assert!(matches!(refused(|o| o.overlaps = vec![9]), StudyError::Plan(PlanError::OverlapTooLarge { .. })));
        assert!(matches!(refused(|o| o.overlaps = vec![3, 3]), StudyError::RepeatedOverlap { overlap: 3 }));
        assert!(matches!(refused(|o| o.budget = Budget::Flops(10)), StudyError::BudgetTooSmall { .. }));
        assert!(matches!(refused(|o| o.num_local_experts = 1), StudyError::Plan(PlanError::Config(_))));
        let sparse = DecoderConfig::mixtral_8x7b();
        let error = StudyPlan::new(&sparse, &options()).unwrap_err();
        assert!(matches!(error, StudyError::SparseBase { num_local_experts: 8 }));
    }
}
