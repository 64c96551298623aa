//! Speed of the arms: one panel per workload, one bar per arm at its median speed, whiskers at the quartiles.

use super::axis::{Panel, Quantity, Scale};
use super::identity::{Identity, identified};
use super::memory_bars::{BarRow, draw_left_axis, rows};
use super::page::titled;
use super::scene::{BELOW_TITLE, HEIGHT, INK, MARGIN, MUTED, SMALL, Scene, TEXT, Text, WIDTH};
use crate::report::table::si;
use crate::report::{Arm, Study, Timing, Workload};

/// Left edge of the bars, right of the names.
const BARS: f64 = 330.0;
/// Gap between panels, pixels.
const GAP: f64 = 36.0;
/// Panels per row.
const COLUMNS: usize = 4;

/// Bars of every arm for every workload; `None` if nothing was timed.
pub(super) fn compose(study: &Study) -> Option<Scene> {
    let arms = identified(study);
    let workloads = study.workloads();
    if workloads.is_empty() {
        return None;
    }
    let contexts = contexts(&workloads);
    let lines = workloads.len().div_ceil(COLUMNS);
    let line_height = (180.0 + 84.0 * arms.len() as f64).min((HEIGHT - BELOW_TITLE - 110.0) / lines.min(2) as f64);
    let height = BELOW_TITLE + line_height * lines as f64 + 120.0;
    let mut scene = titled(study, "Speed of prefill and decoding", height);
    let columns = workloads.len().min(COLUMNS);
    let width = (WIDTH - MARGIN - BARS - GAP * (columns - 1) as f64) / columns as f64;
    for (index, workload) in workloads.iter().enumerate() {
        let (line, column) = (index / COLUMNS, index % COLUMNS);
        let top = BELOW_TITLE + 50.0 + line as f64 * line_height;
        let left = BARS + column as f64 * (width + GAP);
        let fastest = study.arms.iter().filter_map(|arm| arm.timing(*workload));
        let fastest = fastest.map(|timing| timing.tokens_per_second_quartiles().1).fold(0.0, f64::max);
        let panel = Panel {
            left,
            top,
            right: left + width,
            bottom: top + line_height - 130.0,
            x: Scale::from_zero(1.42 * fastest, Quantity::Decimal("tok/s"), 4),
            y: Scale::with_bounds(0.0, 1.0, Quantity::Plain, 1),
        };
        panel.heading(&mut scene, &heading(*workload, contexts.len() == 1));
        panel.horizontal_axis(&mut scene, "speed");
        for ((arm, identity), row) in arms.iter().zip(rows(&panel, arms.len())) {
            if column == 0 {
                let name = Text::new(&arm.name, (BARS - 16.0, row.middle)).end().size(TEXT).bold();
                scene.text(name.colour(identity.ink()).fitted(BARS - 16.0 - 20.0));
            }
            draw_bar(&mut scene, &panel, arm, *identity, *workload, &row);
        }
        draw_left_axis(&mut scene, &panel);
    }
    let context = match contexts[..] {
        [context] => format!("; decoding after {context} tokens"),
        _ => String::new(),
    };
    let bar = match study.arms.iter().flat_map(|arm| &arm.timings).any(has_spread) {
        true => "bar: median; whiskers: quartiles",
        false => "bar: a single timing",
    };
    let note = format!("tok/s: tokens per second; {bar}; each panel has its own scale{context}");
    scene.text(Text::new(note, (BARS, height - 64.0)).size(SMALL).colour(MUTED));
    Some(scene)
}

/// The contexts at which tokens were decoded, each once.
fn contexts(workloads: &[Workload]) -> Vec<usize> {
    let mut contexts: Vec<usize> = workloads
        .iter()
        .filter_map(|workload| match workload {
            Workload::Decode { context, .. } => Some(*context),
            Workload::Prefill { .. } => None,
        })
        .collect();
    contexts.sort_unstable();
    contexts.dedup();
    contexts
}

