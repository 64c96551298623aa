//! The time of each module of a decoder, from the spans of a repetition.

use crate::trace::Span;

/// The time that a module took, without that of the modules in it, and what it counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleTime {
    /// Its path, as spans nest, without the indices of layers: `layer.self_attn.qkv_proj`. Empty for the root.
    pub path: String,
    /// Nanoseconds in all layers and passes.
    pub time_ns: u64,
    /// Operations that its matrix products counted while they ran.
    pub flops: u64,
    /// Bytes that its operations counted.
    pub bytes: u64,
    /// Operations that its gradients counted.
    pub backward_flops: u64,
    /// Bytes that its gradients counted.
    pub backward_bytes: u64,
}

/// Sums the spans of a repetition by module, in the order of their first appearance. The first span is the root.
pub fn module_times(spans: &[Span]) -> Vec<ModuleTime> {
    let mut times: Vec<ModuleTime> = Vec::new();
    let mut parents: Vec<usize> = Vec::new();
    for span in spans {
        parents.truncate(span.depth);
        let path = match parents.last() {
            None => String::new(),
            Some(&parent) => match &times[parent].path[..] {
                "" => span.name.to_owned(),
                path => format!("{path}.{}", span.name),
            },
        };
        let place = times.iter().position(|time| time.path == path).unwrap_or_else(|| {
            times.push(ModuleTime { path, ..ModuleTime::default() });
            times.len() - 1
        });
        times[place].time_ns += span.duration_ns;
        times[place].flops += span.flops;
        times[place].bytes += span.bytes;
        times[place].backward_flops += span.backward_flops;
        times[place].backward_bytes += span.backward_bytes;
        if let Some(&parent) = parents.last() {
            times[parent].time_ns = times[parent].time_ns.saturating_sub(span.duration_ns);
            times[parent].flops -= span.flops;
            times[parent].bytes -= span.bytes;
        }
        parents.push(place);
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(name: &'static str, depth: usize, duration_ns: u64, flops: u64) -> Span {
        Span {
            name,
            index: None,
            depth,
            start_ns: 0,
            duration_ns,
            flops,
            bytes: 2 * flops,
            backward_flops: 1,
            backward_bytes: 0,
        }
    }

    #[test]
    fn times_exclude_inner_modules_and_add_up_over_layers() {
        let layers = [span("layer", 1, 40, 9), span("mlp", 2, 30, 9), span("layer", 1, 41, 9), span("mlp", 2, 31, 9)];
        let spans: Vec<Span> = [span("repetition", 0, 100, 20)].into_iter().chain(layers).collect();
        let times = module_times(&spans);
        let found: Vec<_> = times.iter().map(|time| (time.path.as_str(), time.time_ns, time.flops)).collect();
        assert_eq!(found, [("", 19, 2), ("layer", 20, 0), ("layer.mlp", 61, 18)]);
        assert_eq!(times.iter().map(|time| time.time_ns).sum::<u64>(), 100);
        assert!(times.iter().all(|time| time.bytes == 2 * time.flops));
        assert_eq!(times.iter().map(|time| time.backward_flops).collect::<Vec<_>>(), [1, 2, 2]);
    }
}
