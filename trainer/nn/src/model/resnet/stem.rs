//! The first three convolutions, which bring a picture to a quarter of its side.

use super::unit::{Lent, Unit};
use super::{Pass, Scratch};
use cnclip_compute::gemm::Onto;
use cnclip_compute::ops::batch_norm::Then;
use cnclip_compute::ops::patchify::{Pixels, Plate, interleave};
use cnclip_compute::ops::pool::AveragePool;
use cnclip_compute::params::Layout;
use cnclip_compute::tensor::{Array, View, ViewMut};

/// What the forward pass of a unit is told: nothing is added, and negative values become zero.
const PLAIN: (Onto, Then) = (Onto::Replace, Then::Rectify);

/// Three units and a pool.
///
/// # Shapes
/// Pixels [batch, 3, side, side] in, [batch, side / 4, side / 4, width] out.
#[derive(Debug)]
pub(super) struct Stem {
    side: usize,
    width: usize,
    units: [Unit; 3],
    plate: Plate,
    saved: Saved,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug)]
struct Saved {
    picture: Array,
    first: Array,
    second: Array,
    third: Array,
    output: Array,
}

impl Stem {
    /// Declares the weights, with memory for a batch of pictures.
    pub(super) fn declare(
        layout: &mut Layout,
        (side, width, batch): (usize, usize, usize),
        lent: &mut Lent,
    ) -> Self {
        let half = side / 2;
        let mut unit = |at: usize, channels, side, stride| {
            let names = [format!("visual.conv{at}"), format!("visual.bn{at}")];
            let size = (side, stride, batch);
            Unit::square(layout, (&names[0], &names[1]), channels, size, lent)
        };

        let units = [
            unit(1, (3, width / 2), side, 2),
            unit(2, (width / 2, width / 2), half, 1),
            unit(3, (width / 2, width), half, 1),
        ];

        let places = batch * half * half;
        let memory = layout.memory();
        let saved = Saved {
            picture: memory.array(batch * side * side * 3),
            first: memory.array(places * width / 2),
            second: memory.array(places * width / 2),
            third: memory.array(places * width),
            output: memory.array(places / 4 * width),
        };

        let plate = Plate::new(memory, batch * side * side * 3);
        Self {
            side,
            width,
            units,
            plate,
            saved,
        }
    }

    /// What the last forward pass gave, for so many pictures.
    pub(super) fn output(&self, batch: usize) -> View<'_> {
        self.saved
            .output
            .first(batch * (self.side / 4).pow(2) * self.width)
    }

    /// Computes the output.
    pub(super) fn forward(&mut self, pass: &mut Pass<'_>, pixels: Pixels<'_>) {
        let Saved {
            picture,
            first,
            second,
            third,
            output,
        } = &mut self.saved;

        let mut picture = picture.first_mut(pixels.len());
        let full = pixels.len() / 3 / 4 * self.width;
        let mut first = first.first_mut(full / 2);
        let mut second = second.first_mut(full / 2);
        let mut third = third.first_mut(full);

        interleave(self.plate.take(pixels), self.side, picture.reborrow());
        self.units[0].forward(pass, picture.view(), first.reborrow(), PLAIN);
        self.units[1].forward(pass, first.view(), second.reborrow(), PLAIN);
        self.units[2].forward(pass, second.view(), third.reborrow(), PLAIN);
        let pool = AveragePool {
            side: self.side / 2,
            channels: self.width,
        };

        pool.forward(third.view(), output.first_mut(full / 4));
    }

    /// `scratch.gradient` holds the gradient of the output of so many pictures; it is used up.
    pub(super) fn backward(
        &self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        batch: usize,
        Scratch {
            lent,
            gradient,
            spare,
            ..
        }: &mut Scratch,
    ) {
        let saved = &self.saved;
        let out = self.output(batch).len();
        let half = 2 * out;
        let mut dthird = spare.first_mut(4 * out);
        self.pool()
            .backward(gradient.first(out), dthird.reborrow(), Onto::Replace);
        let dx = Some((gradient.first_mut(half), Onto::Replace));
        let x = saved.second.first(half);

        let dy = (dthird, Then::Rectify);
        self.units[2].backward((values, gradients), lent, x, dy, dx);
        let dx = Some((spare.first_mut(half), Onto::Replace));
        let x = saved.first.first(half);
        let dy = (gradient.first_mut(half), Then::Rectify);

        self.units[1].backward((values, gradients), lent, x, dy, dx);
        let x = saved.picture.first(batch * self.side * self.side * 3);
        let dy = (spare.first_mut(half), Then::Rectify);
        self.units[0].backward((values, gradients), lent, x, dy, None);
    }

    fn pool(&self) -> AveragePool {
        AveragePool {
            side: self.side / 2,
            channels: self.width,
        }
    }
}
