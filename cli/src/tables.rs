//! Plain tables and figures for a terminal.

use loaders::terminal::escaped;

/// Lays out `rows` in columns as wide as their widest cell; the first row is the head. Numbers align right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()).collect();
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let widths: Vec<usize> = (0..n_columns)
        .map(|column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let is_figures = |column: usize| cells(column).skip(1).all(|cell| starts_as_a_figure(cell));
    let aligned_right: Vec<bool> = (0..n_columns).map(is_figures).collect();

    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let fill = " ".repeat(widths[column] - cell.chars().count());
            let cell = if aligned_right[column] { fill + cell } else { cell.clone() + &fill };
            line.push_str(&cell);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn starts_as_a_figure(cell: &str) -> bool {
    cell == "-" || cell == "inf" || cell.starts_with(|c: char| c.is_ascii_digit())
}

/// A number of bytes with a unit, in powers of 1024.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 {
        format!("{value} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = [["name", "bytes"], ["a", "1"], ["long\u{1b}", "1000"]];
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect();
        assert_eq!(table(&rows), "name        bytes\na               1\nlong\\u{1b}   1000\n");
    }

    #[test]
    fn bytes_have_a_unit() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(128 << 20)],
            ["0 B", "1023 B", "1.5 KiB", "128 MiB"]
        );
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
    }
}
