//! Looking at PostgreSQL for `telemetry check`, from the name to the schema. Nothing is changed.
//!
//! The line is looked at by itself (`line`), host by host, so that what is wrong is said where it is: a name that does not resolve is
//! no certificate. Then a connection is made as everybody makes it, and the server is asked (`server`).

mod line;
mod server;

use std::time::Instant;

use super::connect::Connector;
use super::error::login_fault;
use super::pooler;
use crate::config::Postgres;
use crate::diagnosis::{Outcome, Step};
use crate::store::StoreError;

/// What is done with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Everything: collectors write to it.
    Writing,
    /// It is read from (`store.read_url`), and may be a standby.
    Reading,
}

/// Looks at everything that a role needs of PostgreSQL. What cannot be looked at because of what failed before is left out.
pub async fn diagnose(config: &Postgres, used_for: Use) -> Vec<Step> {
    let connector = match Connector::new(config) {
        Ok(connector) => connector,
        Err(reason) => return vec![Step::failed("configuration", reason, "correct it")],
    };
    let mut steps = vec![configuration(&connector)];
    steps.extend(line::look(&connector, config.connect_timeout).await);
    let begun = Instant::now();
    let made = tokio::time::timeout(connector.timeout(), connector.connect_any()).await;
    let client = match made {
        Ok(Ok((client, _))) => client,
        outcome => {
            // What the line said already need not be said again.
            if !steps.iter().any(|step| step.outcome == Outcome::Failed) {
                steps.push(match outcome {
                    Ok(Err(error)) => refused(login_fault(&connector.endpoint(), connector.login(), &error)),
                    _ => Step::failed(
                        "login",
                        format!("no connection within {:?}: timed out", connector.timeout()),
                        "look at the server's load and its log; postgres.connect_timeout says how long it may take",
                    ),
                });
            }
            return steps;
        }
    };
    let took = begun.elapsed();
    match pooler::is_between(&connector).await {
        Ok(true) => {
            steps.push(Step::failed("pooler", pooler::FOUND, pooler::REMEDY));
            // What it says of the server may be said of another connection.
            return steps;
        }
        Ok(false) => {}
        Err(error) => tracing::debug!(%error, "looking for a connection pooler"),
    }
    steps.extend(server::look(&client, config, used_for, took).await);
    steps
}

fn configuration(connector: &Connector) -> Step {
    let seen = format!("{} with {}", connector.endpoint(), connector.describe());
    match connector.warning() {
        Some(warning) => Step::warning("configuration", seen, warning),
        None => Step::ok("configuration", seen),
    }
}

/// A login that did not come about.
fn refused(error: StoreError) -> Step {
    let reason = match error {
        StoreError::Refused { reason, .. } | StoreError::Unavailable { reason, .. } => reason,
        other => other.to_string(),
    };
    // The reason ends with what to do.
    match reason.rsplit_once(": ") {
        Some((seen, todo)) if seen.contains("SQLSTATE") => Step::failed("login", seen, todo),
        _ => Step::failed("login", reason, ""),
    }
}
