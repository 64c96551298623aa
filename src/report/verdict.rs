//! The verdict: one sentence of measured numbers.

use super::records::{Arm, ArmKind, Study, Timing, Workload};
use super::statistics::{Estimate, median, quantile};
use super::table::{printable, si};

/// With a single seed, held-out losses closer than this are a tie, nats per token.
pub const TIE_NATS: f64 = 0.005;

/// Relative difference from the budget above which training FLOPs are called unequal.
pub const UNEQUAL_FLOPS: f64 = 0.02;

/// CPUs that other processes may use during timings. Above it, speeds are not compared.
const MOST_OTHER_LOAD_CPUS: f64 = 0.2;

/// Limit on the upper over the lower quartile of the speed ratios of the rounds. Above it, no arm is called faster.
const MOST_RATIO_SPREAD: f64 = 1.15;

/// Fewest updates of an arm for its loss to be compared.
pub const FEWEST_UPDATES: usize = 20;

/// The finding of a study in one sentence.
///
/// Compares the best wide arm with the best deep arm, and both with the dense control. Arms see the same windows in the
/// same order under the same seed, so they are compared seed by seed: two are tied if the 95 % interval of their mean
/// difference contains 0 or, with a single seed in common, if they differ by less than [`TIE_NATS`].
/// Losses of arms with fewer than [`FEWEST_UPDATES`] are not compared. Speed and size follow where both were measured.
pub fn verdict(study: &Study) -> String {
    let [dense, deep, wide] = contenders(study);
    let comparisons = match (&dense, &deep, &wide) {
        (None, None, None) => return "No arm was trained and scored: there is no verdict.".to_owned(),
        (Some(_), None, None) => return "Only the dense control was trained: there is nothing to compare.".to_owned(),
        (_, Some(deep), Some(wide)) => {
            let against_dense = match &dense {
                Some(dense) => [wide, deep].map(|grown| grown.against_control(dense)).join("; "),
                None => "no dense control was trained".to_owned(),
            };
            format!("{}; {against_dense}", wide.against(deep))
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
    let budget = budget(study, &contenders);
    match too_few_updates(contenders.iter().map(|contender| contender.arm)) {
        Some(fewest) => {
            let found = format!("{fewest}, expected {FEWEST_UPDATES} an arm");
            format!("At {budget} from this base, too few updates to compare growths ({found}){running}.")
        }
        None => format!("At {budget} from this base, {comparisons}{running}."),
    }
}

/// Why the [`verdict`] does not compare losses, or gives no interval, in a few words for a figure.
pub fn caveat(study: &Study) -> Option<String> {
    let contenders = contenders(study);
    let arms = || contenders.iter().flatten().map(|contender| contender.arm);
    let is_single = arms().all(|arm| arm.runs.len() < 2);
    match too_few_updates(arms()) {
        Some(fewest) => Some(format!("too few to compare: {fewest} updates, expected {FEWEST_UPDATES}")),
        None => is_single.then(|| "one seed: no interval".to_owned()),
    }
}

/// The arms that are compared: the best dense, deep and wide one.
fn contenders(study: &Study) -> [Option<Contender<'_>>; 3] {
    [ArmKind::Dense, ArmKind::Deep, ArmKind::Wide].map(|kind| Contender::best(study, kind))
}

/// The updates of the shortest run, if it has fewer than [`FEWEST_UPDATES`].
fn too_few_updates<'a>(arms: impl Iterator<Item = &'a Arm>) -> Option<usize> {
    let updates = arms.flat_map(|arm| &arm.runs).filter_map(|run| run.evals.last());
    updates.map(|eval| eval.step).min().filter(|fewest| *fewest < FEWEST_UPDATES)
}

/// The best arm of its kind.
struct Contender<'a> {
    arm: &'a Arm,
    label: String,
    loss: Estimate,
}

