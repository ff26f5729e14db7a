//! The store in PostgreSQL (14 or later, no extension). Only this room connects with the PostgreSQL client; `address/postgres` uses its
//! parser of URLs.
//!
//! | file | what |
//! |---|---|
//! | `tls`, `connect` | modes as libpq has them; how a connection is made, with the newest certificates and password |
//! | `pool`, `pooler` | connections, timeouts, sessions that are thrown away unless they end well; poolers that cannot be used |
//! | `error` | what an SQLSTATE means: wait, ask a person, or the batch's fault |
//! | `migrate`, `migrations/`, `indexes` | the schema, and how it changes under programs that use it |
//! | `series`, `sets`, `partitions` | made outside of the commit: ids of series and GPUs, a partition a day |
//! | `chunk` | a chunk as a row of `sample_chunk`, there and back |
//! | `copy` | rows sent by binary COPY |
//! | `commit`, `overlap`, `overlap_slab`, `overlap_packed`, `marks` | the transaction: fast path, slow path; what may be stored already, and what is |
//! | `blocks` | the state of GPUs, in blocks of 16: their times, and what is locked |
//! | `slab` | slabs (the short runs of a commit, by block of GPUs), there and back |
//! | `packed` | packed rows, there and back |
//! | `live` | sets of series, blocks of GPUs and slabs: announced before the first of them is written |
//! | `maintain` | chunks of closed hours and days become packed rows |
//! | `read`, `snapshot`, `newest`, `newest_slab` | what readers ask: lists; samples as of one moment, and the newest |
//! | `standby` | servers that follow another one, and end what is read from them |
//! | `diagnose` | what `telemetry check` looks at |
//! | `ledger`, `dead` | sources and what they cover, dead letters |
//!
//! Locks, in this order, by everybody: sources by id, then (not held together with each other) dead letters, then blocks of GPUs
//! by id.
//! Advisory locks (`telemetry migrate`, `telemetry partitions`) are taken by transactions that take none of these. `telemetry maintenance` is
//! held by a session, and never waited for by one that holds any of these.

mod blocks;
mod chunk;
mod commit;
mod connect;
mod copy;
mod dead;
mod diagnose;
mod error;
mod indexes;
mod ledger;
mod live;
mod maintain;
mod marks;
mod migrate;
mod newest;
mod newest_slab;
mod overlap;
mod overlap_packed;
mod overlap_slab;
mod packed;
mod partitions;
mod pool;
mod pooler;
mod read;
mod rights;
mod rollup;
mod series;
mod sets;
mod slab;
mod snapshot;
mod standby;
mod tls;
mod types;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_postgres::Row;

use self::connect::Connector;
pub use self::diagnose::{Use, diagnose};
use self::marks::Marks;
use self::pool::{Connections, Session};
use self::series::Caches;
use super::maintenance::{FormSize, Maintenance, Verified};
use super::{
    Buried, Committed, ConflictSpan, DeadLetter, Incoming, Result, SourceLedger, Standing, Store, StoreError, StoreKind,
};
use crate::address::postgres::Endpoint;
use crate::config::Postgres;
use crate::model::{SourceId, TimeMs};

/// Selects the store's id, where it is, and its floor. A schema that was not migrated yet has no column `floor`: the name is then that of
/// `none`.
const SELECT_STORE: &str = "SELECT s.id::text, pg_postmaster_start_time()::text, d.oid, (SELECT floor FROM store f WHERE f.one) \
     FROM store s, pg_database d, (SELECT NULL::timestamptz AS floor) AS none WHERE d.datname = current_database()";

/// Checks a configuration without reaching the server: the URL, what it and the keys say of TLS, and the files they name.
///
/// # Errors
///
/// What is wrong, in words, without secrets.
pub fn validate(config: &Postgres) -> std::result::Result<(), String> {
    Connector::new(config).map(|_| ())
}

/// The store in PostgreSQL. Cheap to share behind an `Arc`; connections are made when they are needed.
pub struct PostgresStore {
    connector: Connector,
    connections: Connections,
    /// One more connection: whether the server answers can be asked while the others are busy.
    ping_connection: Connections,
    /// The forms of rows that the schema is known to have.
    forms: OnceLock<Forms>,
    /// The connections that downloads may hold.
    downloads: Arc<Semaphore>,
    caches: Arc<Caches>,
    marks: Marks,
    /// The store's id when it was first seen.
    id: OnceLock<String>,
    /// Where the store was when it was last asked for its id.
    place: Mutex<Option<StorePlace>>,
}

/// The forms of rows beside chunks that a schema has: one that is not migrated yet lacks some. With slabs it has blocks of GPUs.
#[derive(Clone, Copy, Debug, Default)]
struct Forms {
    packed: bool,
    slabs: bool,
    rollups: bool,
}

