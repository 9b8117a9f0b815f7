//! Batching from outside: forks, preemption, prefixes, draft tokens, adapters, deadlines and reasons.

use std::collections::BTreeSet;

use fornax_scheduler::kv::{KvMemory, Scope, block_hash};
use fornax_scheduler::{
    AdapterId, Admission, BatchConfig, BatchEvent, BatchScheduler, EndReason, ModelConfig, ModelId, Output, PENDING,
    Plan, PlanId, PlanStatus, Preemption, Request, RequestId, SchedulerError, SequenceId, TenantId, Time, Wait, policy,
};

/// Blocks of four tokens, and room for eight sequences and 32 tokens a step.
pub(super) fn config(blocks: usize) -> BatchConfig {
    BatchConfig {
        models: vec![ModelConfig { blocks, block_size: 4, host_blocks: 0, adapters: 1 }],
        max_running: 8,
        max_tokens: 32,
        watermark: 0,
        ..BatchConfig::default()
    }
}

pub(super) fn scheduler(config: BatchConfig) -> BatchScheduler {
    BatchScheduler::new(config, policy("fcfs").expect("a policy")).expect("a sound configuration")
}

pub(super) fn tokens(count: u32, from: u32) -> Vec<u32> {
    (from..from + count).collect()
}

pub(super) fn step(scheduler: &mut BatchScheduler, events: Vec<BatchEvent>, now: f64) -> Plan {
    let plan = scheduler.step(events, Time::from_secs_f64(now));
    scheduler.audit();
    plan
}

pub(super) fn submit(scheduler: &mut BatchScheduler, requests: impl IntoIterator<Item = Request>) -> Plan {
    step(scheduler, requests.into_iter().map(BatchEvent::Submit).collect(), 0.0)
}

pub(super) fn done(plan: &Plan) -> BatchEvent {
    let (outputs, tokens) = plan.plain_outputs(9);
    BatchEvent::Done { plan: plan.id.expect("there is a plan"), outputs, tokens }
}

/// Carries plans out until no plan has work, and returns the ended sequences.
pub(super) fn drain(scheduler: &mut BatchScheduler, mut plan: Plan) -> Vec<(SequenceId, EndReason, u32)> {
    let mut ended = Vec::new();
    for tick in 0..1000 {
        ended.extend(plan.finished.iter().map(|one| (one.sequence, one.reason, one.new_tokens)));
        if plan.id.is_none() {
            assert!(scheduler.is_empty() && scheduler.running() == 0);
            return ended;
        }
        plan = step(scheduler, vec![done(&plan)], f64::from(tick));
    }
    panic!("{} sequences do not end", scheduler.len());
}

#[test]
fn prompts_share_a_step_with_tokens_and_long_ones_are_cut() {
    let mut scheduler = scheduler(config(64));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(3, 0), 5)]);
    let events = vec![done(&plan), BatchEvent::Submit(Request::new(2, tokens(50, 100), 5))];
    let plan = step(&mut scheduler, events, 1.0);
    let shape: Vec<(u64, u32, u32, u32)> =
        plan.items.iter().map(|item| (item.sequence.request.0, item.start, item.tokens, item.samples)).collect();
    assert_eq!(shape, [(1, 3, 1, 1), (2, 0, 31, 0)]);
    let plan = step(&mut scheduler, vec![done(&plan)], 2.0);
    assert_eq!((plan.items[1].start, plan.items[1].tokens, plan.items[1].samples), (31, 19, 1));
    assert_eq!(plan.tokens_of(&plan.items[1]), tokens(19, 131));
    assert_eq!(plan.blocks_of(&plan.items[1]).len(), 13);
    assert_eq!(drain(&mut scheduler, plan).len(), 2);
}

