//! Groups of parameters that learn at their own rate, or not at all.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use regex::Regex;

use super::param_path::ParamPath;

/// Multipliers of the learning rate by the name of a parameter. The last group with a matching name decides; parameters in
/// no group have multiplier 1, and those with multiplier 0 are frozen: they get no gradient, no moments and no decay.
#[derive(Debug, Clone, Default)]
pub struct ParamGroups(Vec<(Regex, f64)>);

impl ParamGroups {
    /// Adds a group of the parameters whose Hugging Face name `pattern` is found in.
    pub fn push(&mut self, pattern: Regex, multiplier: f64) {
        self.0.push((pattern, multiplier));
    }

    /// The multiplier of a parameter.
    pub fn multiplier(&self, name: &str) -> f64 {
        let found = self.0.iter().rev().find(|(pattern, _)| pattern.is_match(name));
        found.map_or(1.0, |(_, multiplier)| *multiplier)
    }

    /// The first pattern that is found in none of the names.
    pub fn unmatched<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        let matches = |pattern: &Regex| names.clone().any(|name| pattern.is_match(name));
        self.0.iter().map(|(pattern, _)| pattern).find(|pattern| !matches(pattern)).map(Regex::as_str)
    }

    /// Freezes the parameters with multiplier 0.
    pub fn freeze<M: Module>(&self, model: M) -> M {
        if self.0.is_empty() { model } else { model.map(&mut Freeze { groups: self, path: ParamPath::default() }) }
    }
}

/// The names of the parameters of a model.
#[derive(Debug, Default)]
pub struct ParamNames {
    /// All names.
    pub all: Vec<String>,
    /// How many of the parameters get a gradient.
    pub num_trained: usize,
    /// The numbers in these.
    pub num_trained_elements: u64,
    path: ParamPath,
}

impl ParamNames {
    /// Visits a model.
    pub fn of<M: Module>(model: &M) -> Self {
        let mut names = Self::default();
        model.visit(&mut names);
        names
    }
}

impl ModuleVisitor for ParamNames {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.all.push(self.path.name());
        if param.is_require_grad() {
            self.num_trained += 1;
            self.num_trained_elements += param.lazy_shape().num_elements() as u64;
        }
    }
}

struct Freeze<'a> {
    groups: &'a ParamGroups,
    path: ParamPath,
}

impl ModuleMapper for Freeze<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let frozen = self.groups.multiplier(&self.path.name()) == 0.0;
        if frozen { param.set_require_grad(false) } else { param }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_matching_group_decides() {
        let mut groups = ParamGroups::default();
        groups.push(Regex::new("^model\\.layers").unwrap(), 0.0);
        groups.push(Regex::new("self_attn").unwrap(), 0.5);
        assert_eq!(groups.multiplier("model.layers.0.mlp.up_proj.weight"), 0.0);
        assert_eq!(groups.multiplier("model.layers.0.self_attn.q_proj.weight"), 0.5);
        assert_eq!(groups.multiplier("model.norm.weight"), 1.0);
    }
}
