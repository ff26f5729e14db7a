//! The server with the real program: what it answers, to whom, and what it refuses.

mod answers;
mod limits;
mod memory;
mod pipeline;
mod tls;

use std::path::Path;

use crate::support::app::{App, Role, wait_for};
use crate::support::http::{Answer, get};
use crate::support::postgres::free_port;

/// A running server. Its data goes with it.
pub struct Serving {
    pub app: App,
    pub role: Role,
    pub port: u16,
}

impl Serving {
    /// `all` with these files, everything stored.
    pub async fn all(app: App, csv: &[&str], rows: i64) -> Self {
        let serving = Self::start(app, &[&["all", "--cluster", "lab", "--csv"], csv].concat()).await;
        wait_for("the rows", || async { serving.stored() >= rows }).await;
        serving
    }

    /// A role that serves, ready.
    pub async fn start(app: App, arguments: &[&str]) -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let role = app.start(&[arguments, &["--listen", &listen]].concat());
        let serving = Self { app, role, port };
        wait_for("a ready server", || async { serving.get("/readyz").is_some_and(|answer| answer.status == 200) }).await;
        serving
    }

    fn stored(&self) -> i64 {
        let Some(answer) = self.get("/api/v1/pipeline").filter(|answer| answer.status == 200) else { return -1 };
        answer.json()["sources"].as_array().unwrap().iter().map(|source| source["stored"].as_i64().unwrap()).sum()
    }

    pub fn get(&self, path: &str) -> Option<Answer> {
        get(self.port, path, &[])
    }

    /// It must answer.
    #[track_caller]
    pub fn ask(&self, path: &str) -> Answer {
        self.ask_with(path, &[])
    }

    #[track_caller]
    pub fn ask_with(&self, path: &str, headers: &[&str]) -> Answer {
        get(self.port, path, headers).unwrap_or_else(|| panic!("no answer to {path}:\n{}", self.role.log()))
    }

    /// Every row of a list, page by page.
    #[track_caller]
    pub fn pages(&self, path: &str, limit: usize) -> Vec<serde_json::Value> {
        let join = if path.contains('?') { '&' } else { '?' };
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let answer = self.ask(&format!("{path}{join}limit={limit}{cursor}"));
            assert_eq!(answer.status, 200, "{}", answer.text());
            let page = answer.json();
            let data = page["data"].as_array().unwrap();
            assert!(data.len() <= limit);
            rows.extend(data.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }
}

fn app() -> App {
    App::new("", "")
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
