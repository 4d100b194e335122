//! Makes a plan true: server-side apply under one field manager, and deletion of what is ours and no
//! longer wanted. Decides nothing; the same plan twice changes nothing.

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
    error::Error,
    plan::Plan,
    run::{Owner, Run},
};

/// Makes the plan's objects come and go.
///
/// # Errors
/// At the first object that could not be written. What was written stays, and is written again next time.
pub async fn apply<R: Run>(client: &Client, owner: &Owner, plan: &Plan) -> Result<(), Error> {
    for name in &plan.remove {
        // The Job last: as long as it is there, its removal is planned again.
        delete::<ConfigMap>(client, owner, name).await?;
        delete::<Service>(client, owner, name).await?;
        delete::<Job>(client, owner, name).await?;
    }

    if let Some(objects) = &plan.create {
        create(client, owner, &objects.config_map).await?;
        create(client, owner, &objects.service).await?;
        create(client, owner, &objects.job).await?;
    }

    if plan.delete_run {
        delete_run::<R>(client, owner).await?;
    }

    Ok(())
}

/// Writes the status, if it changed.
///
/// # Errors
/// If the API server did not take it; if the run changed since it was looked at.
pub async fn write_status<R: Run>(
    client: &Client,
    owner: &Owner,
    run: &R,
    plan: &Plan,
) -> Result<bool, Error> {
    let status = run.status(&plan.ledger);
    if status == run.present_status() {
        return Ok(false);
    }

    let mut metadata = serde_json::json!({"name": owner.name});
    // Of the run that was looked at: one that took its name since is another.
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
        .patch_status(&owner.name, &manager(), &Patch::Apply(patch))
        .await;

    match written {
        Ok(_) => Ok(true),
        // It was deleted in between.
        Err(kube::Error::Api(error)) if error.code == 404 => Ok(false),
        Err(source) => {
            let run = format!("{} {}/{}", owner.api_kind, owner.namespace, owner.name);
            Err(Error::WriteStatus {
                run,
                source: Box::new(source),
            })
        }
    }
}

fn manager() -> PatchParams {
    PatchParams::apply(names::FIELD_MANAGER).force()
}

async fn create<K>(client: &Client, owner: &Owner, object: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize,
{
    let api = Api::<K>::namespaced(client.clone(), &owner.namespace);
    let name = object.name_any();
    api.patch(&name, &manager(), &Patch::Apply(object))
        .await
        .map(drop)
        .map_err(|source| Error::Apply {
            kind: kind::<K>(),
            name,
            source: Box::new(source),
        })
}

async fn delete<K>(client: &Client, owner: &Owner, name: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let api = Api::<K>::namespaced(client.clone(), &owner.namespace);
    gone::<K>(
        name,
        api.delete(name, &DeleteParams::background())
            .await
            .map(drop),
    )
}

/// Only this very run, not another that has taken its name since.
async fn delete_run<R: Run>(client: &Client, owner: &Owner) -> Result<(), Error> {
    let api = Api::<R>::namespaced(client.clone(), &owner.namespace);
    let preconditions = Preconditions {
        uid: Some(owner.uid.clone()),
        resource_version: None,
    };

    let params = DeleteParams::background().preconditions(preconditions);
    gone::<R>(
        &owner.name,
        api.delete(&owner.name, &params).await.map(drop),
    )
}

/// What is not there is deleted.
fn gone<K: Resource<DynamicType = ()>>(name: &str, result: kube::Result<()>) -> Result<(), Error> {
    match result {
        Err(kube::Error::Api(error)) if error.code == 404 => Ok(()),
        Err(source) => Err(Error::Delete {
            kind: kind::<K>(),
            name: name.to_owned(),
            source: Box::new(source),
        }),
        Ok(()) => Ok(()),
    }
}

fn kind<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(_) => "object",
    }
}
