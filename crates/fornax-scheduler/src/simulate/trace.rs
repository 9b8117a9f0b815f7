//! Requests in the order of their arrivals, recorded or made up from a seed.
//!
//! A request does not store its text. Its tokens are a function of a stream and a position, so that two requests with
//! the same stream begin alike, and the next turn of a conversation can repeat the output of the turn before.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::random::{GOLDEN, mix};
use crate::{Random, Time, Token};

/// The most tokens of a prompt or an output: more than any model reads, and few enough for memory.
pub const MOST_TOKENS: u32 = 1 << 24;
/// The most requests of a workload.
pub const MOST_REQUESTS: u64 = 100_000_000;

/// The distribution of a number of tokens, at most [`MOST_TOKENS`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "simulate",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub enum Length {
    /// Always the same number.
    Fixed(u32),
    /// From the least to the most, all equally likely.
    Uniform(u32, u32),
    /// Log-normal: the median, the standard deviation of the logarithm, the most.
    LogNormal(f64, f64, u32),
    /// Long-tailed (Pareto): the least, the exponent of the tail, the most.
    Pareto(f64, f64, u32),
}

impl Length {
    fn draw(&self, random: &mut Random) -> u32 {
        let drawn = match *self {
            Self::Fixed(length) => length,
            Self::Uniform(least, most) => random.between(u64::from(least), u64::from(most)) as u32,
            Self::LogNormal(median, sigma, most) => (random.log_normal(median, sigma) as u32).min(most),
            Self::Pareto(least, alpha, most) => (random.pareto(least, alpha) as u32).min(most),
        };
        drawn.max(1)
    }

    /// The largest number that it may give.
    pub fn most(&self) -> u32 {
        match *self {
            Self::Fixed(most) | Self::Uniform(_, most) | Self::LogNormal(_, _, most) | Self::Pareto(_, _, most) => most,
        }
    }
}

/// When requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(
    feature = "simulate",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case", deny_unknown_fields)
)]
pub enum Arrivals {
    /// Independently of each other, at this mean rate a second.
    Poisson(f64),
    /// In bursts of `on` seconds that are `off` seconds apart, with `factor` times as many requests as between bursts.
    Bursty {
        /// Requests a second in the mean.
        rate: f64,
        /// How many times as many come in a burst as between bursts.
        factor: f64,
        /// The mean length of a burst in seconds.
        on: f64,
        /// The mean time between bursts in seconds.
        off: f64,
    },
    /// At a rate that rises and falls by `depth` (0 to 1) of its mean, once a period.
    Diurnal {
        /// Requests a second in the mean.
        rate: f64,
        /// How much the rate changes, as a part of it.
        depth: f64,
        /// The length of a day in seconds.
        period: f64,
    },
}

/// Beginnings that requests share, such as system prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Prefix {
    /// How many there are.
    pub groups: u32,
    /// How long they are.
    pub tokens: u32,
    /// How unequal their use is: the exponent of Zipf's law.
    pub skew: f64,
}

/// Conversations of several turns, each of which repeats all before it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Turns {
    /// How many turns a conversation has in the mean (geometric).
    pub mean: f64,
    /// Seconds from one turn to the next in the mean.
    pub think: f64,
}

/// A kind of request.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "simulate", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields, default))]
pub struct Class {
    /// What reports call it.
    pub name: String,
    /// Its part of the requests, relative to the other classes.
    pub share: f64,
    /// The number of its first tenant.
    pub tenant: u32,
    /// How many tenants it has, all alike.
    pub tenants: u32,
    /// Tokens of a prompt, without a shared beginning.
    pub prompt: Length,
    /// Output tokens: the true lengths, which no scheduler is told.
    pub output: Length,
    /// The most output tokens of a request (`max_tokens` of common APIs), which its scheduler is told. A longer output
    /// is cut there. Without it, the largest number that `output` may give.
    pub max_tokens: Option<u32>,
    /// Shared beginnings.
    pub prefix: Option<Prefix>,
    /// Conversations.
    pub turns: Option<Turns>,
    /// The higher, the more urgent.
    pub priority: i32,
    /// Seconds after which a request is late.
    pub deadline: Option<f64>,
    /// Seconds to the first token that users accept.
    pub first_token_target: f64,
    /// Seconds from token to token, in the mean of a request, that users accept.
    pub next_token_target: f64,
    /// Speculative tokens wanted in a step.
    pub speculation: u32,
    /// The chance that a speculative token is right.
    pub acceptance: f64,
}

