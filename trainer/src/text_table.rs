//! Tables for a terminal. Decides only where cells stand.

/// Rows below a head. The first `text_columns` columns are aligned left, the others, which are numbers, right.
/// Empty where there is no row; a row may have fewer columns.
pub(crate) fn format_table(head: &[&str], text_columns: usize, rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }

    let head = head.iter().map(|&name| name.to_owned()).collect();
    let all: Vec<&Vec<String>> = [&head].into_iter().chain(rows).collect();
    let length = |row: &Vec<String>, at: usize| row.get(at).map_or(0, |cell| cell.chars().count());
    let width = |column| all.iter().map(|row| length(row, column)).max().unwrap_or(0);
    let widths: Vec<_> = (0..head.len()).map(width).collect();

    let mut table = String::new();
    for row in all {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, &width))| match column < text_columns {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });

        table += &cells.collect::<Vec<_>>().join("  ");
        table.push('\n');
    }

    table
}
