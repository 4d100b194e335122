//! Operations that know where sequences begin: attention, dropout, embeddings, rows that go on.

use cnclip_compute::device::DType;
use cnclip_compute::ops::attention::Attention;
use cnclip_compute::ops::dropout::Dropout;
use cnclip_compute::ops::embedding::{self, EmbeddingTables};
use cnclip_compute::ops::sequences::{
    DeviceSequenceView, Pooling, Sequences, gather_rows, scatter_rows,
};
use cnclip_crds::stage::Precision;

use crate::both::{Both, PLACES, Place, Wholes};
use crate::support::FORMATS;

/// Sequences and their tokens' ids in both memories.
struct Texts {
    offsets: Vec<usize>,
    device: Wholes,
    ids: Wholes,
    padded: bool,
}

impl Texts {
    fn new(lengths: &[usize], padded: bool) -> Self {
        let ends = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });

        let offsets: Vec<usize> = std::iter::once(0).chain(ends).collect();
        let tokens = offsets[lengths.len()] as u32;
        let id = |i| {
            if padded && i % 3 == 1 {
                0
            } else {
                1 + i * i % 7
            }
        };

        Self {
            device: Wholes::new(offsets.iter().map(|&at| at as u32).collect()),
            ids: Wholes::new((0..tokens).map(id).collect()),
            offsets,
            padded,
        }
    }

    fn on(&self, place: Place, keep: Pooling) -> Sequences<'_> {
        let sequences = Sequences::new(&self.offsets).with_pooling(keep);
        let sequences = if self.padded {
            sequences.with_padding(&self.ids.0)
        } else {
            sequences
        };

        let ids = self.padded.then(|| self.ids.buffer().as_view());
        match place {
            Place::Here => sequences,
            Place::Device => sequences.with_device(DeviceSequenceView {
                offsets: self.device.buffer().as_view(),
                token_ids: ids,
            }),
        }
    }
}

/// Of lengths of their own, with and without padding; of one length; more and fewer than heads.
fn texts() -> Vec<Texts> {
    vec![
        Texts::new(&[5, 1, 37, 2, 70, 11], false),
        Texts::new(&[5, 1, 37, 2, 11], true),
        Texts::new(&[33; 5], true),
        Texts::new(&[17; 7], false),
        Texts::new(&[50; 2], false),
        Texts::new(&[9], false),
    ]
}

const KEEPS: [Pooling; 2] = [Pooling::AllTokens, Pooling::FirstToken];

fn dropouts() -> [Dropout; 2] {
    [Dropout::NONE, Dropout::new(1, 2, 3).at_site(4, 0.3)]
}

#[test]
fn attention_of_sequences() {
    for (format, precision) in FORMATS.into_iter().zip([Precision::Fp32, Precision::Bf16]) {
        for (texts, (heads, head)) in
            texts()
                .iter()
                .zip([(3, 8), (2, 40), (3, 8), (3, 16), (5, 64), (2, 5)])
        {
            for (keep, dropout) in KEEPS
                .into_iter()
                .flat_map(|keep| dropouts().map(|d| (keep, d)))
            {
                let width = heads * head;
                let longest = 73;
                let attention = Attention {
                    heads,
                    width,
                    max_tokens: longest,
                    precision,
                    flash: false,
                };

                let rows = texts.on(Place::Here, keep);
                let tokens = rows.token_count();
                let kept = rows.pooled_count();
                let row = attention.probabilities_per_token();
                let qkv = Both::array(tokens * 3 * width, 1, format);
                let mut out = Both::array(kept * width, 2, format);
                let mut probabilities = Both::array(kept * row, 3, format);
                let mut dropped = Both::array(kept * row, 4, format);

                let mut dscores = Both::array(kept * row, 5, format);
                let dout = Both::array(kept * width, 6, format);
                let mut dqkv = Both::array(tokens * 3 * width, 7, format);

                for place in PLACES {
                    let sequences = texts.on(place, keep);
                    let weights = (probabilities.view_mut(place), dropped.view_mut(place));
                    attention.forward(
                        sequences,
                        dropout,
                        qkv.view(place),
                        weights,
                        out.view_mut(place),
                    );

                    let inner = (qkv.view(place), probabilities.view(place), out.view(place));
                    let scratch = (dropped.view_mut(place), dscores.view_mut(place));
                    let target = dqkv.view_mut(place);
                    attention.backward(
                        sequences,
                        dropout,
                        inner,
                        dout.view(place),
                        scratch,
                        target,
                    );
                }

                out.agree("attention", 4.0);
                dqkv.agree("attention's gradient", 4.0);
            }
        }
    }
}

