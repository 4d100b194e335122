//! The text tower: BERT over packed texts, the first token pooled and projected.

mod layer;

use cnclip_crds::model::TextTower;
use layer::{Layer, Rates};

use super::Texts;
use super::parts::Parts;
use super::placed::Placed;
use super::scratch::Scratch;
use super::shelf::Shelf;
use cnclip_compute::collective::Reducer;
use cnclip_compute::gemm::Onto;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::embedding::{self, Tables};
use cnclip_compute::ops::layer_norm::{LayerNorm, MOMENTS};
use cnclip_compute::ops::linear::{Linear, add_column_sums};
use cnclip_compute::ops::rows::Keep;
use cnclip_compute::params::{Init, Layout, Weight};
use cnclip_compute::tensor::{Array, View, ViewMut};

/// BERT's own.
const EPSILON: f32 = 1e-12;

/// The text tower of all models.
///
/// # Shapes
/// Texts of `batch` captions in, features [batch, features] out.
#[derive(Debug)]
pub struct Bert {
    width: usize,
    words: Weight,
    positions: Weight,
    kinds: Weight,
    norm: LayerNorm,
    layers: Vec<Layer>,
    projection: Linear,
    /// The embedding, each layer, and the projection.
    parts: Parts,
    rates: Rates,
    /// The captions, on a device.
    placed: Placed,
    shelf: Shelf<layer::Saved>,
    scratch: Scratch,
    saved: Saved,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
struct Saved {
    embedded: Array,
    moments: Array,
    /// What goes into each layer, and what comes out of the last.
    tokens: Vec<Array>,
}

impl Bert {
    /// Declares the tower's weights under `bert`, and `text_projection`; with memory for `batch`
    /// texts of `longest` tokens; `recompute` has its layers share some.
    pub fn declare(
        layout: &mut Layout,
        sizes: &TextTower,
        features: usize,
        (batch, longest, recompute): (usize, usize, bool),
    ) -> Self {
        let [width, heads, count, hidden] =
            [sizes.width, sizes.heads, sizes.layers, sizes.intermediate].map(|n| n as usize);
        let precision = layout.precision();
        let memory = layout.memory().clone();
        let attention = Attention::within(&memory, (heads, width), longest, precision);
        let rows = batch * longest;
        let mut parts = Parts::begin(layout);
        let mut table = |name: &str, entries: usize| {
            let name = format!("bert.embeddings.{name}_embeddings.weight");
            layout.weight(&name, &[entries, width], Init::Normal(0.02))
        };

        let words = table("word", sizes.vocab_size as usize);
        let positions = table("position", sizes.positions as usize);
        let kinds = table("token_type", 2);
        let norm = LayerNorm::declare(layout, "bert.embeddings.LayerNorm", width, EPSILON);
        parts.end(layout);
        let layer = |layer: usize| {
            let keep = if layer + 1 == count {
                Keep::First
            } else {
                Keep::All
            };

            let layer = Layer::declare(layout, layer, attention, hidden, keep);
            parts.end(layout);
            layer
        };

        let layers: Vec<_> = (0..count).map(layer).collect();
        let normal = Init::Normal((width as f32).powf(-0.5));
        let projection = layout.weight("text_projection", &[width, features], normal);
        parts.end(layout);

        Self {
            width,
            words,
            positions,
            kinds,
            norm,
            shelf: Shelf::new(&layers, recompute, |layer| {
                layer.reserve(&memory, (rows, batch))
            }),
            layers,
            projection: Linear::projection(projection, width),
            parts,
            rates: Rates {
                hidden: sizes.hidden_dropout_percent as f32 / 100.0,
                attention: sizes.attention_dropout_percent as f32 / 100.0,
            },
            placed: Placed::new(&memory, batch, rows),
            scratch: Scratch::new(&memory, rows, hidden, attention),
            saved: Saved {
                embedded: memory.array(rows * width),
                moments: memory.exact(rows * MOMENTS),
                tokens: (0..=count).map(|_| memory.array(rows * width)).collect(),
            },
        }
    }

    /// Writes the features of a batch.
    pub fn forward(
        &mut self,
        values: View<'_>,
        texts: Texts<'_>,
        dropout: Dropout,
        features: ViewMut<'_>,
    ) {
        self.placed.take(texts.offsets, texts.ids);
        self.embed(values, texts, dropout);
        for layer in 0..self.layers.len() {
            self.run(layer, values, texts, dropout);
        }

        let pooled = self.saved.tokens[self.layers.len()].first(texts.count() * self.width);
        self.projection
            .forward(values, pooled, features, Onto::Replace);
    }

