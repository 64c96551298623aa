//! Our logits, routing, gradients and optimizer against those of transformers and PyTorch, on tiny random models.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData, Tolerance};
use deepwide::formats::hf::{HfOptions, HfWriter, Layout};
use deepwide::formats::{HfDirectory, write_hf_directory};
use deepwide::growth::{ExpertInit, Grown, GrowthPlan, LayerPlan, UpcyclePlan};
use deepwide::model::{AnyDecoder, CausalLm};
use deepwide::output::commit::{Existing, PartialDirectory};
use deepwide::output::disk::disk;
use deepwide::train::{AdamW, AdamWConfig, global_norm, load_balancing_loss};
use deepwide::weights::{TensorId, WeightSource};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::models::{bits, gradients, load, next_token_losses, relative, values};
use crate::pico;

/// Values computed by transformers or PyTorch: a file in a folder of `tests/golden`, beside the checkpoint if there is one.
struct Golden {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Golden {
    fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let bytes = std::fs::read(path.join("golden.safetensors")).expect("golden.safetensors");
        Self { path, bytes }
    }

    /// The golden models, by name.
    fn models() -> Vec<Self> {
        let folders = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).unwrap();
        let mut models: Vec<PathBuf> = folders.map(|entry| entry.unwrap().path()).collect();
        models.retain(|path| path.join("config.json").exists());
        models.sort();
        models.iter().map(|path| Self::open(path.file_name().unwrap().to_str().unwrap())).collect()
    }

    /// The mixtures among them.
    fn mixtures() -> Vec<Self> {
        let mut mixtures = Self::models();
        mixtures.retain(|golden| golden.checkpoint().config().moe.is_some());
        mixtures
    }

    fn checkpoint(&self) -> HfDirectory {
        HfDirectory::open(&self.path).unwrap()
    }

    fn model(&self, device: &Device) -> AnyDecoder {
        load(&self.checkpoint(), device)
    }

    fn tensor(&self, name: &str) -> TensorData {
        let file = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let view = file.tensor(name).unwrap_or_else(|error| panic!("{}: {name}: {error}", self.path.display()));
        let numbers = view.data().chunks_exact(4).map(|bytes| bytes.try_into().expect("4 bytes"));
        match view.dtype() {
            Dtype::I32 => TensorData::new(numbers.map(i32::from_le_bytes).collect(), view.shape().to_vec()),
            _ => TensorData::new(numbers.map(f32::from_le_bytes).collect(), view.shape().to_vec()),
        }
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.tensor(name).iter::<f32>().collect()
    }

    fn texts(&self) -> Vec<Vec<u32>> {
        let ids = self.tensor("input_ids");
        let flat: Vec<u32> = ids.iter::<u32>().collect();
        flat.chunks(ids.shape()[1]).map(<[u32]>::to_vec).collect()
    }

    fn tokens(&self, device: &Device) -> Tensor<2, Int> {
        Tensor::from_data(self.tensor("input_ids"), device)
    }

    /// The largest difference of the gradients of `loss` from transformers', over all weights, relative to the largest
    /// number of the weight's gradient.
    fn gradients_are_off_by(&self, model: &AnyDecoder, loss: Tensor<1>) -> f64 {
        let found = gradients(model, loss);
        let off = TensorId::all(model.config())
            .into_iter()
            .map(|id| relative(&values(&found, id), &self.values(&format!("grad.{}", id))));
        off.fold(0.0, f64::max)
    }
}

#[test]
fn logits_equal_those_of_transformers() {
    let models = Golden::models();
    assert!(models.len() >= 18, "found {} golden models", models.len());
    let device = pico::device();
    for golden in models {
        println!("{}", golden.path.display());
        let logits = golden.model(&device).forward(golden.tokens(&device)).logits.into_data();
        logits.assert_approx_eq::<f32>(&golden.tensor("logits"), Tolerance::absolute(1e-4));
    }
}

