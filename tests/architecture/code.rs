//! Just enough Rust to read this crate: tokens without comments, items without tests, paths with groups expanded.

/// A token of Rust, without comments.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// An identifier, a keyword or a number.
    Word(String),
    /// A string literal, without quotes.
    Text(String),
    /// A character that is none of these. `::` is two of them.
    Mark(char),
}

/// Whether the code contains the word.
pub fn has_word(tokens: &[Token], word: &str) -> bool {
    tokens.iter().any(|token| matches!(token, Token::Word(found) if found == word))
}

/// Splits Rust into tokens; comments and character literals are dropped.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            i += chars[i..].iter().take_while(|c| **c != '\n').count();
        } else if c == '/' && at(i + 1) == '*' {
            i = end_of_block_comment(&chars, i);
        } else if c == '"' {
            let end = end_of_string(&chars, i + 1);
            tokens.push(Token::Text(chars[i + 1..end].iter().collect()));
            i = end + 1;
        } else if let Some((start, end, hashes)) = raw_string(&chars, i) {
            tokens.push(Token::Text(chars[start..end].iter().collect()));
            i = end + 1 + hashes;
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            i += chars[i.min(chars.len())..].iter().take_while(|c| **c != '\'').count() + 1;
        } else if in_word(c) {
            let length = chars[i..].iter().take_while(|c| in_word(**c)).count();
            tokens.push(Token::Word(chars[i..i + length].iter().collect()));
            i += length;
        } else {
            if !c.is_whitespace() {
                tokens.push(Token::Mark(c));
            }
            i += 1;
        }
    }
    tokens
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut i, mut depth) = (start, 0usize);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (i, depth) = (i + 2, depth + 1),
            ('*', Some('/')) => (i, depth) = (i + 2, depth - 1),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

/// The index of the closing quote, or the end.
fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut i = start;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i.min(chars.len())
}

/// Start, end and number of hashes of the raw string that opens at `i` as `r"`, `br#"` or alike.
fn raw_string(chars: &[char], i: usize) -> Option<(usize, usize, usize)> {
    let r = if matches!(chars[i], 'b' | 'c') { i + 1 } else { i };
    if chars.get(r) != Some(&'r') {
        return None;
    }
    let hashes = chars[r + 1..].iter().take_while(|c| **c == '#').count();
    let start = r + 1 + hashes + 1;
    if chars.get(start - 1) != Some(&'"') {
        return None;
    }
    let closes =
        |end: &usize| chars[*end] == '"' && chars[end + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
    Some((start, (start..chars.len()).find(closes).unwrap_or(chars.len()), hashes))
}

/// The tokens without the items under `#[cfg(test)]`. Fields, arms and statements under it stay.
pub fn outside_tests(tokens: Vec<Token>) -> Vec<Token> {
    const ITEMS: &str = "pub mod use fn impl struct enum const static type trait unsafe async extern macro_rules";
    let attribute = self::tokens("#[cfg(test)]");
    let mut kept = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let mut item = i + attribute.len();
        if tokens[i..].starts_with(&attribute) {
            while tokens[item..].starts_with(&self::tokens("#[")) {
                item = end_of_group(&tokens, item + 1);
            }
            if matches!(tokens.get(item), Some(Token::Word(word)) if ITEMS.split(' ').any(|item| item == word)) {
                i = end_of_item(&tokens, item);
                continue;
            }
        }
        kept.push(tokens[i].clone());
        i += 1;
    }
    kept
}

/// The index after the `;` or the braces that end the item.
fn end_of_item(tokens: &[Token], mut i: usize) -> usize {
    while i < tokens.len() {
        match tokens[i] {
            Token::Mark(';') => return i + 1,
            Token::Mark('{') => return end_of_group(tokens, i),
            Token::Mark('(' | '[') => i = end_of_group(tokens, i),
            _ => i += 1,
        }
    }
    i
}

