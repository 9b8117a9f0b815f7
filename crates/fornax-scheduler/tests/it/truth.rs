//! Schedulers are not told the true lengths of outputs, and reports do not hide requests that were not served.

use fornax_scheduler::simulate::{Class, CostModel, Fitted, FleetConfig, Report, Roofline, TraceRequest};
use fornax_scheduler::{Admission, BatchConfig, ModelConfig, Random};

use super::simulator::{self, request, run};

fn batch(blocks: usize, max_running: usize) -> BatchConfig {
    let models = vec![ModelConfig { blocks, ..ModelConfig::default() }];
    BatchConfig { models, max_running, max_tokens: 512, prefix_caching: false, ..BatchConfig::default() }
}

/// Requests with outputs of 10 and of 1,000 tokens, nine to one, near capacity. Each has a limit of 1,000.
fn unlike() -> (Vec<Class>, Vec<TraceRequest>) {
    let class = |name: &str| Class { name: name.into(), max_tokens: Some(1000), ..Class::default() };
    let mut random = Random::new(8);
    let mut at = 0.0;
    let requests = (0..4000).map(|number| {
        at += random.exponential(1.0 / 27.0);
        let long = random.chance(0.1);
        let of = request(number, at, 100, if long { 1000 } else { 10 });
        TraceRequest { class: u16::from(long), max_tokens: None, ..of }
    });
    (vec![class("short"), class("long")], requests.collect())
}

#[test]
fn predictions_that_are_noise_cost() {
    let (classes, requests) = unlike();
    let with = |prediction| {
        let config = FleetConfig {
            policy: "shortest:ageing=0".into(),
            batch: batch(8192, 24),
            cost: CostModel::Roofline(Roofline::GPU_8B),
            prediction: Some(prediction),
            ..FleetConfig::default()
        };
        let report = run(config, &classes, &requests);
        (report.mean_latency, report.classes[0].first_token_mean)
    };
    // A factor of 22,000 tells the short from the long no better than a coin.
    let [perfect, noise] = [0.0, 10.0].map(with);
    assert!(noise.0 > 1.3 * perfect.0 && noise.1 > 3.0 * perfect.1, "{perfect:?} {noise:?}");
}

#[test]
fn a_reservation_is_for_the_limit_and_not_for_the_true_length() {
    // There is room for four sequences of 256 tokens. Each may put out 240 tokens, and puts out 16.
    let with = |limit| {
        let batch = BatchConfig { admission: Admission::Reserved, ..batch(64, 32) };
        let requests: Vec<TraceRequest> =
            (0..32).map(|at| TraceRequest { max_tokens: Some(limit), ..request(at, 0.0, 16, 16) }).collect();
        run(FleetConfig { batch, ..simulator::config() }, &[Class::default()], &requests)
    };
    let (free, tight) = (with(16), with(240));
    assert_eq!((free.finished, tight.finished), (32, 32));
    // All run at once after the first step, or four run at a time.
    assert_eq!((free.seconds, tight.seconds), (17.0, 1.0 + 8.0 * 16.0));
}

#[test]
fn outputs_end_by_results_and_are_cut_at_the_limit() {
    let serve = |limit: Option<u32>, class: Option<u32>| {
        let one = TraceRequest { max_tokens: limit, ..request(0, 0.0, 16, 9) };
        run(simulator::config(), &[Class { max_tokens: class, ..Class::default() }], &[one]).seconds
    };
    assert_eq!([serve(Some(9), None), serve(Some(500), None), serve(None, None), serve(None, Some(77))], [9.0; 4]);
    assert_eq!([serve(Some(4), None), serve(None, Some(4)), serve(Some(4), Some(9))], [4.0; 3]);
    // Right guesses do not lead beyond the end.
    let classes = [Class { speculation: 3, acceptance: 1.0, ..Class::default() }];
    let report = run(simulator::config(), &classes, &[TraceRequest { max_tokens: Some(99), ..request(0, 0.0, 16, 7) }]);
    assert_eq!((report.steps, report.output_tokens_per_second), (3, 7.0 / 3.0));
}

