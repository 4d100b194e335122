//! The loop: observe, plan, apply, write the status. Only `plan` decides anything.

use std::{sync::Arc, time::Instant};

use cnclip_crds::{
    evaluation::CnClipEvaluation,
    names::{FIELD_MANAGER, condition},
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
    apply::{apply, write_status},
    error::Error,
    ledger::Ledger,
    metrics::Metrics,
    observe::observe,
    plan::{Plan, plan},
    progress_reader::ProgressReader,
    run::{Defaults, Owner, Run},
    status::notices::Notice,
};

/// What every reconcile may use.
pub struct Context {
    client: Client,
    reader: ProgressReader,
    defaults: Defaults,
    metrics: Metrics,
}

impl Context {
    /// Forgets what is told of a run that is gone.
    pub fn forget<R: Run>(&self, run: &impl ResourceExt) {
        if R::KIND == CnClipEvaluation::KIND {
            self.metrics
                .scores
                .forget(&run.namespace().unwrap_or_default(), &run.name_any());
        }
    }

    /// Forgets what is told of runs that went while nobody watched.
    pub fn keep<R: Run>(&self, is_there: impl Fn(&str, &str) -> bool) {
        if R::KIND == CnClipEvaluation::KIND {
            self.metrics.scores.keep(is_there);
        }
    }

    /// Built once; tests build it over a scripted client.
    pub fn new(client: Client, defaults: Defaults, metrics: Metrics) -> Self {
        let reader = ProgressReader::new(metrics.clone());
        Self {
            client,
            reader,
            defaults,
            metrics,
        }
    }
}

/// Brings one run a step on, and says when to look again.
///
/// # Errors
/// If the API server could not be talked to.
pub async fn reconcile<R: Run>(
    changed: Arc<PartialObjectMeta<R>>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let began = Instant::now();
    let result = step::<R>(&changed, &context).await;
    let outcome = result.as_ref().map_or_else(Error::class, |_| "ok");
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

/// When to try again.
pub fn after_error<R: Run>(
    run: Arc<PartialObjectMeta<R>>,
    error: &Error,
    _: Arc<Context>,
) -> Action {
    let name = run.meta().name.as_deref();
    tracing::warn!(
        run = name,
        kind = R::KIND,
        error = error.in_words(),
        "Reconcile failed"
    );

    Action::requeue(error.retry_after())
}

async fn step<R: Run>(changed: &PartialObjectMeta<R>, context: &Context) -> Result<Action, Error> {
    let Some(run) = read::<R>(changed, context).await? else {
        return Ok(Action::await_change());
    };

    let owner = Owner::of(&run);
    let observed = observe(&context.client, &context.reader, &owner, &run).await?;
    if let Some(results) = run.results() {
        context
            .metrics
            .scores
            .tell(&owner.namespace, &owner.name, results);
    }

    let work = run.work(&observed, &context.defaults);
    let before = run.ledger();
    let mut plan = plan(&owner, work, &before, &observed, &context.defaults);
    let applied = apply::<R>(&context.client, &owner, &plan).await;
    if let Err(error) = &applied
        && error.is_refusal()
    {
        plan.refused(&owner, &before, &observed, error.in_words());
    }

    // Written even when applying failed: that is when people read it.
    if write_status(&context.client, &owner, &run, &plan).await? {
        tell(context, &run, &owner, &before, &plan).await;
    }

    applied?;
    Ok(plan
        .look_again
        .map_or_else(Action::await_change, Action::requeue))
}

/// The run as it is now, and not as it was when the watch last heard of it: the status is the
/// operator's memory.
async fn read<R: Run>(
    changed: &PartialObjectMeta<R>,
    context: &Context,
) -> Result<Option<R>, Error> {
    let name = changed.meta().name.clone().unwrap_or_default();
    let namespace = changed.meta().namespace.clone().unwrap_or_default();
    let api = Api::<DeserializeGuard<R>>::namespaced(context.client.clone(), &namespace);
    let found = api.get_opt(&name).await.map_err(|source| Error::Observe {
        run: format!("{} {namespace}/{name}", R::kind(&())),
        what: "manifest",
        source: Box::new(source),
    })?;

    match found {
        Some(DeserializeGuard(Ok(run))) => {
            Ok(Some(run).filter(|run| run.meta().deletion_timestamp.is_none()))
        }
        Some(DeserializeGuard(Err(unreadable))) => {
            let message = format!(
                "this operator cannot read the manifest ({}): it was stored under another schema. \
                 Apply it again",
                unreadable.error
            );

            let notice = Notice {
                warning: true,
                reason: "Unreadable".to_owned(),
                message,
            };

            publish(context, changed, &notice).await;
            Ok(None)
        }
        None => Ok(None),
    }
}

/// Says in the log, as events and in the metrics what happened, once it is on record.
async fn tell<R: Run>(context: &Context, run: &R, owner: &Owner, before: &Ledger, plan: &Plan) {
    context.metrics.writes.with_label_values(&["status"]).inc();
    for notice in &plan.notices {
        let Owner {
            kind,
            namespace,
            name,
            ..
        } = owner;

        let Notice {
            reason, message, ..
        } = notice;

        tracing::info!(kind, namespace, run = name, reason, message, "Told");
        publish(context, run, notice).await;
    }

    if let Some(failure) = &plan.ledger.last_failure
        && !before.has_failure_of(&failure.stage, failure.attempt)
    {
        let labels = [R::KIND, failure.class.as_str()];
        context
            .metrics
            .attempt_failures
            .with_label_values(&labels)
            .inc();
    }

    if plan.ledger.ended() && !before.ended() {
        let end = if plan.ledger.is(condition::COMPLETE) {
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

/// An event that is lost is no harm: the status says the same.
async fn publish<K: Resource<DynamicType = ()>>(context: &Context, object: &K, notice: &Notice) {
    let event = Event {
        type_: if notice.warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: notice.reason.clone(),
        note: Some(notice.message.chars().take(1000).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };

    // A recorder of its own: one that lasts folds notices of the same reason into the first one's words.
    let reporter = Reporter {
        controller: FIELD_MANAGER.into(),
        instance: None,
    };

    let recorder = Recorder::new(context.client.clone(), reporter);
    let result = recorder.publish(&event, &object.object_ref(&())).await;
    if let Err(error) = result {
        tracing::warn!(%error, reason = notice.reason, "An event could not be published");
    }
}
