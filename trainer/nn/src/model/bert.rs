//! The text tower: BERT over packed texts, the first token pooled and projected.

mod layer;

use cnclip_crds::model::TextTower;
use layer::{BertLayer, DropoutRates};

use super::PackedTexts;
use super::activation_store::ActivationStore;
use super::param_ranges::ParamRanges;
use super::scratch::TransformerScratch;
use super::sequence_buffers::SequenceBuffers;
use cnclip_compute::collective::GradientReducer;
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::embedding::{self, EmbeddingTables};
use cnclip_compute::ops::layer_norm::{LayerNorm, MOMENTS_PER_ROW};
use cnclip_compute::ops::linear::{Linear, add_column_sums};
use cnclip_compute::ops::sequences::Pooling;
use cnclip_compute::params::{ParamInit, ParamLayout, Weight};
use cnclip_compute::tensor::{Tensor, TensorView, TensorViewMut};

/// BERT's own.
const LAYER_NORM_EPSILON: f32 = 1e-12;

/// The text tower of all models.
///
/// # Shapes
/// Texts of `batch` captions in, features [batch, features] out.
#[derive(Debug)]
pub struct Bert {
    width: usize,
    word_embedding: Weight,
    position_embedding: Weight,
    token_type_embedding: Weight,
    norm: LayerNorm,
    layers: Vec<BertLayer>,
    projection: Linear,
    /// The embedding, each layer, and the projection.
    param_ranges: ParamRanges,
    dropout_rates: DropoutRates,
    /// The captions, on a device.
    sequence_buffers: SequenceBuffers,
    activations: ActivationStore<layer::BertLayerCache>,
    scratch: TransformerScratch,
    cache: BertCache,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
struct BertCache {
    embedded: Tensor,
    moments: Tensor,
    /// What goes into each layer, and what comes out of the last.
    tokens: Vec<Tensor>,
}

impl Bert {
    /// Declares the tower's weights under `bert`, and `text_projection`; with memory for `batch`
    /// texts of `longest` tokens; `recompute` has its layers share some.
    pub fn declare_params(
        layout: &mut ParamLayout,
        sizes: &TextTower,
        features: usize,
        (batch, longest, recompute): (usize, usize, bool),
    ) -> Self {
        let [width, heads, count, hidden] =
            [sizes.width, sizes.heads, sizes.layers, sizes.intermediate].map(|n| n as usize);
        let precision = layout.precision();
        let memory = layout.memory().clone();
        let attention = Attention::for_memory(&memory, (heads, width), longest, precision);
        let rows = batch * longest;
        let mut parts = ParamRanges::starting_at_end(layout);
        let mut table = |name: &str, entries: usize| {
            let name = format!("bert.embeddings.{name}_embeddings.weight");
            layout.register_weight(&name, &[entries, width], ParamInit::Normal(0.02))
        };

        let words = table("word", sizes.vocab_size as usize);
        let positions = table("position", sizes.positions as usize);
        let kinds = table("token_type", 2);
        let norm = LayerNorm::declare_params(
            layout,
            "bert.embeddings.LayerNorm",
            width,
            LAYER_NORM_EPSILON,
        );
        parts.close_range(layout);
        let layer = |layer: usize| {
            let keep = if layer + 1 == count {
                Pooling::FirstToken
            } else {
                Pooling::AllTokens
            };

            let layer = BertLayer::declare_params(layout, layer, attention, hidden, keep);
            parts.close_range(layout);
            layer
        };

        let layers: Vec<_> = (0..count).map(layer).collect();
        let normal = ParamInit::Normal((width as f32).powf(-0.5));
        let projection = layout.register_weight("text_projection", &[width, features], normal);
        parts.close_range(layout);

        Self {
            width,
            word_embedding: words,
            position_embedding: positions,
            token_type_embedding: kinds,
            norm,
            activations: ActivationStore::new(&layers, recompute, |layer| {
                layer.alloc_cache(&memory, (rows, batch))
            }),
            layers,
            projection: Linear::new_projection(projection, width),
            param_ranges: parts,
            dropout_rates: DropoutRates {
                hidden: sizes.hidden_dropout_percent as f32 / 100.0,
                attention: sizes.attention_dropout_percent as f32 / 100.0,
            },
            sequence_buffers: SequenceBuffers::new(&memory, batch, rows),
            scratch: TransformerScratch::new(&memory, rows, hidden, attention),
            cache: BertCache {
                embedded: memory.alloc_activations(rows * width),
                moments: memory.alloc_f32(rows * MOMENTS_PER_ROW),
                tokens: (0..=count)
                    .map(|_| memory.alloc_activations(rows * width))
                    .collect(),
            },
        }
    }

    /// Writes the features of a batch.
    pub fn forward(
        &mut self,
        values: TensorView<'_>,
        texts: PackedTexts<'_>,
        dropout: Dropout,
        features: TensorViewMut<'_>,
    ) {
        self.sequence_buffers.upload_batch(texts.offsets, texts.ids);
        self.embed_tokens(values, texts, dropout);
        for layer in 0..self.layers.len() {
            self.run_layer(layer, values, texts, dropout);
        }

        let pooled = self.cache.tokens[self.layers.len()].first_n(texts.text_count() * self.width);
        self.projection
            .forward(values, pooled, features, Accumulate::No);
    }

