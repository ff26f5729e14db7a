//! The small Redis is held to the real ones: random traces of every script, with good and odd arguments, are run on both, and every answer
//! is compared. Ids that the clock made are named by the order in which they came; ages are not compared.

mod steps;

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use telemetry_model::lua::{Script, Scripts};
use telemetry_model::real::{Server, servers};
use telemetry_model::redis::Redis;
use telemetry_model::redis::reply::{Bytes, Reply, bytes};

use steps::{Arg, COMMITTED, DICTS, KEYS, META, POSITIONS, REGISTRY, STREAM, Step, steps};

/// Traces that are run on each server; `TELEMETRY_MODEL_TRACES` says another number.
const TRACES: u32 = 500;
/// Steps of a trace at most.
const STEPS: usize = 45;

/// Kinds of answers that the traces must have come to, or they compare little.
const KINDS: [(&str, &str); 29] = [
    ("publish", "accepted"),
    ("publish", "moved"),
    ("publish", "full"),
    ("publish", "need"),
    ("publish", "OOM"),
    ("publish", "WRONGTYPE"),
    ("acknowledge", "several"),
    ("read", "several"),
    ("fetch", "several"),
    ("sweep", "nothing"),
    ("sweep", "number"),
    ("backlog", "several"),
    ("queued", "several"),
    ("look", "several"),
    ("retire", "none"),
    ("retire", "active"),
    ("retire", "retired"),
    ("keep", "number"),
    ("leave", "number"),
    ("lease", "held"),
    ("lease", "taken"),
    ("release", "number"),
    ("register", "done"),
    ("register", "changed"),
    ("once", "text"),
    ("mark", "several"),
    ("contains", "number"),
    ("contains", "nothing"),
    ("reset", "number"),
];

/// What both sides are asked for, and how.
trait Side {
    fn command(&mut self, args: &[Bytes]) -> Reply;
    fn script(&mut self, script: Script, keys: &[Bytes], args: &[Bytes]) -> Reply;
    fn full(&mut self, full: bool);
    /// Milliseconds of the clock that made the ids, in the order in which they came.
    fn seen(&mut self) -> &mut Vec<String>;

    fn ask(&mut self, args: &[&str]) -> Reply {
        self.command(&args.iter().map(bytes).collect::<Vec<_>>())
    }
}

struct Small {
    redis: Redis,
    scripts: Scripts,
    seen: Vec<String>,
}

struct Real {
    server: Server,
    /// Digests of the scripts, as the server gave them.
    digests: Vec<(Script, Bytes)>,
    seen: Vec<String>,
}

impl Side for Small {
    fn command(&mut self, args: &[Bytes]) -> Reply {
        self.redis.call(args)
    }

    fn script(&mut self, script: Script, keys: &[Bytes], args: &[Bytes]) -> Reply {
        self.scripts.run(&mut self.redis, script, keys, args)
    }

    fn full(&mut self, full: bool) {
        self.redis.full = full;
    }

    fn seen(&mut self) -> &mut Vec<String> {
        &mut self.seen
    }
}

impl Side for Real {
    fn command(&mut self, args: &[Bytes]) -> Reply {
        self.server.call(args).expect("the server answers")
    }

    fn script(&mut self, script: Script, keys: &[Bytes], args: &[Bytes]) -> Reply {
        let digest =
            self.digests.iter().find(|(one, _)| *one == script).map(|(_, digest)| digest.clone()).expect("it was loaded");
        let count = bytes(keys.len().to_string());
        let all: Vec<Bytes> = [bytes("EVALSHA"), digest, count].into_iter().chain(keys.iter().chain(args).cloned()).collect();
        self.command(&all)
    }

    fn full(&mut self, full: bool) {
        self.ask(&["CONFIG", "SET", "maxmemory", if full { "1" } else { "0" }]);
    }

    fn seen(&mut self) -> &mut Vec<String> {
        &mut self.seen
    }
}

impl Real {
    fn start(program: &Path, folder: &Path) -> Self {
        let server = Server::start(program, folder).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut real = Self { server, digests: Vec::new(), seen: Vec::new() };
        for script in Script::ALL {
            let Reply::Bulk(digest) = real.ask(&["SCRIPT", "LOAD", script.text()]) else { panic!("{script:?} is not taken") };
            real.digests.push((*script, digest));
        }
        real
    }

    /// Its clock, ms.
    fn now(&mut self) -> u64 {
        let time = self.ask(&["TIME"]);
        let part = |at: usize| time.parts()[at].text().and_then(|text| text.parse::<u64>().ok()).expect("a time");
        part(0) * 1000 + part(1) / 1000
    }
}

