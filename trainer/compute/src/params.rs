//! Every trained number in one flat array, and the table that names its parts. Holds no moments
//! (the optimizer's) and reads no files.

mod init;

use std::borrow::Cow;
use std::ops::Range;

use cnclip_crds::stage::Precision;
pub use init::Init;

use crate::tensor::{Array, Memory, View, ViewMut};

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
    pub init: Init,
    /// Whether it is left as it is: no gradient is made, no step changes it.
    pub frozen: bool,
}

impl Segment {
    /// Whether weight decay applies.
    ///
    /// # Source
    /// The reference excludes by substring, so BERT's `LayerNorm.weight` is decayed.
    pub fn decayed(&self) -> bool {
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
    pub fn of<F: Flat>(&self, flat: F) -> F {
        flat.cut(self.range.clone())
    }

    /// This weight in a flat array, to be written.
    pub fn of_mut<'a>(&self, flat: &'a mut [f32]) -> &'a mut [f32] {
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
    pub fn join(parts: &[Weight]) -> Weight {
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
pub trait Flat {
    /// The part in a range.
    fn cut(self, range: Range<usize>) -> Self;
}

impl Flat for &[f32] {
    fn cut(self, range: Range<usize>) -> Self {
        &self[range]
    }
}

impl Flat for View<'_> {
    fn cut(self, range: Range<usize>) -> Self {
        self.part(range)
    }
}

impl Flat for ViewMut<'_> {
    fn cut(self, range: Range<usize>) -> Self {
        self.part(range)
    }
}

/// The tables under construction: blocks declare their tensors in forward order.
#[derive(Debug, Default)]
pub struct Layout {
    segments: Vec<Segment>,
    state: Vec<Segment>,
    precision: Precision,
    memory: Memory,
}

impl Layout {
    /// An empty table of a model that multiplies in a number format.
    pub fn new(precision: Precision) -> Self {
        Self {
            precision,
            ..Self::default()
        }
    }

    /// The same, of a model that computes in this memory.
    pub fn within(self, memory: &Memory) -> Self {
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
    pub fn end(&self) -> usize {
        self.segments.last().map_or(0, |last| last.range.end)
    }

    /// What was declared to be trained.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What was declared to be saved without being trained.
    pub fn state_segments(&self) -> &[Segment] {
        &self.state
    }

    /// Declares a trained tensor.
    pub fn weight(&mut self, name: &str, shape: &[usize], init: Init) -> Weight {
        let range = declare(&mut self.segments, name, shape, init);
        Weight {
            range,
            precision: self.precision,
        }
    }

    /// Declares a tensor that is saved with the model but not trained: running statistics.
    pub fn state(&mut self, name: &str, shape: &[usize], init: Init) -> Weight {
        let range = declare(&mut self.state, name, shape, init);
        Weight {
            range,
            precision: self.precision,
        }
    }

    /// The arrays, zero until they are initialised or loaded.
    pub fn build(self) -> Params {
        let end = |table: &[Segment]| table.last().map_or(0, |last| last.range.end);
        let trained = end(&self.segments);
        let state = end(&self.state);
        Params {
            values: self.memory.weights(trained),
            gradients: self.memory.exact(trained),
            state: self.memory.exact(state),
            segments: self.segments,
            state_segments: self.state,
            memory: self.memory,
        }
    }
}

fn declare(table: &mut Vec<Segment>, name: &str, shape: &[usize], init: Init) -> Range<usize> {
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
    pub values: Array,
    /// Their gradients; backward passes add, [`Params::clear_gradients`] starts afresh.
    pub gradients: Array,
    /// Values that are saved but not trained.
    pub state: Array,
    segments: Vec<Segment>,
    state_segments: Vec<Segment>,
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
    pub fn state_segments(&self) -> &[Segment] {
        &self.state_segments
    }

    /// The table, the values and the gradients at once: what an optimizer walks.
    pub fn walk(&mut self) -> (&[Segment], ViewMut<'_>, View<'_>) {
        (
            &self.segments,
            self.values.view_mut(),
            self.gradients.view(),
        )
    }

    /// Every tensor that is saved, trained or not.
    pub fn tensors(&self) -> impl Iterator<Item = (&Segment, View<'_>)> {
        let trained = self
            .segments
            .iter()
            .map(|s| (s, self.values.part(s.range.clone())));

        trained.chain(
            self.state_segments
                .iter()
                .map(|s| (s, self.state.part(s.range.clone()))),
        )
    }

    /// Every tensor that is saved, trained or not, to be written.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = (&Segment, ViewMut<'_>)> {
        let trained = cut(&self.segments, self.values.view_mut());
        trained.chain(cut(&self.state_segments, self.state.view_mut()))
    }

    /// Fills everything as the reference does before training; the seed and the name decide.
    pub fn initialize(&mut self, seed: u64) {
        for (segment, mut values) in self.tensors_mut() {
            values.write(|values| segment.init.fill(seed, &segment.name, values));
        }
    }

    /// Freezes the segments whose name the rule accepts, and thaws all others.
    pub fn freeze(&mut self, rule: impl Fn(&str) -> bool) {
        for segment in &mut self.segments {
            segment.frozen = rule(&segment.name);
        }
    }

    /// Sets every gradient to zero.
    pub fn clear_gradients(&mut self) {
        self.gradients.view_mut().clear();
    }

    /// The values of a segment by name.
    pub fn value(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        let segment = self.segments.iter().find(|segment| segment.name == name)?;
        Some(self.values.part(segment.range.clone()).read())
    }
}

/// The parts of a flat array that a table names.
fn cut<'a>(
    table: &'a [Segment],
    rest: ViewMut<'a>,
) -> impl Iterator<Item = (&'a Segment, ViewMut<'a>)> {
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

    fn layout() -> Layout {
        let mut layout = Layout::default();
        layout.weight("a.weight", &[2, 3], Init::Normal(1.0));
        layout.weight("a.bias", &[2], Init::Zeros);
        layout.state("a.running_var", &[4], Init::Ones);

        layout
    }

    #[test]
    fn segments_lie_one_behind_the_other() {
        let params = layout().build();
        let ranges: Vec<_> = params.segments().iter().map(|s| s.range.clone()).collect();
        assert_eq!(ranges, [0..6, 6..8]);
        assert_eq!((params.values.len(), params.state.len()), (8, 4));
    }

    #[test]
    fn neighbours_join_and_strangers_do_not() {
        let mut layout = Layout::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| layout.weight(name, &[2], Init::Zeros));
        assert_eq!(Weight::join(&[a.clone(), b]).range, 0..4);
        assert!(std::panic::catch_unwind(|| Weight::join(&[a, c])).is_err());
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
            let mut layout = Layout::default();
            layout.weight(name, &[1], Init::Zeros);
            assert_eq!(layout.build().segments()[0].decayed(), decayed, "{name}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_model_and_another_seed_another() {
        let values = |seed| {
            let mut params = layout().build();
            params.initialize(seed);
            assert_eq!(*params.state.read(), [1.0; 4]);
            params.values.read().into_owned()
        };

        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
    }
}
