//! Earlier runs, kept by name, and what a run changed against one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::results::{FORMAT, Results};

/// Where a folder of reports keeps its baselines.
const FOLDER: &str = "baselines";

/// The name under which each run is kept until the next.
pub const LAST: &str = "last";

/// A time must differ by this share of it, or it is called the same.
const LEAST_CHANGE: f64 = 0.05;

/// And the rounds of then and now must lie this share apart, or it is called noise.
const LEAST_GAP: f64 = 0.02;

/// A case that takes longer or shorter than in the baseline.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The case, with its operation.
    pub case: String,
    /// The contestant's label.
    pub contestant: String,
    /// Seconds then.
    pub before: f64,
    /// Seconds now.
    pub now: f64,
}

impl Change {
    /// Its time now as a multiple of the time then.
    pub fn ratio(&self) -> f64 {
        self.now / self.before
    }
}

/// What a run changed against a baseline.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The baseline's name.
    pub name: String,
    /// Its date and commit.
    pub about: String,
    /// What takes longer beyond noise, the worst first.
    pub regressions: Vec<Change>,
    /// What takes less time beyond noise, the best first.
    pub improvements: Vec<Change>,
    /// How many times both have.
    pub compared: usize,
    /// What makes the two hard to compare.
    pub warnings: Vec<String>,
}

/// A name that is safe as a file's.
///
/// # Errors
/// When it has anything but letters, digits, `-`, `_` and `.`, or begins with a dot.
pub fn check_name(name: &str) -> Result<String, String> {
    let fits = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    if name.is_empty() || name.starts_with('.') || name.len() > 100 || !name.chars().all(fits) {
        return Err("a baseline's name has letters, digits, `-`, `_` and `.`, and begins with none of the last".into());
    }
    Ok(name.to_owned())
}

fn path(out: &Path, name: &str) -> PathBuf {
    out.join(FOLDER).join(format!("{name}.json"))
}

/// Keeps `results` under `name`, and returns the file.
///
/// # Errors
/// When the file cannot be written.
pub fn save(out: &Path, name: &str, results: &Results) -> Result<PathBuf> {
    let path = path(out, name);
    let written = fs::create_dir_all(out.join(FOLDER))
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(serde_json::to_string_pretty(results)?))
        .and_then(|text| Ok(fs::write(&path, text)?));
    written.with_context(|| format!("the baseline could not be kept in {}", path.display()))?;
    Ok(path)
}

/// The baseline called `name`.
///
/// # Errors
/// When there is none (the message lists those there are), or the file is damaged.
pub fn load(out: &Path, name: &str) -> Result<Results> {
    let path = path(out, name);
    if !path.exists() {
        let names = names(out);
        let there =
            if names.is_empty() { "there are none yet".into() } else { format!("there are: {}", names.join(", ")) };
        bail!("no baseline `{name}` in {}; {there}. Make one with `--save {name}`", out.join(FOLDER).display());
    }
    let again = || format!("{} is damaged; delete it, and make it again with `--save {name}`", path.display());
    let text = fs::read_to_string(&path).with_context(again)?;
    let value: serde_json::Value = serde_json::from_str(&text).with_context(again)?;
    if value["format"] != FORMAT {
        bail!(
            "{} has format {}, and this build reads {FORMAT}; make it again with `--save {name}`",
            path.display(),
            value["format"]
        );
    }
    serde_json::from_value(value).with_context(again)
}

/// The names of the baselines there are.
pub fn names(out: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(out.join(FOLDER)) else { return Vec::new() };
    let name = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".json").map(str::to_owned);
    let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
    names.sort();
    names
}

/// What `now` changed against `before`, of Fornax's own times: another library's are no regression of ours.
pub fn compare(name: &str, before: &Results, now: &Results) -> Comparison {
    let mut comparison = Comparison {
        name: name.to_owned(),
        about: format!("{}, commit {}", before.date, before.commit),
        regressions: Vec::new(),
        improvements: Vec::new(),
        compared: 0,
        warnings: warnings(before, now),
    };
    for result in &now.cases {
        let same = |other: &&super::results::CaseResult| other.case.label() == result.case.label();
        let Some(old) = before.cases.iter().find(same) else { continue };
        for contestant in now.contestants.iter().filter(|contestant| contestant.is_fornax()) {
            let label = &contestant.label;
            let (Some(then), Some(today)) = (old.timed(label), result.timed(label)) else { continue };
            comparison.compared += 1;
            let change =
                Change { case: result.case.label(), contestant: label.clone(), before: then.median, now: today.median };
            let ((fastest_then, slowest_then), (fastest, slowest)) = (then.range(), today.range());
            if change.ratio() > 1.0 + LEAST_CHANGE && fastest > slowest_then * (1.0 + LEAST_GAP) {
                comparison.regressions.push(change);
            } else if change.ratio() < 1.0 / (1.0 + LEAST_CHANGE) && slowest * (1.0 + LEAST_GAP) < fastest_then {
                comparison.improvements.push(change);
            }
        }
    }
    comparison.regressions.sort_by(|a, b| b.ratio().total_cmp(&a.ratio()));
    comparison.improvements.sort_by(|a, b| a.ratio().total_cmp(&b.ratio()));
    comparison
}

