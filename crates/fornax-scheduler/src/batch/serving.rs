//! The loop around a batch's scheduler, which the engine and the simulator both run: events wait for the next step, the
//! scheduler decides, the client is told, and a plan is carried out. The plan's results come before all events that came
//! meanwhile. The loop has no clock and no thread, and computes nothing: an engine computes a plan on its device, and the
//! simulator lets the plan's time pass.

use std::collections::VecDeque;

use super::{BatchEvent, BatchScheduler, Finished, Output, Plan, PlanStatus, Preempted, Token};
use crate::kv::KvEvent;
use crate::{ModelId, PlanId, RequestId, SchedulerError, TenantId, Time};

/// Hears from a [`ServingLoop`] what the scheduler decided, in the order of these methods. Each method may look at the loop's
/// scheduler, and push events for the next step.
pub trait Client {
    /// An event was refused and changed nothing. `request` is the request that cannot go on without the event; none for
    /// [`BatchEvent::Cancel`] and for results, on which no single request depends.
    fn refused(&mut self, request: Option<RequestId>, error: SchedulerError, serving: &mut ServingLoop);

    /// A sequence ended.
    fn finished(&mut self, finished: Finished, serving: &mut ServingLoop);

    /// A sequence had to give up its blocks.
    fn preempted(&mut self, preempted: Preempted, serving: &mut ServingLoop) {
        let _ = (preempted, serving);
    }

    /// A block was cached or removed, if [`BatchConfig::kv_events`](super::BatchConfig::kv_events) asks for such events. For
    /// routers that follow which prefixes a replica has. [`Plan::kv_events`] alone would not do: steps with nothing to
    /// compute have events too, and [`ServingLoop::begin`] gives no plan then.
    fn kv_event(&mut self, model: ModelId, event: &KvEvent) {
        let _ = (model, event);
    }
}

/// What a plan gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanResults {
    /// [`Item::outputs`](super::Item::outputs) for each item, in the plan's order.
    pub outputs: Vec<Output>,
    /// The tokens put out, of all outputs one after another.
    pub tokens: Vec<Token>,
    /// Events that the results lead to, such as draft tokens, or forks and continuations of deferred sequences. They are
    /// taken in just after the results.
    pub then: Vec<BatchEvent>,
}

/// Runs a [`BatchScheduler`]: a driver pushes events as they come, begins a step, carries out its plan, and finishes it.
///
/// ```
/// use fornax_scheduler::{
///     BatchConfig, BatchEvent, BatchScheduler, Client, Finished, PlanResults, Request, RequestId, SchedulerError,
///     ServingLoop, Time, policy,
/// };
///
/// struct Log(Vec<String>);
///
/// impl Client for Log {
///     fn refused(&mut self, request: Option<RequestId>, error: SchedulerError, _: &mut ServingLoop) {
///         self.0.push(format!("{request:?} was refused: {error}"));
///     }
///
///     fn finished(&mut self, finished: Finished, _: &mut ServingLoop) {
///         self.0.push(format!("{} put out {} tokens", finished.sequence, finished.new_tokens));
///     }
/// }
///
/// let mut serving = ServingLoop::new(BatchScheduler::new(BatchConfig::default(), policy("fcfs")?)?);
/// let mut log = Log(Vec::new());
/// serving.push(BatchEvent::Submit(Request::new(1, vec![5, 6, 7], 2)));
/// while let Some(plan) = serving.begin(Time::ZERO, &mut log) {
///     // The engine computes what the plan says, and reports the token that it sampled.
///     let (outputs, tokens) = plan.plain_outputs(42);
///     serving.finish(plan, PlanResults { outputs, tokens, ..PlanResults::default() });
/// }
/// assert_eq!(log.0, ["1/0 put out 2 tokens"]);
/// # Ok::<(), SchedulerError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ServingLoop {
    scheduler: BatchScheduler,
    /// Results since the last step, and the events that they led to.
    results: Vec<BatchEvent>,
    /// The other events since the last step.
    events: Vec<BatchEvent>,
    /// For each event of the step, the request that cannot go on if the event is refused.
    owners: Vec<Option<RequestId>>,
    /// The plans that are being carried out, the oldest first.
    under_way: VecDeque<PlanId>,
    /// How many of the oldest of these failed with a plan before them, so that their results do not count.
    void: usize,
    status: PlanStatus,
    /// Plans whose buffers are used again.
    spare: Vec<Plan>,
}