impl Default for Class {
    fn default() -> Self {
        Self {
            name: "all".into(),
            share: 1.0,
            tenant: 0,
            tenants: 1,
            prompt: Length::LogNormal(200.0, 0.8, 4096),
            output: Length::LogNormal(100.0, 0.7, 1024),
            max_tokens: None,
            prefix: None,
            turns: None,
            priority: 0,
            deadline: None,
            first_token_target: 1.0,
            next_token_target: 0.1,
            speculation: 0,
            acceptance: 0.7,
        }
    }
}

impl Class {
    /// The most output tokens of its requests.
    pub fn limit(&self) -> u32 {
        self.max_tokens.unwrap_or(self.output.most())
    }
}

/// A request of a trace.
///
/// Its prompt is a beginning that other requests may share, and a body of its own. The beginning comes from one stream,
/// or is made of blocks with a stream each. Requests whose first blocks are the same begin alike, so that beginnings
/// form a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceRequest {
    /// When it comes.
    pub arrival: Time,
    /// Its class, by place.
    pub class: u16,
    /// Whose it is.
    pub tenant: u32,
    /// The stream of its shared beginning, unless that is made of blocks.
    pub prefix_stream: u64,
    /// The tokens of the beginning.
    pub prefix: u32,
    /// The streams of the beginning's blocks; the last block may be cut.
    pub blocks: Vec<u64>,
    /// The tokens of a block of the beginning.
    pub block_tokens: u32,
    /// The stream of the body.
    pub body_stream: u64,
    /// The tokens of the body.
    pub body: u32,
    /// The true number of output tokens of each of its sequences, which no scheduler is told.
    pub new_tokens: u32,
    /// The most output tokens, which its scheduler is told; none is the limit of its class.
    pub max_tokens: Option<u32>,
    /// The higher, the more urgent; none is the priority of its class.
    pub priority: Option<i32>,
    /// Seconds after which it is late; none is the deadline of its class.
    pub deadline: Option<f64>,
    /// How many continuations it wants, at least 1.
    pub sequences: u32,
    /// The adapter that it needs.
    pub adapter: Option<u32>,
    /// Seconds after which its client cancels it, unless it has ended.
    pub cancel: Option<f64>,
}

impl Default for TraceRequest {
    /// A request that comes at once, without a prompt or an output.
    fn default() -> Self {
        Self {
            arrival: Time::ZERO,
            class: 0,
            tenant: 0,
            prefix_stream: 0,
            prefix: 0,
            blocks: Vec::new(),
            block_tokens: 1,
            body_stream: 0,
            body: 0,
            new_tokens: 0,
            max_tokens: None,
            priority: None,
            deadline: None,
            sequences: 1,
            adapter: None,
            cancel: None,
        }
    }
}

impl TraceRequest {
    /// The tokens of its prompt.
    pub fn prompt(&self) -> Vec<Token> {
        let mut tokens = Vec::with_capacity(self.prompt_tokens() as usize);
        if self.blocks.is_empty() {
            tokens.extend((0..self.prefix).map(|at| token(self.prefix_stream, at)));
        }
        let mut left = self.prefix;
        for &stream in &self.blocks {
            let length = left.min(self.block_tokens);
            tokens.extend((0..length).map(|at| token(stream, at)));
            left -= length;
        }
        tokens.extend((0..self.body).map(|at| token(self.body_stream, at)));
        tokens
    }

    /// How many tokens its prompt has.
    pub fn prompt_tokens(&self) -> u32 {
        self.prefix + self.body
    }

    /// The output token of its first sequence at position `at`.
    pub fn output(&self, at: u32) -> Token {
        self.output_of(0, at)
    }

    /// The output token of one of its sequences at position `at`.
    pub fn output_of(&self, sequence: u32, at: u32) -> Token {
        let stream = if sequence == 0 { self.body_stream } else { mix(self.body_stream ^ u64::from(sequence)) };
        token(stream, self.body + at)
    }
}

fn token(stream: u64, at: u32) -> Token {
    (mix(stream ^ u64::from(at).wrapping_mul(GOLDEN)) & 0x1_ffff) as u32
}

/// Recorded requests, and the names of their tenants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The requests in order of time.
    pub requests: Vec<TraceRequest>,
    /// The names of tenants, with the numbers that they were given.
    pub tenants: Vec<(u32, String)>,
}

/// Made-up requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// How many requests come.
    pub requests: u64,
    /// When they come.
    pub arrivals: Arrivals,
    /// Their classes.
    pub classes: Vec<Class>,
    /// The same seed gives the same requests.
    pub seed: u64,
}

