//! Training as a user sees it: a small model learns, and what cannot work is refused with words.

use fornax_backend::Device;
use fornax_nn::{Activation, AttentionConfig, DecoderConfig, MlpConfig, NormConfig, Position, RopeConfig, RopeScaling};
use fornax_train::{PretrainArgs, TrainError, pretrain};

fn decoder() -> DecoderConfig {
    DecoderConfig {
        vocab_size: 16,
        hidden_size: 32,
        attention: vec![AttentionConfig::causal(32, 2, 1); 2],
        mlp: MlpConfig {
            hidden_size: 32,
            intermediate_size: 64,
            activation: Activation::Silu,
            gated: true,
            bias: false,
            initializer_range: 0.02,
        },
        norm: NormConfig::Rms { epsilon: 1e-6, offset: 0.0 },
        post_norms: false,
        embedding_scale: None,
        logit_soft_cap: None,
        position: Position::Rope(RopeConfig {
            theta: 10_000.0,
            rotary_dim: 16,
            max_positions: 32,
            scaling: RopeScaling::None,
        }),
        max_positions: 32,
        tie_embeddings: true,
        initializer_range: 0.02,
    }
}

fn args() -> PretrainArgs {
    PretrainArgs {
        steps: 60,
        batch_size: 8,
        sequence_length: 16,
        learning_rate: 1e-2,
        warmup_steps: 5,
        ..Default::default()
    }
}

/// A cycle of 7 tokens is learned nearly without error: the loss falls from ln 16 to almost nothing.
#[test]
fn a_cycle_is_learned() {
    let device = Device::cpu();
    device.seed(1);
    let tokens: Vec<u32> = (0..2000).map(|i| i % 7).collect();
    let mut steps = 0;
    let (trained, report) =
        pretrain(decoder().init(&device), tokens, &args(), |step| steps = step.step).expect("it trains");
    assert_eq!(steps, 60);
    assert!((report.losses[0] - 16f32.ln()).abs() < 0.5, "first loss {}", report.losses[0]);
    assert!(report.losses[59] < 0.1, "last loss {}", report.losses[59]);
    assert!(!trained.device().is_autodiff());
}

#[test]
fn what_cannot_work_is_refused() {
    let device = Device::cpu();
    let run = |tokens: Vec<u32>, args: PretrainArgs| {
        pretrain(decoder().init(&device), tokens, &args, |_| ()).map(|_| ()).expect_err("refused")
    };
    assert!(matches!(run(vec![1; 10], args()), TrainError::TooFewTokens { found: 10, needed: 17 }));
    assert!(matches!(run(vec![16; 100], args()), TrainError::TokenOutOfVocabulary { found: 16, .. }));
    for (bad, name) in [
        (PretrainArgs { sequence_length: 64, ..args() }, "sequence_length"),
        (PretrainArgs { sequence_length: 0, ..args() }, "sequence_length"),
        (PretrainArgs { batch_size: 0, ..args() }, "batch_size"),
        (PretrainArgs { batch_size: usize::MAX / 2, ..args() }, "batch_size"),
        (PretrainArgs { weight_decay: f32::NAN, ..args() }, "weight_decay"),
        (PretrainArgs { max_parameter_grad_norm: Some(-1.0), ..args() }, "max_parameter_grad_norm"),
        (PretrainArgs { learning_rate: f64::NAN, ..args() }, "learning_rate"),
    ] {
        let error = run(vec![1; 100], bad).to_string();
        assert!(error.contains(name), "{error}");
    }
}
