//! A profile as tables.

use super::super::output::{aligned, fitted, operations, short_count, size};
use super::record::{Record, TestRecord};
use crate::device::is_cpu;
use crate::profile::convention::FlopConvention;
use crate::profile::memory_report::MemoryReport;
use crate::profile::memory_timeline::MemoryMoment;
use crate::profile::{ModuleProfile, ModuleRow};

/// One table for each test, if possible no wider than a terminal of this width.
pub(super) fn of(record: &Record, width: Option<usize>) -> String {
    let Record { model, device, n_threads, dtype, .. } = record;
    let mut text = format!(
        "{model}: {} total parameters, {} active; {} of {dtype} weights",
        short_count(record.total_parameters.into()),
        short_count(record.active_parameters.into()),
        size(record.weight_bytes),
    );
    let giga = |rate: f64| format!("{:.1} G", rate / 1e9);
    text += &match (record.peak_flops_per_s, record.peak_bytes_per_s) {
        (Some(flops), Some(bytes)) => {
            let of_half = |dtype, peak: Option<f64>| peak.map(|flops| format!(", {}FLOP/s in {dtype}", giga(flops)));
            let half = of_half("bfloat16", record.peak_bfloat16_flops_per_s)
                .or_else(|| of_half("float16", record.peak_float16_flops_per_s))
                .unwrap_or_default();
            format!(
                "; {device}, {n_threads} threads\nmeasured peaks: {}FLOP/s in float32 products{half}, {}B/s of weights\n",
                giga(flops),
                giga(bytes)
            )
        }
        _ => "\n".to_owned(),
    };
    text += &format!("{}: {}\n", unit(record), convention(record.flop_convention));
    for tested @ TestRecord { test, profile, batch_size, memory, .. } in &record.tests {
        let total = &profile.total;
        text += &format!("\n{test}, {batch_size} sequence{}: ", if *batch_size == 1 { "" } else { "s" });
        text += &duration(profile);
        let mut rows = vec![heading(total, record)];
        rows.extend(profile.modules.iter().chain([total]).map(|row| cells(row, tested, record)));
        // Rates follow from the other columns, and the shape of the model is that of `inspect`.
        let least = ["GB/s", "of peak bytes", &rate_unit(record), "active", "total", "bytes", "of time"];
        text += &fitted(rows, width, &least);
        let measured = if is_cpu(device) { "processor" } else { "GPU" };
        let energy = |joules: f64| format!("energy of the {measured}: {joules:.1} J\n");
        text += &profile.energy_j.map_or_else(String::new, energy);
        text += &memory.as_ref().map_or_else(String::new, |report| format!("\n{}", memory_table(report)));
    }
    if record.peak_flops_per_s.is_some() && record.tests.iter().all(|test| test.profile.energy_j.is_none()) {
        text += "\nenergy: not available: no counter of this device can be read, or the tests are too short for it\n";
    }
    text
}

/// Tokens and their time by the host's clock; with device events, also that of the kernels.
fn duration(profile: &ModuleProfile) -> String {
    let ModuleProfile { num_tokens, timing, run_time_s, total, .. } = profile;
    let (Some(time_s), Some(timing)) = (total.time_s, timing) else { return format!("{num_tokens} tokens\n") };
    let of_kernels =
        run_time_s.map_or_else(|| format!(" ({timing})"), |_| format!("; kernels: {time_s:.3} s ({timing})"));
    let time_s = run_time_s.unwrap_or(time_s);
    format!("{num_tokens} tokens in {time_s:.3} s, {:.1} t/s{of_kernels}\n", *num_tokens as f64 / time_s)
}

fn unit(record: &Record) -> &'static str {
    if record.flops_per_mac == 1 { "MACs" } else { "FLOPs" }
}

fn rate_unit(record: &Record) -> String {
    format!("G{}/s", unit(record).trim_end_matches('s'))
}

fn convention(convention: FlopConvention) -> &'static str {
    match convention {
        FlopConvention::Causal => "products, and scores of the tokens that a token sees (causal)",
        FlopConvention::Square => "products, and scores of all tokens, masked or not (square)",
        FlopConvention::SixNd => "6 per active parameter and token, 2 of them forward (6ND)",
        FlopConvention::Palm => "6ND and 12·L·H·Q·T of scores per token, a third of them forward (PaLM)",
    }
}

fn heading(total: &ModuleRow, record: &Record) -> Vec<String> {
    let trains = total.backward_flops > 0.0;
    let (rate, of_peak) = (rate_unit(record), format!("of peak {}", unit(record)));
    let mut names = vec!["module", "total", "active", unit(record)];
    names.extend(trains.then_some("backward"));
    names.extend(["share", "bytes"]);
    if total.time_s.is_some() {
        names.extend(["ms", "of time", rate.as_str(), of_peak.as_str(), "GB/s", "of peak bytes"]);
    }
    names.into_iter().map(str::to_owned).collect()
}

