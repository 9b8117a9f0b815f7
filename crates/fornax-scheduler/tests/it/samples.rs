//! Outputs and events of an engine: samples that end, fail, are deferred, have draft tokens, or put out nothing.

use fornax_scheduler::kv::{KvEvent, block_hash};
use fornax_scheduler::{
    BatchConfig, BatchEvent, BatchScheduler, EndReason, Finished, ModelId, Output, Plan, PlanStatus, Request,
    RequestId, SchedulerError, SequenceId, Wait,
};

use super::batch::{config, done, drain, scheduler, step, submit, tokens};

fn id(request: u64, index: u32) -> SequenceId {
    SequenceId { request: RequestId(request), index }
}

/// Results with these outputs, whose tokens are all 9.
fn results(plan: &Plan, outputs: &[Output]) -> BatchEvent {
    let count: u32 = outputs.iter().map(|output| output.tokens).sum();
    let plan = plan.id.expect("there is a plan");
    BatchEvent::Done { plan, outputs: outputs.to_vec(), tokens: vec![9; count as usize] }
}

fn go_on(sequence: SequenceId, token: u32) -> BatchEvent {
    BatchEvent::Continue { sequence, token, ended: false }
}

fn held(scheduler: &BatchScheduler) -> usize {
    scheduler.memory(ModelId(0)).expect("a model").held()
}

#[test]
fn continuations_without_a_running_slot_begin_when_slots_come_free() {
    let three = Request { sequences: 3, ..Request::new(2, tokens(9, 100), 3) };
    for prefix_caching in [true, false] {
        let mut scheduler = scheduler(BatchConfig { max_running: 3, prefix_caching, ..config(64) });
        let plan = submit(&mut scheduler, [Request::new(1, tokens(6, 0), 50)]);
        let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Submit(three.clone())], 1.0);
        if !prefix_caching {
            // They could not find the prompt later, so that all begin together.
            assert_eq!(plan.waiting, [(id(2, 0), Wait::Slots { needed: 3, most: 3 })]);
            continue;
        }
        assert_eq!((plan.items[1].sequence, plan.items[1].samples, scheduler.running()), (id(2, 0), 2, 3));
        let plan = step(&mut scheduler, vec![done(&plan)], 2.0);
        assert_eq!(plan.items.iter().map(|item| item.sequence).collect::<Vec<_>>(), [id(1, 0), id(2, 0), id(2, 1)]);
        assert_eq!(plan.waiting, [(id(2, 2), Wait::Slots { needed: 1, most: 3 })]);
        let fork = |index| BatchEvent::Fork { from: id(2, 0), index, last: None };
        // Its index is taken, though it has not begun.
        let events = vec![done(&plan), fork(2), BatchEvent::Stop(id(1, 0))];
        let plan = step(&mut scheduler, events, 3.0);
        assert_eq!(plan.rejected[0].error, SchedulerError::DuplicateSequence { id: id(2, 2) });
        // Two of the prompt's three blocks are found.
        let last = plan.items.last().expect("it begins");
        assert_eq!((last.sequence, last.start, last.tokens, last.samples), (id(2, 2), 8, 1, 1));
        assert_eq!((scheduler.stats().lookups, scheduler.stats().found_again_blocks), (2, 2));
        let mut ended: Vec<(SequenceId, u32)> =
            drain(&mut scheduler, plan).into_iter().map(|(id, _, new_tokens)| (id, new_tokens)).collect();
        ended.sort_unstable();
        assert_eq!(ended, [(id(1, 0), 3), (id(2, 0), 3), (id(2, 1), 3), (id(2, 2), 3)]);
    }
    // Before its prompt is computed, a request is one sequence, and ends as one.
    let mut scheduler = scheduler(BatchConfig { max_running: 3, max_tokens: 4, ..config(64) });
    let plan = submit(&mut scheduler, [Request::new(1, tokens(3, 0), 50)]);
    let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Submit(three)], 1.0);
    let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Cancel(RequestId(2))], 2.0);
    assert_eq!((plan.finished.len(), scheduler.len(), scheduler.running()), (1, 1, 1));
}

