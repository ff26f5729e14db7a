//! The page at `/`: the files that were built from web/, inside the binary. Where they were not built, a plain page says how to.

use super::assets::{self, Asset, Content, Table};

/// The policy that the page is made for: everything from this server, no inline script or style, no framing.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What build.rs found in web/dist, sorted by path.
static BUILT: Table = include!(concat!(env!("OUT_DIR"), "/page.rs"));

static PLACEHOLDER: Asset = Asset {
    content_type: "text/html; charset=utf-8",
    content: Content::Plain(include_bytes!("placeholder.html")),
    etag: "\"placeholder-1\"",
    etag_gzip: "\"placeholder-1-gzip\"",
    immutable: false,
};

/// The file that a path of a request names; `/` is the page itself. None where there is no such file.
pub fn asset(path: &str) -> Option<&'static Asset> {
    find(BUILT, path)
}

/// Whether the page was built into this binary.
pub fn is_built() -> bool {
    !BUILT.is_empty()
}

fn find(built: Table, path: &str) -> Option<&'static Asset> {
    let path = if path == "/" { "/index.html" } else { path };
    if built.is_empty() && path == "/index.html" {
        return Some(&PLACEHOLDER);
    }
    assets::find(built, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn script(immutable: bool) -> Asset {
        Asset {
            content_type: "text/javascript; charset=utf-8",
            content: Content::Plain(b"1"),
            etag: "\"1\"",
            etag_gzip: "\"1-gzip\"",
            immutable,
        }
    }

    static TABLE: Table =
        &[("/assets/index-1.js", script(true)), ("/assets/index-2.js", script(true)), ("/index.html", script(false))];

    fn text(asset: &Asset) -> String {
        String::from_utf8(asset.content.plain().unwrap().into_owned()).unwrap()
    }

    #[test]
    fn a_path_finds_its_file_and_nothing_else() {
        assert!(find(TABLE, "/assets/index-2.js").is_some_and(|found| found.immutable));
        assert!(find(TABLE, "/").is_some_and(|found| !found.immutable));
        assert!(std::ptr::eq(find(TABLE, "/").unwrap(), find(TABLE, "/index.html").unwrap()));
        for path in ["", "/assets", "/assets/", "/assets/index-3.js", "/assets/../index.html", "index.html", "//"] {
            assert!(find(TABLE, path).is_none(), "{path}");
        }
    }

    #[test]
    fn without_a_built_page_the_placeholder_says_how_to_build_it() {
        let page = &text(find(&[], "/").unwrap());
        for text in ["make web", "cargo build", "/docs", "/api/v1/clusters"] {
            assert!(page.contains(text), "{text}");
        }
        assert!(find(&[], "/assets/index-1.js").is_none());
        keeps_to_the_policy(page);
    }

    #[test]
    fn what_was_built_is_whole() {
        assert!(BUILT.is_sorted_by(|(a, _), (b, _)| a < b));
        for (path, asset) in BUILT {
            assert!(!asset.content.plain().unwrap().is_empty(), "{path} is empty");
            for etag in [asset.etag, asset.etag_gzip] {
                assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 30, "{path}: {etag}");
            }
            assert_ne!(asset.etag, asset.etag_gzip);
            assert_eq!(asset.immutable, path.starts_with("/assets/"), "{path}");
        }
        let page = text(asset("/").unwrap());
        keeps_to_the_policy(&page);
        for named in page.split('"').filter_map(|text| text.strip_prefix("./assets/")) {
            assert!(asset(&format!("/assets/{named}")).is_some(), "the page names {named}");
        }
    }

    /// No script, style or handler inside the HTML: the policy would refuse it.
    fn keeps_to_the_policy(page: &str) {
        let page = page.to_lowercase();
        for refused in ["<style", " style=", " onclick=", " onload=", "javascript:", "<base", "https://", "http://"] {
            assert!(!page.contains(refused), "{refused}");
        }
        for script in page.match_indices("<script").map(|(at, _)| &page[at..]) {
            assert!(script[..script.find('>').unwrap()].contains(" src="), "a script inside the page");
        }
    }
}
