//! Non-finite weights.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::param_path::ParamPath;

/// The Hugging Face name of the first parameter of a model with a number that is not finite; experts of a layer share one.
pub fn first_nonfinite<M: Module>(model: &M) -> Option<String> {
    let mut search = Search::default();
    model.visit(&mut search);
    search.found
}

#[derive(Default)]
struct Search {
    path: ParamPath,
    found: Option<String>,
}

impl ModuleVisitor for Search {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Zero times a number that is not finite is NaN, and so is a sum with it.
        if self.found.is_none() && (param.val().detach() * 0.0).sum().into_scalar::<f32>().is_nan() {
            self.found = Some(self.path.name());
        }
    }
}
