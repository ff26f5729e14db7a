//! The queue inside the process, and its limits.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use telemetry::model::Partitions;
use telemetry::transport::memory::{MemoryTransport, Settings};
use telemetry::transport::{Published, Publisher};

use super::{ELSEWHERE, P, Place, Queue, SOURCE, Tune, acknowledge, batch, fill, take};

/// A queue.
pub struct Memory(Arc<MemoryTransport>);

const TWO: Partitions = Partitions::new(2).expect("not 0");

fn settings(partitions: Partitions, tune: Tune, max_bytes: usize) -> Settings {
    Settings {
        partitions,
        max_backlog: tune.max_backlog,
        max_bytes,
        lease_ttl: tune.lease_ttl,
        claim_idle: tune.claim_idle,
        block: Duration::from_millis(200),
        consumer: tune.consumer.to_owned(),
    }
}

impl Memory {
    pub fn new(partitions: u16) -> Self {
        let partitions = Partitions::new(partitions).unwrap();
        Self(MemoryTransport::open(settings(partitions, Tune::default(), 1 << 20), None).unwrap())
    }
}

#[async_trait]
impl Place for Memory {
    async fn open(&self, tune: Tune) -> Arc<dyn Queue> {
        self.0.join(settings(Publisher::partitions(&*self.0), tune, 1 << 20))
    }
}

#[tokio::test]
async fn bytes_are_bounded_and_one_batch_always_may() {
    let size = batch(SOURCE, 0).payload.len();
    let queue = MemoryTransport::open(settings(TWO, Tune::default(), size - 1), None).unwrap();
    fill(&*queue, SOURCE, 0, 10).await;
    assert_eq!(queue.publish(&batch(ELSEWHERE, 0)).await.unwrap(), Published::Full, "all partitions together");
    let got = take(&*queue, P, 1).await;
    assert_eq!(acknowledge(&*queue, &got, &[]).await, 1);
    fill(&*queue, ELSEWHERE, 0, 10).await;
}

#[tokio::test]
async fn who_waits_is_woken_by_what_arrives() {
    let mut patient = settings(TWO, Tune::default(), 1 << 20);
    patient.block = Duration::from_secs(3600);
    let queue = MemoryTransport::open(patient, None).unwrap();
    let waiting = tokio::spawn({
        let queue = Arc::clone(&queue);
        async move { take(&*queue, P, 1).await.len() }
    });
    tokio::task::yield_now().await;
    fill(&*queue, SOURCE, 0, 10).await;
    assert_eq!(waiting.await.unwrap(), 1);
}
