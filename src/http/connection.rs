//! What a connection is waiting for, and for how long: slow and silent clients are found out here, whatever version of HTTP they
//! speak. The server looks now and then, and cuts off.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::Version;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a client may take for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// To send a request's head.
    pub(super) head: Duration,
    /// To send the next request.
    pub(super) idle: Duration,
    /// To take more of an answer.
    pub(super) stall: Duration,
    /// Bytes per second that it must take over that time, while an answer waits for it.
    pub(super) min_rate: usize,
}

/// What a connection is at. Shared by its socket, its answers and the server.
#[derive(Debug)]
pub(super) struct Watch(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Requests that are answered at present, until the last byte was handed over.
    busy: usize,
    /// Answers whose next piece waits for the client.
    handed: usize,
    /// The last time a piece of any answer was taken.
    taken: Instant,
    /// Since when a request's head is on its way. HTTP/1 only: HTTP/2 has other traffic.
    head: Option<Instant>,
    /// Since when nothing was asked for.
    idle: Instant,
    /// Since when the socket takes nothing.
    blocked: Option<Instant>,
    /// Bytes that were written.
    written: u64,
    /// Since when answers have waited for the client at every check, and what had been written then.
    waiting: Option<(Instant, u64)>,
    http2: bool,
}

impl Watch {
    /// A fresh connection: its first request is to come soon.
    pub(super) fn new() -> Arc<Self> {
        let now = Instant::now();
        let head = Some(now);
        Arc::new(Self(Mutex::new(State {
            busy: 0,
            handed: 0,
            taken: now,
            head,
            idle: now,
            blocked: None,
            written: 0,
            waiting: None,
            http2: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's head is here. It is being answered until what is returned is dropped.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> Busy {
        let mut state = self.state();
        state.busy += 1;
        state.head = None;
        state.http2 |= version == Version::HTTP_2;
        drop(state);
        Busy { watch: Arc::clone(self), handed: false }
    }

    /// Whether nothing is being answered.
    pub(super) fn is_idle(&self) -> bool {
        self.state().busy == 0
    }

    /// Why the connection is to be cut off, if it is.
    pub(super) fn overdue(&self, patience: &Patience, now: Instant) -> Option<&'static str> {
        let mut state = self.state();
        let over = |since: Instant, limit: Duration| now.saturating_duration_since(since) > limit;
        if state.head.is_some_and(|since| over(since, patience.head)) {
            return Some("its request did not arrive in time");
        }
        if state.blocked.is_some_and(|since| over(since, patience.stall)) || state.handed > 0 && over(state.taken, patience.stall)
        {
            return Some("it does not take its answer");
        }
        if state.is_slow(patience, now) {
            return Some("it takes its answer too slowly");
        }
        (state.busy == 0 && state.head.is_none() && over(state.idle, patience.idle)).then_some("it asks for nothing")
    }

    fn read(&self) {
        let mut state = self.state();
        if state.busy == 0 && !state.http2 {
            state.head.get_or_insert_with(Instant::now);
        }
    }

    fn written(&self, bytes: usize, pending: bool) {
        let mut state = self.state();
        state.written += bytes as u64;
        match (pending, state.blocked) {
            (true, None) => state.blocked = Some(Instant::now()),
            (false, Some(_)) => state.blocked = None,
            _ => {}
        }
    }
}

impl State {
    /// Whether the client has taken less than it must for as long as it may take nothing. Only time in which it was the client's turn
    /// counts: a server that has nothing to send is not waited for.
    fn is_slow(&mut self, patience: &Patience, now: Instant) -> bool {
        if self.blocked.is_none() && self.handed == 0 {
            self.waiting = None;
            return false;
        }
        let (since, written) = *self.waiting.get_or_insert((now, self.written));
        let elapsed = now.saturating_duration_since(since);
        if elapsed < patience.stall {
            return false;
        }
        let slow = ((self.written - written) as f64) < patience.min_rate as f64 * elapsed.as_secs_f64();
        self.waiting = Some((now, self.written));
        slow
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Busy {
    watch: Arc<Watch>,
    handed: bool,
}

impl Busy {
    /// Whether the next piece waits for the client (`true`), or for us.
    fn hand(&mut self, handed: bool) {
        if handed == self.handed && !handed {
            return;
        }
        let mut state = self.watch.state();
        match (self.handed, handed) {
            (false, true) => state.handed += 1,
            (true, false) => state.handed -= 1,
            _ => {}
        }
        state.taken = Instant::now();
        self.handed = handed;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.hand(false);
        let mut state = self.watch.state();
        state.busy -= 1;
        state.idle = Instant::now();
    }
}

/// An answer's body that tells whose turn it is.
pub(super) struct Tracked {
    inner: Body,
    busy: Busy,
}

impl Tracked {
    pub(super) fn new(inner: Body, busy: Busy) -> Self {
        Self { inner, busy }
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.busy.hand(false);
        let frame = ready!(Pin::new(&mut self.inner.frame()).poll(cx));
        self.busy.hand(frame.is_some());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A socket that tells what comes and whether it takes what is sent.
#[derive(Debug)]
pub(super) struct Watched<I> {
    inner: I,
    watch: Arc<Watch>,
}

impl<I> Watched<I> {
    pub(super) fn new(inner: I, watch: Arc<Watch>) -> Self {
        Self { inner, watch }
    }

    fn wrote(&self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let bytes = if let Poll::Ready(Ok(bytes)) = &poll { *bytes } else { 0 };
        self.watch.written(bytes, poll.is_pending());
        poll
    }

    fn flushed(&self, poll: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        self.watch.written(0, poll.is_pending());
        poll
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.watch.read();
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(poll)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(cx);
        self.flushed(poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.flushed(poll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { head: Duration::from_secs(5), idle: Duration::from_secs(75), stall: Duration::from_secs(30), min_rate: 4096 };

    fn after(watch: &Watch, seconds: u64) -> Option<&'static str> {
        watch.overdue(&PATIENCE, Instant::now() + Duration::from_secs(seconds))
    }

    #[test]
    fn a_request_must_come_soon_and_the_next_one_later() {
        let watch = Watch::new();
        assert_eq!((after(&watch, 4), after(&watch, 6)), (None, Some("its request did not arrive in time")));
        drop(watch.begin(Version::HTTP_11));
        assert_eq!((after(&watch, 74), after(&watch, 76)), (None, Some("it asks for nothing")));
        watch.read();
        assert_eq!(after(&watch, 6), Some("its request did not arrive in time"));
        let busy = watch.begin(Version::HTTP_11);
        watch.read();
        assert_eq!((after(&watch, 1000), watch.is_idle()), (None, false), "we are slow, not the client");
        drop(busy);
        drop(watch.begin(Version::HTTP_2));
        watch.read();
        assert_eq!((after(&watch, 6), watch.is_idle()), (None, true), "HTTP/2 pings");
    }

    #[test]
    fn who_takes_nothing_is_cut_off() {
        let watch = Watch::new();
        let (mut one, mut two) = (watch.begin(Version::HTTP_2), watch.begin(Version::HTTP_2));
        one.hand(true);
        assert_eq!((after(&watch, 29), after(&watch, 31)), (None, Some("it does not take its answer")));
        one.hand(false);
        assert_eq!(after(&watch, 31), None, "it took the piece, we owe the next");
        two.hand(true);
        drop((one, two));
        assert_eq!(after(&watch, 31), None);
        watch.written(0, true);
        assert_eq!(after(&watch, 31), Some("it does not take its answer"));
        watch.written(0, false);
        assert_eq!(after(&watch, 31), None);
    }

    #[test]
    fn who_drips_is_cut_off_and_who_waits_for_us_is_not() {
        let check = |rate: usize, our_turn: bool| {
            let (watch, begun) = (Watch::new(), Instant::now());
            let mut busy = watch.begin(Version::HTTP_11);
            (0..240).find_map(|half| {
                busy.hand(true);
                watch.written(rate / 2, !our_turn);
                busy.hand(!our_turn);
                // The piece before was just taken, whatever the clock of this test says.
                watch.state().taken = begun + Duration::from_millis(500 * half);
                watch.state().blocked = (!our_turn).then_some(begun + Duration::from_millis(500 * half));
                watch.overdue(&PATIENCE, begun + Duration::from_millis(500 * half))
            })
        };
        assert_eq!(check(512, false), Some("it takes its answer too slowly"));
        assert_eq!(check(5000, false), None);
        assert_eq!(check(512, true), None, "we are slow, not the client");
    }
}
