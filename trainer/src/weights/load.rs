//! Copies the tensors of a file into a model, or says which of them do not fit. Changes nothing then.

use std::collections::BTreeSet;

use super::tensor_reader::TensorReader;
use super::{
    DetectedTowers, StoredTensor, Weights, plan_reader, position_embedding, sort_by_place,
    summarize_names,
};
use crate::error::Error;
use cnclip_compute::params::{Params, Segment};
use cnclip_compute::tensor::{TensorView, TensorViewMut};

/// Which part of a model a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelPart {
    /// Both towers: every name of the model, and no other.
    All,
    /// The image tower, from a CLIP of any language: `visual.*`, and `logit_scale` if it is there.
    Image,
    /// The text tower, from a BERT: `bert.*`, and `text_projection` if it is there.
    Text,
}

/// Weights that cannot be loaded into a model.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Names or shapes differ from the model's.
    #[error("the weights do not fit the model: {}; compare `spec.model`", .0.join(", "))]
    Mismatch(Vec<String>),
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Error),
}

impl WeightsError {
    /// For `map_err`: the error of weights at a URI that do not fit the model, of the kind `to_error`.
    pub fn error_mapper(uri: &str, to_error: fn(String) -> Error) -> impl Fn(Self) -> Error {
        move |error| match error {
            Self::Unreadable(error) => error,
            mismatch => to_error(format!("{uri}: {mismatch}")),
        }
    }
}

/// Copies a part of the tensors into a model; positions of another resolution are resized.
///
/// # Errors
/// The names that are missing, not known, or of another shape; then nothing is copied. If the file
/// cannot be read or is not what it must be; then the model is of no use.
pub fn load_weights(
    params: &mut Params,
    weights: &Weights,
    part: ModelPart,
) -> Result<(), WeightsError> {
    // Everything is checked before anything is copied: the error lists all names at once, and a model is
    // never half loaded for want of a tensor.
    let mut problems = find_mismatches(params, weights, part);
    if !problems.is_empty() {
        problems.push(format!(
            "the file holds {}",
            DetectedTowers::from_weights(weights, None)
        ));
        return Err(WeightsError::Mismatch(problems));
    }

    let mut loads: Vec<TensorLoad<'_>> = params
        .named_tensors_mut()
        .filter(|(segment, _)| part.includes_tensor(&segment.name))
        .filter_map(|(segment, target)| {
            let stored = weights.get(&segment.name)?;
            Some(TensorLoad {
                stored,
                shape: &segment.shape,
                target,
            })
        })
        .collect();

    let mut reader = plan_reader(loads.iter().map(|load| load.stored))?;
    sort_by_place(&mut loads, &reader, |load| load.stored)?;
    for load in loads {
        load.copy_values(&mut reader)?;
    }

    Ok(reader.finish()?)
}

/// A tensor of a file and the memory that it is copied into.
struct TensorLoad<'a> {
    stored: &'a StoredTensor,
    shape: &'a [usize],
    target: TensorViewMut<'a>,
}

impl TensorLoad<'_> {
    fn copy_values(mut self, reader: &mut TensorReader) -> Result<(), Error> {
        if is_same_shape(self.stored.shape(), self.shape) {
            return self
                .target
                .overwrite_with(|values| self.stored.read_with(reader, values));
        }

        let positions = self.stored.to_tensor(reader)?;
        if let Some(resized) = position_embedding::resize_positions(&positions, self.shape) {
            self.target.copy_from(TensorView::Host(&resized.values));
        }

        Ok(())
    }
}

/// What of a file is not part of what is taken from it, in a few words; empty if nothing is.
pub fn summarize_ignored(weights: &Weights, part: ModelPart) -> String {
    summarize_names(
        weights.ignored_names().chain(
            weights
                .tensor_names()
                .filter(|name| !part.includes_tensor(name)),
        ),
    )
}

/// What keeps a part from being loaded.
fn find_mismatches(params: &Params, weights: &Weights, part: ModelPart) -> Vec<String> {
    let taken = || {
        params
            .named_tensors()
            .map(|(segment, _)| segment)
            .filter(|s| part.includes_tensor(&s.name))
    };

    let misfits =
        taken().filter_map(|segment| tensor_mismatch(segment, weights.get(&segment.name), part));
    let known: BTreeSet<&str> = taken().map(|s| s.name.as_str()).collect();
    let unknown = weights
        .tensor_names()
        .filter(|name| part.includes_tensor(name) && !known.contains(name));

    misfits
        .chain(unknown.map(|name| format!("`{name}` is not part of the model")))
        .collect()
}

fn tensor_mismatch(
    segment: &Segment,
    found: Option<&StoredTensor>,
    part: ModelPart,
) -> Option<String> {
    let name = &segment.name;
    let right = &segment.shape;
    match found.map(StoredTensor::shape) {
        None => part
            .requires_tensor(name)
            .then(|| format!("`{name}` is missing")),
        Some(shape) if is_same_shape(shape, right) => None,
        Some(shape)
            if name == position_embedding::POSITION_EMBEDDING
                && position_embedding::can_resize(shape, right) =>
        {
            None
        }
        Some(shape) => Some(format!("`{name}` is {shape:?}, expected {right:?}")),
    }
}

