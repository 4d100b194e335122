//! Tables for a terminal. Decides only where cells stand.

/// Rows below a head. The first `text_columns` columns are aligned left, the others, which are numbers, right.
/// Empty where there is no row; a row may have fewer columns.
pub(crate) fn format_table(head: &[&str], text_columns: usize, rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }

    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let mut widths = vec![0; head.len()];

    for row in rows.iter().chain([&head]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }

    let mut table = String::new();
    for row in [&head].into_iter().chain(rows) {
        let cells = row.iter().zip(&widths).enumerate();
        let cells: Vec<_> = cells
            .map(|(column, (cell, &width))| match column < text_columns {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            })
            .collect();

        table += &cells.join("  ");
        table.push('\n');
    }

    table
}
