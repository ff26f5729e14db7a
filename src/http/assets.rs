//! Files inside the binary, and how they are served: compressed as they are stored, with tags, kept by browsers as long as they may be.

use std::borrow::Cow;
use std::io::Read as _;

use axum::body::Body;
use axum::http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::problem::Problem;
use super::routes::is_known;

/// The files of a table that build.rs has written, sorted by path.
pub(super) type Table = &'static [(&'static str, Asset)];

/// One file.
#[derive(Debug)]
pub struct Asset {
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The file itself.
    pub content: Content,
    /// The value of `ETag`: strong, from the content, with its quotes.
    pub etag: &'static str,
    /// The same for the compressed form.
    pub etag_gzip: &'static str,
    /// Whether the name has the content's hash in it: what is behind it never changes and may be cached for ever.
    pub immutable: bool,
}

/// A file's content as the binary has it.
#[derive(Debug)]
pub enum Content {
    /// As it is: compression would not make it smaller.
    Plain(&'static [u8]),
    /// Compressed with gzip.
    Gzip(&'static [u8]),
}

impl Content {
    /// The content itself, not compressed.
    ///
    /// # Errors
    ///
    /// It cannot be decompressed: the binary is damaged.
    pub fn plain(&self) -> std::io::Result<Cow<'static, [u8]>> {
        match self {
            Self::Plain(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::Gzip(packed) => {
                let mut bytes = Vec::new();
                flate2::read::GzDecoder::new(*packed).read_to_end(&mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

/// The file at a path; `None` where the table has none.
pub(super) fn find(table: Table, path: &str) -> Option<&'static Asset> {
    let at = table.binary_search_by(|(known, _)| (*known).cmp(path)).ok()?;
    Some(&table[at].1)
}

/// The answer with a file, in a form that the client accepts; nothing but headers where the client has it already.
pub(super) fn answer(asset: &'static Asset, request: &HeaderMap, policy: &'static str) -> Response {
    let packed = match asset.content {
        Content::Gzip(packed) if accepts_gzip(request) => Some(packed),
        _ => None,
    };
    let etag = if packed.is_some() { asset.etag_gzip } else { asset.etag };
    let mut response = if is_known(request, etag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if let Some(packed) = packed {
        let mut response = Response::new(Body::from(packed));
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        match asset.content.plain() {
            Ok(Cow::Borrowed(bytes)) => Response::new(Body::from(bytes)),
            Ok(Cow::Owned(bytes)) => Response::new(Body::from(bytes)),
            Err(error) => {
                return Problem::internal(&format!("a file inside the program cannot be decompressed: {error}")).into_response();
            }
        }
    };
    let cache = if asset.immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = response.headers_mut();
    for (name, value) in
        [(CONTENT_TYPE, asset.content_type), (ETAG, etag), (CACHE_CONTROL, cache), (CONTENT_SECURITY_POLICY, policy)]
    {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if matches!(asset.content, Content::Gzip(_)) {
        headers.insert(VARY, HeaderValue::from_name(ACCEPT_ENCODING));
    }
    response
}

/// Whether a client takes gzip (RFC 9110, 12.5.3): named, or `*` where it is not named, and not with weight 0.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut any = false;
    for value in headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()) {
        for coding in value.split(',') {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
            let weight = weight.trim().trim_start_matches(['q', 'Q']).trim_start().trim_start_matches('=').trim();
            let wanted = weight.parse::<f32>().is_ok_and(|weight| weight > 0.0);
            match name.trim().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => return wanted,
                "*" => any = wanted,
                _ => {}
            }
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        let accepts =
            |value: &'static str| accepts_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]));
        for taken in ["gzip", "GZIP", "br, gzip", "deflate, gzip;q=0.5", "gzip; q=1.0", "*", "br;q=1, *;q=0.1", "x-gzip"] {
            assert!(accepts(taken), "{taken}");
        }
        for refused in ["", "br", "identity", "gzip;q=0", "gzip;q=0.000, *", "*;q=0", "*, gzip;q=0", "gzipped", "gzip;q=x"] {
            assert!(!accepts(refused), "{refused}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
