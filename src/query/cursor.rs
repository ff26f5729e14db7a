//! Cursors: where a list goes on, as an opaque text. It names the last row that was given, so that rows that arrive meanwhile move
//! nothing; and the question, so that it is not mistaken for another's.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{QueryError, Result};
use crate::model::Digest;

#[derive(serde::Serialize, serde::Deserialize)]
struct Envelope<T> {
    q: String,
    at: T,
}

/// A cursor after the row `at` of the list that `question` describes.
pub(super) fn write<T: Serialize>(question: &[&str], at: T) -> String {
    let text = serde_json::to_vec(&Envelope { q: digest(question), at }).expect("plain data can be written as JSON");
    URL_SAFE_NO_PAD.encode(text)
}

/// Where the list that `question` describes goes on.
pub(super) fn read_given<T: DeserializeOwned>(text: Option<&str>, question: &[&str]) -> Result<Option<T>> {
    text.map(|text| read(text, question)).transpose()
}

fn read<T: DeserializeOwned>(text: &str, question: &[&str]) -> Result<T> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| QueryError::bad("cursor", "is not one of ours: take next_cursor as it was given"))?;
    let foreign = || QueryError::bad("cursor", "is not one of this list: take next_cursor as it was given");
    // No stored text has a NUL, and PostgreSQL takes none: as in every other parameter.
    let text = std::str::from_utf8(&bytes).ok().filter(|text| !text.contains("\\u0000")).ok_or_else(foreign)?;
    let envelope: Envelope<T> = serde_json::from_str(text).map_err(|_| foreign())?;
    if envelope.q != digest(question) {
        return Err(QueryError::bad(
            "cursor",
            "is of another question: give the other parameters as they were for the page before",
        ));
    }
    Ok(envelope.at)
}

fn digest(question: &[&str]) -> String {
    let parts: Vec<&[u8]> = question.iter().map(|part| part.as_bytes()).collect();
    Digest::of_parts(&parts).to_string()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_of_one_question() {
        let text = write(&["gpus", "edge-a"], ("host", 5));
        assert_eq!(read::<(String, i64)>(&text, &["gpus", "edge-a"]).unwrap(), ("host".to_owned(), 5));
        assert!(read::<(String, i64)>(&text, &["gpus", "edge-b"]).unwrap_err().to_string().contains("another question"));
        let nul = URL_SAFE_NO_PAD.encode(format!(r#"{{"q":"{}","at":["\u0000",5]}}"#, digest(&["gpus", "edge-a"])));
        for wrong in [&nul, "", "%", "AAAA", "zz", &text[1..]] {
            assert!(
                read::<(String, i64)>(wrong, &["gpus", "edge-a"]).unwrap_err().to_string().starts_with("cursor: is not one"),
                "{wrong}"
            );
        }
    }
}
