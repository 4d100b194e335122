//! Control loop: observe, resolve, plan, apply, write the status. Only `plan` decides.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cnclip_crds::{
    evaluation::CnClipEvaluation,
    names::{FIELD_MANAGER, condition},
    training::CnClipTraining,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        controller::Action,
        events::{Event, EventType, Recorder, Reporter},
    },
};

use crate::{
    apply::{apply_plan, write_status},
    dependents::Dependents,
    error::ReconcileError,
    metrics::Metrics,
    observe::observe_run,
    plan::{ReconcilePlan, plan_run},
    progress_poller::ProgressPoller,
    recorded_status::RecordedStatus,
    resolve::{RunRef, RunResource, TrainerDefaults},
    run_key::RunKey,
    status::events::RunEvent,
    text_limits::{MAX_EVENT_NOTE_BYTES, truncate_to_bytes},
    triggers::Triggers,
};

/// Shared state of all reconciliations.
pub struct ReconcileContext {
    client: Client,
    poller: ProgressPoller,
    triggers: Triggers,
    dependents: Dependents,
    defaults: TrainerDefaults,
    metrics: Metrics,
}

impl ReconcileContext {
    /// A context over a client.
    pub fn new(client: Client, defaults: TrainerDefaults, metrics: Metrics) -> Self {
        let interval = Duration::from_secs(defaults.progress_interval_seconds);
        let triggers = Triggers::default();
        Self {
            client,
            poller: ProgressPoller::new(interval, triggers.clone(), metrics.clone()),
            triggers,
            dependents: Dependents::default(),
            defaults,
            metrics,
        }
    }

    /// Poller of the progress of running pods.
    pub fn poller(&self) -> &ProgressPoller {
        &self.poller
    }

    /// Triggers of reconciliations that no watch gives.
    pub fn triggers(&self) -> &Triggers {
        &self.triggers
    }

    /// Removes what is kept in memory of a deleted run.
    pub fn forget_run<R: RunResource>(&self, run: &impl ResourceExt) {
        let key = run_key::<R>(run);
        self.poller.forget_run(&key);
        self.dependents.set_references(key.clone(), Vec::new());
        self.trigger_dependents(&key);
        if R::KIND == CnClipEvaluation::KIND {
            let scores = &self.metrics.scores;
            scores.remove_evaluation(&key.namespace, &key.name);
        }
    }

    /// Removes what is kept in memory of runs that were deleted while the watch was interrupted.
    pub fn retain_runs<R: RunResource>(&self, is_there: impl Fn(&str, &str) -> bool) {
        let keep = |run: &RunKey| run.kind != R::KIND || is_there(&run.namespace, &run.name);
        self.poller.retain_runs(keep);
        self.dependents.retain_runs(keep);
        if R::KIND == CnClipEvaluation::KIND {
            self.metrics.scores.retain_evaluations(is_there);
        }
    }

    fn trigger_dependents(&self, run: &RunKey) {
        for dependent in self.dependents.find_dependents(run) {
            self.triggers.reconcile(dependent);
        }
    }
}

fn run_key<R: RunResource>(run: &impl ResourceExt) -> RunKey {
    RunKey {
        kind: R::KIND,
        namespace: run.namespace().unwrap_or_default(),
        name: run.name_any(),
    }
}

/// Reconciles one run and returns when to requeue it.
///
/// # Errors
/// If an object could not be read or written.
pub async fn reconcile<R: RunResource>(
    changed: Arc<PartialObjectMeta<R>>,
    context: Arc<ReconcileContext>,
) -> Result<Action, ReconcileError> {
    let began = Instant::now();
    let result = reconcile_once::<R>(&changed, &context).await;
    let outcome = result
        .as_ref()
        .map_or_else(ReconcileError::metric_label, |_| "ok");
    let metrics = &context.metrics;
    metrics
        .reconciles
        .with_label_values(&[R::KIND, outcome])
        .inc();

    metrics
        .reconcile_seconds
        .with_label_values(&[R::KIND])
        .observe(began.elapsed().as_secs_f64());

    result
}

/// Requeue policy after an error.
pub fn error_policy<R: RunResource>(
    run: Arc<PartialObjectMeta<R>>,
    error: &ReconcileError,
    _: Arc<ReconcileContext>,
) -> Action {
    let name = run.meta().name.as_deref();
    tracing::warn!(
        run = name,
        kind = R::KIND,
        error = error.error_chain(),
        "Reconciliation failed"
    );

    Action::requeue(error.retry_after())
}

async fn reconcile_once<R: RunResource>(
    changed: &PartialObjectMeta<R>,
    context: &ReconcileContext,
) -> Result<Action, ReconcileError> {
    let Some(run) = fetch_run::<R>(changed, context).await? else {
        context.poller.forget_run(&run_key::<R>(changed));
        return Ok(Action::await_change());
    };

    let owner = RunRef::from_run(&run);
    // Before the referenced runs are read: what changes in between triggers another reconciliation.
    let references = referenced_runs(&owner, &run);
    context.dependents.set_references(owner.key(), references);
    let observed = observe_run(&context.client, &context.poller, &owner, &run).await?;
    // From the stored status: a restarted operator also exports the scores of finished evaluations.
    if let Some(results) = run.task_results() {
        context
            .metrics
            .scores
            .set_gauges(&owner.namespace, &owner.name, results);
    }

    let resolved = run.resolve_run(&observed, &context.defaults);
    let before = run.recorded_status();
    let mut plan = plan_run(&owner, resolved, &before, &observed);
    let applied = apply_plan::<R>(&context.client, &owner, &plan).await;
    if let Err(error) = &applied
        && error.is_refusal()
    {
        plan.mark_refused(&owner, &before, &observed, error.error_chain());
    }

    // Written even if an object was refused: the condition then has the reason. Written after the objects: a
    // status that says so before they exist would be wrong if the operator stopped in between.
    if write_status(&context.client, &owner, &run, &plan).await? {
        publish_changes(context, &run, &owner, &before, &plan).await;
        if plan.status.has_news_for_dependents(&before) {
            context.trigger_dependents(&owner.key());
        }
    }

    // Only now, so that the status is written; the error still leads to the backoff of
    // `error_policy`.
    applied?;
    Ok(plan
        .requeue_after
        .map_or_else(Action::await_change, Action::requeue))
}

