//! A residual block: narrow, look around, widen, and add what came in.

use super::unit::{Lent, Unit};
use super::{Pass, Scratch};
use cnclip_compute::gemm::Onto;
use cnclip_compute::ops::batch_norm::Then;
use cnclip_compute::ops::pool::AveragePool;
use cnclip_compute::ops::residual;
use cnclip_compute::params::{Init, Layout};
use cnclip_compute::tensor::{Array, Memory, View, ViewMut};

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
    first: Array,
    second: Array,
    /// The second, and what came in, with half the side.
    pooled: Array,
    pooled_input: Array,
    output: Array,
}

impl Saved {
    fn new(memory: &Memory, sizes: &Sizes) -> Self {
        let places = sizes.batch * sizes.side * sizes.side;
        let places_out = sizes.batch * sizes.side_out().pow(2);
        let pooled = if sizes.stride > 1 { places_out } else { 0 };
        Self {
            first: memory.array(places * sizes.planes),
            second: memory.array(places * sizes.planes),
            pooled: memory.array(pooled * sizes.planes),
            pooled_input: memory.array(pooled * sizes.inputs),
            output: memory.array(places_out * sizes.outputs()),
        }
    }
}

impl Bottleneck {
    /// Declares the block's weights under `name`.
    pub(super) fn declare(layout: &mut Layout, name: &str, sizes: Sizes, lent: &mut Lent) -> Self {
        let Sizes {
            batch,
            side,
            inputs,
            planes,
            stride,
        } = sizes;

        let places = batch * side * side;
        let places_out = batch * sizes.side_out().pow(2);
        let mut point = |layout: &mut Layout, parts: [&str; 2], channels, size| {
            let [convolution, norm] = parts.map(|part| format!("{name}.{part}"));
            Unit::point(layout, (&convolution, &norm), channels, size, lent)
        };

        let first = point(
            layout,
            ["conv1", "bn1"],
            (inputs, planes),
            (places, Init::Ones),
        );

        let names = [format!("{name}.conv2"), format!("{name}.bn2")];
        let channels = (planes, planes);
        let second = Unit::square(
            layout,
            (&names[0], &names[1]),
            channels,
            (side, 1, batch),
            lent,
        );

        let mut point = |layout: &mut Layout, parts: [&str; 2], inputs, weight| {
            let [convolution, norm] = parts.map(|part| format!("{name}.{part}"));
            let channels = (inputs, sizes.outputs());
            Unit::point(
                layout,
                (&convolution, &norm),
                channels,
                (places_out, weight),
                lent,
            )
        };

        let third = point(layout, ["conv3", "bn3"], planes, Init::Zeros);
        let shortcut = (stride > 1 || inputs != sizes.outputs())
            .then(|| point(layout, ["downsample.0", "downsample.1"], inputs, Init::Ones));
        let saved = Saved::new(layout.memory(), &sizes);

        Self {
            sizes,
            units: [first, second, third],
            shortcut,
            saved,
        }
    }

