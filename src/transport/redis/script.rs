//! The Lua scripts, and finding in them what an error speaks of.

use std::sync::LazyLock;

/// A script as it is sent: `common.lua` and its own text.
pub(super) struct Script {
    /// The file name, for messages.
    pub(super) name: &'static str,
    /// The Lua text that is sent.
    pub(super) text: &'static str,
    sha: LazyLock<String>,
}

impl Script {
    /// The SHA-1 digest that EVALSHA takes.
    pub(super) fn sha(&self) -> &str {
        &self.sha
    }

    /// The line that an error of Redis names (`… on @user_script:12.`).
    fn line(&self, error: &str) -> Option<&'static str> {
        let number = error.rsplit_once("user_script:")?.1;
        let number: usize = number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        self.text.lines().nth(number.checked_sub(1)?)
    }

    /// The command that the error is about.
    pub(super) fn command(&self, error: &str) -> Option<&'static str> {
        self.line(error)?.split_once("redis.call('")?.1.split('\'').next()
    }

    /// The key (counted from 0) that the error is about.
    pub(super) fn key(&self, error: &str) -> Option<usize> {
        let call = self.line(error)?.split_once("redis.call(")?.1;
        match call.split_once("KEYS[") {
            Some((_, index)) => index.split(']').next()?.parse::<usize>().ok()?.checked_sub(1),
            // What scripts share is about the stream, which every script that has it has first.
            None => call.contains("stream").then_some(0),
        }
    }
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $(
            $(#[$doc])*
            pub(super) static $name: Script = Script {
                name: $file,
                text: concat!(include_str!("scripts/common.lua"), include_str!(concat!("scripts/", $file, ".lua"))),
                sha: LazyLock::new(|| fred::util::sha1_hash($name.text)),
            };
        )*
    };
}

scripts! {
    /// Appends a batch.
    PUBLISH = "publish";
    /// Acknowledges entries and trims.
    ACKNOWLEDGE = "acknowledge";
    /// Reads entries that were delivered before.
    READ = "read";
    /// Looks for an entry.
    CONTAINS = "contains";
    /// Reads a dictionary.
    FETCH = "fetch";
    /// Removes unused dictionaries.
    SWEEP = "sweep";
    /// Counts what waits.
    BACKLOG = "backlog";
    /// Lists what waits.
    QUEUED = "queued";
    /// Looks at a partition and its groups.
    LOOK = "look";
    /// Takes a group away.
    RETIRE = "retire";
    /// Refreshes entries being worked on.
    KEEP = "keep";
    /// Deletes an idle consumer.
    LEAVE = "leave";
    /// Takes or renews a lease.
    LEASE = "lease";
    /// Gives a lease back.
    RELEASE = "release";
    /// Registers a content.
    REGISTER = "register";
    /// Sets a field once.
    ONCE = "once";
    /// Marks the store of a group.
    MARK = "mark";
    /// Forgets sources.
    RESET = "reset";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_traced_to_its_command_and_key() {
        let at = |needle: &str| PUBLISH.text.lines().position(|l| l.contains(needle)).expect("it is there") + 1;
        let error =
            |line| format!("ERR The user executing the script can't run this command script: ab, on @user_script:{line}.");
        assert_eq!(PUBLISH.command(&error(at("'XADD'"))), Some("XADD"));
        assert_eq!(PUBLISH.key(&error(at("'HLEN'"))), Some(2));
        assert_eq!(PUBLISH.command("OOM command not allowed"), None);
        assert_eq!(PUBLISH.command("on @user_script:0."), None);
        assert_eq!(PUBLISH.key("on @user_script:99999."), None);
    }
}
