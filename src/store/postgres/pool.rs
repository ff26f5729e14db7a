//! Connections: a lazy pool, and a session that is thrown away unless it ended well.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use futures_util::FutureExt as _;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, Statement};

use super::connect::Connector;
use super::error::{PostgresError, Result, from_pool, from_postgres};
use super::pooler;
use crate::address::postgres::Endpoint;
use crate::config::Postgres;
use crate::store::StoreError;

/// Parameters of a statement.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A statement whose client has gone ends, where the server's system can notice that (Linux can).
const DETECT_GONE_CLIENTS: &str = "DO $$ BEGIN PERFORM set_config('client_connection_check_interval', '1s', false); \
                               EXCEPTION WHEN OTHERS THEN NULL; END $$";

/// How long an answer is awaited beyond the server's own statement timeout: a frozen server keeps connections alive.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// A connection that was taken longer ago than this is tried before it is taken again: it may be dead without knowing. One that has
/// just been used would cost each question a round trip.
const TRUSTED_IDLE_TIME: Duration = Duration::from_secs(1);

/// A pool of connections to one database.
#[derive(Clone)]
pub(super) struct Connections {
    pool: Pool,
    connector: Connector,
    pub(super) endpoint: Arc<Endpoint>,
    limit: Duration,
    /// Set once it is known that connections have server processes of their own.
    unshared: Arc<OnceLock<()>>,
}

impl Connections {
    /// A pool of at most `size`; nothing is connected yet. `on_new` runs whenever a connection has been made.
    pub(super) fn new(
        connector: &Connector,
        config: &Postgres,
        size: usize,
        on_new: impl Fn() + Send + Sync + 'static,
    ) -> crate::store::Result<Self> {
        let endpoint = connector.endpoint();
        // As statements and not as startup options: connection poolers refuse those. A server that is set to forget commits in a
        // crash would lose what was acknowledged; stricter settings than `on` are left as they are.
        // Statements here are short, and planned for tables that may have no statistics yet: compiling them takes longer than they do.
        let settings = Arc::new(format!(
            "SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {}; SET TIME ZONE 'UTC'; SET jit = off; \
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'; \
             {DETECT_GONE_CLIENTS}",
            config.statement_timeout.as_millis().min(i32::MAX as u128),
            config.idle_transaction_timeout.as_millis().min(i32::MAX as u128)
        ));
        let on_new = Arc::new(on_new);
        let method = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(connector.config(), connector.clone(), method);
        let (made, reused) = (connector.clone(), connector.clone());
        let pool = Pool::builder(manager)
            .max_size(size.max(1))
            .create_timeout(Some(connector.timeout()))
            .recycle_timeout(Some(config.connect_timeout))
            .runtime(Runtime::Tokio1)
            .pre_recycle(Hook::async_fn(|client, metrics| {
                let verify = metrics.last_used() > TRUSTED_IDLE_TIME;
                Box::pin(async move {
                    if verify {
                        client.simple_query("").await.map_err(HookError::Backend)?;
                    }
                    Ok(())
                })
            }))
            .post_create(Hook::async_fn(move |client, _| {
                let (settings, on_new) = (Arc::clone(&settings), Arc::clone(&on_new));
                made.has_worked();
                Box::pin(async move {
                    client.batch_execute(&settings).await.map_err(HookError::Backend)?;
                    on_new();
                    Ok(())
                })
            }))
            .pre_recycle(Hook::sync_fn(move |_, metrics| match reused.stale_before() {
                Some(since) if metrics.created < since => Err(HookError::message("its certificates have been replaced")),
                _ => Ok(()),
            }))
            .build()
            .map_err(|error| StoreError::Refused { endpoint: format!("PostgreSQL at {endpoint}"), reason: error.to_string() })?;
        let limit = config.statement_timeout + GRACE;
        Ok(Self { pool, connector: connector.clone(), endpoint, limit, unshared: Arc::default() })
    }

    /// Shares with another pool to the same server what is known about poolers on the way.
    pub(super) fn sharing_with(mut self, other: &Self) -> Self {
        self.unshared = Arc::clone(&other.unshared);
        self
    }

    /// Ends idle connections that were made with certificates that have been replaced. Others are ended when they come back.
    pub(super) fn renew(&self) {
        if let Some(since) = self.connector.stale_before() {
            let kept = self.pool.retain(|_, metrics| metrics.created >= since);
            if !kept.removed.is_empty() {
                tracing::debug!(
                    connections = kept.removed.len(),
                    "connections to PostgreSQL are renewed: their certificates have been replaced"
                );
            }
        }
    }