#[test]
fn router_logits_and_balancing_losses_equal_those_of_transformers() {
    let mixtures = Golden::mixtures();
    assert!(mixtures.len() >= 6, "found {} golden mixtures", mixtures.len());
    let device = pico::device();
    for golden in mixtures {
        println!("{}", golden.path.display());
        let routing = golden.model(&device).forward(golden.tokens(&device)).routing;
        let mut expected_mean = 0.0;
        for (layer, routing) in routing.iter().enumerate() {
            let expected = golden.tensor(&format!("router_logits.{layer}"));
            routing.scores.to_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
            let expected = golden.values(&format!("aux_loss.{layer}"))[0];
            let loss = load_balancing_loss(std::slice::from_ref(routing), None).into_scalar::<f32>();
            assert!((loss - expected).abs() <= 1e-5, "layer {layer}: balancing loss {loss}, not {expected}");
            expected_mean += expected / golden.checkpoint().config().num_hidden_layers as f32;
        }
        let mean = load_balancing_loss(&routing, None).into_scalar::<f32>();
        assert!((mean - expected_mean).abs() <= 1e-5, "balancing loss {mean}, not {expected_mean}");
    }
}

#[test]
fn the_gradient_of_every_weight_of_a_dense_model_equals_that_of_transformers() {
    let golden = Golden::open("llama_gradients");
    let device = pico::device().autodiff();
    let model = golden.model(&device);
    let (loss, _) = next_token_losses(&model, &golden.texts(), &device);
    assert!((loss.clone().into_scalar::<f32>() - golden.values("loss")[0]).abs() <= 1e-5);
    let off = golden.gradients_are_off_by(&model, loss);
    assert!(off <= 1e-5, "{off:e}");
}

#[test]
fn the_gradient_of_every_weight_of_a_mixture_equals_that_of_transformers_with_its_balancing_loss_and_not_without() {
    let golden = Golden::open("mixtral_gradients");
    let device = pico::device().autodiff();
    let model = golden.model(&device);
    let losses = || next_token_losses(&model, &golden.texts(), &device);
    let (loss, routing) = losses();
    assert!((loss.clone().into_scalar::<f32>() - golden.values("cross_entropy")[0]).abs() <= 1e-5);
    let loss = loss + load_balancing_loss(&routing, None) * 0.02;
    assert!((loss.clone().into_scalar::<f32>() - golden.values("loss")[0]).abs() <= 1e-5);
    let off = golden.gradients_are_off_by(&model, loss);
    assert!(off <= 1e-5, "{off:e}");
    let unbalanced = golden.gradients_are_off_by(&model, losses().0);
    assert!(unbalanced > 1e-3, "a missing balancing loss goes unnoticed: {unbalanced:e}");
}

/// The model of the golden trajectory. PyTorch decays both tensors; we do not decay tensors of one axis, so the bias has two.
#[derive(Module, Debug)]
struct Pair {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<2>>,
}

#[test]
fn ten_clipped_steps_of_adamw_follow_pytorch() {
    let golden = Golden::open("adamw");
    let device = pico::device();
    let tensor = |name: &str, device: &Device| {
        let (values, columns) = (golden.values(name), 7);
        let rows = values.len() / columns;
        Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), device)
    };
    let mut pair = Pair {
        weight: Param::from_tensor(tensor("param.0.weight", &device.clone().autodiff())),
        bias: Param::from_tensor(tensor("param.0.bias", &device.clone().autodiff())),
    };
    let mut optimizer = AdamW::new(AdamWConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 });
    let mut clipped = 0;
    for step in 1..=10 {
        let mut grads = GradientsParams::new();
        grads.register(pair.weight.id, tensor(&format!("grad.{step}.weight"), &device));
        grads.register(pair.bias.id, tensor(&format!("grad.{step}.bias"), &device));
        let norm = global_norm(&pair, &grads);
        let expected = f64::from(golden.values(&format!("grad_norm.{step}"))[0]);
        assert!((norm - expected).abs() <= 1e-6 * expected, "step {step}: norm {norm}, not {expected}");
        clipped += usize::from(norm > 1.0);
        pair = optimizer.step(pair, grads, 0.01, f64::min(1.0, 1.0 / (norm + 1e-6)));
        for (name, param) in [("weight", &pair.weight), ("bias", &pair.bias)] {
            let expected = tensor(&format!("param.{step}.{name}"), &device).into_data();
            param.val().inner().into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
        }
    }
    assert_eq!(clipped, 7);
}

