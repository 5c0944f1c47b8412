//! Tables on a terminal.

/// Of an entry, except of the last column: ids and names fit, and one long name does not push all other rows apart. `--json` has the whole.
const MOST_CHARS: usize = 64;

/// Columns as wide as their widest entry. What others wrote may hold anything: control characters would change the terminal.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    let last = head.len().saturating_sub(1);
    let entry = |(column, cell): (usize, &String)| if column < last { cut(printable(cell)) } else { printable(cell) };
    let lines: Vec<Vec<String>> =
        std::iter::once(&head).chain(rows).map(|row| row.iter().enumerate().map(entry).collect()).collect();
    let width = |column: usize| lines.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in &lines {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn cut(text: String) -> String {
    match text.char_indices().nth(MOST_CHARS) {
        Some(_) => text.chars().take(MOST_CHARS - 1).chain(['…']).collect(),
        None => text,
    }
}

/// A text without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_changes_no_terminal() {
        let rows = [vec!["a".to_owned(), "x\u{1b}[2J".to_owned()], vec!["bcd".to_owned(), String::new()]];
        assert_eq!(table(&["ID", "NOTE"], &rows), "ID   NOTE\na    x\u{fffd}[2J\nbcd\n");
    }

    #[test]
    fn a_long_entry_does_not_push_the_others_apart() {
        let (long, last) = ("é".repeat(200), "n".repeat(100));
        let text = table(&["ID", "NOTE"], &[vec![long, last.clone()], vec!["a".repeat(64), String::new()]]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, [&format!("{:<64}  NOTE", "ID"), &format!("{}…  {last}", "é".repeat(63)), &"a".repeat(64)]);
    }
}
