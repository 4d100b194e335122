//! Every trained number in one flat array, and the table that names its parts. Holds no moments
//! (the optimizer's) and reads no files.

mod init;

use std::borrow::Cow;
use std::ops::Range;

use cnclip_crds::stage::Precision;
pub use init::ParamInit;

use crate::tensor::{Memory, Tensor, TensorView, TensorViewMut};

/// A named part of a flat array: one tensor of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// The name in the reference's state dict.
    pub name: String,
    /// The shape in the reference's state dict; `[]` for a scalar.
    pub shape: Vec<usize>,
    /// Where it lies in the flat array.
    pub range: Range<usize>,
    /// What it holds before any training.
    pub init: ParamInit,
    /// Whether it is left as it is: no gradient is made, no step changes it.
    pub frozen: bool,
}

impl Segment {
    /// Whether weight decay applies.
    ///
    /// # Source
    /// The reference excludes by substring, so BERT's `LayerNorm.weight` is decayed.
    pub fn has_weight_decay(&self) -> bool {
        !["bn", "ln", "bias", "logit_scale"]
            .iter()
            .any(|part| self.name.contains(part))
    }
}

/// A handle to one segment, or to neighbours taken as one: how a block finds its weights, and in which
/// number format it multiplies them.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    range: Range<usize>,
    precision: Precision,
}

#[expect(clippy::len_without_is_empty, reason = "no tensor is empty")]
impl Weight {
    /// How many numbers it is.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// This weight in a flat array of values, gradients or moments.
    pub fn slice_of<F: FlatArray>(&self, flat: F) -> F {
        flat.slice_range(self.range.clone())
    }

    /// This weight in a flat array, to be written.
    pub fn slice_of_mut<'a>(&self, flat: &'a mut [f32]) -> &'a mut [f32] {
        &mut flat[self.range.clone()]
    }

    /// Where it lies in a flat array.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The number format of products with it.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Neighbours as one weight: query, key and value as one matrix.
    pub fn join_adjacent(parts: &[Weight]) -> Weight {
        let touch = |pair: &[Weight]| pair[0].range.end == pair[1].range.start;
        assert!(parts.windows(2).all(touch), "not neighbours");
        let range = parts[0].range.start..parts[parts.len() - 1].range.end;
        Weight {
            range,
            precision: parts[0].precision,
        }
    }
}

/// A flat array from which a weight can be cut.
pub trait FlatArray {
    /// The part in a range.
    fn slice_range(self, range: Range<usize>) -> Self;
}

impl FlatArray for &[f32] {
    fn slice_range(self, range: Range<usize>) -> Self {
        &self[range]
    }
}

impl FlatArray for TensorView<'_> {
    fn slice_range(self, range: Range<usize>) -> Self {
        self.slice(range)
    }
}

impl FlatArray for TensorViewMut<'_> {
    fn slice_range(self, range: Range<usize>) -> Self {
        self.slice(range)
    }
}

/// The tables under construction: blocks declare their tensors in forward order.
#[derive(Debug, Default)]
pub struct ParamLayout {
    segments: Vec<Segment>,
    buffers: Vec<Segment>,
    precision: Precision,
    memory: Memory,
}

impl ParamLayout {
    /// An empty table of a model that multiplies in a number format.
    pub fn new(precision: Precision) -> Self {
        Self {
            precision,
            ..Self::default()
        }
    }

    /// The same, of a model that computes in this memory.
    pub fn with_memory(self, memory: &Memory) -> Self {
        Self {
            memory: memory.clone(),
            ..self
        }
    }

    /// The memory that the model computes in.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The number format of the model's products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Where the next trained tensor will lie.
    pub fn next_offset(&self) -> usize {
        self.segments.last().map_or(0, |last| last.range.end)
    }

    /// What was declared to be trained.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What was declared to be saved without being trained.
    pub fn buffer_segments(&self) -> &[Segment] {
        &self.buffers
    }

    /// Declares a trained tensor.
    pub fn register_weight(&mut self, name: &str, shape: &[usize], init: ParamInit) -> Weight {
        let range = push_segment(&mut self.segments, name, shape, init);
        Weight {
            range,
            precision: self.precision,
        }
    }

    /// Declares a tensor that is saved with the model but not trained: running statistics.
    pub fn register_buffer(&mut self, name: &str, shape: &[usize], init: ParamInit) -> Weight {
        let range = push_segment(&mut self.buffers, name, shape, init);
        Weight {
            range,
            precision: self.precision,
        }
    }

    /// The arrays, zero until they are initialised or loaded.
    pub fn allocate_params(self) -> Params {
        let end = |table: &[Segment]| table.last().map_or(0, |last| last.range.end);
        let trained = end(&self.segments);
        let state = end(&self.buffers);
        Params {
            values: self.memory.alloc_weights(trained),
            gradients: self.memory.alloc_f32(trained),
            buffers: self.memory.alloc_f32(state),
            segments: self.segments,
            buffer_segments: self.buffers,
            memory: self.memory,
        }
    }
}

fn push_segment(
    table: &mut Vec<Segment>,
    name: &str,
    shape: &[usize],
    init: ParamInit,
) -> Range<usize> {
    let start = table.last().map_or(0, |last| last.range.end);
    let range = start..start + shape.iter().product::<usize>();
    let name = name.to_owned();
    let shape = shape.to_vec();
    table.push(Segment {
        name,
        shape,
        range: range.clone(),
        init,
        frozen: false,
    });

    range
}

