//! What is added to the tokens of pictures: to each the row of its place, to the first the class token.

pub mod gpu;

use rayon::prelude::*;

use crate::tensor::{IndexView, TensorView, TensorViewMut};

/// Writes the position of each token of each picture, the class token's first and then those of the
/// patches that are seen, and adds `class` to the first.
///
/// # Shapes
/// `positions` [1 + patches, width], `class` [width], `seen` [batch, seen], `y` [batch, 1 + seen, width].
pub fn forward(
    (positions, class): (TensorView<'_>, TensorView<'_>),
    seen: IndexView<'_>,
    batch: usize,
    y: TensorViewMut<'_>,
) {
    match y {
        TensorViewMut::Host(y) => {
            forward_host(
                (positions.expect_host(), class.expect_host()),
                (seen.expect_host(), batch),
                y,
            );
        }
        TensorViewMut::Device(mut y) => {
            let tables = (positions.expect_device(), class.expect_device());
            gpu::forward(tables, seen.expect_device(), batch, &mut y);
        }
    }
}

fn forward_host(
    (positions, class): (&[f32], &[f32]),
    (seen, batch): (&[u32], usize),
    y: &mut [f32],
) {
    let width = class.len();
    let of_picture = seen.len() / batch;
    let pictures = y
        .par_chunks_mut((1 + of_picture) * width)
        .zip(seen.par_chunks(of_picture));

    pictures.for_each(|(y, seen)| {
        for (y, place) in y.chunks_exact_mut(width).zip(token_positions(seen)) {
            y.copy_from_slice(&positions[place * width..][..width]);
        }
        add_row(y, class);
    });
}

/// Adds rows of `dy` to the rows that they came from.
///
/// # Shapes
/// As in [`forward`].
pub fn backward(
    (positions, class): (TensorViewMut<'_>, TensorViewMut<'_>),
    seen: IndexView<'_>,
    batch: usize,
    dy: TensorView<'_>,
) {
    match positions {
        TensorViewMut::Host(positions) => {
            backward_host(
                (positions, class.expect_host()),
                (seen.expect_host(), batch),
                dy.expect_host(),
            );
        }
        TensorViewMut::Device(mut positions) => {
            let tables = (&mut positions, &mut class.expect_device());
            gpu::backward(tables, seen.expect_device(), batch, dy.expect_device());
        }
    }
}

fn backward_host(
    (positions, class): (&mut [f32], &mut [f32]),
    (seen, batch): (&[u32], usize),
    dy: &[f32],
) {
    let width = class.len();
    let of_picture = seen.len() / batch;
    let pictures = dy
        .chunks_exact((1 + of_picture) * width)
        .zip(seen.chunks_exact(of_picture));

    for (dy, seen) in pictures {
        for (dy, place) in dy.chunks_exact(width).zip(token_positions(seen)) {
            add_row(&mut positions[place * width..][..width], dy);
        }
        add_row(class, &dy[..width]);
    }
}

/// The position of each token of a picture.
fn token_positions(seen: &[u32]) -> impl Iterator<Item = usize> {
    std::iter::once(0).chain(seen.iter().map(|&patch| 1 + patch as usize))
}

fn add_row(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut()
        .zip(values)
        .for_each(|(sum, value)| *sum += value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_given_the_row_of_its_place_and_gives_its_gradient_back_to_it() {
        let class = [0.5, 0.25];
        let positions = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let seen = IndexView::from(&[0, 2, 1, 2][..]);
        let mut y = vec![9.0; 12];
        forward(
            (TensorView::Host(&positions), TensorView::Host(&class)),
            seen,
            2,
            (&mut y).into(),
        );

        assert_eq!(
            y,
            [1.5, 2.25, 3.0, 4.0, 7.0, 8.0, 1.5, 2.25, 5.0, 6.0, 7.0, 8.0]
        );

        let dy: Vec<f32> = (1..=12).map(|i| i as f32).collect();
        let mut dclass = vec![1.0; 2];
        let mut dpositions = vec![1.0; 8];
        backward(
            ((&mut dpositions).into(), (&mut dclass).into()),
            seen,
            2,
            (&dy).into(),
        );

        assert_eq!(dclass, [9.0, 11.0]);
        assert_eq!(dpositions, [9.0, 11.0, 4.0, 5.0, 10.0, 11.0, 17.0, 19.0]);
    }
}
