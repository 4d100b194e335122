//! A validation rule, and the changes of a manifest that test it.

use serde_json::{Map, Value};

/// Changes to a base manifest: a JSON pointer and the value to put there; `null` removes.
pub(crate) type Changes = Vec<(&'static str, Value)>;

/// A rule: changes that are accepted, changes that are rejected, and the message of the rejection.
pub(crate) struct Rule {
    pub(crate) message: &'static str,
    pub(crate) accepted: Changes,
    pub(crate) rejected: Changes,
}

pub(crate) fn rule(message: &'static str, accepted: Changes, rejected: Changes) -> Rule {
    Rule {
        message,
        accepted,
        rejected,
    }
}

/// The message for an invalid URI of a file or prefix in an object store.
pub(crate) const ANY_STORE: &str = "must be s3://…, gs://…, az://…, file://… or https://…";
/// The message for an invalid URI of weights.
pub(crate) const ANY_WEIGHTS: &str =
    "must be s3://…, gs://…, az://…, file://…, https://… or hf://…";

pub(crate) fn changed(mut manifest: Value, changes: &[(&'static str, Value)]) -> Value {
    for (path, value) in changes {
        put(&mut manifest, path, value.clone());
    }
    manifest
}

pub(crate) fn put(manifest: &mut Value, path: &str, value: Value) {
    let (parent, key) = path.rsplit_once('/').expect("a path begins with a slash");
    if manifest.pointer(parent).is_none() {
        put(manifest, parent, Value::Object(Map::new()));
    }

    match manifest.pointer_mut(parent).expect("just put there") {
        Value::Array(items) => {
            let index: usize = key.parse().expect("an index");
            items.truncate(index.max(items.len().min(index + 1)));
            if index < items.len() {
                items[index] = value
            } else {
                items.push(value)
            }
        }
        parent if value.is_null() => {
            drop(parent.as_object_mut().and_then(|fields| fields.remove(key)))
        }
        parent => parent[key] = value,
    }
}
