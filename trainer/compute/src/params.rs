//! All parameters in one flat array, and the table that names its segments. Moments are the optimizer's.

mod init;

use std::borrow::Cow;
use std::ops::Range;

use cnclip_crds::stage::Precision;
pub use init::ParamInit;

use crate::tensor::{Memory, Tensor, TensorView, TensorViewMut};

/// A named segment of a flat array: one tensor of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// The name in the reference's state dict.
    pub name: String,
    /// The shape in the reference's state dict; `[]` for a scalar.
    pub shape: Vec<usize>,
    /// Its range of the flat array.
    pub range: Range<usize>,
    /// Its initial values.
    pub init: ParamInit,
    /// Whether it is frozen: it has no gradient, and no step changes it.
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

/// A handle to one segment, or to adjacent segments as one: how a layer finds its weights, and in which number
/// format it multiplies them.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    range: Range<usize>,
    precision: Precision,
}

#[expect(clippy::len_without_is_empty, reason = "no tensor is empty")]
impl Weight {
    /// Number of elements.
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

    /// Its range of a flat array.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The number format of products with it.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Adjacent weights as one: query, key and value as one matrix.
    ///
    /// # Panics
    /// If they are not adjacent.
    pub fn join_adjacent(parts: &[Weight]) -> Weight {
        let touch = |pair: &[Weight]| pair[0].range.end == pair[1].range.start;
        assert!(parts.windows(2).all(touch), "the weights are not adjacent");
        let range = parts[0].range.start..parts[parts.len() - 1].range.end;
        Weight {
            range,
            precision: parts[0].precision,
        }
    }
}

/// A flat array of which a weight is a slice.
pub trait FlatArray {
    /// A range of it.
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

/// The table under construction: layers declare their tensors in the order of the forward pass, in which
/// gradients are finished last to first.
///
/// ```
/// use cnclip_compute::params::{ParamInit, ParamLayout};
///
/// let mut layout = ParamLayout::default();
/// let weight = layout.register_weight("fc.weight", &[2, 3], ParamInit::Ones);
/// let bias = layout.register_weight("fc.bias", &[2], ParamInit::Zeros);
/// let mut params = layout.allocate_params();
/// params.init_values(0);
///
/// assert_eq!((weight.range(), bias.range()), (0..6, 6..8));
/// assert_eq!(params.value_by_name("fc.bias").as_deref(), Some(&[0.0; 2][..]));
/// ```
#[derive(Debug, Default)]
pub struct ParamLayout {
    segments: Vec<Segment>,
    buffers: Vec<Segment>,
    precision: Precision,
    memory: Memory,
}

impl ParamLayout {
    /// An empty table for a model that multiplies in a number format.
    pub fn new(precision: Precision) -> Self {
        Self {
            precision,
            ..Self::default()
        }
    }

    /// The same for a model that computes in this memory.
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

    /// The offset of the next trained tensor.
    pub fn next_offset(&self) -> usize {
        self.segments.last().map_or(0, |last| last.range.end)
    }

    /// The trained tensors so far.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The buffers so far.
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

    /// Declares a buffer: a tensor that is saved with the model but not trained, as running statistics.
    pub fn register_buffer(&mut self, name: &str, shape: &[usize], init: ParamInit) -> Weight {
        let range = push_segment(&mut self.buffers, name, shape, init);
        Weight {
            range,
            precision: self.precision,
        }
    }

    /// Allocates the arrays, zero until they are initialized or loaded.
    pub fn allocate_params(self) -> Params {
        let end = |table: &[Segment]| table.last().map_or(0, |last| last.range.end);
        let trained = end(&self.segments);
        let buffers = end(&self.buffers);
        Params {
            values: self.memory.alloc_weights(trained),
            // In fp32 for every precision: gradients are added over micro-batches and ranks.
            gradients: self.memory.alloc_f32(trained),
            buffers: self.memory.alloc_f32(buffers),
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
    // The product of an empty shape is 1: a scalar has one element.
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

/// The parameters of a model.
///
/// # Guarantees
/// The order of segments depends on the model's configuration alone: it is the same in every worker.
#[derive(Debug)]
pub struct Params {
    /// Trained values, segment after segment.
    pub values: Tensor,
    /// Their gradients, to which backward passes add until [`Params::clear_gradients`].
    pub gradients: Tensor,
    /// Buffers: values that are saved but not trained.
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

    /// The memory that they are in.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The table of `buffers`.
    pub fn buffer_segments(&self) -> &[Segment] {
        &self.buffer_segments
    }

    /// The table, the values and the gradients at once: what an optimizer needs.
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

    /// Initializes everything as the reference does; values depend on the seed and the name of the tensor.
    pub fn init_values(&mut self, seed: u64) {
        for (segment, mut values) in self.named_tensors_mut() {
            values.overwrite_with(|values| segment.init.fill_values(seed, &segment.name, values));
        }
    }

    /// Freezes the segments whose names match, and unfreezes all others.
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

/// The slices of a flat array that a table names.
fn split_by_segment<'a>(
    table: &'a [Segment],
    rest: TensorViewMut<'a>,
) -> impl Iterator<Item = (&'a Segment, TensorViewMut<'a>)> {
    // Splitting consumes a view: the closure takes it out and puts the remainder back.
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
