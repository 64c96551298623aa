//! Values of options that several commands take.

use std::fmt::Display;

use clap::ValueEnum;

use super::failure::Failure;
use crate::weights::Dtype;

/// `--dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// IEEE single precision.
    #[value(aliases = ["f32", "fp32"])]
    Float32,
    /// IEEE half precision.
    #[value(aliases = ["f16", "fp16"])]
    Float16,
    /// Brain float: the upper half of single precision.
    #[value(alias = "bf16")]
    Bfloat16,
}

impl DtypeArg {
    pub(super) fn dtype(self) -> Dtype {
        match self {
            Self::Float32 => Dtype::Float32,
            Self::Float16 => Dtype::Float16,
            Self::Bfloat16 => Dtype::Bfloat16,
        }
    }
}

/// Checks that a model can be trained in a type.
///
/// # Errors
/// If it is float16, whose gradients would have to be scaled.
pub(super) fn check_training_dtype(dtype: Option<DtypeArg>) -> Result<(), Failure> {
    match dtype {
        Some(DtypeArg::Float16) => Err(Failure::usage(
            "--dtype float16 cannot be used with --train, expected float32, or bfloat16 for mixed precision",
        )),
        Some(DtypeArg::Float32 | DtypeArg::Bfloat16) | None => Ok(()),
    }
}

/// Parses a whole number from 0 to `u32::MAX`, so that products of a few of them cannot overflow.
pub(super) fn not_negative(text: &str) -> Result<usize, String> {
    let number: i128 = text.parse().map_err(|_| format!("{text:?} is not a whole number"))?;
    match u32::try_from(number) {
        Ok(number) => Ok(number as usize),
        Err(_) if number < 0 => Err(format!("{number} is negative, expected 0 or more")),
        Err(_) => Err(format!("{number} is too large, expected at most {}", u32::MAX)),
    }
}

/// Parses a finite number above 0.
pub(super) fn positive_real(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(format!("{text:?} is not a finite number above 0")),
    }
}

/// Parses a finite number of at least 0.
pub(super) fn non_negative_real(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err(format!("{text:?} is not a finite number of at least 0")),
    }
}

/// Parses a probability of dropout: at least 0 and below 1.
pub(super) fn dropout_probability(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..1.0).contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is not a number of at least 0 and below 1")),
    }
}

/// Parses a count of at least 1, which may be written as `3e12`.
pub(super) fn count(text: &str) -> Result<u64, String> {
    let expected = |found: &dyn Display| format!("{found} is not a whole number of at least 1");
    match text.parse::<u64>() {
        Ok(0) => Err(expected(&0)),
        Ok(number) => Ok(number),
        Err(_) => match text.parse::<f64>() {
            Ok(number) if number >= 1.0 && number.fract() == 0.0 && number < u64::MAX as f64 => Ok(number as u64),
            _ => Err(expected(&format!("{text:?}"))),
        },
    }
}

/// Bytes, with a decimal or binary unit if any.
pub(super) fn byte_count(text: &str) -> Result<u64, String> {
    let units = [("KIB", 1u64 << 10), ("MIB", 1 << 20), ("GIB", 1 << 30), ("TIB", 1 << 40)];
    let decimal = [("KB", 1_000u64), ("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000)];
    let short = [("K", 1_000u64), ("M", 1_000_000), ("G", 1_000_000_000), ("B", 1_000_000_000)];
    let upper = text.to_ascii_uppercase();
    let unit = units.into_iter().chain(decimal).chain(short).find(|(name, _)| upper.ends_with(name));
    let (digits, scale) = unit.map_or((upper.as_str(), 1), |(name, scale)| (&upper[..upper.len() - name.len()], scale));
    let refused = || format!("{text:?} is not a size of at least 1 byte, such as 5GB");
    let number = count(digits.trim()).map_err(|_| refused())?;
    number.checked_mul(scale).ok_or_else(refused)
}

/// As [`count`], of things in memory.
pub(super) fn size(text: &str) -> Result<usize, String> {
    count(text).map(|number| number as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_range_is_called_negative_or_too_large() {
        assert_eq!(not_negative("-1").unwrap_err(), "-1 is negative, expected 0 or more");
        assert_eq!(not_negative("8").unwrap(), 8);
        assert!(not_negative("eight").unwrap_err().contains("\"eight\""));
        assert!(not_negative("18446744073709551615").unwrap_err().contains("too large"));
    }

    #[test]
    fn a_learning_rate_is_finite_and_positive() {
        assert_eq!(positive_real("1e-3"), Ok(1e-3));
        for refused in ["0", "-1e-3", "nan", "inf", "fast"] {
            assert!(positive_real(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn large_counts_may_have_an_exponent() {
        assert_eq!(count("3e12").unwrap(), 3_000_000_000_000);
        assert_eq!(count("1024").unwrap(), 1024);
        for refused in ["0", "-5", "1.5", "1e-3", "many", "nan", "1e30"] {
            assert!(count(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(byte_count("5GB").unwrap(), 5_000_000_000);
        assert_eq!(byte_count("5B").unwrap(), 5_000_000_000, "mergekit's billions");
        assert_eq!(byte_count("1MiB").unwrap(), 1 << 20);
        assert_eq!(byte_count("700").unwrap(), 700);
        for refused in ["0", "-1", "GB", "1e30", "20000000TB", "five"] {
            assert!(byte_count(refused).is_err(), "{refused}");
        }
    }
}
