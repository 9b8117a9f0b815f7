//! Random schedules of submissions, cancellations, dropped streams and faults, step by step and without a clock. Every
//! request without a fault gets the same result as alone, every request ends, and all blocks come back.
//! `FORNAX_SCHEDULES` gives the number of schedules, `FORNAX_SCHEDULE` the first.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fornax_backend::Device;
use fornax_models::families::llama::LlamaConfig;
use fornax_models::{AutoModel, Network};
use fornax_scheduler::{
    Admission, BatchConfig, BatchScheduler, ModelConfig, ModelId, POLICIES, Preemption, RequestId, TenantId, Time,
    policy,
};

use super::mock::{Faults, Mock, POISONS, Random, VOCAB};
use super::{Answer, Core, EngineStats, EngineTask, Submission};
use crate::engine::{EngineHandle, Submit};
use crate::sampling::SamplingParams;
use crate::{EngineError, Generation, Pooling};

/// A model that gives a vocabulary and a context, and computes nothing.
pub(super) fn model() -> Arc<AutoModel> {
    let device = Device::cpu();
    let config = LlamaConfig {
        vocab_size: VOCAB as usize,
        hidden_size: 16,
        intermediate_size: 16,
        num_hidden_layers: 1,
        ..LlamaConfig::tiny()
    };
    let network = Network::Decoder(config.decoder().expect("valid").init(device.as_burn()));
    Arc::new(AutoModel::from_parts(config.to_json(), network, None, &device).expect("it fits"))
}

fn count(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text} is no number")))
}

/// A request.
#[derive(Debug, Clone)]
struct Case {
    model: u16,
    prompt: Vec<u32>,
    task: EngineTask,
    tenant: u32,
    priority: i32,
    deadline: Option<Duration>,
}

impl Case {
    fn random(random: &mut Random, models: usize, faults: &Faults) -> Self {
        // Some prompts share their beginnings.
        let len = 1 + random.below(40);
        let like = random.below(3) as u64;
        let mut common = Random::new(like);
        let mut prompt: Vec<u32> =
            (0..len).map(|_| POISONS + common.below((VOCAB - POISONS) as usize) as u32).collect();
        let own = random.below(len);
        for token in &mut prompt[own..] {
            *token = POISONS + random.below((VOCAB - POISONS) as usize) as u32;
        }
        if faults.poison && len > 1 && random.chance(20) {
            prompt[0] = 1 + random.below(POISONS as usize - 1) as u32;
            prompt[1] = (len + random.below(8)) as u32;
        }
        let limit = 1 + random.below(40);
        let mut params = SamplingParams::default().max_new_tokens(limit).seed(random.below(1000) as u64);
        if random.chance(50) {
            params = params.temperature(1.0).top_p(0.9);
        }
        if random.chance(30) {
            params = params.stop_token_ids([random.below(VOCAB as usize) as u32]);
        }
        let task = match random.below(10) {
            0 => EngineTask::Score,
            1 => EngineTask::Embed([Pooling::Mean, Pooling::Cls, Pooling::Last][random.below(3)]),
            2 | 3 => EngineTask::Generate(params.num_return_sequences(2 + random.below(3)), limit),
            4 | 5 => {
                let beams = 2 + random.below(3);
                let params = params.temperature(0.0).top_p(1.0).num_beams(beams);
                EngineTask::Generate(params.num_return_sequences(1 + random.below(beams)), limit)
            }
            _ => EngineTask::Generate(params, limit),
        };
        Self {
            model: random.below(models) as u16,
            prompt,
            task,
            tenant: random.below(3) as u32,
            priority: random.below(3) as i32,
            deadline: random.chance(10).then(|| Duration::from_millis(random.below(60) as u64)),
        }
    }

    fn submission(&self) -> (Submission, Receiver<Answer>) {
        let (answers, received) = channel();
        let submission = Submission {
            model: ModelId(self.model),
            prompt: self.prompt.clone(),
            task: self.task.clone(),
            tenant: TenantId(self.tenant),
            priority: self.priority,
            deadline: self.deadline,
            answers,
        };
        (submission, received)
    }

    /// The number of sequences, and the most tokens of each.
    fn extent(&self) -> (usize, usize) {
        match &self.task {
            EngineTask::Generate(params, limit) => (params.num_beams.max(params.num_return_sequences), *limit),
            EngineTask::Score | EngineTask::Embed(_) => (1, 0),
        }
    }

