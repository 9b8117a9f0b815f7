//! Boundary cases: blocks, running slots and tokens just suffice, or just do not. The expectations are counted by hand.

use fornax_scheduler::{
    Admission, BatchConfig, BatchEvent, BatchScheduler, ModelConfig, Output, Plan, Preemption, Request, RequestId,
    SchedulerError, SequenceId, Wait, policy,
};

use super::batch::{config, done, drain, scheduler, step, submit, tokens};

/// What each item of a plan computes: the request, the first position, and how many tokens.
fn work(plan: &Plan) -> Vec<(u64, u32, u32)> {
    plan.items.iter().map(|item| (item.sequence.request.0, item.start, item.tokens)).collect()
}

/// A scheduler that serves the highest priority first.
fn by_priority(config: BatchConfig) -> BatchScheduler {
    BatchScheduler::new(config, policy("priority").expect("a policy")).expect("a sound configuration")
}

/// A request of `prompt` tokens that shares its beginning with no other request.
fn request(id: u64, prompt: u32, new: u32) -> Request {
    Request::new(id, tokens(prompt, 1000 * id as u32), new)
}

#[test]
fn a_request_may_fill_the_memory_to_its_last_token() {
    let mut scheduler = scheduler(config(8));
    let plan = submit(&mut scheduler, [request(1, 4, 28)]);
    assert_eq!(drain(&mut scheduler, plan)[0].2, 28);
    let plan = submit(&mut scheduler, [request(2, 4, 29)]);
    let never = SchedulerError::NeverFits { resource: "KV blocks".into(), needed: 9, capacity: 8 };
    assert_eq!(plan.rejected[0].error, never);
}

#[test]
fn a_sequence_has_fewer_than_two_to_the_thirty_second_tokens() {
    let mut config = config(4097);
    config.models[0].block_size = 1 << 20;
    let mut scheduler = scheduler(config);
    let (one, two) = (request(1, 1, u32::MAX - 1), request(2, 2, u32::MAX - 1));
    // The sum of prompt and output counts: here both are long, and far below it.
    let plan = submit(&mut scheduler, [one, two, request(3, 70_000, 70_000)]);
    let refused: Vec<&SchedulerError> = plan.rejected.iter().map(|one| &one.error).collect();
    let expected = SchedulerError::InvalidNumber {
        what: "the tokens of a sequence",
        found: (1u64 << 32).to_string(),
        expected: "fewer than 2^32",
    };
    assert_eq!((refused, scheduler.len()), (vec![&expected], 2));
}

#[test]
fn a_fork_takes_the_last_blocks_that_can_be_reserved_and_no_more() {
    let mut scheduler = scheduler(BatchConfig { admission: Admission::Reserved, ..config(6) });
    let plan = submit(&mut scheduler, [request(1, 6, 6)]);
    let fork = |index| BatchEvent::Fork { from: SequenceId::first(RequestId(1)), index, last: None };
    // Three blocks each.
    let plan = step(&mut scheduler, vec![done(&plan), fork(1), fork(2)], 1.0);
    assert_eq!(plan.rejected.len(), 1, "{:?}", plan.rejected);
    assert!(matches!(plan.rejected[0].error, SchedulerError::CannotFork { .. }) && plan.rejected[0].event == 2);
    assert_eq!(drain(&mut scheduler, plan).len(), 2);
}

#[test]
fn blocks_move_to_host_memory_that_has_just_room_for_them() {
    for (host_blocks, swapped) in [(3, true), (2, false)] {
        let mut config = BatchConfig { preemption: Preemption::Swap, prefix_caching: false, ..config(6) };
        config.models[0].host_blocks = host_blocks;
        let mut scheduler = scheduler(config);
        let mut plan = submit(&mut scheduler, [request(1, 8, 12), request(2, 8, 12)]);
        while plan.preempted.is_empty() {
            plan = step(&mut scheduler, vec![done(&plan)], 1.0);
        }
        // Twelve tokens were computed when each of the two wanted a fourth block.
        assert_eq!((plan.preempted[0].swapped, plan.swap_out.len()), (swapped, usize::from(swapped)));
        assert_eq!(scheduler.stats().lost_tokens, if swapped { 0 } else { 12 });
        assert_eq!(drain(&mut scheduler, plan).len(), 2);
    }
}

