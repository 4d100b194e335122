//! How many numbers the towers keep and lend for each sample: what their blocks reserve, added up
//! from their sizes alone. A test holds it to what the allocator counts.

use cnclip_crds::model::{ImageTower, ModelConfig, Resnet, Vit};

use crate::model::clip::Clip;

/// Numbers for each sample.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pass {
    /// Kept from the forward to the backward pass.
    pub(super) kept: u64,
    /// Borrowed by block after block.
    pub(super) lent: u64,
}

/// Both towers.
pub(super) fn of(model: &ModelConfig, context: usize, recompute: bool) -> Pass {
    let (images, texts) = (image(&model.image, recompute), text(model, context, recompute));
    Pass { kept: images.kept + texts.kept, lent: images.lent + texts.lent }
}

/// An image tower of either kind.
pub(super) fn image(tower: &ImageTower, recompute: bool) -> Pass {
    let side = tower.resolution as u64;
    match (&tower.vit, &tower.resnet) {
        (Some(sizes), _) => vit(sizes, side, recompute),
        (None, Some(sizes)) => resnet(sizes, side),
        (None, None) => Pass::default(),
    }
}

/// Weights of the image tower, its projection and the logit scale.
pub(super) fn image_numbers(model: &ModelConfig) -> u64 {
    let layout = Clip::layout(model);
    let of_image = layout.segments().iter().filter(|segment| segment.name.starts_with("visual."));
    1 + of_image.map(|segment| segment.range.len() as u64).sum::<u64>()
}

/// The sizes of a stack of transformer blocks.
struct Stack {
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

impl Stack {
    /// What one block keeps if so many tokens go on: all, or the first alone from the last block.
    fn block(&self, kept: u64) -> u64 {
        let Self { tokens, width, hidden, heads, narrow, normed, moments, .. } = self;
        let all = tokens * ((3 + normed) * width + moments.1);
        all + kept * (heads * tokens + narrow * width + 2 * hidden + moments.0)
    }

    fn pass(&self, recompute: bool) -> Pass {
        let Self { tokens, width, hidden, heads, layers, .. } = *self;
        let inner = if layers > 1 { self.block(tokens) } else { self.block(1) };
        let blocks = if recompute { inner } else { (layers - 1) * inner + self.block(1) };
        // What goes into each block, what comes out of the last, and what was embedded.
        let between = tokens * width * (layers + 2) + 2 * tokens;
        Pass { kept: blocks + between, lent: tokens * (6 * width + hidden + 2 * heads * tokens) }
    }
}

fn vit(sizes: &Vit, side: u64, recompute: bool) -> Pass {
    let [width, patch, layers, head] =
        [sizes.width, sizes.patch_size, sizes.layers, sizes.head_width].map(|n| n as u64);
    let (patches, hidden) = ((side / patch).pow(2), 4 * width);
    let tokens = 1 + patches;
    let (heads, moments) = (width / head, (2, 2));
    let stack = Stack { tokens, width, hidden, heads, layers, narrow: 3, normed: 1, moments };
    let pass = stack.pass(recompute);
    // Patches laid out as rows, which of them are seen, the pooled token, and where pictures begin.
    let around = tokens * 3 * patch * patch + patches + width + 2 + 2;
    Pass { kept: pass.kept + around, ..pass }
}

fn text(model: &ModelConfig, context: usize, recompute: bool) -> Pass {
    let text = &model.text;
    let [width, hidden, heads, layers] =
        [text.width, text.intermediate, text.heads, text.layers].map(|n| n as u64);
    let (tokens, moments) = (context as u64, (4, 0));
    Stack { tokens, width, hidden, heads, layers, narrow: 4, normed: 0, moments }.pass(recompute)
}

/// A residual network keeps everything, however it is told to compute.
fn resnet(sizes: &Resnet, side: u64) -> Pass {
    const EXPANSION: u64 = 4;
    let (width, half) = (sizes.width as u64, (side / 2).pow(2));
    // A convolution keeps what it gives before it is normalised, and the next one what goes into it.
    let mut kept = 3 * side * side + 4 * half * width + half / 4 * width;
    let (mut inputs, mut grid) = (width, side / 4);
    for (layer, &count) in sizes.layers.iter().enumerate() {
        let planes = width << layer;
        for block in 0..count {
            let stride = if layer > 0 && block == 0 { 2 } else { 1 };
            let (outputs, places) = (EXPANSION * planes, grid * grid);
            let after = (grid / stride).pow(2);
            let pooled = if stride > 1 { after * (planes + inputs) } else { 0 };
            let shortcut = if stride > 1 || inputs != outputs { after * outputs } else { 0 };
            kept += 4 * places * planes + 2 * after * outputs + pooled + shortcut;
            (inputs, grid) = (outputs, grid / stride);
        }
    }
    let (tokens, heads) = (1 + grid * grid, inputs / 64);
    kept += tokens * (5 * inputs + heads) + 5 * inputs;
    Pass { kept, lent: 3 * half * width }
}

/// Numbers that threads lay the neighbourhoods of convolutions out in, for any number of samples.
pub(super) fn workspace(tower: &ImageTower, threads: usize) -> u64 {
    const PIECE: u64 = 1 << 18;
    let Some(sizes) = &tower.resnet else { return 0 };
    let planes = (sizes.width as u64) << (sizes.layers.len() - 1);
    let weight = 9 * planes * planes;
    weight + threads as u64 * (PIECE.max(9 * planes) + weight)
}
