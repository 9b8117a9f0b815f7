//! The reports of several variants together: tables, distances from an oracle, the regret of a learning policy, and
//! plots.

use super::plot::{self, Labels, Line};
use super::table::{Draft, Table};
use super::{Report, TenantReport};

/// The outcome of a scenario: one report a variant, for each seed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The scenario's title.
    pub title: String,
    /// The first seed.
    pub seed: u64,
    /// One report a variant, with the first seed.
    pub reports: Vec<Report>,
    /// The same for each of the seeds after the first.
    pub repeats: Vec<Vec<Report>>,
}

/// A variant's figures divided by the oracle's: 1 is as good.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize))]
pub struct Distance {
    /// The variant.
    pub name: String,
    /// The number of served requests, over the oracle's. The latencies are those of served requests.
    pub finished: f64,
    /// The mean time from arrival to end of served requests, over the oracle's.
    pub mean_latency: f64,
    /// The mean time to the first token of requests that got one, over the oracle's.
    pub first_token_mean: f64,
    /// The 99th percentile of the time to the first token, by class, over the oracle's.
    pub first_token_p99: Vec<f64>,
    /// Output tokens a second, over the oracle's.
    pub output_tokens_per_second: f64,
}

/// The reward that a learning policy lost against the best of its arms in hindsight.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize))]
pub struct Regret {
    /// The learning variant.
    pub name: String,
    /// The fixed variant with the highest reward.
    pub best: String,
    /// The sum over all windows of the best variant's reward less the learning variant's.
    pub total: f64,
    /// The number of windows. The reward of a window lies between 0 and 1.
    pub windows: usize,
    /// The part of the total lost in the second half of the windows. Below a half, the policy learned.
    pub late: f64,
}

impl Outcome {
    /// The report of this name.
    pub fn report(&self, name: &str) -> Option<&Report> {
        self.reports.iter().find(|report| report.name == name)
    }

    /// The number of seeds.
    pub fn seeds(&self) -> u64 {
        1 + self.repeats.len() as u64
    }

    /// The title with the seeds.
    pub fn heading(&self) -> String {
        match self.repeats.len() as u64 {
            0 => format!("{}, seed {}", self.title, self.seed),
            more => format!("{}, seeds {} to {}", self.title, self.seed, self.seed.saturating_add(more)),
        }
    }

    /// All tables in Markdown.
    pub fn markdown(&self) -> String {
        let texts: Vec<String> = self.tables().iter().map(Table::markdown).collect();
        texts.join("\n")
    }

    /// The tables by class and by variant; then, where they have rows, the tables by tenant, of replicas, of distances
    /// from the oracle, and of regret. With several seeds a number is the mean over them and, after ±, the standard
    /// deviation.
    pub fn tables(&self) -> Vec<Table> {
        let one = |reports: &Vec<Report>| Self { reports: reports.clone(), ..Self::default() };
        let runs: Vec<Self> = std::iter::once(&self.reports).chain(&self.repeats).map(one).collect();
        let mut tenants: Vec<(u32, String)> = runs
            .iter()
            .flat_map(|run| &run.reports)
            .flat_map(|report| &report.tenants)
            .map(|tenant| (tenant.tenant, tenant.label()))
            .collect();
        tenants.sort_unstable();
        tenants.dedup();
        let drafts: Vec<Vec<Draft>> = runs.iter().map(|run| run.drafts(&tenants)).collect();
        let places = 0..drafts.iter().map(Vec::len).min().unwrap_or(0);
        places.map(|at| Table::of(&drafts.iter().map(|drafts| &drafts[at]).collect::<Vec<&Draft>>())).collect()
    }

    fn drafts(&self, tenants: &[(u32, String)]) -> Vec<Draft> {
        let mut drafts = vec![self.classes(), self.variants()];
        if (2..=MOST_TENANTS).contains(&tenants.len()) {
            drafts.push(self.tenants(tenants));
        }
        if self.reports.iter().any(|report| report.replicas > 1) {
            drafts.push(self.replicas());
        }
        drafts.extend(self.oracle());
        drafts.extend(self.learning());
        drafts
    }