#[test]
fn a_loaded_model_written_and_loaded_again_has_the_same_logits_to_the_bit() {
    let device = pico::device();
    let folder = tempfile::tempdir().unwrap();
    for golden in Golden::models() {
        let name = golden.path.file_name().unwrap();
        let written = folder.path().join(name);
        let (checkpoint, model) = (golden.checkpoint(), golden.model(&device));
        write_hf_directory(&model.to_weights(), Some(&checkpoint), None, &written).unwrap();
        let again = HfDirectory::open(&written).unwrap();
        assert_eq!(again.config(), checkpoint.config(), "{name:?}");
        let logits = load(&again, &device).forward(golden.tokens(&device)).logits;
        logits.to_data().assert_approx_eq::<f32>(&golden.tensor("logits"), Tolerance::absolute(1e-4));
        assert_eq!(bits(logits), bits(model.forward(golden.tokens(&device)).logits), "{name:?}");
    }
}

#[test]
fn both_layouts_of_experts_are_written_as_transformers_writes_them() {
    let folder = tempfile::tempdir().unwrap();
    for (name, layout) in [("mixtral_8x2", Layout::PerExpert), ("mixtral_8x2_fused", Layout::Fused)] {
        // From the other layout, so that nothing is merely copied.
        let source =
            Golden::open(if layout == Layout::Fused { "mixtral_8x2" } else { "mixtral_8x2_fused" }).checkpoint();
        let out = folder.path().join(name);
        let mut partial = PartialDirectory::create(disk(), &out, Existing::Keep).unwrap();
        let options = HfOptions { layout, ..HfOptions::default() };
        HfWriter::new(&source, options).write(&mut partial, &source.inherited().unwrap(), &mut |_| ()).unwrap();
        partial.commit().unwrap();
        let [ours, theirs] = [out, Golden::open(name).path].map(|path| tensors(&path.join("model.safetensors")));
        assert_eq!(ours, theirs, "{name}");
    }
}

/// Every tensor of a file, read by the `safetensors` crate.
fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.data().to_vec()))).collect()
}

/// Writes checkpoints with our logits beside them, for `tests/golden/check_written.py` to load with transformers.
#[test]
#[ignore = "writes files for tests/golden/check_written.py, which needs transformers"]
fn write_checkpoints_for_transformers_to_check() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("written");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    println!("{}", folder.display());
    for name in ["llama_gqa_tied", "llama_llama3_rope", "llama_bfloat16", "mistral_window", "mixtral_5x3_window"] {
        let golden = Golden::open(name);
        write_with_answers(&golden.checkpoint(), &golden, &folder.join(name));
    }
    let golden = Golden::open("mistral_window");
    let splice = GrowthPlan::Splice(LayerPlan::depth_up_scaling(2, 0).unwrap());
    let deep = Grown::new(golden.checkpoint(), splice).unwrap();
    write_with_answers(&deep, &golden, &folder.join("mistral_deep"));
    let drop = UpcyclePlan { init: ExpertInit::Drop { ratio: 0.5 }, ..UpcyclePlan::new(4, 2) };
    let wide = Grown::new(deep, GrowthPlan::Upcycle(drop)).unwrap();
    write_with_answers(&wide, &golden, &folder.join("mistral_deep_and_wide"));
}

fn write_with_answers(source: &impl WeightSource, golden: &Golden, out: &Path) {
    let device = pico::device();
    write_hf_directory(source, None, None, out).unwrap();
    let logits = load(source, &device).forward(golden.tokens(&device)).logits.into_data();
    let ids = golden.tensor("input_ids");
    let views = [("input_ids", Dtype::I32, &ids), ("logits", Dtype::F32, &logits)]
        .map(|(name, dtype, data)| (name, TensorView::new(dtype, data.shape().to_vec(), data.as_bytes()).unwrap()));
    safetensors::serialize_to_file(views, None, &out.join("answers.safetensors")).unwrap();
}
