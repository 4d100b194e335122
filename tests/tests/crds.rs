//! Validation by the API server: for every rule of the definitions a manifest that is accepted, one that is
//! rejected, and the message of the rejection.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use cnclip_crds::{evaluation::CnClipEvaluation, training::CnClipTraining};
use cnclip_tests::{namespace, operator::install_operator};
use kube::{
    Api, Client, CustomResourceExt, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams, ValidationDirective},
};
use serde::Deserialize;
use serde_json::{Value, json};

use self::{
    evaluations::evaluation,
    rule::{Rule, changed},
    trainings::training,
};

#[path = "crds/evaluations.rs"]
mod evaluations;
#[path = "crds/rule.rs"]
mod rule;
#[path = "crds/trainings.rs"]
mod trainings;

/// An API server with the definitions that the chart installs.
struct Server {
    client: Client,
    namespace: String,
}

impl Server {
    async fn connect() -> Self {
        let (testbed, client) = install_operator().await.unwrap();
        let namespace = namespace::create_namespace(&client, &testbed.s3)
            .await
            .unwrap();
        Self { client, namespace }
    }

    /// Applies a manifest, as a dry run unless `persist` is set; returns the message if it is rejected.
    async fn apply(&self, manifest: &Value, persist: bool) -> Result<(), String> {
        let kind = manifest["kind"].as_str().expect("a manifest has a kind");
        let resource = match kind {
            "CnClipTraining" => ApiResource::erase::<CnClipTraining>(&()),
            _ => ApiResource::erase::<CnClipEvaluation>(&()),
        };

        let api =
            Api::<DynamicObject>::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let name = manifest["metadata"]["name"]
            .as_str()
            .expect("a manifest has a name");

        let params = PatchParams {
            dry_run: !persist,
            force: true,
            field_manager: Some("cnclip-tests".to_owned()),
            field_validation: Some(ValidationDirective::Strict),
        };

        match api.patch(name, &params, &Patch::Apply(manifest)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => panic!("no response of the API server: {error}"),
        }
    }

    /// Asserts that every rule accepts and rejects as expected, and with its message.
    async fn assert_rules(&self, base: &Value, rules: &[Rule]) {
        let mut broken = Vec::new();
        for Rule {
            message,
            accepted,
            rejected,
        } in rules
        {
            if let Err(found) = self.apply(&changed(base.clone(), accepted), false).await {
                broken.push(format!("{message}: rejects {accepted:?}: {found}"));
            }

            match self.apply(&changed(base.clone(), rejected), false).await {
                Ok(()) => broken.push(format!("{message}: accepts {rejected:?}")),
                Err(found) if found.contains(message) => {}
                Err(found) => broken.push(format!(
                    "{message}: is not the message for {rejected:?}: {found}"
                )),
            }
        }

        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }
}

#[tokio::test]
async fn an_invalid_training_is_rejected_with_an_explanation() {
    let server = Server::connect().await;
    server.assert_rules(&training(), &trainings::rules()).await;
}

#[tokio::test]
async fn an_invalid_evaluation_is_rejected_with_an_explanation() {
    let server = Server::connect().await;
    server
        .assert_rules(&evaluation(), &evaluations::rules())
        .await;
}

/// All manifests below a folder, with the files that contain them.
fn manifests(folder: &Path) -> Vec<(PathBuf, Value)> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());

    let read = |path: PathBuf| match path.extension().and_then(OsStr::to_str) {
        _ if path.is_dir() => manifests(&path),
        Some("yaml") => {
            let text = fs::read_to_string(&path).unwrap();
            let documents = serde_norway::Deserializer::from_str(&text);
            documents
                .map(|one| (path.clone(), Value::deserialize(one).unwrap()))
                .collect()
        }
        _ => Vec::new(),
    };

    entries.flat_map(read).collect()
}

#[tokio::test]
async fn every_manifest_of_the_project_is_accepted() {
    let server = Server::connect().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut broken = Vec::new();

    for (folder, count) in [("charts/recipes", 27), ("tests/demo", 9)] {
        let manifests = manifests(&root.join(folder));
        assert_eq!(manifests.len(), count, "{folder}");
        for (file, manifest) in manifests {
            if let Err(found) = server.apply(&manifest, false).await {
                broken.push(format!("{}: {found}", file.display()));
            }
        }
    }

    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[tokio::test]
async fn immutable_fields_cannot_be_changed() {
    let server = Server::connect().await;
    let named = |manifest| {
        changed(
            manifest,
            &[
                ("/metadata/name", json!("kept-by-a-test")),
                ("/spec/suspend", json!(true)),
            ],
        )
    };

    for (base, rules) in [
        (named(training()), trainings::immutable_fields()),
        (named(evaluation()), evaluations::immutable_fields()),
    ] {
        assert_eq!(server.apply(&base, true).await, Ok(()));
        server.assert_rules(&base, &rules).await;
    }
}

#[test]
fn every_rule_of_the_definitions_is_tested() {
    let tested: Vec<_> = [
        trainings::rules(),
        evaluations::rules(),
        trainings::immutable_fields(),
        evaluations::immutable_fields(),
    ]
    .into_iter()
    .flatten()
    .map(|rule| rule.message)
    .collect();

    for definition in [CnClipTraining::crd(), CnClipEvaluation::crd()] {
        let mut messages = BTreeSet::new();
        collect_messages(&json!(definition), &mut messages);
        assert!(
            messages.len() > 4,
            "{} has few rules",
            definition.name_any()
        );

        for message in messages {
            assert!(
                tested.iter().any(|tested| message.contains(tested)),
                "no test covers {message:?}"
            );
        }
    }
}

fn collect_messages(value: &Value, messages: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for rule in fields
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let message = rule["message"].as_str();
                messages.insert(
                    message
                        .unwrap_or_else(|| panic!("{rule} has no message"))
                        .to_owned(),
                );
            }

            fields
                .values()
                .for_each(|field| collect_messages(field, messages));
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_messages(item, messages)),
        _ => {}
    }
}
