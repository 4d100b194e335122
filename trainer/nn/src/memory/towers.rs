//! How much the towers keep and lend for each sample: what their blocks reserve, added up from their
//! sizes alone. Tests hold it to what allocators count.

use cnclip_crds::model::{ImageTower, ModelConfig, ResnetConfig, VitConfig};
use cnclip_crds::stage::Precision;

use super::BYTES_PER_VALUE;
use crate::model::clip::Clip;
use cnclip_compute::ops::attention::is_flash_supported;
use cnclip_compute::ops::conv2d::MAX_DEVICE_IM2COL_LEN;

/// Bytes for each sample.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct TowerMemory {
    /// Kept from the forward to the backward pass.
    pub(super) activations: u64,
    /// Borrowed by block after block.
    pub(super) scratch: u64,
}

/// How a pass is computed, as far as its memory depends on that.
#[derive(Clone, Copy, Debug)]
pub(super) struct ComputeMode {
    /// Whether blocks compute again what their gradient needs.
    pub(super) recompute: bool,
    /// The number format of a device's products; none in this machine's memory.
    pub(super) device: Option<Precision>,
}

impl ComputeMode {
    /// Bytes of a number on its way through a tower.
    fn bytes_per_value(self) -> u64 {
        if self.device == Some(Precision::Bf16) {
            BYTES_PER_VALUE / 2
        } else {
            BYTES_PER_VALUE
        }
    }

    /// Bytes that attention keeps for a token and a head that sees so many tokens.
    fn attention_bytes(self, head_width: u64, tokens: u64) -> u64 {
        match self.device {
            Some(precision) if is_flash_supported(precision, head_width as usize) => {
                BYTES_PER_VALUE
            }
            _ => tokens * self.bytes_per_value(),
        }
    }
}

/// Both towers.
pub(super) fn estimate_towers(
    model: &ModelConfig,
    context: usize,
    how: ComputeMode,
) -> TowerMemory {
    let images = estimate_image_tower(&model.image, how);
    let texts = estimate_text_tower(model, context, how);
    TowerMemory {
        activations: images.activations + texts.activations,
        scratch: images.scratch + texts.scratch,
    }
}

/// An image tower of either kind.
pub(super) fn estimate_image_tower(tower: &ImageTower, how: ComputeMode) -> TowerMemory {
    let side = tower.resolution as u64;
    match (&tower.vit, &tower.resnet) {
        (Some(sizes), _) => estimate_vit(sizes, side, how),
        (None, Some(sizes)) => estimate_resnet(sizes, side, how),
        (None, None) => TowerMemory::default(),
    }
}

/// Weights of the image tower, its projection and the logit scale.
pub(super) fn count_image_params(model: &ModelConfig) -> u64 {
    let layout = Clip::param_layout(model);
    let of_image = layout
        .segments()
        .iter()
        .filter(|segment| segment.name.starts_with("visual."));

    1 + of_image
        .map(|segment| segment.range.len() as u64)
        .sum::<u64>()
}

/// The sizes of a stack of transformer blocks.
struct TransformerShape {
    tokens: u64,
    width: u64,
    hidden: u64,
    heads: u64,
    layers: u64,
    /// Arrays as wide as the tower that a block keeps of tokens that go on.
    narrow: u64,
    /// And of all.
    normed: u64,
    /// Numbers that normalisation keeps of tokens that go on, and of all.
    moments: (u64, u64),
}

impl TransformerShape {
    /// Bytes of what attention keeps of a token.
    fn attention_bytes(&self, how: ComputeMode) -> u64 {
        self.heads * how.attention_bytes(self.width / self.heads, self.tokens)
    }

    /// What one block keeps if so many tokens go on: all, or the first alone from the last block.
    fn block_bytes(&self, kept: u64, how: ComputeMode) -> u64 {
        let Self {
            tokens,
            width,
            hidden,
            narrow,
            normed,
            moments,
            ..
        } = self;

        let all =
            tokens * (how.bytes_per_value() * (3 + normed) * width + BYTES_PER_VALUE * moments.1);
        let few =
            how.bytes_per_value() * (narrow * width + 2 * hidden) + BYTES_PER_VALUE * moments.0;
        all + kept * (few + self.attention_bytes(how))
    }

