//! Growths as mergekit configs.

use super::moe::GateMode;
use crate::growth::{LayerPlan, RouterInit, UpcyclePlan};
use crate::weights::Dtype;

/// The `mergekit-yaml` config that gives the same weights of `model` as `plan`, up to the sign of zeros.
///
/// An identity block is a slice of its own, whose additions to the residual stream are multiplied by 0.
pub fn passthrough_yaml(model: &str, plan: &LayerPlan, dtype: Option<Dtype>) -> String {
    let layers = plan.as_slice();
    let mut text = "slices:\n".to_owned();
    let mut first = 0;
    for place in plan.identity_layers().iter().copied().chain([layers.len()]) {
        let between = &layers[first..place];
        between
            .chunk_by(|below, above| *above == below + 1)
            .for_each(|run| text += &slice(model, run[0]..run[0] + run.len(), false));
        if let Some(&layer) = layers.get(place) {
            text += &slice(model, layer..layer + 1, true);
        }
        first = place + 1;
    }
    text += "merge_method: passthrough\n";
    text + &dtype.map_or_else(String::new, |dtype| format!("dtype: {dtype}\n"))
}

/// The `mergekit-moe` config that [`MergeConfig`](super::MergeConfig) reads as `plan`, up to the seed: experts that are copies of
/// the MLPs of `model`, with random routers. `None` if experts or routers start in another way.
///
/// mergekit draws its routers from other random numbers, those of `gate_mode: random` from `N(0, 1)`.
pub fn moe_yaml(model: &str, plan: &UpcyclePlan, intermediate_size: usize) -> Option<String> {
    let gate_mode = match plan.router {
        RouterInit::Uniform => GateMode::UniformRandom,
        router if router == RouterInit::default() => GateMode::Random,
        _ => return None,
    };
    let (experts, experts_per_token) = (plan.num_local_experts, plan.num_experts_per_tok);
    let usual = UpcyclePlan::new(experts, experts_per_token);
    if !plan.copies(intermediate_size) || plan.router_aux_loss_coef != usual.router_aux_loss_coef {
        return None;
    }
    let (model, gate_mode) = (scalar(model), gate_mode.name());
    let head =
        format!("base_model: {model}\ngate_mode: {gate_mode}\nexperts_per_token: {experts_per_token}\nexperts:\n");
    Some(head + &format!("  - source_model: {model}\n").repeat(experts))
}

fn slice(model: &str, layers: std::ops::Range<usize>, is_identity: bool) -> String {
    let std::ops::Range { start, end } = layers;
    let model = scalar(model);
    let mut text = format!("  - sources:\n      - model: {model}\n        layer_range: [{start}, {end}]\n");
    if is_identity {
        text += "        parameters:\n          scale:\n";
        for filter in ["o_proj", "down_proj"] {
            text += &format!("            - filter: {filter}\n              value: 0.0\n");
        }
    }
    text
}

/// Plain if every YAML reader takes it for text, else in double quotes with the escapes of JSON.
fn scalar(text: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "/._-@".contains(c);
    let has_path = text.contains('/') && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    if has_path && text.chars().all(is_safe) { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::{MergeConfig, MoeMergeOptions};
    use super::*;
    use crate::growth::{ExpertInit, Grown, GrowthPlan};
    use crate::weights::{MemoryWeights, TensorId, WeightSource};

    fn planned(text: &str) -> Vec<usize> {
        let MergeConfig::Passthrough(config) = MergeConfig::parse("a.yml", text.as_bytes()).unwrap() else {
            panic!("{text}");
        };
        let base = crate::config::DecoderConfig::pico();
        config.plan(&[&base]).unwrap().layers().iter().map(|layer| layer.layer).collect()
    }

    #[test]
    fn a_written_mixture_has_the_weights_of_its_plan() {
        let base = MemoryWeights::untrained(crate::config::DecoderConfig::pico(), 0.02, 1);
        for router in [RouterInit::default(), RouterInit::Uniform] {
            let plan = UpcyclePlan { router, seed: 5, ..UpcyclePlan::new(4, 3) };
            let text = moe_yaml("base", &plan, base.config().intermediate_size).unwrap();
            let MergeConfig::Moe(config) = MergeConfig::parse("a.yml", text.as_bytes()).unwrap() else {
                panic!("{text}");
            };
            let options = MoeMergeOptions { seed: 5, ..MoeMergeOptions::default() };
            let merge = GrowthPlan::MergeExperts(config.plan(&[base.config()], &options).unwrap());
            let (merged, grown) =
                (Grown::new(&base, merge).unwrap(), Grown::new(&base, GrowthPlan::Upcycle(plan)).unwrap());
            assert_eq!(merged.config(), grown.config());
            for id in TensorId::all(grown.config()) {
                assert_eq!(merged.read(id).unwrap(), grown.read(id).unwrap(), "{id:?}");
            }
        }
    }

    #[test]
    fn a_mixture_that_mergekit_cannot_make_is_not_written() {
        let plan = UpcyclePlan::new(4, 2);
        assert!(moe_yaml("base", &plan, 336).is_some());
        for other in [
            UpcyclePlan { router: RouterInit::Orthogonal, ..plan },
            UpcyclePlan { router: RouterInit::Normal { std: 0.1 }, ..plan },
            UpcyclePlan { init: ExpertInit::Noise { relative_std: 0.1 }, ..plan },
            UpcyclePlan { init: ExpertInit::Drop { ratio: 0.5 }, ..plan },
            UpcyclePlan { router_aux_loss_coef: 0.5, ..plan },
        ] {
            assert_eq!(moe_yaml("base", &other, 336), None, "{other:?}");
        }
    }

    #[test]
    fn a_written_plan_reads_as_itself() {
        let plan = LayerPlan::depth_up_scaling(8, 2).unwrap();
        let text = passthrough_yaml("org/base", &plan, Some(Dtype::Bfloat16));
        let expected = "slices:
  - sources:
      - model: org/base
        layer_range: [0, 6]
  - sources:
      - model: org/base
        layer_range: [2, 8]
merge_method: passthrough
dtype: bfloat16
";
        assert_eq!(text, expected);
        assert_eq!(planned(&text), plan.as_slice());
        for num_blocks in [1, 2, 4, 8] {
            let plan = LayerPlan::identity_blocks(8, num_blocks).unwrap();
            let text = passthrough_yaml("org/base", &plan, None);
            assert_eq!(planned(&text), plan.as_slice());
        }
    }

    #[test]
    fn any_name_of_a_model_survives() {
        for name in ["org/base", "./a b: c", "8", "no", "\"quoted\"", "tab\there", "päth/é", "# x", "/abs/path", "a@b"]
        {
            let plan = LayerPlan::identity(8).unwrap();
            let text = passthrough_yaml(name, &plan, None);
            let config = MergeConfig::parse("a.yml", text.as_bytes()).unwrap();
            assert_eq!(config.models()[0].to_string(), name);
        }
    }
}
