//! Escapes in a prompt, as llama.cpp reads them.

use super::super::failure::Failure;

/// Replaces `\n`, `\r`, `\t`, `\'`, `\"`, `\\` and `\xHH` (a byte). Other backslashes stay.
///
/// # Errors
/// If the bytes are not UTF-8.
pub(super) fn unescaped(text: &str) -> Result<String, Failure> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, after) = match (first, tail) {
            (b'\\', [b'n', after @ ..]) => (b'\n', after),
            (b'\\', [b'r', after @ ..]) => (b'\r', after),
            (b'\\', [b't', after @ ..]) => (b'\t', after),
            (b'\\', [quoted @ (b'\'' | b'"' | b'\\'), after @ ..]) => (*quoted, after),
            (b'\\', [b'x', high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hexadecimal digit") as u8;
                (16 * digit(*high) + digit(*low), after)
            }
            _ => (*first, tail),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes)
        .map_err(|error| Failure::usage(format_args!("with --escape, the prompt is not UTF-8: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_replaced_and_other_backslashes_stay() {
        for (text, expected) in [
            (r"a\nb\r\t", "a\nb\r\t"),
            (r#"\'\"\\n"#, "'\"\\n"),
            (r"\x41\xc3\xa9", "Aé"),
            (r"\x4 \xg0 \d \", r"\x4 \xg0 \d \"),
            ("é", "é"),
        ] {
            assert_eq!(unescaped(text).unwrap(), expected, "{text}");
        }
        assert_eq!(unescaped(r"\xff").unwrap_err().code(), 2);
    }
}
