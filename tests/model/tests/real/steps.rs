//! The steps of a trace: every script that ships, with good and with odd arguments, and what callers and strangers do beside them.

use proptest::prelude::*;
use proptest::sample::select;
use telemetry_model::lua::Script;
use telemetry_model::redis::reply::{Bytes, bytes};

pub const STREAM: &str = "{t:0}:stream";
pub const POSITIONS: &str = "{t:0}:positions";
pub const COMMITTED: &str = "{t:0}:committed:g";
pub const DICTS: &str = "{t:0}:dicts";
pub const META: &str = "{t:0}:meta";
pub const REGISTRY: &str = "{t:0}:registry";
pub const KEYS: [&str; 9] =
    [STREAM, POSITIONS, COMMITTED, DICTS, META, REGISTRY, "{t:0}:dict:0", "{t:0}:dict:1", "{t:0}:lease:0"];

/// An id in an argument.
#[derive(Clone, Debug)]
pub enum IdRef {
    /// That of an entry of the trace, counted from the first; where there are fewer, from the beginning again.
    Entry(usize),
    /// A text.
    Text(&'static str),
}

/// A position that a publisher expects.
#[derive(Clone, Debug)]
pub enum Expected {
    /// The one that is there.
    Current,
    /// None, or another.
    Text(String),
}

/// An argument.
#[derive(Clone, Debug)]
pub enum Arg {
    Text(String),
    Id(IdRef),
    /// The position of a source as it is.
    Position(String),
    /// The last use of a dictionary as it is.
    LastUse(&'static str),
}

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// A script.
    Script(Script, Vec<String>, Vec<Arg>),
    /// A command.
    Command(Vec<Arg>),
    /// Redis becomes full, or has room again.
    Full(bool),
}

impl Arg {
    /// The bytes that are sent; `ids` are those that this side has given so far, and `known` what it has where that is asked for.
    pub fn resolve(&self, ids: &[String], known: Option<Bytes>) -> Bytes {
        match self {
            Self::Text(text) => bytes(text),
            Self::Id(IdRef::Text(text)) => bytes(text),
            Self::Id(IdRef::Entry(at)) if ids.is_empty() => bytes(format!("{at}-7")),
            Self::Id(IdRef::Entry(at)) => bytes(&ids[at % ids.len()]),
            Self::Position(_) | Self::LastUse(_) => known.unwrap_or_else(|| bytes("")),
        }
    }
}

fn text(text: impl Into<String>) -> Arg {
    Arg::Text(text.into())
}

fn texts(list: &[&str]) -> Vec<Arg> {
    list.iter().map(|one| text(*one)).collect()
}

fn source() -> impl Strategy<Value = String> {
    select(vec!["0".repeat(32), "1".repeat(32), "a0".repeat(16), String::new()])
}

fn group() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just("g"), 2 => Just("h"), 1 => Just("nobody")]
}

fn consumer() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("a"), 3 => Just("b"), 1 => Just("stranger")]
}

fn number() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        6 => select(vec!["0", "1", "2", "3", "7", "100"]),
        2 => select(vec!["1000000000000", "18446744073709551615", "9223372036854775807"]),
        1 => select(vec!["", "x", "-1", "007", "18446744073709551616", " 5", "1.5", "1e3"]),
    ]
}

fn position() -> impl Strategy<Value = String> {
    let good = (0..4u32).prop_map(|n| format!("{n}:{}:{}", n * 10, "f".repeat(32)));
    let odd = select(vec!["7", "1:2:zz", "01:2:ffffffffffffffffffffffffffffffff", "1:2:FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"]);
    prop_oneof![9 => good, 1 => odd.prop_map(str::to_owned)]
}

fn id() -> impl Strategy<Value = Arg> {
    let odd = select(vec!["0-0", "5-5", "abc", "", "7", "1-1-1", "18446744073709551615-18446744073709551615", "-", "+"]);
    prop_oneof![12 => (0..6usize).prop_map(IdRef::Entry), 1 => odd.prop_map(IdRef::Text)].prop_map(Arg::Id)
}

fn ids() -> impl Strategy<Value = Vec<Arg>> {
    proptest::collection::vec(id(), 0..4)
}

fn digest() -> impl Strategy<Value = &'static str> {
    select(vec!["0", "1"])
}

fn script(script: Script, keys: &[&str], args: Vec<Arg>) -> Step {
    Step::Script(script, keys.iter().map(|key| (*key).to_owned()).collect(), args)
}

