//! The optimizer's memory as the bytes of a safetensors file, and back.

use std::borrow::Cow;

use super::write::{Outgoing, bytes};
use super::{Weights, WeightsError};
use cnclip_compute::params::{Params, Segment};
use cnclip_nn::optimizer::AdamW;

/// What the two moments of a tensor are called: this, then the tensor's name.
const PREFIXES: [&str; 2] = ["first.", "second."];

/// The moments of what is trained: frozen tensors have none.
pub fn write_moments(params: &Params, adamw: &AdamW) -> Vec<u8> {
    let both = PREFIXES.into_iter().zip([&adamw.first, &adamw.second]);
    bytes(both.flat_map(|(prefix, moments)| {
        trained(params).map(move |segment| Outgoing {
            name: Cow::Owned(format!("{prefix}{}", segment.name)),
            shape: &segment.shape,
            values: moments.part(segment.range.clone()),
        })
    }))
}

/// Copies moments into an optimizer; what the file does not name stays zero if it is frozen.
///
/// # Errors
/// The moments of trained tensors that are missing or of another shape; then nothing is copied.
/// If the file cannot be read.
pub fn load_moments(
    params: &Params,
    weights: &Weights,
    adamw: &mut AdamW,
) -> Result<(), WeightsError> {
    let find = |prefix: &str, segment: &Segment| {
        let tensor = weights.get(&format!("{prefix}{}", segment.name));
        tensor.filter(|tensor| tensor.shape() == segment.shape)
    };

    let wanted = || {
        PREFIXES
            .into_iter()
            .flat_map(|prefix| trained(params).map(move |s| (prefix, s)))
    };

    let missing = wanted().filter(|(prefix, segment)| find(prefix, segment).is_none());
    let problem =
        |(prefix, s): (&str, &Segment)| format!("`{prefix}{}` {:?} is missing", s.name, s.shape);
    let problems: Vec<String> = missing.map(problem).collect();

    if !problems.is_empty() {
        return Err(WeightsError::Mismatch(problems));
    }

    for (prefix, moments) in PREFIXES
        .into_iter()
        .zip([&mut adamw.first, &mut adamw.second])
    {
        for segment in trained(params) {
            if let Some(tensor) = find(prefix, segment) {
                let mut moments = moments.part_mut(segment.range.clone());
                moments.write(|moments| tensor.read(moments))?;
            }
        }
    }

    Ok(())
}

fn trained(params: &Params) -> impl Iterator<Item = &Segment> {
    params.segments().iter().filter(|segment| !segment.frozen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnclip_compute::params::{Init, Layout};
    use cnclip_nn::optimizer::Settings;

    const SETTINGS: Settings = Settings {
        beta_1: 0.9,
        beta_2: 0.98,
        epsilon: 1e-6,
        weight_decay: 0.0,
        max_norm: None,
    };

    fn params() -> Params {
        let mut layout = Layout::default();
        layout.weight("visual.proj", &[2, 3], Init::Ones);
        layout.weight("text_projection", &[2], Init::Ones);
        layout.build()
    }

    fn adamw(first: f32, second: f32) -> AdamW {
        let mut adamw = AdamW::new(&params(), SETTINGS);
        adamw.first.edit(|values| values.fill(first));
        adamw.second.edit(|values| values.fill(second));
        adamw
    }

    #[test]
    fn moments_are_read_as_they_were_written() {
        let file = Weights::from_bytes(write_moments(&params(), &adamw(1.5, 2.5))).unwrap();
        let mut found = adamw(0.0, 0.0);
        load_moments(&params(), &file, &mut found).unwrap();
        assert_eq!(
            (&*found.first.read(), &*found.second.read()),
            (&[1.5; 8][..], &[2.5; 8][..])
        );
    }

    #[test]
    fn a_file_of_a_frozen_run_lacks_moments_that_a_thawed_run_wants() {
        let mut frozen = params();
        frozen.freeze(|name| name.starts_with("visual."));
        let file = Weights::from_bytes(write_moments(&frozen, &adamw(1.5, 2.5))).unwrap();
        assert_eq!(file.names().count(), 2);
        let mut found = adamw(0.0, 0.0);

        load_moments(&frozen, &file, &mut found).unwrap();
        assert_eq!(
            *found.first.read(),
            [[0.0; 6].as_slice(), &[1.5; 2]].concat()
        );

        let error = load_moments(&params(), &file, &mut found)
            .unwrap_err()
            .to_string();

        assert!(
            error.contains("`first.visual.proj` [2, 3] is missing, `second.visual.proj`"),
            "{error}"
        );
    }
}
