//! The simulator's results: chunking and order, fairness, prefix affinity, speculation, reports.

use fornax_scheduler::simulate::{
    Arrivals, Class, CostModel, Fleet, FleetConfig, Length, Prefix, Report, Roofline, Workload,
};
use fornax_scheduler::{BatchConfig, ModelConfig};

fn serve(config: FleetConfig, workload: &Workload) -> Report {
    workload.check().expect("a sound workload");
    let requests = workload.requests;
    let fleet = Fleet::new(config, &workload.classes).expect("a sound configuration");
    let report = fleet.run(workload.iter()).expect("there is a replica");
    let served: u64 = report.classes.iter().map(|class| class.finished + class.refused).sum();
    assert_eq!(served, requests, "every request is served or refused");
    report
}

fn batch(blocks: usize) -> BatchConfig {
    let models = vec![ModelConfig { blocks, ..ModelConfig::default() }];
    BatchConfig { models, max_running: 256, max_tokens: 512, ..BatchConfig::default() }
}

/// A few long prompts among many short ones.
fn mixed() -> Workload {
    let short = Class {
        name: "short".into(),
        share: 0.97,
        prompt: Length::LogNormal(120.0, 0.6, 1000),
        output: Length::LogNormal(60.0, 0.6, 400),
        ..Class::default()
    };
    let long = Class { name: "long".into(), share: 0.03, prompt: Length::Uniform(8000, 16_000), ..short.clone() };
    Workload { requests: 6000, arrivals: Arrivals::Poisson(24.0), classes: vec![short, long], seed: 1 }
}

fn mixed_with(policy: &str, chunked: bool, prediction: f64) -> Report {
    let batch = BatchConfig { chunked, preemptive: prediction == 0.0, ..batch(16_384) };
    serve(FleetConfig { policy: policy.into(), batch, prediction: Some(prediction), ..Default::default() }, &mixed())
}

#[test]
fn chunks_and_short_work_first_serve_the_short_five_times_sooner() {
    let plain = mixed_with("fcfs", false, 0.5);
    let ours = mixed_with("shortest:ageing=0.05", true, 0.5);
    let oracle = mixed_with("shortest:ageing=0", true, 0.0);
    let p99 = |report: &Report| report.class("short").expect("short requests").first_token_p99;
    assert!(p99(&plain) >= 5.0 * p99(&ours), "{} and {}", p99(&plain), p99(&ours));
    assert!(ours.output_tokens_per_second >= 0.95 * plain.output_tokens_per_second);
    assert!(oracle.mean_latency <= ours.mean_latency * 1.02, "{} and {}", oracle.mean_latency, ours.mean_latency);
    assert!(ours.mean_latency < plain.mean_latency);
}

#[test]
fn a_prefix_is_found_where_it_was_sent() {
    let class = Class {
        prompt: Length::LogNormal(150.0, 0.6, 1000),
        output: Length::LogNormal(80.0, 0.5, 400),
        prefix: Some(Prefix { groups: 800, tokens: 1536, skew: 0.8 }),
        ..Class::default()
    };
    let arrivals = Arrivals::Poisson(900.0);
    let workload = Workload { requests: 36_000, arrivals, classes: vec![class], seed: 1 };
    let with = |routing: &str| {
        let batch = BatchConfig { max_running: 64, max_tokens: 1024, ..batch(2048) };
        serve(FleetConfig { routing: routing.into(), replicas: 100, batch, ..Default::default() }, &workload)
    };
    let (even, affine) = (with("round-robin"), with("prefix"));
    assert!(affine.cache_hits >= 2 * even.cache_hits, "{} and {}", affine.cache_hits, even.cache_hits);
    // Balance: no less even than round robin by any measure, and no request waits longer.
    let (ours, theirs) = (affine.tokens_balance, even.tokens_balance);
    assert!(ours.most <= theirs.most && ours.variation <= theirs.variation, "{ours:?} and {theirs:?}");
    assert!(ours.window_most <= 1.02 * theirs.window_most, "{ours:?} and {theirs:?}");
    assert!(affine.busiest_tokens < even.busiest_tokens, "{} and {}", affine.busiest_tokens, even.busiest_tokens);
    let (ours, theirs) = (affine.busy_balance, even.busy_balance);
    assert!(ours.window_most <= 1.01 * theirs.window_most, "{ours:?} and {theirs:?}");
    let p99 = |report: &Report| report.classes[0].first_token_p99;
    assert!(p99(&affine) <= p99(&even), "{} and {}", p99(&affine), p99(&even));
    // The looser the bound, the more is found, and the less even is the work.
    let loose = with("prefix:epsilon=1");
    assert!(loose.cache_hits > affine.cache_hits && loose.tokens_balance.most > 1.1 * affine.tokens_balance.most);
}

