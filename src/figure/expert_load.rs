//! Expert load by topic: one heat map of layers × experts per topic, coloured around the uniform share.

use plotters::style::RGBColor;

use super::identity::{Identity, identified};
use super::page::titled;
use super::scene::{BELOW_TITLE, HEIGHT, INK, MARGIN, MUTED, PAPER, SMALL, Scene, TEXT, Text, WIDTH, mix};
use crate::report::{ExpertLoad, Study};

/// Colours of the smallest and the largest share; white is uniform. Purple and green are not colours of arms, and colour-blind
/// readers can tell them apart.
const LEAST: RGBColor = RGBColor(118, 42, 131);
const GREATEST: RGBColor = RGBColor(27, 120, 55);
/// Range of the scale in octaves: from a quarter to four times the uniform share.
const OCTAVES: f64 = 2.0;
/// From this many times the uniform share on, a cell has a dot: in print without colours, both ends of the scale are dark.
const DOTTED_FROM: f64 = 2.0;
/// Height of the name of an arm, pixels.
const NAME: f64 = 30.0;
/// Height of the heading of a panel, pixels.
const HEADING: f64 = 44.0;

/// One panel: the load of one arm on one topic.
struct Map<'a> {
    identity: Identity,
    load: &'a ExpertLoad,
    topic: usize,
}

/// One panel for each topic of each arm whose expert load is known; `None` without such an arm.
pub(super) fn compose(study: &Study) -> Option<Scene> {
    let known = |load: &&ExpertLoad| !load.topics.is_empty() && !load.share.is_empty();
    let loads: Vec<_> = identified(study)
        .into_iter()
        .filter_map(|(arm, identity)| Some((arm, identity, arm.expert_load.as_ref().filter(known)?)))
        .collect();
    if loads.is_empty() {
        return None;
    }
    let title = match loads.iter().all(|(_, _, load)| load.topics.len() == 1) {
        true => "Share of the tokens that each expert receives",
        false => "Share of each topic's tokens that each expert receives",
    };
    let mut scene = titled(study, title, HEIGHT);
    let (left, right, top, bottom) = (MARGIN + 60.0, 1370.0, BELOW_TITLE, HEIGHT - 130.0);
    let block = (bottom - top) / loads.len() as f64;
    for (index, (arm, identity, load)) in loads.iter().enumerate() {
        let top = top + index as f64 * block;
        // The load is that of the first run.
        let seed = arm.runs.first().map_or_else(String::new, |run| format!(" after training with seed {}", run.seed));
        let name = Text::new(format!("{}{seed}", arm.name), (left, top)).size(TEXT).bold().colour(identity.ink());
        scene.text(name.fitted(right - left));
        let topics = load.topics.len();
        let columns = columns(topics, loads.len());
        let lines = topics.div_ceil(columns);
        let (width, height) = ((right - left) / columns as f64, (block - NAME) / lines as f64);
        for topic in 0..topics {
            let (column, line) = (topic % columns, topic / columns);
            let corner = (left + column as f64 * width, top + NAME + line as f64 * height + HEADING);
            let lowest = topic + columns >= topics && index + 1 == loads.len();
            let map = Map { identity: *identity, load, topic };
            draw_map(&mut scene, &map, corner, (width - 26.0, height - HEADING - 36.0), (lowest, column == 0));
        }
    }
    scene.text(Text::new("index of the expert", ((left + right) / 2.0, bottom + 14.0)).middle());
    scene.text(Text::new("index of the layer", (MARGIN, (top + bottom) / 2.0)).middle().upward());
    let note =
        "of held-out tokens, 100 % a layer; dot: at least twice the uniform share; the seed sets growth and data order";
    scene.text(Text::new(note, (left, HEIGHT - 68.0)).size(SMALL).colour(MUTED).fitted(WIDTH - 20.0 - left));
    draw_scale(&mut scene, loads[0].2);
    Some(scene)
}

/// Panels per row: near a square block for one arm, flatter if arms are stacked.
fn columns(topics: usize, arms: usize) -> usize {
    let side = ((topics * arms) as f64).sqrt().ceil() as usize;
    if arms > 1 { topics.min(side.max(4)) } else { side }
}

/// The colour of a share: white at `1 / num_experts`, saturated at a quarter and at four times that.
fn colour(share: f64, num_experts: usize) -> RGBColor {
    let octaves = (share * num_experts as f64).log2().clamp(-OCTAVES, OCTAVES) / OCTAVES;
    if octaves < 0.0 { mix(PAPER, LEAST, -octaves) } else { mix(PAPER, GREATEST, octaves) }
}

fn is_dotted(share: f64, num_experts: usize) -> bool {
    share * num_experts as f64 >= DOTTED_FROM
}

fn draw_map(scene: &mut Scene, map: &Map, corner: (f64, f64), size: (f64, f64), (experts, layers): (bool, bool)) {
    let heading = Text::new(&map.load.topics[map.topic], (corner.0, corner.1 - 22.0)).size(TEXT);
    scene.text(heading.colour(map.identity.ink()).fitted(size.0));
    let num_layers = map.load.share.len();
    let num_experts = map.load.share[0][map.topic].len();
    let (width, height) = (size.0 / num_experts as f64, size.1 / num_layers as f64);
    for (layer, topics) in map.load.share.iter().enumerate() {
        for (expert, share) in topics[map.topic].iter().enumerate() {
            let from = (corner.0 + expert as f64 * width, corner.1 + layer as f64 * height);
            let to = (from.0 + width - 1.0, from.1 + height - 1.0);
            scene.bar(from, to, colour(*share, num_experts));
            if is_dotted(*share, num_experts) {
                let middle = ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0);
                scene.disc(middle, (0.2 * width.min(height)).min(5.0), PAPER);
            }
        }
    }
    let (right, bottom) = (corner.0 + size.0, corner.1 + size.1);
    let frame = vec![corner, (right, corner.1), (right, bottom), (corner.0, bottom), corner];
    scene.line(frame, RGBColor(190, 190, 190), 1.0);
    if experts {
        for expert in labelled(num_experts, width, 34.0) {
            let at = (corner.0 + (expert as f64 + 0.5) * width, bottom + 18.0);
            scene.text(Text::new(expert.to_string(), at).middle().size(SMALL).colour(MUTED));
        }
    }
    if layers {
        for layer in labelled(num_layers, height, 28.0) {
            let at = (corner.0 - 10.0, corner.1 + (layer as f64 + 0.5) * height);
            scene.text(Text::new(layer.to_string(), at).end().size(SMALL).colour(MUTED));
        }
    }
}

