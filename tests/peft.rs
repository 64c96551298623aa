//! Adapter directories against PEFT: what it wrote is read and computed alike, what is written it loads.

use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use deepwide::config::DecoderConfig;
use deepwide::error::ErrorKind;
use deepwide::formats::HfDirectory;
use deepwide::formats::peft::{PeftDirectory, write_peft_directory};
use deepwide::growth::{Grown, GrowthPlan};
use deepwide::lora::{LoraAdapter, LoraConfig, Modules, module_name};
use deepwide::model::{AnyDecoder, CausalLm};
use deepwide::weights::{Dtype, RawTensor, TensorId, WeightSource};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::grow::{names, printed, run, tiny_base};
use crate::models::{load, next_token_losses, relative, rows, tokens, values};
use crate::pico;

/// An adapter that PEFT wrote, its base, and what PEFT computed with both.
struct Golden {
    path: PathBuf,
    bytes: Vec<u8>,
}

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

impl Golden {
    fn all() -> Vec<Self> {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(golden("peft")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().map(Self::open).collect()
    }

    fn open(path: PathBuf) -> Self {
        Self { bytes: std::fs::read(path.join("golden.safetensors")).unwrap(), path }
    }

    fn adapter(&self) -> PeftDirectory {
        PeftDirectory::open(&self.path).unwrap()
    }

    fn base(&self) -> HfDirectory {
        HfDirectory::open(&golden(self.adapter().base().unwrap())).unwrap()
    }

    fn read(&self) -> LoraAdapter {
        self.adapter().read(self.base().config()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.bytes).unwrap().names().into_iter().map(str::to_owned).collect()
    }

    fn values(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let numbers = file.tensor(name).unwrap().data().chunks_exact(4).map(|bytes| bytes.try_into().unwrap());
        numbers.map(f32::from_le_bytes).collect()
    }

    fn texts(&self) -> Vec<Vec<u32>> {
        texts(&golden(self.adapter().base().unwrap()))
    }
}

/// An adapter of all linear maps, with factors that are not zero.
fn trained(decoder: &DecoderConfig) -> LoraAdapter {
    let config = LoraConfig { r: 3, lora_alpha: 6.0, ..LoraConfig::default() };
    let initial = LoraAdapter::initial(config.clone(), decoder, 1).unwrap();
    let updates = initial.updates().map(|(id, update)| {
        let mut update = (**update).clone();
        update.b.iter_mut().enumerate().for_each(|(i, b)| *b = ((i * 7) % 11) as f32 / 30.0 - 0.15);
        (id, update.into())
    });
    LoraAdapter::new(config, decoder, updates.collect()).unwrap()
}

/// The texts of a golden model.
fn texts(model: &Path) -> Vec<Vec<u32>> {
    let bytes = std::fs::read(model.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = file.tensor("input_ids").unwrap();
    let flat: Vec<u32> =
        ids.data().chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect();
    flat.chunks(ids.shape()[1]).map(<[u32]>::to_vec).collect()
}

fn logits(model: &AnyDecoder, texts: &[Vec<u32>]) -> Vec<f32> {
    rows(model.forward(tokens(texts, &model.devices()[0])).logits).into_iter().map(|x| x as f32).collect()
}

#[test]
fn logits_and_gradients_of_an_adapter_equal_those_of_peft() {
    struct Gradients(GradientsParams);

    impl ModuleMapper for Gradients {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some(gradient) = self.0.remove::<D>(param.id) else { return param };
            let (id, _, mapper) = param.consume();
            Param::from_mapped_value(id, gradient, mapper)
        }
    }

    let device = pico::device().autodiff();
    let all = Golden::all();
    assert!(all.len() >= 5, "found {} adapters", all.len());
    for golden in all {
        let name = golden.path.file_name().unwrap();
        let base = load(&golden.base(), &device);
        let unadapted = logits(&base, &golden.texts());
        let model = base.with_adapter(&golden.read()).unwrap();
        let expected = golden.values("logits");
        let off = relative(&logits(&model, &golden.texts()), &expected);
        assert!(off < 1e-5, "{name:?}: logits are off by {off}");
        assert!(relative(&unadapted, &expected) > 0.1, "{name:?}: the adapter is small");
        let (loss, _) = next_token_losses(&model, &golden.texts(), &device);
        let mut gradients = Gradients(GradientsParams::from_grads(loss.backward(), &model));
        let found = model.map(&mut gradients).adapter().unwrap();
        let mut count = 0;
        for (id, update) in found.updates() {
            let module = module_name(id).unwrap();
            for (factor, found) in [("lora_A", &update.a), ("lora_B", &update.b)] {
                let name = format!("grad.base_model.model.{module}.{factor}.weight");
                // The factors of stacked parameters are no tensors of ours.
                if !golden.names().contains(&name) {
                    continue;
                }
                let expected = golden.values(&name);
                let off = relative(found, &expected);
                assert!(off < 1e-4, "{}: {name} is off by {off}", golden.path.display());
                count += 1;
            }
        }
        assert_eq!(count, golden.names().iter().filter(|name| name.starts_with("grad.")).count(), "{name:?}");
    }
}

#[test]
fn the_hash_of_the_config_tells_scales_apart() {
    let golden = Golden::all().remove(0);
    let folder = tempfile::tempdir().unwrap();
    let name = "adapter_model.safetensors";
    std::fs::copy(golden.path.join(name), folder.path().join(name)).unwrap();
    let text = std::fs::read(golden.path.join("adapter_config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&text).unwrap();
    let with_alpha = |config: &Value| {
        std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
        let adapter = PeftDirectory::open(folder.path()).unwrap();
        (adapter.blake3().unwrap(), adapter.config_blake3().to_owned())
    };
    let whole = with_alpha(&config);
    config["lora_alpha"] = json!(7);
    let scaled = with_alpha(&config);
    assert_eq!(whole.0, scaled.0);
    assert_ne!(whole.1, scaled.1);
}

#[test]
fn merged_weights_equal_those_of_peft() {
    for golden in Golden::all() {
        let name = golden.path.file_name().unwrap().to_str().unwrap().to_owned();
        let (blake3, config_blake3) = (String::new(), String::new());
        let lora = GrowthPlan::Lora { adapter: golden.read().into(), name: name.clone(), blake3, config_blake3 };
        let merged = Grown::all(golden.base(), [GrowthPlan::Cast { dtype: Dtype::Float32 }, lora.clone()]).unwrap();
        let mut changed = 0;
        for id in TensorId::all(merged.config()) {
            let key = format!("merged.{id}");
            let found = values(&merged, id);
            if golden.names().contains(&key) {
                let off = found.iter().zip(golden.values(&key)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 1e-6, "{name}: {id} is off by {off}");
                changed += 1;
            } else {
                assert_eq!(found, values(&golden.base(), id), "{name}: {id} has no update");
            }
        }
        assert_eq!(changed, golden.read().updates().count(), "{name}");
        let off = relative(&logits(&load(&merged, &pico::device()), &golden.texts()), &golden.values("merged_logits"));
        assert!(off < 1e-5, "{name}: logits are off by {off}");
        // In the types of the base, a merge is that in float32, rounded once.
        let stored = Grown::new(golden.base(), lora).unwrap();
        for (id, _) in golden.read().updates() {
            assert_eq!(stored.dtype(id), golden.base().dtype(id));
            assert_eq!(stored.read(id).unwrap(), merged.read(id).unwrap().cast(stored.dtype(id)), "{name}: {id}");
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    for golden in Golden::all() {
        let path = folder.path().join(golden.path.file_name().unwrap());
        let adapter = golden.read();
        write_peft_directory(&adapter, golden.adapter().base(), &path).unwrap();
        let again = PeftDirectory::open(&path).unwrap();
        assert_eq!(again.read(golden.base().config()).unwrap(), adapter);
        assert_eq!(again.base(), golden.adapter().base());
        assert!(again.notices().is_empty(), "{:?}", again.notices());
        let keys: Value = serde_json::from_slice(&std::fs::read(path.join("adapter_config.json")).unwrap()).unwrap();
        let theirs: Value =
            serde_json::from_slice(&std::fs::read(golden.path.join("adapter_config.json")).unwrap()).unwrap();
        // Updates of stacked parameters are written matrix by matrix.
        let changed: &[&str] = if theirs["target_parameters"].is_null() {
            &[]
        } else {
            &["target_modules", "rank_pattern", "inference_mode"]
        };
        for (key, value) in keys.as_object().unwrap().iter().filter(|(key, _)| !changed.contains(&key.as_str())) {
            assert_eq!(Some(value), theirs.get(key), "{key}");
        }
        assert!(path.join("deepwide.json").exists());
    }
    // A choice of all linear maps is written by name.
    let config = HfDirectory::open(&golden("mixtral_4x2")).unwrap().config().clone();
    let adapter = LoraAdapter::initial(LoraConfig::default(), &config, 1).unwrap();
    let path = folder.path().join("all");
    write_peft_directory(&adapter, None, &path).unwrap();
    let expected = ["q_proj", "k_proj", "v_proj", "o_proj", "gate", "w1", "w3", "w2"].map(str::to_owned);
    let again = PeftDirectory::open(&path).unwrap();
    assert_eq!(again.config().target_modules, Modules::Named(expected.to_vec()));
    assert_eq!(again.read(&config).unwrap().num_parameters(), adapter.num_parameters());
}

/// A copy of an adapter whose config is changed.
fn with_keys(change: impl Fn(&mut Value)) -> (tempfile::TempDir, PathBuf) {
    let (folder, from) = (tempfile::tempdir().unwrap(), golden("peft/llama_layers"));
    let mut keys: Value = serde_json::from_slice(&std::fs::read(from.join("adapter_config.json")).unwrap()).unwrap();
    change(&mut keys);
    std::fs::write(folder.path().join("adapter_config.json"), keys.to_string()).unwrap();
    std::fs::copy(from.join("adapter_model.safetensors"), folder.path().join("adapter_model.safetensors")).unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

#[test]
fn variants_that_compute_something_else_are_refused_by_name() {
    let cases = [
        ("peft_type", json!("IA3"), "expected \"LORA\""),
        ("use_dora", json!(true), "use_dora is true"),
        ("bias", json!("all"), "expected \"none\""),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save is [\"lm_head\"]"),
        ("target_parameters", json!(["mlp.experts.up_proj"]), "target_parameters is"),
        ("target_parameters", json!(["layers.0.mlp.experts.down_proj"]), "of all layers"),
        ("init_lora_weights", json!("pissa"), "others change the weights of the base"),
        ("layers_pattern", json!("blocks"), "expected null or \"layers\""),
        ("layer_replication", json!([[0, 4]]), "layer_replication is"),
        ("r", json!("eight"), "r is \"eight\""),
        ("r", json!(-1), "r is -1"),
        ("target_modules", json!(null), "expected a list of names or a pattern"),
        ("target_modules", json!("("), "expected a regular expression"),
    ];
    for (key, value, fragment) in cases {
        let (_folder, path) = with_keys(|keys| keys[key] = value.clone());
        let error = PeftDirectory::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let message = error.to_string();
        assert!(message.contains("adapter_config.json") && message.contains(fragment), "{key}: {message}");
    }
    // What is off is not refused, and what is not known is said.
    let (_folder, path) = with_keys(|keys| {
        (keys["use_dora"], keys["lora_dropout"], keys["modules_to_save"]) = (json!(false), json!(0.05), json!(null));
        keys["use_something_new"] = json!(true);
    });
    let opened = PeftDirectory::open(&path).unwrap();
    assert_eq!(opened.config().lora_dropout, 0.05);
    let notices: Vec<String> = opened.notices().iter().map(ToString::to_string).collect();
    assert!(
        notices.len() == 1 && notices[0].ends_with("\"use_something_new\" is not known, and not used"),
        "{notices:?}"
    );
}

#[test]
fn factors_that_do_not_fit_are_refused_by_name() {
    let base = HfDirectory::open(&golden("llama_head_dim")).unwrap();
    let message = |change: &dyn Fn(&mut Value)| {
        let (_folder, path) = with_keys(change);
        PeftDirectory::open(&path).unwrap().read(base.config()).unwrap_err().to_string()
    };
    let found = message(&|keys| keys["r"] = json!(4));
    assert!(found.contains("q_proj.lora_A.weight\" has shape [8, 40], expected [4, 40], which is [rank,"), "{found}");
    let found = message(&|keys| keys["target_modules"] = json!(["q_proj", "k_proj"]));
    assert!(
        found.contains("has no tensor \"base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight\""),
        "{found}"
    );
    let found = message(&|keys| keys["target_modules"] = json!(["q_proj"]));
    assert!(found.contains("holds tensor \"base_model.model.model.layers.0.mlp.down_proj.lora_A.weight\""), "{found}");
    let found = message(&|keys| keys["target_modules"] = json!(["c_attn"]));
    assert!(found.contains("adapter_config.json") && found.contains("found no linear map"), "{found}");
    // Stacked experts in a base without any.
    let stacked = Golden::open(golden("peft/mixtral_stacked")).adapter();
    assert!(stacked.read(base.config()).unwrap_err().to_string().contains("target_parameters is"));
    // Another base than its own.
    let error = Golden::open(golden("peft/llama_layers")).adapter();
    let other = HfDirectory::open(&golden("llama_mha")).unwrap();
    assert!(error.read(other.config()).unwrap_err().to_string().contains("expected"), "another base");
    assert_eq!(PeftDirectory::open(&golden("llama_mha")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn merge_lora_writes_what_the_base_computes_with_its_adapter() {
    let root = tempfile::tempdir().unwrap();
    let [base, adapter_path, out] = ["base", "adapter", "out"].map(|name| root.path().join(name));
    tiny_base(&base);
    let source = HfDirectory::open(&base).unwrap();
    let adapter = trained(source.config());
    write_peft_directory(&adapter, Some("base"), &adapter_path).unwrap();
    let [base_word, adapter_word, out_word] = [&base, &adapter_path, &out].map(|path| path.to_str().unwrap());
    let words = ["merge-lora", base_word, adapter_word, out_word];
    let said = printed(&words);
    assert!(said.starts_with(&format!("wrote {out_word}")) && said.contains("adapter adapter merged in"), "{said}");
    let files = ["README.md", "config.json", "deepwide.json", "model.safetensors", "tokenizer.json"];
    assert!(files.iter().all(|file| names(&out).contains(&(*file).to_owned())), "{:?}", names(&out));
    printed(&["verify", out_word]);
    // In bfloat16, as the base: each matrix is the exact sum, rounded once; the others keep their bytes.
    let merged = HfDirectory::open(&out).unwrap();
    for id in TensorId::all(source.config()) {
        let (before, after) = (source.read(id).unwrap(), merged.read(id).unwrap());
        match adapter.get(id) {
            None => assert_eq!(before, after, "{id}"),
            Some(update) => {
                let mut values = before.to_f32();
                update.add_to(0, &mut values);
                assert_ne!(before, after, "{id}");
                assert_eq!(RawTensor::from_f32(Dtype::Bfloat16, id.shape(source.config()), &values), after, "{id}");
            }
        }
    }
    let texts = [(0..20).map(|i| (i * 7 + 3) % 64).collect::<Vec<u32>>()];
    let device = pico::device();
    let adapted = logits(&load(&source, &device).with_adapter(&adapter).unwrap(), &texts);
    let off = relative(&logits(&load(&merged, &device), &texts), &adapted);
    assert!(off < 0.02, "off by {off}");
    assert!(relative(&logits(&load(&source, &device), &texts), &adapted) > 0.1, "the adapter is small");
    // In float32, no rounding is left.
    let wide = root.path().join("wide");
    let wide_words = ["merge-lora", base_word, adapter_word, wide.to_str().unwrap(), "--dtype", "float32", "--json"];
    let record: Value = serde_json::from_str(&printed(&wide_words)).unwrap();
    let kinds: Vec<&Value> = record["growth"].as_array().unwrap().iter().map(|step| &step["kind"]).collect();
    assert_eq!(kinds, ["cast", "lora"]);
    let off = relative(&logits(&load(&HfDirectory::open(&wide).unwrap(), &device), &texts), &adapted);
    assert!(off < 1e-5, "off by {off}");
    let receipt: Value = serde_json::from_slice(&std::fs::read(out.join("deepwide.json")).unwrap()).unwrap();
    assert_eq!(receipt["growth"][0]["name"], "adapter");
    assert_eq!(receipt["growth"][0]["blake3"].as_str().map(str::len), Some(64));
    assert_eq!(receipt["layers"][0]["self_attn"]["steps"], json!([{"kind": "low_rank", "rank": 3, "scale": 2.0}]));
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("computes what its parent computes with the adapter"), "{card}");
}

#[test]
fn merge_lora_refuses_what_it_cannot_merge_before_writing() {
    let root = tempfile::tempdir().unwrap();
    let [base, out] = ["base", "out"].map(|name| root.path().join(name));
    tiny_base(&base);
    let other = golden("peft/llama_layers");
    let run = |base: &Path, adapter: &Path, out: &Path| {
        let words = ["merge-lora", base.to_str().unwrap(), adapter.to_str().unwrap(), out.to_str().unwrap()];
        let output = run(&words);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&base, &other, &out);
    assert!(code == Some(3) && said.contains("lora_A.weight") && said.contains("expected"), "{said}");
    let (code, said) = run(&other, &other, &out);
    assert!(code == Some(3) && said.contains("deepwide merge-lora"), "an adapter as base: {said}");
    let (code, said) = run(&base, &base, &out);
    assert!(code == Some(4) && said.contains("adapter_config.json"), "no adapter: {said}");
    let (code, said) = run(&base, &other, &base);
    assert!(code == Some(3) && said.contains("base"), "OUT is taken: {said}");
    assert!(!out.exists());
}

/// Writes adapters with our logits beside them, for `tests/golden/make_peft_golden.py check` to load with PEFT.
#[test]
#[ignore = "writes files for tests/golden/make_peft_golden.py, which needs PEFT"]
fn write_adapters_for_peft_to_check() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("adapters");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    println!("{}", folder.display());
    for name in ["llama_gqa_tied", "llama_mha", "mistral_window", "mixtral_4x2", "mixtral_8x2_fused"] {
        let base = HfDirectory::open(&golden(name)).unwrap();
        let adapter = trained(base.config());
        let path = folder.join(name);
        write_peft_directory(&adapter, Some(name), &path).unwrap();
        let texts = texts(&golden(name));
        let logits = logits(&load(&base, &pico::device()).with_adapter(&adapter).unwrap(), &texts);
        let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
        let ids: Vec<u8> = texts.iter().flatten().flat_map(|id| id.to_le_bytes()).collect();
        let (rows, columns) = (texts.len(), texts[0].len());
        let shape = vec![rows, columns, base.config().vocab_size];
        let views = [
            ("input_ids", TensorView::new(safetensors::Dtype::I32, vec![rows, columns], &ids).unwrap()),
            ("logits", TensorView::new(safetensors::Dtype::F32, shape, &bytes).unwrap()),
        ];
        safetensors::serialize_to_file(views, None, &path.join("answers.safetensors")).unwrap();
    }
}