    fn classes(&self) -> Draft {
        let numbers = [
            "served",
            "latency, mean (s)",
            "p50",
            "p99",
            "first token p50 (s)",
            "p90",
            "p99",
            "next token p50 (ms)",
            "p99",
            "within targets",
        ];
        let mut draft = Draft::new("By class", &["variant", "class"], &numbers);
        for report in &self.reports {
            for (at, class) in report.classes.iter().enumerate() {
                draft
                    .row()
                    .words(if at == 0 { &report.name } else { "" })
                    .words(&class.name)
                    .served(class.finished, class.requests)
                    .number(class.mean_latency, 3)
                    .number(class.latency_p50, 3)
                    .number(class.latency_p99, 3)
                    .number(class.first_token_p50, 3)
                    .number(class.first_token_p90, 3)
                    .number(class.first_token_p99, 3)
                    .number(class.next_token_p50 * 1e3, 1)
                    .number(class.next_token_p99 * 1e3, 1)
                    .percent(class.within_targets, 1);
            }
        }
        draft
    }

    fn variants(&self) -> Draft {
        let numbers = [
            "served",
            "tokens/s",
            "goodput (1/s)",
            "latency (s)",
            "in the system",
            "reward",
            "hits",
            "preempted",
            "tokens lost",
            "busy",
            "fairness gap",
        ];
        let mut draft = Draft::new("By variant", &["variant"], &numbers);
        for report in &self.reports {
            draft
                .row()
                .words(&report.name)
                .served(report.finished, report.requests)
                .number(report.output_tokens_per_second, 0)
                .number(report.goodput, 2)
                .number(report.mean_latency, 3)
                .number(report.mean_in_system, 1)
                .number(report.reward, 3)
                .percent(report.cache_hit_rate, 1)
                .number(report.preemptions as f64, 0)
                .number(report.lost_tokens as f64, 0)
                .percent(report.utilisation, 0)
                .number(report.fairness_gap, 0);
        }
        draft
    }

    fn tenants(&self, tenants: &[(u32, String)]) -> Draft {
        let numbers = ["served", "latency, mean (s)", "most", "first token, mean (s)", "most", "service (tokens)"];
        let mut draft = Draft::new("By tenant", &["variant", "tenant"], &numbers);
        for report in &self.reports {
            for (at, (number, label)) in tenants.iter().enumerate() {
                let nothing = TenantReport::default();
                let one = report.tenants.iter().find(|tenant| tenant.tenant == *number).unwrap_or(&nothing);
                draft
                    .row()
                    .words(if at == 0 { &report.name } else { "" })
                    .words(label)
                    .served(one.finished, one.requests)
                    .number(one.mean_latency, 3)
                    .number(one.most_latency, 3)
                    .number(one.first_token_mean, 3)
                    .number(one.first_token_most, 3)
                    .number(one.service, 0);
            }
        }
        draft
    }

    fn replicas(&self) -> Draft {
        let numbers = [
            "hits",
            "evicted before",
            "never there",
            "busiest (tokens)",
            "over the mean",
            "variation",
            "over the mean, 10 s",
            "variation, 10 s",
            "busy time over the mean, 10 s",
        ];
        let mut draft =
            Draft::new("Replicas: hits, misses, and how evenly tokens were computed", &["variant"], &numbers);
        for report in &self.reports {
            let (tokens, busy) = (&report.tokens_balance, &report.busy_balance);
            draft
                .row()
                .words(&report.name)
                .percent(report.cache_hit_rate, 1)
                .number(report.evicted_misses as f64, 0)
                .number(report.cold_misses as f64, 0)
                .number(report.busiest_tokens as f64, 0)
                .number(tokens.most, 3)
                .number(tokens.variation, 3)
                .number(tokens.window_most, 3)
                .number(tokens.window_variation, 3)
                .number(busy.window_most, 3);
        }
        draft
    }

    fn oracle(&self) -> Option<Draft> {
        let distances = self.distances();
        let classes = &self.reports.first()?.classes;
        let p99: Vec<String> = classes.iter().map(|class| format!("first token p99, {}", class.name)).collect();
        let numbers = ["served", "latency, mean", "first token, mean"].into_iter();
        let numbers: Vec<&str> = numbers.chain(p99.iter().map(String::as_str)).chain(["tokens/s"]).collect();
        let mut draft = Draft::new("Times the oracle's", &["variant"], &numbers);
        for distance in &distances {
            let row = draft.row().words(&distance.name).number(distance.finished, 3);
            let row = row.number(distance.mean_latency, 3).number(distance.first_token_mean, 2);
            let row = distance.first_token_p99.iter().fold(row, |row, factor| row.number(*factor, 2));
            row.number(distance.output_tokens_per_second, 3);
        }
        (!distances.is_empty()).then_some(draft)
    }

