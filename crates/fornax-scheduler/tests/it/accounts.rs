//! The statistics of the batch scheduler, and the observations that it gives its policy, recorded by a plain policy.

use std::sync::{Arc, Mutex};

use fornax_scheduler::{
    BatchConfig, BatchEvent, BatchScheduler, Bound, Candidate, EndReason, ModelConfig, ModelId, Observation, Plan,
    Policy, Preemption, Request, RequestId, SequenceId, Time, policy,
};

use super::batch::{done, step};

/// First come, first served, with a record of its observations.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    told: Arc<Mutex<Vec<Observation>>>,
    /// Whether it declines the observations that come for every token and block.
    incurious: bool,
}

impl Notes {
    pub(super) fn all(&self) -> Vec<Observation> {
        self.told.lock().expect("nobody panics while writing").clone()
    }

    /// How much of a resource is held, by the sum of the observations.
    fn held(&self, of: usize) -> f64 {
        let share = |one: &Observation| match *one {
            Observation::Held { resource, share, .. } if resource == of => share,
            _ => 0.0,
        };
        self.all().iter().map(share).sum()
    }

    /// The tasks that began to wait, each as often as it began to.
    fn queued(&self) -> Vec<Candidate> {
        let task = |one| if let Observation::Queued { task, .. } = one { Some(task) } else { None };
        self.all().into_iter().filter_map(task).collect()
    }

    fn served(&self) -> f64 {
        let output = |one: &Observation| if let Observation::Served { output, .. } = *one { output } else { 0.0 };
        self.all().iter().map(output).sum()
    }
}

impl Policy for Notes {
    fn name(&self) -> &'static str {
        "notes"
    }

    fn rank(&self, task: &Candidate, _: Time) -> f64 {
        task.arrival.as_secs_f64()
    }

    fn bound(&self) -> Bound {
        Bound::Unbounded
    }

    fn observe(&mut self, observation: &Observation) {
        self.told.lock().expect("nobody panics while writing").push(*observation);
    }

    fn wants_service(&self) -> bool {
        !self.incurious
    }

    fn wants_holdings(&self) -> bool {
        !self.incurious
    }
}

fn config() -> BatchConfig {
    BatchConfig {
        models: vec![ModelConfig { blocks: 8, block_size: 4, host_blocks: 0, adapters: 1 }],
        max_running: 4,
        max_tokens: 32,
        watermark: 0,
        seconds_per_prompt_token: 1.0,
        seconds_per_output_token: 10.0,
        ..BatchConfig::default()
    }
}

fn with(config: BatchConfig) -> (BatchScheduler, Notes) {
    let notes = Notes::default();
    (BatchScheduler::new(config, Box::new(notes.clone())).expect("a sound configuration"), notes)
}

fn near(one: f64, two: f64) -> bool {
    (one - two).abs() < 1e-9
}

#[test]
fn waiting_counts_from_the_arrival_that_a_request_names() {
    let seconds = Time::from_secs_f64;
    let notes = Notes::default();
    let mut scheduler = BatchScheduler::new(config(), Box::new(notes.clone())).expect("a sound configuration");
    let came = |id: u64, at: f64| Request { arrival: Some(seconds(at)), ..Request::new(id, vec![id as u32; 4], 1) };
    // The third has no arrival and the fourth arrives in the future: the time of the step counts for both.
    let requests = [came(1, 3.0), came(2, 2.0), Request::new(3, vec![3; 4], 1), came(4, 9.0)];
    let plan = scheduler.step(requests.map(BatchEvent::Submit), seconds(5.0));
    let arrivals: Vec<Time> = notes.queued().iter().map(|task| task.arrival).collect();
    assert_eq!(arrivals, [3.0, 2.0, 5.0, 5.0].map(seconds));
    // The second came before the first, though it is told of later.
    let order: Vec<u64> = plan.items.iter().map(|item| item.sequence.request.0).collect();
    assert_eq!(order, [2, 1, 3, 4]);
    step(&mut scheduler, vec![done(&plan)], 6.0);
    let waited = |one| if let Observation::Ended { waited, .. } = one { Some(waited) } else { None };
    assert_eq!(notes.all().into_iter().filter_map(waited).collect::<Vec<f64>>(), [4.0, 3.0, 1.0, 1.0]);
}

