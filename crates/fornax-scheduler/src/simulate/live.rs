//! The requests of a simulation that have not ended: how many tokens they will put out and have put out, and the recording
//! of both. It decides nothing, and knows neither replicas nor the router.

use std::collections::VecDeque;

use super::report::{Ending, Recorder};
use super::{Class, FleetConfig, TraceRequest};
use crate::{
    BatchEvent, Client, EndReason, Finished, Item, Output, Plan, PlanResults, Random, RequestId, SchedulerError,
    SequenceId, ServingLoop, Time,
};

/// A request that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Live {
    request: TraceRequest,
    pub(super) replica: u32,
    /// How many tokens each of its sequences puts out in the end: the truth.
    output: u32,
    first_sequence: Progress,
    /// The other sequences, as far as they have come.
    others: Vec<Progress>,
    /// Tokens of it that count as pending.
    pending: u64,
    /// Whether any of it was computed.
    begun: bool,
    /// Whether it was cancelled and recorded as cancelled. Its replica hears of that when the step under way ends.
    cancelled: bool,
    /// What its computing time is reckoned at, in seconds.
    cost: f64,
    /// When its first token came.
    first: Time,
    /// How its sequences ended so far, the worst.
    ending: Ending,
}

/// How far a sequence is: tokens put out, and when the last of them came.
#[derive(Clone, Copy, Debug)]
struct Progress {
    emitted: u32,
    last: Time,
}

impl Live {
    /// A request that came just now and is sent to `replica`.
    pub(super) fn new(request: TraceRequest, replica: u32, output: u32, pending: u64, cost: f64) -> Self {
        let now = request.arrival;
        Self {
            request,
            replica,
            output,
            first_sequence: Progress { emitted: 0, last: now },
            others: Vec::new(),
            pending,
            begun: false,
            cancelled: false,
            cost,
            first: now,
            ending: Ending::Served,
        }
    }

    fn sequence(&mut self, index: u32) -> &mut Progress {
        match index.checked_sub(1) {
            None => &mut self.first_sequence,
            Some(other) => {
                let other = other as usize;
                if self.others.len() <= other {
                    self.others.resize(other + 1, Progress { emitted: 0, last: self.first });
                }
                &mut self.others[other]
            }
        }
    }

    /// The tokens of the sequence that put out most.
    fn emitted(&self) -> u32 {
        self.others.iter().map(|one| one.emitted).fold(self.first_sequence.emitted, u32::max)
    }
}

/// Requests by their numbers, which are their ids. Those at the front that have ended are dropped.
#[derive(Debug, Default)]
struct Window {
    requests: VecDeque<Option<Live>>,
    /// How many requests are dropped.
    dropped: u64,
}

impl Window {
    fn next(&self) -> u64 {
        self.dropped + self.requests.len() as u64
    }

    fn get_mut(&mut self, id: RequestId) -> Option<&mut Live> {
        let at = id.0.checked_sub(self.dropped)? as usize;
        self.requests.get_mut(at)?.as_mut()
    }

    fn remove(&mut self, id: RequestId) -> Option<Live> {
        let at = id.0.checked_sub(self.dropped)? as usize;
        let live = self.requests.get_mut(at)?.take();
        while let Some(None) = self.requests.front() {
            self.requests.pop_front();
            self.dropped += 1;
        }
        live
    }
}

/// The requests that have not ended.
#[derive(Debug)]
pub(super) struct LiveRequests {
    classes: Vec<Class>,
    random: Random,
    /// The standard deviation of predictions, as [`FleetConfig::prediction`] says.
    prediction: Option<f64>,
    /// No more draft tokens than this could be computed in a step.
    most_drafts: u32,
    live: Window,
    /// Of each class: the sum and number of the outputs of its requests that have ended.
    lengths: Vec<(f64, f64)>,
    pub(super) recorder: Recorder,
}

impl LiveRequests {
    pub(super) fn new(config: &FleetConfig, classes: &[Class]) -> Self {
        Self {
            classes: classes.to_vec(),
            random: Random::new(config.seed).fork(7),
            prediction: config.prediction,
            most_drafts: config.batch.max_tokens as u32,
            live: Window::default(),
            lengths: vec![(0.0, 0.0); classes.len()],
            recorder: Recorder::new(config, classes),
        }
    }

    /// How many have come, which is the number of the next.
    pub(super) fn come(&self) -> u64 {
        self.live.next()
    }

    pub(super) fn class(&self, request: &TraceRequest) -> &Class {
        &self.classes[usize::from(request.class)]
    }

    /// What a request that will put out `output` tokens is predicted to put out when it comes.
    pub(super) fn predict(&mut self, request: &TraceRequest, output: u32) -> u32 {
        let (sum, count) = self.lengths[usize::from(request.class)];
        let predicted = match self.prediction {
            Some(sigma) => self.random.log_normal(f64::from(output), sigma),
            None => (sum + 100.0) / (count + 1.0),
        };
        (predicted as u32).max(1)
    }

    /// Takes in the next request.
    pub(super) fn add(&mut self, live: Live) {
        self.recorder.arrived(&live.request);
        self.live.requests.push_back(Some(live));
    }

    /// Nobody wants a request any more. Gives the replica that is to be told, unless the request has ended.
    pub(super) fn cancel(&mut self, id: RequestId, now: Time) -> Option<u32> {
        let live = self.live.get_mut(id)?;
        live.cancelled = true;
        self.recorder.ended(&live.request, Ending::Cancelled, live.emitted(), live.first, now);
        Some(live.replica)
    }

