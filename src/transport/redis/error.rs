//! What went wrong with a command, in our words.

use fred::error::{Error, ErrorKind};

use super::script::Script;
use crate::address::redis::Address;
use crate::transport::TransportError;

/// What was asked of Redis, for messages.
#[derive(Clone)]
pub(super) struct Asked {
    /// The command, or a script.
    pub(super) command: &'static str,
    /// The script.
    pub(super) script: Option<&'static Script>,
    /// The keys that were passed.
    pub(super) keys: Vec<String>,
}

/// As whom we are there, for messages.
pub(super) struct Who {
    /// The ACL user.
    pub(super) user: String,
    /// The ACL patterns of the keys.
    pub(super) patterns: String,
}

/// The code at an error's beginning (`OOM`, `NOPERM`, …). Redis 6 hides that of an error inside a script in the middle of the text.
pub(super) fn code(error: &Error) -> &str {
    let text = error.details();
    if text.starts_with("ERR Error running script")
        && let Some((_, inner)) = text.rsplit_once(": -")
    {
        return inner.split(' ').next().unwrap_or_default();
    }
    text.split(' ').next().unwrap_or_default()
}

/// Whether the connection is of no more use after this.
pub(super) fn ends_connection(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Protocol | ErrorKind::Routing)
        // Another server is the primary now: connecting again finds it.
        || matches!(code(error), "READONLY" | "MASTERDOWN")
        // Whoever logs in again is told more.
        || code(error) == "NOAUTH"
}

/// What an answer says of a cluster's map.
pub(super) struct Change {
    /// Who may know better.
    pub(super) to: Option<Address>,
    /// Whether the partition has left the connection's node.
    pub(super) ends: bool,
}

impl Change {
    /// What an error of `from` says, if it is about the map.
    pub(super) fn said_by(error: &Error, from: &Address) -> Option<Self> {
        match code(error) {
            "MOVED" => Some(Self { to: target(error.details(), from), ends: true }),
            // While a slot moves, its keys are here and there; the old owner stays responsible until the end.
            "ASK" => Some(Self { to: None, ends: false }),
            "CLUSTERDOWN" | "READONLY" | "MASTERDOWN" => Some(Self { to: None, ends: false }),
            _ => None,
        }
    }
}

/// `MOVED 3999 host:port`. A node that announces nothing (`?:port`, `:port`) is no help.
fn target(text: &str, from: &Address) -> Option<Address> {
    let (host, port) = text.split(' ').nth(2)?.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host {
        "?" => None,
        "" => Some(Address { host: from.host.clone(), port }),
        host => Some(Address { host: host.to_owned(), port }),
    }
}

/// Whether it is about who we are.
pub(super) fn is_about_login(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Auth) || matches!(code(error), "WRONGPASS" | "NOAUTH")
}

/// Whether it is about who we are or what we may do.
pub(super) fn is_about_rights(error: &Error) -> bool {
    is_about_login(error) || code(error) == "NOPERM" || error.details().contains("DB index is out of range")
}

/// Whether the stream or the group is gone.
pub(super) fn lost_group(error: &Error) -> bool {
    matches!(code(error), "NOGROUP" | "UNBLOCKED")
}

/// Whether the server has no such command: it was renamed or disabled there, or a managed service keeps it back. What Redis answers to the
/// command itself, within a script and to ACL DRYRUN; then what services and proxies answer.
fn is_unknown_command(text: &str) -> bool {
    const ANSWERS: [&str; 6] = [
        "unknown command",
        "unknown subcommand",
        "unknown redis command",
        "unsupported command",
        "command is not supported",
        "command is not available",
    ];
    let text = text.to_ascii_lowercase();
    ANSWERS.iter().any(|answer| text.contains(answer)) || (text.starts_with("err command '") && text.ends_with("' not found"))
}

fn is_denied(error: &Error) -> bool {
    let text = error.details();
    code(error) == "NOPERM" || text.contains("The user executing the script can't") || text.contains("ACL failure in script")
}

/// Whether a refusal is about keys, and not about a command (HKEYS has the word in it).
pub(super) fn is_about_keys(text: &str) -> bool {
    text.contains(" key")
}

/// Why a server did not run a command.
pub(super) enum NotRun {
    /// It has no command of this name (empty where it does not say which).
    Unknown(String),
    /// The user may not run it, or not on these keys.
    Denied {
        /// Whether it is about the keys.
        keys: bool,
    },
    /// Anything else: it knows the command and would let the user run it.
    Other,
}

impl NotRun {
    /// What an error says of the command.
    pub(super) fn of(error: &Error) -> Self {
        let text = error.details();
        match () {
            () if is_unknown_command(text) => Self::Unknown(quoted(text).unwrap_or_default().to_owned()),
            () if is_denied(error) => Self::Denied { keys: is_about_keys(text) },
            () => Self::Other,
        }
    }
}