#[test]
fn unchunked_prompts_go_whole_or_wait() {
    let mut scheduler = scheduler(BatchConfig { chunked: false, ..config(64) });
    let plan = submit(
        &mut scheduler,
        [(1, 20), (2, 20), (3, 40)].map(|(id, long)| Request::new(id, tokens(long, id as u32 * 100), 2)),
    );
    assert_eq!(plan.items.len(), 1);
    assert_eq!(plan.waiting[0].1, Wait::Tokens { needed: 20, left: 12 });
    let plan = step(&mut scheduler, vec![done(&plan)], 1.0);
    assert_eq!(plan.items.iter().map(|item| item.tokens).collect::<Vec<u32>>(), [1, 20]);
    // A prompt that exceeds every step is computed in a step without other prompts.
    let plan = step(&mut scheduler, vec![done(&plan)], 2.0);
    assert_eq!(plan.items.iter().map(|item| item.tokens).collect::<Vec<u32>>(), [1, 40]);
    assert_eq!(drain(&mut scheduler, plan).len(), 3);
}

#[test]
fn several_sequences_share_the_prompt_and_copy_the_last_block() {
    let mut scheduler = scheduler(config(64));
    let mut request = Request::new(1, tokens(6, 0), 4);
    request.sequences = 3;
    let plan = submit(&mut scheduler, [request]);
    assert_eq!((plan.items[0].samples, scheduler.running()), (3, 3));
    let outputs = vec![Output::tokens(1); 3];
    let events = vec![BatchEvent::Done { plan: PlanId(1), outputs, tokens: vec![7, 8, 9] }];
    let plan = step(&mut scheduler, events, 1.0);
    assert_eq!(plan.items.len(), 3);
    assert_eq!(plan.copy.len(), 2, "the last writer keeps the block");
    let lasts: Vec<u32> = plan.items.iter().map(|item| plan.tokens_of(item)[0]).collect();
    assert_eq!(lasts.iter().sum::<u32>(), 24);
    assert_eq!(scheduler.memory(ModelId(0)).expect("a model").held(), 4);
    let ended = drain(&mut scheduler, plan);
    assert_eq!(ended.len(), 3);
    assert!(ended.iter().all(|&(_, reason, new)| (reason, new) == (EndReason::Length, 4)));
}

#[test]
fn beams_fork_with_another_last_token_and_are_dropped() {
    let mut scheduler = scheduler(config(64));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(5, 0), 8)]);
    let from = SequenceId::first(RequestId(1));
    let fork = |index, last| BatchEvent::Fork { from, index, last };
    let refused = step(&mut scheduler, vec![fork(1, None)], 0.5);
    assert!(matches!(refused.rejected[0].error, SchedulerError::CannotFork { .. }));
    let plan = step(&mut scheduler, vec![done(&plan), fork(1, Some(77)), fork(1, None)], 1.0);
    assert!(matches!(plan.rejected[0].error, SchedulerError::DuplicateSequence { .. }));
    let lasts: Vec<u32> = plan.items.iter().map(|item| plan.tokens_of(item)[0]).collect();
    assert_eq!((lasts, plan.copy.len()), (vec![9, 77], 1));
    let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Stop(from)], 2.0);
    assert_eq!((plan.finished[0].sequence, plan.finished[0].reason), (from, EndReason::Stopped));
    assert_eq!(plan.items.len(), 1);
    let ended = drain(&mut scheduler, plan);
    assert_eq!(ended.last().expect("the copy ends").0.index, 1);
}

#[test]
fn a_fork_may_have_the_largest_index() {
    let mut scheduler = scheduler(config(64));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(5, 0), 3)]);
    let fork = BatchEvent::Fork { from: SequenceId::first(RequestId(1)), index: u32::MAX, last: Some(77) };
    let plan = step(&mut scheduler, vec![done(&plan), fork.clone(), fork], 1.0);
    assert_eq!(plan.rejected.len(), 1);
    assert!(matches!(plan.rejected[0].error, SchedulerError::DuplicateSequence { .. }) && plan.rejected[0].event == 2);
    assert_eq!(plan.items.len(), 2);
    assert_eq!(drain(&mut scheduler, plan).len(), 2);
}

