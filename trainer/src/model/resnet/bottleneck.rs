//! A residual block: narrow, look around, widen, and add what came in.

use super::unit::{Lent, Unit};
use super::{Pass, Scratch};
use crate::ops::batch_norm::Then;
use crate::ops::matrix::Onto;
use crate::ops::pool::AveragePool;
use crate::params::{Init, Layout};

/// Channels that come out, in units of the inner ones.
pub(super) const EXPANSION: usize = 4;

/// The sizes of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    /// Side of the pictures that go in.
    pub(super) side: usize,
    pub(super) inputs: usize,
    /// Channels inside.
    pub(super) planes: usize,
    /// 2 where the block halves the side.
    pub(super) stride: usize,
}

impl Sizes {
    pub(super) fn outputs(&self) -> usize {
        EXPANSION * self.planes
    }

    /// Side of the pictures that come out.
    pub(super) fn side_out(&self) -> usize {
        self.side / self.stride
    }
}

/// `y = rectify(unit_3(pool(unit_2(unit_1(x)))) + shortcut(pool(x)))`.
///
/// # Shapes
/// `x` [batch, side, side, inputs], `y` [batch, side / stride, side / stride, 4 · planes].
#[derive(Debug)]
pub(super) struct Bottleneck {
    sizes: Sizes,
    units: [Unit; 3],
    /// Where channels or side change, what came in is brought into the same shape.
    shortcut: Option<Unit>,
    saved: Saved,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
struct Saved {
    first: Vec<f32>,
    second: Vec<f32>,
    /// The second, and what came in, with half the side.
    pooled: Vec<f32>,
    pooled_input: Vec<f32>,
    output: Vec<f32>,
}

impl Saved {
    fn new(sizes: &Sizes) -> Self {
        let places = sizes.batch * sizes.side * sizes.side;
        let places_out = sizes.batch * sizes.side_out().pow(2);
        let pooled = if sizes.stride > 1 { places_out } else { 0 };
        Self {
            first: vec![0.0; places * sizes.planes],
            second: vec![0.0; places * sizes.planes],
            pooled: vec![0.0; pooled * sizes.planes],
            pooled_input: vec![0.0; pooled * sizes.inputs],
            output: vec![0.0; places_out * sizes.outputs()],
        }
    }
}

impl Bottleneck {
    /// Declares the block's weights under `name`.
    pub(super) fn declare(layout: &mut Layout, name: &str, sizes: Sizes, lent: &mut Lent) -> Self {
        let Sizes { batch, side, inputs, planes, stride } = sizes;
        let (places, places_out) = (batch * side * side, batch * sizes.side_out().pow(2));
        let mut point = |layout: &mut Layout, parts: [&str; 2], channels, size| {
            let [convolution, norm] = parts.map(|part| format!("{name}.{part}"));
            Unit::point(layout, (&convolution, &norm), channels, size, lent)
        };
        let first = point(layout, ["conv1", "bn1"], (inputs, planes), (places, Init::Ones));
        let names = [format!("{name}.conv2"), format!("{name}.bn2")];
        let channels = (planes, planes);
        let second = Unit::square(layout, (&names[0], &names[1]), channels, (side, 1, batch), lent);
        let mut point = |layout: &mut Layout, parts: [&str; 2], inputs, weight| {
            let [convolution, norm] = parts.map(|part| format!("{name}.{part}"));
            let channels = (inputs, sizes.outputs());
            Unit::point(layout, (&convolution, &norm), channels, (places_out, weight), lent)
        };
        let third = point(layout, ["conv3", "bn3"], planes, Init::Zeros);
        let shortcut = (stride > 1 || inputs != sizes.outputs())
            .then(|| point(layout, ["downsample.0", "downsample.1"], inputs, Init::Ones));
        Self { sizes, units: [first, second, third], shortcut, saved: Saved::new(&sizes) }
    }

    /// What the last forward pass gave, for so many pictures.
    pub(super) fn output(&self, batch: usize) -> &[f32] {
        &self.saved.output[..batch * self.sizes.side_out().pow(2) * self.sizes.outputs()]
    }