fn cells(row: &ModuleRow, tested: &TestRecord, record: &Record) -> Vec<String> {
    let total = &tested.profile.total;
    let or_dash = |number: f64, shown: fn(u128) -> String| {
        if number == 0.0 { "-".to_owned() } else { shown(number as u128) }
    };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1}", rate / 1e9));
    let of_peak = |rate: Option<f64>, peak: Option<f64>| {
        rate.zip(peak).map_or_else(|| "-".to_owned(), |(rate, peak)| percent(rate / peak))
    };
    let mut cells = vec![
        row.path.clone(),
        or_dash(row.total_parameters as f64, short_count),
        or_dash(row.active_parameters as f64, short_count),
        or_dash(row.flops, operations),
    ];
    cells.extend((total.backward_flops > 0.0).then(|| or_dash(row.backward_flops, operations)));
    cells.extend([percent(row.flops / total.flops), or_dash(row.bytes, size)]);
    if let (Some(time_s), Some(total_s)) = (row.time_s, total.time_s) {
        // A peak counts multiply-adds as two.
        let peak_flops = tested.peak_flops_per_s.map(|peak| peak * f64::from(record.flops_per_mac) / 2.0);
        cells.extend([
            format!("{:.3}", 1e3 * time_s),
            percent(time_s / total_s),
            rate(row.flops_per_s()),
            of_peak(row.flops_per_s(), peak_flops),
            rate(row.bytes_per_s()),
            of_peak(row.bytes_per_s(), record.peak_bytes_per_s),
        ]);
    }
    cells
}

/// Memory by kind, foreseen and measured.
fn memory_table(report: &MemoryReport) -> String {
    let kinds = |moment: &MemoryMoment| {
        [moment.weights, moment.cache, moment.optimizer, moment.gradients, moment.activations, moment.total()]
    };
    let names = ["weights", "keys and values", "optimizer", "gradients", "activations", "peak"];
    let measured = report.measured.as_ref().map(|timeline| kinds(&timeline.peak));
    let shown = |bytes: u64| if bytes == 0 { "-".to_owned() } else { size(bytes) };
    let mut rows = vec![vec!["memory".to_owned(), "predicted".to_owned()]];
    rows[0].extend(measured.map(|_| "measured".to_owned()));
    for (index, (name, bytes)) in names.into_iter().zip(kinds(&report.foreseen)).enumerate() {
        let mut row = vec![name.to_owned(), shown(bytes)];
        row.extend(measured.map(|measured| shown(measured[index])));
        rows.push(row);
    }
    aligned(&rows)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::profile::Timing;

    #[test]
    fn columns_that_are_left_out_are_told_from_those_that_stay() {
        for (flops_per_mac, of_peak) in [(1, "of peak MACs"), (2, "of peak FLOPs")] {
            let record = Record {
                model: "tiny".to_owned(),
                device: "flex".to_owned(),
                n_threads: 2,
                total_parameters: 1,
                active_parameters: 1,
                weight_bytes: 4,
                dtype: "float32".to_owned(),
                flop_convention: FlopConvention::Causal,
                flops_per_mac,
                peak_flops_per_s: Some(1e9),
                peak_bfloat16_flops_per_s: None,
                peak_float16_flops_per_s: None,
                peak_bytes_per_s: Some(1e9),
                tests: Vec::new(),
            };
            let total = ModuleRow {
                path: "total".to_owned(),
                total_parameters: 1,
                active_parameters: 1,
                flops: 2.0,
                backward_flops: 4.0,
                bytes: 4.0,
                time_s: Some(1.0),
            };
            let names = heading(&total, &record);
            assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "{names:?}");
            assert!(names.iter().any(|name| name == of_peak), "{names:?}");
        }
    }

    #[test]
    fn tokens_per_second_are_those_of_the_host_whatever_times_the_modules() {
        let total = |time_s| ModuleRow {
            path: "total".to_owned(),
            total_parameters: 1,
            active_parameters: 1,
            flops: 2.0,
            backward_flops: 0.0,
            bytes: 4.0,
            time_s,
        };
        let profile = |timing, run_time_s, time_s| ModuleProfile {
            num_tokens: 8,
            timing,
            run_time_s,
            energy_j: None,
            modules: Vec::new(),
            total: total(time_s),
        };
        for (timing, run_time_s, time_s, expected) in [
            (None, None, None, "8 tokens\n"),
            (Some(Timing::HostClock), None, Some(0.5), "8 tokens in 0.500 s, 16.0 t/s (host clock)\n"),
            (
                Some(Timing::DeviceEvents),
                Some(2.0),
                Some(0.5),
                "8 tokens in 2.000 s, 4.0 t/s; kernels: 0.500 s (device events)\n",
            ),
        ] {
            assert_eq!(duration(&profile(timing, run_time_s, time_s)), expected);
        }
    }
}
