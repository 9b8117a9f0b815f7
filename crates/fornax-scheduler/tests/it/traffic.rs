//! Made-up traffic: how many requests, when, of which tenants, and which workloads are refused.

use std::collections::{BTreeMap, BTreeSet};

use fornax_scheduler::TenantId;
use fornax_scheduler::simulate::{
    Arrivals, Class, Length, MOST_REQUESTS, MOST_TOKENS, Prefix, TraceRequest, Turns, Workload,
};

fn workload(arrivals: Arrivals, classes: Vec<Class>) -> Workload {
    Workload { requests: 40_000, arrivals, classes, seed: 9 }
}

fn all(class: Class) -> Vec<TraceRequest> {
    workload(Arrivals::Poisson(100.0), vec![class]).iter().collect()
}

fn near(found: f64, expected: f64, part: f64) {
    assert!((found / expected - 1.0).abs() < part, "{found} for {expected}");
}

/// Arrivals by second.
fn counts(arrivals: Arrivals) -> Vec<f64> {
    let times: Vec<f64> =
        workload(arrivals, vec![Class::default()]).iter().map(|request| request.arrival.as_secs_f64()).collect();
    // The last second is not over.
    let mut counts = vec![0.0; times[times.len() - 1] as usize];
    for time in times {
        if let Some(count) = counts.get_mut(time as usize) {
            *count += 1.0;
        }
    }
    counts
}

#[test]
fn days_have_their_quiet_and_their_busy_hours() {
    let counts = counts(Arrivals::Diurnal { rate: 50.0, depth: 0.8, period: 40.0 });
    let part = |from: usize, to: usize| {
        let whole = counts.len() / 40 * 40;
        let sum = |of: &dyn Fn(usize) -> bool| {
            counts[..whole].iter().enumerate().filter(|(at, _)| of(at % 40)).map(|(_, count)| count).sum::<f64>()
        };
        sum(&|at| (from..to).contains(&at)) / sum(&|_| true)
    };
    // A day begins at its quietest. The sine's part of a quarter is 2/π: 1 - 0.8 · 2/π and 1 + 0.8 · 2/π.
    near(part(0, 10) + part(30, 40), 0.5 - 0.8 / std::f64::consts::PI, 0.05);
    near(part(10, 30), 0.5 + 0.8 / std::f64::consts::PI, 0.02);
    near(part(0, 10), part(30, 40), 0.08);
    near(counts.iter().sum::<f64>() / counts.len() as f64, 50.0, 0.03);
}

#[test]
fn bursts_are_as_high_and_as_long_as_asked() {
    let mut counts = counts(Arrivals::Bursty { rate: 50.0, factor: 10.0, on: 5.0, off: 20.0 });
    near(counts.iter().sum::<f64>() / counts.len() as f64, 50.0, 0.15);
    // 50 in the mean of a fifth at ten times the rate of the rest: 17.9 and 179.
    let calm: Vec<f64> = counts.iter().copied().filter(|&count| count < 60.0).collect();
    let busy: Vec<f64> = counts.iter().copied().filter(|&count| count > 120.0).collect();
    near(busy.len() as f64 / counts.len() as f64, 0.2, 0.35);
    counts.sort_by(f64::total_cmp);
    near(counts[counts.len() / 3], 17.9, 0.15);
    near(calm.iter().sum::<f64>() / calm.len() as f64, 18.5, 0.12);
    near(busy.iter().sum::<f64>() / busy.len() as f64, 177.0, 0.06);
}

#[test]
fn the_rate_holds_where_hardly_any_come_between_short_bursts() {
    // One in 500 seconds of calm, and two in each second of bursts that are a second long.
    let arrivals = Arrivals::Bursty { rate: 1.0, factor: 1000.0, on: 1.0, off: 1.0 };
    let times: Vec<f64> =
        workload(arrivals, vec![Class::default()]).iter().map(|request| request.arrival.as_secs_f64()).collect();
    near(times.len() as f64 / times[times.len() - 1], 1.0, 0.05);
}

#[test]
fn classes_and_tenants_get_their_shares() {
    let class = |share, tenant, tenants| Class { share, tenant, tenants, ..Class::default() };
    let classes = vec![class(1.0, 0, 2), class(2.0, 7, 1), class(5.0, 20, 4)];
    let requests: Vec<TraceRequest> = workload(Arrivals::Poisson(100.0), classes).iter().collect();
    let mut seen: BTreeMap<(u16, u32), f64> = BTreeMap::new();
    requests.iter().for_each(|request| *seen.entry((request.class, request.tenant)).or_default() += 1.0);
    let places: Vec<(u16, u32)> = seen.keys().copied().collect();
    assert_eq!(places, [(0, 0), (0, 1), (1, 7), (2, 20), (2, 21), (2, 22), (2, 23)]);
    for (count, part) in seen.values().zip([0.5, 0.5, 2.0, 1.25, 1.25, 1.25, 1.25]) {
        near(*count, 5000.0 * part, 0.06);
    }
}