impl<'a> Contender<'a> {
    /// The arm of this kind with the lowest mean final loss. Its label says among how many it was chosen.
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
        let difference = self.minus(other);
        match tie(&difference) {
            Some(reason) => {
                let mean = difference.mean;
                format!("{} and {} tied ({mean:+.4} nats, {reason}; {})", self.label, other.label, seeds(&difference))
            }
            None => {
                let verb = signed(difference.mean);
                format!("{} ended {verb} {} ({})", self.label, other.label, seeds(&difference))
            }
        }
    }

    /// `DUS ended 0.0093 nats above the dense control (± 0.0031 over 3 seeds)`.
    fn against_control(&self, dense: &Self) -> String {
        let difference = self.minus(dense);
        let (name, mean, seeds) = (self.arm_name(), difference.mean, seeds(&difference));
        match tie(&difference) {
            Some(reason) => format!("{name} tied with the dense control ({mean:+.4} nats, {reason}; {seeds})"),
            None => format!("{name} ended {} the dense control ({seeds})", signed(mean)),
        }
    }

    /// Final loss of this arm minus that of the other, paired by seed; the difference of the means without a common seed.
    fn minus(&self, other: &Self) -> Estimate {
        let of_seed = |seed| other.arm.runs.iter().find(|run| run.seed == seed)?.final_loss_nats();
        let pairs = self.arm.runs.iter().filter_map(|run| Some(run.final_loss_nats()? - of_seed(run.seed)?));
        let unpaired = Estimate { mean: self.loss.mean - other.loss.mean, half_width: None, n: 0 };
        Estimate::of(&pairs.collect::<Vec<_>>()).unwrap_or(unpaired)
    }

    fn arm_name(&self) -> String {
        printable(&self.arm.name)
    }
}

/// Why a difference counts as a tie; `None` if it does not.
fn tie(difference: &Estimate) -> Option<String> {
    match difference.half_width {
        Some(half_width) => {
            (difference.mean.abs() <= half_width).then(|| "95 % interval of the difference contains 0".to_owned())
        }
        None => (difference.mean.abs() < TIE_NATS).then(|| format!("less than {TIE_NATS} nats apart")),
    }
}

fn signed(difference: f64) -> String {
    format!("{:.4} nats {}", difference.abs(), if difference < 0.0 { "below" } else { "above" })
}

fn seeds(difference: &Estimate) -> String {
    match (difference.half_width, difference.n) {
        (Some(half_width), n) => format!("± {half_width:.4} over {n} seeds"),
        (None, 0) => "no seed in common, no interval".to_owned(),
        (None, n) => format!("seeds: {n}, no interval"),
    }
}

/// The training compute of the arms: one number if they agree, else one each.
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

/// Running costs of the two grown arms: decoding speed at the smallest batch, memory of the weights.
fn running_costs(study: &Study, deep: &Arm, wide: &Arm) -> String {
    let mut clauses = Vec::new();
    if let Some((workload, deep_timing, wide_timing)) =
        study.smallest_decode().and_then(|workload| Some((workload, deep.timing(workload)?, wide.timing(workload)?)))
    {
        let batch = match workload {
            Workload::Decode { batch, .. } => batch,
            Workload::Prefill { .. } => 1,
        };
        let timings = [deep_timing, wide_timing];
        clauses.push(speed_claim(study, [deep, wide].map(|arm| printable(&arm.name)), timings, batch));
    }
    let (deep_bytes, wide_bytes) = (deep.memory.weight_bytes as f64, wide.memory.weight_bytes as f64);
    if deep_bytes > 0.0 && wide_bytes > 0.0 {
        let (larger, ratio) =
            if wide_bytes > deep_bytes { (wide, wide_bytes / deep_bytes) } else { (deep, deep_bytes / wide_bytes) };
        clauses.push(format!("the weights of {} take {ratio:.2} times the memory", printable(&larger.name)));
    }
    clauses.iter().map(|clause| format!("; {clause}")).collect()
}

