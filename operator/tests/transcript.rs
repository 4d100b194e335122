//! What is said to the API server, word for word.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
)]

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use cnclip_crds::{evaluation::CnClipEvaluation, training::CnClipTraining};
use cnclip_operator::{
    metrics::Metrics,
    reconcile::{ReconcileContext, reconcile},
    resolve::{RunResource, TrainerDefaults},
};
use futures::{FutureExt, StreamExt};
use http_body_util::BodyExt;
use hyper::{Request, Response, StatusCode};
use kube::{Client, client::Body, core::PartialObjectMeta};
use serde_json::{Value, json};

const CLIP: &str = "/apis/cnclip.dev/v1alpha1/namespaces/team/cncliptrainings/muge";
const SELECTOR: &str = "labelSelector=cnclip.dev%2Fkind%3Dtraining%2Ccnclip.dev%2Frun%3Dmuge";
const APPLY: &str = "&force=true&fieldManager=cnclip-operator";

/// Every request and its body, in order.
#[derive(Clone, Default)]
struct Transcript(Arc<Mutex<Vec<(String, Value)>>>);

impl Transcript {
    fn lines(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|(line, _)| line.clone())
            .collect()
    }

    fn body(&self, part: &str) -> Value {
        let said = self.0.lock().unwrap();
        let found = said.iter().find(|(line, _)| line.contains(part));
        found
            .unwrap_or_else(|| panic!("nobody said {part}"))
            .1
            .clone()
    }
}

/// A stand-in API server: answers with `answer`, and writes down what it was asked.
fn api_server(
    answer: impl Fn(&str) -> (StatusCode, Value) + Clone + Send + 'static,
) -> (Client, Transcript) {
    let transcript = Transcript::default();
    let heard = transcript.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let heard = heard.clone();
        let answer = answer.clone();
        async move {
            let path = request
                .uri()
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default();

            let line = format!("{} {path}", request.method());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            heard.0.lock().unwrap().push((
                line.clone(),
                serde_json::from_slice(&body).unwrap_or_default(),
            ));

            let (status, body) = answer(&line);
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
        }
    });

    (Client::new(service, "team"), transcript)
}

fn run(status: Value) -> Value {
    json!({
        "apiVersion": "cnclip.dev/v1alpha1", "kind": "CnClipTraining",
        "metadata": {"name": "muge", "namespace": "team", "uid": "u-1", "generation": 1, "resourceVersion": "17"},
        "spec": {
            "model": {"architecture": "ViT-B-16"},
            "datasets": [{"name": "pairs", "uri": "s3://data/pairs/"}],
            "stages": [{"name": "align", "dataset": "pairs", "steps": 100, "globalBatchSize": 32, "learningRate": "1e-4"}],
            "workers": {"accelerator": "None"},
            "artifacts": {"uri": "s3://runs/muge/"},
        },
        "status": status,
    })
}

fn evaluation() -> Value {
    json!({
        "apiVersion": "cnclip.dev/v1alpha1", "kind": "CnClipEvaluation",
        "metadata": {"name": "scores", "namespace": "team", "uid": "u-2", "generation": 1, "resourceVersion": "18"},
        "spec": {
            "checkpoint": {"trainingName": "muge"},
            "tasks": [{"name": "valid", "retrieval": {"dataset": "s3://data/valid/"}}],
        },
    })
}

fn not_found() -> (StatusCode, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "not found", "reason": "NotFound", "code": 404});
    (StatusCode::NOT_FOUND, status)
}

fn list(items: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
}

/// Answers for a cluster with this run and these Jobs, that takes whatever it is told.
fn cluster(status: Value, jobs: Value) -> impl Fn(&str) -> (StatusCode, Value) + Clone {
    move |line| {
        let answer = match line.split(['?', ' ']).nth(1).unwrap_or_default() {
            path if path.starts_with(CLIP) => run(status.clone()),
            path if path.ends_with("/jobs") => list(jobs.clone()),
            path if path.ends_with("/pods") => list(json!([])),
            _ => json!({"metadata": {"name": "x"}}),
        };

        (StatusCode::OK, answer)
    }
}

fn context(client: Client) -> Arc<ReconcileContext> {
    let defaults = TrainerDefaults {
        image: "cnclip/trainer:test".to_owned(),
        cuda_image: "cnclip/trainer-cuda:test".to_owned(),
        progress_interval_seconds: 5,
    };

    let metrics = Metrics::new().unwrap();
    Arc::new(ReconcileContext::new(client, defaults, metrics))
}