/// Whether a tensor takes a stored one: a scalar takes a list of one number too, as PyTorch's `load_state_dict` does.
/// Some published weights have `logit_scale` so.
fn is_same_shape(stored: &[usize], expected: &[usize]) -> bool {
    stored == expected || (expected.is_empty() && stored == [1])
}

impl ModelPart {
    fn includes_tensor(self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Image => name.starts_with("visual.") || name == "logit_scale",
            Self::Text => name.starts_with("bert.") || name == "text_projection",
        }
    }

    fn requires_tensor(self, name: &str) -> bool {
        // A BERT has no projection into the shared space, and other CLIPs' scale may be left out:
        // these keep their initial values.
        self == Self::All || name.starts_with("visual.") || name.starts_with("bert.")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::super::{Tensor, TensorMap, write_safetensors};
    use super::*;
    use cnclip_compute::params::{ParamInit, ParamLayout};

    fn params() -> Params {
        let mut layout = ParamLayout::default();
        layout.register_weight("visual.proj", &[2, 3], ParamInit::Normal(1.0));
        layout.register_weight("bert.word", &[4], ParamInit::Normal(1.0));
        layout.register_weight("text_projection", &[2], ParamInit::Normal(1.0));
        layout.register_weight("logit_scale", &[], ParamInit::Constant(2.0));
        layout.register_buffer("visual.bn1.running_mean", &[3], ParamInit::Constant(3.0));
        layout.register_buffer(
            "visual.bn1.num_batches_tracked",
            &[],
            ParamInit::Constant(7.0),
        );

        layout.allocate_params()
    }

    fn trained() -> Params {
        let mut params = params();
        params.init_values(5);
        params
    }

    fn changed(change: impl Fn(&mut TensorMap)) -> Weights {
        let written = Weights::from_bytes(write_safetensors(&trained())).unwrap();
        let mut tensors = written.to_tensors().unwrap();
        change(&mut tensors);
        file(
            &tensors
                .iter()
                .map(|(name, tensor)| (&**name, tensor.clone()))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut found = params();
        load_weights(&mut found, &changed(|_| {}), ModelPart::All).unwrap();
        assert_eq!(
            (found.values.to_host(), found.buffers.to_host()),
            (trained().values.to_host(), trained().buffers.to_host())
        );
    }

    #[test]
    fn a_scalar_takes_a_list_of_one_number_and_of_no_more() {
        let with_shape = |shape: &[usize]| {
            changed(|tensors| {
                let scale = tensors.get_mut("logit_scale").unwrap();
                scale.shape = shape.to_vec();
                scale.values.resize(shape.iter().product(), 0.0);
            })
        };

        let mut found = params();
        load_weights(&mut found, &with_shape(&[1]), ModelPart::All).unwrap();
        assert_eq!(found.values.to_host(), trained().values.to_host());
        assert!(load_weights(&mut found, &with_shape(&[2]), ModelPart::All).is_err());
        assert!(load_weights(&mut found, &with_shape(&[1, 1]), ModelPart::All).is_err());
    }

    #[test]
    fn every_name_that_does_not_fit_is_listed_and_nothing_is_copied() {
        let weights = changed(|tensors| {
            let proj = tensors.remove("visual.proj").unwrap();
            tensors.insert("visual.projection".into(), proj);
            tensors.get_mut("bert.word").unwrap().shape = vec![2, 2];
        });

        let mut found = params();
        let error = load_weights(&mut found, &weights, ModelPart::All)
            .unwrap_err()
            .to_string();

        assert_eq!(
            error,
            "the weights do not fit the model: `visual.proj` is missing, `bert.word` is [2, 2], \
             expected [4], `visual.projection` is not part of the model, the file holds no tower that we know; \
             compare `spec.model`"
        );

        assert_eq!(found.values.to_host(), params().values.to_host());
    }

    #[test]
    fn a_part_is_taken_from_a_file_of_something_else() {
        let weights = changed(|tensors| {
            tensors.retain(|name, _| name.starts_with("bert.") || name == "logit_scale");
            tensors.insert(
                "cls.predictions.bias".into(),
                Tensor {
                    shape: vec![1],
                    values: vec![1.0],
                },
            );
        });

        let mut found = params();
        load_weights(&mut found, &weights, ModelPart::Text).unwrap();
        assert_eq!(
            found.value_by_name("bert.word"),
            trained().value_by_name("bert.word")
        );
        assert_eq!(
            found.value_by_name("logit_scale").as_deref(),
            Some(&[0.0][..])
        );
        let error = load_weights(&mut found, &weights, ModelPart::Image)
            .unwrap_err()
            .to_string();

        assert!(error.contains("`visual.proj` is missing, `visual.bn1.running_mean` is missing"));
    }

    #[test]
    fn positions_of_another_resolution_are_resized() {
        let mut layout = ParamLayout::default();
        layout.register_weight(
            position_embedding::POSITION_EMBEDDING,
            &[10, 2],
            ParamInit::Zeros,
        );
        let mut found = layout.allocate_params();
        let positions = Tensor {
            shape: vec![5, 2],
            values: vec![7.0; 10],
        };

        load_weights(
            &mut found,
            &file(&[(position_embedding::POSITION_EMBEDDING, positions)]),
            ModelPart::Image,
        )
        .unwrap();

        let found = found.values.to_host();
        assert!(
            found.iter().all(|value| (value - 7.0).abs() < 1e-6),
            "{found:?}"
        );
    }
}