    /// Computes `y`.
    pub(super) fn forward(&mut self, pass: &mut Pass<'_>, x: &[f32]) {
        let Sizes { side, inputs, planes, stride, .. } = self.sizes;
        let batch = x.len() / (side * side * inputs);
        let Saved { first, second, pooled, pooled_input, output } = &mut self.saved;
        let [unit_1, unit_2, unit_3] = &mut self.units;
        let first = &mut first[..batch * side * side * planes];
        let second = &mut second[..first.len()];
        let output = &mut output[..batch * (side / stride).pow(2) * EXPANSION * planes];

        unit_1.forward(pass, x, first, (Onto::Replace, Then::Rectify));
        unit_2.forward(pass, first, second, (Onto::Replace, Then::Rectify));
        let (mut x, mut inner) = (x, &*second);
        if stride > 1 {
            let pooled_input = &mut pooled_input[..x.len() / 4];
            AveragePool { side, channels: inputs }.forward(x, pooled_input);
            let pooled = &mut pooled[..second.len() / 4];
            AveragePool { side, channels: planes }.forward(second, pooled);
            (x, inner) = (pooled_input, pooled);
        }
        match &mut self.shortcut {
            Some(unit) => unit.forward(pass, x, output, (Onto::Replace, Then::Nothing)),
            None => output.copy_from_slice(x),
        }
        unit_3.forward(pass, inner, output, (Onto::Add, Then::Rectify));
    }

    /// `scratch.gradient` holds the gradient of `y`, and then that of `x`.
    pub(super) fn backward(
        &self,
        (values, gradients): (&[f32], &mut [f32]),
        x: &[f32],
        scratch: &mut Scratch,
    ) {
        let Sizes { side, inputs, planes, stride, .. } = self.sizes;
        let batch = x.len() / (side * side * inputs);
        let Scratch { lent, gradient, spare, branch } = scratch;
        let (narrow, out) = (x.len() / inputs * planes, self.output(batch));
        let [unit_1, unit_2, unit_3] = &self.units;
        let saved = &self.saved;
        let dout = &mut gradient[..out.len()];
        rectify(out, dout, &mut branch[..out.len()]);

        let (dy, inner) = (&mut branch[..out.len()], narrow / (stride * stride));
        let dinner = Some((&mut spare[..inner], Onto::Replace));
        let x_3 = if stride > 1 { &saved.pooled[..inner] } else { &saved.second[..inner] };
        unit_3.backward((values, gradients), lent, x_3, (dy, Then::Nothing), dinner);
        if stride > 1 {
            let pool = AveragePool { side, channels: planes };
            pool.backward(&spare[..inner], &mut branch[..narrow], Onto::Replace);
            std::mem::swap(spare, branch);
        }
        let dfirst = Some((&mut branch[..narrow], Onto::Replace));
        let dy = (&mut spare[..narrow], Then::Rectify);
        unit_2.backward((values, gradients), lent, &saved.first[..narrow], dy, dfirst);
        let dx = Some((&mut spare[..x.len()], Onto::Replace));
        let dy = (&mut branch[..narrow], Then::Rectify);
        unit_1.backward((values, gradients), lent, x, dy, dx);
        self.backward_shortcut((values, gradients), x, scratch);
    }

    /// Adds what goes past the units to their gradient of `x`.
    fn backward_shortcut(
        &self,
        (values, gradients): (&[f32], &mut [f32]),
        x: &[f32],
        Scratch { lent, gradient, spare, branch }: &mut Scratch,
    ) {
        let Sizes { side, inputs, stride, .. } = self.sizes;
        let batch = x.len() / (side * side * inputs);
        let dout = &mut gradient[..self.output(batch).len()];
        let dx = &mut spare[..x.len()];
        match &self.shortcut {
            None => dx.iter_mut().zip(&*dout).for_each(|(dx, dout)| *dx += dout),
            Some(unit) if stride == 1 => {
                let (dy, dx) = ((dout, Then::Nothing), Some((dx, Onto::Add)));
                unit.backward((values, gradients), lent, x, dy, dx);
            }
            Some(unit) => {
                let dpooled = &mut branch[..x.len() / 4];
                let pooled = &self.saved.pooled_input[..x.len() / 4];
                let (dy, to) = ((dout, Then::Nothing), Some((&mut *dpooled, Onto::Replace)));
                unit.backward((values, gradients), lent, pooled, dy, to);
                AveragePool { side, channels: inputs }.backward(dpooled, dx, Onto::Add);
            }
        }
        std::mem::swap(gradient, spare);
    }
}

/// The gradient before a rectifier that gave `y`, twice: for each of the two branches that were added.
fn rectify(y: &[f32], dy: &mut [f32], copy: &mut [f32]) {
    use rayon::prelude::*;
    const CHUNK: usize = 1 << 13;
    let chunks = dy.par_chunks_mut(CHUNK).zip(copy.par_chunks_mut(CHUNK)).zip(y.par_chunks(CHUNK));
    chunks.for_each(|((dy, copy), y)| {
        for ((dy, copy), y) in dy.iter_mut().zip(copy).zip(y) {
            *dy = if *y > 0.0 { *dy } else { 0.0 };
            *copy = *dy;
        }
    });
}