#[test]
fn a_bandit_comes_to_serve_like_the_best_of_its_arms_on_unlike_traffics() {
    let class =
        |name: &str, share, prompt, output| Class { name: name.into(), share, prompt, output, ..Class::default() };
    let unequal = vec![
        class("short", 0.95, Length::LogNormal(120.0, 0.6, 1000), Length::LogNormal(60.0, 0.6, 400)),
        class("long", 0.05, Length::Uniform(4000, 8000), Length::LogNormal(200.0, 0.6, 800)),
    ];
    let alike = class("alike", 1.0, Length::Uniform(280, 320), Length::Uniform(90, 110));
    let alike = vec![Class { max_tokens: Some(1024), ..alike }];
    // Where sizes differ, the shortest should go first; where they are alike and predictions say nothing, the first.
    for (classes, rate, prediction, right) in [(unequal, 15.0, 0.5, "shortest"), (alike, 22.0, 1.5, "fcfs")] {
        let arrivals = Arrivals::Bursty { rate, factor: 4.0, on: 10.0, off: 30.0 };
        let workload = Workload { requests: 24_000, arrivals, classes, seed: 1 };
        let with = |policy: &str| {
            let batch = BatchConfig { max_running: 64, ..batch(8192) };
            let prediction = Some(prediction);
            serve(FleetConfig { policy: policy.into(), batch, prediction, ..Default::default() }, &workload)
        };
        // The mean reward of the second half, when it has learned.
        let late = |report: &Report| {
            let late: Vec<f64> = report.rewards[report.rewards.len() / 2..].iter().flatten().copied().collect();
            late.iter().sum::<f64>() / late.len() as f64
        };
        let arms = ["fcfs", "shortest:ageing=0.1", "aged-ratio:ageing=0.1"];
        let (bandit, fixed) = (with("bandit"), arms.map(with));
        assert_eq!(bandit.learned_from, ["fcfs", "shortest", "aged-ratio"]);
        let best = fixed.iter().max_by(|one, two| one.reward.total_cmp(&two.reward)).expect("three arms");
        let worst = fixed.iter().map(|report| report.reward).fold(1.0, f64::min);
        assert!(best.policy.starts_with(right), "{} is best, {right} was to be", best.policy);
        assert!(late(&bandit) >= late(best) - 0.02, "{right}: {} and {}", late(&bandit), late(best));
        assert!(bandit.reward > worst, "{right}: {} and {worst}", bandit.reward);
        // Where much waits, the order matters, and there it goes by the right one.
        let crowded: Vec<&str> =
            bandit.epochs.iter().filter(|epoch| epoch.context >= 2).map(|epoch| epoch.arm).collect();
        let last = &crowded[crowded.len() / 2..];
        let rightly = last.iter().filter(|arm| **arm == right).count();
        assert!(rightly * 10 >= last.len() * 7, "{right}: {rightly} of {}", last.len());
    }
}

