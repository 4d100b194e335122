//! Weights by name: from the files that others publish into a model, and back. Decides which names
//! must be there; opens no file of its own but PyTorch's, whose reader wants a path.

mod moments;
mod names;
mod positions;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{DType, Device};

pub use moments::{load_moments, write_moments};
pub use write::write_safetensors;

use crate::params::{Params, Segment};

/// A tensor read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its shape; `[]` for a scalar.
    pub shape: Vec<usize>,
    /// Its values, in rows.
    pub values: Vec<f32>,
}

/// The tensors of a file, under the names of the reference's state dict.
pub type Tensors = BTreeMap<String, Tensor>;

/// Which part of a model a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Both towers: every name of the model, and no other.
    All,
    /// The image tower, from a CLIP of any language: `visual.*`, and `logit_scale` if it is there.
    Image,
    /// The text tower, from a BERT: `bert.*`, and `text_projection` if it is there.
    Text,
}

/// A file that does not hold what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The bytes are no safetensors.
    #[error("the weights are no readable safetensors: {0}")]
    Safetensors(candle_core::Error),
    /// The file is no PyTorch checkpoint.
    #[error("{path} is no readable PyTorch checkpoint: {error}")]
    Pytorch {
        /// The file.
        path: String,
        /// What its reader found.
        error: candle_core::Error,
    },
    /// Names or shapes differ from the model's.
    #[error("the weights do not fit the model: {}; compare `spec.model`", .0.join(", "))]
    Mismatch(Vec<String>),
}

/// Reads safetensors, in the layout of the reference or of Hugging Face.
///
/// # Errors
/// Bytes that are no safetensors of numbers.
pub fn read_safetensors(bytes: &[u8]) -> Result<Tensors, WeightsError> {
    let read = || candle_core::safetensors::load_buffer(bytes, &Device::Cpu);
    let tensors = read().and_then(to_tensors).map_err(WeightsError::Safetensors)?;
    Ok(names::to_reference(tensors))
}

/// Reads a PyTorch checkpoint, with its state dict at the top or under `state_dict`.
///
/// # Errors
/// A file that cannot be read as such.
pub fn read_pytorch(path: &Path) -> Result<Tensors, WeightsError> {
    let read = |key| candle_core::pickle::read_all_with_key(path, key);
    let list = read(Some("state_dict")).or_else(|_| read(None));
    let failed = |error| WeightsError::Pytorch { path: path.display().to_string(), error };
    Ok(names::to_reference(list.and_then(to_tensors).map_err(failed)?))
}

fn to_tensors(
    list: impl IntoIterator<Item = (String, candle_core::Tensor)>,
) -> candle_core::Result<Tensors> {
    let tensor = |(name, tensor): (String, candle_core::Tensor)| {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok((name, Tensor { shape: tensor.dims().to_vec(), values }))
    };
    list.into_iter().map(tensor).collect()
}

/// Copies a part of the tensors into a model; positions of another resolution are resized.
///
/// # Errors
/// The names that are missing, not known, or of another shape; then nothing is copied.
pub fn load(params: &mut Params, tensors: &Tensors, part: Part) -> Result<(), WeightsError> {
    let taken = || params.tensors().map(|(segment, _)| segment).filter(|s| part.takes(&s.name));
    let resized = taken().find(|s| s.name == positions::NAME).and_then(|segment| {
        let found = tensors.get(positions::NAME)?;
        positions::resize(found, &segment.shape)
    });
    let find = |name: &str| {
        resized.as_ref().filter(|_| name == positions::NAME).or_else(|| tensors.get(name))
    };
    let misfits = taken().filter_map(|segment| misfit(segment, find(&segment.name), part));
    let known: BTreeSet<&str> = taken().map(|s| s.name.as_str()).collect();
    let strangers =
        tensors.keys().filter(|name| part.takes(name) && !known.contains(name.as_str()));
    let strangers = strangers.map(|name| format!("`{name}` is not part of the model"));
    let problems: Vec<String> = misfits.chain(strangers).collect();
    if !problems.is_empty() {
        return Err(WeightsError::Mismatch(problems));
    }
    for (segment, values) in params.tensors_mut().filter(|(segment, _)| part.takes(&segment.name)) {
        if let Some(tensor) = find(&segment.name) {
            values.copy_from_slice(&tensor.values);
        }
    }
    Ok(())
}

