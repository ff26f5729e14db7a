//! What the state of its containers makes of a pod.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus};

/// Whether a container that ended is started again.
#[must_use]
pub fn restarts(policy: &str, exit_code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// A state of waiting.
#[must_use]
pub fn waiting(reason: &str, message: &str) -> ContainerState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    ContainerState { waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }), ..ContainerState::default() }
}

/// The phase of a pod whose containers are in these states.
#[must_use]
pub fn phase(policy: &str, init: &[ContainerStatus], containers: &[ContainerStatus]) -> &'static str {
    fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
        status.state.as_ref().and_then(|state| state.terminated.as_ref())
    }
    let over = |status: &ContainerStatus| terminated(status).is_some_and(|end| !restarts(policy, end.exit_code));
    if init.iter().any(|status| over(status) && terminated(status).is_some_and(|end| end.exit_code != 0)) {
        return "Failed";
    }
    if init.iter().any(|status| terminated(status).is_none_or(|end| end.exit_code != 0)) {
        return "Pending";
    }
    if !containers.is_empty() && containers.iter().all(over) {
        let failed = containers.iter().any(|status| terminated(status).is_some_and(|end| end.exit_code != 0));
        return if failed { "Failed" } else { "Succeeded" };
    }
    let begun = |status: &ContainerStatus| {
        status.restart_count > 0
            || status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    if containers.iter().all(begun) { "Running" } else { "Pending" }
}

/// The exit code of a process as Kubernetes counts it: 128 and the signal, for one that a signal ended.
#[must_use]
pub fn exit_code(code: Option<i32>, signal: Option<i32>) -> i32 {
    code.or_else(|| signal.map(|signal| 128 + signal)).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ContainerStateRunning;

    use super::*;

    fn running() -> ContainerStatus {
        let state = ContainerState { running: Some(ContainerStateRunning::default()), ..ContainerState::default() };
        ContainerStatus { state: Some(state), ..ContainerStatus::default() }
    }

    fn ended(exit_code: i32) -> ContainerStatus {
        let state = ContainerState {
            terminated: Some(ContainerStateTerminated { exit_code, ..ContainerStateTerminated::default() }),
            ..ContainerState::default()
        };
        ContainerStatus { state: Some(state), ..ContainerStatus::default() }
    }

    fn waits() -> ContainerStatus {
        ContainerStatus { state: Some(waiting("ContainerCreating", "")), ..ContainerStatus::default() }
    }

    #[test]
    fn a_pod_is_what_its_containers_are() {
        assert_eq!(phase("Always", &[], &[running(), waits()]), "Pending");
        assert_eq!(phase("Always", &[], &[running(), ended(1)]), "Running");
        assert_eq!(phase("Never", &[], &[ended(0), ended(0)]), "Succeeded");
        assert_eq!(phase("Never", &[], &[ended(0), ended(2)]), "Failed");
        assert_eq!(phase("OnFailure", &[], &[ended(2)]), "Running");
        assert_eq!(phase("Never", &[ended(1)], &[waits()]), "Failed");
        assert_eq!(phase("Always", &[ended(1)], &[waits()]), "Pending");
        assert_eq!(phase("Always", &[ended(0)], &[running()]), "Running");
    }

    #[test]
    fn a_container_that_crashes_has_begun() {
        let crashed = ContainerStatus { restart_count: 1, ..waits() };
        assert_eq!(phase("Always", &[], &[crashed]), "Running");
    }

    #[test]
    fn what_ended_is_started_again_as_the_policy_says() {
        assert!(restarts("Always", 0) && restarts("OnFailure", 1));
        assert!(!restarts("OnFailure", 0) && !restarts("Never", 1));
    }

    #[test]
    fn a_signal_is_part_of_the_exit_code() {
        assert_eq!((exit_code(Some(3), None), exit_code(None, Some(9)), exit_code(None, None)), (3, 137, 255));
    }
}
