//! The name of the parameter that a visitor or mapper has reached.

/// Module paths within a decoder and the Hugging Face names they stand for, where the two differ.
///
/// A mixture keeps the experts of a layer stacked, one parameter a projection. Its name is that of one expert's
/// projection in Mixtral without the expert's number. Adapters have PEFT's names; each expert has its own.
const RENAMED: [(&str, &str); 8] = [
    (".mlp.router.gate.", ".block_sparse_moe.gate."),
    (".mlp.experts.gate_proj", ".block_sparse_moe.experts.w1.weight"),
    (".mlp.experts.down_proj", ".block_sparse_moe.experts.w2.weight"),
    (".mlp.experts.up_proj", ".block_sparse_moe.experts.w3.weight"),
    (".mlp.lora.", ".block_sparse_moe.experts."),
    (".lora.lora_", ".lora_"),
    (".lora_a", ".lora_A.weight"),
    (".lora_b", ".lora_B.weight"),
];

/// Modules that Hugging Face keeps under `model.`.
const UNDER_MODEL: [&str; 3] = ["embed_tokens.", "layers.", "norm."];

/// The fields entered so far, outermost first. Variants of enums add nothing to a name.
#[derive(Debug, Default)]
pub(super) struct ParamPath(Vec<String>);

impl ParamPath {
    pub(super) fn enter(&mut self, name: &str, container: &str) {
        if !is_enum(container) {
            self.0.push(name.to_owned());
        }
    }

    pub(super) fn exit(&mut self, container: &str) {
        if !is_enum(container) {
            self.0.pop();
        }
    }

    /// The Hugging Face name of this parameter: `model.layers.0.self_attn.q_proj.weight`,
    /// `model.layers.0.block_sparse_moe.experts.w1.weight`. Outside a decoder, the module path.
    pub(super) fn name(&self) -> String {
        let path = self.0.join(".");
        let name = RENAMED.iter().fold(path, |path, (ours, theirs)| path.replace(ours, theirs));
        if UNDER_MODEL.iter().any(|module| name.starts_with(module)) { format!("model.{name}") } else { name }
    }
}

/// Burn names the container of an enum's variant `Enum:Type`.
fn is_enum(container: &str) -> bool {
    container.starts_with("Enum:")
}
