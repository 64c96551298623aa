//! The frame of the figures of a profile: title, models and peaks, provenance, and a key of the models.

use super::identity::Identity;
use super::scene::{INK, MARGIN, MUTED, SMALL, Scene, TEXT, Text, WIDTH};
use crate::report::table::{binary_bytes, si};
use crate::report::{ProfileStudy, ProfiledModel};

/// What the names of tests mean.
pub(super) const NOTATION: &str =
    "ppN: prefill of N tokens; tgN @ dM: N tokens decoded after M; trainBxS: an update with B sequences of S tokens";

/// A scene with a title, a line about the models, one about the machine's peaks, and a footer.
pub(super) fn titled(study: &ProfileStudy, title: &str, height: f64) -> Scene {
    let mut scene = Scene::new(height);
    let width = WIDTH - 2.0 * MARGIN;
    scene.text(Text::new(title, (MARGIN, 44.0)).size(34.0).bold().fitted(width).colour(INK));
    let small = |words: String, y: f64| Text::new(words, (MARGIN, y)).size(SMALL).fitted(width).colour(MUTED);
    let models = study.models.iter().map(|model| {
        let active = match model.active_parameters == model.total_parameters {
            true => String::new(),
            false => format!(" ({} active)", si(model.active_parameters as f64, "")),
        };
        let (total, bytes) = (si(model.total_parameters as f64, ""), binary_bytes(model.weight_bytes as f64));
        // The key below has the whole names.
        let name = model.name.split(',').next().unwrap_or_default();
        format!("{name} {total}{active}, {bytes}")
    });
    scene.text(small(format!("parameters and their memory: {}", models.collect::<Vec<_>>().join("; ")), 84.0));
    let peaks = format!(
        "measured peaks: {} in {} products, {} of weights",
        si(study.peak_flops_per_s, "FLOP/s"),
        study.peak_dtype,
        si(study.peak_bytes_per_s, "B/s")
    );
    scene.text(small(peaks, 112.0));
    let run = &study.run;
    let commit = run.commit.as_ref().map_or_else(String::new, |commit| format!(" ({commit})"));
    let origin = format!(
        "deepwide {}{commit} · {} · {} on {}, {} threads, {}",
        run.version, run.date, run.device, run.cpu, run.num_threads, run.dtype
    );
    scene.text(Text::new(origin, (MARGIN, height - 22.0)).size(18.0).colour(MUTED).fitted(width));
    scene
}

/// Two lines above the footer. The bottom of a plot is 190 pixels above that of the figure.
pub(super) fn draw_notes(scene: &mut Scene, notes: [&str; 2]) {
    for (note, above) in notes.into_iter().zip([88.0, 58.0]) {
        let note = Text::new(note, (MARGIN, scene.height - above)).size(SMALL).colour(MUTED);
        scene.text(note.fitted(WIDTH - 2.0 * MARGIN));
    }
}

/// Each model with its identity.
pub(super) fn identified(study: &ProfileStudy) -> Vec<(&ProfiledModel, Identity)> {
    study.models.iter().map(|model| (model, Identity::of_kind(model.kind))).collect()
}

/// Each model with its identity and how far it is drawn to the right, `apart` pixels from the next.
pub(super) fn side_by_side(study: &ProfileStudy, apart: f64) -> Vec<(&ProfiledModel, Identity, f64)> {
    let middle = (study.models.len() as f64 - 1.0) / 2.0;
    let placed = identified(study).into_iter().enumerate();
    placed.map(|(index, (model, identity))| (model, identity, (index as f64 - middle) * apart)).collect()
}

/// A row of markers and names.
pub(super) fn draw_key(scene: &mut Scene, study: &ProfileStudy, row: f64) {
    let mut left = MARGIN + 12.0;
    for (model, identity) in identified(study) {
        identity.marker(scene, (left, row), 9.0);
        let name = Text::new(&model.name, (left + 22.0, row)).size(TEXT).bold().colour(identity.ink()).fitted(440.0);
        left += 22.0 + name.width() + 50.0;
        scene.text(name);
    }
}
