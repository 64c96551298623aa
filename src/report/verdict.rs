//! One sentence on what the study found: what was measured, in numbers, and nothing more.

use super::records::{Arm, ArmKind, Study, Workload};
use super::statistics::Estimate;
use super::table::{printable, si};

/// Smallest difference of held-out loss that a single seed may call a difference, nats per token.
pub const TIE_NATS: f64 = 0.005;

/// Arms whose training FLOPs differ by more than this part are said to differ.
const UNEQUAL_FLOPS: f64 = 0.02;

/// The finding of a study in one sentence.
///
/// The best wide arm is set against the best deep arm, and both against the dense control. Two arms are tied if their
/// 95 % intervals over seeds overlap or, where one of them has no interval, if they differ by less than [`TIE_NATS`].
/// Speed and size are added where both were measured.
pub fn verdict(study: &Study) -> String {
    let best = |kind| Contender::best(study, kind);
    let (dense, deep, wide) = (best(ArmKind::Dense), best(ArmKind::Deep), best(ArmKind::Wide));
    let comparisons = match (&dense, &deep, &wide) {
        (None, None, None) => return "No arm was trained and scored: there is no verdict.".to_owned(),
        (Some(_), None, None) => return "Only the dense control was trained: there is nothing to compare.".to_owned(),
        (_, Some(deep), Some(wide)) => {
            let against_dense = match &dense {
                Some(dense) => {
                    format!("{}; {}", wide.against_control(dense), deep.named_against_control(dense))
                }
                None => "; no dense control was trained".to_owned(),
            };
            format!("{}{against_dense}", wide.against(deep))
        }
        (Some(dense), Some(grown), None) | (Some(dense), None, Some(grown)) => grown.against(dense),
        (None, Some(grown), None) | (None, None, Some(grown)) => {
            return format!("{} was trained without a dense control: there is nothing to compare.", grown.label);
        }
    };
    let contenders: Vec<&Contender> = [&dense, &deep, &wide].into_iter().flatten().collect();
    let running = match (&deep, &wide) {
        (Some(deep), Some(wide)) => running_costs(study, deep.arm, wide.arm),
        _ => String::new(),
    };
    format!("At {} from this base, {comparisons}{running}.", budget(study, &contenders))
}

/// The arm that stands for its kind.
struct Contender<'a> {
    arm: &'a Arm,
    label: String,
    loss: Estimate,
}

impl<'a> Contender<'a> {
    /// The arm of this kind with the lowest mean final loss; its label says among how many it was chosen.
    fn best(study: &'a Study, kind: ArmKind) -> Option<Self> {
        let of_kind = || study.arms.iter().filter(move |arm| arm.kind == kind);
        let scored = of_kind().filter_map(|arm| Some((arm, arm.final_loss_nats()?)));
        let (arm, loss) = scored.min_by(|(_, a), (_, b)| a.mean.total_cmp(&b.mean))?;
        let adjective = match kind {
            ArmKind::Dense => "dense",
            ArmKind::Deep => "deep",
            ArmKind::Wide => "wide",
        };
        let label = match of_kind().count() {
            1 => printable(&arm.name),
            among => format!("{} (the best of {among} {adjective} arms)", printable(&arm.name)),
        };
        Some(Self { arm, label, loss })
    }

    /// `MoE ended 0.0310 nats below DUS (seeds: 1, no interval)`.
    fn against(&self, other: &Self) -> String {
        let difference = self.loss.mean - other.loss.mean;
        let verb = match tie(&self.loss, &other.loss) {
            Some(reason) => {
                return format!(
                    "{} and {} tied ({difference:+.4} nats, {reason}; {})",
                    self.label,
                    other.label,
                    seeds(&self.loss, &other.loss)
                );
            }
            None => signed(difference),
        };
        format!("{} ended {verb} {} ({})", self.label, other.label, seeds(&self.loss, &other.loss))
    }

    fn against_control(&self, dense: &Self) -> String {
        match tie(&self.loss, &dense.loss) {
            Some(reason) => format!(" and tied with the dense control ({reason})"),
            None => format!(" and {} the dense control", signed(self.loss.mean - dense.loss.mean)),
        }
    }

    fn named_against_control(&self, dense: &Self) -> String {
        match tie(&self.loss, &dense.loss) {
            Some(reason) => format!("{} tied with the dense control ({reason})", self.arm_name()),
            None => format!("{} ended {} the dense control", self.arm_name(), signed(self.loss.mean - dense.loss.mean)),
        }
    }

    fn arm_name(&self) -> String {
        printable(&self.arm.name)
    }
}

