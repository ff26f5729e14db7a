//! The end: everything is stored, exactly, and says so.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::data::Content;
use crate::lab::Lab;
use crate::queue::Lost;
use crate::roles::Kind;
use crate::support::app::Role;
use crate::support::{node, postgres};

/// How long the last run of all files may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// What was found.
pub struct Verdict {
    pub rows: i64,
    pub stored: i64,
    pub blank: i64,
    pub files: usize,
    /// Rows that Redis had acknowledged and lost, and those of them that were sent again.
    pub lost: i64,
    pub again: i64,
}

impl Lab {
    /// Lets everything come to its end, and looks.
    pub fn judge(&mut self, lost: &[Lost]) -> Verdict {
        self.network.mend();
        self.queue.start_all();
        if !self.wait(|lab| lab.queue.is_whole()) {
            self.problem(format!("Redis is not whole in the end:\n{}", self.queue.logs()));
        }
        self.grower.stop();
        self.roles.no_more_jobs();
        if !self.wait(|lab| lab.roles.jobs_are_done()) {
            self.problem("the last finished files are not done".to_owned());
        }
        self.look_for_secrets_in_arguments();
        for what in self.roles.stop(Kind::Follower) {
            self.problem(what);
        }
        self.send_everything_again();
        // What comes twice comes late.
        self.rest(Duration::from_secs(3));
        let again = lost.iter().map(|lost| self.came_back(lost)).sum();
        let lost = lost.iter().map(Lost::rows).sum();
        if again < lost {
            self.problem(format!("of {lost} rows that Redis had lost only {again} were sent again"));
        }
        self.audit();
        for what in self.roles.stop(Kind::Collector) {
            self.problem(what);
        }
        let verdict = Verdict { lost, again, ..self.compare() };
        self.pack();
        let packed = self.compare();
        if packed.stored != verdict.stored {
            self.problem(format!("{} samples were stored, and {} are there once they are packed", verdict.stored, packed.stored));
        }
        self.read_the_logs();
        verdict
    }

    /// What was done with before Redis lost it, is sent again by whoever has the files.
    fn send_everything_again(&mut self) {
        let dirs = ["edge-a", "edge-b", "edge-c"].map(|name| (name, self.dir.join(name)));
        let mut roles: Vec<Role> = Vec::new();
        for (name, dir) in &dirs {
            let dir = dir.to_str().expect("a path in UTF-8");
            roles.push(self.roles.edge.start(&["stream", "--csv", dir, "--cluster", name, "--until", "stored"]));
        }
        let begun = Instant::now();
        for mut role in roles {
            while role.ended().is_none() && begun.elapsed() < PATIENCE {
                self.rest(Duration::from_millis(200));
            }
            match role.ended() {
                Some(status) if status.code() == Some(0) => {}
                Some(status) => self.problem(format!("the last run ended with {status}: {}", role.log_path().display())),
                None => self.problem(format!("the last run does not end: {}", role.log_path().display())),
            }
        }
    }

    /// How many of the rows that Redis had lost have been sent again: their source is where it was, or they are stored (under another
    /// id, where Redis has also lost its memory of the file).
    fn came_back(&self, lost: &Lost) -> i64 {
        let again = self.queue.sent_again(lost);
        let covered = self.covered();
        let id = |source: &str| source.replace('-', "");
        let stored = |source: &str, rows: i64| {
            let file = covered.iter().find(|(known, _)| id(known) == id(source)).map(|(_, (file, _))| file);
            file.is_some_and(|file| covered.values().any(|(other, has)| other == file && *has >= rows))
        };
        let back = lost.sources.iter().filter(|(source, (_, had))| again.sources.contains_key(*source) || stored(source, *had));
        back.map(|(_, (kept, had))| had - kept).sum()
    }

