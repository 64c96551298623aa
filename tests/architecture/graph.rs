//! Which file of the crate uses which. Names are followed through re-exports to the file that defines them.

use std::collections::{BTreeMap, BTreeSet};

use super::code::{Import, Token, has_word, imports, inline_modules, outside_tests, paths};

/// A module as its path from the crate's root: `["weights", "tensor"]`.
pub type Module = Vec<String>;

/// The files of a crate by the module that each is, with the modules written out in them.
pub struct Sources(BTreeMap<Module, Vec<Scope>>);

/// The code of one module, apart from that of the modules in it.
struct Scope {
    home: Module,
    imports: Vec<Import>,
    body: Vec<Token>,
}

/// Re-exports that a name may pass through.
const MAX_HOPS: usize = 8;

impl Sources {
    /// Takes the tokens of each file; items under `#[cfg(test)]` are left out.
    pub fn new(files: impl IntoIterator<Item = (Module, Vec<Token>)>) -> Self {
        let scopes = |file: &Module, tokens| {
            let scope = |(home, code): (Module, Vec<Token>)| {
                let (imports, body) = imports(&code);
                Scope { home, imports, body }
            };
            inline_modules(&outside_tests(tokens), file).into_iter().map(scope).collect()
        };
        Self(files.into_iter().map(|(file, tokens)| (file.clone(), scopes(&file, tokens))).collect())
    }

    /// The files that each file uses. A `pub use` counts only if the file itself uses the name.
    pub fn uses(&self) -> BTreeMap<&Module, BTreeSet<&Module>> {
        self.0.keys().map(|file| (file, self.uses_of(file))).collect()
    }

    /// Groups of files that use each other in a circle.
    pub fn circles(&self) -> BTreeSet<BTreeSet<&Module>> {
        let uses = self.uses();
        let reach: BTreeMap<_, _> = uses.keys().map(|&file| (file, reachable(&uses, file))).collect();
        let circle = |file| reach[file].iter().copied().filter(|&other| reach[other].contains(file)).collect();
        let circles = reach.keys().map(|&file| circle(file));
        circles.filter(|circle: &BTreeSet<&Module>| !circle.is_empty()).collect()
    }

    fn uses_of(&self, file: &Module) -> BTreeSet<&Module> {
        let mut used = BTreeSet::new();
        for Scope { home, imports, body } in &self.0[file] {
            for import in imports.iter().filter(|import| !import.is_public || has_word(body, &import.name)) {
                used.extend(self.absolute(&import.path, home, &[]).and_then(|path| self.defining(&path, MAX_HOPS)));
            }
            for path in paths(body) {
                used.extend(self.absolute(&path, home, imports).and_then(|path| self.defining(&path, MAX_HOPS)));
            }
        }
        used.remove(file);
        used
    }

    /// A path from the crate's root; `None` if it leads out of the crate.
    fn absolute(&self, path: &[String], home: &[String], imports: &[Import]) -> Option<Module> {
        let ups = path.iter().take_while(|segment| *segment == "super").count();
        match path[0].as_str() {
            "crate" => Some(path[1..].to_vec()),
            "super" => Some([&home[..home.len().checked_sub(ups)?], &path[ups..]].concat()),
            "self" if path.get(1).is_some_and(|next| next == "super") => self.absolute(&path[1..], home, imports),
            "self" => Some([home, &path[1..]].concat()),
            first => match imports.iter().find(|import| import.name == first) {
                Some(import) => Some([&self.absolute(&import.path, home, &[])?, &path[1..]].concat()),
                None => self.is_module(&[home, &path[..1]].concat()).then(|| [home, path].concat()),
            },
        }
    }

    fn is_module(&self, path: &[String]) -> bool {
        self.0.values().flatten().any(|scope| scope.home == path)
    }

    /// The file that defines what an absolute path names; `None` for a module.
    fn defining(&self, path: &[String], hops: usize) -> Option<&Module> {
        let depth = (0..=path.len()).rev().find(|&depth| self.0.contains_key(&path[..depth]))?;
        let (file, scopes) = self.0.get_key_value(&path[..depth])?;
        let name = path.get(depth)?;
        let import = scopes.iter().filter(|scope| scope.home == *file).flat_map(|scope| &scope.imports);
        match import.clone().find(|import| import.name == *name) {
            Some(import) if hops > 0 => {
                let source = self.absolute(&import.path, file, &[])?;
                self.defining(&[&source, &path[depth + 1..]].concat(), hops - 1)
            }
            _ => Some(file),
        }
    }
}

fn reachable<'a>(uses: &BTreeMap<&'a Module, BTreeSet<&'a Module>>, start: &Module) -> BTreeSet<&'a Module> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![start]);
    while let Some(file) = next.pop() {
        let new: Vec<&Module> = uses[file].iter().copied().filter(|used| seen.insert(*used)).collect();
        next.extend(new);
    }
    seen
}