/// Runs a step, and gives the answer as both sides have it.
fn take(side: &mut dyn Side, step: &Step) -> Reply {
    let ids: Vec<String> = side.seen().iter().map(|ms| format!("{ms}-0")).collect();
    let resolve = |side: &mut dyn Side, args: &[Arg]| -> Vec<Bytes> {
        let mut resolved = Vec::new();
        for arg in args {
            let known = match arg {
                Arg::Position(source) => side.ask(&["HGET", POSITIONS, source]),
                Arg::LastUse(digest) => side.ask(&["HGET", DICTS, digest]),
                _ => Reply::Nil,
            };
            let is_position = |text: &Bytes| text.split(|b| *b == b':').nth(2).is_some_and(|digest| digest.len() == 32);
            resolved.push(arg.resolve(
                &ids,
                match known {
                    Reply::Bulk(text) if matches!(arg, Arg::LastUse(_)) || is_position(&text) => Some(text),
                    _ => None,
                },
            ));
        }
        resolved
    };
    let answer = match step {
        Step::Script(script, keys, args) => {
            let args = resolve(side, args);
            let answer = side.script(*script, &keys.iter().map(bytes).collect::<Vec<_>>(), &args);
            without_ages(*script, answer)
        }
        Step::Command(args) => {
            let args = resolve(side, args);
            side.command(&args)
        }
        Step::Full(full) => {
            side.full(*full);
            Reply::Nil
        }
    };
    let info = side.ask(&["XINFO", "STREAM", STREAM]);
    if let Some(ms) = info.parts().get(7).and_then(Reply::text).and_then(|last| last.split('-').next()).map(str::to_owned)
        && !side.seen().contains(&ms)
    {
        side.seen().push(ms);
    }
    named(side.seen(), answer)
}

/// The answer with ids named by the order in which their milliseconds came, and errors without the script's digest.
fn named(seen: &[String], reply: Reply) -> Reply {
    match reply {
        Reply::Array(parts) => Reply::Array(parts.into_iter().map(|part| named(seen, part)).collect()),
        Reply::Bulk(text) => {
            let id = std::str::from_utf8(&text).ok().and_then(|text| text.split_once('-'));
            match id.and_then(|(ms, seq)| Some((seen.iter().position(|one| one == ms)?, seq))) {
                Some((at, seq)) => Reply::bulk(format!("#{at}-{seq}")),
                None => Reply::Bulk(text),
            }
        }
        Reply::Error(text) => match text.split_once(" script: ") {
            Some((error, place)) => {
                let place = place.split_once("on @").map_or(place, |(_, place)| place);
                Reply::Error(format!("{error} script: on @{place}"))
            }
            None => Reply::Error(text),
        },
        other => other,
    }
}

/// The answer without what the clock alone decides.
fn without_ages(script: Script, mut reply: Reply) -> Reply {
    fn mask(reply: &mut Reply, at: usize) {
        if let Reply::Array(parts) = reply
            && let Some(Reply::Int(age)) = parts.get_mut(at)
        {
            *age = (*age).min(0);
        }
    }
    match script {
        Script::Backlog => mask(&mut reply, 2),
        Script::Retire if reply.parts().first().and_then(Reply::text) == Some("active") => mask(&mut reply, 2),
        Script::Look => {
            mask(&mut reply, 2);
            let Reply::Array(parts) = &mut reply else { return reply };
            for (at, part) in parts.iter_mut().enumerate().skip(4) {
                mask(part, if at == 4 { 2 } else { 3 });
                // Those of its consumers.
                (8..part.parts().len()).step_by(3).for_each(|idle| mask(part, idle));
            }
        }
        _ => {}
    }
    reply
}

/// Everything that is there, so that what no answer showed is compared too.
fn everything(side: &mut dyn Side) -> Vec<Reply> {
    let mut all = vec![side.ask(&["XRANGE", STREAM, "-", "+"]), side.ask(&["XINFO", "GROUPS", STREAM])];
    for group in ["g", "h"] {
        for (at, command) in
            [vec!["XPENDING", STREAM, group, "-", "+", "100"], vec!["XINFO", "CONSUMERS", STREAM, group]].iter().enumerate()
        {
            let mut found = side.ask(command);
            if let Reply::Array(rows) = &mut found {
                for row in rows {
                    if let Reply::Array(row) = row {
                        // How long ago; newer servers say how long inactive as well.
                        row.truncate(4);
                        if at == 0 && row.len() == 4 {
                            row[2] = Reply::Nil;
                        }
                    }
                }
            }
            all.push(found);
        }
    }
    for key in [POSITIONS, COMMITTED, DICTS, META] {
        let fields = side.ask(&["HKEYS", key]);
        let names: BTreeSet<Reply> = fields.parts().iter().cloned().collect();
        for name in names {
            let Reply::Bulk(name) = name else { continue };
            all.push(Reply::Bulk(name.clone()));
            all.push(side.command(&[bytes("HGET"), bytes(key), name]));
        }
    }
    all.push(side.ask(&["LRANGE", REGISTRY, "0", "-1"]));
    for key in KEYS {
        all.push(side.ask(&["EXISTS", key]));
        all.push(side.ask(&["GET", key]));
    }
    let seen = side.seen().clone();
    all.into_iter().map(|reply| named(&seen, reply)).collect()
}