impl ServingLoop {
    /// A loop around a scheduler that has no plan in flight.
    pub fn new(scheduler: BatchScheduler) -> Self {
        Self {
            scheduler,
            results: Vec::new(),
            events: Vec::new(),
            owners: Vec::new(),
            under_way: VecDeque::new(),
            void: 0,
            status: PlanStatus::Idle,
            spare: Vec::new(),
        }
    }

    /// Adds an event, which the next step takes in. A request says by [`Request::arrival`](super::Request::arrival) when it
    /// came, if that was before the step.
    pub fn push(&mut self, event: BatchEvent) {
        self.events.push(event);
    }

    /// Lets the scheduler take in the events and decide, and tells the client. Gives the plan to be carried out, which
    /// [`finish`](Self::finish) or [`fail`](Self::fail) then takes back; none if there is nothing to compute. While as many
    /// plans are being carried out as the scheduler [allows](super::BatchConfig::plans_in_flight), nothing is decided: the
    /// events go on waiting, and there is no plan.
    pub fn begin(&mut self, now: Time, client: &mut impl Client) -> Option<Plan> {
        if self.under_way.len() >= self.scheduler.config().plans_in_flight {
            return None;
        }
        let mut plan = self.spare.pop().unwrap_or_default();
        let mut owners = std::mem::take(&mut self.owners);
        owners.clear();
        owners.extend(self.results.iter().chain(&self.events).map(owner));
        self.scheduler.step_into(self.results.drain(..).chain(self.events.drain(..)), now, &mut plan);
        self.status = plan.status;
        for rejected in &plan.rejected {
            client.refused(owners[rejected.event], rejected.error.clone(), self);
        }
        for &finished in &plan.finished {
            client.finished(finished, self);
        }
        for &preempted in &plan.preempted {
            client.preempted(preempted, self);
        }
        for (model, event) in &plan.kv_events {
            client.kv_event(*model, event);
        }
        self.owners = owners;
        let Some(id) = plan.id else {
            self.spare.push(plan);
            return None;
        };
        self.under_way.push_back(id);
        Some(plan)
    }

    /// A plan was carried out. The results come before all events that were pushed since it began.
    ///
    /// # Panics
    /// If it is not the oldest plan that is being carried out.
    pub fn finish(&mut self, plan: Plan, results: PlanResults) {
        if let Some(id) = self.end(plan) {
            let PlanResults { outputs, tokens, then } = results;
            self.results.push(BatchEvent::Done { plan: id, outputs, tokens });
            self.results.extend(then);
        }
    }

    /// A plan could not be carried out. The plan after it, if there is one, fails with it, and is still to be handed back:
    /// its results do not count.
    ///
    /// # Panics
    /// If it is not the oldest plan that is being carried out.
    pub fn fail(&mut self, plan: Plan) {
        if let Some(id) = self.end(plan) {
            self.results.push(BatchEvent::Failed { plan: id });
            self.void = self.under_way.len();
        }
    }

    /// Takes a plan back, and gives its id if its results count.
    fn end(&mut self, plan: Plan) -> Option<PlanId> {
        let id = self.under_way.pop_front();
        assert!(
            id.is_some() && id == plan.id,
            "plans are handed back once each, in the order in which they were begun"
        );
        self.spare.push(plan);
        if self.void > 0 {
            self.void -= 1;
            return None;
        }
        id
    }

    /// Whether events or results wait for the next step.
    pub fn has_events(&self) -> bool {
        !(self.results.is_empty() && self.events.is_empty())
    }

    /// Whether there are requests, and none of them can go on before another event is pushed.
    pub fn is_blocked(&self) -> bool {
        self.status == PlanStatus::Blocked && !self.has_events()
    }

