//! Batch normalisation on a device: threads keep their channels and walk over rows. Sums are made in
//! parts that depend on the shape alone, and added in one order.

use crate::device::{DType, Device, DeviceBuffer};
use crate::device::{DeviceView, DeviceViewMut, KernelLaunch};
use crate::gemm::Accumulate;
use crate::ops::batch_norm::{BatchNormWorkspace, EPSILON, MOMENTUM, PostActivation};

/// Channels of a block of threads, which takes several rows at a time.
const CHANNELS_PER_BLOCK: usize = 64;

/// About as many blocks as keep a device busy.
const TARGET_BLOCKS: usize = 1024;

/// Rows below which a block is not worth its start.
const MIN_ROWS_PER_BLOCK: usize = 32;

/// What each channel was normalised with: mean, one over the standard deviation, and the factor and the
/// offset that do it.
#[derive(Debug)]
pub struct DeviceMoments {
    numbers: DeviceBuffer,
    width: usize,
    /// Rows that they were taken from.
    rows: f64,
}

impl DeviceMoments {
    /// Memory for so many channels.
    pub fn new(device: &Device, width: usize) -> Self {
        Self {
            numbers: DeviceBuffer::new(device, 4 * width, DType::F32),
            width,
            rows: 0.0,
        }
    }
}

/// How the rows of an array are shared out.
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
        let most = TARGET_BLOCKS.div_ceil(width.div_ceil(CHANNELS_PER_BLOCK));
        let share = rows.div_ceil(most).max(MIN_ROWS_PER_BLOCK);
        Self {
            rows,
            width,
            rows_per_part: share,
            parts: rows.div_ceil(share),
        }
    }

    /// A kernel over all rows.
    fn partitioned_kernel(&self, name: &str, format: DType) -> KernelLaunch {
        KernelLaunch::for_dtype(name, format).with_grid(
            self.width.div_ceil(CHANNELS_PER_BLOCK),
            self.parts,
            1,
        )
    }
}

/// Length of the memory for sums of so many channels: the sums, and those of each part.
pub fn sums_buffer_len(width: usize) -> usize {
    2 * width * (1 + TARGET_BLOCKS.div_ceil(width.div_ceil(CHANNELS_PER_BLOCK)))
}

/// The memory for sums, cut in two: the sums and those of each part.
#[expect(
    clippy::expect_used,
    reason = "a normalisation makes room where it is declared"
)]
fn split_sums(
    sums: &mut BatchNormWorkspace,
    width: usize,
) -> (DeviceViewMut<'_>, DeviceViewMut<'_>) {
    sums.device
        .as_mut()
        .expect("room on the device")
        .as_view_mut()
        .split_at(2 * width)
}

/// Takes the statistics of the batch, and lets the running ones follow.
///
/// # Shapes
/// `affine` [weight, bias]; `running` [mean, variance, number of batches].
pub(crate) fn compute_batch_stats(
    affine: DeviceView<'_>,
    mut running: DeviceViewMut<'_>,
    x: DeviceView<'_>,
    (moments, sums): (&mut DeviceMoments, &mut BatchNormWorkspace),
) {
    let device = x.device();
    let width = moments.width;
    let shares = RowPartition::for_length(x.len(), width);
    let (_, mut parts) = split_sums(sums, width);
    let launch = shares
        .partitioned_kernel("batch_norm_sums", x.dtype())
        .arg_input(x)
        .arg_output(&mut parts);

    launch
        .arg_u32(shares.rows)
        .arg_u32(width)
        .arg_u32(shares.rows_per_part)
        .launch_on(device);

    let launch =
        KernelLaunch::for_dtype("batch_norm_moments", x.dtype()).with_thread_per_item(32 * width);
    let launch = launch
        .arg_input(x)
        .arg_input(parts.as_view())
        .arg_output(&mut moments.numbers.as_view_mut());

    launch
        .arg_u32(width)
        .arg_u32(shares.parts)
        .arg_f32(shares.rows as f32)
        .launch_on(device);

    moments.rows = shares.rows as f64;
    if sums.is_synchronized() {
        let mut both = moments.numbers.as_view().first_n(2 * width).to_host();
        let (means, variances) = both.split_at_mut(width);
        moments.rows = sums.all_reduce_moments(moments.rows, means, variances);
        moments
            .numbers
            .as_view_mut()
            .first_n(2 * width)
            .copy_from_host(&both);
    }

    let unbiased = moments.rows / (moments.rows - 1.0).max(1.0);
    let launch = KernelLaunch::new("batch_norm_follow")
        .with_thread_per_item(width)
        .arg_input(affine)
        .arg_output(&mut running);

    let launch = launch
        .arg_output(&mut moments.numbers.as_view_mut())
        .arg_u32(width);
    launch
        .arg_f32(unbiased as f32)
        .arg_f32(MOMENTUM)
        .arg_f32(EPSILON)
        .launch_on(device);
}

