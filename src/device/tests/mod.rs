//! Every operation on every device that is compiled in and present, against Flex.

use super::check::{Operation, TOLERANCE, difference, most_different};
use super::*;

#[cfg(feature = "cube")]
pub mod cube;
#[cfg(feature = "cube")]
mod cube_attention;
#[cfg(feature = "cube")]
mod cube_experts;
#[cfg(feature = "cube")]
mod cube_graph;
mod primitives;
mod references;

#[test]
fn flex_is_in_the_default_build() {
    assert_eq!(device("flex"), Ok(Device::flex()));
}

#[test]
fn an_unknown_device_is_refused_with_those_of_the_build() {
    let error = device("abacus:3").unwrap_err();
    assert!(matches!(&error, DeviceError::Unknown { known, .. } if known.contains("flex")), "{error}");
    assert!(device("flex:1").is_err());
}

/// The devices of this build but Flex that can be opened here, whatever they compute.
fn present() -> Vec<(String, Device)> {
    let names = compiled_devices().into_iter().map(|name| name.trim_end_matches("[:N]").to_owned());
    let opened = names.filter(|name| name != "flex").filter_map(|name| {
        let device = opened(&name, constructor(&name).expect("a name of this build"));
        device.inspect_err(|error| eprintln!("{error}")).ok().map(|device| (name, device))
    });
    opened.collect()
}

/// Devices that every machine has.
const NEED_NOTHING: [&str; 2] = ["ndarray", "tch:cpu"];

/// Runs all operations on all devices. None that passes the check at its opening has a wrong or no result; those of a device
/// that is refused are printed.
fn assert_equal_to_flex(operations: &[Operation]) {
    for (name, opened) in present() {
        let wrong = operations.iter().filter_map(|&operation| {
            match panics::caught(|| difference(operation, TOLERANCE, &opened)) {
                Ok(difference) => difference.map(|difference| format!("{difference:?}")),
                Err(panic) => Some(format!("{}: {panic}", operation.0)),
            }
        });
        let wrong: Vec<String> = wrong.collect();
        eprintln!("{name}: {} of {} operations differ\n{}", wrong.len(), operations.len(), wrong.join("\n"));
        let is_open = device(&name).is_ok();
        assert!(is_open || !NEED_NOTHING.contains(&name.as_str()), "{name} is refused");
        assert!(wrong.is_empty() || !is_open, "{name} is not refused");
    }
}

#[test]
fn devices_that_are_present_pass_the_check_or_are_refused() {
    for (name, _) in present() {
        match device(&name) {
            Ok(_) => eprintln!("{name} computes what flex does"),
            Err(error) => eprintln!("{error}"),
        }
    }
}

#[test]
fn rounding_is_no_difference_and_one_wrong_element_is() {
    let expected: Vec<f32> = (0..100).map(|i| (i as f32).sin()).collect();
    let rounded: Vec<f32> = expected.iter().map(|x| x * 1.0001).collect();
    assert_eq!(most_different(&rounded, &expected, TOLERANCE), None);
    let mut wrong = expected.clone();
    wrong[40] += 0.01;
    assert_eq!(most_different(&wrong, &expected, TOLERANCE), Some((40, wrong[40], expected[40])));
    for (index, broken) in [(7, f32::NAN), (8, f32::INFINITY)] {
        let mut wrong = expected.clone();
        wrong[index] = broken;
        assert_eq!(most_different(&wrong, &expected, TOLERANCE).map(|(index, ..)| index), Some(index));
    }
    assert_eq!(most_different(&expected[..99], &expected, TOLERANCE).map(|(index, ..)| index), Some(99));
}

#[test]
fn an_operation_that_differs_by_device_is_found() {
    let spoilt: Operation = ("spoilt", |device| {
        let is_flex = *device == Device::flex();
        vec![1.0, if is_flex { 2.0 } else { 2.1 }]
    });
    for (_, device) in present() {
        let found = difference(spoilt, TOLERANCE, &device).expect("a difference");
        assert_eq!((found.operation, found.index, found.found, found.expected), ("spoilt", 1, 2.1, 2.0));
    }
}
