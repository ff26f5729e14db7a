//! Work ahead of a client: what comes next is fetched on one core while what is there is sent on another.

use std::future::Future;
use std::io;

use futures_util::stream::{self, Stream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Finished parts that may wait for the client.
const AHEAD: usize = 1;

/// The sending half of work that runs ahead of the client.
pub(super) struct AheadSender<T>(mpsc::Sender<io::Result<Option<T>>>);

impl<T> AheadSender<T> {
    /// Hands a thing over; waits while enough of them wait. `false`: nobody takes them any more.
    pub(super) async fn give(&self, thing: T) -> bool {
        self.0.send(Ok(Some(thing))).await.is_ok()
    }
}

/// What `make` hands over, in order. It ends with its answer: when what is returned is dropped, it is not polled again. An error, and
/// an end that was not reached (a panic), break the answer off, so that nobody takes a part for the whole.
pub(super) fn ahead<T, F>(make: impl FnOnce(AheadSender<T>) -> F) -> impl Stream<Item = io::Result<T>> + Send + 'static
where
    T: Send + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(AHEAD);
    let made = make(AheadSender(sender.clone()));
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let end = made.await.map(|()| None);
        // Nobody waits for it: then nobody misses it.
        let _ = sender.send(end).await;
    }));
    stream::try_unfold((receiver, task), |(mut receiver, task)| async move {
        match receiver.recv().await {
            Some(Ok(Some(thing))) => Ok(Some((thing, (receiver, task)))),
            Some(Ok(None)) => Ok(None),
            Some(Err(error)) => Err(error),
            None => Err(io::Error::other("the answer was not made to its end")),
        }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    #[tokio::test]
    async fn things_come_in_order_and_the_end_is_the_end() {
        let all = ahead(|made| async move {
            for n in 0..10 {
                assert!(made.give(n).await);
            }
            Ok(())
        });
        let all: Vec<u8> = all.try_collect().await.unwrap();
        assert_eq!(all, (0..10).collect::<Vec<u8>>());
    }

    #[tokio::test]
    async fn what_breaks_off_is_no_end() {
        let failed = ahead(|made| async move {
            made.give(1).await;
            Err(io::Error::other("away"))
        });
        assert_eq!(failed.try_collect::<Vec<u8>>().await.unwrap_err().to_string(), "away");
        let panicked = ahead(|_: AheadSender<u8>| async { panic!("boom") });
        assert!(panicked.try_collect::<Vec<u8>>().await.is_err());
    }

    #[tokio::test]
    async fn it_ends_with_its_answer() {
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let endless = ahead(|made| async move {
            let _alive = alive;
            while made.give(0).await {}
            Ok(())
        });
        drop(endless);
        assert!(gone.await.is_err());
    }
}
