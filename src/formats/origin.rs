//! The stated origin of a checkpoint, for the model card of a child: licence and base models.
//!
//! Only an id of the Hub or the plain name of a licence is taken over. Everything else is left out, never guessed.

use serde::Deserialize;

use super::repo_id;

/// Limit on the size of a model card.
pub(super) const CARD_LIMIT_BYTES: u64 = 1 << 20;

/// Limit on the characters of a name or link.
const MOST_CHARS: usize = 256;

/// The stated origin of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its licence.
    pub license: Option<License>,
    /// Base models, by their ids on the Hub.
    pub base_models: Vec<String>,
}

/// A licence, as in model cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct License {
    /// `apache-2.0`, or `other`.
    pub id: String,
    /// Name of a licence with id `other`.
    pub name: Option<String>,
    /// Link to the text of a licence with id `other`.
    pub link: Option<String>,
}

impl License {
    /// A licence, if its id is a plain word. A name or link that is not plain is left out.
    pub(super) fn new(id: String, name: Option<String>, link: Option<String>) -> Option<Self> {
        let plain = |text: Option<String>| text.filter(|text| is_plain(text));
        is_plain(&id).then(|| Self { id, name: plain(name), link: plain(link) })
    }
}

impl Origin {
    /// The origin in the front matter of a model card; empty if there is none or it is malformed.
    pub(super) fn of_card(card: &str) -> Self {
        #[derive(Deserialize)]
        struct Front {
            license: Option<Names>,
            license_name: Option<String>,
            license_link: Option<String>,
            base_model: Option<Names>,
        }
        let card = card.replace("\r\n", "\n");
        let front = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---")).map(|(front, _)| front);
        let Some(front) = front.and_then(|front| serde_saphyr::from_str::<Front>(front).ok()) else {
            return Self::default();
        };
        let license = match front.license.map(Names::into_vec).unwrap_or_default() {
            one if one.len() == 1 => License::new(one.concat(), front.license_name, front.license_link),
            _ => None,
        };
        let base_models = Vec::new();
        Self { license, base_models }.with_base_models(front.base_model.map(Names::into_vec).unwrap_or_default())
    }

    /// Adds base models, of which only ids on the Hub are kept.
    pub(super) fn with_base_models(mut self, models: impl IntoIterator<Item = String>) -> Self {
        self.base_models.extend(models.into_iter().filter(|model| repo_id::broken_rule(model).is_none()));
        self
    }
}

/// One name or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
}

impl Names {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name],
            Self::Many(names) => names,
        }
    }
}

/// Whether a text needs no quotes in front matter.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._+/~%".contains(c);
    let rest = text.strip_prefix("https://").unwrap_or(text);
    !rest.is_empty()
        && text.len() <= MOST_CHARS
        && rest.starts_with(|c: char| c.is_ascii_alphanumeric())
        && rest.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn license(id: &str, name: Option<&str>, link: Option<&str>) -> Option<License> {
        Some(License { id: id.to_owned(), name: name.map(str::to_owned), link: link.map(str::to_owned) })
    }

    #[test]
    fn licence_and_models_are_read_in_each_of_their_forms() {
        let card = "---\nlanguage: [en]\nlicense: apache-2.0\nbase_model: org/base\n---\n# A model\n";
        let expected = Origin { license: license("apache-2.0", None, None), base_models: vec!["org/base".to_owned()] };
        assert_eq!(Origin::of_card(card), expected);
        assert_eq!(Origin::of_card(&card.replace('\n', "\r\n")), expected);
        let other = "---\nlicense: other\nlicense_name: llama3\nlicense_link: https://example.org/LICENSE\nbase_model:\n- a/b\n- c/d\n---\n";
        let expected = Origin {
            license: license("other", Some("llama3"), Some("https://example.org/LICENSE")),
            base_models: vec!["a/b".to_owned(), "c/d".to_owned()],
        };
        assert_eq!(Origin::of_card(other), expected);
    }

    #[test]
    fn everything_else_is_left_out() {
        for card in [
            "",
            "# A model without front matter",
            "---\nlicense: mit",
            "---\nlicense: [mit\n---\n",
            "---\nlicense: [mit, apache-2.0]\n---\n",
            "---\nlicense: \"mit\\nbase_model: evil/model\"\n---\n",
            "---\nlicense: {a: b}\n---\n",
            "---\nbase_model: ../../etc\n---\n",
            "---\nbase_model: a local folder\n---\n",
            "---\nbase_model: org/name@revision\n---\n",
        ] {
            assert_eq!(Origin::of_card(card), Origin::default(), "{card:?}");
        }
    }
}