#[test]
fn a_pending_token_is_none_that_a_client_may_give() {
    let mut scheduler = scheduler(config(64));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(5, 0), 8)]);
    let from = SequenceId::first(RequestId(1));
    let fork = BatchEvent::Fork { from, index: 1, last: Some(PENDING) };
    let drafts = BatchEvent::Drafts { sequence: from, tokens: vec![3, PENDING] };
    let proceed = BatchEvent::Continue { sequence: from, token: PENDING, ended: false };
    let plan = step(&mut scheduler, vec![done(&plan), fork, drafts, proceed], 1.0);
    assert_eq!(plan.rejected.len(), 3);
    for rejected in &plan.rejected {
        assert!(matches!(rejected.error, SchedulerError::InvalidNumber { .. }), "{}", rejected.error);
    }
    assert_eq!(plan.tokens, [9]);
}

#[test]
fn a_prefix_is_found_by_its_tenant_and_adapter_alone() {
    let mut scheduler = scheduler(config(64));
    scheduler.declare_tenant(TenantId(1), 1.0).expect("a good weight");
    let plan = submit(&mut scheduler, [Request::new(1, tokens(13, 0), 2)]);
    drain(&mut scheduler, plan);
    let mut start_of = |id: u64, change: &dyn Fn(&mut Request)| {
        let mut request = Request::new(id, tokens(13, 0), 1);
        change(&mut request);
        let plan = submit(&mut scheduler, [request]);
        let start = plan.items[0].start;
        drain(&mut scheduler, plan);
        start
    };
    assert_eq!(start_of(2, &|_| ()), 12);
    // The last token is always computed, so that a prompt of whole blocks is not found to its end.
    assert_eq!(start_of(3, &|request| request.prompt.truncate(12)), 8);
    assert_eq!(start_of(4, &|request| request.tenant = TenantId(1)), 0);
    assert_eq!(start_of(5, &|request| request.adapter = Some(AdapterId(1))), 0);
    assert_eq!(start_of(6, &|request| request.cache_group = Some(0)), 0);
    let shared = |request: &mut Request| (request.tenant, request.cache_group) = (TenantId(1), Some(0));
    assert_eq!(start_of(7, &shared), 12);
}

#[test]
fn without_room_the_last_gives_way_and_comes_back() {
    for (preemption, host_blocks) in [(Preemption::Recompute, 0), (Preemption::Swap, 8)] {
        let mut config = BatchConfig { preemption, prefix_caching: false, ..config(6) };
        config.models[0].host_blocks = host_blocks;
        let mut scheduler = scheduler(config);
        let mut plan = submit(&mut scheduler, [Request::new(1, tokens(8, 0), 12), Request::new(2, tokens(8, 50), 12)]);
        let (mut preempted, mut back) = (Vec::new(), 0);
        for tick in 0..100 {
            preempted.extend(plan.preempted.clone());
            back += plan.swap_in.len();
            if plan.id.is_none() {
                break;
            }
            plan = step(&mut scheduler, vec![done(&plan)], f64::from(tick));
        }
        assert!(scheduler.is_empty(), "{preemption:?}");
        assert!(!preempted.is_empty() && preempted.iter().all(|one| one.sequence.request == RequestId(2)));
        let swapped = preemption == Preemption::Swap;
        assert!(preempted.iter().all(|one| one.swapped == swapped) && (back > 0) == swapped);
        assert_eq!(scheduler.stats().lost_tokens > 0, !swapped);
    }
}

#[test]
fn reserved_admission_never_preempts() {
    let mut scheduler = scheduler(BatchConfig { admission: Admission::Reserved, ..config(6) });
    let plan = submit(&mut scheduler, [Request::new(1, tokens(8, 0), 8), Request::new(2, tokens(8, 50), 8)]);
    assert_eq!(plan.items.len(), 1);
    assert_eq!(plan.waiting[0].1.to_string(), "no free KV block: 4 needed, 2 free");
    assert_eq!(drain(&mut scheduler, plan).len(), 2);
    assert_eq!(scheduler.stats().preemptions, 0);
}

