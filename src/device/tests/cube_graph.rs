//! Graphs of CubeCL: what they read and write, and what the device does after one that it refuses.

use burn::tensor::{Device, Tensor};

use super::cube::devices;
use super::panics;
use crate::device::check::{flat, numbers};
use crate::kernel::graph::{Graph, Input};
use crate::kernel::linear::linear;
use crate::kernel::rms_norm::rms_norm;

/// Two layers of small kernels, whose temporary buffers are freed before the recording ends.
fn layers(x: Tensor<2>, weights: &[Tensor<2>; 2], gain: &Tensor<1>) -> Tensor<2> {
    weights.iter().fold(x, |x, weight| linear(rms_norm(x, gain.clone(), 1e-5), weight.clone()))
}

fn weights(device: &Device) -> ([Tensor<2>; 2], Tensor<1>) {
    ([1, 2].map(|salt| numbers(salt, [24, 24], device)), numbers(3, [24], device))
}

#[test]
fn a_replay_reads_new_inputs_and_leaves_all_other_memory_alone() {
    for (name, device) in devices() {
        let (weights, gain) = weights(&device);
        let input = Input::zeros([3, 24], &device);
        let work = || layers(input.tensor(), &weights, &gain);
        let mut graph = Graph::capture(&device, work).unwrap_or_else(|error| panic!("{name}: {error}"));
        // Of the sizes of the graph's own buffers, which it has freed as far as the allocator knows.
        let others: Vec<Tensor<2>> = (0..64).map(|salt| numbers(salt, [3, 24], &device)).collect();
        let expected: Vec<Vec<f32>> = others.iter().map(|other| flat(other.clone())).collect();
        let mut outputs = Vec::new();
        for salt in 0..5 {
            let x = numbers::<2>(salt, [3, 24], &device);
            input.write(&flat(x.clone()));
            outputs.push(graph.replay().clone());
            let found = flat(outputs[salt].clone());
            assert_eq!(found, flat(layers(x, &weights, &gain)), "{name}, input {salt}");
            let left: Vec<Vec<f32>> = others.iter().map(|other| flat(other.clone())).collect();
            assert_eq!(left, expected, "{name}, after input {salt}");
        }
        // The control: memory of the graph is overwritten, so that memory of others, if it were the same, would be too.
        assert_eq!(flat(outputs[0].clone()), flat(outputs[4].clone()), "{name}");
    }
}

/// CUDA records the copy, and replays the same bytes.
#[test]
fn work_that_moves_numbers_from_the_host_is_refused_by_wgpu_and_repeated() {
    for (name, device) in devices().filter(|(name, _)| ["wgpu", "vulkan"].contains(&name.as_str())) {
        let mut kept = Some(numbers::<2>(0, [5, 24], &device));
        let before = flat(kept.clone().expect("put back"));
        let mut work = |device: &Device| {
            let row = numbers::<2>(1, [1, 24], device);
            kept = Some(kept.take().expect("put back").slice_assign([2..3, 0..24], row));
            kept.clone().expect("put back") * 2.0
        };
        let error = Graph::capture(&device, || work(&device)).map(drop).expect_err(&name).to_string();
        assert!(
            error.len() > "the device does not record launches: ".len() && !error.contains('\n'),
            "{name}: {error}"
        );
        let expected = [&before[..48], &flat(numbers::<2>(1, [1, 24], &device)), &before[72..]].concat();
        assert_eq!(flat(work(&device)), expected.iter().map(|x| x * 2.0).collect::<Vec<f32>>(), "{name}");
        assert_eq!(flat(kept.expect("put back")), expected, "{name}");
    }
}

#[test]
fn work_that_waits_for_the_device_panics_and_leaves_it_usable() {
    for (name, device) in devices() {
        let (weights, gain) = weights(&device);
        let x = numbers::<2>(0, [3, 24], &device);
        let expected = flat(layers(x.clone(), &weights, &gain));
        let waits = || flat(layers(x.clone(), &weights, &gain));
        assert!(panics::caught(|| Graph::capture(&device, waits).is_ok()).is_err(), "{name}");
        assert_eq!(flat(layers(x.clone(), &weights, &gain)), expected, "{name}");
        let mut graph = Graph::capture(&device, || layers(x.clone(), &weights, &gain)).expect("it records again");
        assert_eq!(flat(graph.replay().clone()), expected, "{name}");
    }
}