fn misfit(segment: &Segment, found: Option<&Tensor>, part: Part) -> Option<String> {
    let (name, right) = (&segment.name, &segment.shape);
    match found {
        None => part.requires(name).then(|| format!("`{name}` is missing")),
        Some(tensor) if tensor.shape == *right => None,
        Some(tensor) => Some(format!("`{name}` is {:?}, expected {right:?}", tensor.shape)),
    }
}

impl Part {
    fn takes(self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Image => name.starts_with("visual.") || name == "logit_scale",
            Self::Text => name.starts_with("bert.") || name == "text_projection",
        }
    }

    fn requires(self, name: &str) -> bool {
        self == Self::All || name.starts_with("visual.") || name.starts_with("bert.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Init, Layout};

    fn params() -> Params {
        let mut layout = Layout::default();
        layout.weight("visual.proj", &[2, 3], Init::Normal(1.0));
        layout.weight("bert.word", &[4], Init::Normal(1.0));
        layout.weight("text_projection", &[2], Init::Normal(1.0));
        layout.weight("logit_scale", &[], Init::Constant(2.0));
        layout.state("visual.bn1.running_mean", &[3], Init::Constant(3.0));
        layout.state("visual.bn1.num_batches_tracked", &[], Init::Constant(7.0));
        layout.build()
    }

    fn trained() -> Params {
        let mut params = params();
        params.initialize(5);
        params
    }

    fn file(change: impl Fn(&mut Tensors)) -> Tensors {
        let mut tensors = read_safetensors(&write_safetensors(&trained())).unwrap();
        change(&mut tensors);
        tensors
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut found = params();
        load(&mut found, &file(|_| {}), Part::All).unwrap();
        assert_eq!((found.values, found.state), (trained().values, trained().state));
    }

    #[test]
    fn every_name_that_does_not_fit_is_told_and_nothing_is_copied() {
        let tensors = file(|tensors| {
            let proj = tensors.remove("visual.proj").unwrap();
            tensors.insert("visual.projection".into(), proj);
            tensors.get_mut("bert.word").unwrap().shape = vec![2, 2];
        });
        let mut found = params();
        let error = load(&mut found, &tensors, Part::All).unwrap_err().to_string();
        assert_eq!(
            error,
            "the weights do not fit the model: `visual.proj` is missing, `bert.word` is [2, 2], \
             expected [4], `visual.projection` is not part of the model; compare `spec.model`"
        );
        assert_eq!(found.values, params().values);
    }

    #[test]
    fn a_part_is_taken_from_a_file_of_something_else() {
        let tensors = file(|tensors| {
            tensors.retain(|name, _| name.starts_with("bert.") || name == "logit_scale");
            tensors.insert(
                "cls.predictions.bias".into(),
                Tensor { shape: vec![1], values: vec![1.0] },
            );
        });
        let mut found = params();
        load(&mut found, &tensors, Part::Text).unwrap();
        assert_eq!(found.value("bert.word"), trained().value("bert.word"));
        assert_eq!(found.value("logit_scale"), Some(&[0.0][..]));
        let error = load(&mut found, &tensors, Part::Image).unwrap_err().to_string();
        assert!(error.contains("`visual.proj` is missing, `visual.bn1.running_mean` is missing"));
    }

    #[test]
    fn bytes_that_are_no_safetensors_are_an_error() {
        let error = read_safetensors(b"not a header").unwrap_err().to_string();
        assert!(error.starts_with("the weights are no readable safetensors"), "{error}");
    }
}