#[test]
fn the_urgent_may_take_the_room_of_the_others() {
    let config = BatchConfig { preemptive: true, ..config(6) };
    let mut scheduler = BatchScheduler::new(config, policy("priority").expect("a policy")).expect("sound");
    let plan = submit(&mut scheduler, [Request::new(1, tokens(16, 0), 4)]);
    let mut urgent = Request::new(2, tokens(12, 50), 4);
    urgent.priority = 1;
    let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Submit(urgent)], 1.0);
    assert_eq!(plan.preempted[0].sequence.request, RequestId(1));
    assert_eq!(plan.items.iter().map(|item| item.sequence.request.0).collect::<Vec<u64>>(), [2]);
    assert_eq!(drain(&mut scheduler, plan).len(), 2);
}

#[test]
fn draft_tokens_are_computed_out_of_what_is_spare_and_taken_back() {
    let mut scheduler = scheduler(config(16));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(4, 0), 10)]);
    let drafts = |count| BatchEvent::Drafts { sequence: SequenceId::first(RequestId(1)), tokens: vec![1; count] };
    let plan = step(&mut scheduler, vec![done(&plan), drafts(6)], 1.0);
    assert_eq!(plan.tokens_of(&plan.items[0]), [9, 1, 1, 1, 1, 1, 1]);
    assert_eq!((plan.items[0].tokens, plan.items[0].drafts), (1, 6));
    assert_eq!(plan.blocks_of(&plan.items[0]).len(), 3);
    let outputs = |count| vec![Output::tokens(count)];
    let wrong = BatchEvent::Done { plan: PlanId(2), outputs: outputs(8), tokens: vec![1; 8] };
    let plan_after = step(&mut scheduler, vec![wrong], 1.5);
    assert!(matches!(plan_after.rejected[0].error, SchedulerError::WrongOutputs { expected: 7, found: 8, .. }));
    let right = BatchEvent::Done { plan: PlanId(2), outputs: outputs(2), tokens: vec![1; 2] };
    let plan = step(&mut scheduler, vec![right, drafts(8)], 2.0);
    // Three of ten tokens are out; of the seven left, one needs no draft.
    assert_eq!((plan.items[0].start, plan.items[0].drafts), (6, 6));
    let last = BatchEvent::Done { plan: PlanId(3), outputs: outputs(7), tokens: vec![1; 7] };
    let plan = step(&mut scheduler, vec![last], 3.0);
    assert_eq!((plan.finished[0].new_tokens, plan.finished[0].reason), (10, EndReason::Length));
    assert_eq!(scheduler.stats().accepted_tokens, 7);
}

#[test]
fn what_ends_while_it_is_computed_ends_at_once() {
    let mut scheduler = scheduler(config(16));
    let mut late = Request::new(2, tokens(4, 20), 5);
    late.deadline = Some(Time::from_secs_f64(1.0));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(4, 0), 5), late]);
    let during = step(&mut scheduler, vec![BatchEvent::Cancel(RequestId(1))], 5.0);
    assert_eq!((during.id, during.status), (None, PlanStatus::InFlight));
    let reasons: Vec<EndReason> = during.finished.iter().map(|one| one.reason).collect();
    assert_eq!(reasons, [EndReason::Cancelled, EndReason::Late]);
    assert_eq!(scheduler.memory(ModelId(0)).expect("a model").held(), 0);
    // The plan's results are still to come; for ended sequences they are ignored.
    let after = step(&mut scheduler, vec![done(&plan)], 6.0);
    assert!(after.rejected.is_empty() && after.finished.is_empty() && after.status == PlanStatus::Idle);
}

