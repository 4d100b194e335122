//! Batch normalization on a device: threads keep their channels and walk over rows. Sums are made in parts
//! that depend on the shape alone, and added in one order.

use crate::device::{DType, Device, DeviceBuffer, DeviceView, DeviceViewMut, KernelLaunch};
use crate::gemm::Accumulate;
use crate::ops::batch_norm::{BatchNormWorkspace, EPSILON, MOMENTUM, PostActivation};

/// Channels of a block: its 256 threads take eight rows of 64 channels at a time, two channels each.
const CHANNELS_PER_BLOCK: usize = 64;

/// Blocks that keep a device busy.
const TARGET_BLOCKS: usize = 1024;

/// Rows below which a block is not worth its launch.
const MIN_ROWS_PER_BLOCK: usize = 32;

/// What each channel was normalized with.
///
/// # Shapes
/// `values` [4, width]: mean, one over the standard deviation, factor and offset.
#[derive(Debug)]
pub(super) struct DeviceMoments {
    values: DeviceBuffer,
    width: usize,
    /// Rows that the statistics are of.
    rows: f64,
}

impl DeviceMoments {
    /// Memory for `width` channels.
    pub(super) fn new(device: &Device, width: usize) -> Self {
        Self {
            values: DeviceBuffer::new(device, 4 * width, DType::F32),
            width,
            rows: 0.0,
        }
    }
}

/// How the rows of an array are split among blocks.
struct RowPartition {
    rows: usize,
    width: usize,
    /// Rows of one part.
    rows_per_part: usize,
    parts: usize,
}

impl RowPartition {
    fn for_length(length: usize, width: usize) -> Self {
        let rows = length / width;
        // Not from the number of multiprocessors: another GPU would add in another order.
        let max_parts = TARGET_BLOCKS.div_ceil(width.div_ceil(CHANNELS_PER_BLOCK));
        let rows_per_part = rows.div_ceil(max_parts).max(MIN_ROWS_PER_BLOCK);
        Self {
            rows,
            width,
            rows_per_part,
            parts: rows.div_ceil(rows_per_part),
        }
    }

    /// A kernel over all rows.
    fn partitioned_kernel(&self, name: &str, dtype: DType) -> KernelLaunch {
        KernelLaunch::for_dtype(name, dtype).with_grid(
            self.width.div_ceil(CHANNELS_PER_BLOCK),
            self.parts,
            1,
        )
    }
}

/// Length of the memory for two sums of each channel: the totals, and those of each part.
pub(super) fn sums_buffer_len(width: usize) -> usize {
    2 * width * (1 + TARGET_BLOCKS.div_ceil(width.div_ceil(CHANNELS_PER_BLOCK)))
}

/// The memory for sums, split in two: the totals and those of each part.
#[expect(
    clippy::expect_used,
    reason = "`reserve_for` allocates it where a normalization is declared"
)]
fn split_sums(
    sums: &mut BatchNormWorkspace,
    width: usize,
) -> (DeviceViewMut<'_>, DeviceViewMut<'_>) {
    sums.device
        .as_mut()
        .expect("the workspace was reserved")
        .as_view_mut()
        .split_at(2 * width)
}

/// Computes the statistics of the batch, and moves the running ones towards them.
///
/// # Shapes
/// `affine` `[weight, bias]`; `running` `[mean, variance, number of batches]`.
pub(super) fn compute_batch_stats(
    affine: DeviceView<'_>,
    mut running: DeviceViewMut<'_>,
    x: DeviceView<'_>,
    moments: &mut DeviceMoments,
    sums: &mut BatchNormWorkspace,
) {
    let device = x.device();
    let width = moments.width;
    let partition = RowPartition::for_length(x.len(), width);
    let (_, mut parts) = split_sums(sums, width);
    partition
        .partitioned_kernel("batch_norm_sums", x.dtype())
        .arg_input(x)
        .arg_output(&mut parts)
        .arg_u32(partition.rows)
        .arg_u32(width)
        .arg_u32(partition.rows_per_part)
        .launch_on(device);

    KernelLaunch::for_dtype("batch_norm_moments", x.dtype())
        .with_thread_per_item(32 * width)
        .arg_input(x)
        .arg_input(parts.as_view())
        .arg_output(&mut moments.values.as_view_mut())
        .arg_u32(width)
        .arg_u32(partition.parts)
        .arg_f32(partition.rows as f32)
        .launch_on(device);

    moments.rows = partition.rows as f64;
    // By way of the host: two numbers a channel, and the ranks' network is the host's.
    if sums.is_synchronized() {
        let mut both = moments.values.as_view().first_n(2 * width).to_host();
        let (means, variances) = both.split_at_mut(width);
        moments.rows = sums.all_reduce_moments(moments.rows, means, variances);
        moments
            .values
            .as_view_mut()
            .first_n(2 * width)
            .copy_from_host(&both);
    }

    let unbiased = moments.rows / (moments.rows - 1.0).max(1.0);
    KernelLaunch::new("batch_norm_follow")
        .with_thread_per_item(width)
        .arg_input(affine)
        .arg_output(&mut running)
        .arg_output(&mut moments.values.as_view_mut())
        .arg_u32(width)
        .arg_f32(unbiased as f32)
        .arg_f32(MOMENTUM)
        .arg_f32(EPSILON)
        .launch_on(device);
}