#[test]
fn a_mask_is_the_same_on_a_device() {
    for format in FORMATS {
        for (texts, keep) in texts()
            .iter()
            .flat_map(|texts| KEEPS.map(|keep| (texts, keep)))
        {
            for (width, dropout) in
                [(24, 0), (17, 0), (24, 1), (17, 1)].map(|(w, d)| (w, dropouts()[d]))
            {
                let kept = texts.on(Place::Here, keep).pooled_count();
                let x = Both::array(kept * width, 1, format);
                let mut sum = Both::array(kept * width, 2, format);
                let mut masked = Both::array(kept * width, 3, format);

                for place in PLACES {
                    let sequences = texts.on(place, keep);
                    dropout.mask_and_add(sequences, width, sum.view_mut(place), x.view(place));
                    dropout.apply_mask(sequences, width, x.view(place), masked.view_mut(place));
                }

                sum.agree("dropout and residual", 1.0);
                masked.agree("dropout", 1.0);
                let zeros = |values: Vec<f32>| {
                    values
                        .into_iter()
                        .map(|value| value == 0.0)
                        .collect::<Vec<_>>()
                };

                assert_eq!(zeros(masked.on_device()), zeros(masked.here()));
            }
        }
    }
}

#[test]
fn rows_that_go_on() {
    for (format, width) in FORMATS.into_iter().zip([24, 17]) {
        for (texts, keep) in texts()
            .iter()
            .flat_map(|texts| KEEPS.map(|keep| (texts, keep)))
        {
            let rows = texts.on(Place::Here, keep);
            let all = Both::array(rows.token_count() * width, 1, format);
            let mut kept = Both::array(rows.pooled_count() * width, 2, format);
            let mut again = Both::array(rows.token_count() * width, 3, format);

            for place in PLACES {
                let sequences = texts.on(place, keep);
                gather_rows(sequences, width, all.view(place), kept.view_mut(place));
                scatter_rows(sequences, width, kept.view(place), again.view_mut(place));
            }

            assert_eq!(kept.on_device(), kept.here());
            assert_eq!(again.on_device(), again.here());
        }
    }
}

#[test]
fn embeddings() {
    for (format, width) in FORMATS
        .into_iter()
        .flat_map(|format| [(format, 24), (format, 331)])
    {
        for texts in texts() {
            let sequences = |place| texts.on(place, Pooling::AllTokens);
            let tokens = sequences(Place::Here).token_count();
            let words = Both::weights(8 * width, 1, format);
            let positions = Both::weights(70 * width, 2, format);
            let kind = Both::weights(width, 3, format);
            let dy = Both::array(tokens * width, 4, format);
            let mut y = Both::array(tokens * width, 5, format);
            let mut dwords = Both::exact(8 * width, 6, DType::F32);

            let mut dpositions = Both::exact(70 * width, 7, DType::F32);
            for place in PLACES {
                let words = words.view(place);
                let positions = positions.view(place);
                let kind = kind.view(place);
                let tables = EmbeddingTables {
                    words,
                    positions,
                    token_type: kind,
                };

                let ids = texts.ids.view(place);
                embedding::forward(tables, sequences(place), ids, y.view_mut(place));
                embedding::backward_words(ids, width, dy.view(place), dwords.view_mut(place));
                let target = dpositions.view_mut(place);
                embedding::backward_positions(sequences(place), width, dy.view(place), target);
            }

            y.agree("embeddings", 1.0);
            dwords.agree("words' gradient", 0.0);
            dpositions.agree("positions' gradient", 0.0);
        }
    }

    // More tokens than a block looks at at once.
    let texts = Texts::new(&[300, 411], false);
    let dy = Both::array(711 * 8, 1, DType::F32);
    let mut dwords = Both::exact(64, 2, DType::F32);

    for place in PLACES {
        embedding::backward_words(
            texts.ids.view(place),
            8,
            dy.view(place),
            dwords.view_mut(place),
        );
    }

    dwords.agree("words' gradient", 0.0);
}
