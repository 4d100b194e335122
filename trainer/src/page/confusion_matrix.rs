//! A confusion matrix as numbers that an SVG can be written with. Knows neither HTML nor colours.

use serde::Serialize;

/// Widest name next to the matrix; longer ones are cut.
const MAX_NAME_WIDTH: f64 = 96.0;
/// What a letter of a name needs, and a Chinese one.
const LETTER_WIDTHS: (f64, f64) = (6.4, 11.5);
/// More classes than this have no numbers in their squares.
const MAX_NUMBERED_CLASSES: usize = 15;
/// The least that a square with an image is filled.
const MIN_FILL: f64 = 0.1;
/// Between names and squares, and around it all.
const GAP: f64 = 6.0;

/// A square: images of one class taken for another.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct MatrixCell {
    x: f64,
    y: f64,
    right: bool,
    /// How full it is, from 0 to 1: the share of the class's images.
    fill: f64,
    /// That share in percent, where it fits.
    label: Option<String>,
    /// The tooltip.
    tooltip: String,
}

/// A name at its place along a side.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct ClassLabel {
    at: f64,
    short: String,
    name: String,
}

/// Everything that is drawn, in pixels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ConfusionMatrix {
    /// Width and height of the whole.
    side: f64,
    /// Where the squares begin, from the left and from the top.
    start: f64,
    /// Width and height of a square.
    square: f64,
    names: Vec<ClassLabel>,
    squares: Vec<MatrixCell>,
}

impl ConfusionMatrix {
    /// A row for each class, with a square for each class that some of its images are taken for.
    pub(super) fn from_confusion(names: &[String], confusion: &[Vec<u64>]) -> Self {
        let short: Vec<_> = names.iter().map(|name| truncate_name(name)).collect();
        let widest = short
            .iter()
            .map(|name| text_width(name))
            .fold(0.0, f64::max);

        let grid = MatrixGrid {
            start: widest + GAP,
            square: square_size(names.len()),
        };

        let mut labels = Vec::new();
        for (class, short) in short.into_iter().enumerate() {
            labels.push(ClassLabel {
                at: grid.place(class) + grid.square / 2.0,
                short,
                name: names[class].clone(),
            });
        }

        let mut squares = Vec::new();
        for (class, row) in confusion.iter().enumerate() {
            squares.extend(grid.row_cells(names, class, row));
        }

        Self {
            side: grid.place(names.len()) + 1.0,
            start: grid.start,
            square: grid.square,
            names: labels,
            squares,
        }
    }
}

/// Where rows and columns are.
struct MatrixGrid {
    start: f64,
    square: f64,
}

impl MatrixGrid {
    fn place(&self, class: usize) -> f64 {
        self.start + class as f64 * self.square
    }

    /// The squares of a class. Empty ones are left out: most are, and the page must stay small.
    fn row_cells(&self, names: &[String], class: usize, row: &[u64]) -> Vec<MatrixCell> {
        let all: u64 = row.iter().sum();
        let numbered = names.len() <= MAX_NUMBERED_CLASSES;
        let mut cells = Vec::new();

        for (other, &images) in row.iter().enumerate() {
            // A class without images has no other, so its sum of 0 divides nothing.
            if images == 0 {
                continue;
            }

            let share = images as f64 / all as f64;
            let own_name = &names[class];
            let other_name = &names[other];
            cells.push(MatrixCell {
                x: self.place(other),
                y: self.place(class),
                right: other == class,
                fill: (share.max(MIN_FILL) * 100.0).round() / 100.0,
                label: numbered.then(|| format!("{:.0}", 100.0 * share)),
                tooltip: format!("{own_name} → {other_name}: {images} of {all}"),
            });
        }

        cells
    }
}

fn square_size(classes: usize) -> f64 {
    match classes {
        0..=MAX_NUMBERED_CLASSES => 26.0,
        16..=25 => 22.0,
        _ => 15.0,
    }
}

fn text_width(name: &str) -> f64 {
    let letter = |letter: char| {
        if letter.is_ascii() {
            LETTER_WIDTHS.0
        } else {
            LETTER_WIDTHS.1
        }
    };

    name.chars().map(letter).sum()
}

/// As much of a name as fits.
fn truncate_name(name: &str) -> String {
    if text_width(name) <= MAX_NAME_WIDTH {
        return name.to_owned();
    }

    let mut kept = String::new();
    for letter in name.chars() {
        if text_width(&kept) + 2.0 * LETTER_WIDTHS.1 > MAX_NAME_WIDTH {
            break;
        }
        kept.push(letter);
    }

    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_class_and_a_square_what_it_is_taken_for() {
        let names = ["猫", "dog"].map(String::from);
        let matrix = ConfusionMatrix::from_confusion(&names, &[vec![3, 1], vec![0, 0]]);
        let squares: Vec<_> = matrix
            .squares
            .iter()
            .map(|one| (one.right, one.fill))
            .collect();

        assert_eq!(
            squares,
            [(true, 0.75), (false, 0.25)],
            "nothing for a class without images"
        );

        let [own, other] = <[MatrixCell; 2]>::try_from(matrix.squares).unwrap();
        assert_eq!((own.x, own.y), (matrix.start, matrix.start));
        assert_eq!(
            (other.x, other.y),
            (matrix.start + matrix.square, matrix.start)
        );

        assert_eq!(other.tooltip, "猫 → dog: 1 of 4");
        assert_eq!(other.label.as_deref(), Some("25"));
    }

    #[test]
    fn long_names_are_cut_and_many_classes_have_small_squares_without_numbers() {
        let names: Vec<_> = (0..40)
            .map(|class| format!("一个名字很长很长的类别{class}"))
            .collect();

        let confusion: Vec<_> = (0..40).map(|_| vec![1; 40]).collect();
        let matrix = ConfusionMatrix::from_confusion(&names, &confusion);
        assert!(
            matrix
                .names
                .iter()
                .all(|name| text_width(&name.short) <= MAX_NAME_WIDTH + LETTER_WIDTHS.1)
        );

        assert!(matrix.names[0].short.ends_with('…') && matrix.names[0].name.ends_with('0'));
        assert!(
            matrix
                .squares
                .iter()
                .all(|one| one.label.is_none() && one.fill == MIN_FILL)
        );

        assert!(matrix.side < 800.0, "{}", matrix.side);
    }
}
