//! The simulator's arithmetic, in worlds so small that the results can be worked out by hand: a step takes a second
//! whatever it computes, and requests are given one by one.

use fornax_scheduler::simulate::{
    Class, CostModel, Fitted, Fleet, FleetConfig, Histogram, Length, Report, Roofline, StepLoad, StepSample,
    TraceRequest,
};
use fornax_scheduler::{BatchConfig, ModelConfig, TenantId, Time};

fn seconds(value: f64) -> Time {
    Time::from_secs_f64(value)
}

/// Steps of a second, one replica that always knows how long outputs are.
pub(super) fn config() -> FleetConfig {
    FleetConfig {
        cost: CostModel::Fitted(Fitted { base: 1.0, per_token: 0.0, per_context: 0.0 }),
        batch: BatchConfig {
            models: vec![ModelConfig { blocks: 512, block_size: 16, ..ModelConfig::default() }],
            max_running: 8,
            max_tokens: 4096,
            ..BatchConfig::default()
        },
        prediction: Some(0.0),
        ..FleetConfig::default()
    }
}

/// A request of the first class and tenant with a prompt of its own.
pub(super) fn request(number: u64, arrival: f64, prompt: u32, new_tokens: u32) -> TraceRequest {
    TraceRequest {
        arrival: seconds(arrival),
        body_stream: 1000 + number,
        body: prompt,
        new_tokens,
        max_tokens: Some(new_tokens),
        ..TraceRequest::default()
    }
}

pub(super) fn run(config: FleetConfig, classes: &[Class], requests: &[TraceRequest]) -> Report {
    let fleet = Fleet::new(config, classes).expect("a sound configuration");
    fleet.run(requests.iter().cloned()).expect("there is a replica")
}

fn close(found: f64, expected: f64, part: f64) -> bool {
    (found - expected).abs() <= part * expected.abs()
}

