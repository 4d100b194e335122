//! The optimizer's moments as the bytes of a safetensors file, and back.

use std::borrow::Cow;

use super::safetensors_writer::{OutgoingTensor, serialize_tensors};
use super::{Weights, WeightsError, plan_reader, sort_by_place};
use cnclip_compute::params::{Params, Segment};
use cnclip_nn::optimizer::AdamW;

/// What the two moments of a tensor are called: this, then the tensor's name.
const MOMENT_PREFIXES: [&str; 2] = ["first.", "second."];

/// The moments of what is trained: frozen tensors have none.
pub fn write_moments(params: &Params, adamw: &AdamW) -> Vec<u8> {
    let both = MOMENT_PREFIXES
        .into_iter()
        .zip([&adamw.exp_avg, &adamw.exp_avg_sq]);
    serialize_tensors(both.flat_map(|(prefix, moments)| {
        trainable_segments(params).map(move |segment| OutgoingTensor {
            name: Cow::Owned(format!("{prefix}{}", segment.name)),
            shape: &segment.shape,
            values: moments.slice(segment.range.clone()),
        })
    }))
}

/// Copies moments into an optimizer; what the file does not name stays zero if it is frozen.
///
/// # Errors
/// The moments of trained tensors that are missing or of another shape; then nothing is copied.
/// If the file cannot be read or is not what it must be; then the moments are of no use.
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
        MOMENT_PREFIXES
            .into_iter()
            .flat_map(|prefix| trainable_segments(params).map(move |s| (prefix, s)))
    };

    let missing = wanted().filter(|(prefix, segment)| find(prefix, segment).is_none());
    let problems: Vec<String> = missing
        .map(|(prefix, s)| format!("`{prefix}{}` {:?} is missing", s.name, s.shape))
        .collect();

    // All problems before any copy: an optimizer with half of its moments would train on without an error.
    if !problems.is_empty() {
        return Err(WeightsError::Mismatch(problems));
    }

    let mut loads: Vec<_> = wanted()
        .filter_map(|(prefix, segment)| Some((prefix, segment, find(prefix, segment)?)))
        .collect();

    let mut reader = plan_reader(loads.iter().map(|(_, _, stored)| *stored))?;
    sort_by_place(&mut loads, &reader, |(_, _, stored)| stored)?;
    for (prefix, segment, stored) in loads {
        let moments = match prefix == MOMENT_PREFIXES[0] {
            true => &mut adamw.exp_avg,
            false => &mut adamw.exp_avg_sq,
        };

        let mut moments = moments.slice_mut(segment.range.clone());
        moments.overwrite_with(|moments| stored.read_with(&mut reader, moments))?;
    }

    Ok(reader.finish()?)
}

fn trainable_segments(params: &Params) -> impl Iterator<Item = &Segment> {
    params.segments().iter().filter(|segment| !segment.frozen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnclip_compute::params::{ParamInit, ParamLayout};
    use cnclip_nn::optimizer::AdamWSettings;

    const SETTINGS: AdamWSettings = AdamWSettings {
        beta_1: 0.9,
        beta_2: 0.98,
        epsilon: 1e-6,
        weight_decay: 0.0,
        max_norm: None,
    };

    fn params() -> Params {
        let mut layout = ParamLayout::default();
        layout.register_weight("visual.proj", &[2, 3], ParamInit::Ones);
        layout.register_weight("text_projection", &[2], ParamInit::Ones);
        layout.allocate_params()
    }

    fn adamw(first: f32, second: f32) -> AdamW {
        let mut adamw = AdamW::new(&params(), SETTINGS);
        adamw.exp_avg.update_on_host(|values| values.fill(first));
        adamw
            .exp_avg_sq
            .update_on_host(|values| values.fill(second));
        adamw
    }

    #[test]
    fn moments_are_read_as_they_were_written() {
        let file = Weights::from_bytes(write_moments(&params(), &adamw(1.5, 2.5))).unwrap();
        let mut found = adamw(0.0, 0.0);
        load_moments(&params(), &file, &mut found).unwrap();
        assert_eq!(
            (&*found.exp_avg.to_host(), &*found.exp_avg_sq.to_host()),
            (&[1.5; 8][..], &[2.5; 8][..])
        );
    }

    #[test]
    fn a_file_of_a_frozen_run_lacks_moments_that_a_thawed_run_wants() {
        let mut frozen = params();
        frozen.freeze_matching(|name| name.starts_with("visual."));
        let file = Weights::from_bytes(write_moments(&frozen, &adamw(1.5, 2.5))).unwrap();
        assert_eq!(file.tensor_names().count(), 2);
        let mut found = adamw(0.0, 0.0);

        load_moments(&frozen, &file, &mut found).unwrap();
        assert_eq!(
            *found.exp_avg.to_host(),
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
