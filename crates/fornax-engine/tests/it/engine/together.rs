//! Beams, scores and embeddings beside each other and beside generation; the prefix cache; the lives of engines and
//! streams.

use std::sync::Arc;
use std::time::Duration;

use fornax_engine::{EngineConfig, EngineError, EngineHandle, ModelExt, Pooling, SamplingParams, Submit, score};
use fornax_nn::{CacheType, KvPoolConfig};
use fornax_scheduler::{Preemption, TenantId};

use super::{Case, Random, alone, expect_empty, memory, start, together};
use crate::common::{fixture, load, test_data};

#[test]
fn beams_beside_others() {
    for case in ["llama", "qwen3", "mistral", "gemma2"] {
        let model = Arc::new(load(&fixture(case)));
        let mut random = Random::new(5);
        let mut cases: Vec<Case> = (0..16).map(|_| random.case(&model, 30, 16)).collect();
        for case in cases.iter_mut().step_by(2) {
            case.params = SamplingParams::default().max_new_tokens(12).num_beams(3).num_return_sequences(2);
        }
        let wanted = alone(&model, &cases, CacheType::F32);
        for (preemption, prefix_caching) in
            [(Preemption::Recompute, true), (Preemption::Recompute, false), (Preemption::Swap, true)]
        {
            let config = EngineConfig {
                max_running: 8,
                max_step_tokens: 40,
                kv_type: Some(CacheType::F32),
                kv_memory: Some(memory(&model, CacheType::F32, 7)),
                swap_memory: memory(&model, CacheType::F32, 20),
                preemption,
                prefix_caching,
                ..EngineConfig::default()
            };
            let engine = start(&model, &config);
            for (at, (found, wanted)) in together(&engine, &cases).into_iter().zip(&wanted).enumerate() {
                assert_eq!(&found.expect("it generates"), wanted, "{case}: {at} with {config:?}");
            }
            expect_empty(&engine);
            let stats = engine.stats().expect("it runs").scheduler;
            assert!(stats.preemptions > 0 && stats.copies > 0, "{case}: {stats:?}");
        }
    }
}

#[test]
fn scores_and_embeddings_beside_generation() {
    for case in ["llama", "gemma2"] {
        let model = Arc::new(load(&fixture(case)));
        let mut random = Random::new(9);
        let cases: Vec<Case> = (0..12).map(|_| random.case(&model, 40, 20)).collect();
        let wanted = alone(&model, &cases, CacheType::F32);
        let config = EngineConfig {
            max_running: 4,
            max_step_tokens: 16,
            kv_type: Some(CacheType::F32),
            kv_memory: Some(memory(&model, CacheType::F32, 5)),
            ..EngineConfig::default()
        };
        let engine = start(&model, &config);
        let texts: Vec<Vec<u32>> = (0..8).map(|_| random.case(&model, 60, 1).prompt).collect();
        std::thread::scope(|scope| {
            let own = engine.clone();
            let generating = scope.spawn(move || together(&own, &cases));
            for tokens in &texts {
                let own = engine.clone();
                let model = &model;
                scope.spawn(move || {
                    let found = own.score(tokens.clone(), Submit::default()).expect("it scores");
                    let wanted = score(model, tokens.clone()).expect("it scores");
                    assert_eq!(found.token_ids, wanted.token_ids);
                    assert_eq!(found.logprobs, wanted.logprobs);
                    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
                        let found = own.embed(tokens.clone(), pooling, Submit::default()).expect("it embeds");
                        // Alone, the text is computed in one chunk.
                        let engine =
                            start(model, &EngineConfig { kv_type: Some(CacheType::F32), ..Default::default() });
                        let wanted = engine.embed(tokens.clone(), pooling, Submit::default()).expect("it embeds");
                        assert_eq!(found, wanted, "{pooling:?}");
                    }
                });
            }
            for (found, wanted) in generating.join().expect("no panic").into_iter().zip(wanted) {
                assert_eq!(found.expect("it generates"), wanted);
            }
        });
        expect_empty(&engine);
    }
}

/// The engine's vectors are the embedder's vectors before normalization.
#[test]
fn embeddings_of_a_decoder() {
    let Some(path) = test_data("data/stories260K.gguf") else { return };
    let model = Arc::new(load(&path));
    let engine = start(&model, &EngineConfig { kv_type: Some(CacheType::F32), ..EngineConfig::default() });
    for text in ["Once upon a time", "The dog barked at the moon, and the moon said nothing."] {
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last] {
            let options = fornax_engine::EmbedOptions { pooling, normalize: false, ..Default::default() };
            let wanted = model.embedder().embed(&[text], &options).expect("it embeds").remove(0);
            let found = engine.embed(text, pooling, Submit::default()).expect("it embeds");
            assert_eq!(found, wanted, "{pooling:?}");
        }
    }
}

