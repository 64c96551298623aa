//! Methods of Python's `str`, and floats as text.

/// `str.isspace` of a character: Unicode white space and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `text.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `text.lstrip()`.
pub fn lstrip(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

/// `text.rstrip()`.
pub fn rstrip(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `repr(number)` of a float, which `str(number)` is too: the fewest digits that give it back, with an exponent of two
/// digits below 1e-4 and from 1e16.
pub fn repr(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    let size = number.abs();
    if size.is_infinite() || size == 0.0 || (1e-4..1e16).contains(&size) {
        return format!("{number:?}");
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').expect("an exponent");
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// `text.capitalize()`: the first character in upper case, all others in lower case.
pub fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let mut upper = first.to_uppercase();
    let first: String = upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect();
    first + &chars.as_str().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_that_of_python() {
        assert_eq!(strip("\u{1f} a b\u{a0}\n"), "a b");
        assert_eq!((lstrip(" a\u{1c}"), rstrip(" a\u{1c}")), ("a\u{1c}", " a"));
        assert_eq!(rstrip("a \u{2003}\t"), "a");
        assert_eq!(rstrip("a\u{200b}"), "a\u{200b}", "no space in Unicode");
    }

    #[test]
    fn floats_are_those_of_python() {
        let expected = [
            (-5e-5, "-5e-05"),
            (1.5e-7, "1.5e-07"),
            (1e-4, "0.0001"),
            (-12.25, "-12.25"),
            (3.0, "3.0"),
            (1e16, "1e+16"),
        ];
        for (number, text) in expected {
            assert_eq!(repr(number), text);
        }
        assert_eq!([f64::NAN, f64::NEG_INFINITY, -0.0].map(repr), ["nan", "-inf", "-0.0"]);
    }

    #[test]
    fn capitalizing_lowers_the_rest() {
        assert_eq!(capitalize("tHE Dog's NAME"), "The dog's name");
        assert_eq!(capitalize("ßa"), "Ssa");
        assert_eq!(capitalize(""), "");
        assert_eq!(capitalize("[title] X"), "[title] x");
    }
}
