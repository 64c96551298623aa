//! A mapping of a config, read key by key: what is known of it, and what is not.

use super::error::{Fault, MergeError, Position};
use super::yaml::{Node, Value};
use crate::weights::Dtype;

/// A file being read: makes errors of faults.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    pub file: &'a str,
}

impl Reader<'_> {
    pub fn refuse<T>(self, at: Position, fault: Fault) -> Result<T, MergeError> {
        Err(MergeError { file: self.file.to_owned(), at, fault })
    }

    fn wrong_type<T>(self, field: &str, node: &Node, expected: &'static str) -> Result<T, MergeError> {
        self.refuse(node.at, Fault::WrongType { field: field.to_owned(), found: node.found(), expected })
    }

    /// A value that mergekit knows and this crate does not.
    pub fn unsupported<T>(self, field: &str, node: &Node, expected: &'static str) -> Result<T, MergeError> {
        let (field, found) = (field.to_owned(), node.found());
        self.refuse(node.at, Fault::Unsupported { field, found, expected, suggestion: None })
    }

    pub fn text<'n>(self, field: &str, node: &'n Node) -> Result<&'n str, MergeError> {
        match &node.value {
            Value::Text(text) => Ok(text),
            _ => self.wrong_type(field, node, "text"),
        }
    }

    /// A whole number of at least 0, in digits: nothing that one YAML reads as a number and another as text.
    pub fn integer(self, field: &str, node: &Node) -> Result<usize, MergeError> {
        let is_decimal = |raw: &str| raw.bytes().all(|b| b.is_ascii_digit()) && (raw == "0" || !raw.starts_with('0'));
        match &node.value {
            Value::Plain(raw) if is_decimal(raw) => match raw.parse() {
                Ok(number) => Ok(number),
                Err(_) => self.wrong_type(field, node, "a smaller whole number"),
            },
            _ => self.wrong_type(field, node, "a whole number of at least 0, in digits"),
        }
    }

    /// A finite number, as JSON writes it, or with a sign or without a digit before or after the point.
    pub fn number(self, field: &str, node: &Node) -> Result<f64, MergeError> {
        let is_number = |raw: &str| {
            let digits = raw.trim_start_matches(['+', '-']);
            let whole = digits.split(['.', 'e', 'E']).next().unwrap_or_default();
            digits.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b))
                && (whole.len() < 2 || !whole.starts_with('0'))
        };
        match &node.value {
            Value::Plain(raw) if is_number(raw) => match raw.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(number),
                _ => self.wrong_type(field, node, "a finite number"),
            },
            _ => self.wrong_type(field, node, "a finite number"),
        }
    }

    pub fn list<'n>(self, field: &str, node: &'n Node) -> Result<&'n [Node], MergeError> {
        match &node.value {
            Value::List(items) => Ok(items),
            _ => self.wrong_type(field, node, "a list"),
        }
    }

    /// `float32`, `float16`, `bfloat16`, perhaps after `torch.`.
    pub fn dtype(self, field: &str, node: &Node) -> Result<Dtype, MergeError> {
        const NAMES: [(&str, Dtype); 3] =
            [("float32", Dtype::Float32), ("float16", Dtype::Float16), ("bfloat16", Dtype::Bfloat16)];
        let text = self.text(field, node)?;
        let name = text.strip_prefix("torch.").unwrap_or(text);
        if let Some((_, dtype)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(*dtype);
        }
        let (field, found) = (field.to_owned(), node.found());
        let suggestion = closest(name, NAMES.iter().map(|(known, _)| *known));
        self.refuse(node.at, Fault::Unsupported { field, found, expected: "float32, float16 or bfloat16", suggestion })
    }

    /// The mapping `node`, called `inside` in messages, which has no key but `known`.
    pub fn fields<'n>(self, inside: &str, node: &'n Node, known: &[&'static str]) -> Result<Fields<'n>, MergeError> {
        let Value::Mapping(pairs) = &node.value else {
            return self.wrong_type(inside, node, "a mapping");
        };
        let mut fields = Fields { at: node.at, inside: inside.to_owned(), pairs: Vec::with_capacity(pairs.len()) };
        for (key, value) in pairs {
            let name = self.text("a key", key)?;
            if !known.contains(&name) {
                let suggestion = closest(name, known.iter().copied());
                let (key_name, inside) = (name.to_owned(), inside.to_owned());
                return self.refuse(key.at, Fault::UnknownKey { key: key_name, inside, suggestion });
            }
            fields.pairs.push((name, value));
        }
        Ok(fields)
    }
}

/// A mapping all of whose keys are known.
pub(super) struct Fields<'n> {
    pub at: Position,
    inside: String,
    pairs: Vec<(&'n str, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// The value of a key; `null` is none.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        let (_, node) = self.pairs.iter().find(|(name, _)| *name == key)?;
        (node.value != Value::Null).then_some(*node)
    }

    pub fn required(&self, reader: Reader<'_>, key: &'static str) -> Result<&'n Node, MergeError> {
        match self.get(key) {
            Some(node) => Ok(node),
            None => reader.refuse(self.at, Fault::MissingKey { key, inside: self.inside.clone() }),
        }
    }
}

/// The known name that `name` was meant to be: the one that fewest changes of a letter lead to, at most two.
pub(super) fn closest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let name: String = name.chars().take(40).collect();
    let distances = known.map(|known| (edits(&name, known), known));
    let (distance, known) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2 && distance < known.len() / 2).then_some(known)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word of the other.
fn edits(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for (i, &a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &b) in to.iter().enumerate() {
            let mut least = (rows[i][j] + usize::from(a != b)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a == to[j - 1] && from[i - 1] == b {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_recognised_and_other_words_are_not() {
        let known = ["noise_scale", "residual_scale", "dtype"];
        for (written, meant) in [("nosie_scale", "noise_scale"), ("residual_scal", "residual_scale"), ("dype", "dtype")]
        {
            assert_eq!(closest(written, known.into_iter()), Some(meant));
        }
        assert_eq!(closest("weight", known.into_iter()), None);
        assert_eq!(closest("", known.into_iter()), None);
        assert_eq!(edits("abcd", "badc"), 2);
    }
}
