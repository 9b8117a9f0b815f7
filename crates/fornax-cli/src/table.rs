//! Plain tables and numbers for people: aligned columns, short counts, names without control characters.

/// A table's lines: columns as wide as their widest cell, two spaces apart. `right` says which columns hold numbers; the
/// last one, if it is not among them, is not filled up.
pub fn table(rows: &[Vec<String>], right: &[bool]) -> Vec<String> {
    let mut widths = vec![0; right.len()];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &Vec<String>| {
        let cells =
            row.iter().zip(&widths).zip(right).map(|((cell, &width), &right)| {
                if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A count in three digits: `260 K`, `1.24 B`.
pub fn short_count(count: u64) -> String {
    for (unit, name) in [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")] {
        let value = count as f64 / unit;
        // 999.6 of a unit is 1 of the next.
        if value >= 0.9995 {
            let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
            return format!("{value:.digits$} {name}");
        }
    }
    count.to_string()
}

/// Text from a file on one line of a terminal: control characters are written out.
pub fn printable(text: &str) -> String {
    written_out(text, |_| false)
}

/// Text for a terminal: control characters are written out, but not line breaks and tabs.
pub fn harmless(text: &str) -> String {
    written_out(text, |c| matches!(c, '\n' | '\t'))
}

fn written_out(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !stays(c) { out.extend(c.escape_debug()) } else { out.push(c) }
    }
    out
}

/// The beginning of a text, at most `limit` characters, on one line.
pub fn shortened(text: &str, limit: usize) -> String {
    let text = printable(text);
    match text.char_indices().nth(limit) {
        None => text,
        Some(_) => text.chars().take(limit.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = [vec!["a".to_owned(), "10".to_owned(), "x".to_owned()], vec!["bcd".into(), "7".into(), "yz".into()]];
        assert_eq!(table(&rows, &[false, true, false]), ["a    10  x", "bcd   7  yz"]);
    }

    #[test]
    fn counts_have_three_digits() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.00 K"),
            (260_032, "260 K"),
            (999_999, "1.00 M"),
            (12_345_678, "12.3 M"),
            (1_235_814_400, "1.24 B"),
        ] {
            assert_eq!(short_count(count), text);
        }
    }

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(printable("a\u{1b}[2Jé\n"), "a\\u{1b}[2Jé\\n");
        assert_eq!(harmless("a\u{1b}[2Jé\n\t"), "a\\u{1b}[2Jé\n\t");
        assert_eq!(shortened("abcdef", 6), "abcdef");
        assert_eq!(shortened("abcdefg", 6), "abcde…");
    }
}