    /// As [`BatchScheduler::declare_tenant`], from the next step on.
    ///
    /// # Errors
    /// As there.
    pub fn declare_tenant(&mut self, tenant: TenantId, weight: f64) -> Result<(), SchedulerError> {
        self.scheduler.declare_tenant(tenant, weight)
    }

    /// As [`BatchScheduler::limit_prompts`], from the next step on.
    pub fn limit_prompts(&mut self, tokens: Option<usize>) {
        self.scheduler.limit_prompts(tokens);
    }

    /// The scheduler.
    pub fn scheduler(&self) -> &BatchScheduler {
        &self.scheduler
    }
}

/// The request that cannot go on if an event is refused.
fn owner(event: &BatchEvent) -> Option<RequestId> {
    match event {
        BatchEvent::Submit(request) => Some(request.id),
        BatchEvent::Ready(request) => Some(*request),
        BatchEvent::Stop(sequence)
        | BatchEvent::Continue { sequence, .. }
        | BatchEvent::Fork { from: sequence, .. }
        | BatchEvent::Drafts { sequence, .. }
        | BatchEvent::SwapLost(sequence) => Some(sequence.request),
        BatchEvent::Cancel(_) | BatchEvent::Done { .. } | BatchEvent::Failed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchConfig, EndReason, Preemption, Request, SequenceId, policy};

    /// What a client was told.
    #[derive(Debug, Default)]
    struct Told {
        refused: Vec<(Option<u64>, SchedulerError)>,
        finished: Vec<(u64, EndReason, u32)>,
        preempted: Vec<u64>,
        kv_events: usize,
        /// Requests that are cancelled when an event of them is refused.
        cancels: bool,
    }

    impl Client for Told {
        fn refused(&mut self, request: Option<RequestId>, error: SchedulerError, serving: &mut ServingLoop) {
            if let Some(request) = request.filter(|_| self.cancels) {
                serving.push(BatchEvent::Cancel(request));
            }
            self.refused.push((request.map(|request| request.0), error));
        }

        fn finished(&mut self, finished: Finished, serving: &mut ServingLoop) {
            assert!(serving.scheduler().blocks_of(finished.sequence).is_none());
            self.finished.push((finished.sequence.request.0, finished.reason, finished.new_tokens));
        }

        fn preempted(&mut self, preempted: Preempted, _: &mut ServingLoop) {
            self.preempted.push(preempted.sequence.request.0);
        }

        fn kv_event(&mut self, _: ModelId, _: &KvEvent) {
            self.kv_events += 1;
        }
    }

    fn serving(config: BatchConfig) -> ServingLoop {
        ServingLoop::new(BatchScheduler::new(config, policy("fcfs").expect("a policy")).expect("a sound configuration"))
    }

    fn submit(serving: &mut ServingLoop, id: u64, prompt: usize, new_tokens: u32) {
        serving.push(BatchEvent::Submit(Request::new(id, vec![id as u32; prompt], new_tokens)));
    }

    /// The requests and first positions that a plan computes.
    fn work(plan: &Plan) -> Vec<(u64, u32)> {
        plan.items.iter().map(|item| (item.sequence.request.0, item.start)).collect()
    }

    fn finish(serving: &mut ServingLoop, plan: Plan, then: Vec<BatchEvent>) {
        let (outputs, tokens) = plan.plain_outputs(9);
        serving.finish(plan, PlanResults { outputs, tokens, then });
    }

    #[test]
    fn results_and_what_they_lead_to_come_before_what_was_pushed_meanwhile() {
        let mut serving = serving(BatchConfig::default());
        let mut told = Told::default();
        submit(&mut serving, 1, 3, 8);
        let plan = serving.begin(Time::ZERO, &mut told).expect("a prompt");
        serving.push(BatchEvent::Cancel(RequestId(1)));
        submit(&mut serving, 2, 4, 1);
        // Were it cancelled first, its results would not count, and there could be no draft tokens for it.
        let then = vec![BatchEvent::Drafts { sequence: SequenceId::first(RequestId(1)), tokens: vec![9] }];
        finish(&mut serving, plan, then);
        let plan = serving.begin(Time::ZERO, &mut told).expect("another prompt");
        assert_eq!((work(&plan), &told.refused), (vec![(2, 0)], &Vec::new()));
        assert_eq!(told.finished, [(1, EndReason::Cancelled, 1)]);
        finish(&mut serving, plan, Vec::new());
        assert!(serving.has_events());
        assert_eq!(serving.begin(Time::ZERO, &mut told), None);
        assert_eq!(told.finished[1..], [(2, EndReason::Length, 1)]);
        assert!(!serving.has_events() && !serving.is_blocked() && serving.scheduler().is_empty());
    }

    #[test]
    fn nothing_is_begun_or_decided_while_a_plan_is_under_way() {
        let mut serving = serving(BatchConfig::default());
        let mut told = Told::default();
        submit(&mut serving, 1, 3, 2);
        let plan = serving.begin(Time::ZERO, &mut told).expect("a prompt");
        submit(&mut serving, 2, 4, 2);
        submit(&mut serving, 3, 0, 2);
        assert_eq!(serving.begin(Time::from_secs_f64(1.0), &mut told), None);
        assert!(told.refused.is_empty() && serving.scheduler().len() == 1 && serving.has_events());
        finish(&mut serving, plan, Vec::new());
        let plan = serving.begin(Time::from_secs_f64(2.0), &mut told).expect("more to do");
        assert_eq!((work(&plan), told.refused.len()), (vec![(1, 3), (2, 0)], 1));
    }

    #[test]
    fn a_failed_plan_is_begun_again() {
        let mut serving = serving(BatchConfig::default());
        let mut told = Told::default();
        submit(&mut serving, 1, 3, 2);
        let plan = serving.begin(Time::ZERO, &mut told).expect("a prompt");
        let first = work(&plan);
        submit(&mut serving, 2, 4, 2);
        serving.fail(plan);
        let plan = serving.begin(Time::ZERO, &mut told).expect("the same prompt and another");
        assert_eq!((first, work(&plan)), (vec![(1, 0)], vec![(1, 0), (2, 0)]));
        assert!(told.refused.is_empty() && told.finished.is_empty());
    }

    #[test]
    fn who_depends_on_a_refused_event_is_told_and_may_answer() {
        let mut serving = serving(BatchConfig::default());
        let mut told = Told { cancels: true, ..Told::default() };
        let sequence = SequenceId::first(RequestId(1));
        submit(&mut serving, 1, 3, 2);
        let plan = serving.begin(Time::ZERO, &mut told).expect("a prompt");
        submit(&mut serving, 2, 0, 2);
        serving.push(BatchEvent::Cancel(RequestId(3)));
        serving.push(BatchEvent::Ready(RequestId(4)));
        serving.push(BatchEvent::SwapLost(SequenceId::first(RequestId(5))));
        // It is not deferred.
        finish(&mut serving, plan, vec![BatchEvent::Continue { sequence, token: 7, ended: false }]);
        let plan = serving.begin(Time::ZERO, &mut told).expect("the second token");
        let owners: Vec<Option<u64>> = told.refused.iter().map(|(owner, _)| *owner).collect();
        assert_eq!(owners, [Some(1), Some(2), None, Some(4), Some(5)]);
        assert_eq!(told.refused[0].1, SchedulerError::NotDeferred { id: sequence });
        assert_eq!(told.refused[1].1, SchedulerError::EmptyPrompt { id: RequestId(2) });
        // What the client pushed comes after the results.
        finish(&mut serving, plan, Vec::new());
        assert_eq!(serving.begin(Time::ZERO, &mut told), None);
        assert_eq!(told.finished, [(1, EndReason::Length, 2)]);
        assert!(told.refused[5..].iter().all(|(owner, _)| owner.is_none()));
    }

    #[test]
    fn results_that_do_not_fit_their_plan_are_refused_and_belong_to_no_request() {
        let mut serving = serving(BatchConfig::default());
        let mut told = Told::default();
        submit(&mut serving, 1, 3, 2);
        let plan = serving.begin(Time::ZERO, &mut told).expect("a prompt");
        serving.finish(plan, PlanResults::default());
        assert_eq!(serving.begin(Time::ZERO, &mut told), None);
        assert!(matches!(told.refused[..], [(None, SchedulerError::WrongOutputs { .. })]), "{:?}", told.refused);
    }

    #[test]
    fn what_had_to_give_way_and_what_is_cached_is_told() {
        let mut config =
            BatchConfig { watermark: 0, preemption: Preemption::Recompute, kv_events: true, ..Default::default() };
        config.models[0].blocks = 5;
        let mut serving = serving(config);
        let mut told = Told::default();
        submit(&mut serving, 1, 30, 20);
        submit(&mut serving, 2, 30, 20);
        while let Some(plan) = serving.begin(Time::ZERO, &mut told) {
            finish(&mut serving, plan, Vec::new());
        }
        assert_eq!((&told.preempted[..], told.finished.len()), (&[2][..], 2));
        assert!(told.kv_events > 0);
    }

    #[test]
    fn requests_that_only_another_event_can_help_are_blocked() {
        let mut serving = serving(BatchConfig::default());
        let mut told = Told::default();
        serving.push(BatchEvent::Submit(Request { ready: false, ..Request::new(1, vec![5], 1) }));
        assert!(!serving.is_blocked());
        assert_eq!(serving.begin(Time::ZERO, &mut told), None);
        assert!(serving.is_blocked());
        serving.push(BatchEvent::Ready(RequestId(1)));
        assert!(!serving.is_blocked() && serving.begin(Time::ZERO, &mut told).is_some());
    }

    #[test]
    fn two_plans_are_under_way_where_two_are_allowed() {
        let mut serving = serving(BatchConfig { plans_in_flight: 2, ..BatchConfig::default() });
        let mut told = Told::default();
        submit(&mut serving, 1, 3, 4);
        let one = serving.begin(Time::ZERO, &mut told).expect("a prompt");
        let two = serving.begin(Time::ZERO, &mut told).expect("its second token");
        assert_eq!((work(&one), work(&two)), (vec![(1, 0)], vec![(1, 3)]));
        assert_eq!(serving.begin(Time::ZERO, &mut told), None);
        finish(&mut serving, one, Vec::new());
        let three = serving.begin(Time::ZERO, &mut told).expect("its third token");
        finish(&mut serving, two, Vec::new());
        finish(&mut serving, three, Vec::new());
        let four = serving.begin(Time::ZERO, &mut told).expect("its last token");
        assert_eq!(serving.begin(Time::ZERO, &mut told), None);
        finish(&mut serving, four, Vec::new());
        assert_eq!(serving.begin(Time::ZERO, &mut told), None);
        assert_eq!(told.finished, [(1, EndReason::Length, 4)]);
        assert!(told.refused.is_empty());
    }

    #[test]
    fn the_plan_after_a_failed_one_comes_to_nothing_too() {
        let mut serving = serving(BatchConfig { plans_in_flight: 2, ..BatchConfig::default() });
        let mut told = Told::default();
        submit(&mut serving, 1, 3, 4);
        let one = serving.begin(Time::ZERO, &mut told).expect("a prompt");
        let two = serving.begin(Time::ZERO, &mut told).expect("its second token");
        serving.fail(one);
        // The next plan may begin before the void one is handed back.
        let three = serving.begin(Time::ZERO, &mut told).expect("the prompt once more");
        finish(&mut serving, two, vec![BatchEvent::Stop(SequenceId::first(RequestId(1)))]);
        assert_eq!(work(&three), [(1, 0)]);
        finish(&mut serving, three, Vec::new());
        let four = serving.begin(Time::ZERO, &mut told).expect("its second token");
        assert_eq!(work(&four), [(1, 3)]);
        assert!(told.refused.is_empty() && told.finished.is_empty());
    }

    #[test]
    #[should_panic(expected = "in the order in which they were begun")]
    fn plans_are_handed_back_in_order() {
        let mut serving = serving(BatchConfig { plans_in_flight: 2, ..BatchConfig::default() });
        let mut told = Told::default();
        submit(&mut serving, 1, 3, 4);
        let one = serving.begin(Time::ZERO, &mut told).expect("a prompt");
        let two = serving.begin(Time::ZERO, &mut told).expect("its second token");
        finish(&mut serving, two, Vec::new());
        drop(one);
    }
}