#[test]
fn a_failed_plan_is_made_again() {
    let mut scheduler = scheduler(config(16));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(6, 0), 3)]);
    let again = step(&mut scheduler, vec![BatchEvent::Failed { plan: plan.id.expect("a plan") }], 1.0);
    assert_eq!((again.items.clone(), again.id), (plan.items, Some(PlanId(2))));
    let stale = step(&mut scheduler, vec![BatchEvent::Failed { plan: PlanId(1) }], 2.0);
    assert_eq!(stale.rejected[0].error, SchedulerError::StalePlan { expected: Some(2), found: 1 });
    assert_eq!(drain(&mut scheduler, again).len(), 1);
}

#[test]
fn several_models_and_adapters_share_a_step() {
    let mut config = config(16);
    config.models.push(ModelConfig { blocks: 8, block_size: 2, host_blocks: 0, adapters: 0 });
    let mut scheduler = scheduler(config);
    let request = |id, model, adapter: Option<u32>| Request {
        model: ModelId(model),
        adapter: adapter.map(AdapterId),
        ..Request::new(id, tokens(4, 0), 2)
    };
    let requests = [
        request(1, 0, Some(5)),
        request(2, 1, None),
        request(3, 0, Some(5)),
        request(4, 0, Some(6)),
        request(5, 1, Some(5)),
        request(6, 2, None),
    ];
    let plan = submit(&mut scheduler, requests);
    let served: Vec<(u64, u16)> = plan.items.iter().map(|item| (item.sequence.request.0, item.model.0)).collect();
    assert_eq!(served, [(1, 0), (3, 0), (2, 1)]);
    let batches: Vec<(u16, usize)> = plan.by_model().map(|(model, items)| (model.0, items.len())).collect();
    assert_eq!(batches, [(0, 2), (1, 1)]);
    assert_eq!(plan.waiting[0].1, Wait::Adapters { adapter: AdapterId(6), most: 1 });
    assert!(matches!(plan.rejected[0].error, SchedulerError::NeverFits { .. }));
    assert_eq!(plan.rejected[1].error, SchedulerError::UnknownModel { found: 2, models: 2 });
    assert_eq!(drain(&mut scheduler, plan).len(), 4);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut scheduler = scheduler(config(8));
    let plan = submit(&mut scheduler, [Request::new(1, tokens(4, 0), 2)]);
    let change = |id, change: &dyn Fn(&mut Request)| {
        let mut request = Request::new(id, tokens(4, 0), 2);
        change(&mut request);
        BatchEvent::Submit(request)
    };
    let events = vec![
        change(1, &|_| ()),
        change(2, &|request| request.prompt.clear()),
        change(3, &|request| (request.max_new_tokens, request.sequences) = (0, 2)),
        change(10, &|request| request.prompt.push(PENDING)),
        change(4, &|request| request.sequences = 0),
        change(5, &|request| request.sequences = 9),
        change(6, &|request| request.tenant = TenantId(4)),
        change(7, &|request| request.max_new_tokens = 29),
        change(8, &|request| request.max_new_tokens = u32::MAX),
        change(9, &|request| (request.sequences, request.max_new_tokens) = (8, 8)),
        BatchEvent::Cancel(RequestId(50)),
        BatchEvent::Stop(SequenceId { request: RequestId(1), index: 3 }),
        BatchEvent::SwapLost(SequenceId::first(RequestId(1))),
        BatchEvent::Ready(RequestId(1)),
        BatchEvent::Ready(RequestId(50)),
        BatchEvent::Continue { sequence: SequenceId::first(RequestId(1)), token: 1, ended: false },
        BatchEvent::Drafts { sequence: SequenceId::first(RequestId(1)), tokens: vec![1] },
        BatchEvent::Done { plan: PlanId(1), outputs: vec![Output::tokens(1)], tokens: vec![PENDING] },
        BatchEvent::Done { plan: PlanId(9), outputs: Vec::new(), tokens: Vec::new() },
        BatchEvent::Done { plan: PlanId(1), outputs: Vec::new(), tokens: Vec::new() },
        BatchEvent::Done { plan: PlanId(1), outputs: vec![Output::tokens(2)], tokens: vec![1, 2] },
        BatchEvent::Done { plan: PlanId(1), outputs: vec![Output::tokens(1)], tokens: vec![1, 2] },
    ];
    let count = events.len();
    let refused = step(&mut scheduler, events, 0.0);
    assert_eq!(refused.rejected.len(), count, "{:?}", refused.rejected);
    assert_eq!(scheduler.len(), 1);
    assert_eq!(drain(&mut scheduler, plan).len(), 1);
}