impl Workload {
    /// The requests in order of time, of a workload that [`check`](Self::check) accepts. Where it refuses one, the iterator
    /// may panic.
    pub fn iter(&self) -> WorkloadIter {
        let random = Random::new(self.seed);
        WorkloadIter {
            workload: self.clone(),
            gaps: random.fork(1),
            texts: random.fork(2),
            now: 0.0,
            burst: (false, 0.0),
            left: self.requests,
            conversations: 0,
            later: BinaryHeap::new(),
            fresh: None,
        }
    }
}

/// The next turn of a conversation: its arrival, body stream, class, tenant, prefix stream and prefix length, and the
/// tokens of the turns before it.
type Turn = (Time, u64, u16, u32, u64, u32, u32);

/// The requests of a [`Workload`] in order of time.
#[derive(Clone, Debug)]
pub struct WorkloadIter {
    workload: Workload,
    gaps: Random,
    texts: Random,
    now: f64,
    /// Whether there is a burst now, and when that changes.
    burst: (bool, f64),
    left: u64,
    conversations: u64,
    later: BinaryHeap<Reverse<Turn>>,
    /// The arrival of the next conversation.
    fresh: Option<Time>,
}

impl WorkloadIter {
    /// The seconds until the next conversation begins.
    fn gap(&mut self) -> f64 {
        let start = self.now;
        let mut at = start;
        match self.workload.arrivals {
            Arrivals::Poisson(rate) => at += self.gaps.exponential(1.0 / rate),
            Arrivals::Bursty { rate, factor, on, off } => {
                // The rate between bursts is such that the mean is right.
                let calm = rate * (on + off) / (on * factor + off);
                loop {
                    if at >= self.burst.1 {
                        self.burst.0 = !self.burst.0;
                        let length = self.gaps.exponential(if self.burst.0 { on } else { off });
                        self.burst.1 = at + length;
                    }
                    let gap = self.gaps.exponential(1.0 / if self.burst.0 { calm * factor } else { calm });
                    if at + gap <= self.burst.1 {
                        at += gap;
                        break;
                    }
                    // The gaps are memoryless: at the end of a burst, a new gap can be drawn from there.
                    at = self.burst.1;
                }
            }
            Arrivals::Diurnal { rate, depth, period } => loop {
                // Thinning: arrivals are drawn at the highest rate, and kept with a chance in proportion to the present
                // rate.
                at += self.gaps.exponential(1.0 / (rate * (1.0 + depth)));
                let now = 1.0 - depth * (std::f64::consts::TAU * at / period).cos();
                if self.gaps.chance(now / (1.0 + depth)) {
                    break;
                }
            },
        }
        at - start
    }

    fn class(&mut self) -> u16 {
        let total: f64 = self.workload.classes.iter().map(|class| class.share).sum();
        let mut target = self.texts.unit() * total;
        for (at, class) in self.workload.classes.iter().enumerate() {
            target -= class.share;
            if target < 0.0 {
                return at as u16;
            }
        }
        self.workload.classes.len() as u16 - 1
    }

    fn opening(&mut self, arrival: Time) -> TraceRequest {
        let number = self.class();
        let class = &self.workload.classes[usize::from(number)];
        self.conversations += 1;
        let tenant = class.tenant + self.texts.below(u64::from(class.tenants)) as u32;
        let (prefix_stream, prefix) = match class.prefix {
            None => (0, 0),
            Some(prefix) => {
                let group = self.texts.zipf(prefix.groups as usize, prefix.skew) as u64;
                (mix(self.workload.seed ^ (u64::from(number) << 40) ^ group), prefix.tokens)
            }
        };
        let body_stream = mix(self.workload.seed.wrapping_add(self.conversations.wrapping_mul(GOLDEN)) ^ 1);
        let (body, output) = (class.prompt.draw(&mut self.texts), class.output.draw(&mut self.texts));
        let new_tokens = output.min(class.limit());
        let own = TraceRequest { body_stream, body, new_tokens, ..TraceRequest::default() };
        TraceRequest { arrival, class: number, tenant, prefix_stream, prefix, ..own }
    }

    /// Plans the next turn of a conversation, or ends it.
    fn plan_turn(&mut self, request: &TraceRequest) {
        let Some(turns) = self.workload.classes[usize::from(request.class)].turns else { return };
        if self.texts.chance(1.0 - 1.0 / turns.mean) {
            let think = self.texts.exponential(turns.think);
            let when = Time::from_secs_f64(request.arrival.as_secs_f64() + think);
            let history = request.body.saturating_add(request.new_tokens);
            if history > MOST_TOKENS {
                // The next prompt would be too long: the conversation ends.
                return;
            }
            self.later.push(Reverse((
                when,
                request.body_stream,
                request.class,
                request.tenant,
                request.prefix_stream,
                request.prefix,
                history,
            )));
        }
    }
}