#[test]
fn lengths_are_distributed_as_asked() {
    let mean = |prompt| {
        let requests = all(Class { prompt, ..Class::default() });
        requests.iter().map(|request| f64::from(request.body)).sum::<f64>() / requests.len() as f64
    };
    assert_eq!(mean(Length::Fixed(7)), 7.0);
    near(mean(Length::Uniform(100, 300)), 200.0, 0.01);
    // exp(σ² / 2), and α / (α - 1), less half a token of rounding down.
    near(mean(Length::LogNormal(1000.0, 0.5, MOST_TOKENS)), 1000.0 * 0.125f64.exp(), 0.02);
    near(mean(Length::Pareto(1000.0, 3.0, MOST_TOKENS)), 1500.0, 0.02);
    assert!(
        all(Class { output: Length::LogNormal(0.01, 0.1, 9), ..Class::default() })
            .iter()
            .all(|one| one.new_tokens == 1)
    );
}

#[test]
fn beginnings_are_shared_within_a_class() {
    let class = Class { prefix: Some(Prefix { groups: 5, tokens: 24, skew: 1.0 }), ..Class::default() };
    let workload = workload(Arrivals::Poisson(100.0), vec![class.clone(), class]);
    let requests: Vec<TraceRequest> = workload.iter().collect();
    let mut seen: BTreeMap<(u16, u64), f64> = BTreeMap::new();
    requests.iter().for_each(|request| *seen.entry((request.class, request.prefix_stream)).or_default() += 1.0);
    assert_eq!(seen.len(), 10);
    let streams: BTreeSet<u64> = seen.keys().map(|(_, stream)| *stream).collect();
    assert_eq!(streams.len(), 10, "a class shares with no other");
    let mut most: Vec<f64> = seen.iter().filter(|((class, _), _)| *class == 0).map(|(_, count)| *count).collect();
    most.sort_by(|a, b| b.total_cmp(a));
    assert!(most[0] > 2.0 * most[4] && most[0] < 6.0 * most[4], "{most:?}");
    let [one, two] = [0, 1].map(|at| {
        let of = requests.iter().filter(|request| request.prefix_stream == requests[0].prefix_stream);
        of.clone().nth(at).expect("many share it").prompt()
    });
    assert!(one[..24] == two[..24] && one[24..] != two[24..] && one.len() > 24);
    // Drawn from 2¹⁷ tokens, of which few come twice.
    assert!(one.iter().chain(&two).all(|&token| token < 1 << 17));
    assert!(one.iter().collect::<BTreeSet<_>>().len() * 10 > one.len() * 9);
    // Another seed, other texts.
    let other = Workload { seed: 1_000_003, ..workload.clone() };
    assert!(!streams.contains(&other.iter().next().expect("a request").prefix_stream));
    assert_eq!(workload.iter().take(100).collect::<Vec<_>>(), requests[..100]);
}

#[test]
fn a_class_shares_its_beginnings_with_no_other_whatever_the_seed() {
    let class = Class { prefix: Some(Prefix { groups: 3, tokens: 24, skew: 0.0 }), ..Class::default() };
    for seed in [0, 1, 1 << 40, 3 << 40, u64::MAX] {
        let classes = vec![class.clone(); 4];
        let workload = Workload { requests: 1000, seed, ..workload(Arrivals::Poisson(100.0), classes) };
        let streams: BTreeSet<(u16, u64)> = workload.iter().map(|one| (one.class, one.prefix_stream)).collect();
        let apart: BTreeSet<u64> = streams.iter().map(|(_, stream)| *stream).collect();
        assert_eq!((streams.len(), apart.len()), (12, 12), "{seed}");
    }
}

#[test]
fn texts_of_different_streams_have_nothing_in_common() {
    let request = all(Class::default())[0].clone();
    let streams = [0, 1, 2, 3, 1000, 1001, u64::MAX - 1, u64::MAX, 1 << 63];
    let text = |body_stream| TraceRequest { body_stream, body: 300, prefix: 0, ..request.clone() }.prompt();
    let texts = streams.map(text);
    for (at, one) in texts.iter().enumerate() {
        assert!(one.iter().collect::<BTreeSet<_>>().len() >= 298, "{}", streams[at]);
        for two in &texts[..at] {
            assert!(one.iter().zip(two).filter(|(one, two)| one == two).count() <= 1, "{}", streams[at]);
        }
    }
}

