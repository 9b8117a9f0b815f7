//! The loop: batch, forward, loss, backward, AdamW (Loshchilov and Hutter, 2019, <https://arxiv.org/abs/1711.05101>).

use std::time::{Duration, Instant};

use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use fornax_nn::Decoder;

use crate::{TokenWindows, TrainError, causal_lm_loss, cosine_with_warmup};

/// How to pretrain.
#[derive(Debug, Clone, PartialEq)]
pub struct PretrainArgs {
    /// Optimizer steps.
    pub steps: usize,
    /// Sequences a step.
    pub batch_size: usize,
    /// Tokens a sequence.
    pub sequence_length: usize,
    /// Peak of the learning rate, which is warmed up linearly and then follows a cosine down to a tenth.
    pub learning_rate: f64,
    /// Steps of the warm-up.
    pub warmup_steps: usize,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Largest norm of each parameter's gradient, not of all together; larger ones are scaled down.
    pub max_parameter_grad_norm: Option<f32>,
    /// Seed of the order of the data.
    pub seed: u64,
}

impl Default for PretrainArgs {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch_size: 16,
            sequence_length: 128,
            learning_rate: 1e-3,
            warmup_steps: 50,
            weight_decay: 0.1,
            max_parameter_grad_norm: Some(1.0),
            seed: 0,
        }
    }
}

/// What is known after a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// The step, from 1.
    pub step: usize,
    /// Mean loss of its batch, in nats per token.
    pub loss: f32,
    /// The learning rate it was taken with.
    pub learning_rate: f64,
    /// Tokens trained on so far.
    pub tokens: usize,
    /// Time since the first step began.
    pub elapsed: Duration,
}

/// What is known at the end.
#[derive(Debug, Clone, PartialEq)]
pub struct PretrainReport {
    /// The loss of each step.
    pub losses: Vec<f32>,
    /// Tokens trained on.
    pub tokens: usize,
    /// Time it took.
    pub elapsed: Duration,
}

impl PretrainReport {
    /// Speed over the whole run.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Trains `decoder`, on the device that it is on, with a stream of tokens, and returns it without gradients, as [`Decoder::forward`] wants it for use.
/// `on_step` is told of every step.
///
/// Weights that were not used before are drawn from burn's own generator; seed it by
/// `device.seed(…)` first where a run must be repeatable.
///
/// # Errors
/// [`TrainError`]: an argument out of range, tokens that do not fit the model, a loss that is no number.
pub fn pretrain(
    decoder: Decoder,
    tokens: Vec<u32>,
    args: &PretrainArgs,
    mut on_step: impl FnMut(&StepReport),
) -> Result<(Decoder, PretrainReport), TrainError> {
    let mut windows = TokenWindows::new(tokens, args.sequence_length, args.seed)?;
    check(args, &decoder, &windows)?;
    let mut decoder = decoder.train();
    let mut optimizer = AdamWConfig::new()
        .with_beta_2(0.95)
        .with_epsilon(1e-8)
        .with_weight_decay(args.weight_decay)
        .with_grad_clipping(args.max_parameter_grad_norm.map(GradientClippingConfig::Norm))
        .init();

    let start = Instant::now();
    let mut losses = Vec::new();
    let per_step = args.batch_size * args.sequence_length;
    for step in 1..=args.steps {
        let (inputs, targets) = windows.draw(args.batch_size);
        let hidden = decoder.forward(&inputs, None);
        let loss = causal_lm_loss(decoder.logits(hidden), &targets);
        let value =
            loss.clone().try_into_scalar::<f32>().map_err(|error| TrainError::Device { reason: error.to_string() })?;
        if !value.is_finite() {
            return Err(TrainError::Diverged { step, loss: value });
        }
        let gradients = GradientsParams::from_grads(loss.backward(), &decoder);
        let learning_rate = cosine_with_warmup(step, args.steps, args.warmup_steps, args.learning_rate, 0.1);
        decoder = optimizer.step(learning_rate, decoder, gradients);
        losses.push(value);
        on_step(&StepReport { step, loss: value, learning_rate, tokens: step * per_step, elapsed: start.elapsed() });
    }
    let report = PretrainReport { tokens: losses.len() * per_step, losses, elapsed: start.elapsed() };
    Ok((decoder.valid(), report))
}

fn check(args: &PretrainArgs, decoder: &Decoder, windows: &TokenWindows) -> Result<(), TrainError> {
    let bad = |argument, found: String, expected: String| Err(TrainError::Argument { argument, found, expected });
    if args.batch_size == 0 {
        return bad("batch_size", "0".into(), "at least 1".into());
    }
    if !(args.learning_rate.is_finite() && args.learning_rate > 0.0) {
        return bad("learning_rate", args.learning_rate.to_string(), "a positive number".into());
    }
    if !(args.weight_decay.is_finite() && args.weight_decay >= 0.0) {
        return bad("weight_decay", args.weight_decay.to_string(), "0 or a positive number".into());
    }
    if let Some(norm) = args.max_parameter_grad_norm.filter(|norm| !(norm.is_finite() && *norm > 0.0)) {
        return bad("max_parameter_grad_norm", norm.to_string(), "a positive number, or none".into());
    }
    // Far more than fits any device; it keeps the product from overflowing.
    const MAX_TOKENS: usize = 1 << 31;
    if args.batch_size.checked_mul(args.sequence_length).is_none_or(|tokens| tokens > MAX_TOKENS) {
        return bad("batch_size", args.batch_size.to_string(), format!("at most {MAX_TOKENS} tokens a step"));
    }
    let context = decoder.config().context_length();
    if args.sequence_length > context {
        return bad(
            "sequence_length",
            args.sequence_length.to_string(),
            format!("at most the model's {context} positions"),
        );
    }
    let vocab_size = decoder.config().vocab_size;
    if windows.largest_id() as usize >= vocab_size {
        return Err(TrainError::TokenOutOfVocabulary { found: windows.largest_id(), vocab_size });
    }
    Ok(())
}