#[test]
fn each_sample_ends_by_itself() {
    let mut scheduler = scheduler(config(64));
    let plan = submit(&mut scheduler, [Request { sequences: 4, ..Request::new(1, tokens(6, 0), 4) }]);
    let outputs = [Output::tokens(1), Output::ended(1), Output::FAILED, Output::NONE];
    let plan = step(&mut scheduler, vec![results(&plan, &outputs)], 1.0);
    let finished = |index, reason, new_tokens| Finished { sequence: id(1, index), reason, new_tokens };
    assert_eq!(plan.finished, [finished(1, EndReason::Stopped, 1), finished(2, EndReason::Failed, 0)]);
    assert_eq!(plan.items.iter().map(|item| item.sequence).collect::<Vec<_>>(), [id(1, 0)]);
    assert_eq!((scheduler.running(), scheduler.deferred()), (2, 1));
    // An end may come without a token.
    let plan = step(&mut scheduler, vec![results(&plan, &[Output { tokens: 0, ..Output::ended(0) }])], 2.0);
    assert_eq!((plan.finished[0], plan.status), (finished(0, EndReason::Stopped, 1), PlanStatus::Blocked));
    let plan = step(&mut scheduler, vec![BatchEvent::Continue { sequence: id(1, 3), token: 5, ended: true }], 3.0);
    assert_eq!((plan.finished[0], plan.status), (finished(3, EndReason::Stopped, 1), PlanStatus::Idle));
    assert_eq!(held(&scheduler), 0);
}

#[test]
fn an_item_without_samples_does_not_end_its_sequence() {
    let mut scheduler = scheduler(BatchConfig { max_tokens: 16, ..config(64) });
    let chunk = Request::new(2, tokens(12, 100), 4);
    let plan = submit(&mut scheduler, [Request::new(1, tokens(8, 0), 0), chunk]);
    assert_eq!(plan.items.iter().map(|item| item.samples).collect::<Vec<u32>>(), [0, 0]);
    let (goes_on, ends) = (Output::NONE, Output::ended(0));
    for outputs in [[ends, goes_on], [goes_on, ends], [ends, ends]] {
        let refused = step(&mut scheduler, vec![results(&plan, &outputs)], 1.0);
        let what = "the samples that end in an item without samples";
        let expected = SchedulerError::WrongOutputs { plan: 1, what, expected: 0, found: 1 };
        assert_eq!((&refused.rejected[0].error, refused.status), (&expected, PlanStatus::InFlight));
    }
    // Its results may still come, and an event may end the sequence.
    let events = vec![results(&plan, &[goes_on, goes_on]), BatchEvent::Stop(id(2, 0))];
    let plan = step(&mut scheduler, events, 2.0);
    let finished = |request, reason| Finished { sequence: id(request, 0), reason, new_tokens: 0 };
    assert_eq!(plan.finished, [finished(1, EndReason::Computed), finished(2, EndReason::Stopped)]);
}

#[test]
fn an_item_that_fails_ends_its_sequence_and_leaves_nothing_to_be_found() {
    let mut scheduler = scheduler(BatchConfig { max_tokens: 16, ..config(64) });
    let plan = submit(&mut scheduler, [Request::new(1, tokens(8, 0), 4), Request::new(2, tokens(12, 100), 4)]);
    assert_eq!(plan.items.iter().map(|item| item.samples).collect::<Vec<u32>>(), [1, 0]);
    let plan = step(&mut scheduler, vec![results(&plan, &[Output::tokens(1), Output::FAILED])], 1.0);
    assert_eq!(plan.finished, [Finished { sequence: id(2, 0), reason: EndReason::Failed, new_tokens: 0 }]);
    assert_eq!((plan.items.len(), plan.items[0].sequence), (1, id(1, 0)));
    let again = [Request::new(3, tokens(12, 100), 4), Request::new(4, tokens(8, 0), 4)].map(BatchEvent::Submit);
    let plan = step(&mut scheduler, [vec![done(&plan)], again.to_vec()].concat(), 2.0);
    assert_eq!(plan.items[1..].iter().map(|item| item.start).collect::<Vec<u32>>(), [0, 4]);
}

#[test]
fn a_deferred_sequence_keeps_its_blocks_and_waits() {
    let mut scheduler = scheduler(config(16));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(5, 0), 4)]);
    let plan = step(&mut scheduler, vec![results(&plan, &[Output::NONE])], 1.0);
    assert_eq!((plan.id, plan.status, scheduler.why(id(1, 0))), (None, PlanStatus::Blocked, Some(Wait::Deferred)));
    assert_eq!((held(&scheduler), scheduler.running(), scheduler.deferred()), (2, 1, 1));
    let drafts = BatchEvent::Drafts { sequence: id(1, 0), tokens: vec![1] };
    let plan = step(&mut scheduler, vec![drafts, go_on(id(1, 0), 7), go_on(id(1, 0), 8)], 2.0);
    assert_eq!(plan.rejected[0].error, SchedulerError::CannotDraft { id: id(1, 0) });
    assert_eq!(plan.rejected[1].error, SchedulerError::NotDeferred { id: id(1, 0) });
    assert_eq!((plan.items[0].start, plan.tokens_of(&plan.items[0])), (5, &[7][..]));
    assert_eq!(drain(&mut scheduler, plan), [(id(1, 0), EndReason::Length, 4)]);
}