#[test]
fn every_sequence_of_a_request_puts_out_as_much_and_it_ends_with_the_last() {
    let several = |sequences, limit| TraceRequest { sequences, max_tokens: Some(limit), ..request(0, 0.0, 16, 5) };
    for limit in [5, 50] {
        let report = run(simulator::config(), &[Class::default()], &[several(3, limit)]);
        assert_eq!((report.seconds, report.finished, report.output_tokens_per_second), (5.0, 1, 3.0), "{limit}");
        assert_eq!(report.classes[0].first_token.count(), 1);
    }
    let single = TraceRequest { sequences: 3, ..request(0, 0.0, 16, 1) };
    assert_eq!(run(simulator::config(), &[Class::default()], &[single]).finished, 1);
    // More sequences than there are running slots are refused.
    assert_eq!(run(simulator::config(), &[Class::default()], &[several(9, 5)]).classes[0].refused, 1);
}

#[test]
fn a_request_without_output_is_served_when_its_prompt_is_computed() {
    let none = |number, sequences| TraceRequest { sequences, new_tokens: 0, ..request(number, 0.0, 600, 0) };
    let report = run(simulator::config(), &[Class::default()], &[none(0, 1), none(1, 3), request(2, 0.0, 16, 2)]);
    let class = &report.classes[0];
    assert_eq!((report.finished, class.refused, class.first_token.count()), (3, 0, 1));
    assert_eq!((report.output_tokens_per_second * report.seconds, report.mean_latency > 1.0), (2.0, true));
}

#[test]
fn a_request_that_is_cancelled_ends_then_and_is_not_served() {
    let at = |cancel| TraceRequest { cancel: Some(cancel), ..request(0, 0.0, 16, 9) };
    let classes = [Class::default()];
    // It ends at once, even while a step is under way. An ended request cannot be cancelled.
    for (cancel, ends, cancelled) in [(2.5, 2.5, 1), (2.0, 2.0, 1), (9.5, 9.0, 0)] {
        let report = run(simulator::config(), &classes, &[at(cancel)]);
        assert_eq!((report.seconds, report.classes[0].cancelled), (ends, cancelled), "{cancel}");
        assert_eq!(report.finished, 1 - cancelled);
    }
    // A waiting request ends at once, and a request of several sequences ends with all of them.
    let batch = BatchConfig { max_running: 1, ..simulator::config().batch };
    let two = [request(0, 0.0, 16, 9), TraceRequest { cancel: Some(1.25), ..request(1, 0.0, 16, 9) }];
    let report = run(FleetConfig { batch, ..simulator::config() }, &classes, &two);
    assert_eq!((report.seconds, report.finished, report.classes[0].cancelled), (9.0, 1, 1));
    assert!((report.mean_in_system - (9.0 + 1.25) / 9.0).abs() < 1e-9, "{}", report.mean_in_system);
    for cancel in [0.5, 3.5] {
        let report = run(simulator::config(), &classes, &[TraceRequest { sequences: 3, ..at(cancel) }]);
        assert_eq!((report.seconds, report.classes[0].cancelled), (cancel, 1), "{cancel}");
    }
}

#[test]
fn adapters_and_urgency_are_a_requests_own() {
    let mut config = simulator::config();
    config.batch.models[0].adapters = 1;
    let with = |number, adapter| TraceRequest { adapter: Some(adapter), ..request(number, 0.0, 16, 4) };
    // One adapter may be in use: requests that need another wait for the first request to end.
    assert_eq!(run(config.clone(), &[Class::default()], &[with(0, 1), with(1, 1)]).seconds, 5.0);
    assert_eq!(run(config, &[Class::default()], &[with(0, 1), with(1, 2)]).seconds, 8.0);
    let batch = BatchConfig { max_running: 1, ..simulator::config().batch };
    let config = FleetConfig { policy: "priority".into(), batch, ..simulator::config() };
    let classes = [Class { priority: 3, deadline: Some(50.0), ..Class::default() }];
    let urgent = TraceRequest { priority: Some(7), ..request(2, 1.25, 16, 4) };
    let late = TraceRequest { deadline: Some(2.0), ..request(1, 1.0, 16, 4) };
    let report = run(config, &classes, &[request(0, 0.0, 16, 4), late, urgent]);
    assert_eq!((report.finished, report.classes[0].late), (2, 1));
}

