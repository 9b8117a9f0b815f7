//! Every policy of the list, held to the bound that it states; the starvation of the plain ratio; dominant shares and virtual
//! token counters, held to what their papers prove.

use std::time::Duration;

use fornax_scheduler::policy::drf::divide;
use fornax_scheduler::{
    BatchConfig, BatchEvent, BatchScheduler, Bound, Candidate, Demand, ModelConfig, POLICIES, Plan, Random, Request,
    ResourceManager, Span, Task, TaskEvent, TaskId, TaskScheduler, TenantId, Time, policy,
};

fn seconds(value: f64) -> Time {
    Time::from_secs_f64(value)
}

/// When the first task starts on a machine that runs one task at a time, each for its cost, while another comes each
/// second.
fn start_of_the_first(name: &str, first: Task, others: impl Fn(u64) -> Task, limit: u64) -> Option<f64> {
    let machine = ResourceManager::new([("machine", 1)]).expect("a machine");
    let mut scheduler = TaskScheduler::new(machine, policy(name).expect("a policy"));
    let (mut running, mut id) = (None, 1);
    // Another task runs already, so that the first has to wait.
    let busy = TaskEvent::Submit(Task::new(0, Demand::of("machine", 1)));
    running = scheduler.step([busy], Time::ZERO).start.first().map(|start| (start.id, 1.0)).or(running);
    let mut events = vec![TaskEvent::Submit(first.clone())];
    for tick in 0..limit {
        events.push(TaskEvent::Submit(others(id + 100)));
        id += 1;
        if let Some((task, end)) = running
            && end <= tick as f64
        {
            events.push(TaskEvent::Ended(task));
            running = None;
        }
        let plan = scheduler.step(std::mem::take(&mut events), seconds(tick as f64));
        scheduler.audit();
        for start in plan.start {
            if start.id == first.id {
                return Some(tick as f64);
            }
            running = Some((start.id, tick as f64 + 1.0));
        }
    }
    None
}

fn unit(id: u64) -> Task {
    Task::new(id, Demand::of("machine", 1))
}

#[test]
fn the_plain_ratio_starves_and_the_aged_one_does_not() {
    // The first costs 50 and its ratio is small; newcomers of cost 1 keep the machine busy.
    let first = unit(7).cost(50.0);
    assert_eq!(start_of_the_first("ratio", first.clone(), unit, 2000), None);
    let aged = start_of_the_first("aged-ratio:ageing=0.1", first, unit, 2000).expect("it starts in the end");
    assert!(aged <= 12.0, "{aged}");
}

#[test]
fn strict_priority_and_plain_shortest_starve_and_their_aged_forms_do_not() {
    for (plain, aged, first, other) in [
        ("priority", "priority:ageing=0.5", unit(7), 4),
        ("shortest:ageing=0", "shortest:ageing=0.5", unit(7).cost(20.0), 0),
    ] {
        let others = |id| unit(id).priority(other);
        assert_eq!(start_of_the_first(plain, first.clone(), others, 2000), None, "{plain}");
        assert!(start_of_the_first(aged, first, others, 2000).is_some(), "{aged}");
    }
}

