//! Greedy and beam search give transformers' tokens; sampling keeps its promises.

use fornax_engine::{FinishReason, ModelExt, SamplingParams};
use fornax_models::families::llama::LlamaConfig;
use fornax_models::{AutoModel, Network};
use fornax_text::{BpeTrainerConfig, train_bpe};

use crate::common::{Expected, fixture, load};

const CASES: &[&str] = &[
    "gpt2",
    "gpt2_options",
    "llama",
    "llama_gqa_tied",
    "llama3_rope",
    "llama_linear_rope",
    "llama_dynamic_rope",
    "llama_yarn",
    "llama_yarn_options",
    "llama_longrope",
    "mistral",
    "mistral_no_window",
    "qwen2",
    "qwen2_window",
    "qwen3",
    "qwen3_tied",
];

#[test]
fn greedy() {
    for case in CASES {
        let (model, expected) = (load(&fixture(case)), Expected::of(case));
        let prompt = expected.rows("prompt").remove(0);
        let wanted = expected.rows("greedy_ids").remove(0);
        let params = SamplingParams::default().max_new_tokens(16).logprobs(2);
        let found = model.generator().generate(prompt, &params).expect("it generates").remove(0);
        assert_eq!(found.token_ids, wanted, "{case}");
        let reason = if wanted.len() < 16 { FinishReason::EndOfSequence } else { FinishReason::Length };
        assert_eq!(found.finish_reason, reason, "{case}");
        assert_eq!(found.logprobs.len(), wanted.len(), "{case}");
        // The greedy token is the likeliest.
        assert!(found.logprobs.iter().all(|step| step.top_logprobs[0].0 == step.token), "{case}");
    }
}

#[test]
fn beams() {
    for case in CASES {
        let (model, expected) = (load(&fixture(case)), Expected::of(case));
        let prompt = expected.rows("prompt").remove(0);
        let params = SamplingParams::default().max_new_tokens(12).num_beams(3).num_return_sequences(3);
        let found = model.generator().generate(prompt, &params).expect("it searches");
        let scores = expected.floats("beam_scores");
        for ((found, wanted), score) in found.iter().zip(expected.rows("beam_ids")).zip(scores) {
            // transformers fills shorter sequences up.
            assert_eq!(found.token_ids, wanted[..found.token_ids.len()], "{case}");
            let rest = &wanted[found.token_ids.len()..];
            assert!(rest.windows(2).all(|pair| pair[0] == pair[1]), "{case}: ended too early, {rest:?} was to come");
            assert!(
                (found.beam_score.expect("a score") - score).abs() < 1e-4,
                "{case}: {:?} for {score}",
                found.beam_score
            );
        }
        assert_eq!(found.len(), 3, "{case}");
    }
}

#[test]
fn sequences_do_not_depend_on_their_number() {
    let model = load(&fixture("llama"));
    let params = SamplingParams::default().temperature(1.0).seed(11).max_new_tokens(20).ignore_eos(true);
    let five = model.generator().generate(vec![1, 2, 3], &params.clone().num_return_sequences(5)).expect("five");
    let two = model.generator().generate(vec![1, 2, 3], &params.clone().num_return_sequences(2)).expect("two");
    let again = model.generator().generate(vec![1, 2, 3], &params.num_return_sequences(2)).expect("two");
    assert_eq!(two, again, "the same seed");
    assert_eq!(five[..2], two[..], "beside others");
    assert!(five.iter().any(|sequence| sequence.token_ids != five[0].token_ids), "five times the same");
}

#[test]
fn a_stream_is_the_whole_in_pieces() {
    let model = load(&fixture("qwen2"));
    let params = SamplingParams::default().temperature(0.9).seed(3).max_new_tokens(12).num_return_sequences(3);
    let whole = model.generator().generate(vec![5, 6], &params).expect("it generates");
    let mut tokens = vec![Vec::new(); 3];
    let mut ended = [0; 3];
    for chunk in model.generator().stream(vec![5, 6], &params).expect("it streams") {
        let chunk = chunk.expect("a piece");
        assert_eq!(ended[chunk.sequence], 0, "a piece after the end");
        tokens[chunk.sequence].extend(chunk.token_ids);
        ended[chunk.sequence] += usize::from(chunk.finish_reason.is_some());
    }
    assert_eq!(ended, [1; 3]);
    assert_eq!(tokens, whole.into_iter().map(|sequence| sequence.token_ids).collect::<Vec<_>>());
}

#[test]
fn the_context_ends_a_sequence() {
    let model = load(&fixture("gpt2"));
    let context = model.network().context_length();
    let prompt = vec![7; context - 3];
    let params = SamplingParams::default().max_new_tokens(50).ignore_eos(true);
    let found = model.generator().generate(prompt, &params).expect("it generates").remove(0);
    assert_eq!((found.token_ids.len(), found.finish_reason), (3, FinishReason::Context));
}

#[test]
fn stop_tokens_end_a_sequence() {
    let model = load(&fixture("llama_gqa_tied"));
    let params = SamplingParams::default().max_new_tokens(16);
    let free = model.generator().generate(vec![9, 8, 7], &params).expect("it generates").remove(0);
    let stop = free.token_ids[4];
    let found =
        model.generator().generate(vec![9, 8, 7], &params.stop_token_ids([stop])).expect("it generates").remove(0);
    let first = free.token_ids.iter().position(|&token| token == stop).expect("it is there");
    assert_eq!(found.token_ids, free.token_ids[..=first]);
    assert_eq!(found.finish_reason, FinishReason::StopToken(stop));
}

/// An embedding with more rows than the tokenizer has ids, as published models have: the rows past them say nothing.
#[test]
fn padded_vocabularies() {
    let device = crate::common::device();
    device.seed(5);
    let config = LlamaConfig { hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, ..LlamaConfig::tiny() };
    let network = Network::Decoder(config.decoder().expect("valid").init(device.as_burn()));
    let settings = BpeTrainerConfig { vocab_size: 258, ..BpeTrainerConfig::default() };
    let tokenizer = train_bpe(["some text".to_owned()], &settings).expect("trained");
    let model = AutoModel::from_parts(config.to_json(), network, Some(tokenizer), &device).expect("it fits");
    let params = SamplingParams::default().temperature(1.0).seed(1).max_new_tokens(40).ignore_eos(true);
    for params in [params.clone().stop(["never said"]), params.temperature(0.0).num_beams(2)] {
        let found = model.generator().generate(vec![5], &params).expect("it generates").remove(0);
        assert_eq!(found.token_ids.len(), 40);
    }
}
