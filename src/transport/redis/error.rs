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

/// What proxies answer in place of a Redis that is away: Envoy, and those of cloud providers.
const NO_SERVER: [&str; 3] = ["no upstream host", "no healthy upstream", "unavailable endpoint"];

/// The error in our words.
pub(super) fn explain(endpoint: &str, who: &Who, asked: &Asked, error: &Error) -> TransportError {
    let Who { user, patterns } = who;
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
        "LOADING" | "MASTERDOWN" | "READONLY" | "TRYAGAIN" | "BUSY" | "MISCONF" | "NOREPLICAS" | "NOGROUP" | "UNBLOCKED" => {
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
    if code(error) == "NOPERM" || text.contains("The user executing the script can't") || text.contains("ACL failure in script") {
        let command = asked.script.and_then(|s| s.command(text)).unwrap_or(asked.command);
        return refused(if text.contains("key") {
            format!(
                "user `{user}` has no right to access the keys {}; an administrator can grant it with ACL SETUSER ({patterns})",
                asked.keys.join(", ")
            )
        } else {
            format!(
                "user `{user}` has no right to run the command {command}; an administrator can grant it with ACL SETUSER (+{})",
                command.to_lowercase()
            )
        });
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