    /// What the last forward pass gave, for so many pictures.
    pub(super) fn output(&self, batch: usize) -> View<'_> {
        self.saved
            .output
            .first(batch * self.sizes.side_out().pow(2) * self.sizes.outputs())
    }

    /// Computes `y`.
    pub(super) fn forward(&mut self, pass: &mut Pass<'_>, x: View<'_>) {
        let Sizes {
            side,
            inputs,
            planes,
            stride,
            ..
        } = self.sizes;

        let batch = x.len() / (side * side * inputs);
        let Saved {
            first,
            second,
            pooled,
            pooled_input,
            output,
        } = &mut self.saved;

        let [unit_1, unit_2, unit_3] = &mut self.units;
        let narrow = batch * side * side * planes;
        let mut output = output.first_mut(batch * (side / stride).pow(2) * EXPANSION * planes);

        unit_1.forward(
            pass,
            x,
            first.first_mut(narrow),
            (Onto::Replace, Then::Rectify),
        );

        let first = first.first(narrow);
        let inner = second.first_mut(narrow);
        unit_2.forward(pass, first, inner, (Onto::Replace, Then::Rectify));
        let mut x = x;
        let mut inner = second.first(narrow);

        if stride > 1 {
            let pool = AveragePool {
                side,
                channels: inputs,
            };

            pool.forward(x, pooled_input.first_mut(x.len() / 4));
            AveragePool {
                side,
                channels: planes,
            }
            .forward(inner, pooled.first_mut(narrow / 4));

            (x, inner) = (pooled_input.first(x.len() / 4), pooled.first(narrow / 4));
        }

        match &mut self.shortcut {
            Some(unit) => {
                unit.forward(pass, x, output.reborrow(), (Onto::Replace, Then::Nothing));
            }
            None => output.copy_from(x),
        }

        unit_3.forward(pass, inner, output, (Onto::Add, Then::Rectify));
    }

    /// `scratch.gradient` holds the gradient of `y`, and then that of `x`.
    pub(super) fn backward(
        &self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        x: View<'_>,
        scratch: &mut Scratch,
    ) {
        let Sizes {
            side,
            inputs,
            planes,
            stride,
            ..
        } = self.sizes;

        let batch = x.len() / (side * side * inputs);
        let Scratch {
            lent,
            gradient,
            spare,
            branch,
        } = scratch;

        let narrow = x.len() / inputs * planes;
        let out = self.output(batch);
        let [unit_1, unit_2, unit_3] = &self.units;
        let saved = &self.saved;
        residual::rectify(
            out,
            gradient.first_mut(out.len()),
            branch.first_mut(out.len()),
        );

        let dy = branch.first_mut(out.len());
        let inner = narrow / (stride * stride);
        let dinner = Some((spare.first_mut(inner), Onto::Replace));
        let x_3 = if stride > 1 {
            saved.pooled.first(inner)
        } else {
            saved.second.first(inner)
        };

        unit_3.backward((values, gradients), lent, x_3, (dy, Then::Nothing), dinner);
        if stride > 1 {
            let pool = AveragePool {
                side,
                channels: planes,
            };

            pool.backward(spare.first(inner), branch.first_mut(narrow), Onto::Replace);
            std::mem::swap(spare, branch);
        }

        let dfirst = Some((branch.first_mut(narrow), Onto::Replace));
        let dy = (spare.first_mut(narrow), Then::Rectify);
        unit_2.backward(
            (values, gradients),
            lent,
            saved.first.first(narrow),
            dy,
            dfirst,
        );

        let dx = Some((spare.first_mut(x.len()), Onto::Replace));
        let dy = (branch.first_mut(narrow), Then::Rectify);
        unit_1.backward((values, gradients), lent, x, dy, dx);
        self.backward_shortcut((values, gradients), x, scratch);
    }

    /// Adds what goes past the units to their gradient of `x`.
    fn backward_shortcut(
        &self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        x: View<'_>,
        Scratch {
            lent,
            gradient,
            spare,
            branch,
        }: &mut Scratch,
    ) {
        let Sizes {
            side,
            inputs,
            stride,
            ..
        } = self.sizes;

        let batch = x.len() / (side * side * inputs);
        let dout = gradient.first_mut(self.output(batch).len());
        let dx = spare.first_mut(x.len());

        match &self.shortcut {
            None => residual::add(dout.view(), dx),
            Some(unit) if stride == 1 => {
                let dy = (dout, Then::Nothing);
                let dx = Some((dx, Onto::Add));
                unit.backward((values, gradients), lent, x, dy, dx);
            }
            Some(unit) => {
                let mut dpooled = branch.first_mut(x.len() / 4);
                let pooled = self.saved.pooled_input.first(x.len() / 4);
                let to = Some((dpooled.reborrow(), Onto::Replace));
                unit.backward((values, gradients), lent, pooled, (dout, Then::Nothing), to);
                AveragePool {
                    side,
                    channels: inputs,
                }
                .backward(dpooled.view(), dx, Onto::Add);
            }
        }

        std::mem::swap(gradient, spare);
    }
}
