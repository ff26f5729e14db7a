//! The page's files as answers.

use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse as _, Response};

use super::problem::Problem;
use super::{assets, ui};

/// The file of the page that a path names, else a problem.
pub(super) async fn file(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let readable = method == Method::GET || method == Method::HEAD;
    let Some(asset) = ui::asset(uri.path()).filter(|_| readable) else {
        return Problem::not_found("there is no such path: /docs lists all paths").into_response();
    };
    assets::answer(asset, &headers, ui::CONTENT_SECURITY_POLICY)
}
