//! Work ahead of a client: an answer is made on one core while its beginning is sent on another.

use std::future::Future;
use std::io;

use axum::body::Bytes;
use futures_util::stream::{self, Stream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Pieces that wait for the client.
const AHEAD: usize = 3;

/// Where an answer's pieces go.
pub(super) struct Pieces(mpsc::Sender<io::Result<Option<Bytes>>>);

impl Pieces {
    /// Hands a piece over; waits while enough of them wait. `false`: nobody takes them any more.
    pub(super) async fn give(&self, piece: Vec<u8>) -> bool {
        self.0.send(Ok(Some(Bytes::from(piece)))).await.is_ok()
    }
}

/// What `make` hands over, in order. It ends with its answer: when what is returned is dropped, it is not polled again. An error, and
/// an end that was not reached (a panic), break the answer off, so that nobody takes a part for the whole.
pub(super) fn ahead<F>(make: impl FnOnce(Pieces) -> F) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(AHEAD);
    let made = make(Pieces(sender.clone()));
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let end = made.await.map(|()| None);
        // Nobody waits for it: then nobody misses it.
        let _ = sender.send(end).await;
    }));
    stream::try_unfold((receiver, task), |(mut receiver, task)| async move {
        match receiver.recv().await {
            Some(Ok(Some(piece))) => Ok(Some((piece, (receiver, task)))),
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
    async fn pieces_come_in_order_and_the_end_is_the_end() {
        let all = ahead(|pieces| async move {
            for n in 0..10u8 {
                assert!(pieces.give(vec![n]).await);
            }
            Ok(())
        });
        let all: Vec<Bytes> = all.try_collect().await.unwrap();
        assert_eq!(all.concat(), (0..10).collect::<Vec<u8>>());
    }

    #[tokio::test]
    async fn what_breaks_off_is_no_end() {
        let failed = ahead(|pieces| async move {
            pieces.give(vec![1]).await;
            Err(io::Error::other("away"))
        });
        assert_eq!(failed.try_collect::<Vec<Bytes>>().await.unwrap_err().to_string(), "away");
        let panicked = ahead(|_| async { panic!("boom") });
        assert!(panicked.try_collect::<Vec<Bytes>>().await.is_err());
    }

    #[tokio::test]
    async fn it_ends_with_its_answer() {
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        let endless = ahead(|pieces| async move {
            let _alive = alive;
            while pieces.give(vec![0]).await {}
            Ok(())
        });
        drop(endless);
        assert!(gone.await.is_err());
    }
}
