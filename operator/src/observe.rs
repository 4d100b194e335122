//! Reads everything that a decision may depend on, once, into one value. Judges nothing.

use cnclip_crds::{names, report::Report};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ListParams, ObjectList},
};

use crate::{
    error::Error,
    observed::{self, Observed, Worker, WorkerState},
    progress_reader::ProgressReader,
    run::{Owner, Run},
    status::progress,
};

/// Reads the cluster and, if a trainer is at work, what it says.
///
/// # Errors
/// If the API server could not be read. A trainer that does not answer is no error.
pub async fn observe<R: Run>(
    client: &Client,
    reader: &ProgressReader,
    owner: &Owner,
    run: &R,
) -> Result<Observed, Error> {
    let jobs = list::<Job>(client, owner, "Jobs").await?;
    let pods = list::<Pod>(client, owner, "Pods").await?;
    let mut seen = Observed {
        now: Timestamp::now(),
        jobs: jobs
            .iter()
            .filter_map(|job| observed::job(job, &owner.uid))
            .collect(),
        workers: pods.iter().filter_map(observed::worker).collect(),
        report: None,
        training: other(client, owner, run.training_name(), "CnClipTraining").await?,
        baseline: other(client, owner, run.baseline_name(), "CnClipEvaluation").await?,
    };

    seen.report = report(reader, owner, &seen).await;
    Ok(seen)
}

async fn list<K>(client: &Client, owner: &Owner, what: &'static str) -> Result<ObjectList<K>, Error>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let selector = format!(
        "{}={},{}={}",
        names::LABEL_KIND,
        owner.kind,
        names::LABEL_RUN,
        owner.name
    );

    let api = Api::<K>::namespaced(client.clone(), &owner.namespace);
    api.list(&ListParams::default().labels(&selector))
        .await
        .map_err(|source| failed(owner, what, source))
}

/// Another run that this one names.
async fn other<R: Run>(
    client: &Client,
    owner: &Owner,
    name: Option<&str>,
    what: &'static str,
) -> Result<Option<R>, Error> {
    let Some(name) = name else { return Ok(None) };
    let api = Api::<R>::namespaced(client.clone(), &owner.namespace);
    api.get_opt(name)
        .await
        .map_err(|source| failed(owner, what, source))
}

fn failed(owner: &Owner, what: &'static str, source: kube::Error) -> Error {
    let run = format!("{} {}/{}", owner.api_kind, owner.namespace, owner.name);
    Error::Observe {
        run,
        what,
        source: Box::new(source),
    }
}

/// What the first worker of the newest attempt says, or said last.
async fn report(reader: &ProgressReader, owner: &Owner, seen: &Observed) -> Option<Report> {
    let first = seen.workers.iter().filter(|worker| worker.index == 0);
    let worker = first.max_by_key(|worker| began(seen, worker))?;
    let report = match &worker.state {
        WorkerState::Running => reader.read(worker.ip.as_deref()?).await?,
        WorkerState::Ended { .. } => worker.last_report()?,
        WorkerState::Unscheduled { .. } | WorkerState::Waiting { .. } => return None,
    };

    progress::is_from(
        &report,
        &owner.identity(&worker.stage, worker.attempt),
        &worker.uid,
    )
    .then_some(report)
}

/// Stages follow each other, so the newest Job is the one at work.
fn began(seen: &Observed, worker: &Worker) -> Option<(Timestamp, i32)> {
    let of_worker =
        |job: &&observed::JobSeen| job.stage == worker.stage && job.attempt == worker.attempt;
    seen.jobs
        .iter()
        .find(of_worker)
        .map(|job| (job.started, job.attempt))
}