#[test]
fn a_policy_hears_of_a_life_from_beginning_to_end() {
    let (mut scheduler, notes) = with(config());
    let mut plan = step(&mut scheduler, vec![BatchEvent::Submit(Request::new(1, (0..6).collect(), 4))], 1.0);
    for tick in 0..5 {
        let memory = scheduler.memory(ModelId(0)).expect("a model");
        assert!(near(notes.held(0), memory.held() as f64 / 8.0), "{tick}: {}", notes.held(0));
        assert!(near(notes.held(1), scheduler.running() as f64 / 4.0), "{tick}: {}", notes.held(1));
        assert!(near(notes.served(), f64::from(tick)), "{tick}: {}", notes.served());
        if plan.id.is_some() {
            plan = step(&mut scheduler, vec![done(&plan)], f64::from(tick) + 3.5);
        }
    }
    assert_eq!((notes.held(0), notes.held(1), notes.served()), (0.0, 0.0, 4.0));
    let all = notes.all();
    let admitted: Vec<f64> = all
        .iter()
        .filter_map(|one| if let Observation::Admitted { input, .. } = *one { Some(input) } else { None })
        .collect();
    assert_eq!(admitted, [6.0]);
    // It cost six seconds to read and forty to write, by estimate, and its first token came two and a half after it.
    let ended: Vec<(f64, f64)> = all
        .iter()
        .filter_map(|one| if let Observation::Ended { cost, waited, .. } = *one { Some((cost, waited)) } else { None })
        .collect();
    assert_eq!(ended, [(46.0, 2.5)]);
    let queued = all.iter().filter(|one| matches!(one, Observation::Queued { .. })).count();
    let unqueued = all.iter().filter(|one| matches!(one, Observation::Unqueued { .. })).count();
    assert_eq!((queued, unqueued), (1, 1));
}

#[test]
fn several_sequences_hold_a_running_slot_each() {
    let (mut scheduler, notes) = with(config());
    let request = Request { sequences: 3, ..Request::new(1, (0..6).collect(), 3) };
    let mut plan = step(&mut scheduler, vec![BatchEvent::Submit(request)], 1.0);
    for tick in 0..4 {
        assert!(near(notes.held(1), scheduler.running() as f64 / 4.0), "{tick}: {}", notes.held(1));
        if plan.id.is_some() {
            plan = step(&mut scheduler, vec![done(&plan)], f64::from(tick) + 2.0);
        }
    }
    assert!(scheduler.is_empty());
    assert!(near(notes.held(0), 0.0) && near(notes.held(1), 0.0) && near(notes.served(), 9.0), "{}", notes.served());
}

#[test]
fn counts_are_those_of_what_was_done() {
    let (mut scheduler, _) = with(config());
    assert_eq!((scheduler.config(), scheduler.policy().name()), (&config(), "notes"));
    for (id, found) in [(1, 0), (2, 1)] {
        let mut plan = step(&mut scheduler, vec![BatchEvent::Submit(Request::new(id, (0..7).collect(), 3))], 1.0);
        assert_eq!(plan.items[0].start, 4 * found);
        while plan.id.is_some() {
            plan = step(&mut scheduler, vec![done(&plan)], 2.0);
        }
    }
    let stats = scheduler.stats();
    assert_eq!((stats.plans, stats.prompt_tokens, stats.output_tokens), (6, 7 + 3, 6));
    assert_eq!((stats.lookups, stats.looked_up_blocks, stats.hit_blocks, stats.evicted_misses), (2, 2, 1, 0));
    assert_eq!((stats.preemptions, stats.swaps, stats.lost_tokens, stats.copies), (0, 0, 0, 0));
    assert_eq!((stats.draft_tokens, stats.accepted_tokens), (0, 0));
}