#[test]
fn reasons_name_what_lacks_and_who_is_first() {
    let mut scheduler = scheduler(BatchConfig { max_running: 1, ..config(8) });
    submit(&mut scheduler, (1..4).map(|id| Request::new(id, tokens(4, 0), 2)));
    let why = |id| scheduler.why(SequenceId::first(RequestId(id)));
    assert_eq!(why(1), None);
    assert_eq!(why(2), Some(Wait::Slots { needed: 1, most: 1 }));
    assert_eq!(why(3), Some(Wait::Behind { first: 2, policy: "fcfs" }));
    assert_eq!(why(9), None);
}

#[test]
fn a_wait_for_a_steps_tokens_is_reported() {
    let mut scheduler = scheduler(BatchConfig { max_tokens: 64, ..config(200) });
    let second = SequenceId::first(RequestId(1));
    let mut plan = submit(&mut scheduler, [0, 1].map(|id| Request::new(id, tokens(200, 1000 * id as u32), 5)));
    for at in 1..3 {
        assert_eq!(plan.waiting, [(second, Wait::Tokens { needed: 200, left: 0 })]);
        assert_eq!(scheduler.why(second), Some(Wait::Tokens { needed: 200, left: 0 }));
        plan = step(&mut scheduler, vec![done(&plan)], f64::from(at));
    }
    // A request that came after the last step has not been looked at.
    let during = step(
        &mut scheduler,
        vec![BatchEvent::Cancel(RequestId(1)), BatchEvent::Submit(Request::new(7, tokens(20, 9000), 5))],
        3.0,
    );
    assert_eq!((during.id, scheduler.why(SequenceId::first(RequestId(7)))), (None, Some(Wait::NextStep)));
    let plan = step(&mut scheduler, vec![done(&plan), BatchEvent::Cancel(RequestId(0))], 4.0);
    assert_eq!((plan.items[0].tokens, plan.waiting.len()), (20, 0));
    assert_eq!(drain(&mut scheduler, plan).len(), 2);
}

#[test]
fn others_are_ahead_by_the_policy_or_by_their_tenants_share() {
    let why = |name: &str, tenants: [u32; 3], asked| {
        let config = BatchConfig { max_running: 1, ..config(8) };
        let mut scheduler = BatchScheduler::new(config, policy(name).expect("a policy")).expect("sound");
        for tenant in [1, 2] {
            scheduler.declare_tenant(TenantId(tenant), 1.0).expect("a good weight");
        }
        let request = |at: usize| Request { tenant: TenantId(tenants[at]), ..Request::new(at as u64, tokens(4, 0), 2) };
        submit(&mut scheduler, (0..3).map(request));
        scheduler.why(SequenceId::first(RequestId(asked))).expect("it waits")
    };
    assert_eq!(why("fcfs", [0, 0, 1], 2), Wait::Behind { first: 1, policy: "fcfs" });
    assert_eq!(why("vtc", [0, 0, 0], 2), Wait::Behind { first: 1, policy: "vtc" });
    assert!(matches!(why("vtc", [0, 0, 1], 1), Wait::Share { tenant: TenantId(0), first: TenantId(1), .. }));
    // Of two tenants without service, neither is over its share.
    assert_eq!(why("drf", [0, 1, 2], 2), Wait::Behind { first: 1, policy: "drf" });
}