    fn audit(&mut self) {
        let done = self.roles.central.run(&["audit", "--json"]);
        if done.code != Some(0) {
            self.problem(format!("audit does not close:\n{}{}", done.stdout, done.stderr));
        }
        // A file may have been taken for a new source after Redis had lost its memory of it; together they have each row once.
        let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap_or_default();
        let mut sums = BTreeMap::<String, i64>::new();
        for source in report["sources"].as_array().into_iter().flatten() {
            let stored = source["stored"].as_i64().unwrap_or(0) - source["duplicate"].as_i64().unwrap_or(0);
            *sums.entry(source["name"].as_str().unwrap_or_default().to_owned()).or_default() += stored;
        }
        let expected: BTreeMap<String, i64> = {
            let files = self.grower.files();
            files.all().map(|export| (export.path.to_string_lossy().into_owned(), export.content.holds.rows())).collect()
        };
        for (name, rows) in &expected {
            let stored = sums.get(name).copied().unwrap_or(0);
            if stored != *rows {
                self.problem(format!("audit says that {stored} rows of {name} are stored; {rows} are in it"));
            }
        }
    }

    /// Samples were packed meanwhile, and everything can be read, before and after the rest is packed.
    fn pack(&mut self) {
        let packed: i64 =
            self.query("SELECT coalesce(sum(n::int8 * k), 0)::int8 FROM sample_packed").first().map_or(0, |row| row.get(0));
        if packed == 0 {
            self.problem("no sample was packed in the background".to_owned());
        }
        for arguments in [&["check", "--store"][..], &["compact"], &["check", "--store"]] {
            let done = self.roles.central.run(arguments);
            if done.code != Some(0) {
                self.problem(format!("{} ends with {:?}:\n{}{}", arguments.join(" "), done.code, done.stdout, done.stderr));
            }
        }
    }

    /// Rows and sums per file and metric, and the rows without a value.
    fn compare(&mut self) -> Verdict {
        let mut stored = BTreeMap::<String, Content>::new();
        let samples = "SELECT hostname, metric_name, count(*), sum(round(value * 1000))::int8 FROM samples GROUP BY 1, 2";
        for row in self.query(samples) {
            let host: String = row.get(0);
            stored.entry(host).or_default().holds.0.insert(row.get(1), (row.get(2), row.get(3)));
        }
        let rejected = "SELECT source_name, count(DISTINCT \"row\") FROM rejected_rows GROUP BY 1";
        for row in self.query(rejected) {
            let name: String = row.get(0);
            let host = Path::new(&name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
            stored.entry(host).or_default().blank = row.get(1);
        }
        let expected: BTreeMap<String, Content> =
            self.grower.files().all().map(|export| (export.host.clone(), export.content.clone())).collect();
        for (host, content) in &expected {
            let has = stored.remove(host).unwrap_or_default();
            if has != *content {
                let what = format!("{host} is not what is stored of it\n    in the file: {content:?}\n    stored:      {has:?}");
                self.problem(what);
            }
        }
        for host in stored.keys() {
            self.problem(format!("{host} is stored, and was never in a file"));
        }
        let sum = |of: fn(&Content) -> i64| expected.values().map(of).sum();
        let count = self.query("SELECT count(*) FROM samples").first().map_or(0, |row| row.get(0));
        Verdict { rows: sum(Content::rows), stored: count, blank: sum(|c| c.blank), files: expected.len(), lost: 0, again: 0 }
    }

    fn look_for_secrets_in_arguments(&mut self) {
        for pid in self.roles.pids() {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments);
            if secrets().iter().any(|secret| arguments.contains(secret)) {
                self.problem(format!("a secret is in the arguments of a process: {arguments}"));
            }
        }
    }

    /// No panic, no secret.
    fn read_the_logs(&mut self) {
        let mut problems = Vec::new();
        for dir in [self.roles.edge.dir.path(), self.roles.central.dir.path()] {
            for file in std::fs::read_dir(dir).unwrap().flatten() {
                let text = std::fs::read_to_string(file.path()).unwrap_or_default();
                if let Some(line) = text.lines().find(|line| line.contains("panicked")) {
                    problems.push(format!("{}: {line}", file.path().display()));
                }
                if secrets().iter().any(|secret| text.contains(secret)) {
                    problems.push(format!("a secret is in {}", file.path().display()));
                }
            }
        }
        problems.into_iter().for_each(|what| self.problem(what));
    }
}

fn secrets() -> [&'static str; 3] {
    [node::PASSWORD, postgres::PASSWORD, "PRIVATE KEY"]
}
