//! The measuring: case by case, and in each case round by round, every contestant in turn (A B A B), so that whatever
//! changes on the machine meanwhile changes for all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::contestant::Contestant;
use super::progress::Progress;
use super::results::{Case, CaseResult, Outcome};
use super::statistics::Summary;

/// How much time is given to what.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// How often each contestant has its turn in a case.
    pub rounds: usize,
    /// How long a turn is.
    pub turn: Duration,
    /// How long a contestant may take over one case before it gets no further turns.
    pub most: Duration,
    /// How long an answer is waited for.
    pub patience: Duration,
    /// When all must be done, if ever.
    pub whole: Option<Duration>,
}

impl Effort {
    /// For figures to be kept.
    pub const FULL: Self = Self {
        rounds: 5,
        turn: Duration::from_millis(400),
        most: Duration::from_secs(30),
        patience: Duration::from_secs(180),
        whole: None,
    };

    /// For a look: all is done in less than five minutes.
    pub const QUICK: Self = Self {
        rounds: 3,
        turn: Duration::from_millis(150),
        most: Duration::from_secs(4),
        patience: Duration::from_secs(45),
        whole: Some(Duration::from_secs(240)),
    };
}

/// The shortest turn that still says something.
const LEAST_TURN: Duration = Duration::from_millis(30);

/// How long an answer is waited for when no time is left.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);

/// Runs `cases` on `contestants`. Cases that the time did not suffice for are returned apart.
pub fn measure(
    cases: Vec<Case>,
    contestants: &mut [Contestant],
    effort: &Effort,
    started: Instant,
) -> (Vec<CaseResult>, Vec<Case>) {
    let progress = Progress::new(cases.len());
    let (mut results, mut left_out) = (Vec::new(), Vec::new());
    let count = cases.len();
    for (index, case) in cases.into_iter().enumerate() {
        let left = effort.whole.map(|whole| whole.saturating_sub(started.elapsed()));
        if left == Some(Duration::ZERO) {
            left_out.push(case);
            continue;
        }
        let turn = turn(effort, left, (count - index) * contestants.len());
        // Near the end nobody is waited for long, so that the whole is done in time.
        let patience = left.map_or(effort.patience, |left| effort.patience.min(left.max(LEAST_PATIENCE)));
        let effort = Effort { turn, patience, ..*effort };
        let outcomes = run(&case, contestants, &effort, |label| {
            progress.at(index, &format!("{} on {label}", case.label()));
        });
        results.push(CaseResult { case, outcomes });
    }
    progress.clear();
    (results, left_out)
}

/// How long a turn may be, when `remaining` cases of single contestants share the time that is left.
fn turn(effort: &Effort, left: Option<Duration>, remaining: usize) -> Duration {
    let Some(left) = left else { return effort.turn };
    // Making operands and warming up cost about as much as the turns.
    let share = left / (2 * effort.rounds * remaining.max(1)) as u32;
    share.clamp(LEAST_TURN, effort.turn)
}

fn run(case: &Case, contestants: &mut [Contestant], effort: &Effort, tell: impl Fn(&str)) -> BTreeMap<String, Outcome> {
    let mut outcomes = BTreeMap::new();
    let mut rounds: Vec<Vec<Vec<f64>>> = vec![Vec::new(); contestants.len()];
    let mut spent = vec![Duration::ZERO; contestants.len()];
    for (at, contestant) in contestants.iter_mut().enumerate() {
        tell(&contestant.facts.label);
        let start = Instant::now();
        if let Some(outcome) = prepare(case, contestant, effort) {
            outcomes.insert(contestant.facts.label.clone(), outcome);
        }
        spent[at] = start.elapsed().min(effort.most / 2);
    }
    for _ in 0..effort.rounds {
        for (at, contestant) in contestants.iter_mut().enumerate() {
            let label = contestant.facts.label.clone();
            // One round at least, however long it takes.
            if outcomes.contains_key(&label) || (spent[at] >= effort.most && !rounds[at].is_empty()) {
                continue;
            }
            tell(&label);
            let start = Instant::now();
            match time(contestant, effort) {
                Ok(samples) => rounds[at].push(samples),
                Err(error) => {
                    outcomes.insert(label, Outcome::Failed(format!("{error:#}")));
                }
            }
            spent[at] += start.elapsed();
        }
    }
    for (contestant, rounds) in contestants.iter().zip(&rounds) {
        outcomes.entry(contestant.facts.label.clone()).or_insert_with(|| match Summary::of(rounds) {
            Some(summary) => Outcome::Timed(summary),
            None => Outcome::Failed("its times are no times".into()),
        });
    }
    outcomes
}

/// Lets a contestant make its operands; the outcome where that is the end of it.
fn prepare(case: &Case, contestant: &mut Contestant, effort: &Effort) -> Option<Outcome> {
    let request = json!({
        "do": "prepare", "op": case.op, "name": case.name, "shape": case.shape, "copies": case.copies
    });
    match contestant.ask(&request, effort.patience) {
        Err(error) => Some(Outcome::Failed(format!("{error:#}"))),
        Ok(answer) => answer["unsupported"].as_str().map(|reason| Outcome::Unsupported(reason.to_owned())),
    }
}

