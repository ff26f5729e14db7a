//! Variables of a container, as Kubernetes makes them: of values, fields, Secrets and ConfigMaps, with `$(NAME)` resolved.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

/// Keys and values of a Secret or ConfigMap.
pub type Data = BTreeMap<String, Vec<u8>>;

/// Where Secrets and ConfigMaps of the pod's namespace are found.
pub trait Objects {
    fn secret(&self, name: &str) -> Option<Data>;
    fn config_map(&self, name: &str) -> Option<Data>;
}

/// What only the node knows of a pod.
pub struct Place {
    pub pod_ip: String,
    pub host_ip: String,
}

/// Replaces `$(NAME)` by a variable that is known, leaves one that is not, and makes `$$` a `$`.
#[must_use]
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

/// A field of the pod by its path, such as `metadata.labels['app']`.
pub fn field(pod: &Pod, place: &Place, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let subscript = |map: &Option<BTreeMap<String, String>>, inner: &str| {
        let key = inner.trim_start_matches('\'').trim_end_matches("']");
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" | "status.podIPs" => place.pod_ip.clone(),
        "status.hostIP" | "status.hostIPs" => place.host_ip.clone(),
        _ => match path.split_once('[') {
            Some(("metadata.labels", inner)) => subscript(&meta.labels, inner),
            Some(("metadata.annotations", inner)) => subscript(&meta.annotations, inner),
            _ => return Err(format!("fieldPath {path} is not known")),
        },
    })
}

/// The variables of a container. An error is the message that a user sees with `CreateContainerConfigError`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    place: &Place,
    objects: &dyn Objects,
) -> Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional, data) = if let Some(secret) = &from.secret_ref {
            ("secret", &secret.name, secret.optional, objects.secret(&secret.name))
        } else if let Some(map) = &from.config_map_ref {
            ("configmap", &map.name, map.optional, objects.config_map(&map.name))
        } else {
            continue;
        };
        match data {
            Some(data) => out.extend(data.iter().map(|(key, value)| (format!("{prefix}{key}"), text(value)))),
            None if optional == Some(true) => {}
            None => return Err(format!("{kind} \"{name}\" not found")),
        }
    }
    for var in container.env.iter().flatten() {
        let Some(from) = &var.value_from else {
            out.insert(var.name.clone(), expand(var.value.as_deref().unwrap_or_default(), &out));
            continue;
        };
        let keyed = |kind: &str, name: &str, key: &str, optional: Option<bool>, data: Option<Data>| {
            let found = data.as_ref().and_then(|data| data.get(key));
            match (found, optional) {
                (Some(value), _) => Ok(Some(text(value))),
                (None, Some(true)) => Ok(None),
                (None, _) if data.is_none() => Err(format!("{kind} \"{name}\" not found")),
                (None, _) => Err(format!("couldn't find key {key} in {kind} {namespace}/{name}")),
            }
        };
        let value = if let Some(selector) = &from.secret_key_ref {
            keyed("secret", &selector.name, &selector.key, selector.optional, objects.secret(&selector.name))?
        } else if let Some(selector) = &from.config_map_key_ref {
            keyed("configmap", &selector.name, &selector.key, selector.optional, objects.config_map(&selector.name))?
        } else if let Some(selector) = &from.field_ref {
            Some(field(pod, place, &selector.field_path)?)
        } else {
            return Err(format!("variable {}: this kubelet knows values, fields, Secrets and ConfigMaps only", var.name));
        };
        out.extend(value.map(|value| (var.name.clone(), value)));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Fixed;

    impl Objects for Fixed {
        fn secret(&self, name: &str) -> Option<Data> {
            (name == "redis").then(|| [("password".to_owned(), b"p$(A)ss".to_vec())].into())
        }

        fn config_map(&self, name: &str) -> Option<Data> {
            (name == "settings").then(|| [("LEVEL".to_owned(), b"debug".to_vec()), ("B".to_owned(), b"map".to_vec())].into())
        }
    }

    fn resolve(env: serde_json::Value) -> Result<BTreeMap<String, String>, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a-0", "namespace": "ns", "labels": {"x/y": "z"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", "env": env, "envFrom": [{"configMapRef": {"name": "settings"}}]}]},
        }))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        environment(&pod, container, &Place { pod_ip: "10.0.0.7".into(), host_ip: "10.0.0.1".into() }, &Fixed)
    }

    #[test]
    fn variables_refer_to_those_before_them_only() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand("$(A)-$(B)-$$(A)-$A-$", &known), "1-$(B)-$(A)-$A-$");
        let env = resolve(json!([
            {"name": "URL", "value": "x://$(HOST)"}, {"name": "HOST", "value": "h"}, {"name": "URL2", "value": "x://$(HOST)"},
        ]))
        .unwrap();
        assert_eq!((env["URL"].as_str(), env["URL2"].as_str()), ("x://$(HOST)", "x://h"));
    }

    #[test]
    fn values_come_from_secrets_maps_and_fields_and_are_not_expanded() {
        let env = resolve(json!([
            {"name": "P", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['x/y']"}}},
            {"name": "B", "value": "own"},
            {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": true}}},
        ]))
        .unwrap();
        let expected = [("B", "own"), ("IP", "10.0.0.7"), ("L", "z"), ("LEVEL", "debug"), ("P", "p$(A)ss")];
        assert_eq!(env, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |name: &str, key: &str| {
            resolve(json!([{"name": "P", "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}])).unwrap_err()
        };
        assert_eq!(error("none", "password"), "secret \"none\" not found");
        assert_eq!(error("redis", "pass"), "couldn't find key pass in secret ns/redis");
    }
}