    /// A connection for the caller alone.
    pub(super) async fn session(&self) -> Result<Session> {
        self.session_within(self.limit).await
    }

    /// The same, which waits so long at most for those that others have.
    pub(super) async fn session_within(&self, patience: Duration) -> Result<Session> {
        if self.unshared.get().is_none() {
            match pooler::is_between(&self.connector).await {
                Ok(false) => {
                    self.unshared.get_or_init(|| ());
                }
                Ok(true) => {
                    return Err(StoreError::Refused {
                        endpoint: format!("PostgreSQL at {}", self.endpoint),
                        reason: format!("{}; {}", pooler::FOUND, pooler::REMEDY),
                    }
                    .into());
                }
                // What keeps us from connecting is said below.
                Err(error) => tracing::debug!(%error, "looking for a connection pooler"),
            }
        }
        let timeouts = Timeouts { wait: Some(patience), ..self.pool.timeouts() };
        let object = self.pool.timeout_get(&timeouts).await;
        let object = object.map_err(|error| from_pool(&self.endpoint, self.connector.login(), error))?;
        Ok(Session { object: Some(object), endpoint: Arc::clone(&self.endpoint), limit: self.limit })
    }
}

/// A connection in use. Only [`Session::done`] gives it back to the pool: one that is dropped before (an error, a cancelled
/// future) is closed, and the server rolls back what it had begun.
pub(super) struct Session {
    object: Option<Object>,
    pub(super) endpoint: Arc<Endpoint>,
    limit: Duration,
}

impl Session {
    fn client(&self) -> &Object {
        self.object.as_ref().expect("the connection is there until done() or drop takes it")
    }

    /// The session without the time limit of a statement, for migrations.
    pub(super) fn without_time_limit(mut self) -> Self {
        self.limit = Duration::from_secs(24 * 3600);
        self
    }

    /// Gives the connection back, outside of any transaction.
    pub(super) fn done(mut self) {
        drop(self.object.take());
    }

    /// Gives the connection back, and ends the transaction that it is in: whoever has it next comes after that. Where the connection
    /// is broken, it is closed.
    pub(super) fn done_with_transaction(self) {
        // The first poll sends it. Nobody waits for the answer.
        if self.client().batch_execute("COMMIT").now_or_never().is_none_or(|ended| ended.is_ok()) {
            self.done();
        }
    }

    /// Waits for an answer, within limits, and says what an error means.
    pub(super) async fn within<T>(
        &self,
        answer: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.limit, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(from_postgres(&self.endpoint, &error)),
            Err(_) => Err(self.unavailable(format!("no answer within {:?}", self.limit))),
        }
    }

    pub(super) fn unavailable(&self, reason: String) -> PostgresError {
        StoreError::Unavailable { endpoint: format!("PostgreSQL at {}", self.endpoint), reason }.into()
    }

    /// The error for something in the database that this program cannot have written.
    pub(super) fn unexpected(&self, what: &str) -> PostgresError {
        StoreError::Schema(format!("PostgreSQL at {} holds something that this program did not write: {what}. Restore it from a backup, or use another database", self.endpoint)).into()
    }

    /// A statement, prepared once a connection.
    pub(super) async fn prepare(&self, sql: &str) -> Result<Statement> {
        self.within(self.client().prepare_cached(sql)).await
    }

    /// The rows of a statement.
    pub(super) async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>> {
        let statement = self.prepare(sql).await?;
        self.query_prepared(&statement, params).await
    }

    /// The rows of a prepared statement; sent when first polled, so that several can be on their way at once.
    pub(super) async fn query_prepared(&self, statement: &Statement, params: Params<'_>) -> Result<Vec<Row>> {
        self.within(self.client().query(statement, params)).await
    }

    /// The rows of a statement that is made for one time only, with the types of its parameters.
    pub(super) async fn query_unprepared(&self, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>> {
        let params: Vec<(&(dyn ToSql + Sync), Type)> = params.iter().map(|(value, of)| (*value, of.clone())).collect();
        self.within(self.client().query_typed(sql, &params)).await
    }

    /// Runs a statement; how many rows it concerned.
    pub(super) async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64> {
        let statement = self.prepare(sql).await?;
        self.within(self.client().execute(&statement, params)).await
    }

    /// Statements without parameters.
    pub(super) async fn batch(&self, sql: &str) -> Result<()> {
        self.within(self.client().batch_execute(sql)).await
    }

    /// The client itself, for COPY and streams.
    pub(super) fn raw(&self) -> &tokio_postgres::Client {
        self.client()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}
