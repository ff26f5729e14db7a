//! A TCP relay that can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the relay does with bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
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
                if *watched.borrow() == Line::Cut {
                    continue;
                }
                tokio::spawn(relay(inbound, SocketAddr::from(([127, 0, 0, 1], port)), watched.clone(), delays.subscribe()));
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

    /// Holds everything back for this long, in each direction.
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

async fn relay(inbound: TcpStream, to: SocketAddr, line: watch::Receiver<Line>, delay: watch::Receiver<Duration>) {
    let Ok(outbound) = TcpStream::connect(to).await else { return };
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

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut line: watch::Receiver<Line>,
    delay: watch::Receiver<Duration>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let wait = *delay.borrow();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if line.wait_for(|l| *l == Line::Open).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