/// The example of docs/src/scheduling.md, with memory counted in different units: on a machine of 8,000, tasks of 3,000
/// and two seconds come a little faster than they are served, and one small task comes among them.
#[test]
fn the_aged_ratio_keeps_its_bound_in_any_unit() {
    let starts = |name: &str, unit: u64| {
        let machine = ResourceManager::new([("memory", 8000 * unit)]).expect("a machine");
        let mut scheduler = TaskScheduler::new(machine, policy(name).expect("a policy"));
        let (mut running, mut events) = (Vec::new(), Vec::new());
        for tick in 0..6000u64 {
            let now = tick as f64 * 0.1;
            if tick % 9 == 0 {
                events.push(TaskEvent::Submit(Task::new(tick, Demand::of("memory", 3000 * unit)).cost(2.0)));
            }
            if tick == 1000 {
                events.push(TaskEvent::Submit(Task::new(7, Demand::of("memory", 100 * unit)).cost(2.0)));
            }
            running.retain(|&(id, end)| {
                let over = end <= now;
                if over {
                    events.push(TaskEvent::Ended(id));
                }
                !over
            });
            for start in scheduler.step(std::mem::take(&mut events), seconds(now)).start {
                if start.id == TaskId(7) {
                    return Some(now - 100.0);
                }
                running.push((start.id, now + 2.0));
            }
        }
        None
    };
    assert_eq!(starts("ratio", 1), None, "it starves");
    let waits: Vec<Option<f64>> = [1, 1000, 1 << 30].map(|unit| starts("aged-ratio", unit)).to_vec();
    // Tasks that came before it are served first, which takes eleven seconds, and tasks of the next 1.75 seconds.
    assert!(waits.iter().all(|wait| *wait == waits[0]) && waits[0].is_some_and(|wait| wait < 15.0), "{waits:?}");
}

/// With each policy that has a bound on overtaking, no task starts before a task that came earlier by more than the
/// bound.
#[test]
fn no_task_is_overtaken_for_longer_than_the_policy_says() {
    let specs = ["priority:ageing=0.5", "aged-ratio:ageing=0.2", "shortest:ageing=0.3", "deadline:slack=20"];
    let bounded = |name: &&str| matches!(policy(name).expect("a policy").bound(), Bound::Overtaking(_));
    let listed = POLICIES.iter().map(|entry| entry.name).filter(bounded);
    for spec in specs.into_iter().chain(listed) {
        for seed in 0..40 {
            let mut random = Random::new(seed);
            let policy = policy(spec).expect("a policy");
            let Bound::Overtaking(span) = policy.bound() else { panic!("{spec} states no span") };
            let machine = ResourceManager::new([("machine", 10)]).expect("a machine");
            let mut scheduler = TaskScheduler::new(machine, policy).keep_late();
            let (mut tasks, mut waiting, mut running) = (Vec::new(), Vec::new(), Vec::new());
            // The whole machine for the least cost.
            let largest_ratio = 1.0 / 0.5;
            for tick in 0..1000u64 {
                let now = seconds(tick as f64 * 0.5);
                let mut events = Vec::new();
                if tick < 300 && random.chance(0.4) {
                    let id = tasks.len() as u64;
                    let mut task = Task::new(id, Demand::of("machine", random.between(1, 10)))
                        .cost(0.5 + 4.0 * random.unit())
                        .priority(random.below(4) as i32);
                    if random.chance(0.5) {
                        task = task.deadline(seconds(now.as_secs_f64() + 30.0 * random.unit()));
                    }
                    waiting.push(id);
                    tasks.push((task.clone(), now));
                    events.push(TaskEvent::Submit(task));
                }
                running.retain(|&(id, end)| {
                    if end <= now {
                        events.push(TaskEvent::Ended(TaskId(id)));
                    }
                    end > now
                });
                for start in scheduler.step(events, now).start {
                    let (task, came) = &tasks[start.id.0 as usize];
                    waiting.retain(|&id| id != start.id.0);
                    for &other in &waiting {
                        let (passed, earlier) = &tasks[other as usize];
                        let candidate = Candidate {
                            number: other,
                            tenant: TenantId::DEFAULT,
                            arrival: *earlier,
                            priority: passed.priority,
                            demand: 1.0,
                            cost: passed.cost,
                            deadline: passed.deadline.unwrap_or(Time::NEVER),
                        };
                        let allowed = span.seconds(
                            &candidate,
                            f64::from(task.priority - passed.priority).max(0.0),
                            largest_ratio,
                        );
                        let lead = came.secs_since(*earlier);
                        assert!(lead <= allowed + 1e-6, "{spec}, seed {seed}: {lead} s later, {allowed} allowed");
                    }
                    running.push((start.id.0, seconds(now.as_secs_f64() + task.cost)));
                }
            }
            assert!(waiting.is_empty(), "{spec}, seed {seed}: {waiting:?} never started");
        }
    }
}

