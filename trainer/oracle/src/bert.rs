//! The text tower: BERT without its pooler.

use candle_core::{DType, Result, Tensor};
use candle_nn::{Embedding, Linear, VarBuilder, linear};
use cnclip_crds::model::TextTower;

use crate::layers::{Attention, LayerNorm, first_token, normal_weight};
use crate::{NamedOutput, TowerOutput};

/// BERT's own, a thousandth of what the image tower uses.
const LAYER_NORM_EPSILON: f32 = 1e-12;

/// Added to the attention scores of padding: the reference's value, and not minus infinity, so that
/// a text of padding alone still has a softmax.
const PADDING_SCORE: f64 = -10_000.0;

/// Segments of BERT's next-sentence task; a text is all of segment 0.
const TOKEN_TYPES: i32 = 2;

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
        let table = |name: &str, entries: i32| {
            let shape = [entries as usize, width];
            normal_weight(&embeddings, &shape, &format!("{name}_embeddings.weight"))
        };

        let words = table("word", config.vocab_size)?;
        let encoder = vb.pp("bert.encoder.layer");
        let layers = (0..config.layers as usize)
            .map(|layer| Layer::new(config, encoder.pp(layer)))
            .collect::<Result<_>>()?;

        Ok(Self {
            word_embedding: Embedding::new(words, width),
            position_embedding: table("position", config.positions)?,
            token_type_embedding: table("token_type", TOKEN_TYPES)?,
            norm: LayerNorm::new(width, LAYER_NORM_EPSILON, embeddings.pp("LayerNorm"))?,
            layers,
            projection: normal_weight(&vb, &[width, embed_dim], "text_projection")?,
        })
    }

    /// # Shapes
    /// `ids` u32 `[batch, tokens]`, padded by 0.
    pub(crate) fn encode_texts(&self, ids: &Tensor) -> Result<TowerOutput> {
        let mask = padding_mask(ids)?;
        let mut x = self.embed_tokens(ids)?;
        let mut blocks = vec![NamedOutput::new("bert.embeddings", &x)];

        for (number, layer) in self.layers.iter().enumerate() {
            x = layer.forward_masked(&x, &mask)?;
            let name = format!("bert.encoder.layer.{number}");
            blocks.push(NamedOutput::new(&name, &x));
        }

        // [CLS] without BERT's pooler: the reference has neither its matrix nor its tanh.
        let features = first_token(&x)?.matmul(&self.projection)?;
        Ok(TowerOutput { features, blocks })
    }

    fn embed_tokens(&self, ids: &Tensor) -> Result<Tensor> {
        let context = ids.dim(1)?;
        let positions = self.position_embedding.narrow(0, 0, context)?;
        let segment = self.token_type_embedding.narrow(0, 0, 1)?;

        ids.apply(&self.word_embedding)?
            .broadcast_add(&positions)?
            .broadcast_add(&segment)?
            .apply(&self.norm)
    }
}

/// What is added to attention scores: `[batch, 1, 1, tokens]`, the same for every head and every query.
fn padding_mask(ids: &Tensor) -> Result<Tensor> {
    // The reference masks every id of 0, wherever it stands.
    let is_padding = ids.eq(0u32)?.to_dtype(DType::F32)?;
    let scores = (is_padding * PADDING_SCORE)?;

    scores.unsqueeze(1)?.unsqueeze(1)
}

/// `m = norm(x + attention(x))`, `y = norm(m + mlp(m))`.
#[derive(Clone, Debug)]
struct Layer {
    attention: Attention,
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
        let square = |name: &str| linear(width, width, vb.pp(name));

        let attention = Attention {
            heads: config.heads as usize,
            query: square("attention.self.query")?,
            key: square("attention.self.key")?,
            value: square("attention.self.value")?,
            output: square("attention.output.dense")?,
        };

        Ok(Self {
            attention,
            attention_norm: norm("attention.output.LayerNorm")?,
            mlp_up: linear(width, hidden, vb.pp("intermediate.dense"))?,
            mlp_down: linear(hidden, width, vb.pp("output.dense"))?,
            output_norm: norm("output.LayerNorm")?,
        })
    }

    fn forward_masked(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let attended = self.attention.attend_to(x, x, Some(mask))?;
        let middle = (x + attended)?.apply(&self.attention_norm)?;

        let output = middle
            .apply(&self.mlp_up)?
            // The exact GELU, by the error function.
            .gelu_erf()?
            .apply(&self.mlp_down)?;

        (middle + output)?.apply(&self.output_norm)
    }
}
