//! A metric is one thing under many names: its samples are stored once, whatever name they come by, and found by each.

use std::collections::BTreeSet;

use telemetry::model::{Gpu, Series, TimeMs};
use telemetry::query::{AggregateRequest, LatestRequest, Limits, Params, Query, TelemetryRequest};

use super::rows::*;

const NAMES: [&str; 4] = ["DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_XID_ERROR", "dcgm_xid_errors", "mine"];

fn named(metric: &str) -> Series {
    let gpu = Gpu { uuid: "GPU-0".into(), hostname: "host".into(), index: Some(0), ..Gpu::default() };
    Series { metric: metric.into(), gpu, ..Series::default() }
}

pub async fn a_metric_is_stored_once_whatever_it_is_called(h: &impl Harness) {
    let [catalogue, newer, older, mine] = NAMES;
    let store = h.open();
    // By one name, then by another one by who knows nothing of it, then by several at once.
    let renamed = Series { metric: newer.into(), ..named(newer) };
    let committed = store.commit(&[batch("a", &[renamed.clone(), named(mine)], 0, 10)]).await.expect("stored");
    assert_eq!(committed.stored.values().sum::<u64>(), 20);
    let committed = h.open().commit(&[batch("b", &[named(catalogue)], 5, 10)]).await.expect("stored");
    assert_eq!((committed.stored.values().sum::<u64>(), committed.duplicate), (5, 5));
    let all = [named(older), renamed, named(catalogue)];
    let committed = h.open().commit(&[batch("c", &all, 0, 20)]).await.expect("stored");
    assert_eq!((committed.stored.values().sum::<u64>(), committed.duplicate, committed.conflict), (5, 55, 0));
    assert_eq!(h.samples().await.values().sum::<usize>(), 30);

    let query = Query::new(h.reader(), None, Limits::default());
    let params = |text: &str| Params::parse(Some(text)).expect("parameters");
    let gpu = query.gpu("GPU-0", None).await.expect("the GPU");
    let range = "start_time=2025-01-15T00:00:00Z&end_time=2025-01-15T01:00:00Z";
    // Whoever asks by a name is answered by it; whoever asks by none, by the catalogue's.
    for (asked, said) in [(catalogue, catalogue), (newer, newer), (older, older), ("", catalogue)] {
        let metric = if asked.is_empty() { String::new() } else { format!("&metric={asked}") };
        let request = TelemetryRequest::parse(params(&format!("{range}{metric}")), "GPU-0", &query, TimeMs::from_millis(DAY));
        let mut telemetry = query.telemetry(&gpu, &request.expect("a request")).await.expect("telemetry");
        let mut samples = 0;
        while let Some(some) = telemetry.next().await.expect("samples") {
            samples += some.len();
        }
        let series: BTreeSet<String> = telemetry.series().iter().map(|series| series.row.metric.clone()).collect();
        let expected: &[&str] = if asked.is_empty() { &[catalogue, mine] } else { &[said] };
        assert_eq!(series.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{asked}");
        assert_eq!(samples, if asked.is_empty() { 30 } else { 20 }, "{asked}");
        let latest = LatestRequest::parse(params(metric.trim_start_matches('&')), &query).expect("a request");
        let latest = query.latest(&latest).await.expect("newest values").rows;
        let found: Vec<(&str, f64)> = latest.iter().map(|row| (row.series.metric.as_str(), row.value)).collect();
        let expected: &[(&str, f64)] = if asked.is_empty() { &[(catalogue, 19.0), (mine, 9.0)] } else { &[(said, 19.0)] };
        assert_eq!(found, expected, "{asked}");
    }
    let request = AggregateRequest::parse(params(&format!("{range}&metric={older}&agg=count")), &query, TimeMs::from_millis(DAY));
    let rows = query.aggregate(&request.expect("a request")).await.expect("groups").rows;
    assert_eq!(rows.len(), 1);
    let listed = query.catalogue().await.expect("a list").rows;
    let stored: Vec<&str> = listed.iter().filter(|entry| entry.stored).map(|entry| entry.name.as_str()).collect();
    assert_eq!(stored, [catalogue, mine]);
}
