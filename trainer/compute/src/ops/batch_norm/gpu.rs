//! Batch normalisation on a device: threads keep their channels and walk over rows. Sums are made in
//! parts that depend on the shape alone, and added in one order.

use crate::device::{Buffer, Device, Format};
use crate::device::{Launch, Span, SpanMut};
use crate::gemm::Onto;
use crate::ops::batch_norm::{EPSILON, MOMENTUM, Sums, Then};

/// Channels of a block of threads, which takes several rows at a time.
const CHANNELS: usize = 64;

/// About as many blocks as keep a device busy.
const BLOCKS: usize = 1024;

/// Rows below which a block is not worth its start.
const FEW: usize = 32;

/// What each channel was normalised with: mean, one over the standard deviation, and the factor and the
/// offset that do it.
#[derive(Debug)]
pub struct Moments {
    numbers: Buffer,
    width: usize,
    /// Rows that they were taken from.
    rows: f64,
}

impl Moments {
    /// Memory for so many channels.
    pub fn new(device: &Device, width: usize) -> Self {
        Self {
            numbers: Buffer::new(device, 4 * width, Format::F32),
            width,
            rows: 0.0,
        }
    }
}

/// How the rows of an array are shared out.
struct Shares {
    rows: usize,
    width: usize,
    /// Rows of one part.
    share: usize,
    parts: usize,
}

impl Shares {
    fn of(length: usize, width: usize) -> Self {
        let rows = length / width;
        let most = BLOCKS.div_ceil(width.div_ceil(CHANNELS));
        let share = rows.div_ceil(most).max(FEW);
        Self {
            rows,
            width,
            share,
            parts: rows.div_ceil(share),
        }
    }

    /// A kernel over all rows.
    fn launch(&self, name: &str, format: Format) -> Launch {
        Launch::typed(name, format).grid(self.width.div_ceil(CHANNELS), self.parts, 1)
    }
}

/// Length of the memory for sums of so many channels: the sums, and those of each part.
pub fn room(width: usize) -> usize {
    2 * width * (1 + BLOCKS.div_ceil(width.div_ceil(CHANNELS)))
}

/// The memory for sums, cut in two: the sums and those of each part.
#[expect(
    clippy::expect_used,
    reason = "a normalisation makes room where it is declared"
)]
fn cut(sums: &mut Sums, width: usize) -> (SpanMut<'_>, SpanMut<'_>) {
    sums.device
        .as_mut()
        .expect("room on the device")
        .span_mut()
        .split_at(2 * width)
}

/// Takes the statistics of the batch, and lets the running ones follow.
///
/// # Shapes
/// `affine` [weight, bias]; `running` [mean, variance, number of batches].
pub(crate) fn measure(
    affine: Span<'_>,
    mut running: SpanMut<'_>,
    x: Span<'_>,
    (moments, sums): (&mut Moments, &mut Sums),
) {
    let device = x.device();
    let width = moments.width;
    let shares = Shares::of(x.len(), width);
    let (_, mut parts) = cut(sums, width);
    let launch = shares
        .launch("batch_norm_sums", x.format())
        .read(x)
        .write(&mut parts);

    launch
        .whole(shares.rows)
        .whole(width)
        .whole(shares.share)
        .run(device);

    let launch = Launch::typed("batch_norm_moments", x.format()).over(32 * width);
    let launch = launch
        .read(x)
        .read(parts.span())
        .write(&mut moments.numbers.span_mut());

    launch
        .whole(width)
        .whole(shares.parts)
        .real(shares.rows as f32)
        .run(device);

    moments.rows = shares.rows as f64;
    if sums.synchronized() {
        let mut both = moments.numbers.span().first(2 * width).download();
        let (means, variances) = both.split_at_mut(width);
        moments.rows = sums.join_moments(moments.rows, means, variances);
        moments.numbers.span_mut().first(2 * width).upload(&both);
    }

    let unbiased = moments.rows / (moments.rows - 1.0).max(1.0);
    let launch = Launch::new("batch_norm_follow")
        .over(width)
        .read(affine)
        .write(&mut running);

    let launch = launch.write(&mut moments.numbers.span_mut()).whole(width);
    launch
        .real(unbiased as f32)
        .real(MOMENTUM)
        .real(EPSILON)
        .run(device);
}

/// Takes the running statistics.
pub(crate) fn recall(affine: Span<'_>, running: Span<'_>, moments: &mut Moments) {
    let launch = Launch::new("batch_norm_recall")
        .over(moments.width)
        .read(affine)
        .read(running);

    let launch = launch
        .write(&mut moments.numbers.span_mut())
        .whole(moments.width);

    launch.real(EPSILON).run(affine.device());
}

/// Writes `y`, or adds to it, before the rectifier.
pub(crate) fn apply(moments: &Moments, x: Span<'_>, mut y: SpanMut<'_>, onto: Onto, then: Then) {
    let shares = Shares::of(x.len(), moments.width);
    let launch = shares.launch("batch_norm_apply", x.format());
    let launch = launch.read(moments.numbers.span()).read(x).write(&mut y);
    let launch = launch
        .whole(shares.rows)
        .whole(shares.width)
        .whole(shares.share);

    let launch = launch.whole(usize::from(onto == Onto::Add));
    launch
        .whole(usize::from(then == Then::Rectify))
        .run(x.device());
}

/// Adds to the gradients of the weights; `dy` becomes `dx`.
pub(crate) fn backward(
    mut affine: SpanMut<'_>,
    (x, moments, sums): (Span<'_>, &Moments, &mut Sums),
    mut dy: SpanMut<'_>,
    then: Then,
) {
    let device = x.device();
    let width = moments.width;
    let rectify = usize::from(then == Then::Rectify);
    let shares = Shares::of(x.len(), width);
    let (mut slopes, mut parts) = cut(sums, width);
    let launch = shares
        .launch("batch_norm_slopes", x.format())
        .read(moments.numbers.span());

    let launch = launch.read(x).read(dy.span()).write(&mut parts);
    let launch = launch
        .whole(shares.rows)
        .whole(width)
        .whole(shares.share)
        .whole(rectify);

    launch.run(device);
    let launch = Launch::new("batch_norm_gradients").over(32 * width);
    let launch = launch
        .read(moments.numbers.span())
        .read(parts.span())
        .write(&mut affine);

    launch
        .write(&mut slopes)
        .whole(width)
        .whole(shares.parts)
        .run(device);

    if sums.synchronized() {
        let mut both = cut(sums, width).0.span().download();
        sums.join_pair(&mut both);
        cut(sums, width).0.upload(&both);
    }

    let (slopes, _) = cut(sums, width);
    let launch = shares
        .launch("batch_norm_backward", x.format())
        .read(moments.numbers.span());

    let launch = launch.read(slopes.span()).read(x).write(&mut dy);
    let launch = launch.whole(shares.rows).whole(width).whole(shares.share);
    launch.real(moments.rows as f32).whole(rectify).run(device);
}
