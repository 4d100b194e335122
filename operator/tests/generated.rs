//! The committed definitions are those of the code. `UPDATE=1 cargo test` writes them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
)]

use cnclip_operator::crd_manifests;
use serde_json::Value;

#[path = "support/committed.rs"]
mod committed;

use committed::assert_committed;

/// Where they are committed: in the chart, as Helm reads only files below its own folder.
const FOLDER: &str = "charts/cn-clip/files/crds";

#[test]
fn the_committed_definitions_are_those_of_the_code() {
    for (name, yaml) in crd_manifests::crd_files().unwrap() {
        assert_committed(&format!("{FOLDER}/{name}"), &yaml);
    }
}

#[test]
fn every_definition_is_small_and_explains_itself() {
    for (name, yaml) in crd_manifests::crd_files().unwrap() {
        // `kubectl apply` keeps a copy in an annotation, and those have room for 262,144 bytes.
        assert!(yaml.len() < 130_000, "{name} has {} bytes", yaml.len());
        for noise in [
            "uint32",
            "uint64",
            "format: double",
            "format: float",
            "Auto-generated",
        ] {
            assert!(!yaml.contains(noise), "{name} has {noise}");
        }
    }
}

/// Every property of a schema that is one of some words and may be left out.
fn optional_words(schema: &Value, found: &mut Vec<(String, String)>) {
    if let Value::Array(schemas) = schema {
        schemas
            .iter()
            .for_each(|schema| optional_words(schema, found));
    }

    let Some(schema) = schema.as_object() else {
        return;
    };

    let properties = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();

    for (name, property) in properties {
        if property["enum"].is_array() && property["nullable"] == true {
            let told = property["description"].as_str().unwrap_or_default();
            found.push((name.clone(), told.to_owned()));
        }
    }

    schema
        .values()
        .for_each(|inner| optional_words(inner, found));
}

#[test]
fn an_optional_field_is_explained_by_its_own_words_and_not_by_those_of_its_type() {
    let mut found = Vec::new();
    for (_, yaml) in crd_manifests::crd_files().unwrap() {
        optional_words(&serde_norway::from_str(&yaml).unwrap(), &mut found);
    }

    let expected = [
        ("benchmark", "Public benchmark of the data set. The report"),
        ("metric", "Primary metric. Defaults to that of the preset"),
        ("preset", "Public data set. Sets the defa"),
        ("templateSet", "Built-in prompt template set. Defaults to"),
    ];

    found.sort();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((name, told), (right, words)) in found.iter().zip(expected) {
        assert!(name == right && told.starts_with(words), "{name}: {told}");
    }
}