    /// What a plan gives that was carried out from `began` to `now`, and how many pending tokens are done with it.
    pub(super) fn compute(&mut self, plan: &Plan, began: Time, now: Time) -> (PlanResults, u64) {
        let mut results = PlanResults {
            outputs: Vec::with_capacity(plan.items.len()),
            tokens: Vec::with_capacity(plan.items.len()),
            then: Vec::new(),
        };
        let done = plan.items.iter().map(|item| self.compute_item(item, began, now, &mut results)).sum();
        (results, done)
    }

    fn compute_item(&mut self, item: &Item, began: Time, now: Time, results: &mut PlanResults) -> u64 {
        let live = self.live.get_mut(item.sequence.request);
        let live = live.expect("what ends does so between two steps of its replica");
        let class = &self.classes[usize::from(live.request.class)];
        let mut done = u64::from(item.tokens);
        if !std::mem::replace(&mut live.begun, true) {
            // What was cached is not to be computed.
            done += u64::from(item.start);
            let waited = began.secs_since(live.request.arrival);
            if !live.cancelled {
                self.recorder.begun(&live.request, 1.0 + waited / live.cost, item.start);
            }
        }
        let index = item.sequence.index;
        let first = live.emitted() == 0;
        let Progress { emitted: before, last } = *live.sequence(index);
        // No more than it has to say, whatever was drafted and might have been right.
        let left = live.output - before;
        let mut new = item.samples.min(1);
        while new > 0 && new < left && new <= item.drafts && self.random.chance(class.acceptance) {
            new += 1;
        }
        let ended = new > 0 && new == left;
        if new > 0 {
            for sequence in (index..).take(item.samples as usize) {
                *live.sequence(sequence) = Progress { emitted: before + new, last: now };
                results.tokens.extend((before..before + new).map(|at| live.request.output_of(sequence, at)));
            }
            let new = new * item.samples;
            if first {
                live.first = now;
            }
            if live.cancelled {
                // Nobody reads it.
            } else if first {
                self.recorder.emitted_first(&live.request, new, now);
            } else {
                // Of a sequence that had to wait for a running slot, the first token follows no other.
                let last = (before > 0).then_some(last);
                self.recorder.emitted(&live.request, new, last, now);
            }
            done += u64::from(new - 1);
        }
        let output = if ended { Output::ended(new) } else { Output::tokens(new) };
        results.outputs.extend((0..item.outputs()).map(|_| output));
        let drafting = if item.samples == 0 || ended { 0 } else { class.speculation.min(self.most_drafts) };
        for sequence in (index..).take(item.samples as usize).filter(|_| drafting > 0) {
            let tokens = (0..drafting).map(|at| live.request.output_of(sequence, before + new + at)).collect();
            let sequence = SequenceId { index: sequence, ..item.sequence };
            results.then.push(BatchEvent::Drafts { sequence, tokens });
        }
        let done = done.min(live.pending);
        live.pending -= done;
        done
    }
}

/// Hears what a replica's scheduler decides about the requests.
pub(super) struct ReplicaClient<'a> {
    pub(super) requests: &'a mut LiveRequests,
    /// The tokens that the replica has still to compute.
    pub(super) pending: &'a mut u64,
    pub(super) now: Time,
    /// Why an event other than a request was refused: a fault of the simulator's.
    pub(super) fault: Option<SchedulerError>,
}

impl Client for ReplicaClient<'_> {
    fn refused(&mut self, request: Option<RequestId>, error: SchedulerError, _: &mut ServingLoop) {
        // A cancelled request may have ended with the step that was under way.
        if request.is_none() && matches!(error, SchedulerError::UnknownRequest { .. }) {
            return;
        }
        let refused = request.filter(|&id| self.requests.live.get_mut(id).is_some_and(|live| !live.begun));
        let Some(live) = refused.and_then(|id| self.requests.live.remove(id)) else {
            self.fault = Some(error);
            return;
        };
        *self.pending -= live.pending;
        if !live.cancelled {
            self.requests.recorder.refused(&live.request);
        }
    }

    fn finished(&mut self, finished: Finished, serving: &mut ServingLoop) {
        let request = finished.sequence.request;
        let Some(live) = self.requests.live.get_mut(request) else { return };
        live.ending = live.ending.max(match finished.reason {
            EndReason::Late => Ending::Late,
            EndReason::Cancelled => Ending::Cancelled,
            EndReason::Stopped | EndReason::Length | EndReason::Computed => Ending::Served,
            EndReason::Failed => unreachable!("no result says that anything failed"),
        });
        let goes_on = |index| serving.scheduler().blocks_of(SequenceId { request, index }).is_some();
        if live.request.sequences > 1 && (0..live.request.sequences).any(goes_on) {
            return;
        }
        let live = self.requests.live.remove(request).expect("it was looked at");
        *self.pending -= live.pending;
        if live.cancelled {
            return;
        }
        if live.ending == Ending::Served {
            let (sum, count) = &mut self.requests.lengths[usize::from(live.request.class)];
            *sum += f64::from(live.output);
            *count += 1.0;
        }
        self.requests.recorder.ended(&live.request, live.ending, live.emitted(), live.first, self.now);
    }
}
