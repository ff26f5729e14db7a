//! The HTTP server: the API, its description, the page. Reaches the store only through [`crate::query`].
//!
//! | file | what |
//! |---|---|
//! | `server`, `connections`, `connection`, `tls` | connections: accepted, counted, watched, encrypted, ended |
//! | `gate`, `auth`, `browser`, `client` | what every request passes: limits, tokens, foreign pages, time; headers of answers |
//! | `routes/` | one file a resource |
//! | `ahead` | long answers, made while they are sent |
//! | `dto`, `rows` | what answers look like; samples as text |
//! | `problem` | what went wrong (RFC 9457) |
//! | `openapi` | the description, and Swagger UI |
//! | `ui`, `page` | the page's files |
//! | `assets` | files inside the binary, and how they are served |
//! | `health` | /livez, /readyz, /metrics |

mod ahead;
mod assets;
mod auth;
mod browser;
mod client;
mod connection;
mod connections;
mod dto;
mod gate;
mod health;
mod openapi;
mod page;
mod problem;
mod routes;
mod rows;
mod server;
mod tls;
pub mod ui;

use axum::Router;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;

pub use self::problem::{Problem, ProblemBody};
pub use self::routes::Api;
pub use self::server::Server;
use crate::config::Http;
use crate::runtime::Lifecycle;

/// Everything that is served, behind the gate. What is not there is a problem, too.
///
/// # Errors
///
/// A file that the configuration names cannot be used: which, and why.
pub fn router(api: Api, config: &Http, lifecycle: &Lifecycle) -> Result<Router, String> {
    let (routes, description) = OpenApiRouter::with_openapi(openapi::head()).merge(routes::router()).split_for_parts();
    let routes = routes
        .merge(openapi::router(&description))
        .merge(health::router(lifecycle))
        .fallback(page::file)
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed here")
        })
        .with_state(api);
    gate::guard(routes, config)
}