/// Uses the running statistics.
pub(super) fn load_running_stats(
    affine: DeviceView<'_>,
    running: DeviceView<'_>,
    moments: &mut DeviceMoments,
) {
    KernelLaunch::new("batch_norm_recall")
        .with_thread_per_item(moments.width)
        .arg_input(affine)
        .arg_input(running)
        .arg_output(&mut moments.values.as_view_mut())
        .arg_u32(moments.width)
        .arg_f32(EPSILON)
        .launch_on(affine.device());
}

/// Writes `y`, or adds to it, and applies the activation to the sum.
pub(super) fn apply_normalization(
    moments: &DeviceMoments,
    x: DeviceView<'_>,
    mut y: DeviceViewMut<'_>,
    accumulate: Accumulate,
    activation: PostActivation,
) {
    let partition = RowPartition::for_length(x.len(), moments.width);
    partition
        .partitioned_kernel("batch_norm_apply", x.dtype())
        .arg_input(moments.values.as_view())
        .arg_input(x)
        .arg_output(&mut y)
        .arg_u32(partition.rows)
        .arg_u32(partition.width)
        .arg_u32(partition.rows_per_part)
        .arg_u32(usize::from(accumulate == Accumulate::Yes))
        .arg_u32(usize::from(activation == PostActivation::Relu))
        .launch_on(x.device());
}

/// Adds to the gradients of the weights; `dy` becomes `dx`.
pub(super) fn backward(
    mut affine: DeviceViewMut<'_>,
    x: DeviceView<'_>,
    moments: &DeviceMoments,
    sums: &mut BatchNormWorkspace,
    mut dy: DeviceViewMut<'_>,
    activation: PostActivation,
) {
    let device = x.device();
    let width = moments.width;
    let relu = usize::from(activation == PostActivation::Relu);
    let partition = RowPartition::for_length(x.len(), width);
    let (mut slopes, mut parts) = split_sums(sums, width);
    partition
        .partitioned_kernel("batch_norm_slopes", x.dtype())
        .arg_input(moments.values.as_view())
        .arg_input(x)
        .arg_input(dy.as_view())
        .arg_output(&mut parts)
        .arg_u32(partition.rows)
        .arg_u32(width)
        .arg_u32(partition.rows_per_part)
        .arg_u32(relu)
        .launch_on(device);
    KernelLaunch::new("batch_norm_gradients")
        .with_thread_per_item(32 * width)
        .arg_input(moments.values.as_view())
        .arg_input(parts.as_view())
        .arg_output(&mut affine)
        .arg_output(&mut slopes)
        .arg_u32(width)
        .arg_u32(partition.parts)
        .launch_on(device);

    if sums.is_synchronized() {
        // After the gradients of weight and bias, which are summed over ranks with all others.
        let mut both = split_sums(sums, width).0.as_view().to_host();
        sums.all_reduce_pair(&mut both);
        split_sums(sums, width).0.copy_from_host(&both);
    }

    let (slopes, _) = split_sums(sums, width);
    partition
        .partitioned_kernel("batch_norm_backward", x.dtype())
        .arg_input(moments.values.as_view())
        .arg_input(slopes.as_view())
        .arg_input(x)
        .arg_output(&mut dy)
        .arg_u32(partition.rows)
        .arg_u32(width)
        .arg_u32(partition.rows_per_part)
        .arg_f32(moments.rows as f32)
        .arg_u32(relu)
        .launch_on(device);
}
