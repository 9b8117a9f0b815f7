//! The thread of an engine, and the handle by which callers reach it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use fornax_models::AutoModel;
use fornax_nn::{KvPoolConfig, Position, RopeScaling};
use fornax_scheduler::{
    Admission, BatchConfig, BatchScheduler, ModelConfig, ModelId, RequestId, TenantId, Time, policy,
};

use super::config::EngineConfig;
use super::core::{Core, EngineStats, Submission};
use super::pace::Pace;
use super::requests::{Answer, EngineTask};
use crate::executor::{Executor, ModelExecutor};
use crate::sampling::SamplingParams;
use crate::{EngineError, Pooling, Prompt, Score, Stream};

/// Reaches an engine from any thread. The engine ends when its last handle and its last stream are gone.
///
/// ```no_run
/// use fornax_engine::{EngineConfig, EngineHandle, SamplingParams};
///
/// # fn run(model: fornax_models::AutoModel) -> Result<(), fornax_engine::EngineError> {
/// let engine = EngineHandle::start(model, &EngineConfig::default())?;
/// let threads: Vec<_> = ["Once upon a time", "The dog"].map(|prompt| {
///     let engine = engine.clone();
///     std::thread::spawn(move || engine.generate(prompt, &SamplingParams::default()))
/// }).into();
/// for thread in threads {
///     println!("{}", thread.join().expect("no panic")?[0].text);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct EngineHandle {
    models: Arc<Vec<Arc<AutoModel>>>,
    commands: Sender<Command>,
    /// The id of the next request. Callers take ids themselves: waiting for the engine's thread would allow a caller
    /// only one request a step.
    next: Arc<AtomicU64>,
}

/// The model of a request, and how it is scheduled beside others.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Submit {
    /// The index of one of the engine's models.
    pub model: usize,
    /// The tenant, for policies that share.
    pub tenant: TenantId,
    /// The higher, the more urgent, for policies that use priorities.
    pub priority: i32,
    /// The time from the call by which it has to be done; a request that is not done by then fails.
    pub deadline: Option<Duration>,
}

enum Command {
    /// With the time at which it came, since the engine takes it in only when its step is done.
    Submit(RequestId, Instant, Box<Submission>),
    Cancel(RequestId),
    Tenant(TenantId, f64, Sender<Result<(), EngineError>>),
    Stats(Sender<EngineStats>),
}

impl EngineHandle {
    /// Starts an engine for one model on a thread of its own.
    ///
    /// # Errors
    /// [`EngineError`]: a model that is no causal language model, an option out of its range, no memory for keys and values.
    pub fn start(model: impl Into<Arc<AutoModel>>, config: &EngineConfig) -> Result<Self, EngineError> {
        Self::start_all(vec![model.into()], config)
    }