/// What kind of answer it is: a verdict, the code of an error, or its shape.
fn kind(reply: &Reply) -> String {
    match reply {
        Reply::Error(text) if text.contains("user_script:") && text.contains("attempt to") => "ERR lua".to_owned(),
        Reply::Error(text) => text.split(' ').next().unwrap_or_default().to_owned(),
        Reply::Array(parts) => match parts.first().and_then(Reply::text) {
            Some(verdict) if verdict.bytes().all(|b| b.is_ascii_lowercase()) => verdict.to_owned(),
            _ => "several".to_owned(),
        },
        Reply::Int(0) | Reply::Nil => "nothing".to_owned(),
        Reply::Int(_) => "number".to_owned(),
        Reply::Bulk(_) | Reply::Status(_) => "text".to_owned(),
    }
}

fn trace_is_alike(
    small: &mut Small,
    real: &mut Real,
    kinds: &mut BTreeSet<(&'static str, String)>,
    steps: &[Step],
) -> Result<(), TestCaseError> {
    real.full(false);
    real.ask(&["FLUSHALL"]);
    real.seen.clear();
    small.redis = Redis::new(small.redis.version, 0);
    small.seen.clear();
    let mut floor = 0;
    for (at, step) in steps.iter().enumerate() {
        // Each step has a millisecond of its own, so that ids come in the same way on both sides.
        let mut now = real.now();
        while now <= floor {
            now = real.now();
        }
        small.redis.now = now;
        let expected = take(real, step);
        floor = real.now();
        let found = take(small, step);
        prop_assert_eq!(&found, &expected, "small, real: step {} {:?}", at, step);
        if let Step::Script(script, ..) = step {
            kinds.insert((script.name(), kind(&expected)));
        }
    }
    let (expected, found) = (everything(real), everything(small));
    prop_assert_eq!(&found, &expected, "small, real: all that is there");
    Ok(())
}

#[test]
fn the_small_redis_answers_as_real_ones_do() {
    let programs = servers();
    assert!(!programs.is_empty(), "no redis-server in PATH");
    for program in programs {
        let folder = tempfile::tempdir().expect("a folder");
        let mut real = Real::start(&program, folder.path());
        let version = real.server.version().expect("the server answers");
        let traces = std::env::var("TELEMETRY_MODEL_TRACES").ok().and_then(|text| text.parse().ok()).unwrap_or(TRACES);
        let config = Config {
            cases: traces,
            rng_seed: RngSeed::Fixed(13),
            failure_persistence: None,
            max_shrink_iters: 2_000,
            ..Config::default()
        };
        println!("{}: {traces} traces, {version:?}", real.server.name);
        let small = Small { redis: Redis::new(version, 0), scripts: Scripts::new().expect("the scripts load"), seen: Vec::new() };
        let sides = std::cell::RefCell::new((small, real, BTreeSet::new()));
        let result = TestRunner::new(config).run(&steps(STEPS), |steps| {
            let (small, real, kinds) = &mut *sides.borrow_mut();
            trace_is_alike(small, real, kinds, &steps)
        });
        if let Err(error) = result {
            panic!("{}: {error}", sides.borrow().1.server.name);
        }
        let (_, _, kinds) = sides.into_inner();
        let missing: Vec<_> = KINDS.iter().filter(|(script, kind)| !kinds.contains(&(*script, (*kind).to_owned()))).collect();
        assert!(missing.is_empty(), "the traces never came to {missing:?}, but to {kinds:?}");
    }
}

#[test]
fn every_script_that_ships_is_compared() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/transport/redis/scripts");
    let files = std::fs::read_dir(folder).expect("the scripts are there").map(|file| file.expect("a file").path());
    let mut names: Vec<String> = files.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.retain(|name| name != "common");
    names.sort();
    let mut known: Vec<&str> = Script::ALL.iter().map(|script| script.name()).collect();
    known.sort_unstable();
    assert_eq!(known, names);
    let compared: BTreeSet<&str> = KINDS.iter().map(|(script, _)| *script).collect();
    assert_eq!(compared.into_iter().collect::<Vec<_>>(), names);
}