#[test]
fn a_sequence_that_is_swapped_in_needs_all_its_blocks() {
    let mut config = BatchConfig { preemption: Preemption::Swap, ..config(9) };
    config.models[0].host_blocks = 8;
    let mut scheduler = scheduler(config);
    // The second and the third share a prompt, and their outputs differ.
    let done = |plan: &Plan| {
        let outputs = vec![Output::tokens(1); plan.items.len()];
        let tokens = plan.items.iter().map(|item| item.sequence.request.0 as u32).collect();
        BatchEvent::Done { plan: plan.id.expect("there is a plan"), outputs, tokens }
    };
    let alike = |id| Request::new(id, tokens(8, 0), 12);
    let mut plan = submit(&mut scheduler, [request(1, 1, 10), alike(2), alike(3)]);
    while plan.preempted.is_empty() {
        plan = step(&mut scheduler, vec![done(&plan)], 1.0);
    }
    assert_eq!((plan.preempted[0].sequence.request, plan.swap_out[0].host.len()), (RequestId(3), 4));
    // With the end of the first, four blocks are free. The second holds two blocks of the third's prompt, but a
    // sequence that is swapped in shares nothing: it needs all its four blocks, and a fifth for its next token.
    let plan = step(&mut scheduler, vec![done(&plan)], 2.0);
    assert_eq!((plan.finished[0].sequence.request, plan.swap_in.len()), (RequestId(1), 0));
    assert_eq!(plan.waiting, [(SequenceId::first(RequestId(3)), Wait::Blocks { needed: 5, free: 4 })]);
    assert_eq!(drain(&mut scheduler, plan).len(), 3);
}

#[test]
fn a_preempted_sequences_token_goes_to_others_in_the_same_step() {
    let mut scheduler = by_priority(BatchConfig { max_tokens: 8, prefix_caching: false, ..config(5) });
    let with = |priority, request| Request { priority, ..request };
    let plan = submit(&mut scheduler, [with(0, request(1, 8, 8))]);
    let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Submit(with(2, request(2, 7, 8)))], 1.0);
    let plan = step(&mut scheduler, vec![done(&plan)], 2.0);
    assert_eq!(work(&plan), [(1, 9, 1), (2, 7, 1)]);
    // The second needs a block. The first, which had its turn in this step, gives up its token and its blocks. So seven
    // of eight tokens are left for the third.
    let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Submit(with(1, request(3, 8, 1)))], 3.0);
    assert_eq!(plan.preempted[0].sequence.request, RequestId(1));
    assert_eq!(work(&plan), [(2, 8, 1), (3, 0, 7)]);
    assert_eq!(drain(&mut scheduler, plan).len(), 3);
}

#[test]
fn the_urgent_may_take_the_running_slot_of_another() {
    let mut scheduler = by_priority(BatchConfig { preemptive: true, max_running: 1, ..config(16) });
    let plan = submit(&mut scheduler, [request(1, 4, 4)]);
    let urgent = Request { priority: 1, ..request(2, 4, 4) };
    let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Submit(urgent)], 1.0);
    assert_eq!((plan.preempted[0].sequence.request, work(&plan)), (RequestId(1), vec![(2, 0, 4)]));
    assert_eq!(drain(&mut scheduler, plan).len(), 2);
}

#[test]
fn a_refused_request_is_admitted_when_there_is_just_room() {
    let mut scheduler = scheduler(config(6));
    let plan = submit(&mut scheduler, [request(1, 8, 1), request(2, 7, 5), request(3, 16, 1)]);
    assert_eq!(work(&plan), [(1, 0, 8), (2, 0, 7)]);
    assert_eq!(plan.waiting[0].1, Wait::Blocks { needed: 4, free: 2 });
    // The first ends and frees two blocks more.
    let plan = step(&mut scheduler, vec![done(&plan)], 1.0);
    assert_eq!(work(&plan), [(2, 7, 1), (3, 0, 16)]);
    assert_eq!(drain(&mut scheduler, plan).len(), 3);
}

