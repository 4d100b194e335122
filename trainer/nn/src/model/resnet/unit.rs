//! A convolution and the batch normalisation behind it: what the whole tower is made of.

use std::sync::Arc;

use super::Pass;
use cnclip_compute::collective::Ranks;
use cnclip_compute::gemm::Onto;
use cnclip_compute::ops::batch_norm::{BatchNorm, Moments, Sums, Then};
use cnclip_compute::ops::conv2d::{Conv2d, Workspace};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::params::{Init, Layout};
use cnclip_compute::tensor::{Array, View, ViewMut};

/// `y = norm(convolution(x))`, rectified where the tower does so.
///
/// # Shapes
/// `x` [batch, places, inputs], `y` [batch, places, outputs].
#[derive(Debug)]
pub(super) struct Unit {
    convolution: Convolution,
    norm: BatchNorm,
    /// What the convolution gave, kept for the backward pass.
    middle: Array,
    moments: Moments,
}

/// The two sizes of convolution.
#[derive(Debug)]
enum Convolution {
    /// 1 × 1.
    Point(Linear),
    /// 3 × 3.
    Square(Conv2d),
}

/// Memory that units borrow in turn.
#[derive(Debug, Default)]
pub(super) struct Lent {
    workspace: Workspace,
    sums: Sums,
}

impl Lent {
    /// From now on statistics are those of all ranks' batches.
    pub(super) fn synchronize(&mut self, ranks: Arc<dyn Ranks>) {
        self.sums.synchronize(ranks);
    }
}

impl Unit {
    /// Declares a convolution of 1 × 1, with memory for so many places of a batch.
    pub(super) fn point(
        layout: &mut Layout,
        names: (&str, &str),
        (inputs, outputs): (usize, usize),
        (places, weight): (usize, Init),
        lent: &mut Lent,
    ) -> Self {
        let name = format!("{}.weight", names.0);
        let matrix = layout.weight(&name, &[outputs, inputs, 1, 1], Init::fan_in(inputs));
        let convolution = Convolution::Point(Linear::new(matrix, None, inputs));
        Self::new(
            layout,
            convolution,
            names.1,
            (outputs, places, weight),
            lent,
        )
    }

    /// Declares a convolution of 3 × 3 over pictures of `side` pixels, with memory for a batch.
    pub(super) fn square(
        layout: &mut Layout,
        names: (&str, &str),
        channels: (usize, usize),
        (side, stride, batch): (usize, usize, usize),
        lent: &mut Lent,
    ) -> Self {
        let memory = &mut lent.workspace;
        let convolution = Conv2d::declare(layout, names.0, channels, (side, stride), memory);
        let places = batch * side.div_ceil(stride).pow(2);
        let convolution = Convolution::Square(convolution);

        Self::new(
            layout,
            convolution,
            names.1,
            (channels.1, places, Init::Ones),
            lent,
        )
    }

    fn new(
        layout: &mut Layout,
        convolution: Convolution,
        norm: &str,
        (outputs, places, weight): (usize, usize, Init),
        lent: &mut Lent,
    ) -> Self {
        let memory = layout.memory().clone();
        Self {
            convolution,
            norm: BatchNorm::declare(layout, norm, outputs, weight, &mut lent.sums),
            middle: memory.array(places * outputs),
            moments: Moments::new(&memory, outputs),
        }
    }

    /// Writes `y`, or adds to it, before the rectifier.
    pub(super) fn forward(
        &mut self,
        pass: &mut Pass<'_>,
        x: View<'_>,
        y: ViewMut<'_>,
        (onto, then): (Onto, Then),
    ) {
        let Pass {
            values,
            state,
            training,
            lent,
        } = pass;

        let middle = self.middle.first_mut(y.len());
        match &self.convolution {
            Convolution::Point(linear) => {
                linear.forward(*values, x, middle, Onto::Replace);
            }
            Convolution::Square(conv) => conv.forward(*values, x, middle, &mut lent.workspace),
        }

        let middle = self.middle.first(y.len());
        if *training {
            let memory = (&mut self.moments, &mut lent.sums);
            self.norm.measure(*values, state, middle, memory);
        } else {
            self.norm.recall(*values, state.view(), &mut self.moments);
        }

        self.norm.apply(&self.moments, middle, y, onto, then);
    }

    /// Adds to the gradients of the weights; writes `dx` or adds to it, where one is wanted. `dy` is
    /// used up.
    pub(super) fn backward(
        &self,
        (values, gradients): (View<'_>, &mut ViewMut<'_>),
        lent: &mut Lent,
        x: View<'_>,
        (mut dy, then): (ViewMut<'_>, Then),
        dx: Option<(ViewMut<'_>, Onto)>,
    ) {
        let Lent { workspace, sums } = lent;
        let middle = self.middle.first(dy.len());
        self.norm.backward(
            gradients,
            (middle, &self.moments, sums),
            dy.reborrow(),
            then,
        );

        let dy = dy.view();
        match &self.convolution {
            Convolution::Point(linear) => match dx {
                Some((dx, onto)) => {
                    let weights = (values, gradients);
                    linear.backward(weights, x, dy, dx, onto);
                }
                None => linear.backward_weights(gradients, x, dy),
            },
            Convolution::Square(conv) => {
                conv.backward_weights(gradients, x, dy, workspace);
                if let Some((dx, _)) = dx {
                    conv.backward_input(values, dy, dx, workspace);
                }
            }
        }
    }
}