/// The indices below `count` that get a label if they are `pitch` pixels apart and a label needs `space`.
fn labelled(count: usize, pitch: f64, space: f64) -> impl Iterator<Item = usize> {
    let least = (space / pitch).ceil().max(1.0) as usize;
    let step = [1, 2, 4, 5, 8, 10, 16, 20, 32, 50].into_iter().find(|step| *step >= least).unwrap_or(least);
    (0..count).step_by(step)
}

fn draw_scale(scene: &mut Scene, load: &ExpertLoad) {
    let num_experts = load.share.iter().flatten().map(Vec::len).max().unwrap_or(1).max(1);
    let uniform = 1.0 / num_experts as f64;
    let (left, right, top, bottom) = (1424.0, 1454.0, BELOW_TITLE + HEADING + 60.0, HEIGHT - 230.0);
    let slices = 128;
    let slice = (bottom - top) / f64::from(slices);
    for index in 0..slices {
        let octaves = OCTAVES * (1.0 - 2.0 * (f64::from(index) + 0.5) / f64::from(slices));
        let from = (left, top + f64::from(index) * slice);
        // Each slice extends to the bottom, under the next ones: viewers show a seam between areas that only touch.
        scene.bar(from, (right, bottom), colour(uniform * octaves.exp2(), num_experts));
    }
    scene.line(vec![(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], MUTED, 1.0);
    let ticks = [(2.0, "≥ "), (1.0, ""), (0.0, ""), (-1.0, ""), (-2.0, "≤ ")];
    for (octaves, sign) in ticks {
        let row = top + (bottom - top) * (1.0 - octaves / OCTAVES) / 2.0;
        let words = format!("{sign}{}", percent(uniform * f64::exp2(octaves)));
        scene.line(vec![(right, row), (right + 7.0, row)], MUTED, 1.5);
        scene.text(Text::new(words, (right + 14.0, row)).size(SMALL).fitted(WIDTH - right - 24.0));
    }
    let (column, room) = (left - 16.0, WIDTH - left - 4.0);
    scene.text(Text::new("share", (column, top - 90.0)).size(SMALL).colour(INK));
    for (words, row) in
        [("uniform share:".to_owned(), top - 62.0), (format!("1/{num_experts} = {}", percent(uniform)), top - 34.0)]
    {
        scene.text(Text::new(words, (column, row)).size(SMALL).colour(MUTED).fitted(room));
    }
}

/// A share in percent, with as many of three decimals as it needs: half of 12.5 % is 6.25 %, not 6.2 %.
fn percent(share: f64) -> String {
    let shown = format!("{:.3}", 100.0 * share);
    format!("{} %", shown.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn a_uniform_share_is_white() {
        assert_eq!(colour(0.125, 8), PAPER);
        assert_eq!((colour(0.0, 8), colour(1.0, 8)), (LEAST, GREATEST));
        assert_eq!((colour(0.125 / 4.0, 8), colour(0.5, 8)), (LEAST, GREATEST));
        assert_eq!(colour(0.25, 8), mix(PAPER, GREATEST, 0.5));
    }

    #[test]
    fn large_shares_are_dotted_and_percentages_are_exact() {
        assert!(is_dotted(0.25, 8) && !is_dotted(0.24, 8));
        let shown = [0.5, 0.125, 0.0625, 0.03125, 1.0 / 6.0].map(percent);
        assert_eq!(shown, ["50 %", "12.5 %", "6.25 %", "3.125 %", "16.667 %"]);
    }

    #[test]
    fn the_seed_and_the_uniform_share_are_named() {
        let scene = compose(&fixture::study(3, 3)).unwrap();
        for words in ["after training with seed 0", "uniform share:", "1/8 = 12.5 %", "6.25 %"] {
            assert!(scene.num_saying(words) > 0, "{words}");
        }
    }

    #[test]
    fn text_without_topics_is_not_said_to_have_some() {
        let mut study = fixture::study(3, 1);
        assert_eq!(compose(&study).unwrap().num_saying("each topic's tokens"), 1);
        let load = study.arms[2].expert_load.as_mut().unwrap();
        load.topics = vec!["all text".to_owned()];
        load.share.iter_mut().for_each(|topics| topics.truncate(1));
        assert_eq!(compose(&study).unwrap().num_saying("topic"), 0);
    }

    #[test]
    fn without_routers_there_is_no_figure() {
        assert!(compose(&fixture::study(2, 1)).is_none());
        assert!(compose(&fixture::study(3, 1)).is_some());
    }

    #[test]
    fn narrow_rows_get_fewer_labels() {
        assert_eq!(labelled(8, 40.0, 28.0).count(), 8);
        assert_eq!(labelled(48, 12.0, 28.0).collect::<Vec<_>>()[..3], [0, 4, 8]);
    }
}
