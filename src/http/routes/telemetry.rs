//! One GPU's samples: a page of JSON, or all of them as NDJSON or CSV.

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, Uri};
use bytes::BytesMut;
use futures_util::TryStreamExt as _;
use futures_util::stream::{self, Stream};

use super::{Answer, Api, held, params, segment, typed};
use crate::http::ahead::{AheadSender, ahead};
use crate::http::dto::{List, Row};
use crate::http::problem::{Problem, ProblemBody};
use crate::http::rows::{CSV_HEAD, Form, Writer, page};
use crate::model::TimeMs;
use crate::query::{ClusterParam, Samples, Telemetry, TelemetryParams, TelemetryRequest};

/// Bytes after which a piece of a download is sent.
const PIECE: usize = 128 << 10;
/// What a piece may be longer by: most rows are shorter.
const ROOM: usize = 1 << 10;
/// A client that takes longer has no connection to the store kept for it meanwhile: many such ones would hold all there are.
const PATIENCE: Duration = Duration::from_millis(100);

/// A GPU's samples by time. Accept: application/json (a page), application/x-ndjson or text/csv (all of them, unless limited).
#[utoipa::path(get, path = "/api/v1/gpus/{id}/telemetry", tag = "One GPU",
    params(("id" = String, Path, description = "uuid, or host:index"), ClusterParam, TelemetryParams),
    responses((status = 200, content((List<Row> = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"))),
        (status = "default", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn gpu_telemetry(api: Api, id: Result<Path<String>, PathRejection>, uri: Uri, headers: HeaderMap) -> Answer {
    let id = segment(id)?;
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = (!accept.is_empty()).then(|| accept.join(","));
    let Some(form) = Form::accepted(accept.as_deref()) else {
        return Err(Problem::not_acceptable("application/json, application/x-ndjson and text/csv are what there is"));
    };
    let request = TelemetryRequest::parse(params(&uri)?, &id, &api.0, TimeMs::now())?;
    let gpu = api.0.gpu(&id, request.cluster.as_deref()).await?;
    if form == Form::Json {
        let (rows, series) = api.0.telemetry_page(&gpu, &request).await?;
        let text = page(&rows.rows, &series, rows.next.as_deref());
        let room = api.0.room_for(text.len()).await?;
        return Ok(typed(Body::from(held(text, room)), form.media_type()));
    }
    let mut telemetry = api.0.telemetry(&gpu, &request).await?;
    // Before the first byte an error can still be said in its own status.
    let first = telemetry.next().await?;
    let writer = Writer::new(form, telemetry.series());
    let head = if form == Form::Csv { CSV_HEAD } else { "" };
    let left = request.limit.unwrap_or(usize::MAX);
    let samples = ahead(|made| read(made, telemetry, first, left));
    Ok(typed(Body::from_stream(pieces(samples, writer, head)), form.media_type()))
}

/// Reads on, `left` rows at most: the store works on what comes next while what is there is written.
async fn read(made: AheadSender<Samples>, mut telemetry: Telemetry, first: Option<Samples>, mut left: usize) -> io::Result<()> {
    let mut next = first;
    while let Some(mut samples) = next {
        samples.truncate(left);
        left -= samples.len();
        let mut giving = pin!(made.give(samples));
        let taken = match tokio::time::timeout(PATIENCE, &mut giving).await {
            Ok(taken) => taken,
            Err(_) => {
                telemetry.pause();
                giving.await
            }
        };
        if !taken || left == 0 {
            break;
        }
        next = telemetry.next().await.map_err(|error| {
            tracing::warn!(%error, "a download was cut off");
            io::Error::other(error)
        })?;
    }
    Ok(())
}

/// Samples as text, after `head`. A piece is made when the client has taken the one before, and where that was, if it can be: in memory
/// that is at hand.
fn pieces(
    samples: impl Stream<Item = io::Result<Samples>> + Send,
    writer: Writer,
    head: &str,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let mut out = BytesMut::with_capacity(PIECE + ROOM);
    out.extend_from_slice(head.as_bytes());
    let state = (Box::pin(samples), writer, out, None::<Samples>);
    stream::try_unfold(state, move |(mut samples, mut writer, mut out, mut rows)| async move {
        // Nearly always this finds the piece before gone, and takes its place.
        out.reserve(PIECE + ROOM);
        while out.len() < PIECE {
            match rows.as_mut().and_then(Iterator::next) {
                Some(sample) => writer.row(&mut out, &sample),
                None => match samples.try_next().await? {
                    Some(more) => rows = Some(more),
                    None if out.is_empty() => return Ok(None),
                    None => break,
                },
            }
        }
        let piece = out.split().freeze();
        Ok(Some((piece, (samples, writer, out, rows))))
    })
}
