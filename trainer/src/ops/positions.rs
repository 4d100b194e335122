//! What is added to the tokens of pictures: to each the row of its place, to the first the class token.

use rayon::prelude::*;

use super::patches::Seen;
use crate::array::{View, ViewMut, mixed};

/// Writes the position of each token of each picture, the class token's first and then those of the
/// patches that are seen, and adds `class` to the first.
///
/// # Shapes
/// `class` [width], `positions` [1 + patches, width], `y` [pictures, 1 + seen, width].
pub fn forward((class, positions): (View<'_>, View<'_>), seen: Seen<'_>, y: ViewMut<'_>) {
    match y {
        ViewMut::Host(y) => forward_host((class.host(), positions.host()), seen, y),
        ViewMut::Device(_) => mixed(),
    }
}

fn forward_host((class, positions): (&[f32], &[f32]), seen: Seen<'_>, y: &mut [f32]) {
    let width = class.len();
    y.par_chunks_mut((1 + seen.of_picture()) * width).enumerate().for_each(|(picture, y)| {
        for (y, place) in y.chunks_exact_mut(width).zip(places(seen, picture)) {
            y.copy_from_slice(&positions[place * width..][..width]);
        }
        add(y, class);
    });
}

/// Adds rows of `dy` to the rows that they came from.
///
/// # Shapes
/// As in [`forward`].
pub fn backward(seen: Seen<'_>, dy: View<'_>, (class, positions): (ViewMut<'_>, ViewMut<'_>)) {
    match positions {
        ViewMut::Host(positions) => backward_host(seen, dy.host(), (class.host(), positions)),
        ViewMut::Device(_) => mixed(),
    }
}

fn backward_host(seen: Seen<'_>, dy: &[f32], (class, positions): (&mut [f32], &mut [f32])) {
    let width = class.len();
    for (picture, dy) in dy.chunks_exact((1 + seen.of_picture()) * width).enumerate() {
        for (dy, place) in dy.chunks_exact(width).zip(places(seen, picture)) {
            add(&mut positions[place * width..][..width], dy);
        }
        add(class, &dy[..width]);
    }
}

/// The position of each token of a picture.
fn places(seen: Seen<'_>, picture: usize) -> impl Iterator<Item = usize> {
    let of_picture = seen.of_picture();
    let patches = seen.patches()[picture * of_picture..][..of_picture].iter();
    std::iter::once(0).chain(patches.map(|&patch| 1 + patch as usize))
}

fn add(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_given_the_row_of_its_place_and_gives_its_gradient_back_to_it() {
        let (class, positions) = ([0.5, 0.25], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let seen = Seen::new(&[0, 2, 1, 2], 2);
        let mut y = vec![9.0; 12];
        forward((View::Host(&class), View::Host(&positions)), seen, (&mut y).into());
        assert_eq!(y, [1.5, 2.25, 3.0, 4.0, 7.0, 8.0, 1.5, 2.25, 5.0, 6.0, 7.0, 8.0]);
        let dy: Vec<f32> = (1..=12).map(|i| i as f32).collect();
        let (mut dclass, mut dpositions) = (vec![1.0; 2], vec![1.0; 8]);
        backward(seen, (&dy).into(), ((&mut dclass).into(), (&mut dpositions).into()));
        assert_eq!(dclass, [9.0, 11.0]);
        assert_eq!(dpositions, [9.0, 11.0, 4.0, 5.0, 10.0, 11.0, 17.0, 19.0]);
    }
}