#[test]
fn a_refused_request_is_admitted_when_another_has_computed_its_prefix() {
    for preemptive in [false, true] {
        let mut scheduler = scheduler(BatchConfig { preemptive, ..config(6) });
        let plan = submit(&mut scheduler, [Request::new(1, tokens(12, 0), 3), Request::new(2, tokens(13, 0), 3)]);
        assert_eq!(plan.waiting[0].1, Wait::Blocks { needed: 4, free: 3 });
        // Two blocks are free. Three blocks of its prompt are cached, and it needs one more.
        let plan = step(&mut scheduler, vec![done(&plan)], 1.0);
        assert_eq!(work(&plan), [(1, 12, 1), (2, 12, 1)]);
        assert_eq!(drain(&mut scheduler, plan).len(), 2);
    }
}

#[test]
fn the_remaining_blocks_of_begun_prompts_are_set_aside_besides_the_watermark() {
    // Three blocks of the first prompt's four are set aside, and two for the watermark.
    let submitted = |blocks| {
        let mut scheduler = scheduler(BatchConfig { max_chunk: 4, watermark: 2, ..config(blocks) });
        submit(&mut scheduler, [request(1, 16, 1), request(2, 8, 1)])
    };
    assert_eq!(work(&submitted(8)), [(1, 0, 4), (2, 0, 4)]);
    let plan = submitted(7);
    assert_eq!(work(&plan), [(1, 0, 4)]);
    assert_eq!(plan.waiting[0].1, Wait::Blocks { needed: 2, free: 1 });
}

#[test]
fn draft_tokens_take_no_blocks_that_are_set_aside() {
    for (blocks, drafts_computed) in [(6, 3), (7, 7)] {
        let mut scheduler = scheduler(BatchConfig { max_chunk: 4, watermark: 1, ..config(blocks) });
        let plan = submit(&mut scheduler, [request(1, 4, 20)]);
        let drafts = BatchEvent::Drafts { sequence: SequenceId::first(RequestId(1)), tokens: vec![5; 9] };
        let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Submit(request(2, 12, 1)), drafts], 1.0);
        // Three blocks are held and two promised, and one is the watermark. Draft tokens fill the block of the token
        // before them, and another block if one is spare.
        assert_eq!(work(&plan), [(1, 4, 1), (2, 0, 4)]);
        assert_eq!(plan.items[0].drafts, drafts_computed, "{blocks}");
    }
}

#[test]
fn at_most_sixteen_requests_that_do_not_fit_are_passed_over_in_a_step() {
    for (large, served) in [(16, 2), (17, 1)] {
        let mut scheduler = scheduler(BatchConfig { lookahead: 100, ..config(10) });
        let requests = [request(1, 20, 1)].into_iter().chain((0..large).map(|id| request(10 + id, 24, 1)));
        let plan = submit(&mut scheduler, requests.chain([request(2, 3, 1)]));
        assert_eq!((plan.items.len(), plan.waiting.len()), (served, large as usize));
    }
}

#[test]
fn what_a_request_may_put_out_has_to_fit() {
    let with = |max_new_tokens| {
        let mut scheduler = scheduler(BatchConfig { max_tokens: 64, ..config(1024) });
        submit(&mut scheduler, [Request::new(1, tokens(10, 0), max_new_tokens)])
    };
    assert_eq!(with(4096 - 10).items.len(), 1);
    let needed = (10 + 32_768u64).div_ceil(4);
    let never = SchedulerError::NeverFits { resource: "KV blocks".into(), needed, capacity: 1024 };
    assert_eq!(with(32_768).rejected[0].error, never);
}