/// Why two losses cannot be told apart, or `None` if they can.
fn tie(a: &Estimate, b: &Estimate) -> Option<String> {
    match a.overlaps(b) {
        Some(overlaps) => overlaps.then(|| "95 % intervals overlap".to_owned()),
        None => ((a.mean - b.mean).abs() < TIE_NATS).then(|| format!("less than {TIE_NATS} nats apart")),
    }
}

fn signed(difference: f64) -> String {
    format!("{:.4} nats {}", difference.abs(), if difference < 0.0 { "below" } else { "above" })
}

fn seeds(a: &Estimate, b: &Estimate) -> String {
    let counts = if a.n == b.n { format!("seeds: {}", a.n) } else { format!("seeds: {} and {}", a.n, b.n) };
    match a.half_width.and(b.half_width) {
        Some(_) => format!("{counts}, 95 % intervals do{} overlap", if tie(a, b).is_some() { "" } else { " not" }),
        None => format!("{counts}, no interval"),
    }
}

/// What the arms spent: one number if they agree, else each its own.
fn budget(study: &Study, contenders: &[&Contender]) -> String {
    let budget = study.settings.train_flops_budget_flops as f64;
    let spent = |contender: &Contender| contender.arm.train_flops_spent() as f64;
    let agree = contenders.iter().all(|contender| (spent(contender) - budget).abs() <= UNEQUAL_FLOPS * budget);
    if agree {
        return format!("{} of training", si(budget, "FLOP"));
    }
    let each = contenders.iter().map(|contender| format!("{} {}", contender.arm_name(), si(spent(contender), "FLOP")));
    format!("unequal training compute ({})", each.collect::<Vec<_>>().join(", "))
}