#[test]
fn turns_come_after_a_time_to_think() {
    let turns = Some(Turns { mean: 4.0, think: 2.5 });
    let class = Class { turns, tenants: 9, prompt: Length::Fixed(10), output: Length::Fixed(5), ..Class::default() };
    // So few that hardly a conversation is cut off by the end.
    let requests: Vec<TraceRequest> = workload(Arrivals::Poisson(5.0), vec![class]).iter().collect();
    assert!(requests.windows(2).all(|pair| pair[0].arrival <= pair[1].arrival));
    let mut last: BTreeMap<u64, TraceRequest> = BTreeMap::new();
    let (mut gaps, mut opened) = (Vec::new(), 0.0);
    for request in &requests {
        match last.insert(request.body_stream, request.clone()) {
            Some(before) => {
                gaps.push(request.arrival.secs_since(before.arrival));
                assert_eq!((request.tenant, request.body), (before.tenant, before.body + 5 + 10));
            }
            None => {
                opened += 1.0;
                assert_eq!(request.body, 10);
            }
        }
    }
    near(gaps.iter().sum::<f64>() / gaps.len() as f64, 2.5, 0.03);
    near(requests.len() as f64 / opened, 4.0, 0.05);
    // A mean of one turn is no conversation.
    let alone = all(Class { turns: Some(Turns { mean: 1.0, think: 1.0 }), ..Class::default() });
    assert_eq!(alone.iter().map(|request| request.body_stream).collect::<BTreeSet<u64>>().len(), alone.len());
}

/// Whether a workload with these arrivals is sound.
fn comes(arrivals: Arrivals) -> bool {
    workload(arrivals, vec![Class::default()]).check().is_ok()
}

#[test]
fn arrivals_are_checked_to_their_limits() {
    let bursty = |rate, factor, on, off| comes(Arrivals::Bursty { rate, factor, on, off });
    let diurnal = |rate, depth, period| comes(Arrivals::Diurnal { rate, depth, period });
    assert!([1e-9, 1.0, 1e9].into_iter().all(|rate| comes(Arrivals::Poisson(rate))));
    assert!(![0.0, -1.0, 1e-10, 2e9, f64::NAN, f64::INFINITY].into_iter().any(|rate| comes(Arrivals::Poisson(rate))));
    assert!(bursty(1.0, 1.0, 1e-3, 1e-3) && bursty(1.0, 1e6, 1e9, 1e9) && bursty(0.4e-3, 2.0, 1.25e-3, 1.25e-3));
    for (rate, factor, on, off) in [
        (0.0, 2.0, 1.0, 1.0),
        (1.0, 0.99, 1.0, 1.0),
        (1.0, 2e6, 1.0, 1.0),
        (1.0, 2.0, 1e-4, 1.0),
        (1.0, 2.0, 1.0, 1e-4),
        (1.0, 2.0, 2e9, 1.0),
        (1.0, 2.0, 1.0, 2e9),
        (1e-4, 2.0, 1e-3, 1e-3),
        (1.0, f64::NAN, 1.0, 1.0),
    ] {
        assert!(!bursty(rate, factor, on, off), "{rate} {factor} {on} {off}");
    }
    assert!(diurnal(1.0, 0.0, 1.0) && diurnal(1.0, 1.0, 1e9));
    assert!(!diurnal(0.0, 0.5, 1.0) && !diurnal(1.0, 1.1, 1.0) && !diurnal(1.0, -0.1, 1.0) && !diurnal(1.0, 0.5, 0.0));
}

