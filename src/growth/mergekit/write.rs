//! Growth in depth as a mergekit config.

use crate::growth::LayerPlan;
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
    use super::super::MergeConfig;
    use super::*;

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
