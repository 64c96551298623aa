//! Groups of parameters by name, for `--freeze` and `--lr-multiplier`.

use std::str::FromStr;

use regex::Regex;

use crate::cli::failure::Failure;
use crate::finetune::Provenance;

/// The groups that have a name, and the pattern of their parameters.
const NAMED: [(&str, &str); 7] = [
    ("embeddings", r"^model\.embed_tokens\."),
    ("attention", r"\.self_attn\."),
    ("mlp", r"\.mlp\."),
    ("norms", r"norm\."),
    ("experts", r"\.block_sparse_moe\.experts\."),
    ("router", r"\.block_sparse_moe\.gate\."),
    ("head", r"^lm_head\."),
];

/// A group of parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// Parameters added by growth.
    New,
    /// Parameters copied by growth.
    Copied,
    /// A regular expression that is searched in the names of parameters.
    Pattern(String),
}

impl Group {
    /// The regular expression that is searched in the names of parameters.
    ///
    /// # Errors
    /// If nothing is new.
    pub(super) fn pattern(&self, provenance: &Provenance) -> Result<String, Failure> {
        match self {
            Self::New => {
                provenance.new.clone().ok_or_else(|| Failure::usage("no parameter is new: the base is not grown here"))
            }
            Self::Copied => Ok(provenance.copied.clone()),
            Self::Pattern(pattern) => Ok(pattern.clone()),
        }
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "new" => return Ok(Self::New),
            "copied" => return Ok(Self::Copied),
            _ => {}
        }
        if let Some((_, pattern)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(Self::Pattern((*pattern).to_owned()));
        }
        match Regex::new(text) {
            Ok(_) if !text.is_empty() => Ok(Self::Pattern(text.to_owned())),
            _ => {
                let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
                Err(format!(
                    "{text:?} is not a group (new, copied, {}) or a valid regular expression",
                    names.join(", ")
                ))
            }
        }
    }
}

/// A group with the multiplier of its learning rate: `router=10`.
#[derive(Debug, Clone, PartialEq)]
pub struct Multiplier {
    pub(super) group: Group,
    pub(super) value: f64,
}

impl FromStr for Multiplier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (group, value) = text.rsplit_once('=').ok_or_else(|| format!("{text:?} is not GROUP=MULTIPLIER"))?;
        match value.parse::<f64>() {
            Ok(value) if value.is_finite() && value >= 0.0 => Ok(Self { group: group.parse()?, value }),
            _ => Err(format!("{value:?} is not a finite number of at least 0")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_a_name_or_a_pattern() {
        let provenance = Provenance { new: None, copied: "c".to_owned() };
        let pattern = |text: &str| text.parse::<Group>().unwrap().pattern(&provenance);
        assert_eq!(pattern("router").unwrap(), r"\.block_sparse_moe\.gate\.");
        assert_eq!(pattern(r"layers\.[01]\.").unwrap(), r"layers\.[01]\.");
        assert_eq!(pattern("copied").unwrap(), "c");
        assert!(pattern("new").is_err());
        assert!("(".parse::<Group>().unwrap_err().contains("router"));
        assert_eq!("experts=0.5".parse::<Multiplier>().unwrap().value, 0.5);
        for wrong in ["experts", "experts=-1", "experts=x"] {
            assert!(wrong.parse::<Multiplier>().is_err(), "{wrong}");
        }
    }
}