/// The server process and the database that a store is in. Where one of them is another one now, the database may be an older state of itself: it was
/// restored from a backup, or a standby took over that lacked commits. New connections alone do not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StorePlace {
    server_started: String,
    database: u32,
}

/// The store that a session talks to.
struct FoundStore {
    id: String,
    place: StorePlace,
    /// Samples before this are expired.
    floor: Option<TimeMs>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("endpoint", &self.connections.endpoint.to_string()).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// A store; nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`]: what [`validate`] says.
    pub fn connect(config: &Postgres) -> Result<Self> {
        let connector = Connector::new(config)
            .map_err(|reason| StoreError::Refused { endpoint: "PostgreSQL at the configured address".to_owned(), reason })?;
        if let Some(warning) = connector.warning() {
            tracing::warn!("PostgreSQL at {}: {warning}", connector.endpoint());
        }
        let caches = Arc::new(Caches::new(config.series_cache));
        let on_new = Arc::clone(&caches);
        let connections = Connections::new(&connector, config, config.pool_size, move || on_new.forget())?;
        let ping_connection = Connections::new(&connector, config, 1, || {})?.sharing_with(&connections);
        Ok(Self {
            connector,
            connections,
            ping_connection,
            forms: OnceLock::new(),
            downloads: Arc::new(Semaphore::new((config.pool_size * config.download_percent / 100).max(1))),
            caches,
            marks: Marks::new(config.series_cache),
            id: OnceLock::new(),
            place: Mutex::new(None),
        })
    }

    /// Lets a role of PostgreSQL read the samples by SQL, through views and a function.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`]: there is no such role, or the user of this store may not do that.
    pub async fn grant_read(&self, role: &str) -> Result<()> {
        let session = self.connections.session().await?;
        rights::grant_read(&session, role).await?;
        session.done();
        Ok(())
    }