    fn estimate_memory(&self, how: ComputeMode) -> TowerMemory {
        let Self {
            tokens,
            width,
            hidden,
            layers,
            ..
        } = *self;

        let inner = self.block_bytes(if layers > 1 { tokens } else { 1 }, how);
        let all = || (layers - 1) * inner + self.block_bytes(1, how);
        let blocks = if how.recompute { inner } else { all() };
        // What goes into each block, what comes out of the last, and what was embedded.
        let between = tokens * (how.bytes_per_value() * width * (layers + 2) + 2 * BYTES_PER_VALUE);
        let lent = how.bytes_per_value() * (6 * width + hidden) + 2 * self.attention_bytes(how);

        TowerMemory {
            activations: blocks + between,
            scratch: tokens * lent,
        }
    }
}

fn estimate_vit(sizes: &VitConfig, side: u64, how: ComputeMode) -> TowerMemory {
    let [width, patch, layers, head] = [
        sizes.width,
        sizes.patch_size,
        sizes.layers,
        sizes.head_width,
    ]
    .map(|n| n as u64);

    let patches = (side / patch).pow(2);
    let hidden = 4 * width;
    let tokens = 1 + patches;
    let heads = width / head;
    let moments = (2, 2);
    let stack = TransformerShape {
        tokens,
        width,
        hidden,
        heads,
        layers,
        narrow: 3,
        normed: 1,
        moments,
    };

    let pass = stack.estimate_memory(how);
    // Patches laid out as rows and the pooled token; which are seen, and where pictures begin.
    let around = how.bytes_per_value() * (tokens * 3 * patch * patch + width)
        + BYTES_PER_VALUE * (patches + 4);
    TowerMemory {
        activations: pass.activations + around,
        ..pass
    }
}

fn estimate_text_tower(model: &ModelConfig, context: usize, how: ComputeMode) -> TowerMemory {
    let text = &model.text;
    let [width, hidden, heads, layers] =
        [text.width, text.intermediate, text.heads, text.layers].map(|n| n as u64);
    let tokens = context as u64;
    let moments = (4, 0);

    TransformerShape {
        tokens,
        width,
        hidden,
        heads,
        layers,
        narrow: 4,
        normed: 0,
        moments,
    }
    .estimate_memory(how)
}

/// A residual network keeps everything, however it is told to compute.
fn estimate_resnet(sizes: &ResnetConfig, side: u64, how: ComputeMode) -> TowerMemory {
    const EXPANSION: u64 = 4;
    let width = sizes.width as u64;
    let half = (side / 2).pow(2);
    // A convolution keeps what it gives before it is normalised, and the next one what goes into it.
    let mut kept = 3 * side * side + 4 * half * width + half / 4 * width;
    let mut inputs = width;
    let mut grid = side / 4;

    for (layer, &count) in sizes.layers.iter().enumerate() {
        let planes = width << layer;
        for block in 0..count {
            let stride = if layer > 0 && block == 0 { 2 } else { 1 };
            let outputs = EXPANSION * planes;
            let places = grid * grid;
            let after = (grid / stride).pow(2);
            let pooled = if stride > 1 {
                after * (planes + inputs)
            } else {
                0
            };

            let shortcut = if stride > 1 || inputs != outputs {
                after * outputs
            } else {
                0
            };

            kept += 4 * places * planes + 2 * after * outputs + pooled + shortcut;
            (inputs, grid) = (outputs, grid / stride);
        }
    }

    let tokens = 1 + grid * grid;
    let heads = inputs / 64;
    kept += tokens * 5 * inputs + 5 * inputs;
    let kept = how.bytes_per_value() * kept + BYTES_PER_VALUE * tokens * heads;

    TowerMemory {
        activations: kept,
        scratch: how.bytes_per_value() * 3 * half * width,
    }
}

/// What neighbourhoods of convolutions are laid out in, for any number of samples: by so many threads, or by
/// a device.
///
/// # Units
/// Bytes
pub(super) fn conv_workspace_bytes(tower: &ImageTower, threads: usize, how: ComputeMode) -> u64 {
    const PIECE: u64 = 1 << 18;
    let Some(sizes) = &tower.resnet else { return 0 };
    let planes = (sizes.width as u64) << (sizes.layers.len() - 1);
    let weight = 9 * planes * planes;

    if how.device.is_some() {
        return how.bytes_per_value() * (weight + (MAX_DEVICE_IM2COL_LEN as u64).max(9 * planes));
    }

    BYTES_PER_VALUE * (weight + threads as u64 * (PIECE.max(9 * planes) + weight))
}
