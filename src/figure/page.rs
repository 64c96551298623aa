//! The frame of every figure: title, subject, matching rule, and provenance.

use super::scene::{INK, MARGIN, MUTED, SMALL, Scene, Text, WIDTH};
use crate::report::table::si;
use crate::report::{Arm, Study};

/// A scene with a title, two lines about the study, and a footer that names the machine.
pub(super) fn titled(study: &Study, title: &str, height: f64) -> Scene {
    let mut scene = Scene::new(height);
    let width = WIDTH - 2.0 * MARGIN;
    let line = |words: String, y: f64| Text::new(words, (MARGIN, y)).fitted(width);
    scene.text(Text::new(title, (MARGIN, 44.0)).size(34.0).bold().fitted(width).colour(INK));
    let about = Text::new(subject(study), (MARGIN, 84.0)).size(SMALL).colour(MUTED);
    scene.text(about.fitted(width));
    let matched = Text::new(matching(study), (MARGIN, 112.0)).size(SMALL).colour(MUTED);
    scene.text(matched.fitted(width));
    scene.text(line(origin(study), height - 22.0).size(18.0).colour(MUTED));
    scene
}

/// Base, data and seeds.
fn subject(study: &Study) -> String {
    let base = &study.base;
    let parameters = study.first(crate::report::ArmKind::Dense).map(|arm| arm.cost.total_parameters as f64);
    let size = parameters.map_or_else(String::new, |n| format!(", {} parameters", si(n, "")));
    format!(
        "base {}{size}, trained further on {} ({}); held out: {} tokens; {}",
        base.name,
        study.data.name,
        tokens(study),
        si(study.data.heldout_tokens as f64, ""),
        seeds(&study.settings.seeds),
    )
}

/// `seed 1`, `seeds 1 to 3`, `seeds 1, 5, 7`.
pub(super) fn seeds(seeds: &[u64]) -> String {
    match seeds {
        [] => "no seed".to_owned(),
        [seed] => format!("seed {seed}"),
        [first, .., last] if seeds.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)) => {
            format!("seeds {first} to {last}")
        }
        _ => format!("seeds {}", seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Tokens that each arm trained on: one number or a range.
fn tokens(study: &Study) -> String {
    let ends = study.arms.iter().flat_map(|arm| &arm.runs).filter_map(|run| run.evals.last()).map(|eval| eval.tokens);
    let (least, most) = ends.fold((u64::MAX, 0), |(least, most), tokens| (least.min(tokens), most.max(tokens)));
    match (least, most) {
        (u64::MAX, _) => "not yet".to_owned(),
        (least, most) if least == most => format!("{} tokens an arm", si(most as f64, "")),
        (least, most) => format!("{} to {} tokens an arm", si(least as f64, ""), si(most as f64, "")),
    }
}

fn matching(study: &Study) -> String {
    let settings = &study.settings;
    format!(
        "matched by {}, {} an arm; batch {} × {} tokens, learning rate {}",
        settings.match_rule,
        spent(study),
        settings.batch_size,
        settings.seq_length,
        settings.learning_rate,
    )
}

/// Training FLOPs of the arms: one number, or a range because updates are whole; the budget of an untrained study.
fn spent(study: &Study) -> String {
    let shown = |flops: u64| si(flops as f64, "FLOP");
    let trained = || study.arms.iter().filter(|arm| !arm.runs.is_empty()).map(Arm::train_flops_spent);
    match (trained().min(), trained().max()) {
        (Some(least), Some(most)) if shown(least) != shown(most) => format!("{} to {}", shown(least), shown(most)),
        (least, _) => shown(least.unwrap_or(study.settings.train_flops_budget_flops)),
    }
}

fn origin(study: &Study) -> String {
    let run = &study.run;
    let commit = run.commit.as_ref().map_or_else(String::new, |commit| format!(" ({commit})"));
    format!(
        "deepwide {}{commit} · {} · {} on {}, {} threads, {}",
        run.version, run.date, run.device, run.cpu, run.num_threads, run.dtype
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn seeds_are_named() {
        let cases: [(&[u64], &str); 4] =
            [(&[], "no seed"), (&[4], "seed 4"), (&[1, 2, 3], "seeds 1 to 3"), (&[1, 3], "seeds 1, 3")];
        cases.into_iter().for_each(|(given, named)| assert_eq!(seeds(given), named));
    }

    #[test]
    fn arms_that_spent_unequally_are_shown_as_a_range() {
        let mut study = fixture::study(3, 1);
        for arm in &mut study.arms {
            arm.runs[0].evals.last_mut().unwrap().train_flops = 12_000_000_000_000;
        }
        assert!(matching(&study).contains(", 12.0 TFLOP an arm;"), "{}", matching(&study));
        study.arms[1].runs[0].evals.last_mut().unwrap().train_flops /= 2;
        assert!(matching(&study).contains(", 6.00 TFLOP to 12.0 TFLOP an arm;"), "{}", matching(&study));
    }
}
