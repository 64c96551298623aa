//! Python's dialect of JSON, in which numbers may be NaN or infinite.
//!
//! One pass over the bytes, before any value is made of them, also bounds the number of values and their nesting.

use std::borrow::Cow;

use super::fault::ConfigFault;

/// Limit on nested lists and objects.
const DEEPEST: usize = 64;
/// Limit on values. Real files have hundreds; each value takes up to 100 bytes of memory.
const MOST_VALUES: usize = 100_000;

/// JSON, with non-finite numbers replaced by strings.
pub(super) struct Lenient<'t> {
    pub text: Cow<'t, [u8]>,
    /// The top-level keys that contained one.
    pub non_finite: Vec<String>,
}

/// Replaces what is not JSON in Python's dialect; other errors are left to the parser.
pub(super) fn read(text: &[u8]) -> Result<Lenient<'_>, ConfigFault> {
    let (mut scan, mut values) = (Scan::new(text), 1usize);
    let mut changed: Option<Vec<u8>> = None;
    let (mut copied, mut non_finite) = (0, Vec::new());
    while let Some(start) = scan.step() {
        if scan.depth > DEEPEST {
            return Err(ConfigFault::TooDeep { limit: DEEPEST });
        }
        values += usize::from(text[start] == b',');
        if let Some(token) = non_finite_number(text, start) {
            scan.at = start + token.len();
            let out = changed.get_or_insert_default();
            out.extend_from_slice(&text[copied..start]);
            out.extend([b"\"", token, b"\""].concat());
            copied = scan.at;
            non_finite.extend(scan.key().filter(|key| !non_finite.contains(key)));
        }
    }
    if values > MOST_VALUES {
        return Err(ConfigFault::TooMany { found: values, limit: MOST_VALUES });
    }
    let text = match changed {
        None => Cow::Borrowed(text),
        Some(mut out) => {
            out.extend_from_slice(&text[copied..]);
            Cow::Owned(out)
        }
    };
    Ok(Lenient { text, non_finite })
}

/// The top-level key of the value at a position, counted as in serde_json: lines from 1, and bytes of the line.
pub(super) fn key_at(text: &[u8], line: usize, column: usize) -> Option<String> {
    let line_start: usize =
        text.split_inclusive(|byte| *byte == b'\n').take(line.checked_sub(1)?).map(<[u8]>::len).sum();
    let mut scan = Scan::new(text);
    while scan.at < line_start + column && scan.step().is_some() {}
    scan.key().filter(|_| scan.depth > 0)
}

/// A walk over JSON that knows the top-level key of each value.
struct Scan<'t> {
    text: &'t [u8],
    at: usize,
    depth: usize,
    last_string: &'t [u8],
    key: &'t [u8],
}

impl<'t> Scan<'t> {
    fn new(text: &'t [u8]) -> Self {
        Self { text, at: 0, depth: 0, last_string: b"", key: b"" }
    }

    /// Steps over a string or another byte, and returns where it starts.
    fn step(&mut self) -> Option<usize> {
        let start = self.at;
        let byte = self.text.get(start)?;
        self.at = if *byte == b'"' { end_of_string(self.text, start) } else { start + 1 };
        match byte {
            b'"' if self.depth == 1 => self.last_string = &self.text[start..self.at],
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b':' if self.depth == 1 => self.key = self.last_string,
            _ => {}
        }
        Some(start)
    }

    fn key(&self) -> Option<String> {
        serde_json::from_slice(self.key).ok()
    }
}

/// The index after the closing quote of the string that starts at `start`.
fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// Python's word for a non-finite number, if one starts at `start`.
fn non_finite_number(text: &[u8], start: usize) -> Option<&[u8]> {
    let in_a_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(byte));
    let tokens: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let token = tokens.into_iter().find(|token| text[start..].starts_with(token))?;
    let before = start.checked_sub(1).and_then(|i| text.get(i));
    (!in_a_word(before) && !in_a_word(text.get(start + token.len()))).then(|| &text[start..start + token.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lenient(text: &str) -> (String, Vec<String>) {
        let read = read(text.as_bytes()).unwrap();
        (String::from_utf8(read.text.into_owned()).unwrap(), read.non_finite)
    }

    #[test]
    fn non_finite_numbers_of_python_become_strings() {
        let (text, keys) = lenient(r#"{"a": NaN, "b": {"c": [0.0, Infinity, -Infinity]}, "d": 1}"#);
        assert_eq!(text, r#"{"a": "NaN", "b": {"c": [0.0, "Infinity", "-Infinity"]}, "d": 1}"#);
        assert_eq!(keys, ["a", "b"]);
    }

    #[test]
    fn strings_and_other_words_are_left_alone() {
        for text in
            [r#"{"NaN": "a \" NaN", "b\\": "Infinity"}"#, "{\"a\": NaNs, \"b\": 1NaN, \"c\": +Infinity}", "\"NaN"]
        {
            assert_eq!(lenient(text), (text.to_owned(), vec![]));
        }
    }

    #[test]
    fn a_position_belongs_to_the_key_before_it() {
        let text = b"{\"a\": 1,\n \"b\": {\"c\": -2}, \"d\": 3}";
        assert_eq!(key_at(text, 1, 7), Some("a".into()));
        assert_eq!(key_at(text, 2, 13), Some("b".into()));
        assert_eq!(key_at(text, 2, 23), Some("d".into()));
        assert_eq!(key_at(text, 2, 24), None, "the end of all");
        assert_eq!(key_at(text, 1, 0), None);
    }

    #[test]
    fn nesting_and_number_of_values_are_bounded() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(nested(DEEPEST).as_bytes()).is_ok());
        assert!(matches!(read(nested(1_000_000).as_bytes()), Err(ConfigFault::TooDeep { .. })));
        let many = format!("[{}0]", "0,".repeat(MOST_VALUES));
        assert!(matches!(read(many.as_bytes()), Err(ConfigFault::TooMany { found: 100_001, .. })));
    }
}
