//! Two plans in flight: what is planned before results are in, and what happens when the results are not as expected.

use fornax_scheduler::{
    BatchConfig, BatchEvent, BatchScheduler, EndReason, ModelConfig, ModelId, Output, PENDING, Plan, PlanId,
    PlanStatus, Request, RequestId, SchedulerError, SequenceId, Wait, policy,
};

use super::batch::{config, done, scheduler, step, submit, tokens};

fn ahead(blocks: usize) -> BatchScheduler {
    scheduler(BatchConfig { plans_in_flight: 2, ..config(blocks) })
}

fn next(scheduler: &mut BatchScheduler) -> Plan {
    step(scheduler, Vec::new(), 0.0)
}

fn results(plan: &Plan, output: Output, token: u32) -> BatchEvent {
    let outputs = vec![output; plan.items.iter().map(|item| item.outputs() as usize).sum()];
    let tokens = vec![token; outputs.iter().map(|output| output.tokens as usize).sum()];
    BatchEvent::Done { plan: plan.id.expect("there is a plan"), outputs, tokens }
}

#[test]
fn a_token_that_is_not_known_yet_is_planned_as_pending() {
    let mut scheduler = ahead(16);
    let one = submit(&mut scheduler, [Request::new(1, tokens(3, 0), 3)]);
    let two = next(&mut scheduler);
    let item = two.items[0];
    assert_eq!((item.start, item.tokens, item.samples, item.len, item.prompt_len), (3, 1, 1, 4, 3));
    assert!(two.is_pending(&item) && !one.is_pending(&one.items[0]));
    assert_eq!((two.tokens_of(&item), two.blocks_of(&item)), (&[PENDING][..], one.blocks_of(&one.items[0])));
    let full = next(&mut scheduler);
    assert_eq!((full.id, full.status), (None, PlanStatus::InFlight));
    assert!(scheduler.in_flight().eq([PlanId(1), PlanId(2)]));
    let three = step(&mut scheduler, vec![done(&one)], 1.0);
    assert_eq!((three.items[0].start, three.is_pending(&three.items[0])), (4, true));
    assert_eq!(three.blocks_of(&three.items[0]).len(), 2);
    // The third token is the last, so that nothing is planned after it.
    let none = step(&mut scheduler, vec![done(&two)], 2.0);
    assert_eq!((none.id, none.status), (None, PlanStatus::InFlight));
    let end = step(&mut scheduler, vec![done(&three)], 3.0);
    assert_eq!((end.finished[0].reason, end.finished[0].new_tokens), (EndReason::Length, 3));
    assert_eq!((end.status, scheduler.stats().plans), (PlanStatus::Idle, 3));
}

#[test]
fn chunks_of_a_prompt_follow_each_other_without_results() {
    let mut scheduler = scheduler(BatchConfig { plans_in_flight: 2, max_tokens: 8, ..config(16) });
    let one = submit(&mut scheduler, [Request::new(1, tokens(20, 0), 2)]);
    let two = next(&mut scheduler);
    let three = step(&mut scheduler, vec![done(&one)], 1.0);
    let four = step(&mut scheduler, vec![done(&two)], 2.0);
    let shape = |plan: &Plan| (plan.items[0].start, plan.tokens_of(&plan.items[0]).to_vec(), plan.items[0].samples);
    assert_eq!([&one, &two].map(shape), [(0, tokens(8, 0), 0), (8, tokens(8, 8), 0)]);
    assert_eq!([&three, &four].map(shape), [(16, tokens(4, 16), 1), (20, vec![PENDING], 1)]);
}

#[test]
fn results_after_the_end_of_a_sequence_are_ignored() {
    for (output, reason, new) in [(Output::ended(1), EndReason::Stopped, 1), (Output::FAILED, EndReason::Failed, 0)] {
        let mut scheduler = ahead(16);
        let one = submit(&mut scheduler, [Request::new(1, tokens(3, 0), 9)]);
        let two = next(&mut scheduler);
        let ended = step(&mut scheduler, vec![results(&one, output, 5)], 1.0);
        assert_eq!((ended.finished[0].reason, ended.finished[0].new_tokens), (reason, new));
        assert_eq!((ended.status, scheduler.memory(ModelId(0)).expect("a model").held()), (PlanStatus::InFlight, 0));
        // Its id can be used again at once.
        let again = step(&mut scheduler, vec![BatchEvent::Submit(Request::new(1, tokens(3, 50), 9))], 2.0);
        assert_eq!((again.items[0].start, again.items[0].tokens), (0, 3));
        let plan = step(&mut scheduler, vec![done(&two)], 3.0);
        assert!(plan.rejected.is_empty() && plan.finished.is_empty());
        assert_eq!(scheduler.stats().output_tokens, u64::from(new));
    }
}