/// How the two grown models differ in speed and size, where it was measured.
fn running_costs(study: &Study, deep: &Arm, wide: &Arm) -> String {
    let mut clauses = Vec::new();
    if let Some((workload, deep_timing, wide_timing)) =
        study.smallest_decode().and_then(|workload| Some((workload, deep.timing(workload)?, wide.timing(workload)?)))
    {
        let (deep_low, deep_high) = deep_timing.tokens_per_second_quartiles();
        let (wide_low, wide_high) = wide_timing.tokens_per_second_quartiles();
        let ratio = deep_timing.tokens_per_second() / wide_timing.tokens_per_second();
        let batch = match workload {
            Workload::Decode { batch, .. } => batch,
            Workload::Prefill { .. } => 1,
        };
        clauses.push(if deep_low <= wide_high && wide_low <= deep_high {
            format!("both decode equally fast at batch {batch} (quartiles overlap)")
        } else {
            let (faster, ratio) = if ratio > 1.0 { (deep, ratio) } else { (wide, 1.0 / ratio) };
            format!("{} decodes {ratio:.2}× faster at batch {batch}", printable(&faster.name))
        });
    }
    let (deep_bytes, wide_bytes) = (deep.memory.weight_bytes as f64, wide.memory.weight_bytes as f64);
    if deep_bytes > 0.0 && wide_bytes > 0.0 {
        let (larger, ratio) =
            if wide_bytes > deep_bytes { (wide, wide_bytes / deep_bytes) } else { (deep, deep_bytes / wide_bytes) };
        clauses.push(format!("{} holds {ratio:.2}× the weights", printable(&larger.name)));
    }
    clauses.iter().map(|clause| format!("; {clause}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    /// A study whose arms end at these losses, one inner list an arm (dense, deep, wide), one number a seed.
    fn ending_at(finals: [&[f64]; 3]) -> Study {
        let mut study = fixture::study(3, finals[0].len().max(finals[1].len()).max(finals[2].len()));
        for (arm, finals) in study.arms.iter_mut().zip(finals) {
            arm.runs.truncate(finals.len());
            for (run, loss) in arm.runs.iter_mut().zip(finals) {
                let last = run.evals.last_mut().unwrap();
                last.heldout_loss_nats = *loss;
                last.train_flops = study.settings.train_flops_budget_flops;
            }
        }
        study
    }

    #[test]
    fn one_seed_far_apart_is_a_difference_without_an_interval() {
        let said = verdict(&ending_at([&[1.95], &[1.92], &[1.889]]));
        assert!(said.starts_with("At 12.0 TFLOP of training from this base, MoE 8×top-2 ended 0.0310 nats below "));
        assert!(said.contains("below DUS m = 2 (seeds: 1, no interval) and 0.0610 nats below the dense control"));
        assert!(said.contains("; DUS m = 2 ended 0.0300 nats below the dense control"), "{said}");
    }

    #[test]
    fn worse_is_said_as_plainly_as_better() {
        let said = verdict(&ending_at([&[1.90], &[1.92], &[1.95]]));
        assert!(said.contains("MoE 8×top-2 ended 0.0300 nats above DUS m = 2"), "{said}");
        assert!(said.contains("0.0500 nats above the dense control; DUS m = 2 ended 0.0200 nats above"), "{said}");
    }

    #[test]
    fn one_seed_close_together_is_a_tie() {
        let said = verdict(&ending_at([&[1.95], &[1.890], &[1.886]]));
        let expected =
            "MoE 8×top-2 and DUS m = 2 tied (-0.0040 nats, less than 0.005 nats apart; seeds: 1, no interval)";
        assert!(said.contains(expected), "{said}");
        let apart = verdict(&ending_at([&[1.95], &[1.892], &[1.886]]));
        assert!(!apart.contains("tied"), "{apart}");
    }

    #[test]
    fn seeds_whose_intervals_overlap_are_a_tie_however_far_their_means() {
        let said = verdict(&ending_at([&[1.95, 1.951], &[1.92, 1.99], &[1.88, 1.95]]));
        assert!(said.contains("tied (-0.0400 nats, 95 % intervals overlap; seeds: 2"), "{said}");
    }

    #[test]
    fn seeds_whose_intervals_are_apart_differ_however_near_their_means() {
        let deep = [1.9030, 1.9031, 1.9032];
        let wide = [1.9000, 1.9001, 1.9002];
        let said = verdict(&ending_at([&[1.95, 1.9501, 1.9502], &deep, &wide]));
        let expected = "ended 0.0030 nats below DUS m = 2 (seeds: 3, 95 % intervals do not overlap)";
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn unequal_numbers_of_seeds_are_both_named() {
        let said = verdict(&ending_at([&[1.95], &[1.92, 1.93], &[1.88]]));
        assert!(said.contains("(seeds: 1 and 2, no interval)"), "{said}");
    }

    #[test]
    fn the_best_of_several_arms_is_said_to_be_chosen() {
        let said = verdict(&fixture::study(5, 3));
        assert!(said.contains("(the best of 2 deep arms)") && said.contains("(the best of 2 wide arms)"), "{said}");
    }

    #[test]
    fn arms_that_spent_unequally_are_said_to() {
        let mut study = ending_at([&[1.95], &[1.92], &[1.88]]);
        study.arms[1].runs[0].evals.last_mut().unwrap().train_flops /= 2;
        let said = verdict(&study);
        assert!(said.starts_with("At unequal training compute (dense control 12.0 TFLOP, DUS m = 2 6.00 TFLOP, "));
    }

    #[test]
    fn speed_and_size_are_named_from_the_record() {
        let study = ending_at([&[1.95], &[1.92], &[1.88]]);
        let said = verdict(&study);
        let ratio = study.arms[2].memory.weight_bytes as f64 / study.arms[1].memory.weight_bytes as f64;
        assert!(said.ends_with(&format!("; MoE 8×top-2 holds {ratio:.2}× the weights.")), "{said}");
        assert!(said.contains("; DUS m = 2 decodes 1.") && said.contains("× faster at batch 1;"), "{said}");
    }

    #[test]
    fn speeds_whose_quartiles_overlap_are_equal() {
        let mut study = ending_at([&[1.95], &[1.92], &[1.88]]);
        study.arms[1].timings = study.arms[2].timings.clone();
        assert!(verdict(&study).contains("both decode equally fast at batch 1 (quartiles overlap)"));
    }

    #[test]
    fn what_was_not_measured_is_not_mentioned() {
        let mut study = ending_at([&[1.95], &[1.92], &[1.88]]);
        study.arms[2].timings.clear();
        assert!(!verdict(&study).contains("decode"));
        study.arms.remove(0);
        assert!(verdict(&study).contains("no dense control was trained"));
    }

    #[test]
    fn one_grown_arm_is_held_against_the_control() {
        let study = Study { arms: fixture::study(2, 1).arms, ..ending_at([&[1.95], &[1.92], &[1.88]]) };
        let said = verdict(&study);
        assert!(
            said.contains("DUS m = 2 ended 0.") && said.contains("dense control (seeds: 1, no interval)"),
            "{said}"
        );
    }

    #[test]
    fn without_two_arms_there_is_no_verdict() {
        let mut study = fixture::study(2, 1);
        study.arms[1].runs.clear();
        assert_eq!(verdict(&study), "Only the dense control was trained: there is nothing to compare.");
        study.arms[0].runs.clear();
        assert_eq!(verdict(&study), "No arm was trained and scored: there is no verdict.");
        let mut lone = fixture::study(2, 1);
        lone.arms.remove(0);
        assert_eq!(verdict(&lone), "DUS m = 2 was trained without a dense control: there is nothing to compare.");
    }
}
