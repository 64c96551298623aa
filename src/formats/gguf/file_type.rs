//! Names of llama.cpp's file types: which number types its quantizer chose for which tensors.

/// Number and name of each of which there are files with types that are read.
const NAMES: [(usize, &str); 23] = [
    (0, "all F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K - Medium"),
    (11, "Q3_K - Small"),
    (12, "Q3_K - Medium"),
    (13, "Q3_K - Large"),
    (14, "Q4_K - Small"),
    (15, "Q4_K - Medium"),
    (16, "Q5_K - Small"),
    (17, "Q5_K - Medium"),
    (18, "Q6_K"),
    (21, "Q2_K - Small"),
    (22, "IQ3_XS - 3.3 bpw"),
    (25, "IQ4_NL - 4.5 bpw"),
    (26, "IQ3_S - 3.4375 bpw"),
    (27, "IQ3_S mix - 3.66 bpw"),
    (30, "IQ4_XS - 4.25 bpw"),
    (32, "BF16"),
];

/// The name that llama.cpp prints, if the number is known.
pub(super) fn name(number: usize) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_type_has_the_name_that_llama_cpp_prints() {
        assert_eq!([3, 15, 18].map(name), [Some("Q4_1"), Some("Q4_K - Medium"), Some("Q6_K")]);
        assert_eq!(name(4), None, "removed in 2023");
    }
}
