//! Tables, plots and JSON from made-up reports.

use fornax_scheduler::simulate::{
    Balance, ClassReport, CostModel, Fitted, Histogram, Outcome, Report, Roofline, TenantReport,
};

fn report(name: &str) -> Report {
    let class = ClassReport { name: "all".into(), requests: 5, finished: 5, ..ClassReport::default() };
    Report { name: name.into(), replicas: 1, classes: vec![class], ..Report::default() }
}

fn outcome(reports: Vec<Report>) -> Outcome {
    Outcome { title: "A title".into(), seed: 7, reports, ..Outcome::default() }
}

#[test]
fn tables_tell_how_many_requests_were_served() {
    let mut one = report("one");
    assert_eq!(outcome(vec![one.clone()]).tables()[0].rows[0][2], "5");
    one.classes[0].finished = 3;
    assert_eq!(outcome(vec![one]).tables()[0].rows[0][2], "3 of 5");
}

#[test]
fn times_and_parts_have_their_units() {
    let mut one = report("one");
    let class = &mut one.classes[0];
    (class.mean_latency, class.latency_p50, class.latency_p99) = (3.5, 3.0, 9.0);
    (class.first_token_p50, class.first_token_p90, class.first_token_p99) = (0.5, 1.25, 2.0);
    (class.next_token_p50, class.next_token_p99, class.within_targets) = (0.025, 0.075, 0.625);
    (one.utilisation, one.cache_hit_rate, one.goodput) = (0.5, 0.25, 1.5);
    (one.requests, one.finished, one.mean_in_system) = (6, 5, 2.5);
    let tables = outcome(vec![one]).tables();
    let class = ["one", "all", "5", "3.500", "3.000", "9.000", "0.500", "1.250", "2.000", "25.0", "75.0", "62.5%"];
    assert_eq!(tables[0].rows[0], class);
    let variant = ["one", "5 of 6", "0", "1.50", "0.000", "2.5", "0.000", "25.0%", "0", "0", "50%", "0"];
    assert_eq!(tables[1].rows[0], variant);
    assert_eq!(tables.len(), 2);
}

#[test]
fn tenants_have_rows_where_there_are_several_and_not_too_many() {
    let tenant = |tenant, name: Option<&str>| TenantReport {
        tenant,
        name: name.map(str::to_owned),
        requests: 4,
        finished: 3,
        mean_latency: 0.5,
        most_latency: 1.0,
        first_token_mean: 0.125,
        first_token_most: 0.25,
        service: 900.0,
    };
    let rows = |tenants: Vec<TenantReport>| {
        let tables = outcome(vec![Report { tenants, ..report("one") }]).tables();
        tables.into_iter().find(|table| table.title == "By tenant").map(|table| table.rows)
    };
    let two = rows(vec![tenant(0, None), tenant(7, Some("acme"))]).expect("a table");
    assert_eq!(two[0], ["one", "0", "3 of 4", "0.500", "1.000", "0.125", "0.250", "900"]);
    assert_eq!(two[1][..2], ["", "acme"]);
    assert_eq!(rows(vec![tenant(0, None)]), None);
    assert!(rows((0..24).map(|number| tenant(number, None)).collect()).is_some());
    assert_eq!(rows((0..25).map(|number| tenant(number, None)).collect()), None);
}

#[test]
fn balance_is_shown_where_there_are_replicas_and_hits() {
    let shows = |replicas, cache_hits| {
        let balance = Balance { most: 1.5, ..Balance::default() };
        let one = Report { replicas, cache_hits, tokens_balance: balance, ..report("one") };
        let outcome = outcome(vec![one]);
        let drawn = outcome.plots().iter().any(|(name, _)| name == "balance.svg");
        (outcome.tables().len(), drawn)
    };
    assert_eq!([shows(1, 9), shows(2, 0), shows(2, 9), shows(3, 1)], [(2, false), (3, false), (3, true), (3, true)]);
}

