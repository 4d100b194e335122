//! The contract between a user, the operator and a trainer: every type that two of them share, each
//! declared once. Decides nothing and talks to nobody.

#![allow(
    unreachable_pub,
    reason = "kube's schema derive repeats the types inside a private module"
)]

pub mod artifacts;
pub mod benchmark;
#[cfg(feature = "kube")]
pub mod evaluation;
pub mod exit;
pub mod model;
pub mod names;
pub mod report;
pub mod run_config;
mod schema;
#[cfg(feature = "kube")]
pub mod shared;
pub mod stage;
#[cfg(feature = "kube")]
pub mod training;
pub mod zero_shot;
