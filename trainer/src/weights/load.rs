//! Copies the tensors of a file into a model, or says which of them do not fit. Changes nothing then.

use std::collections::BTreeSet;

use super::{Stored, Towers, Weights, grouped, positions};
use crate::error::Error;
use cnclip_compute::params::{Params, Segment};
use cnclip_compute::tensor::View;

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
    /// Names or shapes differ from the model's.
    #[error("the weights do not fit the model: {}; compare `spec.model`", .0.join(", "))]
    Mismatch(Vec<String>),
    /// The file cannot be read.
    #[error(transparent)]
    Unread(#[from] Error),
}

impl WeightsError {
    /// For `map_err`: what to tell of the weights at a URI that do not fit.
    pub fn of(uri: &str, told: fn(String) -> Error) -> impl Fn(Self) -> Error {
        move |error| match error {
            Self::Unread(error) => error,
            misfit => told(format!("{uri}: {misfit}")),
        }
    }
}

/// Copies a part of the tensors into a model; positions of another resolution are resized.
///
/// # Errors
/// The names that are missing, not known, or of another shape; then nothing is copied. If the file
/// cannot be read; then the model is of no use.
pub fn load(params: &mut Params, weights: &Weights, part: Part) -> Result<(), WeightsError> {
    let mut problems = problems(params, weights, part);
    if !problems.is_empty() {
        problems.push(format!("the file holds {}", Towers::of(weights, None)));
        return Err(WeightsError::Mismatch(problems));
    }

    for (segment, mut values) in params
        .tensors_mut()
        .filter(|(segment, _)| part.takes(&segment.name))
    {
        let Some(stored) = weights.get(&segment.name) else {
            continue;
        };

        if stored.shape() == segment.shape {
            values.write(|values| stored.read(values))?;
        } else if let Some(resized) = positions::resize(&stored.to_tensor()?, &segment.shape) {
            values.copy_from(View::Host(&resized.values));
        }
    }

    Ok(())
}

/// What of a file is not part of what is taken from it, in a few words; empty if nothing is.
pub fn left_out(weights: &Weights, part: Part) -> String {
    grouped(
        weights
            .left_out()
            .chain(weights.names().filter(|name| !part.takes(name))),
    )
}

/// What keeps a part from being loaded.
fn problems(params: &Params, weights: &Weights, part: Part) -> Vec<String> {
    let taken = || {
        params
            .tensors()
            .map(|(segment, _)| segment)
            .filter(|s| part.takes(&s.name))
    };

    let misfits = taken().filter_map(|segment| misfit(segment, weights.get(&segment.name), part));
    let known: BTreeSet<&str> = taken().map(|s| s.name.as_str()).collect();
    let strangers = weights
        .names()
        .filter(|name| part.takes(name) && !known.contains(name));

    misfits
        .chain(strangers.map(|name| format!("`{name}` is not part of the model")))
        .collect()
}

fn misfit(segment: &Segment, found: Option<&Stored>, part: Part) -> Option<String> {
    let name = &segment.name;
    let right = &segment.shape;
    match found.map(Stored::shape) {
        None => part.requires(name).then(|| format!("`{name}` is missing")),
        Some(shape) if shape == right => None,
        Some(shape) if name == positions::NAME && positions::fit(shape, right) => None,
        Some(shape) => Some(format!("`{name}` is {shape:?}, expected {right:?}")),
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
    use super::super::tests::file;
    use super::super::{Tensor, Tensors, write_safetensors};
    use super::*;
    use cnclip_compute::params::{Init, Layout};

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

    fn changed(change: impl Fn(&mut Tensors)) -> Weights {
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
        load(&mut found, &changed(|_| {}), Part::All).unwrap();
        assert_eq!(
            (found.values.read(), found.state.read()),
            (trained().values.read(), trained().state.read())
        );
    }

    #[test]
    fn every_name_that_does_not_fit_is_told_and_nothing_is_copied() {
        let weights = changed(|tensors| {
            let proj = tensors.remove("visual.proj").unwrap();
            tensors.insert("visual.projection".into(), proj);
            tensors.get_mut("bert.word").unwrap().shape = vec![2, 2];
        });

        let mut found = params();
        let error = load(&mut found, &weights, Part::All)
            .unwrap_err()
            .to_string();

        assert_eq!(
            error,
            "the weights do not fit the model: `visual.proj` is missing, `bert.word` is [2, 2], \
             expected [4], `visual.projection` is not part of the model, the file holds no tower that we know; \
             compare `spec.model`"
        );

        assert_eq!(found.values.read(), params().values.read());
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
        load(&mut found, &weights, Part::Text).unwrap();
        assert_eq!(found.value("bert.word"), trained().value("bert.word"));
        assert_eq!(found.value("logit_scale").as_deref(), Some(&[0.0][..]));
        let error = load(&mut found, &weights, Part::Image)
            .unwrap_err()
            .to_string();

        assert!(error.contains("`visual.proj` is missing, `visual.bn1.running_mean` is missing"));
    }

    #[test]
    fn positions_of_another_resolution_are_resized() {
        let mut layout = Layout::default();
        layout.weight(positions::NAME, &[10, 2], Init::Zeros);
        let mut found = layout.build();
        let positions = Tensor {
            shape: vec![5, 2],
            values: vec![7.0; 10],
        };

        load(
            &mut found,
            &file(&[(positions::NAME, positions)]),
            Part::Image,
        )
        .unwrap();

        let found = found.values.read();
        assert!(
            found.iter().all(|value| (value - 7.0).abs() < 1e-6),
            "{found:?}"
        );
    }
}