#[test]
fn what_is_lost_in_host_memory_is_counted_and_computed_again() {
    let mut config = BatchConfig { preemption: Preemption::Swap, prefix_caching: false, ..config() };
    config.models[0] = ModelConfig { blocks: 6, host_blocks: 8, ..config.models[0].clone() };
    let (mut scheduler, notes) = with(config);
    let requests = [1, 2].map(|id| BatchEvent::Submit(Request::new(id, (0..8).collect(), 12)));
    let mut plan = step(&mut scheduler, requests.to_vec(), 0.0);
    let mut ended = Vec::new();
    let mut swapped = None;
    while plan.id.is_some() {
        let mut events = vec![done(&plan)];
        if let (None, Some(one)) = (swapped, plan.preempted.first()) {
            assert!(one.swapped);
            swapped = Some(one.sequence);
            assert_eq!(scheduler.stats().lost_tokens, 0);
            events.push(BatchEvent::SwapLost(one.sequence));
        }
        let before = scheduler.stats().lost_tokens;
        plan = step(&mut scheduler, events, 1.0);
        assert!(plan.rejected.is_empty(), "{:?}", plan.rejected);
        if scheduler.stats().lost_tokens > before {
            // The prompt, and the output tokens that were computed before no block was left for the next one.
            assert_eq!(scheduler.stats().lost_tokens, 12);
        }
        ended.extend(plan.finished.iter().map(|one| (one.sequence.request.0, one.reason, one.new_tokens)));
    }
    assert_eq!(swapped, Some(SequenceId::first(RequestId(2))));
    assert_eq!(ended, [(1, EndReason::Length, 12), (2, EndReason::Length, 12)]);
    assert_eq!(scheduler.stats().lost_tokens, 12);
    assert!(near(notes.held(0), 0.0) && near(notes.held(1), 0.0));
}

#[test]
fn what_a_failed_plan_was_to_compute_is_lost() {
    let (mut scheduler, _) = with(BatchConfig { plans_in_flight: 2, ..config() });
    let one = step(&mut scheduler, vec![BatchEvent::Submit(Request::new(1, (0..7).collect(), 3))], 0.0);
    let two = step(&mut scheduler, Vec::new(), 0.5);
    assert_eq!((one.tokens.len(), two.tokens.len(), scheduler.stats().lost_tokens), (7, 1, 0));
    let failed = |plan: &Plan| BatchEvent::Failed { plan: plan.id.expect("there is a plan") };
    let again = step(&mut scheduler, vec![failed(&one)], 1.0);
    assert_eq!(scheduler.stats().lost_tokens, 7 + 1);
    // What the plan was to compute for a sequence that is gone is not computed again.
    step(&mut scheduler, vec![BatchEvent::Cancel(RequestId(1)), failed(&again)], 2.0);
    assert_eq!(scheduler.stats().lost_tokens, 7 + 1);
}

#[test]
fn what_a_failed_plan_was_to_swap_in_is_lost() {
    let mut config = BatchConfig { preemption: Preemption::Swap, prefix_caching: false, ..config() };
    config.models[0] = ModelConfig { blocks: 6, host_blocks: 8, ..config.models[0].clone() };
    let (mut scheduler, _) = with(config);
    let requests = [1, 2].map(|id| BatchEvent::Submit(Request::new(id, (0..8).collect(), 12)));
    let mut plan = step(&mut scheduler, requests.to_vec(), 0.0);
    while plan.swap_in.is_empty() {
        plan = step(&mut scheduler, vec![done(&plan)], 1.0);
    }
    assert_eq!((plan.items.len(), plan.items[0].start, plan.items[0].tokens), (1, 12, 1));
    let again = step(&mut scheduler, vec![BatchEvent::Failed { plan: plan.id.expect("there is a plan") }], 2.0);
    assert_eq!((again.items[0].start, again.items[0].tokens, scheduler.stats().lost_tokens), (0, 13, 12 + 1));
}