    /// Whether it could never be computed.
    fn is_too_large(&self, config: &BatchConfig) -> bool {
        let (sequences, new) = self.extent();
        let (size, total) = (config.models[0].block_size, config.models[0].blocks);
        let all = (self.prompt.len() + new).div_ceil(size);
        let shares = config.admission == Admission::Optimistic && config.prefix_caching;
        let shared = if shares { self.prompt.len() / size } else { 0 };
        sequences > config.max_running || (all - shared) * sequences + shared > total
    }

    /// Its result alone.
    fn alone(&self, models: &[Arc<AutoModel>], poison: bool) -> Outcome {
        let pool = ModelConfig { blocks: 64, ..ModelConfig::default() };
        let config = BatchConfig { models: vec![pool; models.len()], ..BatchConfig::default() };
        let mock = Mock::new(16, Faults { poison, ..Faults::default() }, 0);
        let scheduler = BatchScheduler::new(config, policy("fcfs").expect("known")).expect("valid");
        let mut core = Core::new(models.to_vec(), scheduler, mock, None);
        let (submission, received) = Case { deadline: None, ..self.clone() }.submission();
        core.submit(RequestId(1), submission, Time::ZERO);
        while core.step(Time::ZERO) {}
        let mut outcome = Outcome::default();
        outcome.read(&received);
        outcome
    }
}

/// The answers of a request.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    /// The tokens of each sequence, and whether it ended.
    sequences: HashMap<usize, (Vec<u32>, bool)>,
    beams: Option<Vec<Generation>>,
    values: Option<Vec<f32>>,
    error: Option<String>,
}

impl Outcome {
    fn read(&mut self, answers: &Receiver<Answer>) {
        for answer in answers.try_iter() {
            assert!(self.error.is_none() && self.beams.is_none() && self.values.is_none(), "{answer:?} after the end");
            match answer {
                Answer::Chunk(chunk) => {
                    let (tokens, ended) = self.sequences.entry(chunk.sequence).or_default();
                    assert!(!*ended, "{chunk:?} after its end");
                    tokens.extend(chunk.token_ids);
                    *ended = chunk.finish_reason.is_some();
                }
                Answer::Beams(beams) => self.beams = Some(beams),
                Answer::Values(values) => self.values = Some(values),
                Answer::Failed(error) => self.error = Some(error.to_string()),
            }
        }
    }

    fn has_ended(&self, sequences: usize) -> bool {
        let all = || self.sequences.len() == sequences && self.sequences.values().all(|(_, ended)| *ended);
        self.error.is_some() || self.beams.is_some() || self.values.is_some() || all()
    }

    /// Whether the sequences are beginnings of those of `whole`.
    fn begins(&self, whole: &Self) -> bool {
        self.sequences
            .iter()
            .all(|(index, (tokens, _))| whole.sequences.get(index).is_some_and(|(whole, _)| whole.starts_with(tokens)))
    }
}

/// What a schedule does to a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Hurt {
    Not,
    Cancelled,
    Dropped,
}

/// A request under way.
struct Running {
    case: Case,
    id: RequestId,
    answers: Option<Receiver<Answer>>,
    outcome: Outcome,
    hurt: Hurt,
}

/// Counts over all schedules, to check that the rare cases occur.
#[derive(Debug, Default)]
struct Tally {
    requests: usize,
    whole: usize,
    failed: usize,
    moves_failed: usize,
    refused: usize,
    late: usize,
    cancelled: usize,
    preemptions: u64,
    swaps: u64,
    copies: u64,
    hit_blocks: u64,
}

impl Tally {
    fn check(
        &mut self,
        running: &Running,
        models: &[Arc<AutoModel>],
        config: &BatchConfig,
        faults: &Faults,
        context: &str,
    ) {
        let Running { case, outcome, hurt, .. } = running;
        self.requests += 1;
        let clean = case.alone(models, false);
        let alone = case.alone(models, true);
        assert!(clean.error.is_none(), "{clean:?}");
        let right = if faults.poison { &alone } else { &clean };
        assert!(outcome.begins(&clean), "other tokens: {outcome:?}\nfor {clean:?}");
        match &outcome.error {
            None if outcome.has_ended(case.extent().0) => {
                assert_eq!(outcome, right);
                self.whole += 1;
            }
            None => {
                assert!(*hurt != Hurt::Not, "no end: {outcome:?}");
                self.cancelled += 1;
            }
            Some(error) if right.error.as_ref() == Some(error) => self.failed += 1,
            Some(error) if error.contains("injected move") && faults.moves > 0 => self.moves_failed += 1,
            Some(error) if case.is_too_large(config) => {
                assert!(error.contains("are needed") && outcome.sequences.is_empty(), "{error}");
                self.refused += 1;
            }
            Some(error) => {
                let late = error.contains("deadline") && case.deadline.is_some();
                assert!(late, "{case:?}: {error}\nfor {right:?}\nin {context}");
                self.late += 1;
            }
        }
    }