    fn learning(&self) -> Option<Draft> {
        let numbers = ["regret", "of at most", "in the second half"];
        let mut draft = Draft::new("What learning cost", &["variant", "against"], &numbers);
        let regrets = self.regrets();
        for regret in &regrets {
            draft
                .row()
                .words(&regret.name)
                .words(&regret.best)
                .number(regret.total, 1)
                .number(regret.windows as f64, 0)
                .number(regret.late * regret.total, 1);
        }
        (!regrets.is_empty()).then_some(draft)
    }

    /// How far each variant is from the oracle; none if there is no oracle.
    pub fn distances(&self) -> Vec<Distance> {
        let Some(oracle) = self.reports.iter().find(|report| report.oracle) else { return Vec::new() };
        let factor = |value: f64, of: f64| if of > 0.0 { value / of } else { 1.0 };
        let first_token = |report: &Report| {
            let all: u64 = report.classes.iter().map(|class| class.first_token.count()).sum();
            let sum: f64 = report.classes.iter().map(|c| c.first_token_mean * c.first_token.count() as f64).sum();
            sum / all.max(1) as f64
        };
        let distance = |report: &Report| Distance {
            name: report.name.clone(),
            finished: factor(report.finished as f64, oracle.finished as f64),
            mean_latency: factor(report.mean_latency, oracle.mean_latency),
            first_token_mean: factor(first_token(report), first_token(oracle)),
            first_token_p99: report
                .classes
                .iter()
                .zip(&oracle.classes)
                .map(|(class, of)| factor(class.first_token_p99, of.first_token_p99))
                .collect(),
            output_tokens_per_second: factor(report.output_tokens_per_second, oracle.output_tokens_per_second),
        };
        self.reports.iter().map(distance).collect()
    }

    /// The regret of each learning variant against the best fixed variant among its arms; empty if no variant learns.
    pub fn regrets(&self) -> Vec<Regret> {
        let regret = |learner: &Report| {
            let best = self.best_arm(learner)?;
            let lost = lost(best, learner);
            let total: f64 = lost.iter().sum();
            let late: f64 = lost[lost.len() / 2..].iter().sum();
            let late = if total == 0.0 { 0.0 } else { late / total };
            Some(Regret { name: learner.name.clone(), best: best.name.clone(), total, windows: lost.len(), late })
        };
        self.reports.iter().filter_map(regret).collect()
    }

    /// The fixed variant with the highest reward whose policy is an arm of the learner.
    fn best_arm(&self, learner: &Report) -> Option<&Report> {
        let base = |policy: &str| policy.split(':').next().unwrap_or_default().trim().to_owned();
        let arms = self.reports.iter().filter(|one| !one.oracle && learner.learned_from.contains(&&*base(&one.policy)));
        arms.max_by(|one, two| one.reward.total_cmp(&two.reward))
    }

