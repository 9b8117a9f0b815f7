//! Fleets so small that their reports can be worked out by hand: what reaches replicas and reports from classes and
//! traces.

use fornax_scheduler::simulate::{
    Arrivals, Class, CostModel, Fitted, FleetConfig, Length, MOST_TOKENS, Roofline, TraceRequest, Turns, Workload,
};
use fornax_scheduler::{BatchConfig, ModelConfig, Random};

use super::simulator::{self, request, run};

/// Steps of a second, one replica that always knows how long outputs are and has one seat.
fn config() -> FleetConfig {
    let many = simulator::config();
    FleetConfig { batch: BatchConfig { max_running: 1, ..many.batch }, ..many }
}

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-5
}

#[test]
fn steps_take_as_long_as_their_contexts_and_pairs_say() {
    let seconds = |cost| run(FleetConfig { cost, ..config() }, &[Class::default()], &[request(0, 0.0, 100, 3)]).seconds;
    // Contexts of 100, of 101 and of 102 tokens.
    let context = seconds(CostModel::Fitted(Fitted { base: 1.0, per_token: 0.0, per_context: 0.01 }));
    assert!(close(context, 2.0 + 2.01 + 2.02), "{context}");
    // In the prompt a token attends to half of it in the mean, and then to all that is before it and half of itself.
    let pairs = Roofline {
        parameters: 0.0,
        weight_bytes: 0.0,
        kv_bytes_per_token: 0.0,
        flops_per_pair: 1.0,
        flops_per_second: 1000.0,
        bytes_per_second: 1.0,
        overhead: 0.0,
    };
    let pairs = seconds(CostModel::Roofline(pairs));
    assert!(close(pairs, 5.0 + 0.1005 + 0.1015), "{pairs}");
}

#[test]
fn the_urgent_class_goes_first_where_the_policy_says_so() {
    let class = |name: &str, priority| Class { name: name.into(), priority, ..Class::default() };
    let classes = [class("plain", 0), class("urgent", 5)];
    let requests = [
        request(0, 0.0, 16, 4),
        request(1, 1.5, 16, 4),
        TraceRequest { class: 1, ..request(2, 2.5, 16, 4) },
        request(3, 2.6, 16, 4),
    ];
    let ends = |policy: &str| {
        let report = run(FleetConfig { policy: policy.into(), ..config() }, &classes, &requests);
        report.class("urgent").expect("a class").mean_latency
    };
    // The first request runs to 4 s. Then the second or the third runs, depending on the policy.
    assert_eq!((ends("fcfs"), ends("priority")), (12.0 - 2.5, 8.0 - 2.5));
}

#[test]
fn outputs_are_found_in_the_cache_by_the_next_turn_of_a_conversation() {
    // The second turn repeats the first turn's 16 prompt tokens and 49 output tokens, and adds 7.
    let hits = |stream| {
        let second = TraceRequest { body_stream: stream, ..request(0, 100.0, 72, 1) };
        run(config(), &[Class::default()], &[request(0, 0.0, 16, 49), second]).cache_hits
    };
    assert_eq!((hits(1000), hits(1001)), (4, 0));
}

#[test]
fn of_two_idle_replicas_the_one_that_did_less_is_taken() {
    let requests: Vec<TraceRequest> = (0..4).map(|at| request(at, 5.0 * at as f64, 1000, 1)).collect();
    let report = run(FleetConfig { replicas: 2, ..config() }, &[Class::default()], &requests);
    assert_eq!((report.busiest_tokens, report.tokens_balance.variation), (2000, 0.0));
}

/// Two quiet minutes and then a busy one, in which the replicas that were idle take part.
#[test]
fn idle_replicas_are_not_taken_for_lost() {
    let mut random = Random::new(4);
    let (mut at, mut requests) = (0.0, Vec::new());
    while at < 180.0 {
        at += random.exponential(if at < 120.0 { 1.0 } else { 1.0 / 30.0 });
        requests.push(request(requests.len() as u64, at, 2000, 100));
    }
    let with = |routing: &str, requests: &[TraceRequest]| {
        let models = vec![ModelConfig { blocks: 2048, ..ModelConfig::default() }];
        let batch = BatchConfig { models, prefix_caching: false, ..BatchConfig::default() };
        let cost = CostModel::Roofline(Roofline::GPU_8B);
        let config = FleetConfig { replicas: 10, routing: routing.into(), batch, cost, ..FleetConfig::default() };
        run(config, &[Class::default()], requests)
    };
    let even = with("round-robin", &requests);
    for routing in ["least-loaded", "two-choices", "prefix"] {
        let report = with(routing, &requests);
        assert!(report.mean_latency <= 1.1 * even.mean_latency, "{routing}: {}", report.mean_latency);
        assert!(report.tokens_balance.most < 1.5 && report.preemptions == 0, "{routing}: {:?}", report.tokens_balance);
    }
    // With one request a minute, every one of them finds all replicas idle.
    let rare: Vec<TraceRequest> = (0..200).map(|at| request(at, 60.0 * at as f64, 2000, 100)).collect();
    for routing in ["round-robin", "two-choices"] {
        let most = with(routing, &rare).tokens_balance.most;
        assert!(most < 1.8, "{routing}: {most}");
    }
}

