//! The text tower: BERT without its pooler.

use candle_core::{DType, Module, Result, Tensor};
use candle_nn::{Embedding, Linear, VarBuilder};
use cnclip_crds::model::TextTower;

use crate::TowerOutput;
use crate::layers::{LayerNorm, multi_head_attention, normal_weight};

/// BERT's own, a thousandth of what the image tower uses.
const LAYER_NORM_EPSILON: f32 = 1e-12;

/// Added to the attention scores of padding: the reference's value, and not minus infinity, so that
/// a text of padding alone still has a softmax.
const PADDING_SCORE: f64 = -10_000.0;

/// Segments of BERT's next-sentence task; a text is all of segment 0.
const TOKEN_TYPES: usize = 2;

/// Post-normalized layers; the first token is pooled and projected.
#[derive(Clone, Debug)]
pub(crate) struct Bert {
    word_embedding: Embedding,
    position_embedding: Tensor,
    token_type_embedding: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    projection: Tensor,
}

impl Bert {
    pub(crate) fn new(config: &TextTower, embed_dim: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.width as usize;
        let embeddings = vb.pp("bert.embeddings");
        let table = |name: &str, entries: usize| {
            let name = format!("{name}_embeddings.weight");
            normal_weight(&embeddings, &[entries, width], &name)
        };

        let words = table("word", config.vocab_size as usize)?;
        let layers = (0..config.layers as usize)
            .map(|layer| Layer::new(config, vb.pp("bert.encoder.layer").pp(layer)))
            .collect::<Result<_>>()?;

        Ok(Self {
            word_embedding: Embedding::new(words, width),
            position_embedding: table("position", config.positions as usize)?,
            token_type_embedding: table("token_type", TOKEN_TYPES)?,
            norm: LayerNorm::new(width, LAYER_NORM_EPSILON, embeddings.pp("LayerNorm"))?,
            layers,
            projection: normal_weight(&vb, &[width, embed_dim], "text_projection")?,
        })
    }

    pub(crate) fn forward(&self, ids: &Tensor) -> Result<TowerOutput> {
        let context = ids.dim(1)?;
        let words = self.word_embedding.forward(ids)?;
        let positions = self.position_embedding.narrow(0, 0, context)?;
        let segment = self.token_type_embedding.narrow(0, 0, 1)?;
        let embedded = words.broadcast_add(&positions)?.broadcast_add(&segment)?;
        // The reference masks every id of 0, wherever it stands.
        let mask = (ids.eq(0u32)?.to_dtype(DType::F32)? * PADDING_SCORE)?;
        // The same for every head and every query.
        let mask = mask.unsqueeze(1)?.unsqueeze(1)?;

        let mut x = self.norm.forward(&embedded)?;
        let mut blocks = vec![("bert.embeddings".to_owned(), x.clone())];
        for (number, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, &mask)?;
            blocks.push((format!("bert.encoder.layer.{number}"), x.clone()));
        }

        // [CLS] without BERT's pooler: the reference has neither its matrix nor its tanh.
        let first_token = x.narrow(1, 0, 1)?.squeeze(1)?;
        let features = first_token.matmul(&self.projection)?;
        Ok(TowerOutput { features, blocks })
    }
}

/// `m = norm(x + attention(x))`, `y = norm(m + mlp(m))`.
#[derive(Clone, Debug)]
struct Layer {
    heads: usize,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    mlp_up: Linear,
    mlp_down: Linear,
    output_norm: LayerNorm,
}

impl Layer {
    fn new(config: &TextTower, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.width as usize;
        let hidden = config.intermediate as usize;
        let norm = |name: &str| LayerNorm::new(width, LAYER_NORM_EPSILON, vb.pp(name));
        let linear = |inputs, outputs, name: &str| candle_nn::linear(inputs, outputs, vb.pp(name));

        Ok(Self {
            heads: config.heads as usize,
            query: linear(width, width, "attention.self.query")?,
            key: linear(width, width, "attention.self.key")?,
            value: linear(width, width, "attention.self.value")?,
            attention_output: linear(width, width, "attention.output.dense")?,
            attention_norm: norm("attention.output.LayerNorm")?,
            mlp_up: linear(width, hidden, "intermediate.dense")?,
            mlp_down: linear(hidden, width, "output.dense")?,
            output_norm: norm("output.LayerNorm")?,
        })
    }

    fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let query = self.query.forward(x)?;
        let key = self.key.forward(x)?;
        let value = self.value.forward(x)?;
        let attended = multi_head_attention(&query, &key, &value, self.heads, Some(mask))?;
        let attended = self.attention_output.forward(&attended)?;
        let middle = self.attention_norm.forward(&(x + attended)?)?;

        // The exact GELU, by the error function.
        let hidden = self.mlp_up.forward(&middle)?.gelu_erf()?;
        let output = self.mlp_down.forward(&hidden)?;
        self.output_norm.forward(&(&middle + output)?)
    }
}
