//! A queue, a store, and the program that is configured for both.

use super::app::{App, Done, Holds, Role, wait_for};
use super::postgres::{Database, Server};
use super::redis::RedisServer;

/// Redis, a database of its own, and the program with a directory of its own.
pub struct Place {
    pub redis: RedisServer,
    pub database: Database,
    pub app: App,
}

impl Place {
    pub async fn new() -> Self {
        let redis = RedisServer::start();
        let database = Server::shared().empty_database().await;
        let app = App::new(&redis.url(), &database.url);
        Self { redis, database, app }
    }

    /// Streams a file.
    pub fn stream(&self, csv: &str, cluster: &str, more: &[&str]) -> Done {
        self.app.run(&[&["stream", "--csv", csv, "--cluster", cluster], more].concat())
    }

    /// The sum must close, whatever happened.
    #[track_caller]
    pub fn audit(&self) -> serde_json::Value {
        let done = self.app.run(&["audit", "--json"]).exits(0);
        assert_eq!(done.stderr, "", "an answer, and nothing between its lines");
        serde_json::from_str(&done.stdout).unwrap()
    }

    /// How many rows are stored of a cluster.
    pub async fn rows(&self, cluster: &str) -> i64 {
        Holds::stored(&self.database, cluster).await.rows()
    }

    /// Waits until so many rows are stored of a cluster, and not one more.
    pub async fn arrive(&self, cluster: &str, rows: i64) {
        wait_for(&format!("{rows} rows of {cluster}"), || async { self.rows(cluster).await >= rows }).await;
        assert_eq!(self.rows(cluster).await, rows);
    }
}

/// Waits until a role says that it is ready.
pub async fn ready(role: &Role) {
    wait_for("a ready role", || async { role.get("/readyz").is_some_and(|(status, _)| status == 200) }).await;
}
