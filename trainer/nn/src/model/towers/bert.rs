//! The text tower: BERT over packed texts, whose first token is pooled and projected.

mod layer;

use cnclip_compute::collective::GradientReducer;
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::embedding::{self, EmbeddingTables};
use cnclip_compute::ops::layer_norm::{LayerNorm, LayerNormCache, MOMENTS_PER_ROW};
use cnclip_compute::ops::linear::{Linear, add_column_sums};
use cnclip_compute::params::{ParamInit, ParamLayout, Weight};
use cnclip_compute::tensor::{Memory, Tensor, TensorView, TensorViewMut};
use cnclip_crds::model::TextTower;

use super::param_ranges::ParamRanges;
use super::sequence_buffers::SequenceBuffers;
use super::transformer::{StackShape, TransformerScratch, TransformerStack};
use super::{BlockOutput, FlatParams, TowerCapacity};
use crate::model::PackedTexts;
use layer::{BertLayer, DropoutRates};

/// BERT's own, as in Hugging Face's `BertConfig`: smaller than PyTorch's default of 1e-5.
const LAYER_NORM_EPSILON: f32 = 1e-12;

/// Segment embeddings of the published checkpoints. Chinese-CLIP feeds one text, so all tokens are of type 0.
const TOKEN_TYPES: usize = 2;

/// The site of the embedding's dropout.
const EMBEDDING_SITE: u64 = 0;

/// The text tower of all models.
///
/// # Shapes
/// `batch` packed texts in, features `[batch, features]` out.
#[derive(Debug)]
pub struct Bert {
    width: usize,
    word_embedding: Weight,
    position_embedding: Weight,
    token_type_embedding: Weight,
    norm: LayerNorm,
    stack: TransformerStack<BertLayer>,
    projection: Linear,
    /// The embedding, each layer, and the projection.
    param_ranges: ParamRanges,
    dropout_rates: DropoutRates,
    /// The texts of the batch, on a device.
    sequence_buffers: SequenceBuffers,
    cache: EmbeddingCache,
}

/// Activations of the embedding that the forward pass keeps for the backward pass.
#[derive(Debug)]
struct EmbeddingCache {
    embedded: Tensor,
    moments: Tensor,
}

impl EmbeddingCache {
    fn new(memory: &Memory, tokens: usize, width: usize) -> Self {
        Self {
            embedded: memory.alloc_activations(tokens * width),
            moments: memory.alloc_f32(tokens * MOMENTS_PER_ROW),
        }
    }
}

impl Bert {
    /// Declares the tower's weights under `bert`, and `text_projection`; with memory for a batch of texts
    /// of at most `context_length` tokens.
    pub fn declare_params(
        layout: &mut ParamLayout,
        config: &TextTower,
        features: usize,
        context_length: usize,
        capacity: TowerCapacity,
    ) -> Self {
        let width = config.width as usize;
        let memory = layout.memory().clone();
        let tokens = capacity.batch * context_length;
        let heads = config.heads as usize;
        let precision = layout.precision();
        let attention = Attention::for_memory(&memory, heads, width, context_length, precision);
        let stack_shape = StackShape {
            layers: config.layers as usize,
            attention,
            hidden: config.intermediate as usize,
            capacity,
        };

        let mut param_ranges = ParamRanges::starting_at_end(layout);
        let mut declare_table = |name: &str, entries: usize| {
            let name = format!("bert.embeddings.{name}_embeddings.weight");
            layout.register_weight(&name, &[entries, width], ParamInit::Normal(0.02))
        };

        let word_embedding = declare_table("word", config.vocab_size as usize);
        let position_embedding = declare_table("position", config.positions as usize);
        let token_type_embedding = declare_table("token_type", TOKEN_TYPES);
        let norm_name = "bert.embeddings.LayerNorm";
        let norm = LayerNorm::declare_params(layout, norm_name, width, LAYER_NORM_EPSILON);
        param_ranges.close_range(layout);

        let stack = TransformerStack::declare_layers(
            layout,
            &mut param_ranges,
            stack_shape,
            |layout, index, pooling| {
                BertLayer::declare_params(layout, index, attention, stack_shape.hidden, pooling)
            },
        );

        let projection_init = ParamInit::Normal((width as f32).powf(-0.5));
        let projection =
            layout.register_weight("text_projection", &[width, features], projection_init);
        param_ranges.close_range(layout);

        Self {
            width,
            word_embedding,
            position_embedding,
            token_type_embedding,
            norm,
            stack,
            projection: Linear::new_projection(projection, width),
            param_ranges,
            dropout_rates: DropoutRates {
                hidden: config.hidden_dropout_percent as f32 / 100.0,
                attention: config.attention_dropout_percent as f32 / 100.0,
            },
            sequence_buffers: SequenceBuffers::new(&memory, capacity.batch, tokens),
            cache: EmbeddingCache::new(&memory, tokens, width),
        }
    }

