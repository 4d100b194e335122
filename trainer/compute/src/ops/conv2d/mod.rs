//! Convolution of 3 × 3 with a border of zeros, over pictures whose channels are neighbours: the
//! neighbourhood of each place is laid out as one row, and the rest is a matrix product. It knows no
//! convolution of 1 × 1, which is a linear layer.

mod cpu;
pub mod gpu;

use cnclip_crds::stage::Precision;
use cpu::Part;

use crate::params::{Init, Layout, Weight};
use crate::tensor::{Array, Memory, View, ViewMut, mixed};

/// Weights of one input channel for one output channel.
pub(crate) const TAPS: usize = 9;

/// A convolution without bias.
///
/// # Shapes
/// `x` [batch, side, side, inputs], `y` [batch, ⌈side / stride⌉, ⌈side / stride⌉, outputs], and the
/// weight as the reference has it, [outputs, inputs, 3, 3].
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Weight,
    grid: Grid,
    outputs: usize,
}

/// Square pictures, and the places in them that a convolution looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) side: usize,
    pub(crate) channels: usize,
    pub(crate) stride: usize,
    precision: Precision,
}

impl Grid {
    /// Places of a picture along one side.
    pub(crate) fn line(&self) -> usize {
        self.side.div_ceil(self.stride)
    }

    /// The same places of pictures with so many channels.
    pub(crate) fn of(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// Length of a neighbourhood.
    pub(crate) fn row(&self) -> usize {
        TAPS * self.channels
    }
}

/// Memory that convolutions borrow in turn.
#[derive(Debug)]
pub struct Workspace {
    /// The weight as a matrix.
    matrix: Array,
    /// Neighbourhoods that a device lays out at a time.
    rows: Array,
    parts: Vec<Part>,
}

impl Default for Workspace {
    fn default() -> Self {
        Self {
            matrix: Vec::new().into(),
            rows: Vec::new().into(),
            parts: Vec::new(),
        }
    }
}

impl Workspace {
    /// Grows to what this convolution needs.
    fn fit(&mut self, convolution: &Conv2d, memory: &Memory) {
        let grow = |array: &mut Array, length| {
            if array.len() < length {
                *array = memory.array(length);
            }
        };

        grow(&mut self.matrix, convolution.weight.len());
        if memory.device().is_some() {
            let row = TAPS * convolution.grid.channels.max(convolution.outputs);
            grow(&mut self.rows, gpu::PIECE.max(row));
        } else {
            cpu::fit(&mut self.parts, convolution);
        }
    }
}

impl Conv2d {
    /// Declares `<name>.weight`, over pictures of `side` pixels, and makes room for it.
    pub fn declare(
        layout: &mut Layout,
        name: &str,
        (inputs, outputs): (usize, usize),
        (side, stride): (usize, usize),
        workspace: &mut Workspace,
    ) -> Self {
        let name = format!("{name}.weight");
        let shape = [outputs, inputs, 3, 3];
        let weight = layout.weight(&name, &shape, Init::fan_in(TAPS * inputs));
        let precision = layout.precision();
        let grid = Grid {
            side,
            channels: inputs,
            stride,
            precision,
        };

        let convolution = Self {
            weight,
            grid,
            outputs,
        };

        workspace.fit(&convolution, layout.memory());
        convolution
    }

    /// Channels that come out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Writes `y`.
    pub fn forward(
        &self,
        values: View<'_>,
        x: View<'_>,
        y: ViewMut<'_>,
        Workspace {
            matrix,
            rows,
            parts,
        }: &mut Workspace,
    ) {
        match (self.weight.of(values), x, y, matrix, rows) {
            (View::Host(weight), View::Host(x), ViewMut::Host(y), Array::Host(matrix), _) => {
                self.forward_host(weight, x, y, (matrix, parts));
            }
            (View::Device(weight), View::Device(x), ViewMut::Device(y), _, Array::Device(rows)) => {
                gpu::forward(&self.grid, weight, x, y, rows);
            }
            _ => mixed(),
        }
    }

    /// Adds to the gradient of the weight.
    pub fn backward_weights(
        &self,
        gradients: &mut ViewMut<'_>,
        x: View<'_>,
        dy: View<'_>,
        Workspace { rows, parts, .. }: &mut Workspace,
    ) {
        match (self.weight.of(gradients.reborrow()), x, dy, rows) {
            (ViewMut::Host(gradient), View::Host(x), View::Host(dy), _) => {
                self.backward_weights_host(gradient, x, dy, parts);
            }
            (ViewMut::Device(gradient), View::Device(x), View::Device(dy), Array::Device(rows)) => {
                gpu::backward_weights(&self.grid, gradient, x, dy, rows)
            }
            _ => mixed(),
        }
    }

    /// Writes `dx`, for a stride of 1: the same convolution of `dy`, with the weight turned around.
    pub fn backward_input(
        &self,
        values: View<'_>,
        dy: View<'_>,
        dx: ViewMut<'_>,
        Workspace {
            matrix,
            rows,
            parts,
        }: &mut Workspace,
    ) {
        assert_eq!(
            self.grid.stride, 1,
            "the first convolution's input needs no gradient"
        );

        match (self.weight.of(values), dy, dx, matrix, rows) {
            (View::Host(weight), View::Host(dy), ViewMut::Host(dx), Array::Host(matrix), _) => {
                self.backward_input_host(weight, dy, dx, (matrix, parts));
            }
            (
                View::Device(weight),
                View::Device(dy),
                ViewMut::Device(dx),
                Array::Device(turned),
                Array::Device(rows),
            ) => gpu::backward_input(&self.grid, weight, dy, dx, (turned, rows)),
            _ => mixed(),
        }
    }
}