#[test]
fn one_request_is_served_token_by_token() {
    let classes = [Class { first_token_target: 1.0, next_token_target: 1.0, ..Class::default() }];
    let report = run(config(), &classes, &[request(0, 10.0, 32, 3)]);
    let class = &report.classes[0];
    assert_eq!((class.requests, class.finished, class.refused), (1, 1, 0));
    assert_eq!((report.seconds, report.mean_latency, class.mean_latency), (3.0, 3.0, 3.0));
    assert_eq!((class.first_token_mean, class.first_token.count()), (1.0, 1));
    for found in [class.first_token_p50, class.first_token_p99, class.next_token_p50, class.next_token_p99] {
        assert!(close(found, 1.0, 0.016), "{found}");
    }
    assert_eq!((class.within_targets, report.output_tokens_per_second), (1.0, 1.0));
    assert!(close(report.goodput, 1.0 / 3.0, 1e-9));
    assert_eq!((report.steps, report.mean_batch, report.utilisation), (3, 1.0, 1.0));
    assert_eq!(report.busiest_tokens, 34);
    assert_eq!(report.queue, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!((report.reward, report.rewards.len()), (1.0, 2));
    assert_eq!((report.preemptions, report.lost_tokens, report.fairness_gap), (0, 0, 0.0));
}

#[test]
fn targets_are_met_by_those_who_are_on_time() {
    let requests = [request(0, 0.0, 16, 5), request(1, 0.5, 16, 5), request(2, 20.0, 16, 1)];
    let part = |first_token_target, next_token_target| {
        let classes = [Class { first_token_target, next_token_target, ..Class::default() }];
        let report = run(config(), &classes, &requests);
        assert!(close(report.goodput * report.seconds, 3.0 * report.classes[0].within_targets, 1e-9));
        assert_eq!(report.seconds, 21.0);
        report.classes[0].within_targets
    };
    // The second waits half a second for the step under way; the third puts out a single token, which has no pace.
    assert_eq!(part(1.5, 1.0), 1.0);
    assert!(close(part(1.4, 1.0), 2.0 / 3.0, 1e-9));
    assert!(close(part(1.5, 0.9), 1.0 / 3.0, 1e-9));
    assert_eq!(part(0.9, 9.0), 0.0);
}

#[test]
fn classes_are_counted_apart_and_means_weighed_by_requests() {
    let class = |name: &str| Class { name: name.into(), ..Class::default() };
    let classes = [class("short"), class("long")];
    let long = TraceRequest { class: 1, ..request(2, 40.0, 16, 8) };
    let report = run(config(), &classes, &[request(0, 0.0, 16, 2), request(1, 20.0, 16, 2), long]);
    let [short, long] = &report.classes[..] else { panic!("two classes") };
    assert_eq!((short.requests, long.requests, short.finished, long.finished), (2, 1, 2, 1));
    assert_eq!((short.mean_latency, long.mean_latency), (2.0, 8.0));
    assert_eq!((report.mean_latency, report.seconds), (4.0, 48.0));
    assert_eq!(report.class("long").map(|class| class.requests), Some(1));
    assert!(report.class("other").is_none());
    assert_eq!((report.utilisation, report.output_tokens_per_second), (0.25, 0.25));
}

#[test]
fn steps_batch_what_is_there() {
    // Two together, of which one goes on alone.
    let report = run(config(), &[Class::default()], &[request(0, 0.0, 16, 2), request(1, 0.0, 20, 6)]);
    // The first is planned at once, the second half a step's worth later: with the second step.
    assert_eq!((report.steps, report.seconds), (7, 7.0));
    assert!(close(report.mean_batch, 8.0 / 7.0, 1e-9));
    assert_eq!(report.busiest_tokens, 16 + 20 + 1 + 5);
}

#[test]
fn the_gap_is_that_between_tenants_who_both_wait() {
    let batch = BatchConfig { max_running: 1, ..config().batch };
    let classes = [Class { tenants: 2, ..Class::default() }];
    let requests: Vec<TraceRequest> =
        (0..20).map(|number| TraceRequest { tenant: (number / 10) as u32, ..request(number, 0.0, 16, 5) }).collect();
    let report = run(FleetConfig { batch, ..config() }, &classes, &requests);
    assert_eq!((report.seconds, report.classes[0].finished), (100.0, 20));
    // In ten seconds the first tenant gets two prompts of 16 and ten tokens that count twice; the second gets nothing.
    assert_eq!(report.fairness_gap, 52.0);
    assert_eq!(report.queue[..7], [20, 19, 19, 19, 19, 19, 18]);
    // Where tenants take turns, none falls behind by more than a request.
    let batch = BatchConfig { max_running: 1, ..config().batch };
    let fair = run(FleetConfig { policy: "vtc".into(), batch, ..config() }, &classes, &requests);
    assert!(fair.fairness_gap <= 26.0, "{}", fair.fairness_gap);
}

#[test]
fn right_guesses_put_out_several_tokens_a_step() {
    let with = |acceptance, new_tokens| {
        let classes = [Class { speculation: 3, acceptance, ..Class::default() }];
        run(config(), &classes, &[request(0, 0.0, 16, new_tokens)])
    };
    // One with the prompt, then four a step; none beyond the end.
    let all = with(1.0, 9);
    assert_eq!((all.steps, all.seconds, all.output_tokens_per_second), (3, 3.0, 3.0));
    assert!(close(all.classes[0].next_token_p50, 0.25, 0.016));
    assert_eq!((all.accepted, all.busiest_tokens), (1.0, 16 + 4 + 4));
    let none = with(0.0, 9);
    assert_eq!((none.steps, none.accepted), (9, 0.0));
    let part = with(1.0, 7);
    assert_eq!((part.steps, part.output_tokens_per_second), (3, 7.0 / 3.0));
}

#[test]
fn what_is_late_is_dropped_and_counted_as_neither_served_nor_refused() {
    let batch = BatchConfig { max_running: 1, ..config().batch };
    let classes = [Class { deadline: Some(3.5), ..Class::default() }];
    let requests = [request(0, 0.0, 16, 3), request(1, 0.0, 16, 9), request(2, 0.0, 16, 9)];
    let report = run(FleetConfig { batch, ..config() }, &classes, &requests);
    let class = &report.classes[0];
    assert_eq!((class.requests, class.finished, class.refused), (3, 1, 0));
    // The second began and was stopped, the third never began; both at the end of the step in which they were late.
    assert_eq!((report.seconds, class.late, class.cancelled), (4.0, 2, 0));
    // The latency is that of the served request. Two requests got a first token.
    assert_eq!((class.mean_latency, report.mean_latency, report.requests, report.finished), (3.0, 3.0, 3, 1));
    // Three, four and four seconds that requests were there, in four.
    assert_eq!(report.mean_in_system, 11.0 / 4.0);
    assert_eq!(class.first_token.count(), 2);
}

#[test]
fn a_replica_carries_out_one_plan_at_a_time() {
    let requests: Vec<TraceRequest> = (0..9).map(|at| request(at, 0.7 * at as f64, 16 + at as u32, 5)).collect();
    let with = |plans_in_flight| {
        let batch = BatchConfig { plans_in_flight, ..config().batch };
        run(FleetConfig { batch, ..config() }, &[Class::default()], &requests)
    };
    let report = with(2);
    assert_eq!((report.finished, &report), (9, &with(1)));
}

#[test]
fn waiting_counts_from_the_arrival_though_a_step_is_under_way() {
    // Two come while a step of the first is computed, the second of them with four tokens less to put out. These are said to
    // cost half a second, and so make up for coming half a second later, and no more.
    let batch = BatchConfig { max_running: 1, ..config().batch };
    let requests = |gap: f64| [request(0, 0.0, 16, 2), request(1, 1.1, 16, 12), request(2, 1.1 + gap, 16, 8)];
    let latencies = |gap| {
        let policy = "shortest:ageing=1".into();
        let report = run(FleetConfig { policy, batch: batch.clone(), ..config() }, &[Class::default()], &requests(gap));
        report.mean_latency
    };
    // Served in the order in which they came: until 2, 14 and 22 s; and else until 2, 22 and 10 s.
    assert!(close(latencies(0.7), (2.0 + 12.9 + 20.2) / 3.0, 1e-9), "{}", latencies(0.7));
    assert!(close(latencies(0.3), (2.0 + 20.9 + 8.6) / 3.0, 1e-9), "{}", latencies(0.3));
}

#[test]
fn prefixes_are_found_where_they_were_computed() {
    let classes = [Class::default()];
    let shared = |number, arrival| TraceRequest { prefix_stream: 7, prefix: 64, ..request(number, arrival, 16, 2) };
    let report = run(config(), &classes, &[shared(0, 0.0), shared(1, 10.0), shared(2, 20.0)]);
    // Four blocks of 16 tokens each time, of five that are looked up.
    assert_eq!((report.cache_hits, report.cold_misses, report.evicted_misses), (8, 3, 0));
    assert!(report.cache_hit_rate > 0.5 && report.cache_hit_rate < 0.7, "{}", report.cache_hit_rate);
    assert_eq!(report.busiest_tokens, (80 + 16 + 16) + 3);
    let apart: Vec<TraceRequest> = (0..3).map(|at| request(at, at as f64 * 10.0, 80, 2)).collect();
    assert_eq!(run(config(), &classes, &apart).cache_hits, 0);
}

#[test]
fn rewards_fall_with_the_waiting_by_window() {
    // A token of a prompt is said to cost a 1024th of a second, one of an output an eighth: two seconds for each of these.
    let batch = BatchConfig { max_running: 1, ..config().batch };
    let requests = [request(0, 0.0, 1024, 8), request(1, 0.0, 1024, 8), request(2, 30.0, 1024, 8)];
    let report = run(FleetConfig { batch, ..config() }, &[Class::default()], &requests);
    // The first waits for nothing, the second for eight seconds, four times its cost: slowdowns of 1 and 5.
    let first = (2.0f64 / 26.0).sqrt();
    assert_eq!(report.rewards.len(), 4);
    assert!(close(report.rewards[0].expect("two began"), first, 1e-6), "{:?}", report.rewards);
    assert_eq!(report.rewards[1..], [None, None, Some(1.0)]);
    assert!(close(report.reward, (first + 1.0) / 2.0, 1e-6));
}

#[test]
fn replicas_share_the_work() {
    let requests: Vec<TraceRequest> = (0..8).map(|number| request(number, 0.0, 16, 4)).collect();
    let with = |routing: &str, replicas| {
        run(FleetConfig { routing: routing.into(), replicas, ..config() }, &[Class::default()], &requests)
    };
    for routing in ["round-robin", "least-loaded"] {
        let report = with(routing, 4);
        assert_eq!((report.replicas, report.busiest_tokens), (4, 2 * (16 + 3)), "{routing}");
        assert_eq!((report.tokens_balance.most, report.tokens_balance.variation), (1.0, 0.0), "{routing}");
        assert!(close(report.utilisation, 1.0, 1e-9), "{routing}: {}", report.utilisation);
    }
    assert_eq!(with("round-robin", 1).busiest_tokens, 8 * 19);
}

#[test]
fn predictions_are_means_so_far_where_nothing_else_is_known() {
    // Shortest first. One request of each class ends first; then one of each waits while another runs.
    let classes = [Class { name: "a".into(), ..Class::default() }, Class { name: "b".into(), ..Class::default() }];
    let of = |class, number, arrival, new_tokens| TraceRequest { class, ..request(number, arrival, 16, new_tokens) };
    let requests =
        [of(0, 0, 0.0, 200), of(1, 1, 300.0, 2), of(1, 2, 400.0, 9), of(0, 3, 401.5, 500), of(1, 4, 402.5, 600)];
    let batch = BatchConfig { max_running: 1, ..config().batch };
    let with = |prediction| {
        let config = FleetConfig { policy: "shortest:ageing=0".into(), batch: batch.clone(), prediction, ..config() };
        let report = run(config, &classes, &requests);
        (report.classes[0].first_token.quantile(1.0), report.classes[1].first_token.quantile(1.0))
    };
    // The mean of the first class is (100 + 200) / 2, of the second (100 + 2) / 2: the second goes first, at 409 s.
    let (first, second) = with(None);
    assert!(close(first, 1010.0 - 401.5, 0.016) && close(second, 410.0 - 402.5, 0.016), "{first} {second}");
    // With perfect predictions, the request of 500 tokens goes before the request of 600.
    let (first, second) = with(Some(0.0));
    assert!(close(first, 410.0 - 401.5, 0.016) && close(second, 910.0 - 402.5, 0.016), "{first} {second}");
}

#[test]
fn means_are_of_all_that_came_before() {
    let classes = [Class { name: "a".into(), ..Class::default() }, Class { name: "b".into(), ..Class::default() }];
    // Three requests of the first class end and one of the second; then one of each waits behind another.
    let first_goes = |seen: [u32; 2]| {
        let mut requests: Vec<TraceRequest> = (0..3).map(|at| request(at, at as f64 * 1000.0, 16, seen[0])).collect();
        requests.push(TraceRequest { class: 1, ..request(3, 4000.0, 16, seen[1]) });
        requests.push(TraceRequest { class: 1, tenant: 1, ..request(4, 5000.0, 16, seen[1]) });
        requests.push(request(5, 5000.5, 16, 500));
        requests.push(TraceRequest { class: 1, ..request(6, 5000.6, 16, 500) });
        let batch = BatchConfig { max_running: 1, ..config().batch };
        let config = FleetConfig { policy: "shortest:ageing=0".into(), batch, prediction: None, ..config() };
        let mut classes = classes.clone();
        classes[1].tenants = 2;
        let report = run(config, &classes, &requests);
        report.classes[0].first_token.quantile(1.0) < report.classes[1].first_token.quantile(1.0)
    };
    // (100 + 600) / 4 and (100 + 2) / 2; then (100 + 30) / 4 and (100 + 20) / 2.
    assert!(!first_goes([200, 2]));
    assert!(first_goes([10, 20]));
}

#[test]
fn windows_count_while_requests_come() {
    // Replicas take turns, every half second. In the first ten seconds all have the same to do; then every second one has
    // four times as much. After forty seconds one replica alone is busy.
    let prompt = |at: u64| if at >= 20 && at.is_multiple_of(2) { 64 } else { 16 };
    let mut requests: Vec<TraceRequest> = (0..80).map(|at| request(at, at as f64 * 0.5, prompt(at), 1)).collect();
    requests.push(request(80, 39.9, 16, 60));
    let report =
        run(FleetConfig { replicas: 2, routing: "round-robin".into(), ..config() }, &[Class::default()], &requests);
    assert!(close(report.tokens_balance.window_most, 1.6, 0.05), "{:?}", report.tokens_balance);
    assert!(report.tokens_balance.most < 1.56, "{:?}", report.tokens_balance);
}

#[test]
fn preempted_sequences_are_counted() {
    let models = vec![ModelConfig { blocks: 6, block_size: 4, ..ModelConfig::default() }];
    let batch = BatchConfig { models, watermark: 0, prefix_caching: false, ..config().batch };
    let report =
        run(FleetConfig { batch, ..config() }, &[Class::default()], &[request(0, 0.0, 8, 12), request(1, 0.0, 8, 12)]);
    // The second comes a step later. Each has three blocks when the first needs its fourth. By then, at most twelve
    // tokens of the second are computed.
    assert_eq!((report.preemptions, report.classes[0].finished), (1, 2));
    assert!((9..=12).contains(&report.lost_tokens), "{}", report.lost_tokens);
}

#[test]
fn histograms_tell_values_apart_to_a_hundredth_and_a_half() {
    let mut histogram = Histogram::default();
    let values: Vec<f64> = (0..400).map(|power| 1e-5 * 1.03f64.powi(power)).collect();
    values.iter().for_each(|&value| histogram.add(value));
    assert_eq!(histogram.count(), 400);
    assert!(close(histogram.mean(), values.iter().sum::<f64>() / 400.0, 1e-12));
    let curve = histogram.curve();
    assert_eq!(curve.len(), 400, "three hundredths apart is told apart");
    for (at, ((value, part), expected)) in curve.iter().zip(&values).enumerate() {
        assert!(*value >= expected * 0.999_999 && *value <= expected * 1.015, "{value} for {expected}");
        assert!(close(*part, (at + 1) as f64 / 400.0, 1e-12));
        let quantile = histogram.quantile((at as f64 + 0.5) / 400.0);
        assert!(close(quantile, *expected, 0.0075), "{quantile} for {expected}");
    }
    // No quantile is above the largest, and nothing is below a microsecond.
    let mut one = Histogram::default();
    one.add(0.5);
    assert!([0.0, 0.3, 1.0].iter().all(|&part| one.quantile(part) <= 0.5 && one.quantile(part) > 0.49));
    one.add(0.0);
    one.add(-1.0);
    assert_eq!((one.count(), one.curve().len()), (3, 2));
    assert!(one.quantile(0.5) < 1.1e-6 && one.quantile(0.6) < 1.1e-6 && one.quantile(0.7) > 0.49);
}

#[test]
fn a_step_takes_the_longer_of_computing_and_reading_and_a_constant() {
    let roof = Roofline {
        parameters: 10.0,
        weight_bytes: 100.0,
        kv_bytes_per_token: 5.0,
        flops_per_pair: 3.0,
        flops_per_second: 1000.0,
        bytes_per_second: 50.0,
        overhead: 0.25,
    };
    let load = StepLoad { tokens: 7.0, context: 11.0, pairs: 13.0 };
    let time = |roof| CostModel::Roofline(roof).seconds(&load);
    assert!(close(time(roof), 0.25 + 155.0 / 50.0, 1e-12));
    assert!(close(time(Roofline { bytes_per_second: 1e9, ..roof }), 0.25 + 179.0 / 1000.0, 1e-12));
    let fitted = CostModel::Fitted(Fitted { base: 1.0, per_token: 0.5, per_context: 0.25 });
    assert_eq!(fitted.seconds(&load), 1.0 + 3.5 + 2.75);
}

#[test]
fn what_a_token_costs_is_told_by_prompts_of_a_thousand_and_batches_of_eight() {
    let fitted = CostModel::Fitted(Fitted { base: 8.0, per_token: 1.0, per_context: 0.5 });
    let (prompt, output) = fitted.token_seconds();
    assert!(close(prompt, (8.0 + 1024.0 + 512.0) / 1024.0, 1e-12), "{prompt}");
    assert!(close(output, (8.0 + 8.0 + 0.5 * 8.0 * 512.0) / 8.0, 1e-12), "{output}");
    // A token attends to half of a prompt, and to all of a context, in the mean.
    let pairs = Roofline {
        parameters: 0.0,
        weight_bytes: 0.0,
        kv_bytes_per_token: 0.0,
        flops_per_pair: 1.0,
        flops_per_second: 1.0,
        bytes_per_second: 1.0,
        overhead: 0.0,
    };
    assert_eq!(CostModel::Roofline(pairs).token_seconds(), (512.0, 512.0));
    // Never zero, so that costs stay above it.
    assert_eq!(CostModel::Fitted(Fitted::default()).token_seconds(), (1e-9, 1e-9));
}

#[test]
fn what_was_measured_without_noise_is_fitted_exactly() {
    let sizes =
        [(1.0, 100.0), (8.0, 4000.0), (256.0, 256.0), (512.0, 9000.0), (64.0, 1e5), (2000.0, 2000.0), (3.0, 0.0)];
    for (base, per_token, per_context) in [
        (5e-3, 4e-5, 5e-8),
        (5e-3, 4e-5, 0.0),
        (5e-3, 0.0, 5e-8),
        (0.0, 4e-5, 5e-8),
        (5e-3, 0.0, 0.0),
        (0.0, 4e-5, 0.0),
    ] {
        let samples: Vec<StepSample> = sizes
            .iter()
            .map(|&(tokens, context)| StepSample {
                tokens,
                context,
                seconds: base + per_token * tokens + per_context * context,
            })
            .collect();
        let found = Fitted::fit(&samples).expect("seven samples");
        for (found, truth) in [(found.base, base), (found.per_token, per_token), (found.per_context, per_context)] {
            assert!((found - truth).abs() <= 1e-6 * truth + 1e-12, "{found} for {truth}");
        }
    }
}

#[test]
fn factors_that_cannot_be_told_apart_are_fitted_as_one() {
    let sample = |tokens: f64| StepSample { tokens, context: 2.0 * tokens, seconds: 0.5 + 0.01 * tokens };
    let samples: Vec<StepSample> = [1.0, 5.0, 20.0, 80.0].map(sample).to_vec();
    let found = CostModel::Fitted(Fitted::fit(&samples).expect("four samples"));
    for one in &samples {
        let seconds = found.seconds(&StepLoad { tokens: one.tokens, context: one.context, pairs: 0.0 });
        assert!(close(seconds, one.seconds, 1e-6), "{seconds} for {}", one.seconds);
    }
    // Steps that are all alike have a time and no more.
    let alike = [sample(8.0); 3];
    let found = CostModel::Fitted(Fitted::fit(&alike).expect("three samples"));
    assert!(close(found.seconds(&StepLoad { tokens: 8.0, context: 16.0, pairs: 0.0 }), 0.58, 1e-6));
    // Relative errors count: a short step is fitted as well as a long one.
    let noisy: Vec<StepSample> = [(1.0, 0.01), (1.0, 0.012), (1000.0, 10.0), (1000.0, 12.0)]
        .map(|(tokens, seconds)| StepSample { tokens, context: 0.0, seconds })
        .to_vec();
    let found = CostModel::Fitted(Fitted::fit(&noisy).expect("four samples"));
    let at = |tokens| found.seconds(&StepLoad { tokens, context: 0.0, pairs: 0.0 });
    assert!(close(at(1.0), 0.011, 0.02) && close(at(1000.0), 11.0, 0.02), "{} {}", at(1.0), at(1000.0));
}

#[test]
fn weights_of_tenants_reach_the_policy() {
    let batch = BatchConfig { max_running: 1, ..config().batch };
    let classes = [Class { tenants: 2, prompt: Length::Fixed(16), ..Class::default() }];
    let requests: Vec<TraceRequest> =
        (0..60).map(|number| TraceRequest { tenant: (number % 2) as u32, ..request(number, 0.0, 16, 5) }).collect();
    let latencies = |weights: Vec<(TenantId, f64)>| {
        let config = FleetConfig { policy: "vtc".into(), weights, batch: batch.clone(), ..config() };
        run(config, &classes, &requests).fairness_gap
    };
    // With a weight of four, the first gets four of five requests while both wait.
    assert!(latencies(Vec::new()) <= 26.0);
    assert!(latencies(vec![(TenantId(0), 4.0)]) > 26.0);
}