#[test]
fn no_more_draft_tokens_are_computed_than_there_are_tokens_left() {
    let (mut scheduler, _) = with(config());
    let request = Request::new(1, (0..4).collect(), 5);
    let plan = step(&mut scheduler, vec![BatchEvent::Submit(request)], 0.0);
    let drafts = || BatchEvent::Drafts { sequence: SequenceId::first(RequestId(1)), tokens: vec![7; 9] };
    // One of five is out with the prompt, and the last needs no draft.
    let plan = step(&mut scheduler, vec![done(&plan), drafts()], 1.0);
    assert_eq!((plan.items[0].tokens, plan.items[0].drafts), (1, 3));
    // No draft token was accepted, so that one token came out.
    let plan = step(&mut scheduler, vec![done(&plan), drafts()], 2.0);
    assert_eq!((plan.items[0].start, plan.items[0].drafts), (5, 2));
    assert_eq!((scheduler.stats().draft_tokens, scheduler.stats().accepted_tokens), (3, 0));
}

#[test]
fn a_request_is_late_after_its_deadline_and_not_at_it() {
    let (mut scheduler, _) = with(config());
    let deadline = Some(Time::from_secs_f64(2.0));
    let request = Request { deadline, ..Request::new(1, (0..4).collect(), 9) };
    let plan = step(&mut scheduler, vec![BatchEvent::Submit(request)], 1.0);
    let plan = step(&mut scheduler, vec![done(&plan)], 2.0);
    assert!(plan.finished.is_empty() && plan.items.len() == 1);
    // A step at a time that never comes does not make it late, nor any later one.
    let never = scheduler.step([done(&plan)], Time::NEVER);
    assert!(never.finished.is_empty() && never.items.len() == 1);
    let plan = step(&mut scheduler, vec![done(&never)], 2.000_001);
    assert_eq!(plan.finished[0].reason, EndReason::Late);
}

#[test]
fn costs_are_what_is_left_to_read_and_to_write() {
    let config = BatchConfig { max_running: 1, max_tokens: 64, ..config() };
    let config = BatchConfig { models: vec![ModelConfig { blocks: 64, ..config.models[0].clone() }], ..config };
    let policy = policy("shortest:ageing=0").expect("a policy");
    let mut scheduler = BatchScheduler::new(config, policy).expect("a sound configuration");
    let request = |id: u64, prompt: u32, predicted| Request {
        predicted_new_tokens: Some(predicted),
        ..Request::new(id, (0..prompt).map(|token| token + 100 * id as u32).collect(), 9)
    };
    let mut plan = step(&mut scheduler, vec![BatchEvent::Submit(request(0, 1, 1))], 0.0);
    // 5 + 60, 30 + 20, 40 + 10 and a token more, and 30 + 10 · 3.
    let requests = [request(1, 5, 6), request(2, 30, 2), request(3, 41, 1), request(4, 30, 3)];
    let mut events: Vec<BatchEvent> = requests.into_iter().map(BatchEvent::Submit).collect();
    let mut order = Vec::new();
    while plan.id.is_some() {
        events.push(done(&plan));
        plan = step(&mut scheduler, std::mem::take(&mut events), 1.0);
        order.extend(plan.items.iter().filter(|item| item.start == 0).map(|item| item.sequence.request.0));
    }
    assert_eq!(order, [2, 3, 4, 1]);
}

