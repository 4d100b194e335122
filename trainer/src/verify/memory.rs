//! How much of this machine's memory a verification needs, asked before it is taken.

use cnclip_compute::tensor::Memory;
use cnclip_crds::model::{ModelConfig, ResnetConfig, TextTower, VitConfig};
use cnclip_nn::model::clip::Clip;

use crate::error::Result;
use cnclip_data::memory_limit;

/// candle's weight, gradient, the gradient's copy while it is added, and what AdamW makes of one tensor.
const ORACLE_BYTES_PER_PARAMETER: u64 = 4 * 4;
/// The trainer's weight, gradient and both moments.
const ENGINE_BYTES_PER_PARAMETER: u64 = 4 * 4;
/// Arrays as wide as the tower that autograd keeps of a token in one block: it keeps the output of every
/// single operation.
const ARRAYS_PER_BLOCK: u64 = 80;
/// Arrays of attention scores that it keeps of a head.
const SCORE_ARRAYS: u64 = 6;
/// Arrays that it keeps of each convolution with its normalization.
const ARRAYS_PER_CONVOLUTION: u64 = 9;
const BYTES_PER_VALUE: u64 = 4;

/// # Errors
/// If this machine has too little memory for both implementations.
pub(super) fn check_host_memory(
    config: &ModelConfig,
    memory: &Memory,
    batch: usize,
    context: usize,
) -> Result<()> {
    let needed = estimate_host_bytes(config, memory, batch, context);
    let what = format!("{config} with a batch of {batch}, which candle computes on the CPU,");
    memory_limit::ensure_available(needed, &what, "lower --batch or take a smaller model")?;
    Ok(())
}

fn estimate_host_bytes(config: &ModelConfig, memory: &Memory, batch: usize, context: usize) -> u64 {
    let layout = Clip::param_layout(config);
    let parameters = layout.next_offset() as u64;
    let on_host = memory.device().is_none();
    // On a GPU, the trainer's tensors are in the memory of the GPU.
    let per_parameter = match on_host {
        true => ORACLE_BYTES_PER_PARAMETER + ENGINE_BYTES_PER_PARAMETER,
        false => ORACLE_BYTES_PER_PARAMETER,
    };

    let side = config.image.resolution as u64;
    let image = match (&config.image.vit, &config.image.resnet) {
        (Some(vit), _) => vit_values(vit, side),
        (None, Some(resnet)) => resnet_values(resnet, side),
        (None, None) => 0,
    };

    let activations = image + bert_values(&config.text, context as u64);
    parameters * per_parameter + batch as u64 * activations * BYTES_PER_VALUE
}

/// Numbers that candle keeps of one image.
fn vit_values(vit: &VitConfig, side: u64) -> u64 {
    let width = vit.width as u64;
    let tokens = 1 + (side / vit.patch_size as u64).pow(2);
    transformer_values(
        vit.layers as u64,
        width,
        width / vit.head_width as u64,
        tokens,
    )
}

/// Numbers that candle keeps of one text.
fn bert_values(text: &TextTower, context: u64) -> u64 {
    transformer_values(
        text.layers as u64,
        text.width as u64,
        text.heads as u64,
        context,
    )
}

fn transformer_values(layers: u64, width: u64, heads: u64, tokens: u64) -> u64 {
    layers * tokens * (ARRAYS_PER_BLOCK * width + SCORE_ARRAYS * heads * tokens)
}

/// Numbers that candle keeps of one image.
fn resnet_values(resnet: &ResnetConfig, side: u64) -> u64 {
    let width = resnet.width as u64;
    let stem = 2 * (side / 2).pow(2) * width;
    let layers = resnet.layers.iter().zip(0..);
    let blocks = layers.map(|(&count, layer)| {
        let planes = width << layer;
        let places = ((side / 4) >> layer).pow(2);
        // Two narrow units, a wide one, and a shortcut, the first at twice the side.
        count as u64 * places * planes * (4 + 4 + 4 + 4)
    });

    ARRAYS_PER_CONVOLUTION * (stem + blocks.sum::<u64>())
}

#[cfg(test)]
mod tests {
    use cnclip_crds::model::Architecture;

    use super::*;

    #[test]
    fn a_larger_model_and_a_larger_batch_need_more() {
        let bytes = |architecture: Architecture, batch| {
            let config = architecture.published_model().unwrap();
            estimate_host_bytes(&config, &Memory::Host, batch, 52)
        };

        assert!(bytes(Architecture::VitB16, 2) < bytes(Architecture::VitB16, 8));
        assert!(bytes(Architecture::VitB16, 2) < bytes(Architecture::VitH14, 2));
        // 958 million parameters, 32 bytes of each, and what a batch needs.
        assert!(bytes(Architecture::VitH14, 2) > 28 << 30);
        assert!(bytes(Architecture::Rn50, 2) < 8 << 30);
    }
    #[test]
    fn an_estimate_is_a_little_more_than_what_was_measured() {
        // Largest resident sizes of `cnclip verify --device cpu`, in megabytes.
        let table = [
            (Architecture::VitB16, 4, 7_485),
            (Architecture::VitB16, 16, 16_203),
            (Architecture::Rn50, 4, 5_407),
            (Architecture::Rn50, 12, 10_366),
        ];

        for (architecture, batch, measured) in table {
            let config = architecture.published_model().unwrap();
            let estimated = estimate_host_bytes(&config, &Memory::Host, batch, 52) / 1_000_000;
            assert!(
                (measured..=measured * 13 / 10).contains(&estimated),
                "{config}, batch {batch}: {estimated}, measured {measured}"
            );
        }
    }
}