/// The first word in quotes.
fn quoted(text: &str) -> Option<&str> {
    text.split('\'').nth(1).filter(|word| !word.is_empty())
}

/// What is wrong with a server that has no such commands, and what to do.
pub(super) fn lacking(commands: &[&str]) -> String {
    let several = commands.len() > 1;
    let (noun, were, them) = if several { ("commands", "they were", "them") } else { ("command", "it was", "it") };
    format!(
        "the server does not know the {noun} {}: {were} renamed or disabled there (rename-command), or the service does not offer {them}; \
         restore {them} there, or use a Redis that has {them}",
        commands.join(", ")
    )
}

/// What is wrong with a user that may not run these commands, or not on these keys, and what to do.
pub(super) fn denied(who: &Who, commands: &[&str], keys: Option<&str>) -> String {
    let Who { user, patterns } = who;
    let (mut missing, mut grant) = (Vec::new(), Vec::new());
    if !commands.is_empty() {
        missing.push(format!("the command{} {}", if commands.len() > 1 { "s" } else { "" }, commands.join(", ")));
        grant.extend(commands.iter().map(|command| format!("+{}", command.to_lowercase())));
    }
    if let Some(keys) = keys {
        missing.push(format!("the keys {keys}"));
        grant.push(patterns.clone());
    }
    format!("user `{user}` has no permission for {}; grant it with ACL SETUSER {user} {}", missing.join(" and "), grant.join(" "))
}

/// How what is said of a server begins that is there and accepts no writes.
pub(super) const NO_WRITES: &str = "it accepts no writes now";

/// What proxies answer in place of a Redis that is away: Envoy, and those of cloud providers.
const NO_SERVER: [&str; 3] = ["no upstream host", "no healthy upstream", "unavailable endpoint"];

/// The error in our words.
pub(super) fn explain(endpoint: &str, who: &Who, asked: &Asked, error: &Error) -> TransportError {
    let Who { user, .. } = who;
    let endpoint = endpoint.to_owned();
    let text = error.details();
    let unavailable = |reason: String| TransportError::Unavailable { endpoint: endpoint.clone(), reason };
    let refused = |reason: String| TransportError::Refused { endpoint: endpoint.clone(), reason };
    match code(error) {
        "OOM" => return TransportError::Full { endpoint },
        "CLUSTERDOWN" => {
            return unavailable(format!(
                "{text}; bring the missing nodes back, or give their slots to others (redis-cli --cluster fix)"
            ));
        }
        "NOREPLICAS" => {
            return unavailable(format!(
                "{NO_WRITES} (NOREPLICAS): fewer replicas are connected and up to date than min-replicas-to-write demands; bring its \
                 replicas back (min-replicas-max-lag says how far behind they may be), or lower min-replicas-to-write"
            ));
        }
        "MISCONF" => {
            return unavailable(format!(
                "{NO_WRITES} (MISCONF): its last snapshot or append-only file could not be written; look at the disk and the log of the server"
            ));
        }
        "LOADING" | "MASTERDOWN" | "READONLY" | "TRYAGAIN" | "BUSY" | "NOGROUP" | "UNBLOCKED" => {
            return unavailable(text.to_owned());
        }
        "DENIED" => {
            return refused(
                "it is in protected mode: without a password it takes connections from its own machine only; give it a password \
                 (requirepass, or ACL users) and redis.password to us"
                    .to_owned(),
            );
        }
        "WRONGPASS" => {
            return refused(format!(
                "the password of user `{user}` is wrong, or the user is unknown or disabled; check redis.password (REDIS_PASSWORD) \
                 and redis.username (REDIS_USERNAME)"
            ));
        }
        "NOAUTH" => return refused("it wants a password; set redis.password (REDIS_PASSWORD)".to_owned()),
        "WRONGTYPE" => {
            let key = asked.script.and_then(|s| s.key(text)).and_then(|i| asked.keys.get(i)).cloned();
            let key = key.unwrap_or_else(|| asked.keys.join(", "));
            let reason = format!(
                "the key {key} holds another kind of value than it should; is the prefix (redis.prefix) used by something else? Delete \
                 the key (DEL {key}) or choose another prefix"
            );
            return TransportError::Blocked { endpoint, key, reason };
        }
        "MOVED" => return unavailable("it no longer has this partition's slot; the node that has it is looked for".to_owned()),
        "ASK" => {
            return unavailable("this partition's slot is being moved to another node; waiting until that is done".to_owned());
        }
        _ => {}
    }
    if is_denied(error) {
        let command = asked.script.and_then(|s| s.command(text)).unwrap_or(asked.command);
        return refused(match is_about_keys(text) {
            true => denied(who, &[], Some(&asked.keys.join(", "))),
            false => denied(who, &[command], None),
        });
    }
    if is_unknown_command(text) {
        // A script's line says which command; the answer to EVAL, sent where EVALSHA was not enough, has it in quotes.
        let in_script = asked.script.and_then(|s| s.command(text));
        let quoted = quoted(text);
        let subcommand = quoted.filter(|_| text.contains("subcommand")).map(|name| format!("{} {name}", asked.command));
        let command = in_script.or(subcommand.as_deref()).or(quoted).unwrap_or(asked.command);
        return refused(lacking(&[command]));
    }
    if text.contains("max number of clients") {
        return unavailable(
            "it has no room for another client (maxclients); raise maxclients there, or end clients that are not needed"
                .to_owned(),
        );
    }
    if NO_SERVER.iter().any(|words| text.contains(words)) {
        return unavailable(format!("the proxy before it has no server to hand on to ({text})"));
    }
    if text.contains("exhausted the last possible ID") {
        let key = asked.keys.first().cloned().unwrap_or_default();
        let reason = format!(
            "the stream {key} takes no entry any more: it was given one with the greatest id there is. `telemetry check` with DATABASE_URL \
             set prints the commands that mend it; until then its sources wait"
        );
        return TransportError::Blocked { endpoint, key, reason };
    }
    if text.contains("DB index is out of range") {
        return refused("it has no database of this number; correct the number at the end of redis.url".to_owned());
    }
    let what = asked.script.map_or(asked.command, |s| s.name);
    match error.kind() {
        ErrorKind::Auth => refused(format!("{text}; check redis.username and redis.password (REDIS_PASSWORD)")),
        ErrorKind::Timeout => unavailable(format!("no answer in time ({what})")),
        ErrorKind::Canceled | ErrorKind::Backpressure => unavailable("the connection was lost".to_owned()),
        // The client's own queues end with its connection, and say so in this way.
        ErrorKind::Unknown if text.contains("channel closed") => unavailable("the connection was lost".to_owned()),
        ErrorKind::IO | ErrorKind::Routing => unavailable(words(text)),
        ErrorKind::Protocol => refused(format!("what answers there does not speak the Redis protocol ({text}); check redis.url")),
        _ => TransportError::Corrupt(format!("Redis at {endpoint} did not understand {what}: {text}")),
    }
}