fn changed<R: RunResource>(name: &str) -> Arc<PartialObjectMeta<R>> {
    let metadata = json!({"metadata": {"name": name, "namespace": "team"}});
    Arc::new(serde_json::from_value(metadata).unwrap())
}

async fn step(client: Client) -> Result<(), String> {
    let result = reconcile(changed::<CnClipTraining>("muge"), context(client)).await;
    result.map(drop).map_err(|error| error.error_chain())
}

#[tokio::test]
async fn a_new_run_is_read_once_and_given_its_objects_before_its_status() {
    let (client, transcript) = api_server(cluster(json!(null), json!([])));
    step(client).await.unwrap();
    let core = "/api/v1/namespaces/team";
    let batch = "/apis/batch/v1/namespaces/team";
    assert_eq!(
        transcript.lines(),
        [
            format!("GET {CLIP}"),
            format!("GET {batch}/jobs?&{SELECTOR}"),
            format!("GET {core}/pods?&{SELECTOR}"),
            format!("PATCH {core}/configmaps/muge-align-1?{APPLY}"),
            format!("PATCH {core}/services/muge-align-1?{APPLY}"),
            format!("PATCH {batch}/jobs/muge-align-1?{APPLY}"),
            format!("PATCH {CLIP}/status?{APPLY}"),
        ]
    );

    let config = transcript.body("configmaps");
    let told: Value = serde_json::from_str(config["data"]["run.json"].as_str().unwrap()).unwrap();
    assert_eq!(
        told["run"],
        json!({"name": "muge", "uid": "u-1", "stage": "align", "attempt": 1})
    );

    assert_eq!(told["optimizer"]["learningRate"], json!(1e-4));
    // The status is of the run that was read, and of no other that has its name since.
    let written = transcript.body("/status")["metadata"].clone();
    assert_eq!(written, json!({"name": "muge", "resourceVersion": "17"}));
}

/// Answers for a cluster with this run of two workers, in which the Job is there as soon as it is read by its name.
fn cluster_of_two(job: Value) -> impl Fn(&str) -> (StatusCode, Value) + Clone {
    let alone = cluster(json!(null), json!([]));
    move |line| {
        let (code, mut answer) = alone(line);
        if line.starts_with(&format!("GET {CLIP}")) {
            answer["spec"]["workers"]["replicas"] = json!(2);
        }

        match line {
            "GET /apis/batch/v1/namespaces/team/jobs/muge-align-1" if job.is_null() => {
                let gone = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "not found", "reason": "NotFound", "code": 404});
                (StatusCode::NOT_FOUND, gone)
            }
            "GET /apis/batch/v1/namespaces/team/jobs/muge-align-1" => (code, job.clone()),
            _ => (code, answer),
        }
    }
}

fn secret_in(job: &Value) -> String {
    let env = "/spec/template/spec/containers/0/env";
    let variables = job.pointer(env).unwrap().as_array().unwrap();
    let secret = variables
        .iter()
        .find(|one| one["name"] == "CNCLIP_RENDEZVOUS_SECRET");

    secret.unwrap()["value"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_job_of_several_workers_gets_a_secret_of_its_own() {
    let mut secrets = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let (client, transcript) = api_server(cluster_of_two(json!(null)));
        step(client).await.unwrap();
        let secret = secret_in(&transcript.body("PATCH /apis/batch"));
        assert_eq!(secret.len(), 64);
        // The Job alone has it.
        for part in ["configmaps", "services", "/status"] {
            assert!(!transcript.body(part).to_string().contains(&secret));
        }

        secrets.insert(secret);
    }

    assert_eq!(secrets.len(), 3);
}

#[tokio::test]
async fn a_job_that_exists_meanwhile_keeps_its_secret() {
    let kept = "ab".repeat(32);
    let job = json!({"metadata": {"name": "muge-align-1"}, "spec": {"template": {"spec": {"containers": [
        {"name": "trainer", "env": [{"name": "CNCLIP_RENDEZVOUS_SECRET", "value": kept}]}]}}}});

    let (client, transcript) = api_server(cluster_of_two(job));
    step(client).await.unwrap();
    assert_eq!(secret_in(&transcript.body("PATCH /apis/batch")), kept);
}

#[tokio::test]
async fn a_refused_job_does_not_show_its_secret() {
    let kept = "ab".repeat(32);
    let job = json!({"metadata": {"name": "muge-align-1"}, "spec": {"template": {"spec": {"containers": [
        {"name": "trainer", "env": [{"name": "CNCLIP_RENDEZVOUS_SECRET", "value": kept}]}]}}}});

    let message =
        format!("Job is invalid: spec.template: Invalid value: {job}: field is immutable");
    let accepts = cluster_of_two(job);
    let (client, transcript) = api_server(move |line| {
        if !line.starts_with("PATCH /apis/batch") {
            return accepts(line);
        }

        let refusal = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": "Invalid", "code": 422, "details": {"name": "muge-align-1",
            "causes": [{"reason": "FieldValueInvalid", "message": message, "field": "spec.template"}]}});
        (StatusCode::UNPROCESSABLE_ENTITY, refusal)
    });

    let error = step(client).await.unwrap_err();
    assert!(error.contains("[redacted]"), "{error}");
    assert!(!error.contains(&kept), "{error}");
    let status = transcript.body("/status").to_string();
    assert!(status.contains("field is immutable"), "{status}");
    assert!(!status.contains(&kept), "{status}");
}

