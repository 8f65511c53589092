//! Tables without borders. Every cell is escaped, because names of images and processes are untrusted.

use super::escape::escape;
use comfy_table::{CellAlignment, ContentArrangement, Table, TableStyle};

/// Formats `rows` under `header`, one line a row, however narrow the terminal is.
pub(crate) fn table<R: IntoIterator<Item = String>>(header: &[&str], rows: impl IntoIterator<Item = R>) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row.into_iter().map(|cell| escape(&cell).into_owned()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2)).set_cell_alignment(CellAlignment::Left);
    }
    table.trim_fmt()
}

/// Formats `key: value` lines with the values in one column; absent values are left out.
pub(crate) fn facts(facts: &[(&str, Option<String>)]) -> String {
    let width = facts.iter().filter(|(_, value)| value.is_some()).map(|(key, _)| key.len()).max().unwrap_or(0) + 2;
    facts
        .iter()
        .filter_map(|(key, value)| Some(format!("{:width$}{}", format!("{key}:"), escape(value.as_deref()?))))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_cells_are_harmless() {
        let text = table(&["NAME", "STATE"], [["a".to_owned(), "running".to_owned()], ["\x1b[1m".into(), "x".into()]]);
        assert_eq!(text, "NAME       STATE\na          running\n\\u{1b}[1m  x");
    }

    #[test]
    fn absent_facts_are_left_out() {
        let text = facts(&[("name", Some("demo".into())), ("boot id", None), ("ip", Some("a\nb".into()))]);
        assert_eq!(text, "name: demo\nip:   a\\nb");
    }
}