fn publish() -> impl Strategy<Value = Step> {
    let expected = prop_oneof![
        8 => Just(Expected::Current),
        1 => Just(Expected::Text(String::new())),
        1 => position().prop_map(Expected::Text),
    ];
    let limit = prop_oneof![5 => Just("100"), 3 => select(vec!["1", "2", "3"]), 1 => number()];
    let dictionaries = proptest::collection::vec((digest(), any::<bool>()), 0..3);
    (source(), expected, position(), number(), limit, group(), dictionaries).prop_map(
        |(source, expected, next, row, limit, group, dictionaries)| {
            let expected = match expected {
                Expected::Current => Arg::Position(source.clone()),
                Expected::Text(expected) => text(expected),
            };
            let mut args =
                vec![text(source), expected, text(next), text(row), text(row), text(limit), text(group), text("payload")];
            let mut keys = vec![STREAM.to_owned(), POSITIONS.to_owned(), DICTS.to_owned()];
            for (digest, sent) in dictionaries {
                keys.push(format!("{{t:0}}:dict:{digest}"));
                args.extend(texts(&[digest, if sent { "1" } else { "0" }, if sent { "bytes" } else { "" }]));
            }
            Step::Script(Script::Publish, keys, args)
        },
    )
}

fn acknowledge() -> impl Strategy<Value = Step> {
    let settled = proptest::collection::vec((source(), number()), 0..3);
    (group(), ids(), settled).prop_map(|(group, ids, settled)| {
        let mut args = vec![text(group), text(ids.len().to_string())];
        args.extend(ids);
        args.extend(settled.into_iter().flat_map(|(source, row)| [text(source), text(row)]));
        script(Script::Acknowledge, &[STREAM, COMMITTED], args)
    })
}

fn after_entries() -> impl Strategy<Value = Step> {
    let with = |script_: Script, head: Vec<Arg>, ids: Vec<Arg>| script(script_, &[STREAM], head.into_iter().chain(ids).collect());
    prop_oneof![
        (group(), consumer(), ids(), select(vec!["33", "3", "0"]), number()).prop_map(
            move |(group, consumer, ids, longest, most)| { with(Script::Read, texts(&[group, consumer, longest, most]), ids) }
        ),
        (group(), consumer(), ids()).prop_map(move |(group, consumer, ids)| with(Script::Keep, texts(&[group, consumer]), ids)),
        (group(), prop_oneof![id(), Just(text(""))], number()).prop_map(move |(group, from, count)| with(
            Script::Queued,
            vec![text(group), from, text(count)],
            Vec::new()
        )),
        group().prop_map(|group| script(Script::Backlog, &[STREAM], texts(&[group]))),
        (group(), number()).prop_map(|(group, most)| script(Script::Look, &[STREAM], texts(&[group, most]))),
        (group(), consumer()).prop_map(|(group, consumer)| script(Script::Leave, &[STREAM], texts(&[group, consumer]))),
        (group(), select(vec!["0", "1000000000"])).prop_map(|(group, idle)| script(
            Script::Retire,
            &[STREAM, COMMITTED],
            texts(&[group, idle])
        )),
        (number(), proptest::collection::vec((digest(), prop_oneof![1 => id(), 3 => digest().prop_map(Arg::LastUse)]), 0..3))
            .prop_map(|(unused, candidates)| {
                let mut keys = vec![STREAM.to_owned(), DICTS.to_owned()];
                let mut args = vec![text(unused)];
                for (digest, seen) in candidates {
                    keys.push(format!("{{t:0}}:dict:{digest}"));
                    args.extend([text(digest), seen]);
                }
                Step::Script(Script::Sweep, keys, args)
            }),
    ]
}

/// Marks of stores and their generations, what is none, and nothing: only to look, or no generation.
fn mark() -> impl Strategy<Value = &'static str> {
    select(vec!["0123abcd-0000-0000-0000-0123456789ab", "ffffffff-0000-0000-0000-0123456789ab", "", "x", "0123abcd-0000"])
}

fn small_scripts() -> impl Strategy<Value = Step> {
    let identity = select(vec![
        format!("1:{}:{}", "a".repeat(32), "b".repeat(32)),
        format!("2:{}:{}", "a".repeat(32), "b".repeat(32)),
        "strange".to_owned(),
        String::new(),
    ]);
    let ttl = prop_oneof![8 => Just("100000"), 1 => select(vec!["0", "-1", "x", "9223372036854775807"])];
    prop_oneof![
        (digest(), number())
            .prop_map(|(digest, limit)| { Step::Script(Script::Fetch, vec![format!("{{t:0}}:dict:{digest}")], texts(&[limit])) }),
        (consumer(), ttl, source()).prop_map(|(owner, ttl, source)| {
            script(Script::Lease, &["{t:0}:lease:0", POSITIONS], vec![text(owner), text(ttl), text(source)])
        }),
        consumer().prop_map(|owner| script(Script::Release, &["{t:0}:lease:0"], texts(&[owner]))),
        proptest::collection::vec(identity, 1..4).prop_map(|identities| script(
            Script::Register,
            &[REGISTRY],
            identities.into_iter().map(text).collect()
        )),
        (select(vec!["g", "h"]), mark(), mark()).prop_map(|(group, mark, seen)| {
            let fields = [format!("store:{group}"), format!("generation:{group}")];
            script(Script::Mark, &[META], fields.into_iter().map(text).chain(texts(&[mark, seen])).collect())
        }),
        (id(), source()).prop_map(|(id, source)| {
            script(Script::Contains, &[STREAM], [id].into_iter().chain(texts(&[source.as_str(), "0", "2"])).collect())
        }),
        (select(vec!["partitions", "store:g", "generation:g"]), number()).prop_map(|(field, value)| script(
            Script::Once,
            &[META],
            texts(&[field, value])
        )),
        (source(), mark()).prop_map(|(source, generation)| {
            let args = [source.as_str(), "store:g", "generation:g", generation];
            script(Script::Reset, &[POSITIONS, COMMITTED, META], texts(&args))
        }),
    ]
}

