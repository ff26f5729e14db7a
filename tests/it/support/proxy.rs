//! A TCP relay that can be cut, fall silent, and be long.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Pieces that may be on their way through a long line, 64 KiB each at most: more than any line here holds at once.
const UNDERWAY: usize = 4096;

/// What the relay does with bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// Passes them on.
    Open,
    /// Closes connections, and refuses new ones.
    Cut,
    /// Keeps connections and says nothing.
    Silent,
}

/// A relay to a server on this machine.
pub struct Proxy {
    port: u16,
    line: watch::Sender<Line>,
    delay: Arc<watch::Sender<Duration>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port and relays to this one.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (line, watched) = watch::channel(Line::Open);
        let delay = Arc::new(watch::channel(Duration::ZERO).0);
        let delays = delay.clone();
        let task = tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                if *watched.borrow() != Line::Cut {
                    tokio::spawn(relay(inbound, port, watched.clone(), delays.subscribe()));
                }
            }
        });
        Self { port: own, line, delay, task }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes every connection and every new one.
    pub fn cut(&self) {
        self.line.send_replace(Line::Cut);
    }

    /// Says nothing any more, without closing anything: a dead path.
    pub fn silence(&self) {
        self.line.send_replace(Line::Silent);
    }

    /// Relays again.
    pub fn mend(&self) {
        self.line.send_replace(Line::Open);
    }

    /// Every byte takes this long, in each direction, however many there are.
    pub fn delay(&self, delay: Duration) {
        self.delay.send_replace(delay);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

/// Relays a connection to a port of this machine until either side ends it, or the line is cut.
pub async fn relay(inbound: TcpStream, to: u16, line: watch::Receiver<Line>, delay: watch::Receiver<Duration>) {
    let Ok(outbound) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], to))).await else { return };
    let _ = (inbound.set_nodelay(true), outbound.set_nodelay(true));
    let (in_read, in_write) = inbound.into_split();
    let (out_read, out_write) = outbound.into_split();
    let mut cut = line.clone();
    tokio::select! {
        () = pump(in_read, out_write, line.clone(), delay.clone()) => {}
        () = pump(out_read, in_write, line, delay) => {}
        _ = cut.wait_for(|l| *l == Line::Cut) => {}
    }
}

/// One direction. What was read waits for its time in order, while more is read: a long line is not a slow one.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    line: watch::Receiver<Line>,
    delay: watch::Receiver<Duration>,
) {
    let (sender, mut underway) = mpsc::channel::<(Instant, Vec<u8>)>(UNDERWAY);
    let mut open = line.clone();
    let read = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + *delay.borrow();
            // A dead path takes no more than what was on its way.
            let closed = open.wait_for(|l| *l == Line::Open).await.is_err();
            if closed || sender.send((due, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let mut open = line;
    let write = async move {
        while let Some((due, bytes)) = underway.recv().await {
            tokio::time::sleep_until(due).await;
            if open.wait_for(|l| *l == Line::Open).await.is_err() || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    // When the sender has ended, what is on its way still arrives, and writing ends by itself.
    tokio::select! {
        () = write => {}
        () = read.then(|()| std::future::pending()) => {}
    }
}
