//! Figures of a study, drawn from its record alone.
//!
//! Each figure composes a scene of marks, which one function over plotters' backends renders to SVG and to PNG. An arm has
//! the same colour and marker in every figure: grey for the dense control, blue for deep arms, orange for wide arms, in
//! shades that colour-blind readers can tell apart (Okabe & Ito, 2008).

mod axis;
mod bitmap;
mod error;
mod expert_load;
mod identity;
mod label;
mod latency_bars;
mod loss_curves;
mod memory_areas;
mod memory_bars;
mod module_bars;
mod page;
mod paint;
mod pareto;
mod profile_page;
mod roofline;
mod scene;
mod speed_lines;
mod text;
mod training_curve;

pub use error::FigureError;
pub use training_curve::{TrainingCurve, draw_training};

use crate::report::{ProfileStudy, Study};
use scene::Scene;

/// A figure in both formats.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// File name without extension.
    pub name: &'static str,
    /// The SVG document.
    pub svg: String,
    /// The PNG file, 1600 pixels wide.
    pub png: Vec<u8>,
}

/// Composes a figure; `None` if the study did not measure what it shows.
type Composer = fn(&Study) -> Option<Scene>;

const FIGURES: [(&str, Composer); 6] = [
    ("loss_vs_flops", loss_curves::against_flops),
    ("loss_vs_tokens", loss_curves::against_tokens),
    ("pareto", pareto::compose),
    ("memory", memory_bars::compose),
    ("latency", latency_bars::compose),
    ("expert_load", expert_load::compose),
];

/// Draws every figure for which the study has data.
///
/// # Errors
/// [`FigureError::Record`] if the study breaks a rule of [`Study::check`], for example by a loss that is NaN;
/// [`FigureError::Drawing`] and [`FigureError::Encoding`] if a library fails.
pub fn draw_study(study: &Study) -> Result<Vec<Figure>, FigureError> {
    study.check()?;
    let scenes = FIGURES.iter().filter_map(|(name, compose)| Some((*name, compose(study)?)));
    scenes.map(|(name, scene)| Ok(Figure { name, svg: paint::svg(&scene)?, png: paint::png(&scene)? })).collect()
}

/// Composes a figure of a profile; `None` if it was not measured.
type ProfileComposer = fn(&ProfileStudy) -> Option<Scene>;

const PROFILE_FIGURES: [(&str, ProfileComposer); 4] = [
    ("modules", module_bars::compose),
    ("roofline", roofline::compose),
    ("memory", memory_areas::compose),
    ("speed", speed_lines::compose),
];

/// Draws every figure of a profile for which there are measurements.
///
/// # Errors
/// [`FigureError::Drawing`] and [`FigureError::Encoding`] if a library fails.
pub fn draw_profile(study: &ProfileStudy) -> Result<Vec<Figure>, FigureError> {
    let scenes = PROFILE_FIGURES.iter().filter_map(|(name, compose)| Some((*name, compose(study)?)));
    scenes.map(|(name, scene)| Ok(Figure { name, svg: paint::svg(&scene)?, png: paint::png(&scene)? })).collect()
}

#[cfg(test)]
mod tests {
    use super::scene::{Mark, Point, Text};
    use super::*;
    use crate::report::{RecordError, fixture};

