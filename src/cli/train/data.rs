//! `--data`: paths of training data, each with a weight if it has one.

use std::path::PathBuf;

use crate::finetune::{DataSource, FinetuneError, check_disjoint};

/// `PATH` or `PATH=WEIGHT`.
#[derive(Debug, Clone, PartialEq)]
pub struct DataArg {
    path: PathBuf,
    weight: Option<f64>,
}

impl DataArg {
    /// Reads an argument. What exists is a path, whatever it ends with.
    pub(super) fn read(argument: PathBuf) -> Result<Self, String> {
        let whole = |path| Ok(Self { path, weight: None });
        let Some((path, weight)) = argument.to_str().and_then(|text| text.rsplit_once('=')) else {
            return whole(argument);
        };
        match weight.parse::<f64>() {
            Err(_) => whole(argument),
            Ok(_) if argument.exists() => whole(argument),
            Ok(number) if number > 0.0 && number <= 1e6 => Ok(Self { path: path.into(), weight: Some(number) }),
            Ok(_) => Err(format!("{weight:?} is not a weight above 0 and up to 1e6")),
        }
    }
}

/// The sources: paths without a weight are one source of weight 1.
///
/// # Errors
/// As [`check_disjoint`].
pub(super) fn sources(arguments: &[DataArg]) -> Result<Vec<DataSource>, FinetuneError> {
    let sources = weighted(arguments);
    check_disjoint(&sources)?;
    Ok(sources)
}

fn weighted(arguments: &[DataArg]) -> Vec<DataSource> {
    let paths: Vec<PathBuf> =
        arguments.iter().filter(|data| data.weight.is_none()).map(|data| data.path.clone()).collect();
    let plain = (!paths.is_empty()).then_some(DataSource { paths, weight: 1.0 });
    let weighted =
        arguments.iter().filter_map(|data| Some(DataSource { paths: vec![data.path.clone()], weight: data.weight? }));
    plain.into_iter().chain(weighted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<DataArg, String> {
        DataArg::read(text.into())
    }

    #[test]
    fn a_number_behind_the_last_equals_sign_is_a_weight() {
        let argument = |path: &str, weight| Ok(DataArg { path: path.into(), weight });
        assert_eq!(read("a.jsonl=2"), argument("a.jsonl", Some(2.0)));
        assert_eq!(read("lang=en/b.jsonl"), argument("lang=en/b.jsonl", None));
        assert_eq!(read("lang=en=0.5"), argument("lang=en", Some(0.5)));
        for wrong in ["a=0", "a=-1", "a=inf", "a=nan"] {
            assert!(read(wrong).unwrap_err().contains("weight"), "{wrong}");
        }
    }

    #[test]
    fn a_path_that_exists_has_no_weight() {
        let folder = tempfile::tempdir().unwrap();
        let year = folder.path().join("year=2024");
        std::fs::create_dir(&year).unwrap();
        assert_eq!(DataArg::read(year.clone()), Ok(DataArg { path: year.clone(), weight: None }));
        let weighted = DataArg::read(format!("{}=2", year.display()).into());
        assert_eq!(weighted, Ok(DataArg { path: year, weight: Some(2.0) }));
    }

    #[test]
    fn paths_without_a_weight_are_one_source() {
        let arguments: Vec<DataArg> = ["a", "b=3", "c"].into_iter().map(|text| read(text).unwrap()).collect();
        let source = |paths: &[&str], weight| DataSource { paths: paths.iter().map(PathBuf::from).collect(), weight };
        assert_eq!(weighted(&arguments), [source(&["a", "c"], 1.0), source(&["b"], 3.0)]);
    }
}
