//! Controllers: watches that trigger reconciliations of runs, when they, their Jobs or their pods change.

use std::{fmt::Debug, sync::Arc};

use cnclip_crds::names;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{batch::v1::Job, core::v1::Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        Controller, WatchStreamExt, controller, predicates, reflector, reflector::ObjectRef,
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::{
    reconcile::{ReconcileContext, error_policy, reconcile},
    resolve::RunResource,
};

/// Maximum number of concurrent reconciliations per kind.
const CONCURRENCY: u16 = 16;

/// Reconciles all runs of one kind until stopped, then waits for the reconciliations in progress.
///
/// The caches hold only metadata: ten thousand runs take a few megabytes, and a manifest that cannot be
/// deserialized does not break the watch of all others.
pub async fn run_controller<R: RunResource>(
    client: Client,
    namespace: Option<String>,
    context: Arc<ReconcileContext>,
    stop: CancellationToken,
) {
    let (reader, writer) = reflector::store();
    let known = reader.clone();
    let memory = context.clone();
    let runs = watcher(
        metadata_api::<R>(&client, namespace.as_deref()),
        watcher::Config::default(),
    )
    .default_backoff()
    // Managed fields are most of the metadata, and nothing reads them.
    .modify(|run| run.managed_fields_mut().clear())
    // Before the inspection of events, which compares the memory with the relisted store.
    .reflect(writer)
    .inspect_ok(move |event| forget_deleted(&memory, &known, event))
    // Deletions need no reconciliation: the garbage collector follows the owner references.
    .applied_objects()
    // Status updates do not change the generation: the operator's own writes trigger no reconciliation.
    .predicate_filter(predicates::generation, Default::default());

    let jobs = watch_children::<R, Job>(&client, namespace.as_deref());
    let pods = watch_children::<R, Pod>(&client, namespace.as_deref());
    let triggered = context.triggers().subscribe(R::KIND);
    let triggered = triggered.map(|run| ObjectRef::new(&run.name).within(&run.namespace));
    Controller::for_stream(runs, reader)
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .watches_stream(jobs, |job| owner_ref::<R>(&job))
        .watches_stream(pods, |pod| owner_ref::<R>(&pod))
        .reconcile_on(triggered)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile::<R>, error_policy::<R>, context)
        .for_each(|result| async move {
            // Errors of reconciliations are logged by the error policy; this is for those of the watches.
            if let Err(error) = result {
                tracing::debug!(%error, "Controller");
            }
        })
        .await;
}

/// Removes what is kept in memory of deleted runs, which are not reconciled.
fn forget_deleted<R: RunResource>(
    context: &ReconcileContext,
    known: &reflector::Store<PartialObjectMeta<R>>,
    event: &watcher::Event<PartialObjectMeta<R>>,
) {
    match event {
        watcher::Event::Delete(run) => context.forget_run::<R>(run),
        // Deletions during an interrupted watch have no event: they show only as absence after the
        // relist.
        watcher::Event::InitDone => context.retain_runs::<R>(|namespace, name| {
            known.get(&ObjectRef::new(name).within(namespace)).is_some()
        }),
        _ => {}
    }
}

/// Metadata API of a kind.
fn metadata_api<K>(client: &Client, namespace: Option<&str>) -> Api<PartialObjectMeta<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Watches the Jobs or pods of this kind of run.
fn watch_children<R: RunResource, K>(
    client: &Client,
    namespace: Option<&str>,
) -> impl Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send + 'static
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    // By label, not by owner reference, so that the API server filters the watch.
    let ours = watcher::Config::default().labels(&format!("{}={}", names::LABEL_KIND, R::KIND));
    watcher(metadata_api::<K>(client, namespace), ours)
        .default_backoff()
        // With deletions: a deleted Job is a failure of its attempt.
        .touched_objects()
}

fn owner_ref<R: RunResource>(child: &impl ResourceExt) -> Option<ObjectRef<PartialObjectMeta<R>>> {
    let name = child.labels().get(names::LABEL_RUN)?;
    Some(ObjectRef::new(name).within(&child.namespace()?))
}
