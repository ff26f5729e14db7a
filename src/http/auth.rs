//! Bearer tokens: a file of their SHA-256, read again when it changes. Without one everybody may ask (and the configuration lets that
//! be only on loopback, or where it was asked for).

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};

use super::problem::Problem;
use crate::watched::Watched;

/// How often denials of one client are logged.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Clients whose denials are remembered.
const CLIENTS: usize = 10_000;
/// Lines of the file at most.
const MAX_TOKENS: usize = 100_000;

type Hash = [u8; 32];
type Known = HashMap<Hash, String>;

/// The certificate that a client has shown in the handshake, which has verified it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Certificate {
    /// None.
    #[default]
    None,
    /// One with a name that may read.
    Accepted,
    /// One of the right authority, with other names.
    OtherName,
}

/// The tokens with which a client may ask.
#[derive(Debug)]
pub(super) struct Tokens {
    known: Option<Watched<Known>>,
    denied: Mutex<HashMap<IpAddr, Instant>>,
}

impl Tokens {
    /// Reads the file, if there is to be one.
    ///
    /// # Errors
    ///
    /// It cannot be read, or a line is wrong: which, but never what it says.
    pub(super) fn load(file: Option<&Path>) -> Result<Self, String> {
        let known = file.map(|file| Watched::new("tokens", vec![file.to_owned()], read)).transpose()?;
        Ok(Self { known, denied: Mutex::default() })
    }

    /// Whether there are any: without a file everybody may ask.
    pub(super) fn are_needed(&self) -> bool {
        self.known.is_some()
    }

    /// Whether a request may be answered.
    pub(super) fn check(&self, headers: &HeaderMap, client: IpAddr) -> Result<(), Problem> {
        let Some(known) = &self.known else { return Ok(()) };
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let token = match (given.next(), given.next()) {
            (Some(value), None) => value.to_str().ok().and_then(|text| {
                let (scheme, token) = text.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
            }),
            _ => None,
        };
        // Looked up by its hash: how long that takes says nothing about the tokens.
        if token.is_some_and(|token| known.get().contains_key(&hash(token))) {
            return Ok(());
        }
        self.denied(client, token.is_some());
        Err(Problem::unauthorized(match token {
            None => "a token is needed: send Authorization: Bearer <token>",
            Some(_) => "the token is not valid: ask the operator of this server for one",
        }))
    }

    fn denied(&self, client: IpAddr, wrong: bool) {
        let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if denied.get(&client).is_some_and(|last| now.duration_since(*last) < LOG_EVERY) {
            return;
        }
        if denied.len() >= CLIENTS {
            denied.clear();
        }
        denied.insert(client, now);
        let reason = if wrong { "its token is not known" } else { "it sent no token" };
        tracing::warn!(%client, reason, "a client was denied (said once a minute for each)");
    }
}

fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

fn read(files: &[PathBuf]) -> Result<Known, String> {
    let file = &files[0];
    let text = fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    parse(&text).map_err(|reason| format!("{}, {reason}", file.display()))
}

/// The command that makes a line of the file.
const RECIPE: &str = r#"printf 'sha256:%s NAME\n' "$(printf %s "$TOKEN" | sha256sum | cut -d ' ' -f 1)""#;

/// `sha256:<hex> name`, a line each; empty lines and those that begin with `#` are passed over.
fn parse(text: &str) -> Result<Known, String> {
    let mut known = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (digest, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let hash = digest
            .strip_prefix("sha256:")
            .and_then(unhex)
            .ok_or_else(|| format!("line {}: is not `sha256:<64 hex digits> <name>`; make one with: {RECIPE}", at + 1))?;
        known.insert(hash, name.trim().to_owned());
        if known.len() > MAX_TOKENS {
            return Err(format!("line {}: more than {MAX_TOKENS} tokens", at + 1));
        }
    }
    if known.is_empty() {
        return Err("contains no token, so every request would be rejected".to_owned());
    }
    Ok(known)
}

fn unhex(text: &str) -> Option<Hash> {
    data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // sha256("secret")
    const LINE: &str = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b grafana";

    fn ask(tokens: &Tokens, header: &str) -> bool {
        let mut headers = HeaderMap::new();
        if !header.is_empty() {
            headers.insert(AUTHORIZATION, header.parse().unwrap());
        }
        tokens.check(&headers, IpAddr::from([127, 0, 0, 1])).is_ok()
    }

    #[test]
    fn who_has_a_token_may_ask() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("# people\n\n{LINE}\n")).unwrap();
        let tokens = Tokens::load(Some(file.path())).unwrap();
        assert!(ask(&tokens, "Bearer secret") && ask(&tokens, "bearer secret"));
        for wrong in ["", "Bearer", "Bearer ", "Bearer Secret", "Basic secret", "secret"] {
            assert!(!ask(&tokens, wrong), "{wrong}");
        }
        assert!(ask(&Tokens::load(None).unwrap(), ""));
    }

    #[test]
    fn the_recipe_makes_a_line_that_is_accepted() {
        let made = std::process::Command::new("sh").args(["-c", RECIPE]).env("TOKEN", "secret").output().unwrap();
        let known = parse(&String::from_utf8(made.stdout).unwrap()).unwrap();
        assert_eq!(known.get(&hash("secret")).map(String::as_str), Some("NAME"));
        assert!(parse("2bb80d53  -").unwrap_err().contains(RECIPE));
        for document in ["README.md", "docs/deployment.md"] {
            // Not `include_str!`: the image is built without them.
            let text = fs::read_to_string(format!("{}/{document}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            assert!(text.contains(&RECIPE.replace("NAME", "grafana")), "{document} shows another recipe");
        }
    }

    #[test]
    fn a_wrong_line_is_named_and_not_shown() {
        for text in ["", "# none", "secret", "sha256:zz x", &LINE.replace("2bb8", "2bb"), &format!("{LINE}\nsha256:")] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("secret") && !error.contains("zz"), "{error}");
            assert!(error.contains("line") || error.contains("no token"), "{error}");
        }
    }
}