/// The numbers of a model.
///
/// # Guarantees
/// The order of segments depends on the model's configuration alone: it is the same in every worker.
#[derive(Debug)]
pub struct Params {
    /// Trained values, segment after segment.
    pub values: Tensor,
    /// Their gradients; backward passes add, [`Params::clear_gradients`] starts afresh.
    pub gradients: Tensor,
    /// Values that are saved but not trained.
    pub buffers: Tensor,
    segments: Vec<Segment>,
    buffer_segments: Vec<Segment>,
    memory: Memory,
}

impl Params {
    /// The table of `values` and `gradients`.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Where they lie.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The table of `state`.
    pub fn buffer_segments(&self) -> &[Segment] {
        &self.buffer_segments
    }

    /// The table, the values and the gradients at once: what an optimizer walks.
    pub fn split_for_update(&mut self) -> (&[Segment], TensorViewMut<'_>, TensorView<'_>) {
        (
            &self.segments,
            self.values.view_mut(),
            self.gradients.view(),
        )
    }

    /// Every tensor that is saved, trained or not.
    pub fn named_tensors(&self) -> impl Iterator<Item = (&Segment, TensorView<'_>)> {
        let trained = self
            .segments
            .iter()
            .map(|s| (s, self.values.slice(s.range.clone())));

        trained.chain(
            self.buffer_segments
                .iter()
                .map(|s| (s, self.buffers.slice(s.range.clone()))),
        )
    }

    /// Every tensor that is saved, trained or not, to be written.
    pub fn named_tensors_mut(&mut self) -> impl Iterator<Item = (&Segment, TensorViewMut<'_>)> {
        let trained = split_by_segment(&self.segments, self.values.view_mut());
        trained.chain(split_by_segment(
            &self.buffer_segments,
            self.buffers.view_mut(),
        ))
    }

    /// Fills everything as the reference does before training; the seed and the name decide.
    pub fn init_values(&mut self, seed: u64) {
        for (segment, mut values) in self.named_tensors_mut() {
            values.overwrite_with(|values| segment.init.fill_values(seed, &segment.name, values));
        }
    }

    /// Freezes the segments whose name the rule accepts, and thaws all others.
    pub fn freeze_matching(&mut self, rule: impl Fn(&str) -> bool) {
        for segment in &mut self.segments {
            segment.frozen = rule(&segment.name);
        }
    }

    /// Sets every gradient to zero.
    pub fn clear_gradients(&mut self) {
        self.gradients.view_mut().fill_zeros();
    }

    /// The values of a segment by name.
    pub fn value_by_name(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        let segment = self.segments.iter().find(|segment| segment.name == name)?;
        Some(self.values.slice(segment.range.clone()).to_host())
    }
}

/// The parts of a flat array that a table names.
fn split_by_segment<'a>(
    table: &'a [Segment],
    rest: TensorViewMut<'a>,
) -> impl Iterator<Item = (&'a Segment, TensorViewMut<'a>)> {
    let mut rest = Some(rest);
    table.iter().filter_map(move |segment| {
        let (part, tail) = rest.take()?.split_at(segment.range.len());
        rest = Some(tail);
        Some((segment, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> ParamLayout {
        let mut layout = ParamLayout::default();
        layout.register_weight("a.weight", &[2, 3], ParamInit::Normal(1.0));
        layout.register_weight("a.bias", &[2], ParamInit::Zeros);
        layout.register_buffer("a.running_var", &[4], ParamInit::Ones);

        layout
    }

    #[test]
    fn segments_lie_one_behind_the_other() {
        let params = layout().allocate_params();
        let ranges: Vec<_> = params.segments().iter().map(|s| s.range.clone()).collect();
        assert_eq!(ranges, [0..6, 6..8]);
        assert_eq!((params.values.len(), params.buffers.len()), (8, 4));
    }

    #[test]
    fn neighbours_join_and_strangers_do_not() {
        let mut layout = ParamLayout::default();
        let [a, b, c] =
            ["a", "b", "c"].map(|name| layout.register_weight(name, &[2], ParamInit::Zeros));
        assert_eq!(Weight::join_adjacent(&[a.clone(), b]).range, 0..4);
        assert!(std::panic::catch_unwind(|| Weight::join_adjacent(&[a, c])).is_err());
    }

    #[test]
    fn decay_is_decided_by_the_references_substrings() {
        let table = [
            ("visual.ln_pre.weight", false),
            ("visual.bn1.weight", false),
            ("bert.encoder.layer.0.output.dense.bias", false),
            ("logit_scale", false),
            ("bert.embeddings.LayerNorm.weight", true),
            ("visual.layer1.0.downsample.1.weight", true),
            ("text_projection", true),
        ];

        for (name, decayed) in table {
            let mut layout = ParamLayout::default();
            layout.register_weight(name, &[1], ParamInit::Zeros);
            assert_eq!(
                layout.allocate_params().segments()[0].has_weight_decay(),
                decayed,
                "{name}"
            );
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_model_and_another_seed_another() {
        let values = |seed| {
            let mut params = layout().allocate_params();
            params.init_values(seed);
            assert_eq!(*params.buffers.to_host(), [1.0; 4]);
            params.values.to_host().into_owned()
        };

        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
    }
}
