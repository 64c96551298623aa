//! Our logits, balancing loss and gradients against those of transformers, on tiny random models of every kind.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData, Tolerance};
use deepwide::model::{CausalLm, CausalLmOutput, DenseDecoder, MoeDecoder};
use deepwide::weights::{HfDirectory, WeightSource};
use safetensors::{SafeTensors, tensor::TensorView};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The golden models: folders that hold a checkpoint and what transformers computed with it.
fn models() -> Vec<PathBuf> {
    let folders = std::fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path());
    let mut models: Vec<PathBuf> = folders.filter(|path| path.join("config.json").exists()).collect();
    models.sort();
    models
}

fn floats(view: &TensorView<'_>) -> TensorData {
    let values: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    TensorData::new(values, view.shape().to_vec())
}

fn ids(view: &TensorView<'_>, device: &Device) -> Tensor<2, Int> {
    let values: Vec<i32> = view.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect();
    Tensor::from_data(TensorData::new(values, view.shape().to_vec()), device)
}

fn forward(model: &Path, tokens: Tensor<2, Int>) -> CausalLmOutput {
    let source = HfDirectory::open(model).unwrap();
    let device = Device::flex();
    match source.config().moe {
        None => DenseDecoder::load(&source, &device).unwrap().forward(tokens),
        Some(_) => MoeDecoder::load(&source, &device).unwrap().forward(tokens),
    }
}

#[test]
fn logits_equal_those_of_transformers() {
    let models = models();
    assert!(models.len() >= 8, "found {} golden models", models.len());
    for model in models {
        let bytes = std::fs::read(model.join("golden.safetensors")).unwrap();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let output = forward(&model, ids(&golden.tensor("input_ids").unwrap(), &Device::flex()));
        println!("{}", model.display());
        let expected = floats(&golden.tensor("logits").unwrap());
        output.logits.into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
    }
}