#[test]
fn a_common_beginning_is_computed_once() {
    let Some(path) = test_data("data/stories260K.gguf") else { return };
    let model = Arc::new(load(&path));
    let context = model.network().context_length();
    let common = 512.min(context - 32);
    let tokens: Vec<u32> = (0..common as u32).map(|at| 3 + at * 7 % 500).collect();
    let params = SamplingParams::default().max_new_tokens(4);
    let mut computed = Vec::new();
    let mut texts = Vec::new();
    for prefix_caching in [true, false] {
        let engine = start(&model, &EngineConfig { prefix_caching, ..EngineConfig::default() });
        for end in [[5, 6, 7], [8, 9, 10]] {
            let before = engine.stats().expect("it runs").scheduler.prompt_tokens;
            let prompt = tokens.iter().copied().chain(end).collect::<Vec<_>>();
            texts.push(engine.generate(prompt, &params).expect("it generates"));
            expect_empty(&engine);
            computed.push(engine.stats().expect("it runs").scheduler.prompt_tokens - before);
        }
    }
    assert_eq!(texts[..2], texts[2..], "the same with and without");
    let whole = common as u64 + 3;
    assert_eq!(
        computed,
        [whole, whole - (common / KvPoolConfig::BLOCK_TOKENS * KvPoolConfig::BLOCK_TOKENS) as u64, whole, whole]
    );
}

#[test]
fn several_models_in_one_engine() {
    let names = ["llama", "gpt2", "gemma2"];
    let models: Vec<_> = names.iter().map(|name| Arc::new(load(&fixture(name)))).collect();
    let config = EngineConfig { max_running: 6, kv_type: Some(CacheType::F32), ..EngineConfig::default() };
    let engine = EngineHandle::start_all(models.clone(), &config).expect("it starts");
    let mut random = Random::new(3);
    let cases: Vec<Case> = (0..18).map(|at| random.case(&models[at % 3], 15, 12)).collect();
    let stream = |(at, case): (usize, &Case)| {
        let submit = Submit { model: at % 3, tenant: TenantId(at as u32 % 5), ..Submit::default() };
        engine.stream_with(case.prompt.clone(), &case.params, submit).expect("it fits")
    };
    let streams: Vec<_> = cases.iter().enumerate().map(stream).collect();
    for (at, stream) in streams.into_iter().enumerate() {
        let wanted = alone(&models[at % 3], &cases[at..=at], CacheType::F32).remove(0);
        assert_eq!(stream.finish().expect("it generates"), wanted, "{} at {at}", names[at % 3]);
    }
    expect_empty(&engine);
    let error = engine.embed(vec![1], Pooling::Mean, Submit { model: 3, ..Submit::default() }).expect_err("refused");
    assert!(error.to_string().contains("below 3"), "{error}");
}

#[test]
fn streams_keep_an_engine_that_has_no_handle_left() {
    let model = Arc::new(load(&fixture("qwen3")));
    let params = SamplingParams::default().max_new_tokens(30);
    let wanted = start(&model, &EngineConfig::default()).generate(vec![1, 2], &params).expect("it generates");
    let engine = start(&model, &EngineConfig::default());
    let (stream, dropped) = (engine.stream(vec![1, 2], &params), engine.stream(vec![3], &params));
    drop(engine);
    drop(dropped);
    assert_eq!(stream.expect("a stream").finish().expect("it generates"), wanted);
}

#[test]
fn a_dropped_stream_gives_its_blocks_back() {
    let model = Arc::new(load(&fixture("qwen3")));
    let engine = start(&model, &EngineConfig::default());
    let params = SamplingParams::default().max_new_tokens(50);
    for params in [params.clone(), params.clone().num_return_sequences(4), params.num_beams(3)] {
        let mut streams: Vec<_> = (1..20).map(|at| engine.stream(vec![at; 10], &params).expect("a stream")).collect();
        let first = streams[0].next().expect("a piece").expect("it generates");
        assert!(!first.token_ids.is_empty());
        drop(streams);
        expect_empty(&engine);
    }
}

#[test]
fn deadlines() {
    let model = Arc::new(load(&fixture("qwen3")));
    let engine = start(&model, &EngineConfig::default());
    let params = SamplingParams::default().max_new_tokens(40);
    let wanted = engine.generate(vec![4, 5], &params).expect("it generates");
    let with = |deadline| Submit { deadline: Some(deadline), tenant: TenantId(7), ..Submit::default() };
    let late = engine.stream_with(vec![4, 5], &params, with(Duration::ZERO)).expect("a stream");
    let never = engine.stream_with(vec![4, 5], &params, with(Duration::MAX)).expect("a stream");
    let others = engine.stream(vec![4, 5], &params).expect("a stream");
    assert!(matches!(late.finish(), Err(EngineError::Deadline)));
    assert_eq!(never.finish().expect("in time"), wanted);
    assert_eq!(others.finish().expect("without a deadline"), wanted);
    expect_empty(&engine);
}