    fn count(&mut self, stats: EngineStats) {
        self.preemptions += stats.scheduler.preemptions;
        self.swaps += stats.scheduler.swaps;
        self.copies += stats.scheduler.copies;
        self.hit_blocks += stats.scheduler.hit_blocks;
    }
}

fn config(random: &mut Random, models: usize) -> BatchConfig {
    let preemption = [Preemption::Recompute, Preemption::Swap][random.below(2)];
    let host_blocks = if preemption == Preemption::Swap { 1 + random.below(40) } else { 0 };
    let block_size = [1, 2, 4, 16][random.below(4)];
    let blocks = (50 + random.below(120)).div_ceil(block_size) + 1;
    let max_running = 2 + random.below(8);
    BatchConfig {
        models: vec![ModelConfig { blocks, block_size, host_blocks, ..ModelConfig::default() }; models],
        max_running,
        max_tokens: max_running + random.below(40),
        admission: if random.chance(80) { Admission::Optimistic } else { Admission::Reserved },
        watermark: (blocks / 16).min(8),
        preemption,
        prefix_caching: random.chance(60),
        lookahead: 8,
        ..BatchConfig::default()
    }
}

fn schedule(seed: u64, models: &[Arc<AutoModel>], tally: &mut Tally) {
    let mut random = Random::new(seed);
    let models = &models[..1 + random.below(2)];
    let config = config(&mut random, models.len());
    let percent = |random: &mut Random, most: usize| if random.chance(50) { random.below(most) } else { 0 };
    let faults = Faults {
        poison: random.chance(60),
        steps: percent(&mut random, 30),
        moves: if random.chance(30) { 1 + random.below(30) } else { 0 },
    };
    let mock = Mock::new(config.models[0].block_size, faults.clone(), seed);
    let violations = Arc::clone(&mock.violations);
    let name = POLICIES[random.below(POLICIES.len())].name;
    let policy = policy(name).expect("known");
    let mut core = Core::new(models.to_vec(), BatchScheduler::new(config.clone(), policy).expect("valid"), mock, None);
    let mut running: Vec<Running> = Vec::new();
    let mut left = 1 + random.below(16);
    let mut busy = false;
    let mut steps = 0;
    while busy || left > 0 {
        let now = Time::from_micros(steps * 1000);
        while left > 0 && (!busy || random.chance(50)) {
            left -= 1;
            let case = Case::random(&mut random, models.len(), &faults);
            let (submission, answers) = case.submission();
            let id = RequestId(running.len() as u64 + 1);
            core.submit(id, submission, now);
            running.push(Running { case, id, answers: Some(answers), outcome: Outcome::default(), hurt: Hurt::Not });
            busy = true;
        }
        if !running.is_empty() && random.chance(3) {
            let at = random.below(running.len());
            let one = &mut running[at];
            if let Some(answers) = one.answers.take() {
                one.outcome.read(&answers);
                if !one.outcome.has_ended(one.case.extent().0) {
                    one.hurt = if random.chance(50) { Hurt::Cancelled } else { Hurt::Dropped };
                }
                if one.hurt == Hurt::Cancelled {
                    core.cancel(one.id);
                }
                // A dropped stream usually cancels too, but the engine notices in any case.
                drop(answers);
            }
        }
        if random.chance(20) {
            core.serving.limit_prompts(random.chance(50).then(|| 1 + random.below(20)));
        }
        busy = core.step(now);
        steps += 1;
        assert!(steps < 20_000, "no end");
    }
    let context = format!("{config:?}, {faults:?}, policy {name}, {steps} steps");
    let violations = violations.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(violations.is_empty(), "{violations:?}");
    let stats = core.stats();
    let held = (stats.requests, stats.running, stats.waiting, stats.held_blocks);
    assert_eq!(held, (0, 0, 0, 0), "left over: requests, running, waiting, blocks");
    assert!(core.serving.scheduler().is_empty() && !core.serving.has_events());
    for one in &mut running {
        if let Some(answers) = &one.answers {
            one.outcome.read(answers);
        }
        tally.check(one, models, &config, &faults, &context);
    }
    tally.count(stats);
}

