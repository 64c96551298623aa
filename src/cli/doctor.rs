//! `doctor`: what deepwide finds on this machine.

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::failure::Failure;
use super::output::{self, aligned, size};
use super::run_info::run_info;
use crate::device::{attempt, compiled_devices, device};
use crate::kernel::{matrix_instructions, vector_instructions};
use crate::profile::peak;
use crate::profile::system_memory::{available_memory_bytes, total_memory_bytes};
use crate::weights::Dtype;

/// Show what this machine and this build can do
///
/// Processor, memory, the devices that were compiled in and whether each works here, and the peaks of each: products with float32
/// and bfloat16 weights, and reading weights. They are measured, so other programs lower them.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Serialize)]
struct Record {
    version: String,
    commit: Option<String>,
    os: String,
    cpu: String,
    /// Those that kernels use.
    vector_instructions: &'static str,
    /// Those of products with bfloat16 weights; null if there are none.
    matrix_instructions: Option<&'static str>,
    n_threads: usize,
    /// Null where the system does not report it.
    total_memory_bytes: Option<u64>,
    available_memory_bytes: Option<u64>,
    devices: Vec<DeviceRecord>,
}

#[derive(Debug, Default, Serialize)]
struct DeviceRecord {
    device: String,
    /// Why it does not work, or a peak could not be measured; null if all is well.
    fault: Option<String>,
    peak_flops_per_s: Option<f64>,
    /// Of products with bfloat16 weights; null if the device does not support it.
    peak_bfloat16_flops_per_s: Option<f64>,
    /// The same of float16; null also where products widen them.
    peak_float16_flops_per_s: Option<f64>,
    peak_bytes_per_s: Option<f64>,
}

/// Prints what it finds. A device that does not work is a line of the result, not a failure.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let info = run_info("", "");
    let record = Record {
        version: info.version,
        commit: info.commit,
        os: info.os,
        cpu: info.cpu,
        vector_instructions: vector_instructions(),
        matrix_instructions: matrix_instructions(),
        n_threads: info.num_threads,
        total_memory_bytes: total_memory_bytes(),
        available_memory_bytes: available_memory_bytes(),
        devices: compiled_devices().into_iter().map(examine).collect(),
    };
    output::print(&if args.json { format!("{:#}\n", json!(record)) } else { as_text(&record) })
}

/// Tries a device, the first of its kind, and measures its peaks. One that cannot be measured does not hide the others.
fn examine(name: &str) -> DeviceRecord {
    let name = name.trim_end_matches("[:N]").to_owned();
    let device = match device(&name) {
        Ok(device) => device,
        Err(error) => return DeviceRecord { device: name, fault: Some(error.to_string()), ..DeviceRecord::default() },
    };
    let mut faults = Vec::new();
    let mut measured =
        |peak: &dyn Fn() -> f64| attempt(&name, peak).map_err(|error| faults.push(error.to_string())).ok();
    let peak_flops_per_s = measured(&|| peak::product_flops_per_s(Dtype::Float32, &device));
    let halves = [Dtype::Bfloat16, Dtype::Float16].map(|dtype| {
        let is_measured = peak::has_peak_of(dtype, &device);
        is_measured.then(|| measured(&|| peak::product_flops_per_s(dtype, &device))).flatten()
    });
    let [peak_bfloat16_flops_per_s, peak_float16_flops_per_s] = halves;
    let peak_bytes_per_s = measured(&|| peak::weight_bytes_per_s(&device));
    let fault = faults.into_iter().next();
    DeviceRecord {
        device: name,
        fault,
        peak_flops_per_s,
        peak_bfloat16_flops_per_s,
        peak_float16_flops_per_s,
        peak_bytes_per_s,
    }
}

fn as_text(record: &Record) -> String {
    let memory = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), size);
    let commit = record.commit.as_ref().map_or_else(String::new, |commit| format!(" ({commit})"));
    let rows = [
        ("version", format!("{}{commit}", record.version)),
        ("system", record.os.clone()),
        ("processor", record.cpu.clone()),
        ("vector instructions", record.vector_instructions.to_owned()),
        ("matrix instructions", record.matrix_instructions.unwrap_or("none").to_owned()),
        ("threads", record.n_threads.to_string()),
        ("memory", memory(record.total_memory_bytes)),
        ("available memory", memory(record.available_memory_bytes)),
    ];
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text: String = rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect();
    let heading =
        ["device", "float32 GFLOP/s", "bfloat16 GFLOP/s", "float16 GFLOP/s", "GB/s"].map(str::to_owned).to_vec();
    let cells = |found: &DeviceRecord| {
        let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1}", rate / 1e9));
        let of_products = [found.peak_flops_per_s, found.peak_bfloat16_flops_per_s, found.peak_float16_flops_per_s];
        let rates = of_products.into_iter().chain([found.peak_bytes_per_s]).map(rate);
        [found.device.clone()].into_iter().chain(rates).collect()
    };
    text +=
        &format!("\n{}", aligned(&[heading].into_iter().chain(record.devices.iter().map(cells)).collect::<Vec<_>>()));
    text.extend(record.devices.iter().filter_map(|found| found.fault.as_ref()).map(|fault| format!("{fault}\n")));
    text
}
