//! What the rooms do not do. The rules are a table; each has a reason, and a snippet that breaks it, so that we know it can fail.
//!
//! The check reads paths, not types: `use` trees are expanded, `super` and aliases resolved, comments, strings and test modules
//! left out.

mod paths;

use std::collections::BTreeMap;
use std::path::Path;

use paths::{module, paths};

/// Files under one of `rooms`, and not under one of `except`, must not name a path that is matched by `forbidden`.
struct Rule {
    why: &'static str,
    /// Beginnings of paths below src/; "" is everything.
    rooms: &'static [&'static str],
    except: &'static [&'static str],
    /// `a::b` forbids a::b and what is below it; `a::b$` only itself; `*::c` any path with the segment c.
    forbidden: &'static [&'static str],
    /// A file and a text that break the rule.
    broken_by: (&'static str, &'static str),
}

const RULES: &[Rule] = &[
    Rule {
        why: "the queue must be replaceable without the store noticing: batches meet the store in roles",
        rooms: &["transport"],
        except: &[],
        forbidden: &["crate::store"],
        broken_by: ("transport/redis/x.rs", "use super::super::super::store::Store;"),
    },
    Rule {
        why: "the store must be replaceable without the queue noticing: deliveries are acknowledged in roles",
        rooms: &["store"],
        except: &[],
        forbidden: &["crate::transport"],
        broken_by: ("store/x.rs", "use crate::{batch::Batch, transport::{self, Delivery}};"),
    },
    Rule {
        why: "model and batch are pure: they can be tested and fuzzed without a runtime",
        rooms: &["model", "batch"],
        except: &[],
        forbidden: &[
            "tokio",
            "tokio_util",
            "std::fs",
            "std::net",
            "std::env",
            "std::process",
            "std::thread",
            "std::io::stdin",
            "std::io::stdout",
            "std::io::stderr",
            "fred",
            "tokio_postgres",
            "deadpool_postgres",
            "hyper",
            "metrics",
            "tracing",
        ],
        broken_by: ("batch/codec.rs", "fn f() { std::fs::read(\"x\"); }"),
    },
    Rule {
        why: "time is passed into the builder, so that batches close the same in a test",
        rooms: &["batch"],
        except: &[],
        forbidden: &["std::time::SystemTime", "std::time::Instant::now", "jiff", "crate::model::TimeMs::now"],
        broken_by: ("batch/builder.rs", "use std::time::Instant; fn f() { Instant::now(); }"),
    },
    Rule {
        why: "a core knows no clock, no random source, no map without order, no task and no other room but model: the same events give the \
              same commands, in a role as in a simulation",
        rooms: &["protocol"],
        except: &[],
        forbidden: &[
            "tokio",
            "tokio_util",
            "futures_util",
            "async_trait",
            "rand",
            "metrics",
            "tracing",
            "jiff",
            "std::time::SystemTime",
            "std::time::Instant",
            "crate::model::TimeMs::now",
            "std::collections::HashMap",
            "std::collections::HashSet",
            "std::collections::hash_map",
            "std::collections::hash_set",
            "std::hash::RandomState",
            "std::sync",
            "std::thread",
            "std::fs",
            "std::net",
            "std::env",
            "std::process",
            "std::io",
            "crate::address",
            "crate::batch",
            "crate::cli",
            "crate::config",
            "crate::diagnosis",
            "crate::http",
            "crate::printable",
            "crate::query",
            "crate::retry",
            "crate::roles",
            "crate::runtime",
            "crate::source",
            "crate::store",
            "crate::tls",
            "crate::transport",
            "crate::watched",
        ],
        broken_by: ("protocol/window.rs", "use super::super::{model::Position, retry::Backoff};"),
    },
    Rule {
        why: "what a core decides is not decided again: when a batch is sent again, with what and after which rest, is said by the window's core",
        rooms: &["roles/stream/window.rs"],
        except: &[],
        forbidden: &["crate::retry::Backoff", "std::collections::BTreeSet", "std::collections::HashSet"],
        broken_by: ("roles/stream/window.rs", "use crate::retry::Backoff;"),
    },
    Rule {
        why: "a room gets its own section, never the whole configuration, and knows nobody above it",
        rooms: &["source", "transport", "store", "batch", "model", "query", "http", "retry.rs"],
        except: &[],
        forbidden: &[
            "crate::config$",
            "crate::config::*$",
            "crate::config::Config",
            "crate::config::ConfigError",
            "crate::config::Origin",
            "crate::config::Origins",
            "crate::config::load",
            "crate::config::keys",
            "crate::roles",
            "crate::cli",
        ],
        broken_by: ("source/csv.rs", "fn f(all: &crate::config::Config) {}"),
    },
    Rule {
        why: "the configuration is below every room that reads it: what it checks of an address is in the leaf `address`",
        rooms: &["config", "address", "printable.rs", "watched.rs"],
        except: &[],
        forbidden: &[
            "crate::transport",
            "crate::store",
            "crate::source",
            "crate::query",
            "crate::http",
            "crate::roles",
            "crate::cli",
        ],
        broken_by: ("config/resolve.rs", "fn f() { crate::store::postgres::validate(&postgres); }"),
    },
    Rule {
        why: "what parses an address is a leaf: the configuration is read through it",
        rooms: &["address"],
        except: &[],
        forbidden: &["crate::config", "crate::runtime"],
        broken_by: ("address/postgres/mod.rs", "use crate::config::SslMode;"),
    },
    Rule {
        why: "rooms are told what to do and return what happened: metrics and lifecycle are recorded where they are used, in roles",
        rooms: &["source", "transport", "store", "batch", "model", "query", "retry.rs", "config", "cli.rs"],
        except: &[],
        forbidden: &["crate::runtime"],
        broken_by: ("store/postgres/write.rs", "use crate::runtime::{observe, Lifecycle};"),
    },
    Rule {
        why: "whoever spawns a task that lives on owns its end: only roles and runtime can",
        rooms: &[""],
        // A connection's driver lives as long as the connection, which owns and ends it; the server counts its connections, and waits
        // for the last one; work ahead ends with the answer that it is for.
        except: &[
            "roles",
            "runtime",
            "transport/redis/client.rs",
            "store/postgres/connect.rs",
            "http/server.rs",
            "http/ahead.rs",
        ],
        forbidden: &[
            "tokio::spawn",
            "tokio::task::spawn$",
            "tokio::task::spawn_local",
            "tokio::task::JoinSet",
            "tokio_util::task::TaskTracker",
            "std::thread::spawn",
            "std::thread::Builder",
        ],
        broken_by: ("source/follow.rs", "use tokio::task; fn f() { task::spawn(async {}); }"),
    },
    Rule {
        why: "what becomes of a receipt is decided in its core: when an entry comes again, and what a partition is told of, is what that says",
        rooms: &["roles/collect"],
        except: &[],
        forbidden: &[
            "crate::transport::Redelivery",
            "crate::protocol::receipts::Redelivery",
            "crate::protocol::receipts::Stage",
            "crate::model::Partitions",
        ],
        broken_by: ("roles/collect/acknowledge.rs", "use crate::transport::{Receipt, Redelivery};"),
    },
    Rule {
        why: "the Redis client is an implementation: one room knows it",
        rooms: &[""],
        except: &["transport/redis"],
        forbidden: &["fred"],
        broken_by: ("roles/audit.rs", "use fred::prelude::*;"),
    },
    Rule {
        why: "the PostgreSQL client is an implementation: one room knows it",
        rooms: &[""],
        // The client's own parser has the last word on what a URL of its is.
        except: &["store/postgres", "address/postgres"],
        forbidden: &["tokio_postgres", "deadpool_postgres"],
        broken_by: ("roles/audit.rs", "fn f(_: tokio_postgres::Client) {}"),
    },
    Rule {
        why: "the embedded database is an implementation: one room knows it",
        rooms: &[""],
        except: &["store/sqlite"],
        forbidden: &["rusqlite"],
        broken_by: ("roles/all.rs", "use rusqlite::Connection;"),
    },
    Rule {
        why: "one command has the whole terminal; what others print stays plain text that can be piped",
        rooms: &[""],
        except: &["roles/top"],
        forbidden: &["ratatui"],
        broken_by: ("roles/audit.rs", "use ratatui::Frame;"),
    },
    Rule {
        why: "http reaches the store only through query, where filters and limits are checked",
        rooms: &["http"],
        except: &[],
        forbidden: &["crate::store", "crate::transport"],
        broken_by: ("http/routes/gpus.rs", "use crate::store;"),
    },
    Rule {
        why: "a content is bytes with offsets, whatever they say: formats can come beside CSV without a word changed there",
        rooms: &["source/content"],
        except: &[],
        forbidden: &["crate::source::format", "crate::source::CsvReader", "crate::source::Row", "csv_async", "csv_core"],
        broken_by: ("source/content/follow.rs", "use super::super::format::csv::CsvReader;"),
    },
    Rule {
        why: "every channel is bounded: what is slow must slow down what feeds it, not fill the memory",
        rooms: &[""],
        except: &[],
        forbidden: &["*::unbounded_channel", "*::unbounded", "std::sync::mpsc::channel"],
        broken_by: ("roles/stream.rs", "use tokio::sync::mpsc; fn f() { mpsc::unbounded_channel::<u8>(); }"),
    },
];