/// The index after the bracket that closes the one at `start`.
fn end_of_group(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(start) {
        match token {
            Token::Mark('(' | '[' | '{') => depth += 1,
            Token::Mark(')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

/// The code of a file at `home` and of each `mod x { .. }` in it, each with its module path, from which `super` climbs.
pub fn inline_modules(tokens: &[Token], home: &[String]) -> Vec<(Vec<String>, Vec<Token>)> {
    let mut modules = Vec::new();
    let mut rest = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        match &tokens[i..] {
            [Token::Word(keyword), Token::Word(name), Token::Mark('{'), ..] if keyword == "mod" => {
                let end = end_of_group(tokens, i + 2);
                let inner = home.iter().chain([name]).cloned().collect::<Vec<_>>();
                modules.extend(inline_modules(&tokens[i + 3..end - 1], &inner));
                i = end;
            }
            _ => {
                rest.push(tokens[i].clone());
                i += 1;
            }
        }
    }
    modules.push((home.to_vec(), rest));
    modules
}

/// Every path of the code, groups expanded: `use crate::{a, b::{c, d}}` gives `crate::a`, `crate::b::c`,
/// `crate::b::d`. A single word is a path only where it names a crate: `use crate as other`, `extern crate clap`.
pub fn paths(tokens: &[Token]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        match &tokens[i] {
            Token::Word(word) => {
                let (found, end) = path_at(tokens, i);
                let renamed = matches!(tokens.get(i + 1), Some(Token::Word(next)) if next == "as");
                let whole = renamed && word == "crate" || word == "clap";
                paths.extend(found.into_iter().filter(|path| path.len() > 1 || whole));
                i = end;
            }
            _ => i += 1,
        }
    }
    paths
}

/// The paths that begin with the word at `i`, and the index after them.
fn path_at(tokens: &[Token], i: usize) -> (Vec<Vec<String>>, usize) {
    let Some(Token::Word(word)) = tokens.get(i) else { return (Vec::new(), i + 1) };
    let follows = |at: usize, mark: char| tokens.get(at) == Some(&Token::Mark(mark));
    if !(follows(i + 1, ':') && follows(i + 2, ':')) {
        return (vec![vec![word.clone()]], i + 1);
    }
    let (rest, end) = if follows(i + 3, '{') {
        let end = end_of_group(tokens, i + 3);
        let mut rest = Vec::new();
        let mut at = i + 4;
        while at < end.saturating_sub(1) {
            let (found, next) = path_at(tokens, at);
            let renamed = matches!(tokens.get(next), Some(Token::Word(word)) if word == "as");
            rest.extend(found);
            at = if renamed { next + 2 } else { next };
        }
        (rest, end)
    } else if follows(i + 3, '*') {
        (vec![vec!["*".to_string()]], i + 4)
    } else {
        path_at(tokens, i + 3)
    };
    let rest = if rest.is_empty() { vec![Vec::new()] } else { rest };
    (rest.into_iter().map(|tail| std::iter::once(word.clone()).chain(tail).collect()).collect(), end)
}

/// A name that a `use` brings into a module.
pub struct Import {
    /// The path behind `use`.
    pub path: Vec<String>,
    /// The name by which the module then knows it; `*` for all names of a module.
    pub name: String,
    /// Whether other modules may use the name from here.
    pub is_public: bool,
}

/// The imports of a module of this crate, and the code without them. A group's `as` is not followed.
pub fn imports(tokens: &[Token]) -> (Vec<Import>, Vec<Token>) {
    let (mut imports, mut body) = (Vec::new(), Vec::new());
    let mut i = 0;
    while i < tokens.len() {
        if !matches!(&tokens[i], Token::Word(word) if word == "use") {
            body.push(tokens[i].clone());
            i += 1;
            continue;
        }
        let is_public = ends_in_visibility(&body);
        let end = end_of_item(tokens, i);
        let (found, after) = path_at(tokens, i + 1);
        let alias = match &tokens[after.min(tokens.len())..] {
            [Token::Word(keyword), Token::Word(alias), ..] if keyword == "as" => Some(alias),
            _ => None,
        };
        for mut path in found {
            path.truncate(path.len() - usize::from(path.len() > 1 && path.last().is_some_and(|last| last == "self")));
            let name = alias.or(path.last()).cloned().unwrap_or_default();
            imports.push(Import { path, name, is_public });
        }
        i = end;
    }
    (imports, body)
}

/// Whether the code ends in `pub`, `pub(super)` or alike.
fn ends_in_visibility(tokens: &[Token]) -> bool {
    let in_brackets = tokens.last() == Some(&Token::Mark(')'));
    let opening = tokens.iter().rposition(|token| in_brackets && *token == Token::Mark('('));
    tokens[..opening.unwrap_or(tokens.len())].last() == Some(&Token::Word("pub".into()))
}