    /// Adds to the gradients of the weights, given that of the features and the texts and the dropout
    /// of the forward pass; hands them on part by part.
    pub fn backward(
        &mut self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        texts: PackedTexts<'_>,
        dropout: Dropout,
        (dfeatures, reducer): (TensorView<'_>, &mut dyn GradientReducer),
    ) {
        let few = texts.text_count() * self.width;
        let pooled = self.cache.tokens[self.layers.len()].first_n(few);
        let dpooled = self.scratch.gradient.first_n_mut(few);
        self.projection.backward(
            (values, gradients),
            pooled,
            dfeatures,
            dpooled,
            Accumulate::No,
        );

        reducer.reduce_gradients(gradients, self.param_ranges.last_range());
        for layer in (0..self.layers.len()).rev() {
            if self.activations.is_overwritten(layer) {
                self.run_layer(layer, values, texts, dropout);
            }

            let inner = (
                self.sequence_buffers
                    .bind_sequences(texts.token_sequences()),
                self.dropout_rates.layer_dropouts(dropout, layer),
            );

            let memory = (&*self.activations.cache_mut(layer), &mut self.scratch);
            let x = self.cache.tokens[layer].view();
            self.layers[layer].backward((values, gradients), inner, x, memory);
            reducer.reduce_gradients(gradients, self.param_ranges.part_range(1 + layer));
        }

        self.backward_embedding((values, gradients), texts, dropout);
        reducer.reduce_gradients(gradients, self.param_ranges.part_range(0));
    }

    /// One layer forward.
    fn run_layer(
        &mut self,
        layer: usize,
        values: TensorView<'_>,
        texts: PackedTexts<'_>,
        dropout: Dropout,
    ) {
        let (before, after) = self.cache.tokens.split_at_mut(layer + 1);
        let inner = (
            self.sequence_buffers
                .bind_sequences(texts.token_sequences()),
            self.dropout_rates.layer_dropouts(dropout, layer),
        );

        let memory = (self.activations.cache_mut(layer), &mut self.scratch);
        let x = before[layer].view();
        let y = after[0].view_mut();
        self.layers[layer].forward(values, inner, x, y, memory);
    }

    fn embed_tokens(&mut self, values: TensorView<'_>, texts: PackedTexts<'_>, dropout: Dropout) {
        let sequences = self
            .sequence_buffers
            .bind_sequences(texts.token_sequences());
        let width = self.width;
        let all = sequences.token_count() * width;
        let tables = EmbeddingTables {
            words: self.word_embedding.slice_of(values),
            positions: self.position_embedding.slice_of(values),
            token_type: self.token_type_embedding.slice_of(values).first_n(width),
        };

        let BertCache {
            embedded,
            moments,
            tokens,
        } = &mut self.cache;

        let normed = &mut self.scratch.narrow;
        embedding::forward(
            tables,
            sequences,
            self.sequence_buffers.bind_indices(texts.ids),
            embedded.first_n_mut(all),
        );

        let moments = moments.first_n_mut(sequences.token_count() * MOMENTS_PER_ROW);
        self.norm.forward(
            values,
            embedded.first_n(all),
            normed.first_n_mut(all),
            moments,
        );
        let dropout = dropout.at_site(0, self.dropout_rates.hidden);
        dropout.apply_mask(
            sequences,
            width,
            normed.first_n(all),
            tokens[0].first_n_mut(all),
        );
    }

    fn backward_embedding(
        &mut self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        texts: PackedTexts<'_>,
        dropout: Dropout,
    ) {
        let sequences = self
            .sequence_buffers
            .bind_sequences(texts.token_sequences());
        let width = self.width;
        let all = sequences.token_count() * width;
        let TransformerScratch {
            gradient, narrow, ..
        } = &mut self.scratch;

        let dropout = dropout.at_site(0, self.dropout_rates.hidden);
        dropout.apply_mask(
            sequences,
            width,
            gradient.first_n(all),
            narrow.first_n_mut(all),
        );
        let moments = self
            .cache
            .moments
            .first_n(sequences.token_count() * MOMENTS_PER_ROW);
        let inner = (self.cache.embedded.first_n(all), moments);
        let dnormed = narrow.first_n(all);
        let dembedded = gradient.first_n_mut(all);

        self.norm.backward(
            (values, gradients),
            inner,
            dnormed,
            dembedded,
            Accumulate::No,
        );

        let dembedded = gradient.first_n(all);
        let words = self.word_embedding.slice_of(gradients.reborrow());
        embedding::backward_words(
            self.sequence_buffers.bind_indices(texts.ids),
            width,
            dembedded,
            words,
        );
        let positions = self.position_embedding.slice_of(gradients.reborrow());
        embedding::backward_positions(sequences, width, dembedded, positions);
        add_column_sums(
            dembedded,
            self.token_type_embedding
                .slice_of(gradients.reborrow())
                .first_n(width),
        );
    }
}