#[test]
fn results_after_a_deferred_sample_are_ignored() {
    let mut scheduler = ahead(16);
    let sequence = SequenceId::first(RequestId(1));
    let one = submit(&mut scheduler, [Request::new(1, tokens(4, 0), 9)]);
    let two = next(&mut scheduler);
    assert_eq!(two.blocks.len(), 2);
    let deferred = step(&mut scheduler, vec![results(&one, Output::NONE, 0)], 1.0);
    assert_eq!((deferred.id, scheduler.deferred(), scheduler.blocks_of(sequence).map(<[_]>::len)), (None, 1, Some(1)));
    let plan = step(&mut scheduler, vec![BatchEvent::Continue { sequence, token: 77, ended: false }], 2.0);
    assert_eq!((plan.items[0].start, plan.tokens_of(&plan.items[0])), (4, &[77][..]));
    let ignored = step(&mut scheduler, vec![done(&two)], 3.0);
    assert!(ignored.is_pending(&ignored.items[0]) && ignored.items[0].start == 5);
    assert_eq!(scheduler.stats().output_tokens, 1);
}

#[test]
fn results_come_in_the_order_of_the_plans() {
    let mut scheduler = ahead(16);
    submit(&mut scheduler, [Request::new(1, tokens(3, 0), 9)]);
    let two = next(&mut scheduler);
    let refused = step(&mut scheduler, vec![done(&two)], 1.0);
    assert_eq!(refused.rejected[0].error, SchedulerError::StalePlan { expected: Some(1), found: 2 });
}

#[test]
fn a_plan_that_fails_takes_the_next_one_with_it() {
    let mut scheduler = ahead(16);
    let one = submit(&mut scheduler, [Request::new(1, tokens(3, 0), 9)]);
    let two = next(&mut scheduler);
    let again = step(&mut scheduler, vec![BatchEvent::Failed { plan: PlanId(1) }, done(&two)], 1.0);
    assert_eq!(again.rejected[0].error, SchedulerError::StalePlan { expected: None, found: 2 });
    assert_eq!((&again.items, &again.tokens), (&one.items, &one.tokens));
    let four = next(&mut scheduler);
    assert!(four.is_pending(&four.items[0]) && scheduler.in_flight().eq([PlanId(3), PlanId(4)]));
}

#[test]
fn sequences_that_may_not_give_one_token_wait_for_their_results() {
    let mut scheduler = ahead(32);
    let waits = Request { plan_ahead: false, ..Request::new(1, tokens(3, 0), 9) };
    let several = Request { sequences: 2, ..Request::new(2, tokens(3, 10), 9) };
    let drafting = Request::new(3, tokens(3, 20), 9);
    let one = submit(&mut scheduler, [waits, several, drafting]);
    let of = |plan: &Plan| plan.items.iter().map(|item| item.sequence.request.0).collect::<Vec<u64>>();
    let two = next(&mut scheduler);
    assert_eq!((of(&one), of(&two)), (vec![1, 2, 3], vec![3]));
    let drafts = |id| BatchEvent::Drafts { sequence: SequenceId::first(RequestId(id)), tokens: vec![1, 2] };
    let three = step(&mut scheduler, vec![done(&one), drafts(1), drafts(3)], 1.0);
    // The third has a token in flight, so it is not known after which token its draft tokens would come.
    assert_eq!(three.rejected[0].error, SchedulerError::CannotDraft { id: SequenceId::first(RequestId(3)) });
    assert_eq!((of(&three), three.items[1].drafts), (vec![1, 3, 2, 2], 0));
    let drafted = three.items.iter().find(|item| item.sequence.request.0 == 1).expect("it is planned");
    assert_eq!(three.tokens_of(drafted), [9, 1, 2]);
    let four = step(&mut scheduler, vec![done(&two)], 2.0);
    assert!(!of(&four).contains(&1));
}

