//! Runs the scripts that ship, as Redis runs them, on the small Redis.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, Table, Value};

use crate::redis::reply::{Bytes, Reply, bytes};
use crate::redis::{Effect, FULL, Redis, effect};

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        /// A script that ships.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Script {
            $(
                #[doc = concat!("`", $file, ".lua`.")]
                $name,
            )*
        }

        impl Script {
            /// Every script.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name of its file.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $file,)*
                }
            }

            /// The text that is sent: `common.lua` and its own.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => concat!(
                        include_str!("../../../src/transport/redis/scripts/common.lua"),
                        include_str!(concat!("../../../src/transport/redis/scripts/", $file, ".lua")),
                    ),)*
                }
            }
        }
    };
}

scripts! {
    Publish = "publish";
    Acknowledge = "acknowledge";
    Read = "read";
    Contains = "contains";
    Fetch = "fetch";
    Sweep = "sweep";
    Backlog = "backlog";
    Queued = "queued";
    Look = "look";
    Retire = "retire";
    Keep = "keep";
    Leave = "leave";
    Lease = "lease";
    Release = "release";
    Register = "register";
    Once = "once";
    Mark = "mark";
    Reset = "reset";
}

/// Runs scripts. One for each thread: Lua has no two at once.
pub struct Scripts {
    lua: Lua,
    running: Rc<RefCell<Running>>,
    /// By script, in the order of [`Script::ALL`].
    functions: Vec<Function>,
}

/// The Redis that a script runs on.
#[derive(Default)]
struct Running {
    redis: Redis,
    /// Whether the script has written: what comes then is allowed, full or not.
    has_written: bool,
}

/// An error that a command gave to a script that did not ask for it.
#[derive(Debug)]
struct CallFailed {
    error: String,
    line: Option<usize>,
}

impl fmt::Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for CallFailed {}

impl Running {
    fn call(&mut self, args: &[Bytes]) -> Reply {
        let effect = effect(args);
        if self.redis.full && effect == Effect::Grows && !self.has_written {
            return Reply::Error(FULL.to_owned());
        }
        self.has_written |= effect != Effect::Reads;
        self.redis.apply(args)
    }
}

impl Scripts {
    /// A Lua with every script loaded.
    ///
    /// # Errors
    /// A script that Lua cannot read.
    pub fn new() -> mlua::Result<Self> {
        Self::with(Script::text)
    }

    /// The same with other texts: to plant faults.
    ///
    /// # Errors
    /// A script that Lua cannot read.
    pub fn with(text: impl Fn(Script) -> &'static str) -> mlua::Result<Self> {
        let lua = Lua::new();
        let running = Rc::new(RefCell::new(Running::default()));
        let redis = lua.create_table()?;
        let state = running.clone();
        let call = lua.create_function(move |lua, args: MultiValue| {
            let reply = state.borrow_mut().call(&arguments(&args)?);
            if let Reply::Error(error) = reply {
                let line = lua.inspect_stack(1, |frame| frame.current_line()).flatten();
                return Err(mlua::Error::external(CallFailed { error, line }));
            }
            to_lua(lua, &reply)
        })?;
        redis.set("call", call)?;
        let state = running.clone();
        let pcall = lua.create_function(move |lua, args: MultiValue| {
            let reply = state.borrow_mut().call(&arguments(&args)?);
            to_lua(lua, &reply)
        })?;
        redis.set("pcall", pcall)?;
        for (name, field) in [("error_reply", "err"), ("status_reply", "ok")] {
            let make = lua.create_function(move |lua, text: mlua::LuaString| {
                let table = lua.create_table()?;
                table.set(field, text)?;
                Ok(table)
            })?;
            redis.set(name, make)?;
        }
        lua.globals().set("redis", redis)?;
        let functions = Script::ALL.iter().map(|script| lua.load(text(*script)).set_name("@user_script").into_function());
        let functions = functions.collect::<mlua::Result<_>>()?;
        Ok(Self { lua, running, functions })
    }

