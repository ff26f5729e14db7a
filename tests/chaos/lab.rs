//! Everything that runs, and what is known of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::data::{Files, Grower};
use crate::network::Network;
use crate::queue::Queue;
use crate::roles::Roles;
use crate::settings::Settings;
use crate::support::app::App;
use crate::support::postgres::{Database, Server};

/// How long it may take until everything is stored again after a fault.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Everything.
pub struct Lab {
    pub began: Instant,
    pub dir: PathBuf,
    pub network: Arc<Network>,
    pub queue: Queue,
    pub server: Server,
    database: Database,
    pub grower: Grower,
    pub roles: Roles,
    /// What went wrong.
    pub problems: Vec<String>,
    pub runtime: Runtime,
}

/// A program's environment: with a queue and a store, in a directory that stays.
fn app(dir: &Path, name: &str, queue: &Queue, database: &str) -> App {
    let mut own = tempfile::Builder::new().prefix(name).tempdir_in(dir).unwrap();
    // The whole directory is removed in the end, or kept.
    own.disable_cleanup(true);
    let app = App::new_in(own, "", database).with_all(queue.variables());
    // What takes seconds in the field, as it is there; but for how long a dead collector's entries lie.
    app.with("TELEMETRY__REDIS__COMMAND_TIMEOUT", "3s")
        .with("TELEMETRY__REDIS__LEASE_TTL", "4s")
        .with("TELEMETRY__REDIS__BLOCK", "2s")
        .with("TELEMETRY__REDIS__RECONNECT_MAX", "5s")
        .with("TELEMETRY__REDIS__CLAIM_IDLE", "3s")
        // What was just stored is rewritten every few seconds, while more of the same hours arrives.
        .with("TELEMETRY__STORE__MAINTENANCE_INTERVAL", "2s")
        .with("TELEMETRY__STORE__MAINTENANCE_DELAY", "1s")
}

impl Lab {
    /// Starts it all in this directory.
    pub fn start(settings: &Settings, dir: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let network = Network::new(runtime.handle());
        let queue = if settings.single { Queue::single(&network, dir) } else { Queue::cluster(&network, dir) };
        let server = Server::start();
        let database = runtime.block_on(server.empty_database());
        let mut files = Files::default();
        for name in ["edge-a", "edge-b", "edge-c"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        for i in 0..8 {
            files.begin(&dir.join(["edge-a", "edge-b"][i % 2]), settings.seed);
        }
        let (edge, central) = (app(dir, "logs-edge-", &queue, ""), app(dir, "logs-central-", &queue, &database.url));
        let grower = Grower::start(files, 150, Duration::from_secs(25), settings.seed);
        let roles = Roles::start(edge, central, dir, settings.seed);
        let began = Instant::now();
        Self { began, dir: dir.to_owned(), network, queue, server, database, grower, roles, problems: Vec::new(), runtime }
    }

    /// Something went wrong: said at once, and once more in the end.
    pub fn problem(&mut self, what: String) {
        println!("{:7.1} s  PROBLEM: {what}", self.began.elapsed().as_secs_f64());
        self.problems.push(what);
    }

    /// Starts again what has ended as it should, and notes what ended as it should not.
    pub fn tend(&mut self) {
        for what in self.roles.tend(&self.grower) {
            self.problem(what);
        }
    }

    /// Lets time pass.
    pub fn rest(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.tend();
            std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Waits until something holds; `false` after a long time.
    pub fn wait(&mut self, holds: impl Fn(&Self) -> bool) -> bool {
        let begun = Instant::now();
        while !holds(self) {
            if begun.elapsed() > PATIENCE {
                return false;
            }
            self.rest(LOOK);
        }
        true
    }

    /// What is in the growing files now.
    pub fn marks(&self) -> BTreeMap<String, i64> {
        self.grower.files().marks()
    }

    /// Those of these files of which not so many rows are stored.
    pub fn behind(&self, marks: &BTreeMap<String, i64>) -> Vec<String> {
        let covered = self.covered();
        let missing = |(name, row): (&String, &i64)| {
            let has = covered.values().filter(|(file, _)| file == name).map(|(_, rows)| *rows).max().unwrap_or(0);
            (has < *row).then(|| format!("{name}: {has} of {row} rows"))
        };
        marks.iter().filter_map(missing).collect()
    }

    /// What is stored of each source, from its first row on: source → file, rows. A database that does not answer has nothing.
    pub fn covered(&self) -> BTreeMap<String, (String, i64)> {
        let query = "SELECT id::text, name, coalesce((SELECT upper(r) FROM unnest(covered) r WHERE lower(r) = 0), 0) FROM source";
        self.query(query).iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
    }

    /// The rows of a query; none from a database that does not answer.
    pub fn query(&self, query: &str) -> Vec<tokio_postgres::Row> {
        self.runtime.block_on(async {
            let Ok((client, connection)) = tokio_postgres::connect(&self.database.url, tokio_postgres::NoTls).await else {
                return Vec::new();
            };
            tokio::spawn(connection);
            client.query(query, &[]).await.unwrap_or_default()
        })
    }
}