#[test]
fn a_beam_search_drops_forks_and_goes_on_in_one_step() {
    let mut scheduler = scheduler(config(64));
    let plan = submit(&mut scheduler, [Request { sequences: 2, ..Request::new(1, tokens(6, 0), 3) }]);
    // Both beams begin with the same logits, and take the two best tokens.
    let first = vec![results(&plan, &[Output::NONE; 2]), go_on(id(1, 0), 50), go_on(id(1, 1), 51)];
    let plan = step(&mut scheduler, first, 1.0);
    assert_eq!((plan.items.len(), plan.copy.len()), (2, 1));
    // The better beam has both of the best continuations.
    let fork = |index, last| BatchEvent::Fork { from: id(1, 0), index, last };
    let second =
        vec![results(&plan, &[Output::NONE; 2]), BatchEvent::Stop(id(1, 1)), fork(2, Some(61)), go_on(id(1, 0), 60)];
    let plan = step(&mut scheduler, second, 2.0);
    assert!(plan.rejected.is_empty(), "{:?}", plan.rejected);
    let text = |item| (plan.tokens_of(item).to_vec(), item.start, item.len);
    let mut texts: Vec<(Vec<u32>, u32, u32)> = plan.items.iter().map(text).collect();
    texts.sort_unstable();
    assert_eq!((texts, plan.copy.len()), (vec![(vec![60], 7, 8), (vec![61], 7, 8)], 1));
    // A copy of a deferred sequence without a token is deferred too. A copy whose token is its last has ended.
    let third = vec![results(&plan, &[Output::NONE; 2]), BatchEvent::Stop(id(1, 2)), fork(3, None), fork(4, Some(70))];
    let plan = step(&mut scheduler, third, 3.0);
    let ended = [id(1, 2), id(1, 4)].map(|sequence| plan.finished.iter().find(|one| one.sequence == sequence));
    assert_eq!(ended.map(|one| one.map(|one| one.reason)), [Some(EndReason::Stopped), Some(EndReason::Length)]);
    assert_eq!((scheduler.deferred(), plan.status), (2, PlanStatus::Blocked));
    let plan = step(&mut scheduler, vec![BatchEvent::Cancel(RequestId(1))], 4.0);
    assert_eq!((plan.finished.len(), held(&scheduler)), (2, 0));
}

#[test]
fn a_deferred_sequence_that_was_preempted_is_sampled_again() {
    let mut scheduler = scheduler(config(6));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(8, 0), 12), Request::new(2, tokens(8, 50), 4)]);
    let mut plan = step(&mut scheduler, vec![results(&plan, &[Output::tokens(1), Output::NONE])], 1.0);
    while plan.preempted.is_empty() {
        plan = step(&mut scheduler, vec![done(&plan)], 2.0);
    }
    assert_eq!((plan.preempted[0].sequence, scheduler.deferred()), (id(2, 0), 0));
    let refused = step(&mut scheduler, vec![go_on(id(2, 0), 7)], 3.0);
    assert_eq!(refused.rejected[0].error, SchedulerError::NotDeferred { id: id(2, 0) });
    while plan.items.iter().all(|item| item.sequence != id(2, 0)) {
        plan = step(&mut scheduler, vec![done(&plan)], 3.0);
    }
    let item = plan.items.iter().find(|item| item.sequence == id(2, 0)).expect("it is computed again");
    assert_eq!((item.samples, item.start + item.tokens), (1, 8));
    let ended = drain(&mut scheduler, plan);
    assert!(ended.contains(&(id(2, 0), EndReason::Length, 4)));
}

#[test]
fn a_request_that_can_be_continued_keeps_its_blocks() {
    let mut scheduler = scheduler(config(5));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(12, 0), 4)]);
    let deferred = vec![results(&plan, &[Output::NONE]), BatchEvent::Submit(Request::new(2, tokens(12, 50), 1))];
    let plan = step(&mut scheduler, deferred, 1.0);
    assert_eq!((plan.status, plan.preempted.len()), (PlanStatus::Blocked, 0));
    assert_eq!(plan.waiting, [(id(2, 0), Wait::Blocks { needed: 3, free: 2 })]);
    let plan = step(&mut scheduler, vec![go_on(id(1, 0), 7)], 2.0);
    assert_eq!(drain(&mut scheduler, plan).len(), 2);
}