#[test]
fn the_policy_knows_what_each_tenant_got() {
    let serve = |name: &str, weight| {
        let mut scheduler = BatchScheduler::new(config(64), policy(name).expect("a policy")).expect("sound");
        scheduler.declare_tenant(TenantId(1), weight).expect("a good weight");
        let request = Request { tenant: TenantId(1), ..Request::new(1, tokens(6, 0), 4) };
        let plan = submit(&mut scheduler, [request]);
        let during = scheduler.policy().tenant_rank(TenantId(1));
        drain(&mut scheduler, plan);
        (during, scheduler.policy().tenant_rank(TenantId(1)), scheduler.policy().tenant_rank(TenantId(0)))
    };
    // Six tokens read, and then four put out, each of which counts twice.
    assert_eq!(serve("vtc", 1.0), (6.0, 14.0, 0.0));
    assert_eq!(serve("vtc:input=3,output=5", 2.0), (9.0, 19.0, 0.0));
    // One of eight running slots, and two of 64 blocks; nothing in the end.
    assert_eq!(serve("drf", 1.0), (0.125, 0.0, 0.0));
}

#[test]
fn hashes_of_prefixes_depend_on_all_that_they_stand_for() {
    let root = |seed, tenant, adapter: Option<u32>, group| {
        let memory = KvMemory::new(4, 4, seed).expect("four blocks");
        memory.root(Scope::of(TenantId(tenant), group, adapter.map(AdapterId)))
    };
    let scopes = [
        root(1, 0, None, None),
        root(2, 0, None, None),
        root(1, 1, None, None),
        root(1, 0, Some(0), None),
        root(1, 0, Some(1), None),
        root(1, 0, None, Some(0)),
        root(1, 0, None, Some(1)),
    ];
    assert_eq!(BTreeSet::from(scopes).len(), scopes.len());
    assert_eq!(root(1, 5, Some(1), Some(7)), root(1, 6, Some(1), Some(7)), "a group is shared by its tenants");
    // Each bit of what comes before, and each token at its place.
    let parents: BTreeSet<u64> = (0..64).map(|bit| block_hash(1 << bit, &[1, 2, 3])).collect();
    assert_eq!(parents.len(), 64);
    let mut blocks: BTreeSet<u64> = (0..32).map(|bit| block_hash(9, &[1 << bit, 0])).collect();
    blocks.extend((0..32).map(|bit| block_hash(9, &[0, 1 << bit])));
    blocks.extend([block_hash(9, &[0, 0]), block_hash(9, &[])]);
    assert_eq!(blocks.len(), 66);
}

#[test]
fn requests_of_the_same_time_go_in_order_of_submission() {
    let mut scheduler = scheduler(config(64));
    let request = |id| Request::new(id, tokens(4, id as u32 * 10), 1);
    let plan = submit(&mut scheduler, (1..4).map(request));
    let submitted = (4..7).map(|id| BatchEvent::Submit(request(id)));
    let plan = step(&mut scheduler, [done(&plan)].into_iter().chain(submitted).collect(), 1.0);
    assert_eq!(plan.items.iter().map(|item| item.sequence.request.0).collect::<Vec<u64>>(), [4, 5, 6]);
}

#[test]
fn a_request_that_does_not_fit_is_passed_over_as_often_as_allowed() {
    for (lookahead, served) in [(0, 1), (2, 3), (9, 4)] {
        let mut scheduler = scheduler(BatchConfig { lookahead, ..config(10) });
        let requests = [(1, 20), (2, 24), (3, 3), (4, 3), (5, 3)];
        let plan = submit(&mut scheduler, requests.map(|(id, long)| Request::new(id, tokens(long, id as u32 * 99), 1)));
        assert_eq!(plan.items.len(), served, "{lookahead}");
        assert_eq!(plan.waiting[0].0.request, RequestId(2));
        assert_eq!(drain(&mut scheduler, plan).len(), 5);
    }
}