#[test]
fn a_step_without_remaining_tokens_admits_no_request() {
    let mut scheduler = scheduler(BatchConfig { max_tokens: 8, ..config(16) });
    let plan = submit(&mut scheduler, [request(1, 8, 1), request(2, 8, 1)]);
    assert_eq!((work(&plan), scheduler.running()), (vec![(1, 0, 8)], 1));
    assert_eq!(drain(&mut scheduler, plan).len(), 2);
}

#[test]
fn a_long_prompt_that_failed_waits_for_a_step_without_other_prompts() {
    let mut scheduler = by_priority(BatchConfig { chunked: false, ..config(32) });
    let plan = submit(&mut scheduler, [request(1, 40, 1)]);
    let failed = BatchEvent::Failed { plan: plan.id.expect("a plan") };
    let urgent = Request { priority: 1, ..request(2, 4, 2) };
    let plan = step(&mut scheduler, vec![failed, BatchEvent::Submit(urgent)], 1.0);
    assert_eq!(work(&plan), [(2, 0, 4)]);
    assert_eq!(plan.waiting, [(SequenceId::first(RequestId(1)), Wait::Tokens { needed: 40, left: 28 })]);
    let plan = step(&mut scheduler, vec![done(&plan)], 2.0);
    assert_eq!(work(&plan), [(2, 4, 1), (1, 0, 40)]);
    assert_eq!(drain(&mut scheduler, plan).len(), 2);
}

#[test]
fn a_failed_prompt_is_computed_whole_where_decoding_sequences_have_taken_its_tokens() {
    let mut scheduler = scheduler(BatchConfig { chunked: false, ..config(32) });
    let plan = submit(&mut scheduler, [request(1, 4, 3)]);
    let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Submit(request(2, 31, 1))], 1.0);
    assert_eq!(work(&plan), [(1, 4, 1), (2, 0, 31)]);
    let failed = BatchEvent::Failed { plan: plan.id.expect("a plan") };
    let fork = BatchEvent::Fork { from: SequenceId::first(RequestId(1)), index: 1, last: None };
    let plan = step(&mut scheduler, vec![failed, fork], 2.0);
    assert_eq!(work(&plan), [(1, 4, 1), (1, 4, 1), (2, 0, 31)]);
    assert_eq!(drain(&mut scheduler, plan).len(), 3);
}

#[test]
fn a_prompt_goes_on_as_far_as_there_are_blocks() {
    // Four decoding sequences take a block each, out of the blocks for the prompt's second chunk.
    for (blocks, piece) in [(11, Some(4)), (10, None)] {
        let mut scheduler = scheduler(BatchConfig { max_chunk: 8, ..config(blocks) });
        let plan = submit(&mut scheduler, (1..5).map(|id| request(id, 3, 4)));
        let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Submit(request(5, 24, 1))], 1.0);
        assert_eq!(work(&plan).last(), Some(&(5, 0, 8)));
        let plan = step(&mut scheduler, vec![done(&plan)], 2.0);
        assert!(plan.preempted.is_empty());
        match piece {
            Some(tokens) => assert_eq!(work(&plan)[4..], [(5, 8, tokens)]),
            None => {
                assert_eq!(plan.items.len(), 4);
                assert_eq!(plan.waiting[0].1, Wait::Blocks { needed: 2, free: 0 });
            }
        }
        assert_eq!(drain(&mut scheduler, plan).len(), 5);
    }
}

#[test]
fn outputs_are_found_in_the_cache_to_their_last_full_block() {
    let mut scheduler = scheduler(config(16));
    // Of nine tokens the last is not computed, so that eight fill two blocks.
    let plan = submit(&mut scheduler, [Request::new(1, tokens(4, 0), 5)]);
    drain(&mut scheduler, plan);
    let plan = submit(&mut scheduler, [Request::new(2, [tokens(4, 0), vec![9; 5]].concat(), 1)]);
    assert_eq!(work(&plan), [(2, 8, 1)]);
}

