//! How much memory the towers reserve for each sample, added up from their sizes alone.
//!
//! Mirrors what the layers allocate, so a change to an activation cache has to be made here too. Tests
//! compare it with what allocators count.

use cnclip_crds::model::{ImageTower, ModelConfig, ResnetConfig, VitConfig};
use cnclip_crds::stage::Precision;

use super::BYTES_PER_VALUE;
use crate::model::clip::Clip;
use cnclip_compute::ops::attention::is_flash_supported;
use cnclip_compute::ops::conv2d::MAX_DEVICE_IM2COL_LEN;

/// Memory of one sample.
///
/// # Units
/// Bytes
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct TowerMemory {
    /// Activations, kept from the forward to the backward pass.
    pub(super) activations: u64,
    /// Scratch memory that layers use in turn.
    pub(super) scratch: u64,
}

/// How a pass is computed, as far as its memory depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ComputeMode {
    /// Whether layers recompute activations in the backward pass.
    pub(super) recompute: bool,
    /// Number format of matrix products on a device; none on the host.
    pub(super) device: Option<Precision>,
}

impl ComputeMode {
    /// Bytes of an activation.
    fn bytes_per_value(self) -> u64 {
        if self.device == Some(Precision::Bf16) {
            BYTES_PER_VALUE / 2
        } else {
            BYTES_PER_VALUE
        }
    }

    /// Bytes that attention keeps for a token and a head that attends to `tokens` tokens: all probabilities,
    /// or with flash attention only the logarithm of their sum.
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
    mode: ComputeMode,
) -> TowerMemory {
    let images = estimate_image_tower(&model.image, mode);
    let texts = estimate_text_tower(model, context, mode);
    TowerMemory {
        activations: images.activations + texts.activations,
        scratch: images.scratch + texts.scratch,
    }
}

/// An image tower of either kind.
pub(super) fn estimate_image_tower(tower: &ImageTower, mode: ComputeMode) -> TowerMemory {
    let side = tower.resolution as u64;
    match (&tower.vit, &tower.resnet) {
        (Some(sizes), _) => estimate_vit(sizes, side, mode),
        (None, Some(sizes)) => estimate_resnet(sizes, side, mode),
        (None, None) => TowerMemory::default(),
    }
}

/// Weights of the image tower, its projection and the logit scale.
pub(super) fn count_image_params(model: &ModelConfig) -> u64 {
    let layout = Clip::param_layout(model);
    let image_segments = layout
        .segments()
        .iter()
        .filter(|segment| segment.name.starts_with("visual."));

    1 + image_segments
        .map(|segment| segment.range.len() as u64)
        .sum::<u64>()
}

/// The sizes of a stack of transformer layers.
struct TransformerShape {
    tokens: u64,
    width: u64,
    hidden: u64,
    heads: u64,
    layers: u64,
    /// Arrays as wide as the tower that a layer keeps of pooled tokens.
    pooled_arrays: u64,
    /// The same of all tokens.
    token_arrays: u64,
    /// Values that layer norms keep of pooled tokens.
    pooled_moments: u64,
    /// The same of all tokens.
    token_moments: u64,
}

impl TransformerShape {
    /// Bytes of what attention keeps of a token.
    fn attention_bytes(&self, mode: ComputeMode) -> u64 {
        self.heads * mode.attention_bytes(self.width / self.heads, self.tokens)
    }

    /// The activations of one layer that puts out `pooled` tokens: all, or the first alone in the last layer.
    fn layer_bytes(&self, pooled: u64, mode: ComputeMode) -> u64 {
        let Self {
            tokens,
            width,
            hidden,
            pooled_arrays,
            token_arrays,
            pooled_moments,
            token_moments,
            ..
        } = self;

        let bytes = mode.bytes_per_value();
        // Query, key and value of all tokens; the hidden layer, twice, of pooled ones.
        let token_bytes = bytes * (3 + token_arrays) * width + BYTES_PER_VALUE * token_moments;
        let pooled_bytes =
            bytes * (pooled_arrays * width + 2 * hidden) + BYTES_PER_VALUE * pooled_moments;
        tokens * token_bytes + pooled * (pooled_bytes + self.attention_bytes(mode))
    }

