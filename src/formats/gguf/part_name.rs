//! Names of the files that a model is split into: `stem-00002-of-00003.gguf`.

/// Stem, number and count of the name of a part, without its ending. Whether there can be such a part is not asked.
pub(crate) fn split(name: &str) -> Option<(&str, u64, u64)> {
    let (head, count) = name.rsplit_once("-of-")?;
    let (stem, number) = head.rsplit_once('-')?;
    let number_of = |text: &str| {
        let digits = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok())?
    };
    Some((stem, number_of(number)?, number_of(count)?))
}

/// What stands behind the stem.
pub(crate) fn suffix(part: u64, count: u64) -> String {
    format!("-{part:05}-of-{count:05}.gguf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_five_digits_twice() {
        assert_eq!(split("m-00002-of-00003"), Some(("m", 2, 3)));
        assert_eq!(split("q/a-of-b-00000-of-00000"), Some(("q/a-of-b", 0, 0)));
        for other in ["m", "m-1-of-3", "m-+0001-of-00003", "m-00001-of-3", "00001-of-00003", ""] {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