#[test]
fn every_policy_states_its_bound() {
    for entry in POLICIES {
        let bound = policy(entry.name).expect("a policy").bound();
        let unbounded = ["priority", "ratio", "bandit"].contains(&entry.name);
        assert_eq!(bound == Bound::Unbounded, unbounded, "{}: {bound:?}", entry.name);
    }
    assert_eq!(policy("shortest:ageing=0").expect("plain").bound(), Bound::Unbounded);
}

fn candidate() -> Candidate {
    Candidate {
        number: 0,
        tenant: TenantId::DEFAULT,
        arrival: seconds(1.5),
        priority: 3,
        demand: 6.0,
        cost: 2.0,
        deadline: Time::NEVER,
    }
}

#[test]
fn ranks_and_bounds_are_those_of_the_formulas() {
    // R = 6, C = 2, W = 4.
    let (task, now) = (candidate(), seconds(5.5));
    let span = |span| Bound::Overtaking(span);
    let table = [
        ("fcfs", 1.5, span(Span::default())),
        ("priority", -3.0, Bound::Unbounded),
        ("priority:ageing=0.5", -2.25, span(Span { per_level: 2.0, ..Span::default() })),
        ("ratio", -1.0, Bound::Unbounded),
        ("aged-ratio:ageing=0.25", -2.0, span(Span { per_ratio: 4.0, ..Span::default() })),
        ("shortest:ageing=0", 2.0, Bound::Unbounded),
        ("shortest:ageing=0.25", 2.375, span(Span { per_cost: 4.0, ..Span::default() })),
        ("deadline:slack=20", 21.5, span(Span { fixed: 20.0, to_deadline: true, ..Span::default() })),
        ("vtc", 1.5, Bound::TenantShare),
        ("drf", 1.5, Bound::TenantShare),
    ];
    for (name, rank, bound) in table {
        let policy = policy(name).expect("a policy");
        assert_eq!((policy.rank(&task, now), policy.bound()), (rank, bound), "{name}");
    }
    let due = Candidate { deadline: seconds(8.5), ..task };
    assert_eq!(policy("deadline").expect("a policy").rank(&due, now), 8.5);
    assert_eq!(policy("fcfs").expect("a policy").rank(&task, now), 1.5);
}

#[test]
fn a_span_is_the_sum_of_its_parts() {
    let span = Span { fixed: 1.0, per_cost: 10.0, per_level: 100.0, per_ratio: 1000.0, to_deadline: false };
    let task = candidate();
    assert_eq!(span.seconds(&task, 3.0, 4.0), 1.0 + 20.0 + 300.0 + 4000.0);
    let due = Candidate { deadline: seconds(6.5), ..task };
    assert_eq!(span.seconds(&due, 0.0, 0.0), 21.0);
    let to_deadline = Span { to_deadline: true, ..span };
    assert_eq!((to_deadline.seconds(&due, 0.0, 0.0), to_deadline.seconds(&task, 0.0, 0.0)), (25.0, 21.0));
}

/// Until the time that [`Policy::crossing`] gives, the order stays. At that time the ranks are equal, up to a tick: an
/// earlier time would cost a comparison in vain.
#[test]
fn two_tasks_change_places_when_the_policy_says_so() {
    for name in ["ratio", "aged-ratio:ageing=0.01", "aged-ratio:ageing=0.03", "aged-ratio:ageing=0.1", "bandit"] {
        let policy = policy(name).expect("a policy");
        let (mut crossed, mut never) = (0, 0);
        let mut random = Random::new(5);
        for round in 0..4000 {
            let now = seconds(100.0);
            let mut task = || Candidate {
                arrival: seconds(random.unit() * 100.0),
                demand: random.below(20) as f64,
                cost: 0.1 + 20.0 * random.unit(),
                ..candidate()
            };
            let (mut ahead, mut behind) = (task(), task());
            if policy.rank(&behind, now) < policy.rank(&ahead, now) {
                std::mem::swap(&mut ahead, &mut behind);
            }
            let lead = |time: Time| policy.rank(&behind, time) - policy.rank(&ahead, time);
            let crossing = policy.crossing(&ahead, &behind, now);
            let end = crossing.unwrap_or(seconds(1e5));
            for part in [0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999] {
                let span = end.secs_since(now) * part;
                let lead = lead(now.after(Duration::from_secs_f64(span)));
                assert!(lead >= -1e-9, "{name}, {round}: {ahead:?} is behind {behind:?} by {lead} before {crossing:?}");
            }
            let Some(crossing) = crossing else {
                never += 1;
                continue;
            };
            crossed += 1;
            assert!(crossing > now);
            let left = lead(crossing).abs();
            assert!(left <= 1e-3 * lead(now) + 1e-6, "{name}, {round}: {left} of {} is left", lead(now));
        }
        let both = if policy.changes() { crossed > 50 && never > 50 } else { crossed == 0 };
        assert!(both, "{name}: {crossed} cross and {never} do not");
    }
}