#[test]
fn choices_are_checked_to_their_limits() {
    let sound = |change: &dyn Fn(&mut BatchConfig)| {
        let mut config = config();
        change(&mut config);
        config.check().is_ok()
    };
    assert!(sound(&|config| (config.max_running, config.max_tokens) = (7, 7)));
    assert!(!sound(&|config| (config.max_running, config.max_tokens) = (7, 6)));
    assert!(sound(&|config| config.max_tokens = u32::MAX as usize / 2));
    assert!(!sound(&|config| config.max_tokens = u32::MAX as usize / 2 + 1));
    assert!(sound(&|config| config.watermark = 7) && !sound(&|config| config.watermark = 8));
    assert!(!sound(&|config| config.max_running = 0) && !sound(&|config| config.max_chunk = 0));
    assert!(sound(&|config| config.models = vec![config.models[0].clone(); 65_535]));
    assert!(!sound(&|config| config.models = vec![config.models[0].clone(); 65_536]));
    assert!(!sound(&|config| config.models.clear()));
    assert!(!sound(&|config| config.preemption = Preemption::Swap));
}

#[test]
fn waiting_and_running_sequences_are_counted() {
    let (mut scheduler, _) = with(BatchConfig { max_running: 2, ..config() });
    let requests = (0..5).map(|id| BatchEvent::Submit(Request::new(id, vec![1, 2], 2))).collect();
    let plan = step(&mut scheduler, requests, 0.0);
    assert_eq!((scheduler.waiting(), scheduler.running(), scheduler.len()), (3, 2, 5));
    step(&mut scheduler, vec![BatchEvent::Cancel(RequestId(4))], 0.5);
    assert_eq!((scheduler.waiting(), scheduler.running(), scheduler.len()), (2, 2, 4));
    step(&mut scheduler, vec![done(&plan)], 1.0);
    assert_eq!((scheduler.waiting(), scheduler.running(), scheduler.len()), (2, 2, 4));
}

#[test]
fn a_copy_is_late_together_with_its_original() {
    let (mut scheduler, _) = with(config());
    let request = Request { deadline: Some(Time::from_secs_f64(5.0)), ..Request::new(1, vec![1, 2, 3], 9) };
    let plan = step(&mut scheduler, vec![BatchEvent::Submit(request)], 0.0);
    let from = SequenceId::first(RequestId(1));
    let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Fork { from, index: 4, last: None }], 1.0);
    assert_eq!(plan.items.len(), 2);
    let plan = step(&mut scheduler, vec![done(&plan)], 6.0);
    let late: Vec<(u32, EndReason)> = plan.finished.iter().map(|one| (one.sequence.index, one.reason)).collect();
    assert_eq!(late, [(0, EndReason::Late), (4, EndReason::Late)]);
    assert!(scheduler.is_empty());
}

#[test]
fn only_a_swapped_out_sequence_can_lose_its_host_blocks() {
    let (mut scheduler, _) = with(config());
    let requests = [1, 2].map(|id| BatchEvent::Submit(Request::new(id, (0..28).collect(), 2)));
    step(&mut scheduler, requests.to_vec(), 0.0);
    // One runs and one waits, and neither has anything there.
    let lost = [1, 2].map(|id| BatchEvent::SwapLost(SequenceId::first(RequestId(id))));
    assert_eq!(step(&mut scheduler, lost.to_vec(), 0.5).rejected.len(), 2);
}

