//! Operator of `CnClipTraining` and `CnClipEvaluation`: creates the pods of a run and reports their progress
//! in its status.
//!
//! Reading order: [`reconcile`] is the control loop, [`observe`] reads the cluster, [`resolve`] turns a spec
//! into work, [`plan`] decides, [`apply`] writes.

pub mod options;

pub mod controller;
pub mod lease;
pub mod metrics;
pub mod server;

pub mod reconcile;

pub mod dependents;
pub mod observe;
pub mod observed;
pub mod poll_failure;
pub mod progress_poller;
pub mod progress_reader;
pub mod report_limits;
pub mod run_key;
pub mod triggers;

pub mod phase;
pub mod recorded_status;
pub mod resolve;
pub mod resolved_run;

pub mod plan;

pub mod apply;
pub mod error;
pub mod objects;
pub mod status;

pub mod crd_manifests;
mod sync;
mod text_limits;
mod time;

#[cfg(test)]
mod cluster_fixtures;
#[cfg(test)]
mod manifest_fixtures;