    /// The output of the embedding and of every layer in the last forward pass, which was given `texts`.
    pub fn block_outputs(&self, texts: PackedTexts<'_>) -> Vec<BlockOutput<'_>> {
        let token_values = texts.ids.len() * self.width;
        let pooled_values = texts.text_count() * self.width;
        let layers = "bert.encoder.layer";
        self.stack
            .block_outputs(token_values, pooled_values, "bert.embeddings", layers)
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

        let rates = self.dropout_rates;
        let sequences = self
            .sequence_buffers
            .bind_sequences(texts.token_sequences());
        self.stack.forward(values, sequences, |layer| {
            rates.layer_dropouts(dropout, layer)
        });

        // Chinese-CLIP projects the first token, [CLS], as it is: BERT's own pooler is not used.
        let pooled = self.stack.output.first_n(texts.text_count() * self.width);
        self.projection
            .forward(values, pooled, features, Accumulate::No);
    }

    /// Adds to the gradients of the weights, given that of the features and the texts and the dropout
    /// of the forward pass; hands each part to `reducer` as soon as it is complete.
    pub fn backward(
        &mut self,
        params: &mut FlatParams<'_>,
        texts: PackedTexts<'_>,
        dropout: Dropout,
        dfeatures: TensorView<'_>,
        reducer: &mut dyn GradientReducer,
    ) {
        let pooled_len = texts.text_count() * self.width;
        self.projection.backward(
            params.values,
            &mut params.gradients,
            self.stack.output.first_n(pooled_len),
            dfeatures,
            self.stack.scratch.gradient.first_n_mut(pooled_len),
            Accumulate::No,
        );

        reducer.reduce_gradients(&mut params.gradients, self.param_ranges.last_range());

        let rates = self.dropout_rates;
        let sequences = self
            .sequence_buffers
            .bind_sequences(texts.token_sequences());
        self.stack.backward(
            params,
            sequences,
            |layer| rates.layer_dropouts(dropout, layer),
            &self.param_ranges,
            reducer,
        );

        self.backward_embedding(params, texts, dropout);
        reducer.reduce_gradients(&mut params.gradients, self.param_ranges.part_range(0));
    }

    /// Writes the input of the first layer: the sum of three embeddings, normalised, after dropout.
    fn embed_tokens(&mut self, values: TensorView<'_>, texts: PackedTexts<'_>, dropout: Dropout) {
        let sequences = self
            .sequence_buffers
            .bind_sequences(texts.token_sequences());
        let width = self.width;
        let len = sequences.token_count() * width;
        let tables = EmbeddingTables {
            words: self.word_embedding.slice_of(values),
            positions: self.position_embedding.slice_of(values),
            token_type: self.token_type_embedding.slice_of(values).first_n(width),
        };

        let EmbeddingCache { embedded, moments } = &mut self.cache;
        embedding::forward(
            tables,
            sequences,
            self.sequence_buffers.bind_indices(texts.ids),
            embedded.first_n_mut(len),
        );

        // Not kept: the backward pass of a norm needs its input alone, and dropout draws its mask again.
        let normed = &mut self.stack.scratch.branch;
        self.norm.forward(
            values,
            embedded.first_n(len),
            normed.first_n_mut(len),
            moments.first_n_mut(sequences.token_count() * MOMENTS_PER_ROW),
        );

        let dropout = dropout.at_site(EMBEDDING_SITE, self.dropout_rates.hidden);
        let layer_input = self.stack.layer_inputs[0].first_n_mut(len);
        dropout.apply_mask(sequences, width, normed.first_n(len), layer_input);
    }

    /// From the gradient of the first layer's input in `scratch.gradient` to those of the embeddings.
    fn backward_embedding(
        &mut self,
        params: &mut FlatParams<'_>,
        texts: PackedTexts<'_>,
        dropout: Dropout,
    ) {
        let sequences = self
            .sequence_buffers
            .bind_sequences(texts.token_sequences());
        let width = self.width;
        let len = sequences.token_count() * width;
        let TransformerScratch {
            gradient, branch, ..
        } = &mut self.stack.scratch;

        let dropout = dropout.at_site(EMBEDDING_SITE, self.dropout_rates.hidden);
        let dnormed = branch.first_n_mut(len);
        dropout.apply_mask(sequences, width, gradient.first_n(len), dnormed);

        let EmbeddingCache { embedded, moments } = &self.cache;
        let moments = moments.first_n(sequences.token_count() * MOMENTS_PER_ROW);
        self.norm.backward(
            params.values,
            &mut params.gradients,
            LayerNormCache {
                x: embedded.first_n(len),
                moments,
            },
            branch.first_n(len),
            gradient.first_n_mut(len),
            Accumulate::No,
        );

        // The sum of three embeddings passes its gradient on to each of them.
        let dembedded = gradient.first_n(len);
        let gradients = &mut params.gradients;
        embedding::backward_words(
            self.sequence_buffers.bind_indices(texts.ids),
            width,
            dembedded,
            self.word_embedding.slice_of(gradients.reborrow()),
        );

        let positions = self.position_embedding.slice_of(gradients.reborrow());
        embedding::backward_positions(sequences, width, dembedded, positions);

        // Every token has type 0, so the gradient of that row is the sum over all tokens.
        let token_types = self.token_type_embedding.slice_of(gradients.reborrow());
        add_column_sums(dembedded, token_types.first_n(width));
    }
}
