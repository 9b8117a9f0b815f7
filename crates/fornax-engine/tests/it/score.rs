//! Scores are the log-softmax of transformers' logits.

use fornax_engine::score;

use crate::common::{Expected, fixture, load};

#[test]
fn log_probabilities() {
    for case in ["gpt2", "llama", "mistral", "qwen3"] {
        let (model, expected) = (load(&fixture(case)), Expected::of(case));
        let tokens = expected.rows("input_ids").remove(0);
        let logits = expected.floats("logits");
        let vocab = model.network().vocab_size();
        let found = score(&model, tokens.clone()).expect("it scores");
        assert_eq!(found.token_ids, tokens);
        assert_eq!(found.logprobs[0], None);
        let mut sum = 0.0;
        for (at, row) in logits.chunks(vocab).take(tokens.len() - 1).enumerate() {
            let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            let wanted = f64::from(row[tokens[at + 1] as usize]) - total.ln();
            let logprob = f64::from(found.logprobs[at + 1].expect("every later token has one"));
            assert!((logprob - wanted).abs() < 1e-4, "{case} at {at}: {logprob} for {wanted}");
            sum += wanted;
        }
        let perplexity = (-sum / (tokens.len() - 1) as f64).exp();
        assert!((found.perplexity().expect("there is one") / perplexity - 1.0).abs() < 1e-4, "{case}");
    }
}

/// A text longer than the context: every token is scored, the first window as if it stood alone.
#[test]
fn windows_over_a_long_text() {
    let model = load(&fixture("gpt2"));
    let context = model.network().context_length();
    let tokens: Vec<u32> = (0..3 * context as u32 + 5).map(|i| (i * 7 + 1) % 60).collect();
    let long = score(&model, tokens.clone()).expect("it scores");
    let short = score(&model, tokens[..context].to_vec()).expect("it scores");
    assert_eq!(long.logprobs.len(), tokens.len());
    assert!(long.logprobs[1..].iter().all(|logprob| logprob.is_some_and(f32::is_finite)));
    for (a, b) in long.logprobs[..context].iter().zip(&short.logprobs).skip(1) {
        assert!((a.expect("some") - b.expect("some")).abs() < 1e-5);
    }
}

#[test]
fn a_single_token_has_no_perplexity() {
    let found = score(&load(&fixture("llama")), vec![3]).expect("it scores");
    assert_eq!((found.logprobs.as_slice(), found.perplexity()), ([None].as_slice(), None));
}