fn half_refused(blocks: usize) -> Report {
    let cost = CostModel::Fitted(Fitted { base: 0.01, per_token: 4e-5, per_context: 0.0 });
    let of = |at: u64| request(at, at as f64 * 0.1, if at.is_multiple_of(2) { 20_000 } else { 100 }, 50);
    let requests: Vec<TraceRequest> = (0..200).map(of).collect();
    run(FleetConfig { batch: batch(blocks, 64), cost, ..FleetConfig::default() }, &[Class::default()], &requests)
}

#[test]
fn refusing_half_of_the_requests_makes_nothing_look_faster() {
    let report = half_refused(1024);
    let class = &report.classes[0];
    assert_eq!((report.requests, report.finished, class.refused), (200, 100, 100));
    // Fifty steps of at least ten milliseconds.
    assert!(report.mean_latency > 0.5 && report.mean_latency < 0.6, "{}", report.mean_latency);
    assert!(class.latency_p50 > 0.5 && class.latency_p99 >= class.latency_p90, "{class:?}");
    let all = half_refused(16_384);
    assert_eq!((all.finished, all.classes[0].refused), (200, 0));
}

#[test]
fn dropped_requests_are_reported_beside_the_latency_of_the_served() {
    let cost = CostModel::Roofline(Roofline::GPU_8B);
    let requests: Vec<TraceRequest> = (0..1000).map(|at| request(at, at as f64 / 40.0, 300, 200)).collect();
    let with = |deadline| {
        let classes = [Class { deadline, ..Class::default() }];
        let batch = BatchConfig { prefix_caching: true, ..batch(1024, 64) };
        run(FleetConfig { batch, cost, ..FleetConfig::default() }, &classes, &requests)
    };
    let (report, all) = (with(Some(2.0)), with(None));
    let class = &report.classes[0];
    assert!(class.finished < 200 && class.late + class.finished == 1000, "{class:?}");
    assert!(class.mean_latency <= 2.0 + 0.1, "served requests ended in time");
    assert_eq!((all.finished, all.classes[0].late), (1000, 0));
    // No two prompts share anything. The blocks that preempted requests find again do not count as hits.
    assert!(all.preemptions > 0 && report.preemptions > 0, "{} {}", all.preemptions, report.preemptions);
    assert_eq!((all.cache_hits, all.cache_hit_rate, report.cache_hits), (0, 0.0, 0));
    // Little's law: the mean number of requests in the system is the number that come during the mean latency.
    let little = all.mean_latency * 1000.0 / all.seconds;
    assert!((all.mean_in_system / little - 1.0).abs() < 1e-6, "{} {little}", all.mean_in_system);
}

#[test]
fn tenants_are_reported_one_by_one() {
    let classes = [Class { tenants: 2, ..Class::default() }];
    // No class declares one of the tenants.
    let requests: Vec<TraceRequest> = (0..9)
        .map(|at| TraceRequest { tenant: [0, 1, 5][at as usize % 3], ..request(at, 20.0 * at as f64, 16, 3) })
        .collect();
    let names = vec![(5, "acme".to_owned())];
    let report = run(FleetConfig { tenants: names, ..simulator::config() }, &classes, &requests);
    let labels: Vec<String> = report.tenants.iter().map(|tenant| tenant.label()).collect();
    assert_eq!(labels, ["0", "1", "acme"]);
    for tenant in &report.tenants {
        assert_eq!((tenant.requests, tenant.finished, tenant.mean_latency, tenant.most_latency), (3, 3, 3.0, 3.0));
        assert_eq!((tenant.first_token_mean, tenant.first_token_most, tenant.service), (1.0, 1.0, 3.0 * (16.0 + 6.0)));
    }
}
