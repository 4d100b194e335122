//! Kubernetes objects of one attempt, one file per kind. Pure.
//!
//! Every object has an owner reference to its run, so that the garbage collector deletes it with the run: no
//! finalizer is needed, and a run can be deleted while the operator is down.

use std::collections::BTreeMap;

use cnclip_crds::{names, rendezvous_secret::RendezvousSecret};
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{ConfigMap, Service},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use crate::{
    resolve::RunRef,
    resolved_run::{Attempt, ResolvedRun, ResolvedStage},
};

pub mod config_map;
pub mod job;
pub mod service;

/// Objects of one attempt, in creation order: the Job last, because its pods mount the ConfigMap and are
/// resolved by the Service.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptObjects {
    /// Trainer configuration.
    pub config_map: ConfigMap,
    /// DNS names of the workers.
    pub service: Service,
    /// Workers.
    pub job: Job,
}

impl AttemptObjects {
    /// The objects of an attempt at a stage; its workers, if there are several, share the secret.
    pub fn for_attempt(
        owner: &RunRef,
        resolved: &ResolvedRun,
        stage: &ResolvedStage,
        attempt: Attempt,
        secret: Option<&RendezvousSecret>,
    ) -> Self {
        let metadata = object_metadata(owner, &stage.name, attempt.number);
        let config = stage
            .config
            .for_attempt(attempt, service::coordinator_address(&metadata));
        let secret = secret.filter(|_| resolved.workers.replicas > 1);

        Self {
            config_map: config_map::build_config_map(metadata.clone(), &config),
            service: service::build_service(metadata.clone(), resolved.workers.replicas),
            job: job::build_job(metadata, resolved, &config, secret),
        }
    }
}

fn object_metadata(owner: &RunRef, stage: &str, attempt: i32) -> ObjectMeta {
    ObjectMeta {
        name: Some(owner.attempt_name(stage, attempt)),
        namespace: Some(owner.namespace.clone()),
        labels: Some(object_labels(owner, stage, attempt)),
        owner_references: Some(vec![OwnerReference {
            api_version: owner.api_version.clone(),
            kind: owner.api_kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
            // The UID binds the object to this run, not to a later one of the same name; at most
            // one owner reference may be the controller.
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

fn object_labels(owner: &RunRef, stage: &str, attempt: i32) -> BTreeMap<String, String> {
    let attempt = attempt.to_string();
    [
        ("app.kubernetes.io/managed-by", names::FIELD_MANAGER),
        ("app.kubernetes.io/name", "cnclip-trainer"),
        (names::LABEL_KIND, owner.kind),
        (names::LABEL_RUN, &owner.name),
        (names::LABEL_STAGE, stage),
        (names::LABEL_ATTEMPT, &attempt),
    ]
    .map(|(label, value)| (label.to_owned(), value.to_owned()))
    .into()
}
