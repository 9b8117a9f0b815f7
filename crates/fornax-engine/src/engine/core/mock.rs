//! An executor for tests whose memory holds tokens in place of keys and values. It detects every block that is read
//! before it is written, or after it was given to another sequence. Logits are a hash of the whole text before them, so
//! that each request has one right answer. The first tokens of a prompt can ask for a fault.

use std::any::Any;
use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};

use fornax_scheduler::{ModelId, Plan};

use crate::EngineError;
use crate::executor::{Executor, StepOutput, Wanted, Work};

/// Tokens of the mock's models.
pub(super) const VOCAB: u32 = 64;
/// A prompt whose first token is smaller than this, but not zero, asks for a fault, which comes once the text is as
/// long as its second token says.
pub(super) const POISONS: u32 = 6;

/// Numbers that look random, the same ones for a seed.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(mixed(seed ^ 0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        mixed(self.0)
    }

    /// From zero up to below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

fn mixed(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// The faults that the mock injects.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    /// Whether prompts are given the faults that they ask for.
    pub(super) poison: bool,
    /// How often, in percent, a step of several sequences fails halfway. No request may notice.
    pub(super) steps: usize,
    /// How often, in percent, the moves of a plan fail halfway.
    pub(super) moves: usize,
}

/// A token and its position.
type Block = Vec<Option<(u32, usize)>>;

pub(super) struct Mock {
    block_size: usize,
    device: HashMap<(u16, u32), Block>,
    host: HashMap<(u16, u32), Block>,
    faults: Faults,
    random: Random,
    /// Violations of what must always hold. They are recorded, as a panic would be caught.
    pub(super) violations: Arc<Mutex<Vec<String>>>,
}

impl Mock {
    pub(super) fn new(block_size: usize, faults: Faults, seed: u64) -> Self {
        let (device, host) = (HashMap::new(), HashMap::new());
        Self { block_size, device, host, faults, random: Random::new(seed), violations: Arc::default() }
    }

    fn violation(&self, text: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// The text whose keys and values a piece of work finds in its blocks.
    fn context(&self, model: u16, work: &Work<'_>) -> Vec<u32> {
        let mut context = Vec::with_capacity(work.start + work.tokens.len());
        for position in 0..work.start {
            let block = self.device.get(&(model, work.blocks[position / self.block_size]));
            match block.and_then(|block| block[position % self.block_size]) {
                Some((token, at)) if at == position => context.push(token),
                found => {
                    self.violation(format!("{found:?} at {position} of {work:?}"));
                    context.push(0);
                }
            }
        }
        context
    }

    fn work(&mut self, model: u16, work: &Work<'_>, output: &mut StepOutput) -> Result<(), EngineError> {
        let mut context = self.context(model, work);
        let from = output.values.len();
        if (work.start + work.tokens.len()).div_ceil(self.block_size) > work.blocks.len() {
            self.violation(format!("too few blocks: {work:?}"));
        }
        for &token in work.tokens {
            let position = context.len();
            let block = self.device.entry((model, work.blocks[position / self.block_size]));
            block.or_insert_with(|| vec![None; self.block_size])[position % self.block_size] = Some((token, position));
            context.push(token);
            let hash = hash_of(model, &context);
            match work.wanted {
                Wanted::Nothing | Wanted::Logits => {}
                Wanted::Logprobs(next) => {
                    let next = next.get(position - work.start).map(|&next| mixed(hash ^ u64::from(next)));
                    output.values.extend(next.map(|hash| -number(hash)));
                }
                Wanted::States => output.values.extend([number(hash), number(mixed(hash))]),
            }
        }
        if work.wanted == Wanted::Logits {
            let mut random = Random::new(hash_of(model, &context));
            output.values.extend((0..VOCAB).map(|_| number(random.next())));
        }
        let poison = context.first().filter(|&&first| self.faults.poison && (1..POISONS).contains(&first));
        let due = context.get(1).is_some_and(|&length| context.len() >= length as usize);
        let logits = work.wanted == Wanted::Logits;
        match poison.filter(|_| due) {
            Some(1) => injected("injected panic"),
            Some(3) if logits => output.values[from + 5] = f32::NAN,
            Some(4) if logits => output.values.truncate(from + 3),
            // No range for it.
            Some(5) => return Ok(()),
            Some(_) => return Err(EngineError::failed("injected error")),
            None => {}
        }
        output.ranges.push(from..output.values.len());
        Ok(())
    }
}

impl Executor for Mock {
    fn move_blocks(&mut self, plan: &Plan) -> Result<(), EngineError> {
        let moves = !(plan.swap_out.is_empty() && plan.copy.is_empty() && plan.swap_in.is_empty());
        // It fails before one of these.
        let mut left = if moves && self.random.chance(self.faults.moves) { self.random.below(4) } else { usize::MAX };
        let panics = self.random.chance(50);
        let mut step = || match left.checked_sub(1) {
            None if panics => injected("injected move panic"),
            None => Err(EngineError::failed("injected move error")),
            Some(one_less) => {
                left = one_less;
                Ok(())
            }
        };
        let mut lacking = Vec::new();
        for swap in &plan.swap_out {
            for (device, host) in swap.device.iter().zip(&swap.host) {
                step()?;
                let block = self.device.get(&(swap.model.0, device.0)).cloned();
                lacking.extend(block.is_none().then(|| format!("{device:?} of {swap:?}")));
                self.host.insert((swap.model.0, host.0), block.unwrap_or_default());
            }
        }
        for copy in &plan.copy {
            step()?;
            let block = self.device.get(&(copy.model.0, copy.from.0)).cloned();
            lacking.extend(block.is_none().then(|| format!("{copy:?}")));
            self.device.insert((copy.model.0, copy.to.0), block.unwrap_or_default());
        }
        for swap in &plan.swap_in {
            for (device, host) in swap.device.iter().zip(&swap.host) {
                step()?;
                let block = self.host.remove(&(swap.model.0, host.0));
                lacking.extend(block.is_none().then(|| format!("{host:?} of {swap:?}")));
                self.device.insert((swap.model.0, device.0), block.unwrap_or_default());
            }
        }
        step()?;
        lacking.into_iter().for_each(|what| self.violation(format!("nothing to move: {what}")));
        Ok(())
    }

    fn compute(&mut self, model: ModelId, work: &[Work<'_>]) -> Result<StepOutput, EngineError> {
        let fails = work.len() > 1 && self.random.chance(self.faults.steps);
        let last = if fails { self.random.below(work.len()) } else { usize::MAX };
        let mut output = StepOutput::default();
        for (at, one) in work.iter().enumerate() {
            if at == last && self.random.chance(50) {
                injected("injected step panic");
            } else if at == last {
                return Err(EngineError::failed("injected step error"));
            }
            self.work(model.0, one, &mut output)?;
        }
        Ok(output)
    }
}

/// A panic that is not printed.
fn injected(text: &'static str) -> ! {
    let payload: Box<dyn Any + Send> = Box::new(text);
    resume_unwind(payload)
}

fn hash_of(model: u16, context: &[u32]) -> u64 {
    context.iter().fold(u64::from(model) + 1, |hash, &token| mixed(hash.rotate_left(7) ^ u64::from(token)))
}

/// From zero to eight.
fn number(hash: u64) -> f32 {
    (hash >> 40) as f32 / (1u64 << 21) as f32
}