    /// Runs a script, and gives its answer. The state is changed also where it is an error: Redis takes nothing back.
    pub fn run(&self, redis: &mut Redis, script: Script, keys: &[Bytes], args: &[Bytes]) -> Reply {
        self.running.replace(Running { redis: std::mem::take(redis), has_written: false });
        let answer = self.answer(script, keys, args);
        *redis = self.running.take().redis;
        answer.unwrap_or_else(|error| Reply::Error(explain(&error)))
    }

    fn answer(&self, script: Script, keys: &[Bytes], args: &[Bytes]) -> mlua::Result<Reply> {
        let list = |texts: &[Bytes]| -> mlua::Result<Table> {
            self.lua
                .create_sequence_from(texts.iter().map(|text| self.lua.create_string(text)).collect::<mlua::Result<Vec<_>>>()?)
        };
        self.lua.globals().raw_set("KEYS", list(keys)?)?;
        self.lua.globals().raw_set("ARGV", list(args)?)?;
        let at = Script::ALL.iter().position(|one| *one == script).unwrap_or_default();
        from_lua(&self.functions[at].call::<Value>(())?)
    }
}

/// The words that Redis has for an error, but for the script's digest.
fn explain(error: &mlua::Error) -> String {
    if let Some(failed) = error.downcast_ref::<CallFailed>() {
        let line = failed.line.map_or_else(String::new, |line| line.to_string());
        return format!("{} script: on @user_script:{line}.", failed.error);
    }
    let mut root = error;
    while let mlua::Error::CallbackError { cause, .. } = root {
        root = cause;
    }
    let text = match root {
        mlua::Error::RuntimeError(text) => text.clone(),
        other => other.to_string(),
    };
    let text = text.lines().next().unwrap_or_default();
    let line = text.strip_prefix("user_script:").and_then(|rest| rest.split(':').next()).unwrap_or_default();
    format!("ERR {text} script: on @user_script:{line}.")
}

fn arguments(args: &MultiValue) -> mlua::Result<Vec<Bytes>> {
    let argument = |value: &Value| match value {
        Value::String(text) => Ok(bytes(text.as_bytes())),
        Value::Integer(number) => Ok(bytes(number.to_string())),
        // As %.17g writes those that scripts have.
        Value::Number(number) => Ok(bytes(number.to_string())),
        _ => Err(mlua::Error::runtime("Lua redis lib command arguments must be strings or integers")),
    };
    args.iter().map(argument).collect()
}

fn to_lua(lua: &Lua, reply: &Reply) -> mlua::Result<Value> {
    let named = |field: &str, text: &str| {
        let table = lua.create_table()?;
        table.raw_set(field, text)?;
        Ok(Value::Table(table))
    };
    match reply {
        Reply::Nil => Ok(Value::Boolean(false)),
        Reply::Int(number) => Ok(Value::Number(*number as f64)),
        Reply::Bulk(text) => Ok(Value::String(lua.create_string(text)?)),
        Reply::Status(text) => named("ok", text),
        Reply::Error(text) => named("err", text),
        Reply::Array(parts) => {
            let table = lua.create_table_with_capacity(parts.len(), 0)?;
            for (at, part) in parts.iter().enumerate() {
                table.raw_set(at + 1, to_lua(lua, part)?)?;
            }
            Ok(Value::Table(table))
        }
    }
}

fn from_lua(value: &Value) -> mlua::Result<Reply> {
    Ok(match value {
        Value::String(text) => Reply::bulk(text.as_bytes()),
        Value::Integer(number) => Reply::Int(*number),
        // Redis cuts it.
        Value::Number(number) => Reply::Int(*number as i64),
        Value::Boolean(true) => Reply::Int(1),
        Value::Table(table) => {
            if let Value::String(text) = table.raw_get::<Value>("err")? {
                return Ok(Reply::Error(text.to_string_lossy()));
            }
            if let Value::String(text) = table.raw_get::<Value>("ok")? {
                return Ok(Reply::Status(text.to_string_lossy()));
            }
            let mut parts = Vec::new();
            for at in 1.. {
                match table.raw_get::<Value>(at)? {
                    Value::Nil => break,
                    part => parts.push(from_lua(&part)?),
                }
            }
            Reply::Array(parts)
        }
        _ => Reply::Nil,
    })
}
