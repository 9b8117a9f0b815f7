//! Bad requests are refused with messages that help, and no other request is disturbed.

use std::sync::Arc;

use fornax_engine::{EngineConfig, EngineError, EngineHandle, ModelExt, Pooling, Prompt, SamplingParams, Submit};
use fornax_nn::CacheType;
use fornax_scheduler::{Preemption, TenantId};

use super::{Random, alone, expect_empty, memory, start, together};
use crate::common::{fixture, load};

#[test]
fn requests() {
    let model = Arc::new(load(&fixture("llama")));
    let mut random = Random::new(1);
    let cases: Vec<_> = (0..6).map(|_| random.case(&model, 15, 16)).collect();
    let wanted = alone(&model, &cases, CacheType::F32);
    let config = EngineConfig {
        max_running: 4,
        kv_type: Some(CacheType::F32),
        kv_memory: Some(memory(&model, CacheType::F32, 1)),
        ..EngineConfig::default()
    };
    let engine = start(&model, &config);
    let beside: Vec<_> =
        cases.iter().map(|case| engine.stream(case.prompt.clone(), &case.params).expect("a stream")).collect();
    let params = SamplingParams::default().max_new_tokens(8);
    let refused = |prompt: Prompt, params: &SamplingParams, part: &str| {
        let error = engine.generate(prompt, params).expect_err("refused").to_string();
        assert!(error.contains(part), "{error}");
    };
    let tokens = |count| Prompt::Tokens(vec![1; count]);
    refused(tokens(64), &params, "has 64 tokens, but the model's context holds 64");
    refused(Prompt::Tokens(vec![1, 2, 64]), &params, "token id 64 at position 2");
    refused(Prompt::Tokens(vec![u32::MAX]), &params, "token id 4294967295");
    refused("text".into(), &params, "no tokenizer");
    refused(tokens(45), &params, "2 of \"KV blocks\" are needed and the machine has 1");
    refused(tokens(4), &params.clone().num_return_sequences(5), "5 of \"running slots\" are needed");
    refused(tokens(20), &params.clone().num_beams(4), "\"KV blocks\" are needed");
    refused(tokens(1), &params.clone().temperature(-1.0), "temperature");
    refused(tokens(1), &params.clone().max_new_tokens(0), "max_new_tokens");
    refused(tokens(1), &params.clone().top_p(f32::NAN), "top_p");
    refused(tokens(1), &params.clone().stop_token_ids([64]), "64");
    refused(tokens(1), &params.clone().stop(["x"]), "tokenizer");
    let submit = Submit::default();
    assert!(matches!(engine.score(Vec::new(), submit), Err(EngineError::EmptyPrompt)));
    assert!(matches!(engine.embed(Vec::new(), Pooling::Last, submit), Err(EngineError::EmptyPrompt)));
    assert!(matches!(engine.score(vec![1; 65], submit), Err(EngineError::TextTooLong { found: 65, context: 64 })));
    assert!(matches!(engine.score(vec![1; 64], submit), Err(EngineError::Refused(_))));
    assert!(matches!(engine.embed(vec![99], Pooling::Cls, submit), Err(EngineError::TokenOutOfVocabulary { .. })));
    let tenant = Submit { tenant: TenantId(u32::MAX), ..submit };
    let error = engine.stream_with(vec![1], &params, tenant).expect("a stream").finish().expect_err("refused");
    assert!(error.to_string().contains("beyond the largest number"), "{error}");
    assert!(engine.declare_tenant(TenantId(1), f64::NAN).is_err());
    engine.declare_tenant(TenantId(1), 2.0).expect("a weight");
    for (stream, wanted) in beside.into_iter().zip(wanted) {
        assert_eq!(stream.finish().expect("it generates"), wanted);
    }
    expect_empty(&engine);
}

/// A prompt without tokens is the token that the model begins with.
#[test]
fn empty_prompts() {
    let params = SamplingParams::default().max_new_tokens(3);
    let model = load(&fixture("qwen3"));
    assert!(matches!(model.generator().generate(Vec::new(), &params), Err(EngineError::EmptyPrompt)));
    let model = load(&fixture("llama"));
    let begin = model.generation_defaults().bos_token_id.expect("it has one");
    let generator = model.generator();
    let wanted = generator.generate(vec![begin], &params).expect("it generates");
    assert_eq!(generator.clone().generate(Vec::new(), &params).expect("it generates"), wanted);
}

#[test]
fn engines() {
    let model = Arc::new(load(&fixture("llama")));
    let default = EngineConfig::default();
    let block = memory(&model, CacheType::F32, 1);
    let refused = |config: EngineConfig, part: &str| {
        let error = EngineHandle::start(Arc::clone(&model), &config).map(drop).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    };
    let f32 = Some(CacheType::F32);
    refused(EngineConfig { kv_type: f32, kv_memory: Some(block - 1), ..default.clone() }, "kv_memory: found");
    refused(EngineConfig { kv_memory: Some(0), ..default.clone() }, "a block of 32 tokens");
    refused(EngineConfig { max_running: 0, ..default.clone() }, "max_running");
    refused(EngineConfig { max_step_tokens: usize::MAX, ..default.clone() }, "max_step_tokens");
    refused(EngineConfig { prompt_delay: Some(0.0), ..default.clone() }, "prompt_delay");
    refused(EngineConfig { prompt_delay: Some(f64::NAN), ..default.clone() }, "prompt_delay");
    refused(EngineConfig { policy: "fairest".into(), ..default.clone() }, "fairest");
    refused(EngineConfig { preemption: Preemption::Swap, ..default.clone() }, "swap_memory");
    let huge = EngineConfig { kv_memory: Some(usize::MAX), max_running: 1 << 30, ..default.clone() };
    refused(huge, "free main memory");
    let error = EngineHandle::start(load(&fixture("bert")), &default).map(drop).expect_err("no decoder").to_string();
    assert!(error.contains("causal"), "{error}");
    let error = EngineHandle::start_all(Vec::new(), &default).map(drop).expect_err("no model").to_string();
    assert!(error.contains("models"), "{error}");

    // One block is enough for a request that needs no more.
    let engine = start(&model, &EngineConfig { kv_type: f32, kv_memory: Some(block), ..default.clone() });
    let params = SamplingParams::default().ignore_eos(true).max_new_tokens(29);
    assert_eq!(engine.stats().expect("it runs").blocks, 1);
    let cases: Vec<_> = (1..9).map(|at| super::Case { prompt: vec![at; 3], params: params.clone() }).collect();
    let wanted = alone(&model, &cases, CacheType::F32);
    for (found, wanted) in together(&engine, &cases).into_iter().zip(wanted) {
        assert_eq!(found.expect("it generates"), wanted);
    }
    let error = engine.generate(vec![1; 4], &params).expect_err("refused").to_string();
    assert!(error.contains("2 of \"KV blocks\" are needed and the machine has 1"), "{error}");
    // The pool is no larger than full contexts need.
    let engine = start(&model, &EngineConfig { kv_memory: Some(usize::MAX), max_running: 2, ..default });
    assert_eq!(engine.stats().expect("it runs").blocks, 4);
}
