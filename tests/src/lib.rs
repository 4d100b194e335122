//! Shared by the tests of the whole house: where the test bed is and how to wait for a condition.

pub mod cluster;
pub mod namespace;
pub mod operator;
pub mod testbed;
pub mod training;
pub mod wait;
