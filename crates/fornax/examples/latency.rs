//! How long callers of an engine wait: for the first token of a prompt whose beginning is cached or not, and for the next
//! token of a stream while a long prompt is computed. `cargo run --release --example latency -- MODEL`.

#![allow(clippy::print_stdout, reason = "an example shows what it has")]

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fornax::prelude::*;
use fornax::scheduler::Random;

/// Tokens that two prompts have in common.
const SHARED: usize = 512;
/// Tokens that each of two such prompts has for itself.
const OWN: usize = 16;
/// Tokens of the prompt that comes while streams run.
const LONG: usize = 1500;
/// How long the streams run alone first: for about as many tokens as beside the prompt, so that the longest waits of both
/// can be compared.
const BEFORE: Duration = Duration::from_secs(6);
/// Measurements of everything.
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let model = std::env::args().nth(1).ok_or("usage: latency MODEL")?;
    let model = AutoModel::load(&model, &Device::best()?)?;
    let engine = EngineHandle::start(model, &EngineConfig::default())?;
    // The first computation touches memory for the first time.
    first_token(&engine, tokens(1, SHARED))?;

    println!("first token of {} prompt tokens, the first {SHARED} of them new or cached:", SHARED + OWN);
    for round in 0..ROUNDS as u32 {
        let shared: Vec<u32> = tokens(10 + 3 * round, SHARED).collect();
        let with_own = |seed| shared.iter().copied().chain(tokens(seed, OWN));
        let new = first_token(&engine, with_own(11 + 3 * round))?;
        let cached = first_token(&engine, with_own(12 + 3 * round))?;
        let times = new.as_secs_f64() / cached.as_secs_f64();
        println!("  new {:8.1} ms   cached {:8.1} ms   {times:5.1} times as soon", ms(new), ms(cached));
    }

    for streams in [1, 4] {
        println!(
            "{streams} running streams, how long they wait for a token, before and while a prompt of {LONG} tokens is computed:"
        );
        for round in 0..ROUNDS as u32 {
            let Waits { before, beside, first } =
                beside_a_prompt(&engine, streams, 1000 * streams as u32 + 100 * round)?;
            let more = |waits: &Spread| waits.longest.as_secs_f64() / before.median.as_secs_f64() - 1.0;
            println!(
                "  before {before} ({:3.1} steps more)   beside {beside} ({:3.1} steps more)   the prompt's first token {:8.1} ms",
                more(&before),
                more(&beside),
                ms(first)
            );
        }
    }
    Ok(())
}

/// The time to the first token of a prompt.
fn first_token(engine: &EngineHandle, prompt: impl Iterator<Item = u32>) -> Result<Duration, EngineError> {
    let prompt: Vec<u32> = prompt.collect();
    let start = Instant::now();
    engine.generate(prompt, &params(1))?;
    Ok(start.elapsed())
}

/// How long streams wait for a token.
struct Waits {
    /// Before the prompt comes.
    before: Spread,
    /// While the prompt is computed.
    beside: Spread,
    /// The time to the prompt's first token.
    first: Duration,
}

/// Of several waits.
struct Spread {
    median: Duration,
    longest: Duration,
}

impl Spread {
    fn of(mut waits: Vec<Duration>) -> Option<Self> {
        waits.sort();
        Some(Self { median: *waits.get(waits.len() / 2)?, longest: *waits.last()? })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.1} ms, longest {:6.1} ms", ms(self.median), ms(self.longest))
    }
}

/// Submits a long prompt while streams run.
fn beside_a_prompt(engine: &EngineHandle, streams: usize, seed: u32) -> Result<Waits, Box<dyn Error>> {
    let (mut running, ended) = (Vec::new(), Arc::new(AtomicBool::new(false)));
    for stream in 0..streams as u32 {
        let prompt: Vec<u32> = tokens(seed + stream, 32).collect();
        let stream = engine.stream(prompt, &params(1500))?;
        let ended = Arc::clone(&ended);
        running.push(thread::spawn(move || {
            let wanted = stream.take_while(|_| !ended.load(Ordering::Relaxed));
            // When each token came.
            wanted.map(|chunk| chunk.map(|_| Instant::now())).collect::<Result<Vec<_>, _>>()
        }));
    }
    thread::sleep(Duration::from_secs(1));
    let settled = Instant::now();
    thread::sleep(BEFORE);
    let prompt: Vec<u32> = tokens(seed + 50, LONG).collect();
    let start = Instant::now();
    engine.generate(prompt, &params(1))?;
    let end = Instant::now();
    ended.store(true, Ordering::Relaxed);
    let (mut before, mut beside) = (Vec::new(), Vec::new());
    for stream in running {
        let times = stream.join().map_err(|_| "a thread panicked")??;
        for pair in times.windows(2) {
            let wait = pair[1] - pair[0];
            // The first tokens come while other streams' prompts are computed.
            if pair[1] < start && pair[1] > settled {
                before.push(wait);
            } else if pair[1] >= start && pair[0] < end {
                beside.push(wait);
            }
        }
    }
    let before = Spread::of(before).ok_or("no token came before the prompt")?;
    let beside = Spread::of(beside).ok_or("the streams ended before the prompt")?;
    Ok(Waits { before, beside, first: end - start })
}

/// Greedy, and not ended by what the model says.
fn params(new: usize) -> SamplingParams {
    SamplingParams { ignore_eos: true, ..SamplingParams::default() }.max_new_tokens(new)
}

/// Tokens that every vocabulary of 512 tokens has, and no other seed's begin with.
fn tokens(seed: u32, count: usize) -> impl Iterator<Item = u32> {
    let mut random = Random::new(u64::from(seed));
    std::iter::repeat_with(move || 5 + random.below(500) as u32).take(count)
}

fn ms(duration: Duration) -> f64 {
    1000.0 * duration.as_secs_f64()
}