    fn names(study: &Study) -> Vec<&'static str> {
        draw_study(study).unwrap().iter().map(|figure| figure.name).collect()
    }

    #[test]
    fn every_kind_of_study_is_drawn() {
        assert_eq!(names(&fixture::study(1, 1)), ["loss_vs_flops", "loss_vs_tokens", "pareto", "memory", "latency"]);
        for (num_arms, num_seeds) in [(3, 1), (3, 3), (5, 1), (5, 3)] {
            let figures = draw_study(&fixture::study(num_arms, num_seeds)).unwrap();
            assert_eq!(figures.len(), 6);
            for figure in figures {
                assert!(
                    figure.svg.trim_end().ends_with("</svg>") && figure.png.starts_with(b"\x89PNG"),
                    "{}",
                    figure.name
                );
            }
        }
    }

    #[test]
    fn figures_without_data_are_omitted() {
        let mut study = fixture::study(3, 1);
        study.data.floor_nats = None;
        for arm in &mut study.arms {
            arm.timings.clear();
            arm.expert_load = None;
            arm.memory.train_peak_bytes = None;
            arm.memory.inference_peak_bytes = None;
        }
        assert_eq!(names(&study), ["loss_vs_flops", "loss_vs_tokens", "pareto", "memory"]);
        for arm in &mut study.arms {
            arm.runs.clear();
        }
        assert_eq!(names(&study), ["memory"]);
    }

    #[test]
    fn a_nan_loss_is_refused() {
        let mut study = fixture::study(3, 1);
        study.arms[1].runs[0].evals[0].heldout_loss_nats = f64::NAN;
        assert!(matches!(draw_study(&study), Err(FigureError::Record(RecordError::NotFinite { .. }))));
    }

    #[test]
    fn a_hostile_name_is_escaped() {
        let mut study = fixture::study(3, 1);
        study.arms[2].name = "<script>".to_owned();
        study.data.name = "a & b </text><script>".to_owned();
        for figure in draw_study(&study).unwrap() {
            assert!(!figure.svg.contains("<script"), "{}", figure.name);
            assert!(figure.svg.contains("&lt;script&gt;"), "{}", figure.name);
        }
    }

    /// Studies that strain the layout.
    fn extreme_studies() -> Vec<(&'static str, Study)> {
        let mut equal = fixture::study(5, 3);
        for run in equal.arms.iter_mut().flat_map(|arm| &mut arm.runs) {
            run.evals.iter_mut().for_each(|eval| eval.heldout_loss_nats = 1.9);
        }
        let mut spiked = fixture::study(3, 1);
        spiked.arms[1].runs[0].loss_after_growth_nats = 11.0;
        let mut wordy = fixture::study(5, 1);
        wordy.settings.match_rule = "a rule that takes very many words to state, ".repeat(8);
        for (index, arm) in wordy.arms.iter_mut().enumerate() {
            arm.name = format!("{index} an arm whose name is far too long for any margin of any figure");
        }
        let mut near_floor = fixture::study(3, 1);
        near_floor.data.floor_nats = Some(near_floor.base.heldout_loss_nats - 0.001);
        let mut far_floor = fixture::study(3, 3);
        far_floor.data.floor_nats = Some(0.2);
        let mut short = fixture::study(3, 3);
        short.data.floor_nats = Some(0.2);
        short.arms[0].runs[0].evals.last_mut().unwrap().step = 19;
        vec![
            ("few updates", short),
            ("floor far below", far_floor),
            ("one arm", fixture::study(1, 1)),
            ("three arms", fixture::study(3, 1)),
            ("five arms, seeds", fixture::study(5, 3)),
            ("equal losses", equal),
            ("a tall spike", spiked),
            ("long names", wordy),
            ("base near floor", near_floor),
        ]
    }

    fn texts(scene: &Scene) -> Vec<&Text> {
        let words = scene.marks.iter().filter_map(|mark| match mark {
            Mark::Text(text) => Some(text),
            _ => None,
        });
        words.collect()
    }

    fn overlap(a: &Text, b: &Text) -> bool {
        let ((a_left, a_top), (a_right, a_bottom)) = a.bounds();
        let ((b_left, b_top), (b_right, b_bottom)) = b.bounds();
        a_left < b_right && b_left < a_right && a_top < b_bottom && b_top < a_bottom
    }

    /// Whether a stroke runs through a text.
    fn crosses(text: &Text, (from, to): (Point, Point)) -> bool {
        let ((left, top), (right, bottom)) = text.bounds();
        (0..=200).map(|step| f64::from(step) / 200.0).any(|t| {
            let (x, y) = (from.0 + t * (to.0 - from.0), from.1 + t * (to.1 - from.1));
            left < x && x < right && top < y && y < bottom
        })
    }

    /// Checks that no text is cut, leaves the figure, overlaps another, lies on a line of data, or touches the footer.
    fn check(what: &str, scene: &Scene) {
        let texts = texts(scene);
        for (index, text) in texts.iter().enumerate() {
            let ((left, top), (right, bottom)) = text.bounds();
            let inside = left >= 0.0 && top >= 0.0 && right <= scene::WIDTH && bottom <= scene.height;
            assert!(inside, "{what}: {text:?} leaves the figure");
            assert!(what.contains("long names") || !text.words.ends_with('…'), "{what}: {:?} is cut", text.words);
            for other in &texts[..index] {
                assert!(!overlap(text, other), "{what}: {:?} overlaps {:?}", text.words, other.words);
            }
            for mark in &scene.marks {
                let Mark::Line { points, width, .. } = mark else { continue };
                let crossed = *width > 2.0 && points.windows(2).any(|ends| crosses(text, (ends[0], ends[1])));
                assert!(!crossed, "{what}: a line runs through {:?}", text.words);
            }
        }
        let footer = texts.iter().find(|text| text.size == 18.0).expect("a footer");
        for text in texts.iter().filter(|text| text.size != 18.0) {
            let gap = footer.bounds().0.1 - text.bounds().1.1;
            assert!(gap >= 8.0, "{what}: {:?} is {gap} pixels from the footer", text.words);
        }
    }

    #[test]
    fn no_text_overlaps_another_or_leaves_the_figure() {
        for (what, study) in extreme_studies() {
            for (name, compose) in FIGURES {
                let Some(scene) = compose(&study) else { continue };
                check(&format!("{name} of {what}"), &scene);
            }
        }
    }

    #[test]
    fn losses_carry_the_caveat_of_the_verdict() {
        for (num_seeds, expected) in [(1, 3), (3, 0)] {
            let study = fixture::study(3, num_seeds);
            let scenes = FIGURES.iter().filter_map(|(_, compose)| compose(&study));
            assert_eq!(scenes.map(|scene| scene.num_saying("one seed: no interval")).sum::<usize>(), expected);
        }
    }

    #[test]
    fn the_caveat_stands_apart_from_the_names_of_axes() {
        let mut num_found = 0;
        for (name, compose) in FIGURES {
            let scene = compose(&fixture::study(3, 1)).expect("all is measured");
            let texts = texts(&scene);
            let Some(caveat) = texts.iter().find(|text| text.words.contains("one seed: no interval")) else { continue };
            num_found += 1;
            let top = caveat.bounds().0.1;
            let above = texts.iter().map(|text| text.bounds().1.1).filter(|bottom| *bottom <= top).fold(0.0, f64::max);
            assert!(top - above >= 8.0, "{name}: {} pixels", top - above);
        }
        assert_eq!(num_found, 3, "losses, twice, and the Pareto front");
    }

    #[test]
    fn profiles_are_drawn_without_overlaps_as_far_as_they_were_measured() {
        let mut study = fixture::profile();
        for (name, compose) in PROFILE_FIGURES {
            let scene = compose(&study).unwrap_or_else(|| panic!("{name} is drawn"));
            check(name, &scene);
        }
        for model in &mut study.models {
            model.memory.clear();
            model.by_module.clear();
        }
        assert_eq!(draw_profile(&study).unwrap().iter().map(|figure| figure.name).collect::<Vec<_>>(), ["speed"]);
    }

    #[test]
    fn overlapping_texts_are_detected() {
        let text = |x| Text::new("loss", (x, 50.0));
        assert!(overlap(&text(10.0), &text(30.0)) && !overlap(&text(10.0), &text(200.0)));
    }
}