#[test]
fn right_guesses_are_service_too() {
    let classes = [Class { tenants: 2, speculation: 3, acceptance: 1.0, ..Class::default() }];
    let requests: Vec<TraceRequest> =
        (0..40).map(|number| TraceRequest { tenant: (number / 20) as u32, ..request(number, 0.0, 16, 5) }).collect();
    let report = run(config(), &classes, &requests);
    // A request takes two steps, one token and then four. In ten seconds the first tenant gets five, of 16 + 2 · 5 each.
    assert_eq!((report.seconds, report.fairness_gap), (80.0, 130.0));
}

#[test]
fn balance_is_that_of_whole_windows_in_which_requests_come() {
    // Replicas take turns every half second, and a request is one step. In the windows of ten seconds the second replica
    // computes 16, 48, 80 and 32 tokens a step; the first 160, then 16, 16 and 32. Each step ends a second after it began.
    let prompts = [(160, 16), (16, 48), (16, 80), (32, 32)];
    let of = |at: u64| {
        let (first, second) = prompts[((at / 2 + 1) / 10).min(3) as usize];
        if at.is_multiple_of(2) { first } else { second }
    };
    let mut requests: Vec<TraceRequest> = (0..80).map(|at| request(at, at as f64 * 0.5, of(at), 1)).collect();
    // The last runs on alone for two windows.
    (requests[78].new_tokens, requests[78].max_tokens) = (22, Some(22));
    let config = FleetConfig { replicas: 2, routing: "round-robin".into(), ..config() };
    let report = run(config, &[Class::default()], &requests);
    assert_eq!(report.seconds, 61.0);
    // The first window starts empty and does not count, nor do windows after the last arrival.
    let balance = report.tokens_balance;
    assert!(close(balance.window_most, (1.5 + 5.0 / 3.0 + 1.0) / 3.0), "{balance:?}");
    assert!(close(balance.window_variation, (0.5 + 2.0 / 3.0 + 0.0) / 3.0), "{balance:?}");
}

#[test]
fn misses_are_told_apart_by_whether_the_block_was_ever_there() {
    // Room for one prompt of five blocks at a time and no more; of a prompt, four blocks are looked up.
    let models = vec![ModelConfig { blocks: 7, block_size: 16, ..ModelConfig::default() }];
    let batch = BatchConfig { models, watermark: 0, ..config().batch };
    let asks = |streams: &[u64]| {
        let requests: Vec<TraceRequest> =
            streams.iter().enumerate().map(|(at, &stream)| request(stream, 10.0 * at as f64, 80, 1)).collect();
        let report = run(FleetConfig { batch: batch.clone(), ..config() }, &[Class::default()], &requests);
        (report.evicted_misses, report.cold_misses)
    };
    assert_eq!(asks(&[1, 2, 3]), (0, 3));
    assert_eq!(asks(&[1, 2, 1, 2, 3]), (2, 3));
}

#[test]
fn fleets_are_checked_to_their_limits() {
    let check = |blocks, replicas, tenants| {
        let models = vec![ModelConfig { blocks, ..ModelConfig::default() }];
        let config = FleetConfig { batch: BatchConfig { models, ..BatchConfig::default() }, replicas, ..config() };
        config.check(&[Class { tenants, ..Class::default() }]).map_err(|error| error.to_string())
    };
    assert_eq!(check(1000, 100_000, 100), Ok(()));
    let error = check(1001, 100_000, 100).expect_err("too many blocks");
    assert!(error.contains("100100000") && error.contains("at most 100 million"), "{error}");
    let error = check(1000, 100_000, 101).expect_err("too many tenants");
    assert!(error.contains("10100000") && error.contains("at most 10 million"), "{error}");
    assert!(check(1000, 100_001, 1).is_err());
}

/// The texts of conversations that go on for ever, one every thousand seconds, and how often each is heard.
#[test]
fn a_conversation_goes_on_as_long_as_it_can_be_read() {
    let turns = |prompt| {
        let class = Class {
            prompt: Length::Fixed(prompt),
            output: Length::Fixed(1),
            turns: Some(Turns { mean: 1e300, think: 1e-3 }),
            ..Class::default()
        };
        let workload = Workload { requests: 36, arrivals: Arrivals::Poisson(1e-3), classes: vec![class], seed: 1 };
        workload.check().expect("a sound workload");
        let mut streams: Vec<u64> = workload.iter().map(|request| request.body_stream).collect();
        streams.sort_unstable();
        streams.dedup();
        36 / streams.len()
    };
    // With the answer, the conversation is as long as a prompt may be, or a token longer.
    assert_eq!((turns(MOST_TOKENS - 1), turns(MOST_TOKENS), turns(MOST_TOKENS / 8 - 1)), (2, 1, 9));
}
