//! Memory while growing does not depend on the size of the checkpoint.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use deepwide::config::DecoderConfig;
use deepwide::formats::Checkpoint;
use deepwide::formats::hf::{HfOptions, HfWriter};
use deepwide::growth::{ExpertInit, Grown, GrowthPlan, LayerPlan, UpcyclePlan};
use deepwide::output::commit::{Existing, PartialDirectory};
use deepwide::output::disk::{Disk, Lock, ReadAt, Stat, WriteFile, disk};
use deepwide::weights::{TensorId, WeightSource};
use serde_json::{Map, json};

/// Layers of Mistral 7B's shape: 0.44 GB each in bfloat16. Four to copy, and one to draw random numbers for.
const LAYERS: [(&str, usize); 2] = [("base", 4), ("small", 1)];

/// A checkpoint of Mistral 7B's shapes without a byte of weights on disk: a hole in a file.
fn sparse_mistral(path: &Path, num_hidden_layers: usize) {
    let config = DecoderConfig::mistral_7b().with(|f| f.num_hidden_layers = num_hidden_layers).unwrap();
    let (mut entries, mut begin) = (Map::new(), 0);
    for id in TensorId::all(&config) {
        let shape = id.shape(&config);
        let end = begin + 2 * shape.iter().product::<usize>();
        entries.insert(id.to_string(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}));
        begin = end;
    }
    let header = json!(entries).to_string();
    fs::create_dir(path).unwrap();
    let mut file = fs::File::create(path.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + (header.len() + begin) as u64).unwrap();
    let keys = json!({"model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": num_hidden_layers, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "tie_word_embeddings": false});
    fs::write(path.join("config.json"), keys.to_string()).unwrap();
}

/// A disk that forgets what is written to it: what is measured is memory, not a disk.
#[derive(Debug)]
struct Forgetful(Arc<dyn Disk>);

struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WriteFile for Nowhere {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for Forgetful {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.0.stat(path)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
        self.0.list(directory)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        self.0.open(path)
    }
    fn create(&self, _path: &Path) -> io::Result<Box<dyn WriteFile>> {
        Ok(Box::new(Nowhere))
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.0.create_directory(path)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.0.sync_directory(directory)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn exchange(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.exchange(from, to)
    }
    fn remove_empty(&self, directory: &Path) -> io::Result<()> {
        self.0.remove_empty(directory)
    }
    fn remove_tree(&self, directory: &Path) -> io::Result<()> {
        self.0.remove_tree(directory)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.0.free_bytes(path)
    }
    fn try_lock(&self, directory: &Path) -> io::Result<Option<Lock>> {
        self.0.try_lock(directory)
    }
}

/// Peak of resident memory of this process so far.
fn peak_resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

const FOLDER: &str = "DEEPWIDE_TEST_FOLDER";

/// The work, in a process of its own: started by the test below.
#[test]
#[ignore = "runs in a process of its own, started by growing_takes_no_more_memory_for_a_large_checkpoint"]
fn grow_in_a_process_of_its_own() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let disk: Arc<dyn Disk> = Arc::new(Forgetful(disk()));
    let base = Checkpoint::open_on(disk.clone(), &Path::new(&folder).join("base")).unwrap();
    let layers = base.config().num_hidden_layers;
    let deep = LayerPlan::depth_up_scaling(layers, layers / 4).unwrap();
    let grown = Grown::new(&base, GrowthPlan::Splice(deep)).unwrap();
    let wide = |init, experts| GrowthPlan::Upcycle(UpcyclePlan { init, ..UpcyclePlan::new(experts, 1) });
    let small = Checkpoint::open_on(disk.clone(), &Path::new(&folder).join("small")).unwrap();
    let noisy = Grown::new(&small, wide(ExpertInit::Noise { relative_std: 0.01 }, 1)).unwrap();
    let dropped = Grown::new(&small, wide(ExpertInit::Drop { ratio: 0.5 }, 1)).unwrap();
    let before = peak_resident_bytes();
    let write = |source: &dyn WeightSource, dtype, name: &str| {
        let mut partial =
            PartialDirectory::create(disk.clone(), &Path::new(&folder).join(name), Existing::Keep).unwrap();
        let options = HfOptions { dtype, max_shard_bytes: 5_000_000_000, ..HfOptions::default() };
        HfWriter::new(&source, options).write(&mut partial, &base.inherited().unwrap(), &mut |_| ()).unwrap();
    };
    write(&grown, None, "copied");
    write(&grown, Some(deepwide::weights::Dtype::Float32), "cast");
    write(&noisy, None, "noisy");
    write(&dropped, None, "dropped");
    println!("peak_bytes {} before_bytes {before}", peak_resident_bytes());
}

#[test]
fn growing_takes_no_more_memory_for_a_large_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    LAYERS.iter().for_each(|(name, layers)| sparse_mistral(&root.path().join(name), *layers));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "grow::memory::grow_in_a_process_of_its_own", "--ignored", "--nocapture"])
        .env(FOLDER, root.path())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let mut numbers = printed
        .lines()
        .find(|line| line.contains("peak_bytes"))
        .unwrap()
        .split(' ')
        .filter_map(|w| w.parse::<u64>().ok());
    let (peak, before) = (numbers.next().unwrap(), numbers.next().unwrap());
    assert!(peak <= 64 << 20, "peak of {peak} bytes, {before} before");
}