    /// Plots as SVG, each with a file name: the distribution of times to the first token by class, their 99th
    /// percentiles as bars, and queues over time; with several replicas, hits over balance; with a learning policy,
    /// lost rewards.
    pub fn plots(&self) -> Vec<(String, String)> {
        let mut plots: Vec<(String, String)> = Vec::new();
        let classes = self.reports.first().map_or(&[][..], |report| &report.classes);
        for (at, class) in classes.iter().enumerate() {
            let line =
                |report: &Report| Line { name: report.name.clone(), points: report.classes[at].first_token.curve() };
            let lines: Vec<Line> = self.reports.iter().map(line).collect();
            let title = format!("{}: time to the first token, {}", self.title, class.name);
            let labels = Labels { title: &title, x: "seconds", y: "part of requests", log_x: true };
            let name = format!("first-token-{}", file_name(&class.name));
            let taken = plots.iter().any(|(other, _)| *other == format!("{name}.svg"));
            let name = if taken { format!("{name}-{at}.svg") } else { format!("{name}.svg") };
            plots.push((name, plot::lines(labels, &lines)));
        }
        let names: Vec<&str> = classes.iter().map(|class| class.name.as_str()).collect();
        let p99 = |report: &Report| report.classes.iter().map(|class| class.first_token_p99).collect();
        let series: Vec<(String, Vec<f64>)> =
            self.reports.iter().map(|report| (report.name.clone(), p99(report))).collect();
        let title = format!("{}: time to the first token, 99th percentile", self.title);
        let labels = Labels { title: &title, x: "class", y: "seconds", log_x: false };
        plots.push(("p99.svg".into(), plot::bars(labels, &names, &series)));
        let queue = |report: &Report| {
            let points = report.queue.iter().enumerate().map(|(at, &count)| (at as f64, f64::from(count)));
            Line { name: report.name.clone(), points: points.collect() }
        };
        let title = format!("{}: requests waiting for their first token", self.title);
        let labels = Labels { title: &title, x: "seconds", y: "requests", log_x: false };
        plots.push(("queue.svg".into(), plot::lines(labels, &self.reports.iter().map(queue).collect::<Vec<Line>>())));
        if self.reports.iter().any(|report| report.replicas > 1 && report.cache_hits > 0) {
            let point = |report: &Report| (report.name.clone(), (report.tokens_balance.most, report.cache_hit_rate));
            let title = format!("{}: what is found, and how even the work is", self.title);
            let x = "tokens computed by the busiest replica, over the mean";
            let labels = Labels { title: &title, x, y: "part of blocks found", log_x: true };
            plots.push((
                "balance.svg".into(),
                plot::points(labels, &self.reports.iter().map(point).collect::<Vec<_>>()),
            ));
        }
        plots.extend(self.regret_plot().map(|svg| ("regret.svg".to_owned(), svg)));
        plots
    }

    /// The cumulative reward that each variant lost against the best fixed variant; none if no variant learns.
    fn regret_plot(&self) -> Option<String> {
        let learner = self.reports.iter().find(|report| self.best_arm(report).is_some())?;
        let best = self.best_arm(learner)?;
        let fixed = |report: &&Report| report.name != best.name && !report.oracle;
        let line = |report: &Report| {
            let mut sum = 0.0;
            let points = lost(best, report).into_iter().enumerate().map(|(at, lost)| {
                sum += lost;
                (at as f64 * 10.0, sum.max(0.0))
            });
            Line { name: report.name.clone(), points: points.collect() }
        };
        let lines: Vec<Line> = self.reports.iter().filter(fixed).map(line).collect();
        let title = format!("{}: reward lost against {}", self.title, best.name);
        Some(plot::lines(Labels { title: &title, x: "seconds", y: "lost reward", log_x: false }, &lines))
    }

    /// The reports as JSON. With several seeds, all but `spread` is of the first seed. `spread` repeats `variants` and
    /// has, in the place of each number, its mean over the seeds, its standard deviation, the least and the most.
    #[cfg(feature = "simulate")]
    pub fn json(&self) -> serde_json::Value {
        let mut json = serde_json::json!({
            "title": self.title,
            "seed": self.seed,
            "seeds": self.seeds(),
            "variants": self.reports,
            "times_the_oracle": self.distances(),
            "regret": self.regrets(),
        });
        if !self.repeats.is_empty() {
            let runs = std::iter::once(&self.reports).chain(&self.repeats);
            let runs: Vec<serde_json::Value> = runs.map(|reports| serde_json::json!(reports)).collect();
            json["spread"] = spread(&runs.iter().collect::<Vec<_>>());
        }
        json
    }
}

/// A value of the same form as each of `values`, with the spread of each number in its place.
#[cfg(feature = "simulate")]
fn spread(values: &[&serde_json::Value]) -> serde_json::Value {
    use serde_json::Value;
    match values[0] {
        Value::Number(_) => {
            let numbers: Vec<f64> = values.iter().filter_map(|value| value.as_f64()).collect();
            let (mean, deviation) = super::table::mean_and_deviation(&numbers);
            let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
            let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            serde_json::json!({"mean": mean, "standard_deviation": deviation, "least": least, "most": most})
        }
        Value::Array(items) => {
            // With another seed, other tenants may have come.
            let length = values.iter().filter_map(|value| value.as_array()).map(Vec::len).min().unwrap_or(items.len());
            (0..length).map(|at| spread(&values.iter().map(|value| &value[at]).collect::<Vec<_>>())).collect()
        }
        Value::Object(fields) => {
            let field = |key: &String| spread(&values.iter().map(|value| &value[key]).collect::<Vec<_>>());
            Value::Object(fields.keys().map(|key| (key.clone(), field(key))).collect())
        }
        other => other.clone(),
    }
}

