//! Reads the paths that a source file names.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The paths a file names: from its `use` trees and from its text, with `super`, `self` and aliases resolved.
pub(super) fn paths(file: &str, text: &str) -> Vec<String> {
    let module = module(file);
    let tokens = tokens(&without_tests(text));
    let mut found = Vec::new();
    let mut aliases = BTreeMap::new();
    let mut inline = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "use" {
            let end = tokens[at..].iter().position(|token| token == ";").map_or(tokens.len(), |length| at + length);
            expand(&tokens[at + 1..end], &[], &mut |path, alias| {
                let path = absolute(&module, path);
                aliases.insert(alias.to_owned(), path.clone());
                found.push(path);
            });
            at = end;
        } else if is_name(&tokens[at]) {
            let mut path = vec![tokens[at].as_str()];
            while at + 2 < tokens.len() && tokens[at + 1] == "::" && is_name(&tokens[at + 2]) {
                path.push(&tokens[at + 2]);
                at += 2;
            }
            inline.push(path.join("::"));
        }
        at += 1;
    }
    for path in inline.iter().filter(|path| path.contains("::")) {
        let (first, rest) = path.split_once("::").expect("it has one");
        match aliases.get(first) {
            Some(alias) => found.push(format!("{alias}::{rest}")),
            None => found.push(absolute(&module, &path.split("::").collect::<Vec<_>>())),
        }
    }
    found.sort();
    found.dedup();
    found
}

/// `transport/redis/keys.rs` → crate, transport, redis, keys.
pub(super) fn module(file: &str) -> Vec<String> {
    let path = PathBuf::from(file).with_extension("");
    let parts =
        path.iter().map(|part| part.to_str().unwrap().to_owned()).filter(|part| !["mod", "lib", "main"].contains(&part.as_str()));
    std::iter::once("crate".to_owned()).chain(parts).collect()
}

fn absolute(module: &[String], path: &[&str]) -> String {
    let supers = path.iter().take_while(|part| **part == "super").count();
    let (base, rest) = match path.first() {
        Some(&"super") => (&module[..module.len().saturating_sub(supers)], &path[supers..]),
        Some(&"self") => (module, &path[1..]),
        _ => (&module[..0], path),
    };
    let parts: Vec<&str> = base.iter().map(String::as_str).chain(rest.iter().copied()).collect();
    parts.join("::")
}

/// Expands a `use` tree; tells each path with the name it has here.
fn expand(tokens: &[String], prefix: &[&str], tell: &mut dyn FnMut(&[&str], &str)) {
    let mut path = prefix.to_vec();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "::" => {}
            "{" => {
                for part in split(&tokens[at + 1..tokens.len() - 1]) {
                    expand(part, &path, tell);
                }
                return;
            }
            "as" => {
                tell(&path, &tokens[at + 1]);
                return;
            }
            "self" if !path.is_empty() => {}
            token => path.push(Box::leak(token.to_owned().into_boxed_str())),
        }
        at += 1;
    }
    if let Some(last) = path.last().copied() {
        tell(&path, last);
    }
}

/// Splits at the commas that are not inside braces.
fn split(tokens: &[String]) -> Vec<&[String]> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 0 => {
                parts.push(&tokens[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tokens[begin..]);
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::`, and single characters; comments and strings are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let (c, next) = (chars[at], chars.get(at + 1).copied());
        match c {
            '/' if next == Some('/') => at += chars[at..].iter().take_while(|c| **c != '\n').count(),
            '"' => at = string_end(&chars, at + 1),
            // A character, not a lifetime.
            '\'' if next == Some('\\') || chars.get(at + 2) == Some(&'\'') => {
                at += 2 + chars[at + 2..].iter().take_while(|c| **c != '\'').count();
            }
            ':' if next == Some(':') => {
                found.push("::".to_owned());
                at += 1;
            }
            c if c.is_alphabetic() || c == '_' => {
                let name: String = chars[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
                at += name.chars().count() - 1;
                found.push(name);
            }
            c if c.is_whitespace() => {}
            c => found.push(c.to_string()),
        }
        at += 1;
    }
    found
}

/// The closing quote of a string that began before `at`.
fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at
}

/// The text without its test modules: they may do what they like.
fn without_tests(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some(begin) = rest.find("#[cfg(test)]\nmod ") {
        kept.push_str(&rest[..begin]);
        let after = &rest[begin..];
        rest = match (after.find('{'), after.find(';')) {
            (Some(brace), semicolon) if semicolon.is_none_or(|semicolon| brace < semicolon) => {
                after.find("\n}").map_or("", |end| &after[end + 2..])
            }
            (_, Some(semicolon)) => &after[semicolon + 1..],
            _ => "",
        };
    }
    kept + rest
}