/// Two beam searches of two beams each, both of which lack one beam, do not wait for each other for ever.
#[test]
fn beam_searches_that_lack_a_beam_each_go_on_one_after_the_other() {
    let mut scheduler = scheduler(BatchConfig { prefix_caching: false, ..config(7) });
    let beams = |request, from| Request { sequences: 2, ..Request::new(request, tokens(4, from), 6) };
    let mut plan = submit(&mut scheduler, [beams(1, 0), beams(2, 50)]);
    let mut ended = Vec::new();
    for _ in 0..300 {
        ended.extend(plan.finished.iter().map(|one| (one.sequence, one.new_tokens)));
        let mut events = Vec::new();
        if plan.id.is_some() {
            let outputs: Vec<Output> =
                plan.items.iter().flat_map(|item| vec![Output::NONE; item.outputs() as usize]).collect();
            events.push(results(&plan, &outputs));
        }
        plan = step(&mut scheduler, events, 1.0);
        ended.extend(plan.finished.iter().map(|one| (one.sequence, one.new_tokens)));
        // A search goes on when all of its remaining beams have their logits.
        let mut events = Vec::new();
        for request in [1, 2] {
            let alive = |index: &u32| scheduler.blocks_of(id(request, *index)).is_some();
            let alive: Vec<u32> = (0..2).filter(alive).collect();
            if alive.iter().all(|&index| scheduler.why(id(request, index)) == Some(Wait::Deferred)) {
                events.extend(alive.iter().map(|&index| go_on(id(request, index), 10 + index)));
            }
        }
        if !events.is_empty() {
            let more = step(&mut scheduler, events, 1.0);
            assert!(more.rejected.is_empty(), "{:?}", more.rejected);
            ended.extend(more.finished.iter().map(|one| (one.sequence, one.new_tokens)));
            if more.id.is_some() {
                plan = more;
            }
        }
        if scheduler.is_empty() {
            break;
        }
    }
    ended.sort_unstable();
    ended.dedup();
    assert_eq!(ended, [(id(1, 0), 6), (id(1, 1), 6), (id(2, 0), 6), (id(2, 1), 6)]);
    assert!(scheduler.stats().preemptions > 0);
}

#[test]
fn draft_tokens_are_for_the_next_plan_alone_and_accepted_as_they_were_given() {
    let mut scheduler = scheduler(config(16));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(4, 0), 10)]);
    let drafts = BatchEvent::Drafts { sequence: id(1, 0), tokens: vec![21, 22] };
    let plan = step(&mut scheduler, vec![drafts.clone(), done(&plan), drafts.clone()], 1.0);
    assert_eq!(plan.rejected[0].error, SchedulerError::CannotDraft { id: id(1, 0) });
    assert_eq!((plan.items[0].rows(), plan.tokens_of(&plan.items[0])), (3, &[9, 21, 22][..]));
    let with = |tokens: Vec<u32>| {
        let outputs = vec![Output::tokens(tokens.len() as u32)];
        BatchEvent::Done { plan: plan.id.expect("a plan"), outputs, tokens }
    };
    let refused = step(&mut scheduler, vec![with(vec![23, 5])], 2.0);
    let SchedulerError::WrongOutputs { what, expected, found, .. } = refused.rejected[0].error else {
        panic!("{:?}", refused.rejected);
    };
    assert_eq!((what, expected, found), ("an accepted draft token", 21, 23));
    let plan = step(&mut scheduler, vec![with(vec![21, 5])], 3.0);
    assert_eq!((plan.items[0].start, plan.items[0].drafts, plan.tokens_of(&plan.items[0])), (6, 0, &[5][..]));
    assert_eq!((scheduler.stats().draft_tokens, scheduler.stats().accepted_tokens), (2, 1));
    assert_eq!(drain(&mut scheduler, plan), [(id(1, 0), EndReason::Length, 10)]);
}

#[test]
fn draft_tokens_take_nothing_from_others() {
    let mut scheduler = scheduler(BatchConfig { max_tokens: 8, ..config(16) });
    let plan = submit(&mut scheduler, [Request::new(1, tokens(4, 0), 10)]);
    let drafts = BatchEvent::Drafts { sequence: id(1, 0), tokens: vec![1; 9] };
    let other = BatchEvent::Submit(Request::new(2, tokens(5, 50), 4));
    let plan = step(&mut scheduler, vec![done(&plan), drafts, other], 1.0);
    assert_eq!(plan.items.iter().map(|item| (item.tokens, item.drafts)).collect::<Vec<_>>(), [(1, 2), (5, 0)]);
}