/// Takes the running statistics.
pub(crate) fn load_running_stats(
    affine: DeviceView<'_>,
    running: DeviceView<'_>,
    moments: &mut DeviceMoments,
) {
    let launch = KernelLaunch::new("batch_norm_recall")
        .with_thread_per_item(moments.width)
        .arg_input(affine)
        .arg_input(running);

    let launch = launch
        .arg_output(&mut moments.numbers.as_view_mut())
        .arg_u32(moments.width);

    launch.arg_f32(EPSILON).launch_on(affine.device());
}

/// Writes `y`, or adds to it, before the rectifier.
pub(crate) fn apply_normalization(
    moments: &DeviceMoments,
    x: DeviceView<'_>,
    mut y: DeviceViewMut<'_>,
    onto: Accumulate,
    then: PostActivation,
) {
    let shares = RowPartition::for_length(x.len(), moments.width);
    let launch = shares.partitioned_kernel("batch_norm_apply", x.dtype());
    let launch = launch
        .arg_input(moments.numbers.as_view())
        .arg_input(x)
        .arg_output(&mut y);
    let launch = launch
        .arg_u32(shares.rows)
        .arg_u32(shares.width)
        .arg_u32(shares.rows_per_part);

    let launch = launch.arg_u32(usize::from(onto == Accumulate::Yes));
    launch
        .arg_u32(usize::from(then == PostActivation::Relu))
        .launch_on(x.device());
}

/// Adds to the gradients of the weights; `dy` becomes `dx`.
pub(crate) fn backward(
    mut affine: DeviceViewMut<'_>,
    (x, moments, sums): (DeviceView<'_>, &DeviceMoments, &mut BatchNormWorkspace),
    mut dy: DeviceViewMut<'_>,
    then: PostActivation,
) {
    let device = x.device();
    let width = moments.width;
    let rectify = usize::from(then == PostActivation::Relu);
    let shares = RowPartition::for_length(x.len(), width);
    let (mut slopes, mut parts) = split_sums(sums, width);
    let launch = shares
        .partitioned_kernel("batch_norm_slopes", x.dtype())
        .arg_input(moments.numbers.as_view());

    let launch = launch
        .arg_input(x)
        .arg_input(dy.as_view())
        .arg_output(&mut parts);
    let launch = launch
        .arg_u32(shares.rows)
        .arg_u32(width)
        .arg_u32(shares.rows_per_part)
        .arg_u32(rectify);

    launch.launch_on(device);
    let launch = KernelLaunch::new("batch_norm_gradients").with_thread_per_item(32 * width);
    let launch = launch
        .arg_input(moments.numbers.as_view())
        .arg_input(parts.as_view())
        .arg_output(&mut affine);

    launch
        .arg_output(&mut slopes)
        .arg_u32(width)
        .arg_u32(shares.parts)
        .launch_on(device);

    if sums.is_synchronized() {
        let mut both = split_sums(sums, width).0.as_view().to_host();
        sums.all_reduce_pair(&mut both);
        split_sums(sums, width).0.copy_from_host(&both);
    }

    let (slopes, _) = split_sums(sums, width);
    let launch = shares
        .partitioned_kernel("batch_norm_backward", x.dtype())
        .arg_input(moments.numbers.as_view());

    let launch = launch
        .arg_input(slopes.as_view())
        .arg_input(x)
        .arg_output(&mut dy);
    let launch = launch
        .arg_u32(shares.rows)
        .arg_u32(width)
        .arg_u32(shares.rows_per_part);
    launch
        .arg_f32(moments.rows as f32)
        .arg_u32(rectify)
        .launch_on(device);
}
