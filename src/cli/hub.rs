//! Model arguments, a path or a hub id, and data sets of the hub, with the environment variables of `huggingface_hub`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::console::{shows_bars, tell, tells};
use super::failure::Failure;
use crate::error::{FileError, FileFault};
use crate::eval::{DataSet, Split};
use crate::hub::{self, DataSetFiles, HubError, HubReference, HubSettings, Progress, Token};

/// The path of a model argument: an existing path, or a model in the cache, or one that is now downloaded into the cache. For a
/// hub id this is the GGUF file or the `config.json`.
///
/// # Errors
/// If the argument is neither an existing path nor an id of the Hub, or the Hub does not provide the model.
pub fn locate(argument: &str) -> Result<PathBuf, Failure> {
    locate_with(argument, || Ok(settings_here()?))
}

/// The files of a split of a data set: in the cache, or now downloaded into it.
///
/// # Errors
/// If the Hub does not provide them.
pub(super) fn data_set_files(data_set: &DataSet, split: Split) -> Result<DataSetFiles, HubError> {
    let (settings, folder) = (settings_here()?, data_set.hub_folder(split));
    let mut watcher = Watcher::new(settings.progress_disabled || !tells());
    hub::data_set_files(data_set.path, &folder, &settings, &mut |progress| watcher.show(progress))
}

/// The settings of the environment of this process.
fn settings_here() -> Result<HubSettings, HubError> {
    settings(&|name| std::env::var(name).ok(), std::env::home_dir(), ureq::Proxy::try_from_env())
}

/// As [`locate`], with these settings in place of the environment's.
///
/// # Errors
/// As [`locate`].
pub fn locate_with(
    argument: &str,
    settings: impl FnOnce() -> Result<HubSettings, Failure>,
) -> Result<PathBuf, Failure> {
    let path = Path::new(argument);
    if path.exists() {
        return Ok(path.to_owned());
    }
    // A missing path; anything else is taken for a hub id, and its errors are explained.
    let looks_like_path = argument.starts_with(['.', '/', '~']) || !argument.contains('/');
    if looks_like_path {
        return Err(FileError::new(path, FileFault::NotFound).into());
    }
    let reference: HubReference = argument.parse()?;
    let settings = settings()?;
    if let Some(path) = hub::cached(&reference, &settings) {
        return Ok(file_of(path));
    }
    if !settings.offline {
        tell(format_args!("{argument:?} is not a local path: looking for it on {}", settings.endpoint));
    }
    let mut watcher = Watcher::new(settings.progress_disabled || !tells());
    Ok(file_of(hub::download(&reference, &settings, &mut |progress| watcher.show(progress))?))
}

/// Names the config of a snapshot, so that a GGUF file beside the safetensors is ignored.
fn file_of(path: PathBuf) -> PathBuf {
    if path.is_dir() { path.join("config.json") } else { path }
}

/// The settings of an environment, as Python's `huggingface_hub` reads it: `HF_HOME` (else `XDG_CACHE_HOME`, else
/// `~/.cache`), `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_ENDPOINT`,
/// `HF_HUB_OFFLINE`, `HF_HUB_DISABLE_PROGRESS_BARS`, and their older names. An empty variable counts as absent.
///
/// # Errors
/// [`HubError::Argument`]; [`HubError::File`] if a file with a token cannot be read, or there is no home to put a cache in.
pub fn settings(
    variable: &dyn Fn(&str) -> Option<String>,
    home: Option<PathBuf>,
    proxy: Option<ureq::Proxy>,
) -> Result<HubSettings, HubError> {
    let set = |name: &str| variable(name).filter(|text| !text.is_empty());
    let is_true = |name: &str| set(name).is_some_and(|text| is_true(&text));
    let path = |name: &str| set(name).map(|text| expanded(&text, variable, home.as_deref()));
    let hub_home = || {
        let caches = path("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
        path("HF_HOME").or_else(|| Some(caches?.join("huggingface")))
    };
    let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
    let Some(cache) = cache.or_else(|| Some(hub_home()?.join("hub"))) else {
        let absent = std::io::Error::other("there is no home directory, expected HF_HOME or HF_HUB_CACHE to be set");
        return Err(FileError::io(Path::new("~/.cache/huggingface"))(absent).into());
    };
    let mut settings = HubSettings::new(cache);
    if let Some(endpoint) = set("HF_ENDPOINT") {
        settings.endpoint = endpoint;
    }
    if !is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        settings.token = match set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")) {
            Some(text) => Some(Token::new(&text)?),
            None => path("HF_TOKEN_PATH").or_else(|| Some(hub_home()?.join("token"))).map_or(Ok(None), token_in)?,
        };
    }
    settings.offline = is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE");
    settings.progress_disabled = is_true("HF_HUB_DISABLE_PROGRESS_BARS");
    settings.proxy = proxy;
    Ok(settings)
}

