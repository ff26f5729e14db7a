//! Probes: when, and what a row of results means. And how long a container that ends waits before it is started again.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which probe, for what its results mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// Timing of a probe, with Kubernetes' defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub successes: i32,
    pub failures: i32,
}

impl Timing {
    #[must_use]
    pub fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: i32| {
            Duration::from_secs(u64::try_from(value.filter(|v| *v > 0).unwrap_or(default)).unwrap_or(0))
        };
        Self {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes: probe.success_threshold.filter(|v| *v > 0).unwrap_or(1),
            failures: probe.failure_threshold.filter(|v| *v > 0).unwrap_or(3),
        }
    }
}

/// Counts results in a row.
#[derive(Debug, Default)]
pub struct Row {
    last: bool,
    length: i32,
}

impl Row {
    /// Takes a result; says what is so now, if there are enough alike in a row.
    pub fn take(&mut self, timing: &Timing, good: bool) -> Option<bool> {
        if self.length > 0 && self.last == good {
            self.length += 1;
        } else {
            self.length = 1;
        }
        self.last = good;
        let enough = if good { timing.successes } else { timing.failures };
        (self.length >= enough).then_some(good)
    }
}

/// The number of a port that is given by number or by name.
pub fn port(port: &IntOrString, named: &[(String, i32)]) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match named.iter().find(|(known, _)| known == name) {
            Some((_, number)) => *number,
            None => name.parse().map_err(|_| format!("the container has no port called {name}"))?,
        },
    };
    u16::try_from(number).map_err(|_| format!("{number} is no port"))
}

/// How long a container waits before its next start: 10 s, doubled each time up to 5 minutes; anew after 10 minutes of running.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= Duration::from_secs(600) {
            self.failures = 0;
        }
        let wait = Duration::from_secs(10) * 2u32.pow(self.failures.min(5));
        self.failures += 1;
        wait.min(Duration::from_secs(300))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_has_kubernetes_defaults() {
        let timing = Timing::of(&Probe { timeout_seconds: Some(5), ..Probe::default() });
        let seconds = Duration::from_secs;
        assert_eq!(timing, Timing { delay: seconds(0), period: seconds(10), timeout: seconds(5), successes: 1, failures: 3 });
    }

    #[test]
    fn only_results_in_a_row_count() {
        let timing = Timing::of(&Probe { success_threshold: Some(2), ..Probe::default() });
        let mut row = Row::default();
        let results = [true, false, false, true, false, false, false, false, true, true];
        let said: Vec<_> = results.into_iter().map(|good| row.take(&timing, good)).collect();
        assert_eq!(said, [None, None, None, None, None, None, Some(false), Some(false), None, Some(true)]);
    }

    #[test]
    fn a_port_is_found_by_number_and_by_name() {
        let named = [("metrics".to_owned(), 9464)];
        assert_eq!(port(&IntOrString::Int(80), &named), Ok(80));
        assert_eq!(port(&IntOrString::String("metrics".into()), &named), Ok(9464));
        assert_eq!(port(&IntOrString::String("http".into()), &named), Err("the container has no port called http".into()));
        assert!(port(&IntOrString::Int(70000), &named).is_err());
    }

    #[test]
    fn restarts_wait_longer_and_longer_until_one_has_run() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..7).map(|_| backoff.after(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.after(Duration::from_secs(700)).as_secs(), 10);
    }
}