/// The most tenants that have rows of their own in a table.
const MOST_TENANTS: usize = 24;

/// The best variant's reward less another's, for each window in which both have a reward.
fn lost(best: &Report, other: &Report) -> Vec<f64> {
    let pairs = best.rewards.iter().zip(&other.rewards);
    pairs.filter_map(|(best, other)| Some((*best)? - (*other)?)).collect()
}

/// A name that is valid for a file on every system and does not leave its folder.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c.to_ascii_lowercase() } else { '-' };
    name.chars().take(60).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::ClassReport;

    fn report(name: &str, policy: &str, rewards: &[f64]) -> Report {
        let class = |name: &str| ClassReport { name: name.into(), first_token_p99: 2.0, ..ClassReport::default() };
        Report {
            name: name.into(),
            policy: policy.into(),
            replicas: 1,
            mean_latency: 3.0,
            reward: rewards.iter().sum::<f64>() / rewards.len() as f64,
            rewards: rewards.iter().copied().map(Some).collect(),
            classes: vec![class("a/../b"), class("a-..-b")],
            ..Report::default()
        }
    }

    #[test]
    fn regret_is_against_the_best_fixed_arm() {
        let mut learner = report("learns", "bandit", &[0.2, 0.7, 0.9, 0.8]);
        learner.learned_from = vec!["fcfs", "shortest"];
        let reports = vec![
            learner,
            report("first", "fcfs", &[0.4; 4]),
            report("short", "shortest:ageing=1", &[0.8; 4]),
            report("other", "vtc", &[1.0; 4]),
        ];
        let outcome = Outcome { reports, ..Outcome::default() };
        let [regret] = &outcome.regrets()[..] else { panic!("one learns") };
        assert_eq!((regret.best.as_str(), regret.windows), ("short", 4));
        assert!((regret.total - 0.6).abs() < 1e-12 && (regret.late - -1.0 / 6.0).abs() < 1e-9, "{regret:?}");
        assert!(outcome.plots().iter().any(|(name, _)| name == "regret.svg"));
        let markdown = outcome.markdown();
        assert!(markdown.contains("| learns | short | 0.6 | 4 | -0.1 |"), "{markdown}");
    }

    #[test]
    fn distances_are_factors_of_the_oracle() {
        let oracle = Report { oracle: true, mean_latency: 1.5, ..report("oracle", "shortest:ageing=0", &[1.0]) };
        let served = Report { finished: 3, ..report("fcfs", "fcfs", &[1.0]) };
        let outcome = Outcome { reports: vec![served, Report { finished: 4, ..oracle }], ..Outcome::default() };
        let distances = outcome.distances();
        assert_eq!((distances[0].mean_latency, distances[1].mean_latency), (2.0, 1.0));
        assert_eq!((distances[0].finished, distances[1].finished), (0.75, 1.0));
        assert_eq!(distances[0].first_token_p99, [1.0, 1.0]);
        assert!(outcome.regrets().is_empty());
        assert_eq!(outcome.tables().len(), 3);
        assert!(Outcome { reports: outcome.reports[..1].to_vec(), ..outcome }.distances().is_empty());
    }

    #[test]
    fn files_have_names_of_their_own_and_stay_in_their_folder() {
        let outcome = Outcome { reports: vec![report("one", "fcfs", &[1.0])], ..Outcome::default() };
        let mut names: Vec<String> = outcome.plots().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names[..2], ["first-token-a----b.svg", "first-token-a----b-1.svg"]);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), outcome.plots().len());
    }

    #[test]
    fn tables_escape_what_would_end_a_cell() {
        let outcome = Outcome { reports: vec![report("a|b", "fcfs", &[1.0])], ..Outcome::default() };
        assert!(outcome.markdown().contains("| a\\|b |"));
        assert!(Outcome::default().markdown().starts_with("| variant | class |"));
        assert_eq!(Outcome::default().plots().len(), 2);
    }
}