fn warnings(before: &Results, now: &Results) -> Vec<String> {
    let mut warnings = Vec::new();
    let threads = |results: &Results| results.contestants.first().and_then(|first| first.threads);
    if before.machine.processor != now.machine.processor || before.machine.cores != now.machine.cores {
        warnings.push(format!("The baseline is of another machine: {}.", before.machine.processor));
    }
    if let (Some(then), Some(today)) = (threads(before), threads(now))
        && then != today
    {
        warnings.push(format!("The baseline had {then} threads, this run has {today}."));
    }
    if before.quick != now.quick {
        warnings.push("One of the two runs is a quick one, so its times are less certain.".into());
    }
    for (label, limits) in &now.limits {
        let Some(old) = before.limits.get(label) else { continue };
        let ratio = limits.memory.all_threads / old.memory.all_threads;
        if !(0.9..=1.1).contains(&ratio) {
            warnings.push(format!(
                "The machine itself changed: {label} reads memory at {} of what it did then.",
                super::units::percent(ratio)
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::results::Outcome;
    use super::super::results::tests::{example, timed};
    use super::*;

    fn with(rounds: &[f64]) -> Results {
        let mut results = example();
        results.cases[0].outcomes.insert("cpu".into(), timed(rounds));
        results
    }

    #[test]
    fn what_is_slower_beyond_noise_is_named() {
        let comparison = compare("main", &with(&[1.0, 1.02, 1.04]), &with(&[1.2, 1.25, 1.3]));
        assert_eq!(comparison.regressions.len(), 1);
        assert_eq!(comparison.regressions[0].case, "linear 1×2×3");
        assert!((comparison.regressions[0].ratio() - 1.25 / 1.02).abs() < 1e-9);
        assert!(comparison.improvements.is_empty());
        // Three cases of cpu; torch's are not compared.
        assert_eq!(comparison.compared, 3);
    }

    #[test]
    fn what_is_faster_beyond_noise_is_named() {
        let comparison = compare("main", &with(&[1.2, 1.25, 1.3]), &with(&[1.0, 1.02, 1.04]));
        assert_eq!((comparison.regressions.len(), comparison.improvements.len()), (0, 1));
    }

    #[test]
    fn rounds_that_overlap_are_noise_and_small_changes_too() {
        for (before, now) in [
            (&[1.0, 1.1, 1.3][..], &[1.25, 1.3, 1.5][..]),
            (&[1.0, 1.0, 1.0], &[1.04, 1.04, 1.04]),
            (&[1.0, 1.0, 1.0], &[1.0, 1.0, 1.0]),
        ] {
            let comparison = compare("main", &with(before), &with(now));
            assert!(comparison.regressions.is_empty() && comparison.improvements.is_empty(), "{before:?} {now:?}");
        }
    }

    #[test]
    fn the_worst_regression_comes_first_and_cases_of_one_run_alone_are_left_out() {
        let before = example();
        let mut now = example();
        now.cases[0].outcomes.insert("cpu".into(), timed(&[4e-3]));
        now.cases[1].outcomes.insert("cpu".into(), timed(&[2e-1]));
        now.cases[2].outcomes.insert("cpu".into(), Outcome::Failed("no".into()));
        let comparison = compare("main", &before, &now);
        let ratios: Vec<f64> = comparison.regressions.iter().map(|change| change.ratio().round()).collect();
        assert_eq!((ratios, comparison.compared), (vec![10.0, 2.0], 2));
    }

    #[test]
    fn another_machine_is_warned_of() {
        let mut now = example();
        now.machine.processor = "Another".into();
        now.contestants[0].threads = Some(8);
        now.quick = false;
        if let Some(limits) = now.limits.get_mut("cpu") {
            limits.memory.all_threads *= 2.0;
        }
        assert_eq!(compare("main", &example(), &now).warnings.len(), 4);
        assert_eq!(compare("main", &example(), &example()).warnings, Vec::<String>::new());
    }

    #[test]
    fn baselines_are_kept_and_found() {
        let out = tempfile::tempdir().expect("a folder");
        let error = load(out.path(), "main").expect_err("none yet").to_string();
        assert!(error.contains("no baseline `main`") && error.contains("--save main"), "{error}");
        save(out.path(), "main", &example()).expect("written");
        save(out.path(), "other", &example()).expect("written");
        assert_eq!(load(out.path(), "main").expect("there"), example());
        let error = load(out.path(), "mian").expect_err("none").to_string();
        assert!(error.contains("there are: main, other"), "{error}");
    }

    #[test]
    fn damaged_and_foreign_baselines_are_errors() {
        let out = tempfile::tempdir().expect("a folder");
        let path = save(out.path(), "main", &example()).expect("written");
        let whole = std::fs::read_to_string(&path).expect("text");
        let foreign = whole.replacen("\"format\": 1", "\"format\": 99", 1);
        for (text, words) in
            [("{", "damaged"), ("[]", "format"), (&foreign, "has format 99"), ("{\"format\": 1}", "damaged")]
        {
            std::fs::write(&path, text).expect("written");
            let error = format!("{:#}", load(out.path(), "main").expect_err("bad"));
            assert!(error.contains(words) && error.contains("--save main"), "{text}: {error}");
        }
        // Bytes that are no text.
        std::fs::write(&path, [0xff, 0xfe]).expect("written");
        assert!(load(out.path(), "main").is_err());
    }

    #[test]
    fn names_are_those_of_files() {
        for good in ["main", "v0.1_x-y"] {
            assert_eq!(check_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "a/b", "..", ".x", "a b", "é"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
