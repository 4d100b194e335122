//! What the operator must know of a kind of run to reconcile it. One implementation a kind; nothing
//! else in the operator asks which kind it is.

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
};

mod evaluation;
mod training;
pub mod validate;

/// What the operator was installed with.
#[derive(Clone, Debug)]
pub struct TrainerDefaults {
    /// Image of trainers whose manifest names none.
    pub image: String,
    /// The same of those that compute on GPUs.
    pub cuda_image: String,
    /// Seconds between two looks at a run that is at work.
    pub progress_interval_seconds: u64,
}

impl TrainerDefaults {
    /// The image that workers are started from.
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
    /// Value of the label that tells the kinds apart.
    const KIND: &'static str;

    /// The manifest as work, or why it can never work.
    ///
    /// # Errors
    /// A manifest that cannot work is told to the user; it is no fault of the operator's.
    fn resolve_run(
        &self,
        observed: &ObservedState,
        defaults: &TrainerDefaults,
    ) -> Result<ResolvedRun, StatusReason>;

    /// What is on record.
    fn recorded_status(&self) -> RecordedStatus;

    /// The record as the kind's status.
    fn to_status_json(&self, recorded: &RecordedStatus) -> serde_json::Value;

    /// The present status.
    fn current_status_json(&self) -> serde_json::Value;

    /// What it measured; `None` of a kind that measures nothing.
    fn task_results(&self) -> Option<&[ResultStatus]> {
        None
    }

    /// The training that must be looked at too.
    fn training_name(&self) -> Option<&str> {
        None
    }

    /// The evaluation that must be looked at too.
    fn baseline_name(&self) -> Option<&str> {
        None
    }
}

/// Who a run is: what goes into names, labels, owner references and reports.
#[derive(Clone, Debug)]
pub struct RunRef {
    /// The label's value.
    pub kind: &'static str,
    /// The kind as the API writes it.
    pub api_kind: String,
    /// The group and version as the API writes them.
    pub api_version: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// The generation that is planned for.
    pub generation: Option<i64>,
}

impl RunRef {
    /// Reads a run's metadata.
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

    /// Who the trainers of one attempt are.
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

    /// Name of the objects of one attempt.
    pub fn attempt_name(&self, stage: &str, attempt: i32) -> String {
        format!("{}-{stage}-{attempt}", self.name)
    }
}
