//! Every projection of a dense layer goes through `Linear`: nothing bypasses an adapter that is put there.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use deepwide::config::DecoderConfig;
use deepwide::model::{AnyDecoder, CausalLm, KvCache};

use crate::models::{bits, load, tokens};
use crate::pico;

const PROJECTIONS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Changes the parameters of the `Linear` of one projection of one layer, as merging an adapter would.
struct Adapt<'a> {
    layer: String,
    projection: &'a str,
    /// Names of the modules around the current one, each with the type that contains it.
    path: Vec<[String; 2]>,
    adapted: usize,
}

impl Adapt<'_> {
    fn applies(&self) -> bool {
        let under = |name: &str| self.path.iter().position(|[module, _]| module == name);
        let layer =
            under("layers").is_some_and(|at| self.path.get(at + 1).is_some_and(|[name, _]| *name == self.layer));
        let linear = |at: usize| self.path.get(at + 1).is_some_and(|[_, container]| container == "Struct:Linear");
        layer && under(self.projection).is_some_and(linear)
    }
}

impl ModuleMapper for Adapt<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push([name, container_type].map(str::to_owned));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self.applies() {
            return param;
        }
        self.adapted += 1;
        param.map(|weight| weight.clone() + weight.clone().square())
    }
}

/// The model with one adapted projection, and the number of parameters that this changed.
fn adapt(model: &AnyDecoder, layer: usize, projection: &str) -> (AnyDecoder, usize) {
    let mut adapt = Adapt { layer: layer.to_string(), projection, path: Vec::new(), adapted: 0 };
    let model = model.clone().map(&mut adapt);
    (model, adapt.adapted)
}

/// The last logits of a prefill, and of a decoding step that follows a prompt.
fn logits(model: &AnyDecoder) -> [Vec<u32>; 2] {
    let (ids, device) = ([3, 1, 4, 1, 5, 9, 2, 6], pico::device());
    let vocab_size = model.config().vocab_size;
    let prefill = bits(model.forward(tokens(&[ids], &device)).logits);
    let mut cache = KvCache::new(model.config(), 1, ids.len(), &device);
    let (prompt, last) = ids.split_at(ids.len() - 1);
    model.hidden_states(tokens(&[prompt], &device), Some(&mut cache));
    let decoded = model.hidden_states(tokens(&[last], &device), Some(&mut cache)).last;
    [prefill[prefill.len() - vocab_size..].to_vec(), bits(model.lm_head(decoded))]
}

#[test]
fn a_change_of_any_linear_of_any_layer_changes_prefill_and_decoding() {
    let config = DecoderConfig::smollm2_135m().with(|f| {
        (f.hidden_size, f.intermediate_size, f.num_hidden_layers, f.vocab_size) = (32, 48, 3, 11);
        (f.num_attention_heads, f.num_key_value_heads, f.head_dim) = (4, 2, 8);
    });
    let config = config.expect("a small decoder");
    let model = load(&pico::random_weights(&config, 7), &pico::device());
    let expected = logits(&model);
    for layer in 0..config.num_hidden_layers {
        for projection in PROJECTIONS {
            let (adapted, count) = adapt(&model, layer, projection);
            assert_eq!(count, 1, "{projection} of layer {layer} is one `Linear`");
            let [prefill, decoded] = logits(&adapted);
            assert!(prefill != expected[0] && decoded != expected[1], "{projection} of layer {layer} is bypassed");
        }
    }
    // Controls: nothing changes where there is no such projection or layer, nor outside a `Linear`.
    for (layer, name) in [(0, "z_proj"), (config.num_hidden_layers, "q_proj"), (0, "input_layernorm")] {
        let (same, count) = adapt(&model, layer, name);
        assert_eq!((count, logits(&same)), (0, expected.clone()), "{name} of layer {layer}");
    }
}