    /// Starts an engine for several models.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_all(models: Vec<Arc<AutoModel>>, config: &EngineConfig) -> Result<Self, EngineError> {
        config.check()?;
        let (mut with_pools, mut pools) = (Vec::new(), Vec::new());
        for model in &models {
            let decoder = model.decoder()?;
            let device = decoder.device();
            let mut kv = decoder.kv_config();
            if let Some(kv_type) = config.kv_type {
                kv = kv.with_type(kv_type, &device)?;
            }
            let blocks = config.blocks(&kv, decoder.config().context_length(), models.len())?;
            pools.push(ModelConfig {
                blocks,
                block_size: KvPoolConfig::BLOCK_TOKENS,
                host_blocks: config.host_blocks(&kv)?,
                ..ModelConfig::default()
            });
            with_pools.push((Arc::clone(model), kv.init(blocks, &device)?));
        }
        let scheduler = scheduler(&models, pools, config)?;
        let pace = config.prompt_delay.map(Pace::new);
        Self::start_core(Core::new(models.clone(), scheduler, ModelExecutor::new(with_pools), pace), models)
    }

    /// Starts an engine whose plans are carried out by another executor: for tests and simulations. Its plans do not depend
    /// on how long steps take.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when the system refuses a thread.
    pub fn start_with(
        models: Vec<Arc<AutoModel>>,
        scheduler: BatchScheduler,
        executor: impl Executor + 'static,
    ) -> Result<Self, EngineError> {
        Self::start_core(Core::new(models.clone(), scheduler, executor, None), models)
    }

    fn start_core(core: Core<impl Executor + 'static>, models: Vec<Arc<AutoModel>>) -> Result<Self, EngineError> {
        let (commands, received) = channel();
        let thread = std::thread::Builder::new().name("fornax-engine".into());
        thread.spawn(move || run(core, &received)).map_err(|error| EngineError::failed(error.to_string()))?;
        Ok(Self { models: Arc::new(models), commands, next: Arc::new(AtomicU64::new(1)) })
    }

    /// The engine's models.
    pub fn models(&self) -> &[Arc<AutoModel>] {
        &self.models
    }

    /// Continues a prompt and yields the text as it is made; see [`Generator::stream`](crate::Generator::stream).
    ///
    /// # Errors
    /// [`EngineError`]: a prompt that does not fit, a parameter out of range, an engine that has ended.
    pub fn stream(&self, prompt: impl Into<Prompt>, params: &SamplingParams) -> Result<Stream, EngineError> {
        self.stream_with(prompt, params, Submit::default())
    }

    /// As [`stream`](Self::stream), scheduled as `submit` says.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub fn stream_with(
        &self,
        prompt: impl Into<Prompt>,
        params: &SamplingParams,
        submit: Submit,
    ) -> Result<Stream, EngineError> {
        let model = self.model(submit)?;
        let decoder = model.decoder()?;
        params.validate_for(decoder.config().vocab_size)?;
        let prompt = prompt.into().admitted(model)?;
        if !params.stop.is_empty() && model.tokenizer().is_none() {
            return Err(EngineError::NoTokenizer);
        }
        if params.num_beams > 1 && params.logprobs.is_some() {
            let found = format!("a number, with num_beams {}", params.num_beams);
            let expected = "none with a beam search; its score says how likely a sequence is";
            return Err(EngineError::option("logprobs", found, expected));
        }
        let limit = params.max_new_tokens.min(decoder.config().context_length() - prompt.len());
        let count = params.num_return_sequences;
        let (id, answers) = self.submit(prompt, EngineTask::Generate(params.clone(), limit), submit)?;
        Ok(Stream::new(self.clone(), id, answers, count))
    }

    /// Continues a prompt and returns all sequences.
    ///
    /// # Errors
    /// As [`stream`](Self::stream), and the errors of the generation itself.
    pub fn generate(
        &self,
        prompt: impl Into<Prompt>,
        params: &SamplingParams,
    ) -> Result<Vec<crate::Generation>, EngineError> {
        self.stream(prompt, params)?.finish()
    }

    /// The log-probabilities of a text that fits the model's context.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub fn score(&self, text: impl Into<Prompt>, submit: Submit) -> Result<Score, EngineError> {
        let model = self.model(submit)?;
        let token_ids = text.into().fitting(model)?;
        let logprobs = self.values(token_ids.clone(), EngineTask::Score, submit)?;
        let logprobs = std::iter::once(None).chain(logprobs.into_iter().map(Some)).collect();
        Ok(Score { token_ids, logprobs })
    }

    /// One vector for a text, from the states of a decoder. It is not normalized.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub fn embed(&self, text: impl Into<Prompt>, pooling: Pooling, submit: Submit) -> Result<Vec<f32>, EngineError> {
        let tokens = text.into().fitting(self.model(submit)?)?;
        self.values(tokens, EngineTask::Embed(pooling), submit)
    }

    /// Gives a tenant a weight, for policies that share: with twice the weight, it gets twice as much. Other tenants
    /// have a weight of 1.
    ///
    /// # Errors
    /// [`EngineError::Refused`] for a weight that is not above zero or a tenant beyond the largest number;
    /// [`EngineError::Ended`].
    pub fn declare_tenant(&self, tenant: TenantId, weight: f64) -> Result<(), EngineError> {
        let (answer, answers) = channel();
        self.commands.send(Command::Tenant(tenant, weight, answer)).map_err(|_| EngineError::Ended)?;
        answers.recv().map_err(|_| EngineError::Ended)?
    }

    /// Counts of the engine, taken after its present step.
    ///
    /// # Errors
    /// [`EngineError::Ended`].
    pub fn stats(&self) -> Result<EngineStats, EngineError> {
        let (answer, answers) = channel();
        self.commands.send(Command::Stats(answer)).map_err(|_| EngineError::Ended)?;
        answers.recv().map_err(|_| EngineError::Ended)
    }

    pub(crate) fn cancel(&self, id: RequestId) {
        // The error means that the engine has ended, and the request with it.
        let _ = self.commands.send(Command::Cancel(id));
    }

    fn model(&self, submit: Submit) -> Result<&Arc<AutoModel>, EngineError> {
        let expected = || format!("below {}, the number of the engine's models", self.models.len());
        self.models.get(submit.model).ok_or_else(|| EngineError::option("model", submit.model, expected()))
    }

    fn values(&self, prompt: Vec<u32>, task: EngineTask, submit: Submit) -> Result<Vec<f32>, EngineError> {
        let (_, answers) = self.submit(prompt, task, submit)?;
        match answers.recv() {
            Ok(Answer::Values(values)) => Ok(values),
            Ok(Answer::Failed(error)) => Err(error),
            Ok(Answer::Chunk(_) | Answer::Beams(_)) | Err(_) => Err(EngineError::Ended),
        }
    }

    fn submit(
        &self,
        prompt: Vec<u32>,
        task: EngineTask,
        submit: Submit,
    ) -> Result<(RequestId, Receiver<Answer>), EngineError> {
        let (answer, answers) = channel();
        let id = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        let submission = Submission {
            model: ModelId(submit.model as u16),
            prompt,
            task,
            tenant: submit.tenant,
            priority: submit.priority,
            deadline: submit.deadline,
            answers: answer,
        };
        let submit = Command::Submit(id, Instant::now(), Box::new(submission));
        self.commands.send(submit).map_err(|_| EngineError::Ended)?;
        Ok((id, answers))
    }
}

