//! Scores are the log-softmax of transformers' logits.

use fornax_engine::{Prompt, score, score_all};

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

/// In a text longer than the context every token is scored, and the first window as if it were the whole text.
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

/// Texts of all lengths together, two of them bad: each gets the same result as alone.
#[test]
fn texts_together_are_scored_as_alone() {
    let model = load(&fixture("llama"));
    let context = model.network().context_length();
    let tokens = |len: usize| Prompt::Tokens((0..len as u32).map(|i| (i * 11 + len as u32) % 60).collect());
    let texts: Vec<Prompt> =
        (1..30).map(tokens).chain([tokens(2 * context + 3), tokens(0), Prompt::from("a text"), tokens(7)]).collect();
    let together = score_all(&model, texts.clone()).expect("it scores");
    assert_eq!(together.len(), texts.len());
    for (text, together) in texts.into_iter().zip(together) {
        match (score(&model, text.clone()), together) {
            (Ok(alone), Ok(together)) => assert_eq!(alone, together),
            (Err(alone), Err(together)) => assert_eq!(alone.to_string(), together.to_string()),
            (alone, together) => panic!("{text:?}: {alone:?} alone, {together:?} together"),
        }
    }
}
