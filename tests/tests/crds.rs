//! What the API server says to manifests: every rule of the definitions with one manifest that it
//! accepts and one that it refuses, and the words of the refusal.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
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

/// The API server with the definitions that the chart installs.
struct Server {
    client: Client,
    namespace: String,
}

impl Server {
    async fn open() -> Self {
        let (bed, client) = install_operator().await.unwrap();
        let namespace = namespace::create_namespace(&client, &bed.s3).await.unwrap();
        Self { client, namespace }
    }

    /// What the API server says to a manifest, without keeping it unless told to.
    async fn says(&self, manifest: &Value, keep: bool) -> Result<(), String> {
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
            dry_run: !keep,
            force: true,
            field_manager: Some("cnclip-tests".to_owned()),
            field_validation: Some(ValidationDirective::Strict),
        };

        match api.patch(name, &params, &Patch::Apply(manifest)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => panic!("the API server does not answer: {error}"),
        }
    }

    /// Every rule accepts what it should and refuses the rest in the promised words.
    async fn obeys(&self, base: &Value, rules: &[Rule]) {
        let mut broken = Vec::new();
        for Rule {
            message,
            accepted,
            refused,
        } in rules
        {
            if let Err(words) = self.says(&changed(base.clone(), accepted), false).await {
                broken.push(format!("{message}: refuses {accepted:?}: {words}"));
            }

            match self.says(&changed(base.clone(), refused), false).await {
                Ok(()) => broken.push(format!("{message}: accepts {refused:?}")),
                Err(words) if words.contains(message) => {}
                Err(words) => {
                    broken.push(format!("{message}: is not said of {refused:?}: {words}"))
                }
            }
        }

        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }
}

#[tokio::test]
async fn a_training_that_is_known_to_be_wrong_is_refused_with_what_to_do() {
    let server = Server::open().await;
    server.obeys(&training(), &trainings::rules()).await;
}

#[tokio::test]
async fn an_evaluation_that_is_known_to_be_wrong_is_refused_with_what_to_do() {
    let server = Server::open().await;
    server.obeys(&evaluation(), &evaluations::rules()).await;
}

/// Every manifest in the files of a folder and of the folders in it.
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
async fn every_manifest_that_the_project_ships_is_accepted_as_it_is_written() {
    let server = Server::open().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut broken = Vec::new();

    for (folder, count) in [("charts/recipes", 27), ("tests/demo", 9)] {
        let manifests = manifests(&root.join(folder));
        assert_eq!(manifests.len(), count, "{folder}");
        for (file, manifest) in manifests {
            if let Err(words) = server.says(&manifest, false).await {
                broken.push(format!("{}: {words}", file.display()));
            }
        }
    }

    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[tokio::test]
async fn what_a_run_has_begun_with_cannot_be_changed_under_it() {
    let server = Server::open().await;
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
        (named(training()), trainings::frozen()),
        (named(evaluation()), evaluations::frozen()),
    ] {
        assert_eq!(server.says(&base, true).await, Ok(()));
        server.obeys(&base, &rules).await;
    }
}

#[test]
fn every_rule_of_the_definitions_is_tried() {
    let tried: Vec<_> = [
        trainings::rules(),
        evaluations::rules(),
        trainings::frozen(),
        evaluations::frozen(),
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
                tried.iter().any(|tried| message.contains(tried)),
                "nothing tries {message:?}"
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
                        .unwrap_or_else(|| panic!("{rule} says nothing"))
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
