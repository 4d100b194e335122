//! Counts the floating-point operations of a training step from the shapes.

use cnclip_crds::model::{ImageTower, ModelConfig, ResnetConfig, TextTower, VitConfig};

use super::BenchConfig;

/// Floating-point operations of the forward pass of one sample. A backward pass has twice as many; recomputation
/// by gradient checkpointing is not counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForwardFlops {
    /// Of the image tower.
    pub image: f64,
    /// Of the text tower, averaged over the text lengths.
    pub text: f64,
}

impl ForwardFlops {
    /// Operations of a training step for one sample.
    pub fn per_training_step(self, image_frozen: bool) -> f64 {
        // Backward computes the gradients of inputs and of weights, each as costly as the forward
        // pass.
        self.image * if image_frozen { 1.0 } else { 3.0 } + 3.0 * self.text
    }
}

/// Counts the operations of a benchmark's model.
pub fn count_flops(plan: &BenchConfig) -> ForwardFlops {
    let ModelConfig {
        embed_dim,
        image,
        text,
    } = &plan.model;

    let all: f64 = plan
        .text_lengths()
        .map(|tokens| text_tower_flops(text, tokens as f64))
        .sum();

    let projection = 2.0 * f64::from(text.width) * f64::from(*embed_dim);
    let text = all / plan.batch as f64 + projection;
    ForwardFlops {
        image: image_tower_flops(image, f64::from(*embed_dim), plan.masked_percent),
        text,
    }
}

fn image_tower_flops(tower: &ImageTower, embed_dim: f64, masked: u32) -> f64 {
    let side = f64::from(tower.resolution);
    match (&tower.vit, &tower.resnet) {
        (Some(vit), _) => vit_flops(vit, side, embed_dim, masked),
        (None, Some(resnet)) => resnet_flops(resnet, side, embed_dim),
        (None, None) => 0.0,
    }
}

fn vit_flops(vit: &VitConfig, side: f64, embed_dim: f64, masked: u32) -> f64 {
    let width = f64::from(vit.width);
    let patch = f64::from(vit.patch_size);
    let patches = (side / patch).powi(2);
    let visible = 1.0 - f64::from(masked) / 100.0;
    let tokens = 1.0 + patches * visible;

    let embedding = 2.0 * patches * 3.0 * patch * patch * width;
    let layers = f64::from(vit.layers);
    let blocks = layers * transformer_block_flops(tokens, width, 4.0 * width);
    let projection = 2.0 * width * embed_dim;

    embedding + blocks + projection
}

fn text_tower_flops(tower: &TextTower, tokens: f64) -> f64 {
    f64::from(tower.layers)
        * transformer_block_flops(
            tokens,
            f64::from(tower.width),
            f64::from(tower.intermediate),
        )
}

/// Four projections, two products of attention, and the feed-forward layer.
fn transformer_block_flops(tokens: f64, width: f64, inner: f64) -> f64 {
    // A multiply-add counts as two operations.
    tokens * (8.0 * width * width + 4.0 * width * inner) + 4.0 * tokens * tokens * width
}

fn resnet_flops(resnet: &ResnetConfig, side: f64, embed_dim: f64) -> f64 {
    let conv = |side: f64, inputs: f64, outputs: f64, kernel: f64| {
        2.0 * side * side * inputs * outputs * kernel * kernel
    };

    let width = f64::from(resnet.width);
    // The first convolution has stride 2, and the pool after the stem halves the side again.
    let half = side / 2.0;
    let mut sum = conv(half, 3.0, width / 2.0, 3.0)
        + conv(half, width / 2.0, width / 2.0, 3.0)
        + conv(half, width / 2.0, width, 3.0);

    let mut inputs = width;
    let mut grid = side / 4.0;
    for (layer, &blocks) in resnet.layers.iter().enumerate() {
        let planes = width * f64::from(1 << layer);
        for block in 0..blocks {
            // The pool between the second and the third convolution of a layer's first block.
            let after = if layer > 0 && block == 0 {
                grid / 2.0
            } else {
                grid
            };

            sum += conv(grid, inputs, planes, 1.0) + conv(grid, planes, planes, 3.0);
            sum += conv(after, planes, 4.0 * planes, 1.0);
            if block == 0 {
                sum += conv(after, inputs, 4.0 * planes, 1.0);
            }

            (inputs, grid) = (4.0 * planes, after);
        }
    }

    // The pool asks with one token.
    let tokens = grid * grid + 1.0;
    let one = 2.0 * inputs * inputs;
    let pairs = 4.0 * inputs * tokens;

    sum + one + 2.0 * tokens * one + pairs + 2.0 * inputs * embed_dim
}

#[cfg(test)]
mod tests {
    use cnclip_crds::model::Architecture;
    use cnclip_crds::stage::Precision;

    use super::*;

    fn count(architecture: Architecture, masked: u32) -> ForwardFlops {
        count_flops(&BenchConfig {
            model: architecture.published_model().unwrap(),
            batch: 4,
            micro_batch: 4,
            context: 52,
            tokens: (52, 52),
            precision: Precision::Bf16,
            recompute: false,
            masked_percent: masked,
        })
    }

    #[test]
    fn published_models_need_what_others_count() {
        // In billions, as reproductions of CLIP report of its image towers; theirs count normalisation too.
        let rows = [
            (Architecture::Rn50, 12.2),
            (Architecture::VitB16, 35.1),
            (Architecture::VitL14, 162.0),
            (Architecture::VitL14At336, 390.0),
            (Architecture::VitH14, 335.0),
        ];

        for (architecture, billions) in rows {
            let found = count(architecture, 0).image / 1e9;
            assert!(
                (found / billions - 1.0).abs() < 0.06,
                "{architecture:?}: {found}"
            );
        }

        let text = count(Architecture::VitL14, 0).text / 1e9;
        assert!((text / 8.95 - 1.0).abs() < 0.02, "{text}");
    }

    #[test]
    fn a_frozen_tower_has_no_backward_pass_and_a_masked_one_fewer_tokens() {
        let flops = ForwardFlops {
            image: 10.0,
            text: 1.0,
        };

        assert_eq!(
            (
                flops.per_training_step(true),
                flops.per_training_step(false)
            ),
            (13.0, 33.0)
        );

        let all = count(Architecture::VitB16, 0);
        let half = count(Architecture::VitB16, 50);
        assert!(half.image < 0.53 * all.image && half.image > 0.45 * all.image);
    }
}