const MAX_LINES: usize = 600;

/// Packages the project must be built on, each for what it is for.
const PACKAGES: &[&str] = &[
    "tokio",
    "fred",
    "tokio-postgres",
    "deadpool-postgres",
    "hyper",
    "csv-async",
    "clap",
    "metrics",
    "metrics-exporter-prometheus",
    "tokio-rustls",
];

#[test]
fn the_rooms_keep_to_themselves() {
    let files = sources();
    assert!(files.len() > 30, "src/ was not found");
    let broken: Vec<String> = files.iter().flat_map(|(file, text)| check(file, text)).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_rule_can_fail() {
    for rule in RULES {
        let (file, text) = rule.broken_by;
        assert!(check(file, text).iter().any(|said| said.ends_with(rule.why)), "`{text}` in {file} must break: {}", rule.why);
    }
}

/// A core must not learn of a room that is new either.
#[test]
fn the_rule_for_cores_names_every_other_room() {
    let forbidden: Vec<_> = RULES.iter().filter(|rule| rule.rooms == ["protocol"]).flat_map(|rule| rule.forbidden).collect();
    for (file, _) in sources() {
        let room = &module(&file)[..].get(1).map_or("", String::as_str).to_owned();
        let is_free = ["", "model", "protocol"].contains(&room.as_str());
        assert!(
            is_free || forbidden.contains(&&&*format!("crate::{room}")),
            "the rule for src/protocol must forbid crate::{room}"
        );
    }
}

#[test]
fn what_is_allowed_is_not_refused() {
    for (file, text) in [
        ("store/postgres/mod.rs", "use crate::config::Postgres; use tokio_postgres::Client; // crate::transport"),
        ("transport/redis/mod.rs", "use fred::prelude::*; fn f() { \"tokio::spawn and crate::store\"; }"),
        ("source/csv.rs", "fn f() { tokio::task::spawn_blocking(|| ()); tokio::sync::mpsc::channel::<u8>(1); }"),
        ("batch/codec.rs", "use std::io::Read;\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n"),
        ("runtime/mod.rs", "fn f() { tokio::spawn(async {}); }"),
    ] {
        assert_eq!(check(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}

#[test]
fn no_file_is_too_long() {
    for room in ["src", "tests", "fuzz"] {
        for (file, text) in files_below(room) {
            let lines = text.lines().count();
            assert!(lines <= MAX_LINES, "{room}/{file} has {lines} lines: split it (at most {MAX_LINES})");
        }
    }
}

/// Rooms whose files must not use one another in a ring: what several of them need is a file that uses none of them.
const ROOMS_WITHOUT_RINGS: &[&str] = &["roles/stream", "roles/collect"];

#[test]
fn the_files_of_a_room_do_not_use_one_another_in_a_ring() {
    for room in ROOMS_WITHOUT_RINGS {
        let files = sources().into_iter().filter(|(file, _)| Path::new(file).parent() == Some(Path::new(room)));
        assert_eq!(ring(&files.collect::<Vec<_>>()), None, "src/{room}: move what both need to a file of its own");
    }
    let ring_of = |files: &[(&str, &str)]| {
        ring(&files.iter().map(|(name, text)| (format!("roles/x/{name}.rs"), (*text).to_owned())).collect::<Vec<_>>())
    };
    let files = [("mod", "mod a; use a::A;"), ("a", "use super::b::B;"), ("b", "fn f() { super::c::g(); }"), ("c", "")];
    assert_eq!(ring_of(&files), None);
    let mut files = files;
    files[3].1 = "use super::{A};";
    assert!(ring_of(&files).is_some(), "through the room's own file");
    files[3].1 = "use super::a::A;";
    assert!(ring_of(&files).is_some());
}

/// A file that uses itself by way of others, among the files of one room.
fn ring(files: &[(String, String)]) -> Option<String> {
    let module_of = |file: &str| module(file).join("::");
    let modules: Vec<String> = files.iter().map(|(file, _)| module_of(file)).collect();
    // A path leads to the file of its longest beginning that is one.
    let file_of = |path: &str| {
        let of =
            |module: &&String| path == *module || path.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with("::"));
        modules.iter().filter(of).max_by_key(|module| module.len()).cloned()
    };
    let uses: BTreeMap<String, Vec<String>> = files
        .iter()
        .map(|(file, text)| {
            let own = module_of(file);
            // What the room's own file names without `self` is below it.
            let used = |path: &String| file_of(path).or_else(|| file_of(&format!("{own}::{path}")));
            let used = paths(file, text).iter().filter_map(used).filter(|used| *used != own).collect();
            (own, used)
        })
        .collect();
    modules
        .iter()
        .find(|start| {
            let (mut waiting, mut seen) = (uses[*start].clone(), Vec::new());
            while let Some(next) = waiting.pop() {
                if next == **start {
                    return true;
                }
                if !seen.contains(&next) {
                    waiting.extend(uses[&next].iter().cloned());
                    seen.push(next);
                }
            }
            false
        })
        .cloned()
}

#[test]
fn the_packages_are_there() {
    let manifest: toml::Table = toml::from_str(&read(&root().join("Cargo.toml"))).expect("Cargo.toml is TOML");
    for package in PACKAGES {
        assert!(manifest["dependencies"].get(package).is_some(), "{package} is missing in Cargo.toml");
    }
    let lock = read(&root().join("Cargo.lock"));
    for banned in ["aws-lc-rs", "aws-lc-sys", "openssl-sys"] {
        assert!(
            !lock.contains(&format!("name = \"{banned}\"")),
            "{banned} came into the tree: find who wants it with cargo tree -i {banned}"
        );
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below src/ with its text.
fn sources() -> Vec<(String, String)> {
    files_below("src")
}

/// Every Rust file below a directory with its text.
fn files_below(directory: &str) -> Vec<(String, String)> {
    let top = root().join(directory);
    let mut waiting = vec![top.clone()];
    let mut files = Vec::new();
    while let Some(directory) = waiting.pop() {
        for path in std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                if !path.ends_with("target") {
                    waiting.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((path.strip_prefix(&top).unwrap().to_str().unwrap().to_owned(), read(&path)));
            }
        }
    }
    files.sort();
    files
}

/// What a file breaks, in words.
fn check(file: &str, text: &str) -> Vec<String> {
    let named = paths(file, text);
    let inside = |room: &&str| room.is_empty() || Path::new(file).starts_with(room);
    let rules = RULES.iter().filter(|rule| rule.rooms.iter().any(inside) && !rule.except.iter().any(inside));
    let broken = rules.flat_map(|rule| {
        let hits = named.iter().filter(|path| rule.forbidden.iter().any(|pattern| matches(pattern, path)));
        hits.map(|path| format!("src/{file} names {path}: {}", rule.why)).collect::<Vec<_>>()
    });
    broken.collect()
}

fn matches(pattern: &str, path: &str) -> bool {
    if let Some(segment) = pattern.strip_prefix("*::") {
        return path.split("::").any(|part| part == segment);
    }
    match pattern.strip_suffix('$') {
        Some(exact) => path == exact,
        None => path == pattern || path.strip_prefix(pattern).is_some_and(|rest| rest.starts_with("::")),
    }
}
