//! Kubernetes in, Kubernetes out: turns manifests into pods and what pods say into status. Knows no
//! tensor. Reading order: `reconcile` is the loop, `plan` decides.

pub mod options;

pub mod controller;
pub mod lease;
pub mod metrics;
pub mod server;

pub mod reconcile;

pub mod observe;
pub mod observed;
pub mod progress_reader;

pub mod recorded_status;
pub mod resolved_run;
pub mod run;

pub mod plan;

pub mod apply;
pub mod error;
pub mod objects;
pub mod status;

pub mod crd_manifests;
mod time;

#[cfg(test)]
mod cluster_fixtures;
#[cfg(test)]
mod manifest_fixtures;
