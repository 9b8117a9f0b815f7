//! Distributions against transformers' own, recorded by `tests/fixtures/make.py`.
//!
//! Frequency and presence penalties are not here, for transformers has none: `processors` tests them.

use std::collections::HashMap;

use serde::Deserialize;

use super::{History, Sampler, SamplingParams};

#[derive(Deserialize)]
struct Fixture {
    scale: f32,
    eos: Vec<u32>,
    rows: HashMap<String, Vec<i32>>,
    histories: HashMap<String, Sequence>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Sequence {
    prompt: Vec<u32>,
    generated: Vec<u32>,
}

#[derive(Deserialize)]
struct Case {
    row: String,
    settings: serde_json::Value,
    kept: Vec<u32>,
    probabilities: Vec<f64>,
}

#[test]
fn distributions_equal_those_of_transformers() {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sampling.json"));
    let fixture: Fixture = serde_json::from_str(text).unwrap();
    assert!(fixture.cases.len() >= 60);
    for case in &fixture.cases {
        let name = format!("{} {}", case.row, case.settings);
        let mut params: SamplingParams = serde_json::from_value(case.settings.clone()).unwrap();
        if case.settings.get("temperature").is_none() {
            params = params.temperature(1.0);
        }
        let mut logits: Vec<f32> =
            fixture.rows[&case.row].iter().map(|&integer| integer as f32 / fixture.scale).collect();
        let sequence = &fixture.histories[&case.row];
        let mut history = History::new(&sequence.prompt);
        for &token in &sequence.generated {
            history.push(token);
        }
        let mut sampler = Sampler::new(&params, logits.len(), 0).unwrap().with_eos(&fixture.eos);
        let found = sampler.distribution(&mut logits, &history).unwrap();

        // Below 1e-37 a weight counts as nothing here, while transformers still calls the token possible.
        let expected = case.kept.iter().zip(&case.probabilities);
        let expected: Vec<(u32, f64)> = expected.map(|(&t, &p)| (t, p)).filter(|&(_, p)| p > 1e-36).collect();
        let tokens = |pairs: &[(u32, f64)]| pairs.iter().map(|&(token, _)| token).collect::<Vec<_>>();
        let found: Vec<(u32, f64)> = found.iter().map(|&(t, p)| (t, f64::from(p))).collect();
        let found: Vec<(u32, f64)> = found.into_iter().filter(|&(_, p)| p > 1e-36).collect();
        assert_eq!(tokens(&found), tokens(&expected), "{name}");
        for (&(token, found), &(_, expected)) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{name}: token {token}: {found} against {expected}");
        }
    }
}