/// The client shows IO errors in their debug form; the message in it is enough.
fn words(text: &str) -> String {
    let quoted = |mark: &str| text.split_once(mark).and_then(|(_, rest)| rest.split_once('"')).map(|(message, _)| message);
    let message = quoted("message: \"").or_else(|| quoted("error: \"")).unwrap_or(text);
    if message.contains("lookup address") { format!("its name does not resolve ({message})") } else { message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_at_the_beginning_and_inside() {
        let code_of = |text: &str| code(&Error::new(ErrorKind::Unknown, text.to_owned())).to_owned();
        assert_eq!(code_of("OOM command not allowed when used memory > 'maxmemory'. script: ab, on @user_script:1."), "OOM");
        let old = "ERR Error running script (call to f_ab): @user_script:1: @user_script: 1: -OOM command not allowed";
        assert_eq!(code_of(old), "OOM");
        assert_eq!(code_of(""), "");
    }

    #[test]
    fn who_has_no_room_or_no_server_is_waited_for() {
        let who = Who { user: "edge".to_owned(), patterns: String::new() };
        let asked = Asked { command: "AUTH", script: None, keys: Vec::new() };
        let said = |text: &str| explain("redis:1", &who, &asked, &Error::new(ErrorKind::Unknown, text.to_owned()));
        for text in ["ERR max number of clients reached", "ERR no upstream host", "unavailable endpoint"] {
            let error = said(text);
            assert!(error.is_transient() && !error.to_string().contains("AUTH"), "{error}");
        }
        let denied = said("DENIED Redis is running in protected mode because protected mode is enabled");
        assert!(!denied.is_transient() && denied.to_string().contains("requirepass"), "{denied}");
    }

    #[test]
    fn a_moved_slot_says_where() {
        let from = Address { host: "seed".to_owned(), port: 1 };
        let to = |text: &str| {
            let change = Change::said_by(&Error::new(ErrorKind::Unknown, text.to_owned()), &from)?;
            Some(change.to.map(|to| to.to_string()))
        };
        assert_eq!(to("MOVED 3999 redis-2.example.test:7602"), Some(Some("redis-2.example.test:7602".to_owned())));
        assert_eq!(to("MOVED 3999 ::1:7602"), Some(Some("[::1]:7602".to_owned())));
        assert_eq!(to("MOVED 3999 :7602"), Some(Some("seed:7602".to_owned())));
        assert_eq!(to("MOVED 3999 ?:7602"), Some(None));
        assert_eq!(to("OOM command not allowed"), None);
    }
}
