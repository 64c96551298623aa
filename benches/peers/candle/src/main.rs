//! The candle worker of `benches/peers/speed.py`, which also measures the limits of the machine.
//!
//! The first line on standard input is a [`Request`]; the worker loads and warms up, then answers `{"ready": …}`. Each further
//! line requests one measurement, answered by one line of JSON. It is idle in between, so that workers can take turns on one
//! machine. `RAYON_NUM_THREADS` sets the number of threads.

mod limits;
mod model;

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::Model;

/// A request, the same for all workers.
#[derive(Deserialize)]
struct Request {
    /// `prefill` | `decode` | `fma` | `stream`
    work: String,
    /// A Hugging Face directory or a GGUF file; unused by the limits.
    #[serde(default)]
    model: String,
    /// `float32` | `bfloat16`, for a directory.
    #[serde(default)]
    dtype: String,
    /// Prompts of equal length, one row per sequence.
    #[serde(default)]
    ids: Vec<Vec<u32>>,
    /// Tokens of each decoding step, one per sequence.
    #[serde(default)]
    steps: Vec<Vec<u32>>,
    #[serde(default)]
    threads: usize,
    #[serde(default)]
    moe: usize,
}

/// Takes one measurement; memory is added to its answer later.
type Once = Box<dyn FnMut() -> Result<Value, Box<dyn Error>>>;

/// Loads the model or buffer of a request. Returns its description and the function that takes one measurement.
fn prepare(request: Request) -> Result<(Value, Once), Box<dyn Error>> {
    let about = json!({ "simd": limits::SIMD_NAMES[limits::simd()] });
    let threads = request.threads;
    match request.work.as_str() {
        "fma" => {
            let once = move || Ok(json!({ "per_second": limits::best_of(|| limits::fma_per_second(threads)) }));
            return Ok((about, Box::new(once)));
        }
        "stream" => {
            let memory = limits::Memory::new(512 << 20);
            let once = move || Ok(json!({ "per_second": limits::best_of(|| memory.read_per_second(threads)) }));
            return Ok((about, Box::new(once)));
        }
        _ => {}
    }
    if request.moe != 0 {
        return Err("candle's Llama has no experts".into());
    }
    let mut model = Model::open(&request.model, &request.dtype)?;
    let Request { work, ids, steps, .. } = request;
    let logits = model.forward(&ids)?;
    let next_id = logits.get(ids.len() - 1)?.argmax(0)?.to_scalar::<u32>()?;
    let about = json!({ "candle": env!("CANDLE_VERSION"), "next_id": next_id });
    let once: Once = match work.as_str() {
        "prefill" => Box::new(move || {
            let start = Instant::now();
            model.clear()?;
            model.forward(&ids)?;
            Ok(json!({ "sample_ns": start.elapsed().as_nanos() as u64 }))
        }),
        "decode" => Box::new(move || {
            let mut model = model.clone(); // shares the weights and the prompt's K/V cache
            let start = Instant::now();
            for step in &steps {
                model.forward(&step.iter().map(|&id| vec![id]).collect::<Vec<_>>())?;
            }
            Ok(json!({ "sample_ns": start.elapsed().as_nanos() as u64 }))
        }),
        other => return Err(format!("unknown work {other:?}").into()),
    };
    Ok((about, once))
}

/// Peak resident memory in bytes, if the system reports it.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

fn main() {
    let mut lines = std::io::stdin().lock().lines().map_while(Result::ok);
    let say = |answer: Value| {
        let mut out = std::io::stdout();
        writeln!(out, "{answer}").and_then(|()| out.flush()).unwrap_or_else(|_| std::process::exit(1));
    };
    let Some(first) = lines.next() else { return };
    let prepared = serde_json::from_str(&first).map_err(Into::into).and_then(prepare).and_then(|(about, mut once)| {
        once()?; // warm
        Ok((about, once))
    });
    let (about, mut once) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return say(json!({ "error": error.to_string() })),
    };
    say(json!({ "ready": about }));
    for _ in lines {
        match once() {
            Ok(mut answer) => {
                answer["peak_rss_bytes"] = json!(peak_rss_bytes());
                say(answer);
            }
            Err(error) => return say(json!({ "error": error.to_string() })),
        }
    }
}
