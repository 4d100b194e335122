//! What other programs hand in and take back: ids, pixels, gradients, features and scores, in
//! JSON lines and safetensors. Decides formats and refuses what does not fit them; computes nothing
//! that training and evaluation do not.

pub mod atomic_file;
pub mod embed;
pub mod export;
pub mod features;
pub mod gradients;
pub mod inspect;
pub mod preprocess;
pub mod reference_config;
pub mod resolved_model;
pub mod score;
pub mod tokenize;