#[test]
fn a_request_that_puts_nothing_out_ends_with_its_prompt() {
    let mut scheduler = scheduler(BatchConfig { max_tokens: 8, ..config(16) });
    let scored = |id, reuse_prefix| Request { reuse_prefix, ..Request::new(id, tokens(12, 0), 0) };
    for (request, starts) in [(scored(1, true), vec![0, 8]), (scored(2, true), vec![8]), (scored(3, false), vec![0, 8])]
    {
        let sequence = SequenceId::first(request.id);
        let mut plan = submit(&mut scheduler, [request]);
        let mut seen = Vec::new();
        while plan.id.is_some() {
            assert_eq!((plan.items[0].samples, plan.items[0].outputs()), (0, 1));
            seen.push(plan.items[0].start);
            plan = step(&mut scheduler, vec![done(&plan)], 1.0);
        }
        assert_eq!(seen, starts, "{sequence}");
        assert_eq!(plan.finished, [Finished { sequence, reason: EndReason::Computed, new_tokens: 0 }]);
    }
    assert_eq!((scheduler.stats().lookups, scheduler.stats().hit_blocks, held(&scheduler)), (2, 2, 0));
}

#[test]
fn a_request_that_is_not_ready_delays_no_other() {
    let mut scheduler = scheduler(config(16));
    let waiting = Request { ready: false, ..Request::new(1, tokens(4, 0), 1) };
    let plan = submit(&mut scheduler, [waiting, Request::new(2, tokens(4, 50), 1)]);
    assert_eq!(plan.items.iter().map(|item| item.sequence).collect::<Vec<_>>(), [id(2, 0)]);
    assert_eq!((scheduler.why(id(1, 0)), scheduler.not_ready(), scheduler.waiting()), (Some(Wait::NotReady), 1, 0));
    let plan = step(&mut scheduler, vec![done(&plan)], 1.0);
    assert_eq!((plan.id, plan.status), (None, PlanStatus::Blocked));
    let plan = step(&mut scheduler, vec![BatchEvent::Ready(RequestId(1)), BatchEvent::Ready(RequestId(1))], 2.0);
    assert_eq!(plan.rejected[0].error, SchedulerError::AlreadyReady { id: RequestId(1) });
    assert_eq!((plan.items[0].sequence, scheduler.not_ready()), (id(1, 0), 0));
    // It is cancelled like any other request, and takes its place in the queue by its arrival.
    let late = Request { ready: false, ..Request::new(3, tokens(4, 0), 1) };
    submit(&mut scheduler, [late, Request { ready: false, ..Request::new(4, tokens(4, 80), 1) }]);
    let plan = step(&mut scheduler, vec![BatchEvent::Cancel(RequestId(3)), done(&plan)], 3.0);
    assert_eq!((plan.finished.len(), scheduler.not_ready()), (2, 1));
}

#[test]
fn stored_and_evicted_blocks_are_reported() {
    for kv_events in [false, true] {
        let mut scheduler = scheduler(BatchConfig { kv_events, ..config(3) });
        let plan = submit(&mut scheduler, [Request::new(1, tokens(9, 0), 1)]);
        let blocks = plan.blocks.clone();
        let plan = step(&mut scheduler, vec![done(&plan)], 1.0);
        if !kv_events {
            assert_eq!(plan.kv_events, []);
            continue;
        }
        let stored: Vec<(u64, u64)> = plan
            .kv_events
            .iter()
            .zip(&blocks)
            .zip(0..)
            .map(|((event, expected), at)| {
                let (ModelId(0), KvEvent::Stored { block, hash, parent, tokens: content }) = event else {
                    panic!("{event:?}");
                };
                assert_eq!((block, content), (expected, &tokens(4, 4 * at)));
                assert_eq!(*hash, block_hash(*parent, content));
                (*parent, *hash)
            })
            .collect();
        assert_eq!((stored.len(), stored[0].1), (2, stored[1].0));
        // Another prompt needs all three blocks.
        let plan = submit(&mut scheduler, [Request::new(2, tokens(9, 50), 1)]);
        let removed = |at: usize| (ModelId(0), KvEvent::Removed { block: blocks[at], hash: stored[at].1 });
        assert_eq!(plan.kv_events, [removed(1), removed(0)]);
    }
}

#[test]
fn what_a_preempted_sequence_finds_again_is_no_hit() {
    let mut scheduler = scheduler(config(6));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(8, 0), 12), Request::new(2, tokens(8, 50), 12)]);
    assert_eq!(drain(&mut scheduler, plan).len(), 2);
    let stats = scheduler.stats();
    assert!(stats.preemptions > 0 && stats.found_again_blocks > 0, "{stats:?}");
    assert_eq!((stats.lookups, stats.looked_up_blocks, stats.hit_blocks), (2, 4, 0));
}
