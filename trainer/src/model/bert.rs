//! The text tower: BERT over packed texts, the first token pooled and projected.

mod layer;

use cnclip_crds::model::TextTower;
use layer::{Layer, Rates};

use super::Texts;
use super::parts::Parts;
use super::scratch::Scratch;
use super::shelf::Shelf;
use crate::ops::attention::Attention;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::{self, Tables};
use crate::ops::layer_norm::{LayerNorm, Moments};
use crate::ops::linear::{Linear, add_column_sums};
use crate::ops::matrix::Onto;
use crate::ops::ranks::Reducer;
use crate::ops::rows::Keep;
use crate::params::{Init, Layout, Weight};

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
    shelf: Shelf<layer::Saved>,
    scratch: Scratch,
    saved: Saved,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
struct Saved {
    embedded: Vec<f32>,
    moments: Vec<Moments>,
    /// What goes into each layer, and what comes out of the last.
    tokens: Vec<Vec<f32>>,
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
        let (rows, attention) = (batch * longest, Attention { heads, width, longest, precision });
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
            let keep = if layer + 1 == count { Keep::First } else { Keep::All };
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
            shelf: Shelf::new(&layers, recompute, |layer| layer.reserve((rows, batch))),
            layers,
            projection: Linear::projection(projection, width),
            parts,
            rates: Rates {
                hidden: sizes.hidden_dropout_percent as f32 / 100.0,
                attention: sizes.attention_dropout_percent as f32 / 100.0,
            },
            scratch: Scratch::new(rows, hidden, attention),
            saved: Saved {
                embedded: vec![0.0; rows * width],
                moments: vec![[0.0; 2]; rows],
                tokens: vec![vec![0.0; rows * width]; count + 1],
            },
        }
    }

    /// Writes the features of a batch.
    pub fn forward(
        &mut self,
        values: &[f32],
        texts: Texts<'_>,
        dropout: Dropout,
        features: &mut [f32],
    ) {
        self.embed(values, texts, dropout);
        for layer in 0..self.layers.len() {
            self.run(layer, values, texts, dropout);
        }
        let pooled = &self.saved.tokens[self.layers.len()][..texts.count() * self.width];
        self.projection.forward(values, pooled, features, Onto::Replace);
    }

    /// Adds to the gradients of the weights, given that of the features and the dropout of the
    /// forward pass; hands them on part by part.
    pub fn backward(
        &mut self,
        (values, gradients): (&[f32], &mut [f32]),
        texts: Texts<'_>,
        dropout: Dropout,
        (dfeatures, reducer): (&[f32], &mut dyn Reducer),
    ) {
        let few = texts.count() * self.width;
        let pooled = &self.saved.tokens[self.layers.len()][..few];
        let dpooled = &mut self.scratch.gradient[..few];
        self.projection.backward((values, gradients), pooled, dfeatures, dpooled, Onto::Replace);
        reducer.reduce(&mut (&mut *gradients).into(), self.parts.last());
        for layer in (0..self.layers.len()).rev() {
            if self.shelf.overwritten(layer) {
                self.run(layer, values, texts, dropout);
            }
            let inner = (texts.sequences(), self.rates.at(dropout, layer));
            let memory = (&*self.shelf.place(layer), &mut self.scratch);
            let x = &self.saved.tokens[layer];
            self.layers[layer].backward((values, gradients), inner, x, memory);
            reducer.reduce(&mut (&mut *gradients).into(), self.parts.range(1 + layer));
        }
        self.backward_embed((values, gradients), texts, dropout);
        reducer.reduce(&mut (&mut *gradients).into(), self.parts.range(0));
    }

    /// One layer forward.
    fn run(&mut self, layer: usize, values: &[f32], texts: Texts<'_>, dropout: Dropout) {
        let (before, after) = self.saved.tokens.split_at_mut(layer + 1);
        let inner = (texts.sequences(), self.rates.at(dropout, layer));
        let memory = (self.shelf.place(layer), &mut self.scratch);
        self.layers[layer].forward(values, inner, &before[layer], &mut after[0], memory);
    }

    fn embed(&mut self, values: &[f32], texts: Texts<'_>, dropout: Dropout) {
        let (sequences, width) = (texts.sequences(), self.width);
        let all = sequences.tokens() * width;
        let tables = Tables {
            words: self.words.of(values),
            positions: self.positions.of(values),
            kind: &self.kinds.of(values)[..width],
        };
        let Saved { embedded, moments, tokens } = &mut self.saved;
        embedding::forward(tables, sequences, texts.ids, &mut embedded[..all]);
        let (normed, moments) =
            (&mut self.scratch.narrow[..all], &mut moments[..sequences.tokens()]);
        self.norm.forward(values, &embedded[..all], normed, moments);
        dropout.at(0, self.rates.hidden).apply(sequences, width, normed, &mut tokens[0][..all]);
    }

    fn backward_embed(
        &mut self,
        (values, gradients): (&[f32], &mut [f32]),
        texts: Texts<'_>,
        dropout: Dropout,
    ) {
        let (sequences, width) = (texts.sequences(), self.width);
        let all = sequences.tokens() * width;
        let Scratch { gradient, narrow, .. } = &mut self.scratch;
        let (gradient, dnormed) = (&mut gradient[..all], &mut narrow[..all]);
        dropout.at(0, self.rates.hidden).apply(sequences, width, gradient, dnormed);
        let inner = (&self.saved.embedded[..all], &self.saved.moments[..sequences.tokens()]);
        let dembedded = gradient;
        self.norm.backward((values, gradients), inner, dnormed, dembedded, Onto::Replace);
        embedding::backward_words(texts.ids, width, dembedded, self.words.of_mut(gradients));
        let positions = self.positions.of_mut(gradients);
        embedding::backward_positions(texts.offsets, width, dembedded, positions);
        add_column_sums(dembedded, &mut self.kinds.of_mut(gradients)[..width]);
    }
}