    /// Notes that there are packed rows from now on, which programs of earlier versions cannot read: they refuse the schema. To be done
    /// before the first such row is written; again it changes nothing.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn announce_packed_rows(&self) -> Result<()> {
        let session = self.connections.session().await?;
        packed::announce(&session).await?;
        session.done();
        Ok(())
    }

    /// Makes sure that older programs are told, and kept out, before something is written that they cannot read: sets of series, blocks
    /// of GPUs, slabs. Again it changes nothing.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn announce_live_form(&self) -> Result<()> {
        let session = self.connections.session().await?;
        live::announce(&session, &self.caches).await?;
        session.done();
        Ok(())
    }

    /// When the certificate ends that is shown to the server, where one is.
    #[must_use]
    pub fn certificate_ends(&self) -> Option<SystemTime> {
        self.connector.certificate_ends()
    }

    /// Renews what is idle and was made with certificates that have been replaced.
    pub fn renew(&self) {
        self.connections.renew();
        self.ping_connection.renew();
    }

    /// The hosts and the database, without secrets.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.connections.endpoint
    }

    /// The forms that the schema has. One that has them keeps them.
    async fn forms(&self, session: &Session) -> error::Result<Forms> {
        if let Some(forms) = self.forms.get() {
            return Ok(*forms);
        }
        let sql = "SELECT to_regclass('sample_packed') IS NOT NULL, to_regclass('sample_slab') IS NOT NULL, \
                          to_regclass('sample_rollup_1h') IS NOT NULL";
        let rows = session.query(sql, &[]).await?;
        let form = |row: &Row| Forms { packed: row.get(0), slabs: row.get(1), rollups: row.get(2) };
        let forms = rows.first().map_or_else(Forms::default, form);
        if forms.rollups {
            return Ok(*self.forms.get_or_init(|| forms));
        }
        Ok(forms)
    }

    /// A place among the downloads that hold a connection, as soon as one is free.
    async fn place_for_download(&self, until: Instant) -> error::Result<OwnedSemaphorePermit> {
        match tokio::time::timeout_at(until, Arc::clone(&self.downloads).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(StoreError::Busy(format!(
                "PostgreSQL at {}: other downloads hold all connections that downloads may hold (postgres.download_percent of \
                 postgres.pool_size)",
                self.connections.endpoint
            ))
            .into()),
        }
    }

    /// The store that this session talks to, which must be the one seen first.
    async fn find(&self, session: &Session) -> error::Result<FoundStore> {
        let rows = session.query(SELECT_STORE, &[]).await?;
        let Some(row) = rows.first() else {
            return Err(session.unexpected("no row in the table `store`"));
        };
        let found: String = row.get(0);
        let expected = self.id.get_or_init(|| found.clone());
        if *expected != found {
            return Err(StoreError::OtherStore { expected: expected.clone(), found }.into());
        }
        Ok(FoundStore { id: found, place: StorePlace { server_started: row.get(1), database: row.get(2) }, floor: row.get(3) })
    }

    /// Checks before something is written that this session talks to the store seen first. Where its server or its database is another one than
    /// before, it counts as having been away, once: whoever waits for a store compares it before using it again.
    async fn check_id(&self, session: &Session) -> error::Result<FoundStore> {
        let found = self.find(session).await?;
        match self.note_place(found.place.clone()) {
            Some(before) if before != found.place => Err(session.unavailable(
                "its server was started again, or its database was replaced, since it was last used: it may be an older state"
                    .to_owned(),
            )),
            _ => Ok(found),
        }
    }

    /// Notes where the store is; where it was before.
    fn note_place(&self, place: StorePlace) -> Option<StorePlace> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).replace(place)
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Postgres
    }

    async fn migrate(&self) -> Result<()> {
        let session = self.connections.session().await?.without_time_limit();
        migrate::migrate(&session).await?;
        self.check_id(&session).await?;
        session.done();
        Ok(())
    }

    async fn id(&self) -> Result<String> {
        let session = self.connections.session().await?;
        // Whoever asks for it is about to compare the store.
        let found = self.find(&session).await?;
        self.note_place(found.place);
        session.done();
        Ok(found.id)
    }

    async fn id_if_unchanged(&self) -> Result<String> {
        let session = self.connections.session().await?;
        let found = self.check_id(&session).await?;
        session.done();
        Ok(found.id)
    }

    async fn commit(&self, group: &[Incoming]) -> Result<Committed> {
        Box::pin(commit::commit(self, group, None)).await
    }

    async fn note_failure(&self, entry: &str, reason: &str) -> Result<u32> {
        let session = self.connections.session().await?;
        let failures = dead::note_failure(&session, entry, reason).await?;
        session.done();
        Ok(failures)
    }

    async fn forget_failures(&self, entry: &str) -> Result<()> {
        let session = self.connections.session().await?;
        dead::forget_failures(&session, entry).await?;
        session.done();
        Ok(())
    }

    async fn bury_all(&self, letters: &[(DeadLetter, String)]) -> Result<Buried> {
        let session = self.connections.session().await?;
        let buried = dead::bury_all(self, &session, letters).await?;
        session.done();
        Ok(buried)
    }

    async fn check_rights(&self) -> Result<()> {
        let session = self.connections.session().await?;
        rights::check(&session, &self.connections.endpoint).await?;
        session.done();
        Ok(())
    }

    async fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        let session = self.connections.session().await?;
        let letters = dead::list(&session).await?;
        session.done();
        Ok(letters)
    }

    async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>> {
        let session = self.connections.session().await?;
        let letter = dead::show(&session, id).await?;
        session.done();
        Ok(letter)
    }

    async fn revive(&self, id: i64, incoming: &Incoming) -> Result<Committed> {
        Box::pin(commit::commit(self, std::slice::from_ref(incoming), Some(id))).await
    }

    async fn drop_letter(&self, id: i64) -> Result<bool> {
        let session = self.connections.session().await?;
        let dropped = dead::drop_letter(self, &session, id).await?;
        session.done();
        Ok(dropped)
    }

    async fn ledger(&self) -> Result<Vec<SourceLedger>> {
        let session = self.connections.session().await?;
        let ledger = ledger::all(&session).await?;
        session.done();
        Ok(ledger)
    }

    async fn conflict_spans(&self, after: i64, limit: usize) -> Result<Vec<ConflictSpan>> {
        let session = self.connections.session().await?;
        let spans = ledger::conflict_spans(&session, after, limit).await?;
        session.done();
        Ok(spans)
    }

    async fn standing(&self) -> Result<Standing> {
        let session = self.connections.session().await?;
        self.check_id(&session).await?;
        let standing = ledger::standing(&session).await?;
        session.done();
        Ok(standing)
    }

    async fn settled(&self, sources: &[SourceId]) -> Result<Vec<(SourceId, u64)>> {
        let session = self.connections.session().await?;
        let settled = ledger::settled_of(&session, sources).await?;
        session.done();
        Ok(settled)
    }

    async fn ping(&self) -> Result<()> {
        let session = self.ping_connection.session().await?;
        session.batch("SELECT 1").await?;
        session.done();
        Ok(())
    }

    async fn maintain<'a>(&'a self, urgent: bool) -> Result<Option<Box<dyn Maintenance + 'a>>> {
        let maintained = maintain::Maintained::take(self, urgent).await?;
        Ok(maintained.map(|maintained| Box::new(maintained) as Box<dyn Maintenance>))
    }

    async fn form_sizes(&self) -> Result<Vec<FormSize>> {
        let session = self.connections.session().await?;
        let sizes = maintain::form_sizes(&session).await?;
        session.done();
        Ok(sizes)
    }

    async fn verify(&self) -> Result<Verified> {
        // Its settings are not those of others: it ends with this.
        let session = self.connections.session().await?.without_time_limit();
        Ok(maintain::verify(&session).await?)
    }
}
