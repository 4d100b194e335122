//! What the loss keeps in a device's memory beside features and logits: which pairs are right, the
//! logarithms of sums, and what is found of each row.

use super::Targets;
use super::rows::Row;
use cnclip_compute::device::{Buffer, Span, SpanMut};
use cnclip_compute::ops::contrastive_loss::gpu::{self, FOUND};
use cnclip_compute::tensor::{Array, Memory, View};

/// Memory on a device for a global batch.
#[derive(Debug)]
pub(super) struct Held {
    /// A number for each picture, equal for equal ones.
    images: Buffer,
    /// The same for captions.
    texts: Buffer,
    shares: Array,
    /// ln Σ eˣ of all rows, and of all columns.
    sums: [Array; 2],
    found: Array,
    slopes: Array,
    /// Numbers on their way.
    numbers: Vec<u32>,
}

impl Held {
    /// None for this machine's memory, which has all that.
    pub(super) fn new(memory: &Memory, global_batch: usize, own: usize) -> Option<Self> {
        Some(Self {
            images: memory.whole(global_batch)?,
            texts: memory.whole(global_batch)?,
            shares: memory.exact(global_batch),
            sums: [memory.exact(global_batch), memory.exact(global_batch)],
            found: memory.exact(FOUND * own),
            slopes: memory.exact(own),
            numbers: Vec::with_capacity(global_batch),
        })
    }

    /// Takes over which of so many pairs are right for each other.
    pub(super) fn take(&mut self, targets: &Targets, pairs: usize) {
        let [images, texts] = targets.groups();
        for (place, groups) in [(&mut self.images, images), (&mut self.texts, texts)] {
            self.numbers.clear();
            self.numbers.extend((0..pairs).map(groups));
            place.take_whole(&self.numbers);
        }

        self.shares
            .first_mut(pairs)
            .copy_from(View::Host(targets.shares(pairs)));
    }

    /// As [`super::rows::look`]. The device is waited for, once a side: ranks tell each other what they
    /// found, and no step is taken where the loss is not a number.
    pub(super) fn look(
        &mut self,
        logits: Span<'_>,
        (first, pairs): (usize, usize),
        rows: &mut [Row],
    ) {
        let Self {
            images,
            texts,
            shares,
            found,
            ..
        } = self;

        let targets = of(images, texts, shares, pairs);
        let mut found = found.first_mut(FOUND * rows.len()).device();
        gpu::rows(logits, (first, pairs), targets, &mut found);
        let found = found.span().download();

        for (row, found) in rows.iter_mut().zip(found.as_chunks::<FOUND>().0) {
            let [log_sum, right, hit] = *found;
            let cross_entropy = f64::from(log_sum) - f64::from(right);
            *row = Row {
                log_sum,
                cross_entropy,
                hit: hit > 0.0,
            };
        }
    }

    /// As [`super::rows::differentiate`], but that the slopes are told later.
    pub(super) fn differentiate(
        &mut self,
        logits: &mut SpanMut<'_>,
        first: usize,
        (of_rows, of_columns): (&[f32], &[f32]),
    ) {
        let pairs = of_columns.len();
        let Self {
            images,
            texts,
            shares,
            sums: [rows, columns],
            slopes,
            ..
        } = self;

        rows.first_mut(pairs).copy_from(View::Host(of_rows));
        columns.first_mut(pairs).copy_from(View::Host(of_columns));
        let sums = (rows.first(pairs).device(), columns.first(pairs).device());
        let mut slopes = slopes.first_mut(logits.len() / pairs).device();
        let targets = of(images, texts, shares, pairs);

        gpu::differentiate(logits, (first, pairs), sums, targets, &mut slopes);
    }

    /// What the rows differentiated last add to the gradient of the logit scale; the device is waited for.
    pub(super) fn slopes(&self, told: &mut [f32]) {
        told.copy_from_slice(&self.slopes.first(told.len()).read());
    }
}

fn of<'a>(
    images: &'a Buffer,
    texts: &'a Buffer,
    shares: &'a Array,
    pairs: usize,
) -> gpu::Targets<'a> {
    let images = images.span().first(pairs);
    let texts = texts.span().first(pairs);
    gpu::Targets {
        images,
        texts,
        shares: shares.first(pairs).device(),
    }
}