#[test]
fn lost_rewards_are_drawn_by_tens_of_seconds() {
    let with = |name: &str, rewards: &[f64]| Report {
        policy: name.into(),
        reward: rewards.iter().sum::<f64>() / rewards.len() as f64,
        rewards: rewards.iter().copied().map(Some).collect(),
        ..report(name)
    };
    let learner = Report { learned_from: vec!["fcfs", "vtc"], ..with("bandit", &[0.5, 0.5, 1.0]) };
    let oracle = Report { oracle: true, ..with("oracle", &[1.0; 3]) };
    let outcome = outcome(vec![learner, with("fcfs", &[1.0; 3]), with("vtc", &[0.0; 3]), oracle]);
    let plots = outcome.plots();
    let (_, svg) = plots.iter().find(|(name, _)| name == "regret.svg").expect("something learns");
    // Lost: half, and half again; everything three times. The best loses nothing, and the oracle is no arm.
    let lines: Vec<&str> = svg.lines().filter(|line| line.starts_with("<polyline")).collect();
    let points = |line: &str| line.split('"').nth(1).expect("its points").to_owned();
    assert_eq!(lines.len(), 2);
    assert_eq!(points(lines[0]), "70.0,301.0 380.0,272.0 690.0,272.0");
    assert_eq!(points(lines[1]), "70.0,272.0 380.0,214.0 690.0,156.0");
    assert!([">0<", ">4<", ">20<"].iter().all(|mark| svg.contains(mark)), "{svg}");
}

#[test]
#[cfg(feature = "simulate")]
fn reports_are_written_as_json() {
    let json = outcome(vec![report("one")]).json();
    assert_eq!((json["title"].as_str(), json["seed"].as_u64()), (Some("A title"), Some(7)));
    assert_eq!(json["variants"][0]["name"].as_str(), Some("one"));
    assert_eq!(json["variants"][0]["classes"][0]["finished"].as_u64(), Some(5));
}

#[test]
fn costs_are_checked() {
    let fitted =
        |base, per_token, per_context| CostModel::Fitted(Fitted { base, per_token, per_context }).check().is_ok();
    assert!(fitted(1e6, 0.0, 0.0) && fitted(0.0, 1e-6, 0.0) && fitted(0.0, 0.0, 1e-9));
    assert!(!fitted(0.0, 0.0, 0.0) && !fitted(1.1e6, 0.0, 0.0) && !fitted(-1.0, 2.0, 2.0));
    assert!(!fitted(1.0, f64::NAN, 0.0) && !fitted(1.0, 0.0, f64::INFINITY));
    let roof = Roofline::GPU_8B;
    assert!(CostModel::Roofline(roof).check().is_ok() && CostModel::Roofline(Roofline::CPU_1B).check().is_ok());
    for bad in [
        Roofline { flops_per_second: 0.0, ..roof },
        Roofline { bytes_per_second: -1.0, ..roof },
        Roofline { bytes_per_second: 0.0, weight_bytes: 0.0, kv_bytes_per_token: 0.0, ..roof },
        Roofline { bytes_per_second: f64::INFINITY, ..roof },
        Roofline { parameters: -1.0, ..roof },
        Roofline { overhead: f64::NAN, ..roof },
        Roofline { overhead: 2e6, ..roof },
    ] {
        assert!(CostModel::Roofline(bad).check().is_err(), "{bad:?}");
    }
}

#[test]
fn reports_are_found_by_name() {
    let outcome = outcome(vec![report("one"), report("two")]);
    assert_eq!(outcome.report("two").map(|report| report.name.as_str()), Some("two"));
    assert!(outcome.report("three").is_none());
}