#[test]
fn classes_are_checked_to_their_limits() {
    let sound = |class: Class| workload(Arrivals::Poisson(1.0), vec![class]).check();
    let base = Class::default;
    let prompt = |prompt| Class { prompt, ..base() };
    let prefix = |groups, tokens, skew| Class { prefix: Some(Prefix { groups, tokens, skew }), ..base() };
    let turns = |mean, think| Class { turns: Some(Turns { mean, think }), ..base() };
    for good in [
        Class { share: 1e9, ..base() },
        Class { share: 1e-9, ..base() },
        Class { tenant: TenantId::MOST - 3, tenants: 3, ..base() },
        Class { acceptance: 0.0, ..base() },
        Class { acceptance: 1.0, deadline: Some(1e-3), ..base() },
        prompt(Length::Fixed(MOST_TOKENS)),
        prompt(Length::Uniform(5, 5)),
        prompt(Length::Uniform(1, MOST_TOKENS)),
        prompt(Length::LogNormal(1.0, 0.0, 1)),
        prompt(Length::Pareto(0.5, 0.1, MOST_TOKENS)),
        prefix(1, MOST_TOKENS, 0.0),
        turns(1.0, 1e-3),
    ] {
        assert_eq!(sound(good.clone()), Ok(()), "{good:?}");
    }
    for (bad, field) in [
        (Class { share: 1.1e9, ..base() }, "class.share"),
        (Class { share: 0.0, ..base() }, "class.share"),
        (Class { share: f64::NAN, ..base() }, "class.share"),
        (Class { tenant: TenantId::MOST - 3, tenants: 4, ..base() }, "class.tenants"),
        (Class { tenant: u32::MAX, tenants: u32::MAX, ..base() }, "class.tenants"),
        (Class { tenants: 0, ..base() }, "class.tenants"),
        (Class { acceptance: -0.1, ..base() }, "class.acceptance"),
        (Class { acceptance: 1.1, ..base() }, "class.acceptance"),
        (Class { deadline: Some(0.0), ..base() }, "class.deadline"),
        (Class { deadline: Some(f64::INFINITY), ..base() }, "class.deadline"),
        (Class { first_token_target: 0.0, ..base() }, "class.first_token_target"),
        (Class { next_token_target: f64::NAN, ..base() }, "class.next_token_target"),
        (Class { output: Length::Fixed(0), ..base() }, "class.output"),
        (prompt(Length::Fixed(0)), "class.prompt"),
        (prompt(Length::Fixed(MOST_TOKENS + 1)), "class.prompt"),
        (prompt(Length::Uniform(0, 5)), "class.prompt"),
        (prompt(Length::Uniform(6, 5)), "class.prompt"),
        (prompt(Length::Uniform(6, MOST_TOKENS + 1)), "class.prompt"),
        (prompt(Length::LogNormal(0.0, 0.5, 9)), "class.prompt"),
        (prompt(Length::LogNormal(5.0, -0.5, 9)), "class.prompt"),
        (prompt(Length::LogNormal(5.0, f64::INFINITY, 9)), "class.prompt"),
        (prompt(Length::LogNormal(f64::INFINITY, 0.5, 9)), "class.prompt"),
        (prompt(Length::LogNormal(5.0, 0.5, 0)), "class.prompt"),
        (prompt(Length::Pareto(0.0, 1.0, 9)), "class.prompt"),
        (prompt(Length::Pareto(5.0, 0.0, 9)), "class.prompt"),
        (prompt(Length::Pareto(5.0, 1.0, 0)), "class.prompt"),
        (prefix(0, 1, 1.0), "class.prefix"),
        (prefix(1, MOST_TOKENS + 1, 1.0), "class.prefix"),
        (prefix(1, 1, -0.1), "class.prefix"),
        (prefix(1, 1, f64::INFINITY), "class.prefix"),
        (turns(0.9, 1.0), "class.turns"),
        (turns(f64::INFINITY, 1.0), "class.turns"),
        (turns(2.0, 0.0), "class.turns"),
    ] {
        let error = sound(bad.clone()).expect_err(field).to_string();
        assert!(
            error.starts_with(&format!("{field} is ")) && error.contains("in the class \"all\""),
            "{field}: {error}"
        );
    }
}

#[test]
fn messages_repeat_what_was_found() {
    for (class, found) in [
        (Class { share: -2.5, ..Class::default() }, "-2.5"),
        (Class { tenants: 0, tenant: 77, ..Class::default() }, "0 from 77 on"),
        (Class { prompt: Length::Fixed(0), ..Class::default() }, "Fixed(0)"),
        (Class { output: Length::Uniform(8, 6), ..Class::default() }, "Uniform(8, 6)"),
        (Class { prefix: Some(Prefix { groups: 0, tokens: 31, skew: 1.0 }), ..Class::default() }, "tokens: 31"),
        (Class { turns: Some(Turns { mean: 0.25, think: 1.0 }), ..Class::default() }, "mean: 0.25"),
        (Class { deadline: Some(-7.5), ..Class::default() }, "-7.5"),
        (Class { first_token_target: -1.25, ..Class::default() }, "-1.25"),
        (Class { next_token_target: -3.25, ..Class::default() }, "-3.25"),
        (Class { acceptance: 1.75, ..Class::default() }, "1.75"),
    ] {
        let error = workload(Arrivals::Poisson(1.0), vec![class]).check().expect_err(found).to_string();
        assert!(error.contains(found), "{error}");
    }
}

#[test]
fn numbers_of_requests_and_classes_are_checked() {
    let with = |requests, classes: usize| {
        let classes = (0..classes).map(|at| Class { name: format!("class {at}"), ..Class::default() }).collect();
        Workload { requests, classes, ..workload(Arrivals::Poisson(1.0), Vec::new()) }.check().is_ok()
    };
    assert_eq!(MOST_REQUESTS, 100_000_000);
    assert!(with(1, 1) && with(MOST_REQUESTS, 1000));
    assert!(!with(0, 1) && !with(MOST_REQUESTS + 1, 1) && !with(1, 0) && !with(1, 1001));
}