#[test]
fn no_sequence_in_flight_is_preempted() {
    let mut scheduler = scheduler(BatchConfig { plans_in_flight: 2, prefix_caching: false, ..config(6) });
    let requests = [Request::new(1, tokens(8, 0), 12), Request::new(2, tokens(8, 50), 12)];
    let mut flights = vec![submit(&mut scheduler, requests)];
    let (mut preempted, mut ended, mut overlapping) = (0, Vec::new(), 0);
    while !scheduler.is_empty() {
        let mut events = Vec::new();
        if flights.len() == 2 || scheduler.in_flight().count() == 2 || events.is_empty() {
            let plan = next(&mut scheduler);
            let made = plan.id.is_some();
            preempted += plan.preempted.len();
            assert!(plan.preempted.is_empty() || flights.is_empty());
            overlapping += usize::from(made && !flights.is_empty());
            if made {
                flights.push(plan);
                continue;
            }
        }
        events.push(done(&flights.remove(0)));
        let plan = step(&mut scheduler, events, 1.0);
        assert!(plan.preempted.is_empty() || flights.is_empty());
        preempted += plan.preempted.len();
        ended.extend(plan.finished.iter().map(|one| (one.sequence.request.0, one.new_tokens)));
        if plan.id.is_some() {
            flights.push(plan);
        }
    }
    assert!(preempted > 0 && overlapping > 0);
    assert_eq!(ended, [(1, 12), (2, 12)]);
}

#[test]
fn a_prompt_that_waits_until_all_results_are_in_says_so() {
    let model = |blocks| ModelConfig { blocks, block_size: 4, host_blocks: 0, adapters: 0 };
    let config = BatchConfig { models: vec![model(3), model(32)], max_tokens: 10, max_chunk: 4, ..config(3) };
    let policy = policy("priority").expect("a policy");
    let config = BatchConfig { plans_in_flight: 2, ..config };
    let mut scheduler = BatchScheduler::new(config, policy).expect("a sound configuration");
    let decoding = |id, from| Request { priority: 5, ..Request::new(id, tokens(2, from), 9) };
    let prompt = |id, priority| {
        let request = Request::new(id, tokens(12, 100 * id as u32), 1);
        BatchEvent::Submit(Request { priority, model: ModelId(1), ..request })
    };
    let one = submit(&mut scheduler, [decoding(1, 0), decoding(2, 50)]);
    let two = step(&mut scheduler, vec![prompt(3, 0), prompt(4, 0)], 1.0);
    // More urgent prompts take all tokens that the decoding sequences leave.
    let three = step(&mut scheduler, vec![done(&one), prompt(5, 9), prompt(6, 9)], 2.0);
    let requests = |plan: &Plan| plan.items.iter().map(|item| item.sequence.request.0).collect::<Vec<u64>>();
    assert_eq!([&two, &three].map(requests), [vec![1, 2, 3, 4], vec![1, 2, 5, 6]]);
    let why = |scheduler: &BatchScheduler, id| scheduler.why(SequenceId::first(RequestId(id)));
    // There is one block for two sequences, and the one to be preempted is in flight.
    let four = step(&mut scheduler, vec![done(&two), prompt(7, 10)], 3.0);
    assert_eq!(requests(&four), [1]);
    assert_eq!([3, 4, 7].map(|id| why(&scheduler, id)), [const { Some(Wait::Draining) }; 3]);
    step(&mut scheduler, vec![prompt(8, 11)], 4.0);
    assert_eq!(why(&scheduler, 8), Some(Wait::Draining));
    let none = step(&mut scheduler, vec![done(&three)], 5.0);
    assert_eq!((none.id, why(&scheduler, 3)), (None, Some(Wait::Draining)));
    let five = step(&mut scheduler, vec![done(&four)], 6.0);
    assert!(five.preempted.len() == 1 && why(&scheduler, 3) != Some(Wait::Draining));
}

#[test]
fn a_plan_is_plain_data() {
    fn plain<T: Clone + Send + Sync + PartialEq + 'static>(_: &T) {}
    let mut scheduler = ahead(16);
    let plan = submit(&mut scheduler, [Request::new(1, tokens(3, 0), 9)]);
    plain(&plan);
    plain(&done(&plan));
    let there = std::thread::spawn(move || plan.tokens_of(&plan.items[0]).to_vec());
    assert_eq!(there.join().expect("the thread ends"), tokens(3, 0));
}