#[tokio::test]
async fn a_run_as_it_should_be_is_only_read() {
    let job = json!({"metadata": {"name": "muge-align-1", "labels": {
        "cnclip.dev/stage": "align", "cnclip.dev/attempt": "1"}, "ownerReferences": [
        {"apiVersion": "cnclip.dev/v1alpha1", "kind": "CnClipTraining", "name": "muge", "uid": "u-1", "controller": true}],
        "creationTimestamp": "2026-01-01T00:00:00Z"}});

    let first = api_server(cluster(json!(null), json!([job.clone()])));
    step(first.0).await.unwrap();
    let status = first.1.body("/status")["status"].clone();
    let (client, transcript) = api_server(cluster(status, json!([job])));
    step(client).await.unwrap();
    let lines = transcript.lines();

    assert!(
        lines.iter().all(|line| line.starts_with("GET ")),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn what_the_api_server_refuses_stands_in_the_status() {
    let accepts = cluster(json!(null), json!([]));
    let (client, transcript) = api_server(move |line| {
        if !line.contains("/jobs/") {
            return accepts(line);
        }
        let refusal = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "exceeded quota: gpus", "reason": "Forbidden", "code": 403});
        (StatusCode::FORBIDDEN, refusal)
    });

    let error = step(client).await.unwrap_err();
    assert!(error.starts_with("applying Job muge-align-1: "), "{error}");
    let status = transcript.body("/status")["status"].clone();
    let running = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|found| found["type"] == "Running");

    let message = running.unwrap()["message"].as_str().unwrap();
    assert!(message.contains("exceeded quota: gpus"), "{message}");
}

#[tokio::test]
async fn an_evaluation_that_waits_is_reconciled_when_its_training_appears() {
    let training_there = Arc::new(AtomicBool::new(false));
    let is_there = training_there.clone();
    let accepts = cluster(json!(null), json!([]));
    let (client, _) = api_server(move |line| {
        let path = line.split(['?', ' ']).nth(1).unwrap_or_default();
        if path.contains("/cnclipevaluations/scores") {
            return (StatusCode::OK, evaluation());
        }

        if path == CLIP && !is_there.load(Ordering::Relaxed) {
            return not_found();
        }

        accepts(line)
    });

    let context = context(client);
    let mut triggered = Box::pin(context.triggers().subscribe("evaluation"));
    let waiting = changed::<CnClipEvaluation>("scores");
    reconcile(waiting, context.clone()).await.unwrap();
    assert!(triggered.next().now_or_never().is_none());

    training_there.store(true, Ordering::Relaxed);
    let training = changed::<CnClipTraining>("muge");
    reconcile(training.clone(), context.clone()).await.unwrap();
    let run = triggered.next().now_or_never().unwrap().unwrap();
    assert_eq!(
        (run.namespace.as_str(), run.name.as_str()),
        ("team", "scores")
    );

    // Its deletion has no reconciliation.
    context.forget_run::<CnClipTraining>(&*training);
    assert!(triggered.next().now_or_never().is_some());
}

#[tokio::test]
async fn a_run_that_is_gone_is_left_in_peace() {
    let (client, transcript) = api_server(|_| not_found());

    step(client).await.unwrap();
    assert_eq!(transcript.lines(), [format!("GET {CLIP}")]);
}
