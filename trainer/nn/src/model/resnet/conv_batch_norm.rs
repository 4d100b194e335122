//! A convolution and the batch normalisation behind it: what the whole tower is made of.

use std::sync::Arc;

use super::ResnetForwardContext;
use cnclip_compute::collective::Collective;
use cnclip_compute::gemm::Accumulate;
use cnclip_compute::ops::batch_norm::{
    BatchNorm, BatchNormMoments, BatchNormWorkspace, PostActivation,
};
use cnclip_compute::ops::conv2d::{Conv2d, ConvWorkspace};
use cnclip_compute::ops::linear::Linear;
use cnclip_compute::params::{ParamInit, ParamLayout};
use cnclip_compute::tensor::{Tensor, TensorView, TensorViewMut};

/// `y = norm(convolution(x))`, rectified where the tower does so.
///
/// # Shapes
/// `x` [batch, places, inputs], `y` [batch, places, outputs].
#[derive(Debug)]
pub(super) struct ConvBatchNorm {
    convolution: ConvKernel,
    norm: BatchNorm,
    /// What the convolution gave, kept for the backward pass.
    middle: Tensor,
    moments: BatchNormMoments,
}

/// The two sizes of convolution.
#[derive(Debug)]
enum ConvKernel {
    /// 1 × 1.
    Kernel1x1(Linear),
    /// 3 × 3.
    Kernel3x3(Conv2d),
}

/// Memory that units borrow in turn.
#[derive(Debug, Default)]
pub(super) struct ResnetWorkspace {
    workspace: ConvWorkspace,
    batch_norm_sums: BatchNormWorkspace,
}

impl ResnetWorkspace {
    /// From now on statistics are those of all ranks' batches.
    pub(super) fn synchronize_batch_norm(&mut self, ranks: Arc<dyn Collective>) {
        self.batch_norm_sums.sync_across_ranks(ranks);
    }
}

impl ConvBatchNorm {
    /// Declares a convolution of 1 × 1, with memory for so many places of a batch.
    pub(super) fn declare_conv1x1(
        layout: &mut ParamLayout,
        names: (&str, &str),
        (inputs, outputs): (usize, usize),
        (places, weight): (usize, ParamInit),
        lent: &mut ResnetWorkspace,
    ) -> Self {
        let name = format!("{}.weight", names.0);
        let matrix = layout.register_weight(
            &name,
            &[outputs, inputs, 1, 1],
            ParamInit::uniform_fan_in(inputs),
        );
        let convolution = ConvKernel::Kernel1x1(Linear::new(matrix, None, inputs));
        Self::new(
            layout,
            convolution,
            names.1,
            (outputs, places, weight),
            lent,
        )
    }

    /// Declares a convolution of 3 × 3 over pictures of `side` pixels, with memory for a batch.
    pub(super) fn declare_conv3x3(
        layout: &mut ParamLayout,
        names: (&str, &str),
        channels: (usize, usize),
        (side, stride, batch): (usize, usize, usize),
        lent: &mut ResnetWorkspace,
    ) -> Self {
        let memory = &mut lent.workspace;
        let convolution = Conv2d::declare_params(layout, names.0, channels, (side, stride), memory);
        let places = batch * side.div_ceil(stride).pow(2);
        let convolution = ConvKernel::Kernel3x3(convolution);

        Self::new(
            layout,
            convolution,
            names.1,
            (channels.1, places, ParamInit::Ones),
            lent,
        )
    }

    fn new(
        layout: &mut ParamLayout,
        convolution: ConvKernel,
        norm: &str,
        (outputs, places, weight): (usize, usize, ParamInit),
        lent: &mut ResnetWorkspace,
    ) -> Self {
        let memory = layout.memory().clone();
        Self {
            convolution,
            norm: BatchNorm::declare_params(
                layout,
                norm,
                outputs,
                weight,
                &mut lent.batch_norm_sums,
            ),
            middle: memory.alloc_activations(places * outputs),
            moments: BatchNormMoments::new(&memory, outputs),
        }
    }

    /// Writes `y`, or adds to it, before the rectifier.
    pub(super) fn forward(
        &mut self,
        pass: &mut ResnetForwardContext<'_>,
        x: TensorView<'_>,
        y: TensorViewMut<'_>,
        (onto, then): (Accumulate, PostActivation),
    ) {
        let ResnetForwardContext {
            values,
            buffers: state,
            training,
            workspace: lent,
        } = pass;

        let middle = self.middle.first_n_mut(y.len());
        match &self.convolution {
            ConvKernel::Kernel1x1(linear) => {
                linear.forward(*values, x, middle, Accumulate::No);
            }
            ConvKernel::Kernel3x3(conv) => conv.forward(*values, x, middle, &mut lent.workspace),
        }

        let middle = self.middle.first_n(y.len());
        if *training {
            let memory = (&mut self.moments, &mut lent.batch_norm_sums);
            self.norm
                .compute_batch_stats(*values, state, middle, memory);
        } else {
            self.norm
                .load_running_stats(*values, state.as_view(), &mut self.moments);
        }

        self.norm
            .apply_normalization(&self.moments, middle, y, onto, then);
    }

    /// Adds to the gradients of the weights; writes `dx` or adds to it, where one is wanted. `dy` is
    /// used up.
    pub(super) fn backward(
        &self,
        (values, gradients): (TensorView<'_>, &mut TensorViewMut<'_>),
        lent: &mut ResnetWorkspace,
        x: TensorView<'_>,
        (mut dy, then): (TensorViewMut<'_>, PostActivation),
        dx: Option<(TensorViewMut<'_>, Accumulate)>,
    ) {
        let ResnetWorkspace {
            workspace,
            batch_norm_sums: sums,
        } = lent;
        let middle = self.middle.first_n(dy.len());
        self.norm.backward(
            gradients,
            (middle, &self.moments, sums),
            dy.reborrow(),
            then,
        );

        let dy = dy.as_view();
        match &self.convolution {
            ConvKernel::Kernel1x1(linear) => match dx {
                Some((dx, onto)) => {
                    let weights = (values, gradients);
                    linear.backward(weights, x, dy, dx, onto);
                }
                None => linear.backward_weights(gradients, x, dy),
            },
            ConvKernel::Kernel3x3(conv) => {
                conv.backward_weights(gradients, x, dy, workspace);
                if let Some((dx, _)) = dx {
                    conv.backward_input(values, dy, dx, workspace);
                }
            }
        }
    }
}