#[test]
#[allow(clippy::print_stderr)]
fn every_request_gets_the_same_result_as_alone() {
    let models = vec![model(); 2];
    let mut tally = Tally::default();
    let (first, schedules) = (count("FORNAX_SCHEDULE", 0), count("FORNAX_SCHEDULES", 500));
    for seed in first..first + schedules {
        let run = std::panic::AssertUnwindSafe(|| schedule(seed, &models, &mut tally));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("schedule {seed} (FORNAX_SCHEDULE={seed} FORNAX_SCHEDULES=1)");
            std::panic::resume_unwind(panic);
        }
    }
    eprintln!("{schedules} schedules: {tally:?}");
    if schedules >= 500 {
        let Tally { requests, whole, failed, moves_failed, refused, late, cancelled, .. } = tally;
        let kinds = [whole, failed, moves_failed, refused, late, cancelled];
        assert!(kinds.iter().all(|&count| count > 0), "{tally:?}");
        assert_eq!(kinds.iter().sum::<usize>(), requests);
        assert!(tally.preemptions > 0 && tally.swaps > 0 && tally.copies > 0 && tally.hit_blocks > 0, "{tally:?}");
    }
}

/// The same through handles: many threads that submit, read, stop reading and drop.
#[test]
fn threads() {
    let models = vec![model(); 2];
    for round in 0..count("FORNAX_SCHEDULES", 500).div_ceil(50) {
        let mut random = Random::new(round ^ 0xABCD);
        let config = config(&mut random, models.len());
        let faults = Faults { poison: true, steps: 5, moves: 0 };
        let mock = Mock::new(config.models[0].block_size, faults.clone(), round);
        let violations = Arc::clone(&mock.violations);
        let scheduler = BatchScheduler::new(config.clone(), policy("vtc").expect("known")).expect("valid");
        let engine = EngineHandle::start_with(models.clone(), scheduler, mock).expect("it starts");
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (engine, models, config) = (engine.clone(), models.clone(), config.clone());
                let (faults, mut random) = (faults.clone(), Random::new(round * 4 + thread));
                std::thread::spawn(move || {
                    for _ in 0..10 {
                        let case = Case::random(&mut random, models.len(), &faults);
                        client(&engine, &case, &models, &config, &mut random);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no thread fails"));
        // The engine takes in the last cancellations before it gives the counts, but frees their blocks in the step
        // after.
        let mut stats = engine.stats().expect("it runs");
        for _ in 0..1000 {
            if stats.held_blocks + stats.requests + stats.running + stats.waiting == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            stats = engine.stats().expect("it runs");
        }
        assert_eq!((stats.held_blocks, stats.requests, stats.running, stats.waiting), (0, 0, 0, 0), "round {round}");
        let violations = violations.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(violations.is_empty(), "{violations:?}");
    }
}

/// Runs a case as a caller does.
fn client(engine: &EngineHandle, case: &Case, models: &[Arc<AutoModel>], config: &BatchConfig, random: &mut Random) {
    let submit = Submit {
        model: usize::from(case.model),
        tenant: TenantId(case.tenant),
        priority: case.priority,
        deadline: case.deadline,
    };
    let alone = case.alone(models, true);
    assert!(case.alone(models, false).error.is_none());
    let excused = |error: EngineError| {
        let text = error.to_string();
        let refused = matches!(error, EngineError::Refused(_)) && case.is_too_large(config);
        let late = matches!(error, EngineError::Deadline) && case.deadline.is_some();
        assert!(refused || late || alone.error.as_ref() == Some(&text), "{case:?}: {text}");
    };
    let params = match &case.task {
        EngineTask::Score => {
            return match engine.score(case.prompt.clone(), submit) {
                Ok(score) => {
                    let found: Vec<f32> = score.logprobs.into_iter().flatten().collect();
                    assert_eq!(Some(found), alone.values);
                }
                Err(error) => excused(error),
            };
        }
        EngineTask::Embed(pooling) => {
            return match engine.embed(case.prompt.clone(), *pooling, submit) {
                Ok(found) => assert_eq!(Some(found), alone.values),
                Err(error) => excused(error),
            };
        }
        EngineTask::Generate(params, _) => params,
    };
    let mut stream = engine.stream_with(case.prompt.clone(), params, submit).expect("the parameters are valid");
    if random.chance(20) {
        // Reads some chunks, and then no more.
        for _ in 0..random.below(10) {
            if let Some(Err(error)) = stream.next() {
                excused(error);
            }
        }
        return;
    }
    match stream.finish() {
        Ok(generations) if params.num_beams > 1 => assert_eq!(Some(generations), alone.beams),
        Ok(generations) => {
            for (index, generation) in generations.into_iter().enumerate() {
                assert_eq!((generation.token_ids, true), alone.sequences[&index], "{case:?}");
            }
        }
        Err(error) => excused(error),
    }
}