/// The token that `hf auth login` wrote, if any.
fn token_in(path: PathBuf) -> Result<Option<Token>, HubError> {
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Token::new(&text).map(Some),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(FileError::io(&path)(error).into()),
    }
}

/// Whether `huggingface_hub` takes a value for true.
fn is_true(text: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&text.to_uppercase().as_str())
}

/// A path with `~`, `$NAME` and `${NAME}` expanded; unset variables stay as they are.
fn expanded(text: &str, variable: &dyn Fn(&str) -> Option<String>, home: Option<&Path>) -> PathBuf {
    let text = match (text.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => format!("{}{rest}", home.display()),
        _ => text.to_owned(),
    };
    let mut out = String::new();
    let mut parts = text.split('$');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let braced = part.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let plain = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
        let (name, rest) = braced.unwrap_or(part.split_at(plain));
        match variable(name) {
            Some(value) => out.extend([value.as_str(), rest]),
            None => out.extend(["$", part]),
        }
    }
    PathBuf::from(out)
}

/// Shows [`Progress`] on stderr: a bar on a terminal, otherwise a line per file.
struct Watcher {
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Watcher {
    fn new(quiet: bool) -> Self {
        Self { quiet, bar: None }
    }

    fn show(&mut self, progress: Progress<'_>) {
        match progress {
            Progress::Resolved(commit) if !self.quiet => tell(format_args!("commit {commit}")),
            Progress::File { name, size_bytes } if !self.quiet => self.begin(name, size_bytes),
            Progress::Arrived(bytes) => {
                if let Some(bar) = &self.bar {
                    bar.set_position(bytes);
                }
            }
            Progress::Waiting { reason, wait } => {
                let wait = wait.map_or(String::new(), |wait| format!(", next try in {:.1} s", wait.as_secs_f64()));
                match &self.bar {
                    Some(bar) => bar.println(format!("{reason}{wait}")),
                    None => tell(format_args!("{reason}{wait}")),
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, name: &str, size_bytes: Option<u64>) {
        self.end();
        if shows_bars() {
            let template = "{msg:32} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}";
            let style = ProgressStyle::with_template(template).expect("a template of known keys");
            let bar = ProgressBar::new(size_bytes.unwrap_or(0)).with_style(style).with_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            self.bar = Some(bar);
        } else {
            let size = size_bytes.map_or(String::new(), |bytes| format!(", {bytes} bytes"));
            tell(format_args!("{name}{size}"));
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings_of(pairs: &[(&str, &str)]) -> Result<HubSettings, HubError> {
        let variable = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        settings(&variable, Some(PathBuf::from("/home/me")), None)
    }

    fn cache_of(pairs: &[(&str, &str)]) -> String {
        settings_of(pairs).unwrap().cache.to_str().unwrap().to_owned()
    }

    #[test]
    fn the_cache_is_that_of_python() {
        assert_eq!(cache_of(&[]), "/home/me/.cache/huggingface/hub");
        assert_eq!(cache_of(&[("XDG_CACHE_HOME", "/xdg")]), "/xdg/huggingface/hub");
        assert_eq!(cache_of(&[("XDG_CACHE_HOME", "/xdg"), ("HF_HOME", "~/hf")]), "/home/me/hf/hub");
        assert_eq!(cache_of(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")]), "/old");
        assert_eq!(cache_of(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")]), "/new");
        assert_eq!(cache_of(&[("HF_HOME", "$ROOT/a/${ROOT}b/$NONE"), ("ROOT", "/r")]), "/r/a//rb/$NONE/hub");
        assert_eq!(cache_of(&[("HF_HOME", "")]), "/home/me/.cache/huggingface/hub");
        let message = settings(&|_| None, None, None).unwrap_err().to_string();
        assert!(message.contains("HF_HOME"), "{message}");
    }

    #[test]
    fn the_token_is_the_variable_or_the_file_of_login() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        let hf_home = path("");
        let token =
            |pairs: &[(&str, &str)]| settings_of(&[&[("HF_HOME", hf_home.as_str())], pairs].concat()).unwrap().token;
        let expected = |text: &str| Some(Token::new(text).unwrap());
        assert_eq!(token(&[]), None);
        std::fs::write(path("token"), " hf_file\n").unwrap();
        std::fs::write(path("other"), "hf_other").unwrap();
        assert_eq!(token(&[]), expected("hf_file"));
        assert_eq!(token(&[("HF_TOKEN_PATH", &path("other"))]), expected("hf_other"));
        assert_eq!(token(&[("HF_TOKEN", " hf_variable ")]), expected("hf_variable"));
        assert_eq!(token(&[("HUGGING_FACE_HUB_TOKEN", "hf_old")]), expected("hf_old"));
        assert_eq!(token(&[("HF_TOKEN", "hf_variable"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes")]), None);
        std::fs::write(path("token"), "\n").unwrap();
        assert_eq!(token(&[]), None);
        assert!(matches!(settings_of(&[("HF_TOKEN", "two words")]), Err(HubError::Argument(_))));
    }

    #[test]
    fn switches_are_true_as_in_python() {
        for (text, expected) in [("1", true), ("on", true), ("Yes", true), ("TRUE", true), ("0", false), ("2", false)] {
            let settings = settings_of(&[("HF_HUB_OFFLINE", text), ("HF_HUB_DISABLE_PROGRESS_BARS", text)]).unwrap();
            assert_eq!((settings.offline, settings.progress_disabled), (expected, expected), "{text}");
        }
        assert!(settings_of(&[("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
        assert_eq!(settings_of(&[("HF_ENDPOINT", "http://mirror/")]).unwrap().endpoint, "http://mirror/");
    }

    #[test]
    fn a_gguf_in_the_cache_does_not_replace_the_safetensors() {
        use crate::formats::{Checkpoint, CheckpointError, write_hf_directory};
        use crate::output::disk::disk;
        use crate::weights::MemoryWeights;
        let (cache, commit) = (tempfile::tempdir().unwrap(), "0a".repeat(20));
        let model = cache.path().join("models--org--name");
        let snapshot = model.join("snapshots").join(&commit);
        for folder in ["refs", "snapshots", &format!(".no_exist/{commit}")] {
            std::fs::create_dir_all(model.join(folder)).unwrap();
        }
        std::fs::write(model.join("refs/main"), &commit).unwrap();
        std::fs::write(model.join(format!(".no_exist/{commit}/tokenizer.json")), "").unwrap();
        let weights = MemoryWeights::untrained(crate::config::DecoderConfig::pico(), 0.02, 0);
        write_hf_directory(&weights, None, None, &snapshot).unwrap();
        std::fs::write(snapshot.join("name-Q4_0.gguf"), "GGUF").unwrap();
        let located = |argument: &str| locate_with(argument, || Ok(HubSettings::new(cache.path().to_owned()))).unwrap();
        let opened = |path: &Path| Checkpoint::open_on(disk(), path);
        let checkpoint = opened(&located("org/name")).unwrap();
        assert_eq!(checkpoint.path(), snapshot);
        assert!(checkpoint.notices()[0].contains("name-Q4_0.gguf"), "{:?}", checkpoint.notices());
        assert_eq!(located("org/name/name-Q4_0.gguf"), snapshot.join("name-Q4_0.gguf"));
        assert!(
            matches!(opened(&snapshot), Err(CheckpointError::TwoFormats { .. })),
            "the directory does not say which"
        );
    }

    #[test]
    fn a_path_is_never_looked_up_on_the_hub() {
        let never = || -> Result<HubSettings, Failure> { panic!("no settings are needed") };
        let here = env!("CARGO_MANIFEST_DIR");
        assert_eq!(locate_with(here, never).unwrap(), Path::new(here));
        for absent in ["./no/such", "/no/such", "~/no/such", "../no-such-thing", "no-such-thing"] {
            let error = locate_with(absent, never).unwrap_err();
            assert!(error.to_string().contains("does not exist") && error.code() == 4, "{error}");
        }
        let error = locate_with("a/b/c", never).unwrap_err();
        assert!(error.to_string().contains("org/name@revision") && error.code() == 4, "{error}");
    }
}