#[test]
fn counters_bound_what_a_greedy_tenant_gets() {
    let class = |name: &str, share, tenant, tenants| Class {
        name: name.into(),
        share,
        tenant,
        tenants,
        prompt: Length::LogNormal(300.0, 0.6, 2000),
        ..Class::default()
    };
    let classes = vec![class("modest", 3.0, 0, 3), class("greedy", 10.0, 3, 1)];
    let workload = Workload { requests: 4000, arrivals: Arrivals::Poisson(60.0), classes, seed: 1 };
    let with = |policy: &str| {
        let batch = BatchConfig { max_running: 64, ..batch(4096) };
        serve(FleetConfig { policy: policy.into(), batch, ..Default::default() }, &workload)
    };
    let (fcfs, vtc, drf) = (with("fcfs"), with("vtc"), with("drf"));
    let modest = |report: &Report| report.class("modest").expect("modest tenants").first_token_p90;
    for fair in [&vtc, &drf] {
        assert!(modest(fair) < modest(&fcfs) / 3.0, "{}: {} and {}", fair.policy, modest(fair), modest(&fcfs));
        assert!(fair.fairness_gap < fcfs.fairness_gap / 2.0, "{} {}", fair.fairness_gap, fcfs.fairness_gap);
    }
}

#[test]
fn right_guesses_save_steps() {
    let with = |speculation| {
        let class = Class { speculation, acceptance: 0.8, prompt: Length::Fixed(50), ..Class::default() };
        let workload = Workload { requests: 400, arrivals: Arrivals::Poisson(2.0), classes: vec![class], seed: 3 };
        serve(FleetConfig { batch: batch(4096), ..Default::default() }, &workload)
    };
    let (plain, guessing) = (with(0), with(3));
    assert_eq!(plain.accepted, 0.0);
    assert!((0.6..0.85).contains(&guessing.accepted), "{}", guessing.accepted);
    let pace = |report: &Report| report.classes[0].next_token_p50;
    assert!(pace(&guessing) < 0.6 * pace(&plain), "{} and {}", pace(&guessing), pace(&plain));
}

#[test]
fn a_report_is_the_same_for_the_same_seed() {
    let workload = Workload { requests: 500, ..mixed() };
    let with = |seed| {
        let workload = Workload { seed, ..workload.clone() };
        serve(FleetConfig { replicas: 3, routing: "two-choices".into(), seed, ..Default::default() }, &workload)
    };
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
}

#[test]
fn what_can_never_fit_is_refused_and_counted() {
    let class = Class { prompt: Length::Fixed(1000), ..Class::default() };
    let workload = Workload { requests: 5, arrivals: Arrivals::Poisson(1.0), classes: vec![class], seed: 1 };
    let models = vec![ModelConfig { blocks: 10, ..ModelConfig::default() }];
    let batch = BatchConfig { models, watermark: 1, ..BatchConfig::default() };
    let report = serve(FleetConfig { batch, ..Default::default() }, &workload);
    assert_eq!((report.classes[0].refused, report.classes[0].finished), (5, 0));
}

#[test]
fn an_idle_replica_serves_at_the_speed_of_its_model() {
    let class = Class { prompt: Length::Fixed(400), output: Length::Fixed(11), ..Class::default() };
    let workload = Workload { requests: 20, arrivals: Arrivals::Poisson(0.01), classes: vec![class], seed: 1 };
    let report = serve(FleetConfig { batch: batch(256), ..Default::default() }, &workload);
    let roof = Roofline::GPU_8B;
    let cost = CostModel::Roofline(roof);
    let load = |tokens: f64, context: f64, pairs: f64| fornax_scheduler::simulate::StepLoad { tokens, context, pairs };
    let first = cost.seconds(&load(400.0, 400.0, 400.0 * 200.0));
    let found = report.classes[0].first_token_p50;
    assert!((found / first - 1.0).abs() < 0.02, "{found} and {first}");
    let next = cost.seconds(&load(1.0, 405.0, 405.0));
    assert!((report.classes[0].next_token_p50 / next - 1.0).abs() < 0.02);
    assert!(report.utilisation < 0.01 && report.mean_batch == 1.0);
}
