//! The towers, forward and backward written out block by block over flat parameters.

pub mod bert;
pub mod clip;
pub mod resnet;
pub mod vit;
