//! `telemetry top`: the state of the pipeline, live in a terminal or once as text.
//!
//! | file | what |
//! |---|---|
//! | `queue`, `store` | read the state of Redis and of PostgreSQL, each at its own pace, and compute rates |
//! | `lists` | the state as lists of cells; pure |
//! | `keys` | which list is shown, how it is sorted, how far it is scrolled; pure |
//! | `draw`, `text` | the lists on a screen, and as text |
//! | `screen` | takes the terminal, and restores it however the process ends |
//!
//! The load is bounded: each update runs a few commands per partition and reads one page of its sources, and queries take at most a
//! tenth of the store's time.

mod draw;
mod keys;
mod lists;
mod queue;
mod screen;
mod store;
mod text;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;

use self::keys::{Action, Keys};
use self::lists::View;
use self::queue::QueueLooker;
use self::screen::Screen;
use self::store::StoreLooker;
use crate::cli;
use crate::config::Config;
use crate::runtime::{Exit, Lifecycle};
use crate::store::postgres::PostgresStore;
use crate::transport::redis::RedisTransport;

/// The screen is drawn at least this often, because ages grow between updates.
const REDRAW_INTERVAL: Duration = Duration::from_millis(500);

/// The state of a connection.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Connection {
    /// How long the last answer took, or why there was none; `None` before the first attempt.
    state: Option<Result<Duration, String>>,
    /// Since when the connection is up, or down.
    since: Instant,
}

impl Connection {
    fn new(now: Instant) -> Self {
        Self { state: None, since: now }
    }

    fn note(&mut self, answer: Result<Duration, String>, now: Instant) {
        if self.state.as_ref().is_none_or(|state| state.is_ok() != answer.is_ok()) {
            self.since = now;
        }
        self.state = Some(answer);
    }
}

/// Runs the command. `Exit::Failed` where it prints once and Redis does not answer.
pub async fn run(config: Arc<Config>, lifecycle: Lifecycle, what: cli::Top) -> anyhow::Result<Exit> {
    let redis = config.redis()?;
    let queue = match RedisTransport::connect(&redis).await {
        Ok(queue) => queue,
        // A Redis that is away is tried again as long as the command runs.
        Err(error) if error.is_transient() => RedisTransport::new(&redis)?,
        Err(error) => return Err(error.into()),
    };
    // An edge has no database.
    let store = match config.postgres.url {
        Some(_) => Some(StoreLooker::new(PostgresStore::connect(&super::postgres(&config)?)?)),
        None => None,
    };
    let queue = QueueLooker::new(queue);
    if what.once || !std::io::stdout().is_terminal() {
        return once(queue, store, what.interval).await;
    }
    live(lifecycle, queue, store, what.interval).await
}

/// Reads the state twice, since a rate needs two points, and prints it.
async fn once(mut queue: QueueLooker, mut store: Option<StoreLooker>, interval: Duration) -> anyhow::Result<Exit> {
    let look = async |queue: &mut QueueLooker, store: &mut Option<StoreLooker>| {
        let of_store = async {
            if let Some(store) = store {
                store.look().await;
            }
        };
        tokio::join!(queue.look_whole(), of_store);
    };
    look(&mut queue, &mut store).await;
    tokio::time::sleep(interval).await;
    look(&mut queue, &mut store).await;
    let (queue, store) = (queue.seen(), store.map(|store| store.seen()));
    let answers = queue.answers();
    let view = View::new(queue, store, interval);
    super::print(&text::render(&view, Instant::now()))?;
    Ok(if answers { Exit::Done } else { Exit::Failed })
}

/// Shows the state on the screen until the user quits.
async fn live(
    lifecycle: Lifecycle,
    mut queue: QueueLooker,
    store: Option<StoreLooker>,
    interval: Duration,
) -> anyhow::Result<Exit> {
    let paused = watch::Sender::new(false);
    let (tell_queue, mut queue_seen) = watch::channel(queue.seen());
    let (tell_store, mut store_seen) = watch::channel(store.as_ref().map(StoreLooker::seen));
    let pause = move |took: Duration| interval.saturating_sub(took).max(interval / 2);
    let look = async move || {
        queue.look().await;
        tell_queue.send_replace(queue.seen());
    };
    lifecycle.spawn("queue looker", keep_looking(lifecycle.clone(), paused.subscribe(), look, pause));
    if let Some(mut store) = store {
        let pause = move |took: Duration| interval.max(took * 9);
        let look = async move || {
            store.look().await;
            tell_store.send_replace(Some(store.seen()));
        };
        lifecycle.spawn("store looker", keep_looking(lifecycle.clone(), paused.subscribe(), look, pause));
    }

    let mut screen = Screen::take(&lifecycle).context("the terminal cannot be used; --once prints it as text")?;
    let mut pressed = screen.keys();
    let mut keys = Keys::default();
    let draining = lifecycle.draining();
    loop {
        let view = View::new(queue_seen.borrow_and_update().clone(), store_seen.borrow_and_update().clone(), interval);
        let log_line = screen.last_line();
        screen.draw(|frame| draw::draw(frame, &view, &mut keys, log_line.as_deref(), Instant::now()))?;
        tokio::select! {
            biased;
            () = draining.cancelled() => break,
            key = pressed.recv() => match key {
                // The terminal is gone.
                None => break,
                Some(event) => match keys.press(&event) {
                    Action::Quit => break,
                    Action::Draw => { paused.send_replace(keys.is_paused()); }
                },
            },
            // If a task ends, the lifecycle reports it; the last state stays on the screen.
            Ok(()) = queue_seen.changed() => {}
            Ok(()) = store_seen.changed() => {}
            () = tokio::time::sleep(REDRAW_INTERVAL) => {}
        }
    }
    Ok(Exit::Done)
}

/// Reads the state repeatedly; `pause` returns the pause after a read that took a given time.
async fn keep_looking(
    lifecycle: Lifecycle,
    paused: watch::Receiver<bool>,
    mut look: impl AsyncFnMut(),
    pause: impl Fn(Duration) -> Duration,
) -> anyhow::Result<()> {
    loop {
        let begun = Instant::now();
        look().await;
        if !rest(&lifecycle, paused.clone(), pause(begun.elapsed())).await {
            return Ok(());
        }
    }
}

/// Waits for `time`, and while the updates are paused; `false` when the process is told to end.
async fn rest(lifecycle: &Lifecycle, mut paused: watch::Receiver<bool>, time: Duration) -> bool {
    let waited = async {
        tokio::time::sleep(time).await;
        // The sender is dropped only when the process ends.
        let _ = paused.wait_for(|paused| !paused).await;
    };
    tokio::select! {
        () = waited => true,
        () = lifecycle.draining().cancelled_owned() => false,
    }
}
