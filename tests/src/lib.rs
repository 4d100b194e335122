//! Shared by the tests of the whole house: where the test bed is and how to wait for a condition.

pub mod bed;
pub mod house;
pub mod namespace;
pub mod operator;
pub mod training;
pub mod wait;