#[test]
fn distances_weigh_classes_by_their_requests_and_take_nothing_for_as_good() {
    let class = |count: usize, mean: f64| {
        let mut first_token = Histogram::default();
        (0..count).for_each(|_| first_token.add(mean));
        ClassReport { first_token_mean: mean, first_token_p99: 2.0 * mean, first_token, ..ClassReport::default() }
    };
    let with = |name: &str, classes| Report { classes, mean_latency: 6.0, ..report(name) };
    let oracle = Report { oracle: true, mean_latency: 4.0, ..with("oracle", vec![class(3, 1.0), class(1, 5.0)]) };
    let outcome = outcome(vec![with("one", vec![class(3, 2.0), class(1, 14.0)]), oracle]);
    let distances = outcome.distances();
    // (3 · 2 + 14) / 4 over (3 · 1 + 5) / 4.
    assert_eq!((distances[0].mean_latency, distances[0].first_token_mean), (1.5, 2.5));
    assert_eq!(distances[0].first_token_p99, [2.0, 2.8]);
    // Where the oracle put out nothing there is nothing to divide by.
    assert_eq!((distances[0].output_tokens_per_second, distances[1].output_tokens_per_second), (1.0, 1.0));
    // The mean is right also where fewer requests got a first token than with the oracle.
    let oracle = Report { oracle: true, ..with("oracle", vec![class(8, 1.0)]) };
    let distances = self::outcome(vec![with("one", vec![class(2, 3.0)]), oracle]).distances();
    assert_eq!((distances[0].first_token_mean, distances[1].first_token_mean), (3.0, 1.0));
}

#[test]
#[cfg(feature = "simulate")]
fn a_variant_sets_what_it_names() {
    use fornax_scheduler::simulate::Scenario;
    use fornax_scheduler::{Admission, Preemption, TenantId};

    let text = r#"
        title = "All that can be said"
        requests = 1
        seed = 3
        arrivals = { poisson = 1.0 }
        cost = { fitted = { base = 0.5, per_token = 0.0, per_context = 0.0 } }
        weights = [[0, 2.0]]
        class = [{ name = "all" }]
        defaults = { blocks = 300, policy = "vtc" }
        [[variant]]
        name = "one"
        routing = "tenant"
        replicas = 3
        prediction = 0.25
        report-interval = 0.75
        block-size = 8
        host-blocks = 40
        max-running = 17
        max-tokens = 99
        max-chunk = 33
        chunked = false
        reserved = false
        watermark = 5
        swap = true
        preemptive = true
        prefix-caching = false
        lookahead = 6
        [[variant]]
        reserved = true
        policy = "drf"
    "#;
    let scenario = Scenario::parse(text).expect("a sound scenario");
    let fleet = scenario.fleet(&scenario.variants[0]);
    assert_eq!((fleet.name.as_str(), fleet.policy.as_str(), fleet.routing.as_str()), ("one", "vtc", "tenant"));
    assert_eq!((fleet.replicas, fleet.prediction, fleet.report_interval, fleet.seed), (3, Some(0.25), 0.75, 3));
    assert_eq!(fleet.weights, [(TenantId(0), 2.0)]);
    assert_eq!(fleet.cost, CostModel::Fitted(Fitted { base: 0.5, per_token: 0.0, per_context: 0.0 }));
    let (batch, model) = (&fleet.batch, &fleet.batch.models[0]);
    assert_eq!((model.blocks, model.block_size, model.host_blocks), (300, 8, 40));
    assert_eq!(
        (batch.max_running, batch.max_tokens, batch.max_chunk, batch.watermark, batch.lookahead),
        (17, 99, 33, 5, 6)
    );
    assert!(!batch.chunked && batch.preemptive && !batch.prefix_caching);
    assert_eq!((batch.admission, batch.preemption), (Admission::Optimistic, Preemption::Swap));
    let other = scenario.fleet(&scenario.variants[1]);
    assert_eq!((other.name.as_str(), other.batch.models[0].blocks), ("drf", 300));
    assert_eq!((other.batch.admission, other.batch.preemption), (Admission::Reserved, Preemption::Recompute));
    let batch = &other.batch;
    assert!(batch.chunked && batch.prefix_caching && !batch.preemptive);
}