#[test]
fn a_policy_is_told_what_is_asked_for_and_what_is_still_ahead() {
    for (preemption, host_blocks, ahead) in [(Preemption::Recompute, 0, 96.0), (Preemption::Swap, 8, 72.0)] {
        let mut config = BatchConfig { preemption, prefix_caching: false, seconds_per_prompt_token: 2.0, ..config() };
        config.models[0] = ModelConfig { blocks: 6, host_blocks, ..config.models[0].clone() };
        let (mut scheduler, notes) = with(config);
        let requests = [1, 2].map(|id| BatchEvent::Submit(Request::new(id, (0..8).collect(), 12)));
        let mut plan = step(&mut scheduler, requests.to_vec(), 0.0);
        while plan.id.is_some() {
            plan = step(&mut scheduler, vec![done(&plan)], 1.0);
        }
        let queued: Vec<(u64, f64, f64)> =
            notes.queued().iter().map(|task| (task.number, task.demand, task.cost)).collect();
        // When the second is preempted, eight prompt tokens are computed and five tokens put out. Seven output tokens
        // remain, and all thirteen tokens are computed again, or only the last one where the others lie in host memory.
        assert_eq!(queued, [(0, 5.0 / 6.0, 136.0), (1, 5.0 / 6.0, 136.0), (1, 5.0 / 6.0, ahead)]);
        let ended = |one: &Observation| if let Observation::Ended { cost, .. } = *one { Some(cost) } else { None };
        assert_eq!(notes.all().iter().filter_map(ended).collect::<Vec<f64>>(), [136.0, 136.0]);
    }
}

#[test]
fn demand_is_the_part_of_the_memory_for_all_sequences_and_each_of_them_has_a_number() {
    let total = config().models[0].blocks as f64;
    let (mut scheduler, notes) = with(BatchConfig { max_running: 8, ..config() });
    let several = Request { sequences: 2, predicted_new_tokens: Some(3), ..Request::new(1, (0..6).collect(), 4) };
    let mut plan = step(&mut scheduler, vec![BatchEvent::Submit(several)], 0.0);
    let mut events = vec![BatchEvent::Submit(Request::new(2, (0..6).collect(), 4))];
    while plan.id.is_some() {
        events.insert(0, done(&plan));
        plan = step(&mut scheduler, std::mem::take(&mut events), 1.0);
    }
    // Nine tokens lie in three blocks, and both sequences share the first of them; the other's ten lie in three.
    assert_eq!(notes.queued().iter().map(|task| task.demand).collect::<Vec<f64>>(), [5.0 / total, 3.0 / total]);
    let number = |one: &Observation| if let Observation::Ended { task, .. } = one { Some(task.number) } else { None };
    let mut numbers: Vec<u64> = notes.all().iter().filter_map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2]);
}

#[test]
fn a_request_that_needs_all_blocks_demands_the_whole_machine_and_no_more() {
    for (prefix_caching, sequences) in [(true, 9), (false, 2)] {
        let mut config = BatchConfig { prefix_caching, max_running: 16, ..config() };
        config.models[0].blocks = 16;
        let (mut scheduler, notes) = with(config);
        // Prompts of seven blocks and outputs of one: nine sequences share the prompt's blocks, two have their own.
        let request = Request { sequences, ..Request::new(1, (0..28).collect(), 4) };
        step(&mut scheduler, vec![BatchEvent::Submit(request)], 0.0);
        assert_eq!(notes.queued().iter().map(|task| task.demand).collect::<Vec<f64>>(), [1.0], "{sequences}");
    }
}

#[test]
fn a_policy_is_not_told_of_tokens_and_blocks_unless_it_asks() {
    for incurious in [false, true] {
        let notes = Notes { incurious, ..Notes::default() };
        let mut scheduler = BatchScheduler::new(config(), Box::new(notes.clone())).expect("a sound configuration");
        let mut plan = step(&mut scheduler, vec![BatchEvent::Submit(Request::new(1, (0..6).collect(), 4))], 0.0);
        while plan.id.is_some() {
            plan = step(&mut scheduler, vec![done(&plan)], 1.0);
        }
        let all = notes.all();
        let changes = all.iter().filter(|one| matches!(one, Observation::Held { .. })).count();
        let served = all.iter().filter(|one| matches!(one, Observation::Served { .. })).count();
        assert_eq!((changes > 0, served > 0), (!incurious, !incurious));
        assert!(!all.iter().any(|one| matches!(one, Observation::Held { share: 0.0, .. })), "nothing changed hands");
    }
}