/// Heading of a workload, without the context if all share it.
fn heading(workload: Workload, share_context: bool) -> String {
    match workload {
        Workload::Prefill { tokens } => format!("prefill, {tokens} tokens"),
        Workload::Decode { batch, .. } if share_context => format!("decoding, batch {batch}"),
        Workload::Decode { batch, context, .. } => format!("batch {batch}, after {context}"),
    }
}

/// Whether whiskers are drawn.
fn has_spread(timing: &Timing) -> bool {
    timing.samples_s.len() > 1
}

fn draw_bar(scene: &mut Scene, panel: &Panel, arm: &Arm, identity: Identity, workload: Workload, row: &BarRow) {
    let Some(timing) = arm.timing(workload) else {
        scene.text(Text::new("not measured", (panel.left + 14.0, row.middle)).size(SMALL).colour(MUTED));
        return;
    };
    let speed = timing.tokens_per_second();
    let (low, high) = timing.tokens_per_second_quartiles();
    let half = row.half.min(28.0);
    scene.bar((panel.left, row.middle - half), (panel.column(speed), row.middle + half), identity.colour);
    let (low, high) = (panel.column(low), panel.column(high));
    if has_spread(timing) {
        scene.line(vec![(low, row.middle), (high, row.middle)], INK, 2.5);
        for end in [low, high] {
            scene.line(vec![(end, row.middle - 9.0), (end, row.middle + 9.0)], INK, 2.5);
        }
    }
    let at = high.max(panel.column(speed)) + 12.0;
    scene.text(Text::new(si(speed, ""), (at, row.middle)).size(SMALL).colour(INK));
}

#[cfg(test)]
mod tests {
    use super::super::scene::Mark;
    use super::*;
    use crate::report::fixture;

    #[test]
    fn a_bar_is_as_long_as_its_median_speed() {
        let mut study = fixture::study(2, 1);
        for arm in &mut study.arms {
            arm.timings.truncate(1);
        }
        let workload = study.workloads()[0];
        let speeds: Vec<f64> = study.arms.iter().map(|arm| arm.timing(workload).unwrap().tokens_per_second()).collect();
        let scene = compose(&study).unwrap();
        let lengths: Vec<f64> = scene
            .marks
            .iter()
            .filter_map(|mark| match mark {
                Mark::Bar { from, to, .. } => Some(to.0 - from.0),
                _ => None,
            })
            .collect();
        assert!((lengths[0] / lengths[1] - speeds[0] / speeds[1]).abs() < 1e-9);
    }

    #[test]
    fn every_axis_names_the_speed_and_the_context_is_named_once() {
        let study = fixture::study(2, 1);
        let scene = compose(&study).unwrap();
        assert_eq!(scene.num_saying("speed (k tok/s)"), study.workloads().len());
        assert_eq!(scene.num_saying("decoding after 256 tokens"), 1);
        let other = Workload::Decode { batch: 1, tokens: 64, context: 512 };
        assert_eq!(contexts(&[other, study.workloads()[0], study.workloads()[1]]), [256, 512]);
        assert_eq!(heading(other, false), "batch 1, after 512");
    }

    #[test]
    fn a_single_timing_has_no_whiskers() {
        let mut study = fixture::study(2, 1);
        let num_whiskers = |study: &Study| {
            let is_whisker = |mark: &&Mark| matches!(mark, Mark::Line { width: 2.5, .. });
            compose(study).unwrap().marks.iter().filter(is_whisker).count()
        };
        assert_eq!(num_whiskers(&study), 3 * 2 * study.workloads().len());
        for timing in study.arms.iter_mut().flat_map(|arm| &mut arm.timings) {
            timing.samples_s.truncate(1);
        }
        assert_eq!(num_whiskers(&study), 0);
        assert_eq!(compose(&study).unwrap().num_saying("bar: a single timing;"), 1);
    }

    #[test]
    fn missing_timings_are_labelled() {
        let mut study = fixture::study(2, 1);
        study.arms[1].timings.remove(2);
        assert_eq!(compose(&study).unwrap().num_saying("not measured"), 1);
        for arm in &mut study.arms {
            arm.timings.clear();
        }
        assert!(compose(&study).is_none());
    }
}
