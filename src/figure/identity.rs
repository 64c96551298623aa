//! The colour and the marker of an arm, the same in every figure.

use plotters::style::RGBColor;

use super::scene::{Point, Scene, mix};
use crate::report::{Arm, ArmKind, Study};

/// Shades of each family, in the order of the arms; after Okabe and Ito's palette.
const DENSE: [RGBColor; 2] = [RGBColor(110, 110, 110), RGBColor(160, 160, 160)];
const DEEP: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(86, 180, 233), RGBColor(0, 66, 110), RGBColor(120, 150, 200)];
const WIDE: [RGBColor; 4] =
    [RGBColor(213, 94, 0), RGBColor(230, 159, 0), RGBColor(140, 60, 0), RGBColor(240, 190, 110)];

/// Colour and kind of an arm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Identity {
    pub colour: RGBColor,
    pub kind: ArmKind,
}

/// Every arm with its identity. After the last shade of a family the first is used again; names tell the arms apart.
pub(super) fn identified(study: &Study) -> Vec<(&Arm, Identity)> {
    let arms = &study.arms;
    let look = |(index, arm): (usize, &Arm)| {
        let before = arms[..index].iter().filter(|other| other.kind == arm.kind).count();
        let family: &[RGBColor] = match arm.kind {
            ArmKind::Dense => &DENSE,
            ArmKind::Deep => &DEEP,
            ArmKind::Wide => &WIDE,
        };
        Identity { colour: family[before % family.len()], kind: arm.kind }
    };
    arms.iter().enumerate().map(|(index, arm)| (arm, look((index, arm)))).collect()
}

impl Identity {
    /// The first identity of a kind.
    pub fn of_kind(kind: ArmKind) -> Self {
        let colour = match kind {
            ArmKind::Dense => DENSE[0],
            ArmKind::Deep => DEEP[0],
            ArmKind::Wide => WIDE[0],
        };
        Self { colour, kind }
    }

    /// The colour, dark enough for text on white.
    pub fn ink(&self) -> RGBColor {
        mix(self.colour, RGBColor(0, 0, 0), 0.25)
    }

    /// The colour mixed with white, `t` of it.
    pub fn tint(&self, t: f64) -> RGBColor {
        mix(self.colour, RGBColor(255, 255, 255), t)
    }

    /// Draws a disc for dense, a tall diamond for deep, a square for wide, each with a white rim.
    pub fn marker(&self, scene: &mut Scene, at: Point, radius: f64) {
        self.shape(scene, at, radius + 2.5, RGBColor(255, 255, 255));
        self.shape(scene, at, radius, self.colour);
    }

    fn shape(&self, scene: &mut Scene, (x, y): Point, radius: f64, colour: RGBColor) {
        match self.kind {
            ArmKind::Dense => scene.disc((x, y), radius, colour),
            ArmKind::Deep => {
                let (half, tall) = (radius * 0.95, radius * 1.4);
                scene.area(vec![(x, y - tall), (x + half, y), (x, y + tall), (x - half, y)], colour);
            }
            ArmKind::Wide => {
                scene.bar((x - radius * 0.92, y - radius * 0.92), (x + radius * 0.92, y + radius * 0.92), colour)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn an_arm_keeps_its_identity_when_others_are_added() {
        let (few, many) = (fixture::study(3, 1), fixture::study(5, 1));
        for (before, after) in identified(&few).iter().zip(identified(&many)) {
            assert_eq!(before.1, after.1);
        }
    }

    #[test]
    fn five_arms_have_five_colours() {
        let study = fixture::study(5, 1);
        let looks = identified(&study);
        for (index, (_, look)) in looks.iter().enumerate() {
            assert!(looks[..index].iter().all(|(_, other)| other.colour != look.colour));
        }
    }

    #[test]
    fn text_in_the_colour_of_an_arm_is_legible_on_white() {
        let luminance = |RGBColor(r, g, b): RGBColor| {
            let linear = |channel: u8| {
                let c = f64::from(channel) / 255.0;
                if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
        };
        for (arm, look) in identified(&fixture::study(5, 1)) {
            let contrast = 1.05 / (luminance(look.ink()) + 0.05);
            assert!(contrast >= 3.0, "{}: {contrast}", arm.name);
        }
    }
}