/// How many tasks each tenant runs, when all submit more than fit.
fn discrete_shares(capacity: [u64; 2], demands: &[[u64; 2]]) -> Vec<u64> {
    let machine = ResourceManager::new([("cpu", capacity[0]), ("memory", capacity[1])]).expect("a machine");
    // One tenant whose next task does not fit does not hold up the others.
    let mut scheduler = TaskScheduler::new(machine, policy("drf").expect("a policy")).with_lookahead(u32::MAX);
    let mut events = Vec::new();
    for (tenant, demand) in demands.iter().enumerate() {
        let tenant = TenantId(tenant as u32);
        scheduler.declare_tenant(tenant, 1.0).expect("a good weight");
        for number in 0..capacity[0] + capacity[1] {
            let id = u64::from(tenant.0) * 10_000 + number;
            events.push(TaskEvent::Submit(
                Task::new(id, Demand::of("cpu", demand[0]).and("memory", demand[1])).tenant(tenant),
            ));
        }
    }
    let mut shares = vec![0; demands.len()];
    for start in scheduler.step(events, Time::ZERO).start {
        shares[(start.id.0 / 10_000) as usize] += 1;
    }
    scheduler.audit();
    shares
}

#[test]
fn the_papers_example_is_divided_as_in_the_paper() {
    assert_eq!(discrete_shares([9, 18], &[[1, 4], [3, 1]]), [3, 2]);
}

/// All demands from 1 to 4 of two resources, for two and three tenants.
fn small_worlds() -> Vec<Vec<[f64; 2]>> {
    let one: Vec<[f64; 2]> =
        (1..=4).flat_map(|cpu| (1..=4).map(move |memory| [f64::from(cpu), f64::from(memory)])).collect();
    let mut worlds: Vec<Vec<[f64; 2]>> = Vec::new();
    for &a in &one {
        for &b in &one {
            worlds.push(vec![a, b]);
            worlds.push(vec![a, b, [2.0, 3.0]]);
        }
    }
    worlds
}

const CAPACITY: [f64; 2] = [24.0, 36.0];

fn divided(demands: &[[f64; 2]]) -> Vec<f64> {
    let demands: Vec<Vec<f64>> = demands.iter().map(|demand| demand.to_vec()).collect();
    divide(&CAPACITY, &demands, &vec![1.0; demands.len()])
}

/// How many tasks of `demand` can run on `amounts`.
fn runs(demand: [f64; 2], amounts: [f64; 2]) -> f64 {
    (amounts[0] / demand[0]).min(amounts[1] / demand[1])
}

