//! Interchange with other programs: token ids, preprocessed images, gradients, features, scores and exported
//! models, in JSON Lines, safetensors, NumPy, Parquet and PyTorch formats.

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
