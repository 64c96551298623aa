//! How well is memory foreseen?
//!
//! Question: how far is the memory that is foreseen for inference and training from measured peaks?
//! Method: random models of a small Llama, deep and wide, in float32, bfloat16 and Q8_0: prefill, decoding, and updates of all
//! weights, of an adapter, and with recomputed layers. The peak is that of live heap bytes above those before loading.
//! Result: OUT.json, with the build and the machine, and a line of stdout for each configuration.
//!
//! `cargo run --example memory_model -- OUT.json`

use deepwide::cli::run_info;
use deepwide::output::commit::write_file_atomically;
use deepwide::profile::heap::{COUNTING, CountingAllocator};
use deepwide::profile::memory_check::MemoryCase;
use serde_json::json;

#[global_allocator]
static HEAP: &CountingAllocator = &COUNTING;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = std::env::args().nth(1).ok_or("usage: memory_model OUT.json")?;
    let run = run_info("flex", "float32, bfloat16, Q8_0");
    let mut records = Vec::new();
    for case in MemoryCase::all()? {
        let record = case.measure()?.ok_or("the heap is not counted")?;
        let [measured, foreseen] =
            [record.measured_bytes, record.foreseen_bytes].map(|bytes| bytes as f64 / f64::from(1 << 20));
        println!("{:<36} {measured:>8.2} MiB, foreseen {foreseen:>8.2} MiB: {:.3}", record.configuration, record.ratio);
        records.push(record);
    }
    let record = json!({ "run": run, "configurations": records });
    Ok(write_file_atomically(out.as_ref(), format!("{record:#}\n").as_bytes())?)
}