fn time(contestant: &mut Contestant, effort: &Effort) -> Result<Vec<f64>> {
    let answer = contestant.ask(&json!({"do": "time", "seconds": effort.turn.as_secs_f64()}), effort.patience)?;
    let samples: Option<Vec<f64>> =
        answer["samples"].as_array().and_then(|samples| samples.iter().map(Value::as_f64).collect());
    samples.filter(|samples| !samples.is_empty()).with_context(|| format!("its answer has no samples: {answer}"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::contestant::Launch;
    use super::super::results::tests::case;
    use super::*;

    const EFFORT: Effort = Effort {
        rounds: 3,
        turn: Duration::from_millis(1),
        most: Duration::from_secs(60),
        patience: Duration::from_secs(20),
        whole: None,
    };

    /// A shell that answers as `answer` says: a shell's `case` over what is asked.
    fn shell(folder: &tempfile::TempDir, label: &str, answers: &str) -> Contestant {
        // What it was asked is written down before it answers, so that the order is that of the questions.
        let script = format!(
            r#"while read line; do echo "{label} $line" >> {}/asked; case "$line" in
                *hello*) echo '{{"name":"{label}"}}';;
                {answers}
            esac; done"#,
            folder.path().display()
        );
        Contestant::start(Launch {
            label: label.into(),
            program: "sh".into(),
            arguments: vec!["-c".into(), script],
            environment: Vec::new(),
            log: folder.path().join("log"),
        })
        .expect("a shell")
    }

    const GOOD: &str = r#"*prepare*) echo '{"ready":true}';; *time*) echo '{"samples":[2.0,1.0,3.0]}';;"#;

    #[test]
    fn contestants_take_turns_in_every_case() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut contestants = [shell(&folder, "a", GOOD), shell(&folder, "b", GOOD)];
        let cases = vec![case("linear", "1", 1, 1), case("rope", "1", 1, 1)];
        let (results, left_out) = measure(cases, &mut contestants, &EFFORT, Instant::now());
        assert_eq!((results.len(), left_out.len()), (2, 0));
        assert_eq!(results[1].timed("b").expect("times").median, 2.0);
        let asked = std::fs::read_to_string(folder.path().join("asked")).expect("lines");
        let order: String = asked.lines().filter(|line| line.contains("time")).map(|line| &line[..1]).collect();
        assert_eq!(order.len(), 12);
        for turns in order.as_bytes().chunks(2) {
            assert_ne!(turns[0], turns[1], "{order}");
        }
    }

    #[test]
    fn what_one_cannot_do_does_not_stop_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut contestants = [
            shell(&folder, "good", GOOD),
            shell(&folder, "without", r#"*prepare*) echo '{"unsupported":"no q4_0"}';;"#),
            shell(&folder, "failing", r#"*prepare*) echo '{"error":"out of memory"}';;"#),
            shell(&folder, "dying", r#"*prepare*) echo '{"ready":true}';; *time*) exit 3;;"#),
            shell(&folder, "silly", r#"*prepare*) echo '{"ready":true}';; *time*) echo '{"samples":[0]}';;"#),
            shell(&folder, "mute", r#"*prepare*) echo '{"ready":true}';; *time*) echo '{"samples":[]}';;"#),
        ];
        let (results, _) = measure(vec![case("linear", "1", 1, 1)], &mut contestants, &EFFORT, Instant::now());
        let outcome = |label: &str| results[0].outcomes[label].clone();
        assert!(matches!(outcome("good"), Outcome::Timed(summary) if summary.rounds.len() == 3));
        assert_eq!(outcome("without"), Outcome::Unsupported("no q4_0".into()));
        assert_eq!(outcome("failing"), Outcome::Failed("out of memory".into()));
        assert!(matches!(outcome("dying"), Outcome::Failed(reason) if reason.contains("exit status: 3")));
        assert!(matches!(outcome("silly"), Outcome::Failed(_)));
        assert!(matches!(outcome("mute"), Outcome::Failed(reason) if reason.contains("no samples")));
    }

    #[test]
    fn when_the_time_is_over_the_rest_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut contestants = [shell(&folder, "a", GOOD)];
        let effort = Effort { whole: Some(Duration::ZERO), ..EFFORT };
        let (results, left_out) = measure(vec![case("linear", "1", 1, 1)], &mut contestants, &effort, Instant::now());
        assert_eq!((results.len(), left_out.len()), (0, 1));
    }

    #[test]
    fn a_slow_contestant_gets_one_round() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut contestants = [shell(&folder, "a", GOOD)];
        let effort = Effort { most: Duration::ZERO, ..EFFORT };
        let (results, _) = measure(vec![case("linear", "1", 1, 1)], &mut contestants, &effort, Instant::now());
        assert_eq!(results[0].timed("a").expect("times").rounds.len(), 1);
    }

    #[test]
    fn turns_get_shorter_where_much_is_left_to_do() {
        let quick = Effort::QUICK;
        assert_eq!(turn(&quick, Some(Duration::from_secs(240)), 10), quick.turn);
        let shorter = turn(&quick, Some(Duration::from_secs(60)), 100);
        assert!(shorter < quick.turn && shorter > LEAST_TURN, "{shorter:?}");
        assert_eq!(turn(&quick, Some(Duration::from_secs(1)), 1000), LEAST_TURN);
        assert_eq!(turn(&Effort::FULL, None, 1000), Effort::FULL.turn);
    }
}
