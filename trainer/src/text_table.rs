//! Tables for a terminal. Decides nothing but where cells stand.

/// Rows below a head, of which the first columns are words and the others numbers; nothing where there is
/// no row. A row may have fewer columns.
pub(crate) fn format_table(head: &[&str], words: usize, rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }

    let head = head.iter().map(|&name| name.to_owned()).collect();
    let all: Vec<&Vec<String>> = [&head].into_iter().chain(rows).collect();
    let length = |row: &Vec<String>, at: usize| row.get(at).map_or(0, |cell| cell.chars().count());
    let width = |column| all.iter().map(|row| length(row, column)).max().unwrap_or(0);
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let cell = |(column, cell): (usize, &String)| match column < words {
        true => format!("{cell:<0$}", widths[column]),
        false => format!("{cell:>0$}", widths[column]),
    };

    let line = |row: &&Vec<String>| {
        row.iter()
            .enumerate()
            .map(cell)
            .collect::<Vec<_>>()
            .join("  ")
    };

    all.iter().map(line).map(|line| line + "\n").collect()
}