    /// Adds to the gradients of the weights, given that of the features and the texts and the dropout
    /// of the forward pass; hands them on part by part.
    pub fn backward(
        &mut self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        texts: Texts<'_>,
        dropout: Dropout,
        (dfeatures, reducer): (View<'_>, &mut dyn Reducer),
    ) {
        let few = texts.count() * self.width;
        let pooled = self.saved.tokens[self.layers.len()].first(few);
        let dpooled = self.scratch.gradient.first_mut(few);
        self.projection.backward(
            (values, gradients),
            pooled,
            dfeatures,
            dpooled,
            Onto::Replace,
        );

        reducer.reduce(gradients, self.parts.last());
        for layer in (0..self.layers.len()).rev() {
            if self.shelf.overwritten(layer) {
                self.run(layer, values, texts, dropout);
            }

            let inner = (
                self.placed.on(texts.sequences()),
                self.rates.at(dropout, layer),
            );

            let memory = (&*self.shelf.place(layer), &mut self.scratch);
            let x = self.saved.tokens[layer].view();
            self.layers[layer].backward((values, gradients), inner, x, memory);
            reducer.reduce(gradients, self.parts.range(1 + layer));
        }

        self.backward_embed((values, gradients), texts, dropout);
        reducer.reduce(gradients, self.parts.range(0));
    }

    /// One layer forward.
    fn run(&mut self, layer: usize, values: View<'_>, texts: Texts<'_>, dropout: Dropout) {
        let (before, after) = self.saved.tokens.split_at_mut(layer + 1);
        let inner = (
            self.placed.on(texts.sequences()),
            self.rates.at(dropout, layer),
        );

        let memory = (self.shelf.place(layer), &mut self.scratch);
        let x = before[layer].view();
        let y = after[0].view_mut();
        self.layers[layer].forward(values, inner, x, y, memory);
    }

    fn embed(&mut self, values: View<'_>, texts: Texts<'_>, dropout: Dropout) {
        let sequences = self.placed.on(texts.sequences());
        let width = self.width;
        let all = sequences.tokens() * width;
        let tables = Tables {
            words: self.words.of(values),
            positions: self.positions.of(values),
            kind: self.kinds.of(values).first(width),
        };

        let Saved {
            embedded,
            moments,
            tokens,
        } = &mut self.saved;

        let normed = &mut self.scratch.narrow;
        embedding::forward(
            tables,
            sequences,
            self.placed.numbers(texts.ids),
            embedded.first_mut(all),
        );

        let moments = moments.first_mut(sequences.tokens() * MOMENTS);
        self.norm
            .forward(values, embedded.first(all), normed.first_mut(all), moments);
        let dropout = dropout.at(0, self.rates.hidden);
        dropout.apply(
            sequences,
            width,
            normed.first(all),
            tokens[0].first_mut(all),
        );
    }

    fn backward_embed(
        &mut self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        texts: Texts<'_>,
        dropout: Dropout,
    ) {
        let sequences = self.placed.on(texts.sequences());
        let width = self.width;
        let all = sequences.tokens() * width;
        let Scratch {
            gradient, narrow, ..
        } = &mut self.scratch;

        let dropout = dropout.at(0, self.rates.hidden);
        dropout.apply(sequences, width, gradient.first(all), narrow.first_mut(all));
        let moments = self.saved.moments.first(sequences.tokens() * MOMENTS);
        let inner = (self.saved.embedded.first(all), moments);
        let dnormed = narrow.first(all);
        let dembedded = gradient.first_mut(all);

        self.norm.backward(
            (values, gradients),
            inner,
            dnormed,
            dembedded,
            Onto::Replace,
        );

        let dembedded = gradient.first(all);
        let words = self.words.of(gradients.reborrow());
        embedding::backward_words(self.placed.numbers(texts.ids), width, dembedded, words);
        let positions = self.positions.of(gradients.reborrow());
        embedding::backward_positions(sequences, width, dembedded, positions);
        add_column_sums(dembedded, self.kinds.of(gradients.reborrow()).first(width));
    }
}
