//! Plans of our own as mergekit would spell them.

use crate::growth::{BlockExpansion, GrowthPlan};
use crate::weights::Dtype;

/// The `mergekit-yaml` config that makes the same weights of `model` as `plan`, up to the sign of zeros; `None` for an
/// upcycle, whose routers mergekit draws in its own way.
pub fn passthrough_yaml(model: &str, plan: &GrowthPlan, dtype: Option<Dtype>) -> Option<String> {
    let slices: String = match plan {
        GrowthPlan::Splice(layers) => layers.runs().map(|range| slice(model, range, false)).collect(),
        GrowthPlan::Expand(blocks) => expanded(model, blocks),
        GrowthPlan::Upcycle(_) => return None,
    };
    let dtype = dtype.map_or_else(String::new, |dtype| format!("dtype: {dtype}\n"));
    Some(format!("slices:\n{slices}merge_method: passthrough\n{dtype}"))
}

/// An identity block is a slice of its own, whose additions to the residual stream are multiplied by 0.
fn expanded(model: &str, blocks: &BlockExpansion) -> String {
    let identity = blocks.identity_layers();
    let mut text = String::new();
    let mut first = 0;
    for place in identity.iter().copied().chain([blocks.layers().as_slice().len()]) {
        let between: &[usize] = &blocks.layers().as_slice()[first..place];
        between
            .chunk_by(|below, above| *above == below + 1)
            .for_each(|run| text += &slice(model, run[0]..run[0] + run.len(), false));
        if let Some(&layer) = blocks.layers().as_slice().get(place) {
            text += &slice(model, layer..layer + 1, true);
        }
        first = place + 1;
    }
    text
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

/// Plain where every YAML reads it as text, else in double quotes with JSON's escapes, which are YAML's too.
fn scalar(text: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "/._-@".contains(c);
    let has_path = text.contains('/') && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    if has_path && text.chars().all(is_safe) { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::MergeConfig;
    use super::*;
    use crate::growth::LayerPlan;

    fn planned(text: &str) -> Vec<usize> {
        let MergeConfig::Passthrough(config) = MergeConfig::parse("a.yml", text.as_bytes()).unwrap() else {
            panic!("{text}");
        };
        let base = crate::config::DecoderConfig::pico();
        config.plan(&[&base]).unwrap().layers().iter().map(|layer| layer.layer).collect()
    }

    #[test]
    fn a_written_plan_reads_as_itself() {
        let plan = LayerPlan::depth_up_scaling(8, 2).unwrap();
        let text = passthrough_yaml("org/base", &GrowthPlan::Splice(plan.clone()), Some(Dtype::Bfloat16)).unwrap();
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
            let plan = BlockExpansion::identity_blocks(8, num_blocks).unwrap();
            let text = passthrough_yaml("org/base", &GrowthPlan::Expand(plan.clone()), None).unwrap();
            assert_eq!(planned(&text), plan.layers().as_slice());
        }
    }

    #[test]
    fn any_name_of_a_model_survives() {
        for name in ["org/base", "./a b: c", "8", "no", "\"quoted\"", "tab\there", "päth/é", "# x", "/abs/path", "a@b"]
        {
            let plan = GrowthPlan::Splice(LayerPlan::identity(8).unwrap());
            let text = passthrough_yaml(name, &plan, None).unwrap();
            let config = MergeConfig::parse("a.yml", text.as_bytes()).unwrap();
            assert_eq!(config.models()[0].to_string(), name);
        }
    }
}