impl Iterator for WorkloadIter {
    type Item = TraceRequest;

    fn next(&mut self) -> Option<TraceRequest> {
        self.left = self.left.checked_sub(1)?;
        let fresh = match self.fresh {
            Some(fresh) => fresh,
            None => {
                self.now += self.gap();
                *self.fresh.insert(Time::from_secs_f64(self.now))
            }
        };
        let request = match self.later.peek() {
            Some(Reverse(turn)) if turn.0 <= fresh => {
                let Reverse((arrival, body_stream, class, tenant, prefix_stream, prefix, history)) =
                    self.later.pop().expect("it was looked at");
                let kind = &self.workload.classes[usize::from(class)];
                let body = history + kind.prompt.draw(&mut self.texts);
                let new_tokens = kind.output.draw(&mut self.texts).min(kind.limit());
                let own = TraceRequest { body_stream, body, new_tokens, ..TraceRequest::default() };
                TraceRequest { arrival, class, tenant, prefix_stream, prefix, ..own }
            }
            _ => {
                self.fresh = None;
                self.opening(fresh)
            }
        };
        self.plan_turn(&request);
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(arrivals: Arrivals) -> Workload {
        Workload { requests: 20_000, arrivals, classes: vec![Class::default()], seed: 5 }
    }

    #[test]
    fn rates_are_as_asked_and_time_goes_on() {
        let bursty = Arrivals::Bursty { rate: 50.0, factor: 10.0, on: 1.0, off: 9.0 };
        let diurnal = Arrivals::Diurnal { rate: 50.0, depth: 0.8, period: 100.0 };
        let mut variances = Vec::new();
        for arrivals in [Arrivals::Poisson(50.0), bursty, diurnal] {
            let workload = workload(arrivals);
            workload.check().expect("sound");
            let times: Vec<f64> = workload.iter().map(|request| request.arrival.as_secs_f64()).collect();
            assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            let rate = times.len() as f64 / times[times.len() - 1];
            assert!((rate / 50.0 - 1.0).abs() < 0.15, "{arrivals:?}: {rate}");
            // The variance of counts by second, over their mean: 1 for a Poisson process.
            let mut counts = vec![0.0; times[times.len() - 1] as usize + 1];
            times.iter().for_each(|time| counts[*time as usize] += 1.0);
            let mean = counts.iter().sum::<f64>() / counts.len() as f64;
            let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / counts.len() as f64;
            variances.push(variance / mean);
        }
        assert!(variances[0] < 1.3 && variances[1] > 5.0 && variances[2] > 5.0, "{variances:?}");
    }

    #[test]
    fn turns_repeat_what_was_said() {
        let class = Class {
            turns: Some(Turns { mean: 3.0, think: 5.0 }),
            prefix: Some(Prefix { groups: 2, tokens: 10, skew: 1.0 }),
            ..Class::default()
        };
        let workload = Workload { classes: vec![class], requests: 3000, ..workload(Arrivals::Poisson(10.0)) };
        let all: Vec<TraceRequest> = workload.iter().collect();
        let first = all.iter().find(|one| all.iter().any(|two| later(one, two))).expect("a conversation goes on");
        let second = all.iter().find(|two| later(first, two)).expect("its next turn");
        let said: Vec<Token> =
            first.prompt().into_iter().chain((0..first.new_tokens).map(|at| first.output(at))).collect();
        assert_eq!(second.prompt()[..said.len()], said);
        assert!(second.prompt().len() > said.len());
        assert_eq!(first.prompt().len(), first.prompt_tokens() as usize);
        let conversations = all.iter().map(|request| request.body_stream).collect::<std::collections::BTreeSet<u64>>();
        let mean = all.len() as f64 / conversations.len() as f64;
        assert!((2.4..3.3).contains(&mean), "{mean}");
    }

    fn later(one: &TraceRequest, two: &TraceRequest) -> bool {
        one.body_stream == two.body_stream && two.body > one.body
    }

    #[test]
    fn lengths_stay_in_their_ranges() {
        let mut random = Random::new(1);
        for _ in 0..1000 {
            assert_eq!(Length::Fixed(3).draw(&mut random), 3);
            assert!((2..=5).contains(&Length::Uniform(2, 5).draw(&mut random)));
            assert!((1..=50).contains(&Length::LogNormal(20.0, 2.0, 50).draw(&mut random)));
            assert!((10..=500).contains(&Length::Pareto(10.0, 0.5, 500).draw(&mut random)));
        }
    }
}
