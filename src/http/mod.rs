//! The HTTP API. Reaches the store only through [`crate::query`].
//!
//! | file | what |
//! |---|---|
//! | `routes/` | one file a resource |
//! | `dto`, `rows` | what answers look like; samples as text |
//! | `problem` | what went wrong (RFC 9457) |
//! | `openapi` | the description, and Swagger UI |

mod auth;
mod dto;
mod openapi;
mod problem;
#[expect(unused_qualifications, reason = "what utoipa's macros write")]
mod routes;
mod rows;
pub mod ui;

use axum::Router;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;

pub use self::problem::{Problem, ProblemBody};
pub use self::routes::Api;

/// Every route of the API, its description and its documentation; what is not there is a problem, too.
#[must_use]
pub fn router(api: Api) -> Router {
    let (routes, description) = OpenApiRouter::with_openapi(openapi::head()).merge(routes::router()).split_for_parts();
    routes
        .merge(openapi::router(description))
        .fallback(|| async { Problem::not_found("there is no such path: /docs shows those there are") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed here")
        })
        .with_state(api)
}
