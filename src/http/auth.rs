//! Bearer tokens: a file of their SHA-256, read again when it changes. Without one everybody may ask (and the configuration lets that
//! be only on loopback, or where it was asked for).

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};

use super::problem::Problem;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often denials of one client are logged.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Clients whose denials are remembered.
const CLIENTS: usize = 10_000;
/// Lines of the file at most.
const MAX_TOKENS: usize = 100_000;

type Hash = [u8; 32];

/// Who may ask.
#[derive(Debug)]
pub struct Tokens {
    file: Option<PathBuf>,
    known: ArcSwap<HashMap<Hash, String>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    looked: Option<Instant>,
    stamp: Option<(SystemTime, u64)>,
    complained: bool,
    denied: HashMap<IpAddr, Instant>,
}

impl Tokens {
    /// Reads the file, if there is to be one.
    ///
    /// # Errors
    ///
    /// It cannot be read, or a line is wrong: which, but never what it says.
    pub fn load(file: Option<&Path>) -> Result<Self, String> {
        let known = file.map(read).transpose()?.unwrap_or_default();
        let stamp = file.and_then(stamp);
        let state = State { looked: Some(Instant::now()), stamp, ..State::default() };
        Ok(Self { file: file.map(Path::to_owned), known: ArcSwap::from_pointee(known), state: Mutex::new(state) })
    }

    /// Whether a request may be answered.
    pub(super) fn check(&self, headers: &HeaderMap, client: IpAddr) -> Result<(), Problem> {
        let Some(file) = &self.file else { return Ok(()) };
        self.look(file);
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let token = match (given.next(), given.next()) {
            (Some(value), None) => value.to_str().ok().and_then(|text| {
                let (scheme, token) = text.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
            }),
            _ => None,
        };
        // Looked up by its hash: how long that takes says nothing about the tokens.
        let name = token.and_then(|token| self.known.load().get(&hash(token)).cloned());
        if name.is_some() {
            return Ok(());
        }
        self.denied(client, token.is_some());
        Err(Problem::unauthorized(match token {
            None => "a token is needed: send Authorization: Bearer <token>",
            Some(_) => "the token is not known: ask whoever runs this server for one",
        }))
    }

    fn denied(&self, client: IpAddr, wrong: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.denied.get(&client).is_some_and(|last| now.duration_since(*last) < LOG_EVERY) {
            return;
        }
        if state.denied.len() >= CLIENTS {
            state.denied.clear();
        }
        state.denied.insert(client, now);
        let reason = if wrong { "its token is not known" } else { "it sent no token" };
        tracing::warn!(%client, reason, "a client was denied (said once a minute for each)");
    }

    /// A changed file takes effect; one that cannot be read changes nothing, and is complained about once.
    fn look(&self, file: &Path) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        state.looked = Some(Instant::now());
        let stamp = stamp(file);
        if stamp.is_some() && stamp == state.stamp {
            return;
        }
        match read(file) {
            Ok(known) => {
                tracing::info!(file = %file.display(), tokens = known.len(), "tokens were read again");
                self.known.store(known.into());
                (state.stamp, state.complained) = (stamp, false);
            }
            Err(error) if !state.complained => {
                tracing::error!(error, "the tokens stay as they were");
                state.complained = true;
            }
            Err(_) => {}
        }
    }
}

fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

fn stamp(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(file: &Path) -> Result<HashMap<Hash, String>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    parse(&text).map_err(|reason| format!("{}, {reason}", file.display()))
}

/// `sha256:<hex> name`, a line each; empty lines and those that begin with `#` are passed over.
fn parse(text: &str) -> Result<HashMap<Hash, String>, String> {
    let mut known = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (digest, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let hash = digest.strip_prefix("sha256:").and_then(unhex).ok_or_else(|| {
            format!("line {}: is not `sha256:<64 hex digits> <name>`; make one with: printf %s \"$TOKEN\" | sha256sum", at + 1)
        })?;
        known.insert(hash, name.trim().to_owned());
        if known.len() > MAX_TOKENS {
            return Err(format!("line {}: more than {MAX_TOKENS} tokens", at + 1));
        }
    }
    if known.is_empty() {
        return Err("has no token in it: nobody could ask".to_owned());
    }
    Ok(known)
}

fn unhex(text: &str) -> Option<Hash> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
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
    fn a_wrong_line_is_named_and_not_shown() {
        for text in ["", "# none", "secret", "sha256:zz x", &LINE.replace("2bb8", "2bb"), &format!("{LINE}\nsha256:")] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("secret") && !error.contains("zz"), "{error}");
            assert!(error.contains("line") || error.contains("no token"), "{error}");
        }
    }
}
