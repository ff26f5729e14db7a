//! One GPU's samples: a page of JSON, or all of them as NDJSON or CSV.

use std::future::{poll_fn, ready};
use std::io;
use std::task::Poll;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, Uri};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use utoipa::IntoParams;

use super::lists::ClusterParam;
use super::{Answer, Api, params, segment, typed};
use crate::http::ahead::{Pieces, ahead};
use crate::http::dto::{List, Row};
use crate::http::problem::{Problem, ProblemBody};
use crate::http::rows::{CSV_HEAD, Form, Writer, page};
use crate::model::now_ms;
use crate::query::{QueryError, Sample, Telemetry, TelemetryRequest};

/// Bytes after which a piece of a download is sent.
const PIECE: usize = 512 << 10;

/// Which samples.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `query::Params` reads")]
struct TelemetryParams {
    /// The first instant: RFC 3339, or `now-5m`.
    #[param(
        max_length = 64,
        pattern = "^([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])|now([+-][0-9]{1,5}(ms|s|m|h|d))?)$"
    )]
    start_time: Option<String>,
    /// The last instant, included.
    #[param(
        max_length = 64,
        pattern = "^([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])|now([+-][0-9]{1,5}(ms|s|m|h|d))?)$"
    )]
    end_time: Option<String>,
    /// Metrics, repeated or separated by commas; all where none is given.
    #[param(style = Form, explode)]
    metric: Option<Vec<String>>,
    /// Which end comes first.
    #[param(pattern = "^(asc|desc)$", default = "asc")]
    order: Option<String>,
    /// Rows: of JSON 100 where it is not given, of NDJSON and CSV all.
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before, with the other parameters as they were.
    #[param(max_length = 1024)]
    cursor: Option<String>,
    /// One row per series and step of this length: `30s`, `1m`, `1h`.
    #[param(max_length = 32, pattern = "^[0-9]+(ms|s|m|h|d)$")]
    step: Option<String>,
    /// What becomes of the samples in a step.
    #[param(pattern = "^(avg|min|max|sum|count|last|p50|p95|p99)$", default = "avg")]
    agg: Option<String>,
}

/// A GPU's samples by time. Accept: application/json (a page), application/x-ndjson or text/csv (all of them, unless limited).
#[utoipa::path(get, path = "/api/v1/gpus/{id}/telemetry", tag = "One GPU",
    params(("id" = String, Path, description = "uuid, or host:index"), ClusterParam, TelemetryParams),
    responses((status = 200, content((List<Row> = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"))),
        (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn gpu_telemetry(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Answer {
    let id = segment(id)?;
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = (!accept.is_empty()).then(|| accept.join(","));
    let Some(form) = Form::accepted(accept.as_deref()) else {
        return Err(Problem::not_acceptable("application/json, application/x-ndjson and text/csv are what there is"));
    };
    let request = TelemetryRequest::parse(params(&uri)?, &id, &api.0, now_ms())?;
    let gpu = api.0.gpu(&id, request.cluster.as_deref()).await?;
    if form == Form::Json {
        let (rows, series) = api.0.telemetry_page(&gpu, &request).await?;
        return Ok(typed(Body::from(page(&rows.rows, &series, rows.next.as_deref())), form.media_type()));
    }
    let mut telemetry = api.0.telemetry(&gpu, &request).await?;
    // Before the first byte an error can still be said in its own status.
    let first = telemetry.next().await?;
    let left = request.limit.unwrap_or(usize::MAX);
    let body = ahead(|pieces| write(pieces, telemetry, first, form, left));
    Ok(typed(Body::from_stream(body), form.media_type()))
}

/// The samples that come next, and where they came from.
type Next = BoxFuture<'static, (Telemetry, Result<Option<Vec<Sample>>, QueryError>)>;

/// Piece after piece, `left` rows at most. The store works on the next slice while one is written.
async fn write(pieces: Pieces, telemetry: Telemetry, first: Option<Vec<Sample>>, form: Form, mut left: usize) -> io::Result<()> {
    let mut writer = Writer::new(form, telemetry.series());
    let mut out = Vec::with_capacity(PIECE + 1024);
    if form == Form::Csv {
        out.extend_from_slice(CSV_HEAD.as_bytes());
    }
    let mut next: Next = ready((telemetry, Ok(first))).boxed();
    loop {
        let samples = match next.await {
            (telemetry, Ok(Some(mut samples))) => {
                samples.truncate(left);
                left -= samples.len();
                next = if left > 0 { ask(telemetry).await } else { ready((telemetry, Ok(None))).boxed() };
                samples
            }
            (_, Ok(None)) => break,
            (_, Err(error)) => {
                tracing::warn!(%error, "a download was cut off");
                return Err(io::Error::other(error));
            }
        };
        for sample in &samples {
            writer.row(&mut out, sample);
            if form == Form::Ndjson {
                out.push(b'\n');
            }
            if out.len() >= PIECE && !pieces.give(std::mem::replace(&mut out, Vec::with_capacity(PIECE + 1024))).await {
                return Ok(());
            }
        }
    }
    if !out.is_empty() {
        pieces.give(out).await;
    }
    Ok(())
}

/// Asks for the next samples now: the store works on them while those at hand are written.
async fn ask(mut telemetry: Telemetry) -> Next {
    let mut next = async move {
        let samples = telemetry.next().await;
        (telemetry, samples)
    }
    .boxed();
    match poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await {
        Poll::Ready(done) => ready(done).boxed(),
        Poll::Pending => next,
    }
}
