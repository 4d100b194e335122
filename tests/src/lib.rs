//! Shared by the end-to-end tests: how to connect to the testbed, install the operator and wait for a state;
//! and how to break connections.

pub mod cluster;
pub mod fault_proxy;
pub mod namespace;
pub mod operator;
pub mod testbed;
pub mod training;
pub mod wait;
