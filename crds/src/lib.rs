//! API types shared by the user, the operator and the trainer: custom resources, trainer configuration,
//! progress report and names. Pure data and validation rules; no I/O.

#![allow(
    unreachable_pub,
    reason = "kube's schema derive repeats the types inside a private module"
)]

pub mod artifacts;
#[cfg(feature = "kube")]
pub mod common;
pub mod defaults;
#[cfg(feature = "kube")]
pub mod evaluation;
pub mod exit_code;
pub mod field_problem;
pub mod grace;
pub mod model;
pub mod names;
pub mod rendezvous_secret;
pub mod report;
mod schema;
pub mod stage;
pub mod tasks;
pub mod trainer_config;
#[cfg(feature = "kube")]
pub mod training;
