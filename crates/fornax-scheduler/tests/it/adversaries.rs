//! Adversarial traffic: one request or one tenant that must not starve others, or must not be starved by others.

use fornax_scheduler::simulate::{Class, CostModel, FleetConfig, Report, Roofline, TraceRequest};
use fornax_scheduler::{BatchConfig, ModelConfig};

use super::simulator::{self, request};

/// A graphics card with a model of 8 · 10⁹ parameters, and `classes` by name.
fn run(policy: &str, batch: BatchConfig, classes: &[&str], requests: &mut [TraceRequest]) -> Report {
    let class = |name: &&str| Class { name: (*name).into(), ..Class::default() };
    let classes: Vec<Class> = classes.iter().map(class).collect();
    requests.sort_by_key(|request| request.arrival);
    let cost = CostModel::Roofline(Roofline::GPU_8B);
    let config = FleetConfig { policy: policy.into(), batch, cost, ..simulator::config() };
    simulator::run(config, &classes, requests)
}

fn batch(blocks: usize) -> BatchConfig {
    let models = vec![ModelConfig { blocks, ..ModelConfig::default() }];
    BatchConfig { models, prefix_caching: false, ..BatchConfig::default() }
}

/// 28 small requests a second of one tenant, and four prompts of 31,000 tokens of another in a minute.
pub(super) fn large_and_small(policy: &str, batch: BatchConfig) -> Report {
    let small = (0..1680).map(|at| TraceRequest { body_stream: at, ..request(at, at as f64 / 28.0, 100, 200) });
    let large = (0..4).map(|at| {
        let of = request(9000 + at, 1.0 + 15.0 * at as f64, 31_000, 100);
        TraceRequest { class: 1, tenant: 1, ..of }
    });
    let mut requests: Vec<TraceRequest> = small.chain(large).collect();
    run(policy, batch, &["small", "large"], &mut requests)
}

#[test]
fn large_prompts_are_not_preempted_for_ever_by_small_requests_of_another_tenant() {
    for (policy, least) in [("fcfs", 0), ("vtc", 0), ("drf", 1)] {
        let report = large_and_small(policy, batch(2048));
        assert_eq!(report.finished, 1684, "{policy}");
        let large = &report.classes[1];
        assert!(report.mean_latency < 12.0 && large.mean_latency < 12.0, "{policy}: {large:?}");
        // No large prompt is computed more than twice.
        assert!(report.lost_tokens <= 4 * 31_000 + 1680 * 300, "{policy}: {} tokens lost", report.lost_tokens);
        assert!(report.preemptions >= least, "{policy}: the memory does not run out");
    }
}

/// Of 100 blocks, a request of priority 10 holds 80 and a request of priority 0 holds 17, when a request of priority 5
/// comes that needs 50.
pub(super) fn useless(preemptive: bool, lookahead: u32) -> Report {
    let with = |class, number, arrival, prompt, output, priority| TraceRequest {
        class,
        priority: Some(priority),
        ..request(number, arrival, prompt, output)
    };
    let mut requests = [with(0, 0, 0.0, 1130, 150, 10), with(1, 1, 0.0, 190, 80, 0), with(2, 2, 0.5, 750, 50, 5)];
    let batch = BatchConfig { preemptive, lookahead, watermark: 0, ..batch(100) };
    run("priority", batch, &["high", "low", "middle"], &mut requests)
}

#[test]
fn no_sequence_is_preempted_where_that_does_not_help() {
    let patient = useless(false, 0);
    for lookahead in [0, 8, 1000] {
        let report = useless(true, lookahead);
        assert_eq!((report.preemptions, report.lost_tokens), (0, 0), "{lookahead}");
        for (one, other) in report.classes.iter().zip(&patient.classes) {
            assert_eq!(one.mean_latency, other.mean_latency, "{lookahead} {}", one.name);
        }
    }
}

/// 255 sequences decode, and a request with a prompt of this length comes.
pub(super) fn unchunked(prompt: u32) -> Report {
    let decoding = (0..255).map(|at| request(at, 0.0, 2, 800));
    let one = TraceRequest { class: 1, ..request(999, 1.0, prompt, 10) };
    let mut requests: Vec<TraceRequest> = decoding.chain([one]).collect();
    let batch = BatchConfig { chunked: false, max_running: 256, ..batch(40_000) };
    run("fcfs", batch, &["decoding", "one"], &mut requests)
}

#[test]
fn a_prompt_that_is_not_cut_does_not_wait_for_an_empty_step() {
    for prompt in [200, 300, 512, 513] {
        let one = &unchunked(prompt).classes[1];
        assert!(one.first_token_mean < 0.2, "{prompt}: {one:?}");
    }
}

/// One adapter may be in use. A long request uses it, then a request comes for another adapter, then twenty without an
/// adapter.
pub(super) fn adapters(lookahead: u32) -> Report {
    let long = TraceRequest { adapter: Some(1), ..request(0, 0.0, 100, 1000) };
    let other = TraceRequest { class: 1, adapter: Some(2), ..request(1, 0.1, 100, 10) };
    let plain = (0..20).map(|at| TraceRequest { class: 2, ..request(2 + at, 0.2 + 0.1 * at as f64, 100, 10) });
    let mut requests: Vec<TraceRequest> = [long, other].into_iter().chain(plain).collect();
    let mut batch = BatchConfig { lookahead, ..batch(2048) };
    batch.models[0].adapters = 1;
    run("fcfs", batch, &["long", "other", "plain"], &mut requests)
}

#[test]
fn requests_without_an_adapter_do_not_wait_for_one() {
    for lookahead in [0, 8] {
        let report = adapters(lookahead);
        let plain = &report.classes[2];
        assert!(plain.first_token_p99 < 0.05, "{lookahead}: {plain:?}");
        // The request for the other adapter follows the long one, not the later requests.
        let (long, other) = (&report.classes[0], &report.classes[1]);
        assert!((other.first_token_mean + 0.1 - long.mean_latency).abs() < 0.05, "{lookahead}: {other:?}");
    }
}

/// Requests of ten tokens come while another request wants as many continuations as there are running slots.
pub(super) fn wide(caching: bool) -> Report {
    let small = (0..200).map(|at| request(at, 0.02 * at as f64, 100, 100));
    let one = TraceRequest { class: 1, sequences: 64, ..request(999, 1.0, 200, 100) };
    let mut requests: Vec<TraceRequest> = small.chain([one]).collect();
    let batch = BatchConfig { prefix_caching: caching, ..batch(4096) };
    run("fcfs", batch, &["small", "wide"], &mut requests)
}

#[test]
fn a_request_for_many_continuations_takes_running_slots_as_they_come() {
    let report = wide(true);
    assert_eq!(report.finished, 201);
    let [small, one] = [&report.classes[0], &report.classes[1]];
    assert!(one.first_token_mean < 0.1 && one.finished == 1, "{one:?}");
    assert!(report.preemptions == 0 && small.first_token_mean < 1.0, "{small:?}");
}
