//! Entries with large payloads that were delivered before: they come without them, and each is fetched by itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use telemetry::model::RowRange;
use telemetry::transport::redis::RedisTransport;
use telemetry::transport::{Consumer, Delivery, MAX_ENTRY_BYTES, MAX_REDELIVERED_BYTES, Outgoing, Published, Publisher};

use super::redis::open;
use super::{P, SOURCE, acknowledge, at, backlog, batch, fill, firsts, take};
use crate::support::redis::{RedisServer, config};

const STREAM: &str = "{t:0}:stream";

/// A batch of so many bytes.
fn large(first: u64, bytes: usize) -> Outgoing {
    Outgoing { payload: Bytes::from(vec![b'x'; bytes]), ..batch(SOURCE, first) }
}

async fn open_as(server: &RedisServer, consumer: &str, claim_idle: Duration) -> Arc<RedisTransport> {
    let config = telemetry::config::Redis { consumer: consumer.to_owned(), claim_idle, ..config(&server.url()) };
    RedisTransport::connect(&config).await.unwrap()
}

/// The lengths of payloads that are there and of those that are not.
fn lengths(deliveries: &[Delivery]) -> Vec<(usize, Option<u64>)> {
    deliveries.iter().map(|delivery| (delivery.payload.len(), delivery.withheld)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_payloads_of_entries_that_were_delivered_before_are_fetched_by_themselves() {
    const LARGE: usize = MAX_REDELIVERED_BYTES + 1;
    let server = RedisServer::start();
    let q = open(&server).await;
    for (first, bytes) in [(0, LARGE), (10, LARGE - 1), (20, MAX_ENTRY_BYTES), (30, LARGE), (40, LARGE)] {
        assert_eq!(q.publish(&large(first, bytes)).await.unwrap(), Published::Accepted);
    }
    let new = take(&*q, P, 5).await;
    let whole = [(LARGE, None), (LARGE - 1, None), (MAX_ENTRY_BYTES, None), (LARGE, None), (LARGE, None)];
    assert_eq!(lengths(&new), whole, "new ones are whole");

    // Another process of the same consumer.
    let again = open(&server).await;
    let got = take(&*again, P, 5).await;
    let withheld = [
        (0, Some(LARGE as u64)),
        (LARGE - 1, None),
        (0, Some(MAX_ENTRY_BYTES as u64)),
        (0, Some(LARGE as u64)),
        (0, Some(LARGE as u64)),
    ];
    assert_eq!(lengths(&got), withheld);
    assert_eq!((firsts(&got), got[0].rows), (vec![0, 10, 20, 30, 40], RowRange { first: 0, end: 10 }));
    for (delivery, (bytes, _)) in got.iter().zip(whole) {
        assert!(delivery.redelivered && delivery.oversize.is_none());
        let payload = again.payload(delivery).await.unwrap().expect("it is there");
        assert!(payload.len() == bytes && payload.iter().all(|byte| *byte == b'x'));
    }

    // One that another consumer has claimed is that one's.
    let claims = open_as(&server, "claims", Duration::from_millis(200)).await;
    let claimed = take(&*claims, P, 5).await;
    assert_eq!(lengths(&claimed), withheld);
    assert_eq!(again.payload(&got[0]).await.unwrap(), None);
    assert_eq!(claims.payload(&claimed[0]).await.unwrap().map(|payload| payload.len()), Some(LARGE));
    // One that was deleted goes from what is pending, too.
    server.ok(&["XDEL", STREAM, &claimed[0].receipt.entry]);
    assert_eq!(claims.payload(&claimed[0]).await.unwrap(), None);
    assert!(claims.receive(P, 5).await.unwrap().is_empty());
    assert_eq!(backlog(&*claims).await.pending, 4);
    // A receipt of a queue that is no more fetches nothing of the next.
    server.ok(&["DEL", STREAM]);
    assert_eq!(claims.payload(&claimed[3]).await.unwrap(), None);
    fill(&*claims, SOURCE, 50, 60).await;
    assert_eq!(firsts(&take(&*claims, P, 1).await), [50]);
    assert_eq!(claims.payload(&claimed[3]).await.unwrap(), None);
    assert_eq!(claims.position(SOURCE).await.unwrap(), at(60));
    assert_eq!(acknowledge(&*claims, &claimed, &[]).await, 0);
}