#[test]
fn dominant_shares_have_their_four_properties() {
    for world in small_worlds() {
        let tasks = divided(&world);
        let parts: Vec<[f64; 2]> =
            world.iter().zip(&tasks).map(|(demand, tasks)| [demand[0] * tasks, demand[1] * tasks]).collect();
        let used = parts.iter().fold([0.0, 0.0], |sum, part| [sum[0] + part[0], sum[1] + part[1]]);
        assert!(used[0] <= CAPACITY[0] + 1e-6 && used[1] <= CAPACITY[1] + 1e-6, "{world:?}: {used:?}");
        // Pareto efficiency: every task needs both resources, so that one of them is used up.
        assert!(used[0] > CAPACITY[0] - 1e-6 || used[1] > CAPACITY[1] - 1e-6, "{world:?}: {used:?}");
        for (tenant, &demand) in world.iter().enumerate() {
            let count = world.len() as f64;
            let equal = runs(demand, [CAPACITY[0] / count, CAPACITY[1] / count]);
            assert!(tasks[tenant] >= equal - 1e-6, "sharing incentive: {world:?}");
            for &other in &parts {
                assert!(tasks[tenant] >= runs(demand, other) - 1e-6, "envy-freeness: {world:?}");
            }
            for lie in (1..=6).flat_map(|cpu| (1..=6).map(move |memory| [f64::from(cpu), f64::from(memory)])) {
                let mut told = world.clone();
                told[tenant] = lie;
                let got = divided(&told)[tenant];
                let useful = runs(demand, [lie[0] * got, lie[1] * got]);
                assert!(tasks[tenant] >= useful - 1e-6, "strategy-proofness: {world:?} and {lie:?}");
            }
        }
    }
}

#[test]
fn whole_tasks_come_close_to_what_can_be_divided() {
    for world in small_worlds() {
        let demands: Vec<[u64; 2]> = world.iter().map(|demand| demand.map(|amount| amount as u64)).collect();
        // Ten times the machine, so that a task is a small part of it.
        let whole = discrete_shares([240, 360], &demands);
        let count = world.len() as f64;
        for ((&whole, &demand), divided) in whole.iter().zip(&world).zip(divided(&world)) {
            assert!((whole as f64 - 10.0 * divided).abs() < 3.0, "{world:?}: {whole} of {}", 10.0 * divided);
            let equal = 10.0 * runs(demand, [CAPACITY[0] / count, CAPACITY[1] / count]);
            assert!(whole as f64 > equal - 1.0 - 1e-6, "sharing incentive: {world:?}");
        }
    }
}

#[test]
fn weights_divide_by_themselves() {
    let demands = vec![vec![1.0, 1.0], vec![1.0, 1.0]];
    let tasks = divide(&[30.0, 90.0], &demands, &[2.0, 1.0]);
    assert!((tasks[0] - 20.0).abs() < 1e-9 && (tasks[1] - 10.0).abs() < 1e-9, "{tasks:?}");
    assert_eq!(divide(&[1.0], &[vec![0.0], vec![1.0]], &[1.0, 1.0]), [0.0, 1.0]);
}

#[test]
fn tenants_that_need_no_exhausted_resource_get_more() {
    // Two share the first resource, 6 and 6; the third has the second for itself, and the fourth asks for nothing.
    let demands = [vec![1.0, 0.0], vec![2.0, 0.0], vec![0.0, 5.0], vec![0.0, 0.0]];
    let tasks = divide(&[12.0, 100.0], &demands, &[1.0; 4]);
    for (tasks, expected) in tasks.iter().zip([6.0, 3.0, 20.0, 0.0]) {
        assert!((tasks - expected).abs() < 1e-9, "{tasks} for {expected}");
    }
    // In three rounds: the first resource is used up at a dominant share of 1/3, the second at 2/3, the third at 1.
    let demands = [vec![3.0, 1.0, 1.0], vec![0.0, 3.0, 1.0], vec![0.0, 0.0, 2.0]];
    let tasks = divide(&[3.0, 3.0, 6.0], &demands, &[1.0, 1.0, 1.0]);
    let used =
        |resource: usize| demands.iter().zip(&tasks).map(|(demand, tasks)| demand[resource] * tasks).sum::<f64>();
    assert!((used(1) - 3.0).abs() < 1e-9 && (used(2) - 6.0).abs() < 1e-9, "{tasks:?}");
    assert!((tasks[0] - 0.75).abs() < 1e-9 && (tasks[1] - 0.75).abs() < 1e-9, "{tasks:?}");
    assert!((tasks[2] - 2.25).abs() < 1e-9, "{tasks:?}");
}