/// Compares the speed of two arms round by round. One is called faster only if it was so in every round, the ratios of the
/// rounds agree, and no other process used the machine.
fn speed_claim(study: &Study, [first, second]: [String; 2], [a, b]: [&Timing; 2], batch: usize) -> String {
    let num_rounds = study.rounds.len();
    if num_rounds < 2 || [a, b].iter().any(|timing| timing.samples_s.len() != num_rounds) {
        return format!("decoding speeds at batch {batch} were not timed in turns: no claim");
    }
    let load = study.rounds.iter().filter_map(|round| round.other_load_cpus).fold(0.0, f64::max);
    if load > MOST_OTHER_LOAD_CPUS {
        return format!(
            "no claim on decoding speed: other processes used up to {load:.1} CPUs while it was timed (limit {MOST_OTHER_LOAD_CPUS})"
        );
    }
    // Samples are times, so this is how many times as fast the first arm is.
    let ratios: Vec<f64> = a.samples_s.iter().zip(&b.samples_s).map(|(a, b)| b / a).collect();
    let (low, middle, high) = (quantile(&ratios, 0.25), median(&ratios), quantile(&ratios, 0.75));
    let agree = ratios.iter().all(|ratio| *ratio > 1.0) || ratios.iter().all(|ratio| *ratio < 1.0);
    if !agree || high / low > MOST_RATIO_SPREAD {
        return format!(
            "no claim on decoding speed at batch {batch}: rounds disagree (in the median, {first} decodes at {middle:.2} times \
             the speed of {second}; {num_rounds} rounds, quartiles {low:.2}–{high:.2})"
        );
    }
    let (faster, slower, [low, middle, high]) = if middle > 1.0 {
        (first, second, [low, middle, high])
    } else {
        (second, first, [high, middle, low].map(|ratio| 1.0 / ratio))
    };
    format!(
        "{faster} decodes at {middle:.2} times the speed of {slower} at batch {batch} ({num_rounds} rounds, quartiles \
         {low:.2}–{high:.2})"
    )
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    /// A study whose arms (dense, deep, wide) end at these losses, one per seed.
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
        assert!(
            said.contains("below DUS m = 2 (seeds: 1, no interval); MoE 8×top-2 ended 0.0610 nats below the dense ")
        );
        assert!(
            said.contains("; DUS m = 2 ended 0.0300 nats below the dense control (seeds: 1, no interval)"),
            "{said}"
        );
    }

    #[test]
    fn worse_is_said_as_plainly_as_better() {
        let said = verdict(&ending_at([&[1.90], &[1.92], &[1.95]]));
        assert!(said.contains("MoE 8×top-2 ended 0.0300 nats above DUS m = 2"), "{said}");
        let expected = "0.0500 nats above the dense control (seeds: 1, no interval); DUS m = 2 ended 0.0200 nats above";
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn each_grown_arm_has_its_own_distance_to_the_control() {
        let said = verdict(&ending_at([&[1.95, 1.951], &[1.92, 1.922], &[1.94, 1.932]]));
        let deep = "DUS m = 2 ended 0.0295 nats below the dense control (± 0.0064 over 2 seeds)";
        let wide = "MoE 8×top-2 tied with the dense control (-0.0145 nats, 95 % interval of the difference contains 0; \
                    ± 0.0572 over 2 seeds)";
        assert!(said.contains(&format!("; {wide}; {deep}")), "{said}");
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
    fn seeds_that_disagree_are_a_tie_however_far_their_means() {
        let said = verdict(&ending_at([&[1.95, 1.951], &[1.92, 1.99], &[1.97, 1.86]]));
        assert!(
            said.contains("tied (-0.0400 nats, 95 % interval of the difference contains 0; ± 1.1435 over 2"),
            "{said}"
        );
    }

    #[test]
    fn differences_are_paired_by_seed() {
        let said = verdict(&ending_at([&[1.95, 1.951], &[1.92, 1.99], &[1.88, 1.951]]));
        assert!(said.contains("ended 0.0395 nats below DUS m = 2 (± 0.0064 over 2 seeds)"), "{said}");
    }

    #[test]
    fn only_common_seeds_count() {
        let said = verdict(&ending_at([&[1.95], &[1.92, 1.93], &[1.88]]));
        assert!(said.contains("0.0400 nats below DUS m = 2 (seeds: 1, no interval)"), "{said}");
    }

    #[test]
    fn the_best_of_several_arms_is_called_that() {
        let said = verdict(&fixture::study(5, 3));
        assert!(said.contains("(the best of 2 deep arms)") && said.contains("(the best of 2 wide arms)"), "{said}");
    }

    #[test]
    fn losses_of_fewer_than_twenty_updates_are_not_compared() {
        let after = |step| {
            let mut study = ending_at([&[1.95], &[1.92], &[1.88]]);
            study.arms[2].runs[0].evals.last_mut().unwrap().step = step;
            verdict(&study)
        };
        let said = after(19);
        assert!(said.contains("too few updates to compare growths (19, expected 20 an arm); "), "{said}");
        assert!(!said.contains("nats"), "{said}");
        assert!(after(20).contains("nats"));
    }

    #[test]
    fn the_caveat_of_a_figure_is_that_of_the_verdict() {
        let said = |study: &Study| (caveat(study), verdict(study));
        let (figure, text) = said(&fixture::study(3, 1));
        assert_eq!(figure.unwrap(), "one seed: no interval");
        assert!(text.contains("no interval") && text.contains("nats"), "{text}");

        let study = fixture::study(5, 2);
        let best = Contender::best(&study, ArmKind::Wide).unwrap().arm.name.clone();
        let cut_short = |is_cut: &dyn Fn(&Arm) -> bool| {
            let mut study = study.clone();
            let arm = study.arms.iter_mut().find(|arm| arm.kind == ArmKind::Wide && is_cut(arm)).unwrap();
            arm.runs[1].evals.last_mut().unwrap().step = 19;
            said(&study)
        };
        for (figure, text) in [said(&study), cut_short(&|arm: &Arm| arm.name != best)] {
            assert_eq!(figure, None, "an arm that is not compared");
            assert!(text.contains("nats") && !text.contains("no interval"), "{text}");
        }
        let (figure, text) = cut_short(&|arm: &Arm| arm.name == best);
        assert_eq!(figure.unwrap(), "too few to compare: 19 updates, expected 20");
        assert!(text.contains("too few updates to compare growths (19, expected 20 an arm)"), "{text}");
    }

    #[test]
    fn unequal_training_compute_is_stated() {
        let mut study = ending_at([&[1.95], &[1.92], &[1.88]]);
        study.arms[1].runs[0].evals.last_mut().unwrap().train_flops /= 2;
        let said = verdict(&study);
        assert!(said.starts_with("At unequal training compute (dense control 12.0 TFLOP, DUS m = 2 6.00 TFLOP, "));
    }

    #[test]
    fn speed_and_size_follow_from_the_record() {
        let study = ending_at([&[1.95], &[1.92], &[1.88]]);
        let said = verdict(&study);
        let ratio = study.arms[2].memory.weight_bytes as f64 / study.arms[1].memory.weight_bytes as f64;
        assert!(said.ends_with(&format!("; the weights of MoE 8×top-2 take {ratio:.2} times the memory.")), "{said}");
        let claim =
            "; DUS m = 2 decodes at 1.33 times the speed of MoE 8×top-2 at batch 1 (7 rounds, quartiles 1.33–1.33);";
        assert!(said.contains(claim), "{said}");
    }

    /// The verdict when the decoding times of the wide arm are those of the deep arm times `ratios`, round by round.
    fn with_ratios(ratios: [f64; 7]) -> String {
        let mut study = ending_at([&[1.95], &[1.92], &[1.88]]);
        let deep = study.arms[1].timings.clone();
        for (timing, deep) in study.arms[2].timings.iter_mut().zip(deep) {
            timing.samples_s = deep.samples_s.iter().zip(ratios).map(|(s, ratio)| s * ratio).collect();
        }
        verdict(&study)
    }

    fn claims_speed(said: &str) -> bool {
        ["DUS m = 2", "MoE 8×top-2"].iter().any(|arm| said.contains(&format!("; {arm} decodes at ")))
    }

    #[test]
    fn an_arm_is_faster_only_if_every_round_says_so() {
        let said = with_ratios([0.8, 0.81, 0.79, 0.8, 0.8, 0.8, 0.8]);
        assert!(said.contains("MoE 8×top-2 decodes at 1.25 times the speed of DUS m = 2 at batch 1"), "{said}");
        assert!(said.contains("quartiles 1.25–1.25") && claims_speed(&said), "{said}");
        for ratios in [[1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 0.99], [2.4, 1.1, 2.3, 1.2, 2.4, 1.1, 1.1]] {
            let said = with_ratios(ratios);
            assert!(
                said.contains("no claim on decoding speed at batch 1: rounds disagree (in the median, DUS m = 2"),
                "{said}"
            );
            assert!(!claims_speed(&said), "{said}");
        }
    }

    #[test]
    fn a_loaded_machine_or_timings_one_after_another_support_no_claim_on_speed() {
        let mut study = ending_at([&[1.95], &[1.92], &[1.88]]);
        study.rounds[3].other_load_cpus = Some(0.9);
        let said = verdict(&study);
        assert!(said.contains("other processes used up to 0.9 CPUs while it was timed (limit 0.2)"), "{said}");
        assert!(!claims_speed(&said), "{said}");
        study.rounds.clear();
        let said = verdict(&study);
        assert!(said.contains("were not timed in turns: no claim") && !claims_speed(&said), "{said}");
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
    fn one_grown_arm_is_compared_with_the_control() {
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
