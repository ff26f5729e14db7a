//! What is in a volume, and how files of Secrets and ConfigMaps come into it: all at once, by a link that is swapped.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{KeyToPath, Pod, Volume};

use crate::env::{Data, Objects, Place, field};

/// A file in a volume: its mode and what is in it.
pub type Files = BTreeMap<String, (u32, Vec<u8>)>;

/// Tokens of the pod's ServiceAccount, by volume and path.
pub type Tokens = BTreeMap<(String, String), String>;

/// Where a volume comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum Source {
    /// Written by the kubelet, again when it changes.
    Files(Files),
    /// An empty directory, in memory or not.
    Empty { memory: bool },
    /// A directory of the node; whether it must be there.
    Node { path: PathBuf, must_exist: bool },
    /// A claim.
    Claim(String),
}

/// The source of a volume. An error is the message that a user sees in the event FailedMount.
pub fn source(pod: &Pod, volume: &Volume, place: &Place, objects: &dyn Objects, tokens: &Tokens) -> Result<Source, String> {
    let mode = |mode: Option<i32>| u32::try_from(mode.unwrap_or(0o644)).unwrap_or(0o644);
    let mut files = Files::new();
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let data = found("secret", name, secret.optional, objects.secret(name))?;
        select(&mut files, ("secret", name), data, secret.items.as_deref(), mode(secret.default_mode), secret.optional)?;
    } else if let Some(map) = &volume.config_map {
        let data = found("configmap", &map.name, map.optional, objects.config_map(&map.name))?;
        select(&mut files, ("configmap", &map.name), data, map.items.as_deref(), mode(map.default_mode), map.optional)?;
    } else if let Some(empty) = &volume.empty_dir {
        return Ok(Source::Empty { memory: empty.medium.as_deref() == Some("Memory") });
    } else if let Some(host) = &volume.host_path {
        let must_exist = host.type_.as_deref() == Some("Directory");
        return Ok(Source::Node { path: PathBuf::from(&host.path), must_exist });
    } else if let Some(claim) = &volume.persistent_volume_claim {
        return Ok(Source::Claim(claim.claim_name.clone()));
    } else if let Some(projected) = &volume.projected {
        let default = mode(projected.default_mode);
        for part in projected.sources.iter().flatten() {
            if let Some(secret) = &part.secret {
                let data = found("secret", &secret.name, secret.optional, objects.secret(&secret.name))?;
                select(&mut files, ("secret", &secret.name), data, secret.items.as_deref(), default, secret.optional)?;
            } else if let Some(map) = &part.config_map {
                let data = found("configmap", &map.name, map.optional, objects.config_map(&map.name))?;
                select(&mut files, ("configmap", &map.name), data, map.items.as_deref(), default, map.optional)?;
            } else if let Some(fields) = &part.downward_api {
                for item in fields.items.iter().flatten() {
                    let Some(selector) = &item.field_ref else { continue };
                    files.insert(item.path.clone(), (default, field(pod, place, &selector.field_path)?.into_bytes()));
                }
            } else if let Some(token) = &part.service_account_token {
                let found = tokens.get(&(volume.name.clone(), token.path.clone()));
                let text = found.ok_or_else(|| format!("there is no token for {}", token.path))?;
                files.insert(token.path.clone(), (default, text.clone().into_bytes()));
            } else {
                return Err(format!("volume {}: this kubelet projects Secrets, ConfigMaps, fields and tokens only", volume.name));
            }
        }
    } else {
        return Err(format!("volume {}: this kubelet does not know its type", volume.name));
    }
    Ok(Source::Files(files))
}

fn found(kind: &str, name: &str, optional: Option<bool>, data: Option<Data>) -> Result<Data, String> {
    match data {
        Some(data) => Ok(data),
        None if optional == Some(true) => Ok(Data::new()),
        None => Err(format!("{kind} \"{name}\" not found")),
    }
}

fn select(
    files: &mut Files,
    (kind, name): (&str, &str),
    data: Data,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: Option<bool>,
) -> Result<(), String> {
    let Some(items) = items else {
        files.extend(data.into_iter().map(|(key, bytes)| (key, (mode, bytes))));
        return Ok(());
    };
    for item in items {
        let own = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode);
        match data.get(&item.key) {
            Some(bytes) => drop(files.insert(item.path.clone(), (own, bytes.clone()))),
            None if optional == Some(true) => {}
            None => return Err(format!("references non-existent {kind} key: {} (in {kind} \"{name}\")", item.key)),
        }
    }
    Ok(())
}

