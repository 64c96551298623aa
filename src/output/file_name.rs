//! File names inside a checkpoint, which must not lead out of it.

use std::path::{Component, Path};

/// Device names of Windows, with any extension.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// The folder of named chat templates: the only one that an output may contain.
pub(crate) const TEMPLATES_FOLDER: &str = "additional_chat_templates";

/// Whether an output may contain a file of this name: a plain file name, or `additional_chat_templates/NAME.jinja`.
pub(crate) fn is_output_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((folder, file)) => folder == TEMPLATES_FOLDER && file.ends_with(".jinja") && is_plain_file_name(file),
        None => is_plain_file_name(name),
    }
}

/// Whether this is one normal path component under the rules of Unix and Windows. Symbolic links are fine: the cache of the hub
/// consists of them.
pub(crate) fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let one = matches!((components.next(), components.next()), (Some(Component::Normal(part)), None) if part == name);
    // Windows drops trailing dots and spaces, so that two names would be the same.
    let ends = name.ends_with(['.', ' ']);
    one && !ends
        && !name.contains(['/', '\\', ':', '<', '>', '"', '|', '?', '*'])
        && !name.contains(char::is_control)
        && !is_device(name)
}

fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_ascii_lowercase();
    let numbered = |port: &str| {
        stem.strip_prefix(port).is_some_and(|rest| {
            let mut digits = rest.chars();
            matches!((digits.next(), digits.next()), (Some('0'..='9' | '¹' | '²' | '³'), None))
        })
    };
    DEVICES.contains(&stem.as_str()) || numbered("com") || numbered("lpt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_stays_in_its_directory_on_every_system() {
        for name in ["model-00001-of-00002.safetensors", ".hidden", "model..safetensors", "com.safetensors", "ünïcode"]
        {
            assert!(is_plain_file_name(name), "{name}");
        }
        for name in
            ["", ".", "..", "a/b", "/a", "a/", "a\\b", "\\\\server\\share", "C:", "C:\\a", "a\0", "a\n", "a\u{1b}"]
        {
            assert!(!is_plain_file_name(name), "{name:?}");
        }
        for name in ["CON", "con.safetensors", "nul .safetensors", "COM1", "lpt9.bin", "com¹", "a.", "a ", "a?", "a*b"]
        {
            assert!(!is_plain_file_name(name), "{name:?}");
        }
    }

    #[test]
    fn an_output_has_plain_files_and_named_chat_templates() {
        for name in
            ["model.safetensors", "additional_chat_templates/tool_use.jinja", "additional_chat_templates/é.jinja"]
        {
            assert!(is_output_name(name), "{name}");
        }
        for file in ["..", "../a.jinja", "a/b.jinja", "/a.jinja", "a\\b.jinja", "a.txt", "", "nul.jinja", "a\n.jinja"] {
            assert!(!is_output_name(&format!("{TEMPLATES_FOLDER}/{file}")), "{file:?}");
        }
        for name in ["templates/a.jinja", "../additional_chat_templates/a.jinja", "/additional_chat_templates/a.jinja"]
        {
            assert!(!is_output_name(name), "{name}");
        }
    }
}