#[test]
fn blocks_are_told_by_the_name_of_a_sequence() {
    let mut scheduler = scheduler(config(16));
    let plan = submit(&mut scheduler, [request(1, 9, 1), request(2, 3, 1)]);
    for (item, blocks) in plan.items.iter().zip([3, 1]) {
        let table = scheduler.blocks_of(item.sequence).expect("it is there");
        assert_eq!((table, table.len()), (plan.blocks_of(item), blocks));
    }
    assert_eq!(scheduler.blocks_of(SequenceId { request: RequestId(1), index: 1 }), None);
}

/// A sequence's tokens are its prompt and its output, whatever the block size and whichever sequence was preempted.
#[test]
fn no_token_is_lost_whatever_the_block_size() {
    for (block_size, prefix_caching) in
        [1, 5, 16, 17, 24, 64].into_iter().flat_map(|size| [(size, false), (size, true)])
    {
        let models = vec![ModelConfig { blocks: 300_usize.div_ceil(block_size), block_size, ..ModelConfig::default() }];
        let mut scheduler = scheduler(BatchConfig { models, prefix_caching, ..config(1) });
        let mut known: Vec<Vec<u32>> = (0..6).map(|id| tokens(5 + 7 * id, 1000 * id)).collect();
        let requests = (0..).zip(&known).map(|(id, prompt)| Request::new(id, prompt.clone(), 90));
        let (mut plan, mut preempted, mut last) = (submit(&mut scheduler, requests), 0, 100_000);
        while let Some(id) = plan.id {
            let (mut outputs, mut sampled) = (Vec::new(), Vec::new());
            for item in &plan.items {
                let all = &mut known[item.sequence.request.0 as usize];
                assert_eq!(plan.tokens_of(item), &all[item.start as usize..][..item.tokens as usize], "{block_size}");
                outputs.push(Output::tokens(item.samples));
                for _ in 0..item.samples {
                    last += 1;
                    sampled.push(last);
                    all.push(last);
                }
            }
            preempted += plan.preempted.len();
            plan = step(&mut scheduler, vec![BatchEvent::Done { plan: id, outputs, tokens: sampled }], 1.0);
        }
        assert!(preempted > 0, "{block_size}");
        assert_eq!(known.iter().map(Vec::len).collect::<Vec<usize>>(), [95, 102, 109, 116, 123, 130], "{block_size}");
    }
}

#[test]
fn results_that_do_not_match_the_plan_are_refused_and_change_nothing() {
    let mut scheduler = scheduler(config(32));
    let plan = submit(&mut scheduler, [request(1, 4, 9), request(2, 4, 9)]);
    let third = BatchEvent::Submit(request(3, 40, 9));
    let plan = step(&mut scheduler, vec![done(&plan), third], 1.0);
    assert_eq!(work(&plan), [(1, 4, 1), (2, 4, 1), (3, 0, 30)]);
    let id = plan.id.expect("there is a plan");
    for (counts, tokens, expected) in [
        (vec![1, 1], 2, ("the number of outputs", 3, 2)),
        (vec![1, 1, 0, 0], 2, ("the number of outputs", 3, 4)),
        (vec![2, 1, 0], 3, ("the tokens of a sample", 1, 2)),
        (vec![2, 0, 0], 2, ("the tokens of a sample", 1, 2)),
        (vec![1, 1, 1], 3, ("the tokens of a sample", 0, 1)),
        (vec![1, 1, 0], 3, ("the number of tokens", 2, 3)),
        (vec![1, 1, 0], 1, ("the number of tokens", 2, 1)),
    ] {
        let outputs = counts.into_iter().map(Output::tokens).collect();
        let wrong = BatchEvent::Done { plan: id, outputs, tokens: vec![7; tokens] };
        let refused = step(&mut scheduler, vec![wrong], 2.0);
        let SchedulerError::WrongOutputs { what, expected: wanted, found, .. } = refused.rejected[0].error else {
            panic!("{:?}", refused.rejected);
        };
        assert_eq!((what, wanted, found), expected);
        assert!(scheduler.in_flight().eq([id]));
    }
    let plan = step(&mut scheduler, vec![done(&plan)], 3.0);
    assert_eq!(work(&plan), [(1, 5, 1), (2, 5, 1), (3, 30, 10)]);
}
