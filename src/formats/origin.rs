//! What a checkpoint says of where it comes from, for the model card of a child: its licence, and the models it was made of.
//!
//! Only what can be taken as it stands counts: an id of the Hub, the name of a licence. The rest is left out, never guessed.

use serde::Deserialize;

use crate::hub::HubReference;

/// The longest card that is read.
pub(super) const CARD_LIMIT_BYTES: u64 = 1 << 20;

/// The most characters of a name or link.
const MOST_CHARS: usize = 256;

/// Where a checkpoint comes from, as far as it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its licence.
    pub license: Option<License>,
    /// Ids on the Hub of the models that it was made of.
    pub base_models: Vec<String>,
}

/// A licence, as model cards name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct License {
    /// Such as `apache-2.0`, or `other`.
    pub id: String,
    /// The name of another one.
    pub name: Option<String>,
    /// Where the text of another one is.
    pub link: Option<String>,
}

impl License {
    /// A licence of this id, unless it is no plain word; what else is not plain is left out.
    pub(super) fn new(id: String, name: Option<String>, link: Option<String>) -> Option<Self> {
        let kept = |text: Option<String>| text.filter(|text| is_plain(text));
        is_plain(&id).then(|| Self { id, name: kept(name), link: kept(link) })
    }
}

impl Origin {
    /// What the front matter of a model card says; nothing where there is none or it is no such thing.
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
        Self { license, base_models }.made_of(front.base_model.map(Names::into_vec).unwrap_or_default())
    }

    /// The same, made of these models as far as they are on the Hub.
    pub(super) fn made_of(mut self, models: impl IntoIterator<Item = String>) -> Self {
        self.base_models.extend(models.into_iter().filter(|model| is_hub_id(model)));
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

/// Whether a text can stand in front matter without quotes.
fn is_plain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._+/~%".contains(c);
    let rest = text.strip_prefix("https://").unwrap_or(text);
    !rest.is_empty()
        && text.len() <= MOST_CHARS
        && rest.starts_with(|c: char| c.is_ascii_alphanumeric())
        && rest.chars().all(plain)
}

fn is_hub_id(text: &str) -> bool {
    text.parse().is_ok_and(|reference: HubReference| reference.repo() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn license(id: &str, name: Option<&str>, link: Option<&str>) -> Option<License> {
        Some(License { id: id.to_owned(), name: name.map(str::to_owned), link: link.map(str::to_owned) })
    }

    #[test]
    fn a_card_tells_licence_and_models_in_each_of_its_forms() {
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
    fn what_is_not_truly_known_is_left_out() {
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
