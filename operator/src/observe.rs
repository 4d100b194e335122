//! Observation: reads the objects of a run and what is known of its progress into an [`ObservedState`].

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use cnclip_crds::{names, rendezvous_secret::RendezvousSecret, report::ProgressReport};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ListParams, ObjectList},
};

use crate::{
    error::ReconcileError,
    observed::{self, ObservedState, WorkerPod, WorkerState},
    progress_poller::{
        ProgressPoller,
        schedule::{PodProgress, PollTarget},
    },
    resolve::{RunRef, RunResource},
    status::progress,
};

/// Reads the objects of a run and what is known of its progress.
///
/// # Errors
/// If the API server could not be read, or the system has no random numbers.
pub async fn observe_run<R: RunResource>(
    client: &Client,
    poller: &ProgressPoller,
    owner: &RunRef,
    run: &R,
) -> Result<ObservedState, ReconcileError> {
    // Listed from the API server, not from a cache: after a Job was created, a stale cache would show none,
    // and the stage would count as lost.
    // Jobs first: pods are then at least as recent, so that a failed Job comes with the exit codes
    // of the pods that explain it.
    let jobs = list_owned::<Job>(client, owner, "Jobs").await?;
    let pods = list_owned::<Pod>(client, owner, "Pods").await?;
    let mut observed = ObservedState {
        now: Timestamp::now(),
        drawn_secret: Some(draw_secret()?),
        jobs: jobs
            .iter()
            .filter_map(|job| observed::parse_job(job, &owner.uid))
            .collect(),
        workers: pods.iter().filter_map(observed::parse_worker_pod).collect(),
        report: None,
        poll_failure: None,
        training: fetch_referenced_run(client, owner, run.training_name(), "CnClipTraining")
            .await?,
        baseline: fetch_referenced_run(client, owner, run.baseline_name(), "CnClipEvaluation")
            .await?,
    };

    let is_polled = !run.recorded_status().has_ended();
    let progress = read_progress(poller, owner, &observed, is_polled);
    observed.report = progress.report.as_deref().cloned();
    observed.poll_failure = progress.failure;
    Ok(observed)
}

fn draw_secret() -> Result<RendezvousSecret, ReconcileError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|source| ReconcileError::DrawSecret { source })?;
    Ok(RendezvousSecret::from_random(bytes))
}

async fn list_owned<K>(
    client: &Client,
    owner: &RunRef,
    what: &'static str,
) -> Result<ObjectList<K>, ReconcileError>
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
        .map_err(|source| observe_error(owner, what, source))
}

/// Reads a run that the spec references by name.
async fn fetch_referenced_run<R: RunResource>(
    client: &Client,
    owner: &RunRef,
    name: Option<&str>,
    what: &'static str,
) -> Result<Option<R>, ReconcileError> {
    let Some(name) = name else { return Ok(None) };
    let api = Api::<R>::namespaced(client.clone(), &owner.namespace);
    // A missing run is an answer, not an error: the spec may be applied before what it references.
    api.get_opt(name)
        .await
        .map_err(|source| observe_error(owner, what, source))
}

fn observe_error(owner: &RunRef, what: &'static str, source: kube::Error) -> ReconcileError {
    let run = format!("{} {}/{}", owner.api_kind, owner.namespace, owner.name);
    ReconcileError::Observe {
        run,
        what,
        source: Box::new(source),
    }
}

/// Progress of worker 0 of the newest attempt: from the poller, or from its termination message.
fn read_progress(
    poller: &ProgressPoller,
    owner: &RunRef,
    observed: &ObservedState,
    is_polled: bool,
) -> PodProgress {
    let key = owner.key();
    let first = observed.workers.iter().filter(|worker| worker.index == 0);
    let worker = first.max_by_key(|worker| job_start(observed, worker));
    if let Some(target) = worker.and_then(|worker| poll_target(owner, worker))
        && is_polled
    {
        return poller.watch_pod(key, target);
    }

    let last = poller.forget_run(&key).report;
    let Some(worker) = worker else {
        return PodProgress::default();
    };

    let attempt = owner.attempt_identity(&worker.stage, worker.attempt);
    let is_own = |report: &ProgressReport| progress::matches_attempt(report, &attempt, &worker.uid);

    let message = worker.last_report().filter(is_own).map(Arc::new);
    PodProgress {
        // A pod that was killed has no message.
        report: message.or_else(|| last.filter(|report| is_own(report))),
        failure: None,
    }
}

/// Where a running worker reports.
fn poll_target(owner: &RunRef, worker: &WorkerPod) -> Option<PollTarget> {
    if worker.state != WorkerState::Running {
        return None;
    }

    let ip: IpAddr = worker.ip.as_deref()?.parse().ok()?;
    Some(PollTarget {
        pod_uid: worker.uid.clone(),
        address: SocketAddr::new(ip, names::HTTP_PORT),
        attempt: owner.attempt_identity(&worker.stage, worker.attempt),
    })
}

/// Stages are sequential, so that the newest Job is that of the current attempt.
fn job_start(observed: &ObservedState, worker: &WorkerPod) -> Option<(Timestamp, i32)> {
    let of_worker =
        |job: &&observed::ObservedJob| job.stage == worker.stage && job.attempt == worker.attempt;
    observed
        .jobs
        .iter()
        .find(of_worker)
        .map(|job| (job.started, job.attempt))
}
