//! Tables of words and numbers. The tables of several seeds become one table of means and standard deviations.

/// A table: its title, its columns and its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The title.
    pub title: &'static str,
    /// The names of the columns, and whether they hold numbers.
    pub columns: Vec<(String, bool)>,
    /// The cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// The table of one run, or of several runs that differ only in numbers.
    pub(super) fn of(drafts: &[&Draft]) -> Self {
        let first = drafts[0];
        let rows = (0..first.rows.len()).map(|row| {
            let cell = |column| written(&drafts.iter().map(|draft| &draft.rows[row][column]).collect::<Vec<&Cell>>());
            (0..first.rows[row].len()).map(cell).collect()
        });
        Self { title: first.title, columns: first.columns.clone(), rows: rows.collect() }
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = line(self.columns.iter().map(|(name, _)| escape(name)).collect());
        text.push_str(
            &self.columns.iter().map(|(_, number)| if *number { "|--:" } else { "|---" }).collect::<String>(),
        );
        text.push_str("|\n");
        for row in &self.rows {
            text.push_str(&line(row.iter().map(|cell| escape(cell)).collect()));
        }
        text
    }
}

fn escape(cell: &str) -> String {
    cell.replace('|', "\\|")
}

/// A table of one run, whose numbers are not formatted yet.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    title: &'static str,
    columns: Vec<(String, bool)>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Clone, Debug)]
enum Cell {
    Words(String),
    /// A number, its decimals, and its unit.
    Number(f64, usize, &'static str),
    /// How many requests were served, of how many.
    Served(u64, u64),
}

impl Draft {
    pub(super) fn new(title: &'static str, words: &[&str], numbers: &[&str]) -> Self {
        let column = |number| move |name: &&str| ((*name).to_owned(), number);
        let columns = words.iter().map(column(false)).chain(numbers.iter().map(column(true))).collect();
        Self { title, columns, rows: Vec::new() }
    }

    /// Begins a row, to which cells are added.
    pub(super) fn row(&mut self) -> &mut Self {
        self.rows.push(Vec::new());
        self
    }

    pub(super) fn words(&mut self, words: &str) -> &mut Self {
        self.cell(Cell::Words(words.to_owned()))
    }

    pub(super) fn number(&mut self, value: f64, decimals: usize) -> &mut Self {
        self.cell(Cell::Number(value, decimals, ""))
    }

    pub(super) fn percent(&mut self, part: f64, decimals: usize) -> &mut Self {
        self.cell(Cell::Number(part * 100.0, decimals, "%"))
    }

    pub(super) fn served(&mut self, finished: u64, requests: u64) -> &mut Self {
        self.cell(Cell::Served(finished, requests))
    }

    fn cell(&mut self, cell: Cell) -> &mut Self {
        self.rows.last_mut().expect("a row was begun").push(cell);
        self
    }
}

/// The text of a cell: the value of one run, or the mean and standard deviation over several runs.
fn written(cells: &[&Cell]) -> String {
    match cells[0] {
        Cell::Words(words) => {
            let same = |cell: &&Cell| matches!(cell, Cell::Words(other) if other == words);
            if cells.iter().all(same) { words.clone() } else { "by seed".into() }
        }
        &Cell::Number(value, decimals, unit) => {
            let number = |cell: &&Cell| if let Cell::Number(value, ..) = cell { *value } else { 0.0 };
            let (mean, deviation) = mean_and_deviation(&cells.iter().map(number).collect::<Vec<f64>>());
            match cells.len() {
                1 => format!("{value:.decimals$}{unit}"),
                _ => format!("{mean:.decimals$} ± {deviation:.decimals$}{unit}"),
            }
        }
        Cell::Served(..) => {
            let sum = |of: fn(&Cell) -> u64| {
                let sum: u64 = cells.iter().map(|cell| of(cell)).sum();
                (sum as f64 / cells.len() as f64).round() as u64
            };
            let finished = sum(|cell| if let Cell::Served(finished, _) = cell { *finished } else { 0 });
            let requests = sum(|cell| if let Cell::Served(_, requests) = cell { *requests } else { 0 });
            if finished == requests { finished.to_string() } else { format!("{finished} of {requests}") }
        }
    }
}

/// The mean of numbers and their sample standard deviation, which is 0 for one number.
pub(super) fn mean_and_deviation(numbers: &[f64]) -> (f64, f64) {
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    let squares: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_runs_become_means_and_their_spread() {
        let draft = |name: &str, value, finished| {
            let mut draft = Draft::new("A title", &["variant", "best"], &["time", "part", "served"]);
            draft.row().words("one").words(name).number(value, 2).percent(value / 10.0, 0).served(finished, 8);
            draft
        };
        let (one, two) = (draft("a", 1.0, 8), draft("b", 3.0, 5));
        assert_eq!(Table::of(&[&one]).rows, [["one", "a", "1.00", "10%", "8"]]);
        // The deviation of a sample of 1 and 3 is the root of 2.
        assert_eq!(Table::of(&[&one, &two]).rows, [["one", "by seed", "2.00 ± 1.41", "20 ± 14%", "7 of 8"]]);
        assert_eq!(Table::of(&[&one, &one, &one]).rows, [["one", "a", "1.00 ± 0.00", "10 ± 0%", "8"]]);
    }

    #[test]
    fn what_would_end_a_cell_is_escaped() {
        let mut draft = Draft::new("", &["a|b"], &[]);
        draft.row().words("c|d");
        assert_eq!(Table::of(&[&draft]).markdown(), "| a\\|b |\n|---|\n| c\\|d |\n");
    }
}