/// The bound of virtual token counters: over any time in which two tenants both have work waiting, their services differ by
/// at most 2 · max(input · L, output · M) per weight.
#[test]
fn virtual_token_counters_keep_services_together() {
    const BLOCKS: usize = 64;
    const BLOCK: usize = 4;
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let config = BatchConfig {
            models: vec![ModelConfig { blocks: BLOCKS, block_size: BLOCK, ..ModelConfig::default() }],
            max_running: random.between(2, 16) as usize,
            max_tokens: random.between(16, 64) as usize,
            watermark: 2,
            ..BatchConfig::default()
        };
        let mut scheduler = BatchScheduler::new(config, policy("vtc").expect("a policy")).expect("sound");
        let tenants = random.between(2, 4) as u32;
        let weights: Vec<f64> = (0..tenants).map(|_| random.between(1, 3) as f64).collect();
        for (tenant, &weight) in weights.iter().enumerate() {
            scheduler.declare_tenant(TenantId(tenant as u32), weight).expect("a good weight");
        }
        // Some tenants send a lot from the start, others come and go.
        let greed: Vec<f64> = (0..tenants).map(|_| random.unit()).collect();
        let mut owners: Vec<(u32, usize, bool)> = Vec::new();
        let mut unstarted = vec![0u32; tenants as usize];
        let mut service = vec![0.0f64; tenants as usize];
        // Services of each pair when both began to have work waiting.
        let mut marks: Vec<Option<f64>> = vec![None; (tenants * tenants) as usize];
        let (mut longest, mut plan, mut compared) = (0usize, Plan::default(), 0u32);
        for tick in 0..400u64 {
            let mut events = Vec::new();
            for tenant in 0..tenants {
                for _ in 0..2 {
                    if random.chance(0.6 * greed[tenant as usize]) {
                        let prompt: Vec<u32> = (0..random.between(1, 40)).map(|_| random.bits() as u32).collect();
                        longest = longest.max(prompt.len());
                        let mut request =
                            Request::new(owners.len() as u64, prompt.clone(), random.between(1, 40) as u32);
                        request.tenant = TenantId(tenant);
                        owners.push((tenant, prompt.len(), false));
                        unstarted[tenant as usize] += 1;
                        events.push(BatchEvent::Submit(request));
                    }
                }
            }
            if let Some(id) = plan.id {
                for item in plan.items.iter().filter(|item| item.samples > 0) {
                    service[owners[item.sequence.request.0 as usize].0 as usize] +=
                        2.0 / weights[owners[item.sequence.request.0 as usize].0 as usize];
                }
                let (outputs, tokens) = plan.plain_outputs(random.bits() as u32);
                events.push(BatchEvent::Done { plan: id, outputs, tokens });
            }
            plan = scheduler.step(events, seconds(tick as f64));
            assert!(plan.rejected.is_empty(), "{:?}", plan.rejected);
            for item in &plan.items {
                let (tenant, prompt, started) = &mut owners[item.sequence.request.0 as usize];
                if !std::mem::replace(started, true) {
                    unstarted[*tenant as usize] -= 1;
                    service[*tenant as usize] += *prompt as f64 / weights[*tenant as usize];
                }
            }
            let bound = 2.0 * (longest as f64).max(2.0 * (BLOCKS * BLOCK) as f64);
            for one in 0..tenants as usize {
                for two in one + 1..tenants as usize {
                    let mark = &mut marks[one * tenants as usize + two];
                    if unstarted[one] == 0 || unstarted[two] == 0 {
                        *mark = None;
                        continue;
                    }
                    let gap = service[one] - service[two];
                    let began = *mark.get_or_insert(gap);
                    compared += 1;
                    assert!((gap - began).abs() <= bound, "seed {seed}: {} of {bound}", gap - began);
                }
            }
        }
        assert!(compared > 0 || greed.iter().filter(|&&greed| greed > 0.2).count() < 2, "seed {seed}");
    }
}
