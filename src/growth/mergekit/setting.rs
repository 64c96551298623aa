//! The value of a parameter, which may depend on the tensor and on its layer.

use super::error::MergeFault;
use super::yaml::{Node, Value};

/// A number, for some tensors or all.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Setting {
    /// The points of a gradient, evenly spaced over the layers of a slice; one is a constant, none does not apply.
    Gradient(Vec<f64>),
    /// The first setting whose filter matches the tensor counts.
    Filtered(Vec<(Option<String>, Vec<f64>)>),
}

impl Setting {
    pub fn read(field: &str, node: &Node) -> Result<Self, MergeFault> {
        match &node.value {
            Value::Mapping(_) => Ok(Self::Filtered(vec![filtered(field, node)?])),
            Value::List(items) if items.iter().any(|item| matches!(item.value, Value::Mapping(_))) => {
                let each = items.iter().map(|item| filtered(field, item));
                Ok(Self::Filtered(each.collect::<Result<_, _>>()?))
            }
            _ => Ok(Self::Gradient(gradient(field, node)?)),
        }
    }

    /// The value for a tensor at `t`, 0 in the first layer of the slice and 1 in the last; `None` if the setting does not
    /// apply to it.
    pub fn value(&self, tensor: &str, t: f64) -> Option<f64> {
        match self {
            Self::Gradient(points) => at(points, t),
            Self::Filtered(settings) => {
                let matches = |filter: &str| filter == "*" || tensor.contains(filter);
                let (_, points) = settings.iter().find(|(filter, _)| filter.as_deref().is_none_or(matches))?;
                at(points, t)
            }
        }
    }
}

fn filtered(field: &str, node: &Node) -> Result<(Option<String>, Vec<f64>), MergeFault> {
    let fields = node.fields(field, &["value", "filter"])?;
    let filter = fields.get("filter").map(|node| node.text("filter")).transpose()?;
    Ok((filter.map(str::to_owned), gradient(field, fields.required("value")?)?))
}

fn gradient(field: &str, node: &Node) -> Result<Vec<f64>, MergeFault> {
    match &node.value {
        Value::List(items) => items.iter().map(|item| item.number(field)).collect(),
        _ => Ok(vec![node.number(field)?]),
    }
}

/// Linear between the points: `(1 − f)·v_i + f·v_{i+1}` with `i + f = t·(len − 1)`, as mergekit computes it.
fn at(points: &[f64], t: f64) -> Option<f64> {
    let last = points.len().checked_sub(1)?;
    let scaled = t * last as f64;
    let below = (scaled as usize).min(last);
    let fraction = scaled - below as f64;
    Some((1.0 - fraction) * points[below] + fraction * points[(below + 1).min(last)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(yaml: &str) -> Setting {
        Setting::read("scale", &Node::parse(yaml.as_bytes(), &mut Vec::new()).unwrap()).unwrap()
    }

    #[test]
    fn a_gradient_is_linear_between_its_points() {
        let scale = setting("[0, 1, 3]");
        let values = [0.0, 0.25, 0.5, 0.75, 1.0].map(|t| scale.value("model.norm.weight", t).unwrap());
        assert_eq!(values, [0.0, 0.5, 1.0, 2.0, 3.0]);
        assert_eq!(setting("0.5").value("x", 0.3), Some(0.5));
        assert_eq!(setting("[]").value("x", 0.3), None);
    }

    #[test]
    fn the_first_matching_filter_decides() {
        let scale = setting("- {filter: down_proj, value: 0}\n- {filter: 'layers.1.', value: [1, 2]}\n- value: 5");
        assert_eq!(scale.value("model.layers.1.mlp.down_proj.weight", 0.5), Some(0.0));
        assert_eq!(scale.value("model.layers.1.mlp.up_proj.weight", 0.5), Some(1.5));
        assert_eq!(scale.value("model.layers.2.mlp.up_proj.weight", 0.5), Some(5.0));
        assert_eq!(setting("{filter: q_proj, value: 2}").value("model.norm.weight", 0.0), None);
        assert_eq!(setting("{filter: '*', value: 2}").value("model.norm.weight", 0.0), Some(2.0));
    }
}
