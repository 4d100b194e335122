//! Applies a plan: server-side apply with one field manager, and deletion of old attempts. Idempotent: applying
//! the same plan twice changes nothing.

use std::fmt::Debug;

use cnclip_crds::names;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        batch::v1::Job,
        core::v1::{ConfigMap, Service},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::ReconcileError,
    objects::job,
    plan::ReconcilePlan,
    resolve::{RunRef, RunResource},
};

/// Creates and deletes the objects of a plan.
///
/// # Errors
/// At the first object that could not be written. The objects before it stay, and are applied again by the
/// next reconciliation.
pub async fn apply_plan<R: RunResource>(
    client: &Client,
    owner: &RunRef,
    plan: &ReconcilePlan,
) -> Result<(), ReconcileError> {
    for name in &plan.remove {
        // The Job last: the operator watches Jobs, so its removal is planned again until it succeeds.
        delete_object::<ConfigMap>(client, owner, name).await?;
        delete_object::<Service>(client, owner, name).await?;
        delete_object::<Job>(client, owner, name).await?;
    }

    if let Some(objects) = &plan.create {
        apply_object(client, owner, &objects.config_map).await?;
        apply_object(client, owner, &objects.service).await?;
        apply_job(client, owner, objects.job.clone()).await?;
    }

    if plan.delete_run {
        delete_run::<R>(client, owner).await?;
    }

    Ok(())
}

/// Writes the status if it has changed; returns whether it was written.
///
/// # Errors
/// If the API server refuses it, such as with a conflict because the run has changed since it was read.
pub async fn write_status<R: RunResource>(
    client: &Client,
    owner: &RunRef,
    run: &R,
    plan: &ReconcilePlan,
) -> Result<bool, ReconcileError> {
    // Always the whole status: server-side apply removes the fields that an earlier apply set and
    // this one leaves out.
    let status = run.to_status_json(&plan.status);
    // Each write notifies every watcher of the run, so polls without a change write nothing.
    if status == run.current_status_json() {
        return Ok(false);
    }

    let mut metadata = serde_json::json!({"name": owner.name});
    // Optimistic locking: refused if the run has changed, or was recreated, since it was read. The next
    // reconciliation plans again from the current state.
    if let Some(version) = run.meta().resource_version.as_deref() {
        metadata["resourceVersion"] = version.into();
    }

    let patch = serde_json::json!({
        "apiVersion": owner.api_version,
        "kind": owner.api_kind,
        "metadata": metadata,
        "status": status,
    });

    let api = Api::<R>::namespaced(client.clone(), &owner.namespace);
    let written = api
        .patch_status(&owner.name, &apply_params(), &Patch::Apply(patch))
        .await;

    match written {
        Ok(_) => Ok(true),
        // The run was deleted after it was read.
        Err(kube::Error::Api(error)) if error.code == 404 => Ok(false),
        Err(source) => {
            let run = format!("{} {}/{}", owner.api_kind, owner.namespace, owner.name);
            Err(ReconcileError::WriteStatus {
                run,
                source: Box::new(source),
            })
        }
    }
}

/// Conflicts are forced: the operator is the only owner of its fields, and other managers that set one, such as
/// `kubectl edit`, must not stop reconciliation.
fn apply_params() -> PatchParams {
    PatchParams::apply(names::FIELD_MANAGER).force()
}

/// Applies a Job. One that exists keeps the secret of its workers, some of which may know it already: a request that
/// timed out may have created it after it was observed as missing.
async fn apply_job(client: &Client, owner: &RunRef, mut job: Job) -> Result<(), ReconcileError> {
    let name = job.name_any();
    let Some(drawn) = job::secret_variable(&mut job) else {
        return apply_object(client, owner, &job).await;
    };

    let api = Api::<Job>::namespaced(client.clone(), &owner.namespace);
    let existing = api
        .get_opt(&name)
        .await
        .map_err(|source| apply_error::<Job>(&name, source))?;

    if let Some(kept) = existing
        .and_then(|mut existing| job::secret_variable(&mut existing).map(|kept| kept.clone()))
    {
        *drawn = kept;
    }

    // The API server's answer to a Job that it does not take may show all of its template.
    let secret = drawn.value.clone().unwrap_or_default();
    apply_object(client, owner, &job)
        .await
        .map_err(|error| error.redact(&secret))
}

async fn apply_object<K>(client: &Client, owner: &RunRef, object: &K) -> Result<(), ReconcileError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize,
{
    let api = Api::<K>::namespaced(client.clone(), &owner.namespace);
    let name = object.name_any();
    api.patch(&name, &apply_params(), &Patch::Apply(object))
        .await
        .map(drop)
        .map_err(|source| apply_error::<K>(&name, source))
}

fn apply_error<K: Resource<DynamicType = ()>>(name: &str, source: kube::Error) -> ReconcileError {
    ReconcileError::Apply {
        kind: kind_name::<K>(),
        name: name.to_owned(),
        source: Box::new(source),
    }
}

async fn delete_object<K>(client: &Client, owner: &RunRef, name: &str) -> Result<(), ReconcileError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let api = Api::<K>::namespaced(client.clone(), &owner.namespace);
    // In the background: the garbage collector deletes the pods, within their grace period.
    ignore_not_found::<K>(
        name,
        api.delete(name, &DeleteParams::background())
            .await
            .map(drop),
    )
}

/// Deletes this run, but not another of the same name that was created in the meantime.
async fn delete_run<R: RunResource>(client: &Client, owner: &RunRef) -> Result<(), ReconcileError> {
    let api = Api::<R>::namespaced(client.clone(), &owner.namespace);
    // The deletion was decided for the status that was read. A run of the same name, created in
    // between, has another UID, and the API server then answers 409.
    let preconditions = Preconditions {
        uid: Some(owner.uid.clone()),
        resource_version: None,
    };

    let params = DeleteParams::background().preconditions(preconditions);
    ignore_not_found::<R>(
        &owner.name,
        api.delete(&owner.name, &params).await.map(drop),
    )
}

/// Deleting an object that does not exist succeeds.
fn ignore_not_found<K: Resource<DynamicType = ()>>(
    name: &str,
    result: kube::Result<()>,
) -> Result<(), ReconcileError> {
    match result {
        Err(kube::Error::Api(error)) if error.code == 404 => Ok(()),
        Err(source) => Err(ReconcileError::Delete {
            kind: kind_name::<K>(),
            name: name.to_owned(),
            source: Box::new(source),
        }),
        Ok(()) => Ok(()),
    }
}

fn kind_name<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(_) => "object",
    }
}