/// A scheduler for models with these pools.
fn scheduler(
    models: &[Arc<AutoModel>],
    pools: Vec<ModelConfig>,
    config: &EngineConfig,
) -> Result<BatchScheduler, EngineError> {
    // With rotary angles that depend on a text's length, keys cannot be used for other texts, nor be computed again
    // later.
    let by_length = models.iter().filter_map(|model| model.decoder().ok()).any(|decoder| {
        let Position::Rope(rope) = &decoder.config().position else { return false };
        matches!(rope.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. })
    });
    let least = pools.iter().map(|pool| pool.blocks).min().unwrap_or(0);
    let policy = policy(&config.policy)?;
    let batch = BatchConfig {
        models: pools,
        max_running: config.max_running,
        max_tokens: config.max_step_tokens.max(config.max_running),
        admission: if by_length { Admission::Reserved } else { config.admission },
        // A small pool keeps fewer blocks free for growth.
        watermark: (least / 16).min(8),
        preemption: config.preemption,
        prefix_caching: config.prefix_caching && !by_length,
        // The bounds of policies that share among tenants hold only where no request is passed over.
        lookahead: if policy.by_tenant() { 0 } else { 8 },
        hash_seed: SamplingParams::default().seed_or_random(),
        ..BatchConfig::default()
    };
    Ok(BatchScheduler::new(batch, policy)?)
}

/// The engine's thread.
fn run(mut core: Core<impl Executor>, commands: &Receiver<Command>) {
    let start = Instant::now();
    let time = |at: Instant| Time::from_micros(at.saturating_duration_since(start).as_micros() as u64);
    let mut busy = false;
    loop {
        // With work to do, commands are only polled between steps. Without work there are no requests, and so no
        // deadlines: wait for a command.
        let mut next = if busy { commands.try_recv() } else { commands.recv().map_err(|_| TryRecvError::Disconnected) };
        loop {
            match next {
                Ok(Command::Submit(id, at, submission)) => core.submit(id, *submission, time(at)),
                Ok(Command::Cancel(id)) => core.cancel(id),
                Ok(Command::Tenant(tenant, weight, answer)) => {
                    let _ = answer.send(core.declare_tenant(tenant, weight));
                }
                Ok(Command::Stats(answer)) => {
                    let _ = answer.send(core.stats());
                }
                Err(TryRecvError::Empty) => break,
                // No handle and no stream is left.
                Err(TryRecvError::Disconnected) => return,
            }
            next = commands.try_recv();
        }
        busy = core.step(time(Instant::now()));
    }
}