/// Writes the files of a volume. As the real kubelet does it: into a new directory, to which the link `..data` is then swapped; each file is a
/// link through `..data`. With a group (fsGroup), the group may read.
pub fn write(directory: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    let data = directory.join("..data");
    let former = fs::read_link(&data).ok();
    let mut number = 0;
    let name = loop {
        let name = format!("..{number}");
        if !directory.join(&name).exists() {
            break name;
        }
        number += 1;
    };
    let fresh = directory.join(&name);
    fs::create_dir_all(&fresh)?;
    for (path, (mode, bytes)) in files {
        let file = fresh.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, bytes)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(if group.is_some() { mode | 0o040 } else { *mode }))?;
        if let Some(group) = group {
            std::os::unix::fs::chown(&file, None, Some(group))?;
        }
    }
    let swap = directory.join("..data_tmp");
    symlink(&name, &swap)?;
    fs::rename(&swap, &data)?;
    let tops: std::collections::BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for top in &tops {
        let link = directory.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(top), link)?;
        }
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?.file_name();
        let text = entry.to_string_lossy();
        if !text.starts_with("..") && !tops.contains(text.as_ref()) {
            fs::remove_file(directory.join(&entry))?;
        }
    }
    if let Some(former) = former {
        fs::remove_dir_all(directory.join(former))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct One;

    impl Objects for One {
        fn secret(&self, name: &str) -> Option<Data> {
            (name == "tls").then(|| [("tls.crt".to_owned(), b"c".to_vec()), ("tls.key".to_owned(), b"k".to_vec())].into())
        }

        fn config_map(&self, _: &str) -> Option<Data> {
            None
        }
    }

    fn of(volume: serde_json::Value) -> Result<Source, String> {
        let place = Place { pod_ip: String::new(), host_ip: String::new() };
        let tokens = [(("v".to_owned(), "token".to_owned()), "t".to_owned())].into();
        source(&Pod::default(), &serde_json::from_value(volume).unwrap(), &place, &One, &tokens)
    }

    fn file(mode: u32, text: &str) -> (u32, Vec<u8>) {
        (mode, text.as_bytes().to_vec())
    }

    #[test]
    fn a_volume_has_all_keys_or_the_items_that_are_named() {
        let all = of(json!({"name": "v", "secret": {"secretName": "tls", "defaultMode": 0o440}})).unwrap();
        assert_eq!(all, Source::Files([("tls.crt".into(), file(0o440, "c")), ("tls.key".into(), file(0o440, "k"))].into()));
        let one = of(
            json!({"name": "v", "secret": {"secretName": "tls", "items": [{"key": "tls.crt", "path": "a/b", "mode": 0o400}]}}),
        )
        .unwrap();
        assert_eq!(one, Source::Files([("a/b".into(), file(0o400, "c"))].into()));
    }

    #[test]
    fn tokens_fields_and_secrets_are_projected_together() {
        let sources = json!([
            {"serviceAccountToken": {"path": "token"}}, {"secret": {"name": "tls", "items": [{"key": "tls.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "uid", "fieldRef": {"fieldPath": "metadata.uid"}}]}},
        ]);
        let all = of(json!({"name": "v", "projected": {"sources": sources, "defaultMode": 0o400}})).unwrap();
        let files = [("ca.crt", "c"), ("token", "t"), ("uid", "")].map(|(path, text)| (path.to_owned(), file(0o400, text)));
        assert_eq!(all, Source::Files(files.into()));
    }

    #[test]
    fn what_is_missing_is_named_unless_it_is_optional() {
        let items = json!([{"key": "none", "path": "x"}]);
        assert_eq!(of(json!({"name": "v", "secret": {"secretName": "other"}})), Err("secret \"other\" not found".into()));
        let error = of(json!({"name": "v", "secret": {"secretName": "tls", "items": items}})).unwrap_err();
        assert_eq!(error, "references non-existent secret key: none (in secret \"tls\")");
        assert_eq!(of(json!({"name": "v", "configMap": {"name": "later", "optional": true}})), Ok(Source::Files(Files::new())));
    }

    #[test]
    fn files_change_all_at_once_and_those_that_are_gone_go() {
        let directory = std::env::temp_dir().join(format!("test-kubelet-volume-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let first: Files = [("a".to_owned(), file(0o440, "1")), ("b".to_owned(), file(0o440, "1"))].into();
        write(&directory, &first, None).unwrap();
        assert_eq!(fs::read_link(directory.join("a")).unwrap(), Path::new("..data/a"));
        let second: Files = [("a".to_owned(), file(0o440, "2")), ("c".to_owned(), file(0o400, "2"))].into();
        write(&directory, &second, None).unwrap();
        assert_eq!(fs::read_to_string(directory.join("a")).unwrap(), "2");
        assert!(directory.join("c").exists() && fs::symlink_metadata(directory.join("b")).is_err());
        let generations = fs::read_dir(&directory).unwrap().filter(|e| e.as_ref().unwrap().file_type().unwrap().is_dir()).count();
        assert_eq!(generations, 1, "the former files are gone");
        fs::remove_dir_all(&directory).unwrap();
    }
}