    fn estimate_memory(&self, mode: ComputeMode) -> TowerMemory {
        let Self {
            tokens,
            width,
            hidden,
            layers,
            ..
        } = *self;

        // Every layer but the last keeps all tokens. Recomputing, all layers share the cache of the first.
        let inner = self.layer_bytes(if layers > 1 { tokens } else { 1 }, mode);
        let all = || (layers - 1) * inner + self.layer_bytes(1, mode);
        let layer_activations = if mode.recompute { inner } else { all() };
        // What goes into each layer, what comes out of the last, and the embedding before its norm.
        let between =
            tokens * (mode.bytes_per_value() * width * (layers + 2) + 2 * BYTES_PER_VALUE);
        // Three arrays of gradients, those of query, key and value, and of the hidden layer; and two of attention
        // probabilities.
        let scratch =
            mode.bytes_per_value() * (6 * width + hidden) + 2 * self.attention_bytes(mode);

        TowerMemory {
            activations: layer_activations + between,
            scratch: tokens * scratch,
        }
    }
}

fn estimate_vit(sizes: &VitConfig, side: u64, mode: ComputeMode) -> TowerMemory {
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
    let stack = TransformerShape {
        tokens,
        width,
        hidden,
        heads,
        layers,
        pooled_arrays: 3,
        token_arrays: 1,
        pooled_moments: 2,
        token_moments: 2,
    };

    let pass = stack.estimate_memory(mode);
    // Patches as rows and the pooled token; which patches are visible, and where images begin.
    let around = mode.bytes_per_value() * (tokens * 3 * patch * patch + width)
        + BYTES_PER_VALUE * (patches + 4);
    TowerMemory {
        activations: pass.activations + around,
        ..pass
    }
}

fn estimate_text_tower(model: &ModelConfig, context: usize, mode: ComputeMode) -> TowerMemory {
    let text = &model.text;
    let [width, hidden, heads, layers] =
        [text.width, text.intermediate, text.heads, text.layers].map(|n| n as u64);
    let tokens = context as u64;

    TransformerShape {
        tokens,
        width,
        hidden,
        heads,
        layers,
        pooled_arrays: 4,
        token_arrays: 0,
        pooled_moments: 4,
        token_moments: 0,
    }
    .estimate_memory(mode)
}

/// A ResNet keeps all activations, whether recomputing is requested or not.
fn estimate_resnet(sizes: &ResnetConfig, side: u64, mode: ComputeMode) -> TowerMemory {
    const EXPANSION: u64 = 4;
    let width = sizes.width as u64;
    let half = (side / 2).pow(2);
    // Each unit keeps the output of its convolution, and that of its norm as the next one's input.
    // The image, the outputs of the stem's units before and after their norms, and its pool.
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
    let kept = mode.bytes_per_value() * kept + BYTES_PER_VALUE * tokens * heads;

    TowerMemory {
        activations: kept,
        scratch: mode.bytes_per_value() * 3 * half * width,
    }
}

/// The im2col workspace of convolutions, whatever the batch: one for each thread, or one on a device.
///
/// # Units
/// Bytes
pub(super) fn conv_workspace_bytes(tower: &ImageTower, threads: usize, mode: ComputeMode) -> u64 {
    const PIECE: u64 = 1 << 18;
    let Some(sizes) = &tower.resnet else { return 0 };
    let planes = (sizes.width as u64) << (sizes.layers.len() - 1);
    let weight = 9 * planes * planes;

    if mode.device.is_some() {
        return mode.bytes_per_value() * (weight + (MAX_DEVICE_IM2COL_LEN as u64).max(9 * planes));
    }

    BYTES_PER_VALUE * (weight + threads as u64 * (PIECE.max(9 * planes) + weight))
}