fn referenced_runs<R: RunResource>(owner: &RunRef, run: &R) -> Vec<RunKey> {
    let key = |kind, name: &str| RunKey {
        kind,
        namespace: owner.namespace.clone(),
        name: name.to_owned(),
    };

    let training = run.training_name();
    let training = training.map(|name| key(CnClipTraining::KIND, name));
    let baseline = run.baseline_name();
    let baseline = baseline.map(|name| key(CnClipEvaluation::KIND, name));
    training.into_iter().chain(baseline).collect()
}

/// Reads the run from the API server instead of the watch cache: the status is the operator's only memory,
/// and a plan based on a stale status would repeat actions.
async fn fetch_run<R: RunResource>(
    changed: &PartialObjectMeta<R>,
    context: &ReconcileContext,
) -> Result<Option<R>, ReconcileError> {
    let name = changed.meta().name.clone().unwrap_or_default();
    let namespace = changed.meta().namespace.clone().unwrap_or_default();
    let api = Api::<DeserializeGuard<R>>::namespaced(context.client.clone(), &namespace);
    let found = api
        .get_opt(&name)
        .await
        .map_err(|source| ReconcileError::Observe {
            run: format!("{} {namespace}/{name}", R::kind(&())),
            what: "manifest",
            source: Box::new(source),
        })?;

    match found {
        Some(DeserializeGuard(Ok(run))) => {
            // A run that is being deleted gets no new objects: they would be garbage collected at
            // once.
            Ok(Some(run).filter(|run| run.meta().deletion_timestamp.is_none()))
        }
        // An event, because a status written without the recorded one would lose the restart
        // counts.
        Some(DeserializeGuard(Err(unreadable))) => {
            let message = format!(
                "this operator cannot read the manifest ({}): it was stored under another schema. \
                 Apply it again",
                unreadable.error
            );

            let event = RunEvent {
                warning: true,
                reason: "Unreadable".to_owned(),
                message,
            };

            publish_event(context, changed, &event).await;
            Ok(None)
        }
        None => Ok(None),
    }
}

/// Logs, publishes events and counts metrics of the changes, after the status is stored.
async fn publish_changes<R: RunResource>(
    context: &ReconcileContext,
    run: &R,
    owner: &RunRef,
    before: &RecordedStatus,
    plan: &ReconcilePlan,
) {
    context.metrics.writes.with_label_values(&["status"]).inc();
    for event in &plan.events {
        let RunRef {
            kind,
            namespace,
            name,
            ..
        } = owner;

        let RunEvent {
            reason, message, ..
        } = event;

        tracing::info!(
            kind,
            namespace,
            run = name,
            reason,
            message,
            "Event recorded"
        );
        publish_event(context, run, event).await;
    }

    // By attempt, not by equality: the same failure is found in every status until the next one.
    if let Some(failure) = &plan.status.last_failure
        && !before.has_failure_of_attempt(&failure.stage, failure.attempt)
    {
        let labels = [R::KIND, failure.class.as_str()];
        context
            .metrics
            .attempt_failures
            .with_label_values(&labels)
            .inc();
    }

    if plan.status.has_ended() && !before.has_ended() {
        let end = if plan.status.is_condition_true(condition::COMPLETE) {
            "complete"
        } else {
            "failed"
        };

        context
            .metrics
            .ended_runs
            .with_label_values(&[R::KIND, end])
            .inc();
    }
}

/// Publishes an event. Best effort: the status has the same information.
async fn publish_event<K: Resource<DynamicType = ()>>(
    context: &ReconcileContext,
    object: &K,
    run_event: &RunEvent,
) {
    let event = build_event(run_event);

    // A new recorder per event: a shared one aggregates events of the same reason and keeps the first message.
    let reporter = Reporter {
        controller: FIELD_MANAGER.into(),
        instance: None,
    };

    let recorder = Recorder::new(context.client.clone(), reporter);
    let result = recorder.publish(&event, &object.object_ref(&())).await;
    if let Err(error) = result {
        tracing::warn!(%error, reason = run_event.reason, "Event not published");
    }
}

fn build_event(run_event: &RunEvent) -> Event {
    let type_ = if run_event.warning {
        EventType::Warning
    } else {
        EventType::Normal
    };

    let note = truncate_to_bytes(&run_event.message, MAX_EVENT_NOTE_BYTES);
    Event {
        type_,
        reason: run_event.reason.clone(),
        note: Some(note.to_owned()),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_events_fit_the_limit_of_the_api_server_in_any_script() {
        for (script, length) in [("a", 1024), ("中", 1023), ("🐼", 1024)] {
            let event = RunEvent {
                warning: true,
                reason: "Config".to_owned(),
                message: script.repeat(2000),
            };

            assert_eq!(build_event(&event).note.unwrap().len(), length, "{script}");
        }
    }
}