fn command() -> impl Strategy<Value = Step> {
    let strange = select(vec!["SET", "DEL"]);
    let value = select(vec!["", "5", "x", "1:2:ffffffffffffffffffffffffffffffff", "99999999999999999999"]);
    prop_oneof![
        12 => (group(), consumer(), select(vec!["1", "2", "10"])).prop_map(|(group, consumer, count)| {
            Step::Command(texts(&["XREADGROUP", "GROUP", group, consumer, "COUNT", count, "STREAMS", STREAM, ">"]))
        }),
        4 => (group(), consumer(), id(), select(vec!["1", "10"])).prop_map(|(group, consumer, from, count)| {
            let mut args = texts(&["XAUTOCLAIM", STREAM, group, consumer, "0"]);
            args.push(from);
            args.extend(texts(&["COUNT", count, "JUSTID"]));
            Step::Command(args)
        }),
        3 => (select(vec!["g", "h"]), select(vec!["0", "$"])).prop_map(|(group, from)| {
            Step::Command(texts(&["XGROUP", "CREATE", STREAM, group, from, "MKSTREAM"]))
        }),
        1 => (group(), id()).prop_map(|(group, id)| {
            Step::Command(texts(&["XGROUP", "SETID", STREAM, group]).into_iter().chain([id]).collect())
        }),
        1 => id().prop_map(|id| Step::Command(texts(&["XDEL", STREAM]).into_iter().chain([id]).collect())),
        1 => id().prop_map(|id| Step::Command(texts(&["XADD", STREAM]).into_iter().chain([id]).chain(texts(&["s", "odd"])).collect())),
        1 => (select(KEYS.to_vec()), strange).prop_map(|(key, what)| match what {
            "SET" => Step::Command(texts(&["SET", key, "strange"])),
            _ => Step::Command(texts(&["DEL", key])),
        }),
        2 => (select(vec![POSITIONS, COMMITTED, DICTS, META]), source(), value).prop_map(|(key, source, value)| {
            Step::Command(vec![text("HSET"), text(key), text(source), text(value)])
        }),
    ]
}

/// A step of a trace.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => publish(),
        4 => acknowledge(),
        7 => after_entries(),
        4 => small_scripts(),
        6 => command(),
        1 => any::<bool>().prop_map(Step::Full),
    ]
}

/// A dictionary that nothing in the queue refers to any more, and a sweep: chance alone hardly ever comes to that.
fn swept() -> impl Strategy<Value = Vec<Step>> {
    let publish = |next: &str, dictionary: bool| {
        let source = "1".repeat(32);
        let next = format!("{next}:10:{}", "f".repeat(32));
        let mut args = vec![text(source.clone()), Arg::Position(source), text(next)];
        args.extend(texts(&["0", "1", "100", "g", "payload"]));
        let mut keys = vec![STREAM.to_owned(), POSITIONS.to_owned(), DICTS.to_owned()];
        if dictionary {
            keys.push("{t:0}:dict:0".to_owned());
            args.extend(texts(&["0", "1", "bytes"]));
        }
        Step::Script(Script::Publish, keys, args)
    };
    let retire = |group: &str| script(Script::Retire, &[STREAM, COMMITTED], texts(&[group, "0"]));
    let read = Step::Command(texts(&["XREADGROUP", "GROUP", "g", "a", "COUNT", "10", "STREAMS", STREAM, ">"]));
    let ids = (0..8).map(|at| Arg::Id(IdRef::Entry(at)));
    let acknowledge = script(Script::Acknowledge, &[STREAM, COMMITTED], texts(&["g", "8"]).into_iter().chain(ids).collect());
    let used = Arg::LastUse("0");
    let sweep = script(Script::Sweep, &[STREAM, DICTS, "{t:0}:dict:0"], vec![text("0"), text("0"), used]);
    let steps = [publish("1", true), publish("2", false), retire("h"), retire("nobody"), read, acknowledge, sweep];
    Just(steps.to_vec())
}

/// Steps of a trace.
pub fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let some = prop_oneof![60 => step().prop_map(|step| vec![step]), 1 => swept()];
    proptest::collection::vec(some, 1..most).prop_map(|some| some.concat())
}
