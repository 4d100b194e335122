//! The contract between a user, the operator and a trainer: every type that two of them share, each
//! declared once. Decides nothing and talks to nobody.

pub mod model;
