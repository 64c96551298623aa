//! A growth as files of mergekit.

use crate::config::DecoderConfig;
use crate::growth::mergekit::{moe_yaml, passthrough_yaml};
use crate::growth::{GrowthPlan, PlanError};

/// Name and text of a mergekit file for each of the first plans, up to one that mergekit has no keys for, such as an upcycle
/// without `drawn_routers`. `name` calls the base in the first; each other reads the output of the one before, in a directory
/// `grown_1`, `grown_2`, …
pub(super) fn mergekit_configs(
    name: &str,
    base: &DecoderConfig,
    plans: &[GrowthPlan],
    drawn_routers: bool,
) -> Result<Vec<(String, Vec<u8>)>, PlanError> {
    let (mut config, mut texts) = (base.clone(), Vec::new());
    for (index, plan) in plans.iter().enumerate() {
        let model = if index == 0 { name.to_owned() } else { format!("grown_{index}") };
        let text = match plan {
            GrowthPlan::Upcycle(_) if !drawn_routers => None,
            GrowthPlan::Upcycle(plan) => {
                moe_yaml(&model, plan, config.intermediate_size).map(|text| ("mergekit_moe_config", text))
            }
            plan => {
                let layers = plan.layers(config.num_hidden_layers)?;
                layers.map(|layers| ("mergekit_config", passthrough_yaml(&model, &layers, None)))
            }
        };
        let Some(text) = text else { break };
        texts.push(text);
        config = plan.config(&config)?;
    }
    let is_numbered = texts.len() > 1;
    let file = |(index, (stem, text)): (usize, (&str, String))| {
        let name = if is_numbered { format!("{stem}_{}.yml", index + 1) } else { format!("{stem}.yml") };
        (name, text.into_bytes())
    };
    Ok(texts.into_iter().enumerate().map(file).collect())
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::growth::{ExpertInit, UpcyclePlan};

    fn names(plans: &[GrowthPlan]) -> Vec<String> {
        let configs = mergekit_configs("base", &DecoderConfig::pico(), plans, true).unwrap();
        configs.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_files_of_several_plans_are_numbered() {
        let deep = GrowthPlan::DepthUpScaling { overlap: 2 };
        let wide = GrowthPlan::Upcycle(UpcyclePlan::new(4, 2));
        assert_eq!(names(&[]), [""; 0]);
        assert_eq!(names(from_ref(&deep)), ["mergekit_config.yml"]);
        assert_eq!(names(from_ref(&wide)), ["mergekit_moe_config.yml"]);
        assert_eq!(names(&[deep, wide]), ["mergekit_config_1.yml", "mergekit_moe_config_2.yml"]);
    }

    #[test]
    fn the_files_end_before_a_plan_that_mergekit_has_no_keys_for() {
        let deep = GrowthPlan::DepthUpScaling { overlap: 2 };
        let dropped = UpcyclePlan { init: ExpertInit::Drop { ratio: 0.5 }, ..UpcyclePlan::new(4, 2) };
        assert_eq!(names(&[deep.clone(), GrowthPlan::Upcycle(dropped), deep]), ["mergekit_config.yml"]);
        assert_eq!(names(&[GrowthPlan::Upcycle(dropped)]), [""; 0]);
    }
}
