//! Resolution: from the spec of a run to a [`ResolvedRun`]. One implementation of [`RunResource`] per kind;
//! nothing else in the operator depends on the kind.

use std::fmt::Debug;

use cnclip_crds::{
    common::WorkersSpec, stage::Accelerator, tasks::ResultStatus, trainer_config::RunIdentity,
};
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    observed::ObservedState,
    recorded_status::RecordedStatus,
    resolved_run::{ResolvedRun, StatusReason},
    run_key::RunKey,
};

mod evaluation;
mod training;
pub mod validate;

/// Defaults that the operator was installed with.
#[derive(Clone, Debug)]
pub struct TrainerDefaults {
    /// Default trainer image.
    pub image: String,
    /// Default trainer image for GPUs.
    pub cuda_image: String,
    /// Interval at which the progress of a run is read, in seconds.
    pub progress_interval_seconds: u64,
}

impl TrainerDefaults {
    /// Trainer image of these workers.
    fn trainer_image(&self, workers: &WorkersSpec) -> String {
        let default = match workers.accelerator {
            Accelerator::None => &self.image,
            Accelerator::Nvidia => &self.cuda_image,
        };

        workers.image.as_ref().unwrap_or(default).clone()
    }
}

/// A kind of run.
pub trait RunResource:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// Value of the kind label.
    const KIND: &'static str;

    /// Resolves the spec.
    ///
    /// # Errors
    /// If the spec is invalid. That is reported to the user; it is no error of the operator.
    fn resolve_run(
        &self,
        observed: &ObservedState,
        defaults: &TrainerDefaults,
    ) -> Result<ResolvedRun, StatusReason>;

    /// The recorded status.
    fn recorded_status(&self) -> RecordedStatus;

    /// A recorded status as the status of the kind.
    fn to_status_json(&self, recorded: &RecordedStatus) -> serde_json::Value;

    /// The current status.
    fn current_status_json(&self) -> serde_json::Value;

    /// Results of an evaluation; `None` for other kinds.
    fn task_results(&self) -> Option<&[ResultStatus]> {
        None
    }

    /// Name of the training that this run references.
    fn training_name(&self) -> Option<&str> {
        None
    }

    /// Name of the baseline evaluation that this run references.
    fn baseline_name(&self) -> Option<&str> {
        None
    }
}

/// Identity of a run for names, labels, owner references and reports.
#[derive(Clone, Debug)]
pub struct RunRef {
    /// Value of the kind label.
    pub kind: &'static str,
    /// API kind.
    pub api_kind: String,
    /// API group and version.
    pub api_version: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// UID.
    pub uid: String,
    /// The `metadata.generation` that is reconciled.
    pub generation: Option<i64>,
}

impl RunRef {
    /// Reads the metadata of a run.
    pub fn from_run<R: RunResource>(run: &R) -> Self {
        let meta = run.meta();
        Self {
            kind: R::KIND,
            api_kind: R::kind(&()).into_owned(),
            api_version: R::api_version(&()).into_owned(),
            name: meta.name.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation,
        }
    }

    /// Key of the run.
    pub fn key(&self) -> RunKey {
        RunKey {
            kind: self.kind,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// Identity of an attempt in its progress reports.
    pub fn attempt_identity(&self, stage: &str, attempt: i32) -> RunIdentity {
        let name = self.name.clone();
        let uid = self.uid.clone();
        RunIdentity {
            name,
            uid,
            stage: stage.to_owned(),
            attempt,
        }
    }

    /// Name of the objects of an attempt.
    pub fn attempt_name(&self, stage: &str, attempt: i32) -> String {
        format!("{}-{stage}-{attempt}", self.name)
    }
}
