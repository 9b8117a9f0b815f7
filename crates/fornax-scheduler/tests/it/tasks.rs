//! The scheduler of tasks: events of every kind, units, deadlines, reasons, and random lives.

use fornax_scheduler::{
    Demand, Observation, POLICIES, Random, ResourceManager, SchedulerError, Task, TaskEvent, TaskId, TaskPlan,
    TaskScheduler, TenantId, Time, Units, Wait, policy,
};

use super::accounts::Notes;

fn scheduler(name: &str) -> TaskScheduler {
    let machine = ResourceManager::new([("compute", 8), ("memory", 16)]).expect("two resources");
    TaskScheduler::new(machine, policy(name).expect("a policy"))
}

fn seconds(value: f64) -> Time {
    Time::from_secs_f64(value)
}

fn compute(id: u64, amount: u64) -> Task {
    Task::new(id, Demand::of("compute", amount))
}

fn submit(scheduler: &mut TaskScheduler, tasks: impl IntoIterator<Item = Task>, now: f64) -> TaskPlan {
    let plan = scheduler.step(tasks.into_iter().map(TaskEvent::Submit), seconds(now));
    scheduler.audit();
    plan
}

#[test]
fn the_ratio_runs_the_second_of_three_first() {
    let machine = ResourceManager::new([("units", 20)]).expect("a resource");
    let mut scheduler = TaskScheduler::new(machine, policy("ratio").expect("a policy"));
    let busy = Task::new(0, Demand::of("units", 20));
    scheduler.step([TaskEvent::Submit(busy)], Time::ZERO);
    let task = |id, demand, cost| TaskEvent::Submit(Task::new(id, Demand::of("units", demand)).cost(cost));
    scheduler.step([task(3, 15, 6.0)], seconds(0.0));
    scheduler.step([task(2, 20, 8.0)], seconds(1.0));
    let plan = scheduler.step([task(1, 10, 5.0), TaskEvent::Ended(TaskId(0))], seconds(2.0));
    assert_eq!(plan.start, [Units { id: TaskId(2), units: 1 }]);
    assert_eq!(scheduler.why(TaskId(1)).expect("it waits").to_string(), "not enough units: 10 needed, 0 free");
    assert_eq!(scheduler.why(TaskId(3)), Some(Wait::Behind { first: 1, policy: "ratio" }));
    assert_eq!(scheduler.why(TaskId(2)), None);
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut scheduler = scheduler("fcfs");
    submit(&mut scheduler, [compute(1, 8), compute(2, 8)], 0.0);
    let bad = [
        compute(1, 1),
        compute(2, 1),
        compute(3, 9),
        Task::new(4, Demand::of("disk", 1)),
        compute(5, 1).tenant(TenantId(9)),
        compute(6, 1).cost(0.0),
        compute(7, 1).cost(-1.0),
        compute(8, 1).cost(f64::NAN),
        compute(9, 1).cost(f64::INFINITY),
        compute(10, 1).units(0, 1),
        compute(11, 1).units(3, 2),
        compute(12, 3).units(3, 4),
    ];
    let count = bad.len();
    let plan = submit(&mut scheduler, bad, 1.0);
    assert_eq!(plan.rejected.len(), count);
    assert_eq!(plan.rejected.iter().map(|one| one.event).collect::<Vec<usize>>(), (0..count).collect::<Vec<usize>>());
    assert!(matches!(plan.rejected[2].error, SchedulerError::NeverFits { needed: 9, capacity: 8, .. }));
    let events = [
        TaskEvent::Ended(TaskId(2)),
        TaskEvent::Ended(TaskId(99)),
        TaskEvent::Cancel(TaskId(99)),
        TaskEvent::Shrunk { id: TaskId(1), units: 2 },
        TaskEvent::Shrunk { id: TaskId(1), units: 0 },
        TaskEvent::Shrunk { id: TaskId(2), units: 1 },
        TaskEvent::Shrunk { id: TaskId(98), units: 1 },
    ];
    let plan = scheduler.step(events, seconds(2.0));
    assert_eq!(plan.rejected.len(), 7);
    assert_eq!(plan.rejected[0].error, SchedulerError::NotStarted { id: TaskId(2) });
    assert_eq!((scheduler.running(), scheduler.waiting()), (1, 1));
    let plan = scheduler.step([TaskEvent::Ended(TaskId(1)), TaskEvent::Ended(TaskId(1))], seconds(3.0));
    assert_eq!(
        plan.rejected,
        [fornax_scheduler::Rejected { event: 1, error: SchedulerError::UnknownTask { id: TaskId(1) } }]
    );
    scheduler.audit();
}

#[test]
fn the_cancelled_and_the_late_go_and_the_running_are_stopped_once() {
    let mut scheduler = scheduler("fcfs");
    submit(&mut scheduler, [compute(1, 8).deadline(seconds(5.0)), compute(2, 8), compute(3, 8)], 0.0);
    let plan = scheduler.step([TaskEvent::Cancel(TaskId(2)), TaskEvent::Cancel(TaskId(1))], seconds(1.0));
    assert_eq!((plan.cancelled, plan.stop), (vec![TaskId(2)], vec![TaskId(1)]));
    // It holds what it has until it has ended, and is not stopped again when it is late.
    let plan = scheduler.step([TaskEvent::Cancel(TaskId(1))], seconds(6.0));
    assert!(plan.stop.is_empty() && plan.start.is_empty());
    assert_eq!(scheduler.machine().free("compute"), Some(0));
    let plan = submit(&mut scheduler, [compute(4, 8).deadline(seconds(7.0))], 7.0);
    assert!(plan.expired.is_empty(), "at its deadline it is not late");
    let plan = scheduler.step([TaskEvent::Ended(TaskId(1))], seconds(7.5));
    assert_eq!((plan.expired, plan.start[0].id), (vec![TaskId(4)], TaskId(3)));
    // Time that goes back stands still.
    submit(&mut scheduler, [compute(5, 8).deadline(seconds(7.0))], 1.0);
    assert_eq!(scheduler.step([], seconds(0.0)).expired, []);
    scheduler.audit();
}

#[test]
fn late_tasks_are_kept_if_wanted() {
    let machine = ResourceManager::new([("compute", 8)]).expect("a resource");
    let mut scheduler = TaskScheduler::new(machine, policy("deadline").expect("a policy")).keep_late();
    let plan = submit(&mut scheduler, [compute(1, 1).deadline(seconds(1.0))], 2.0);
    assert_eq!((plan.expired.len(), plan.start.len()), (0, 1));
}

#[test]
fn units_grow_into_what_is_free_and_give_it_back() {
    let mut scheduler = scheduler("fcfs");
    let plan = submit(&mut scheduler, [compute(1, 1).units(2, 20)], 0.0);
    assert_eq!(plan.start, [Units { id: TaskId(1), units: 8 }]);
    let plan = submit(&mut scheduler, [compute(2, 3)], 1.0);
    assert_eq!((plan.shrink, plan.start.len()), (vec![Units { id: TaskId(1), units: 2 }], 0));
    // It is asked once, and the waiting task gets the units that it gives back.
    assert!(scheduler.step([], seconds(2.0)).shrink.is_empty());
    let plan = scheduler.step([TaskEvent::Shrunk { id: TaskId(1), units: 2 }], seconds(3.0));
    assert_eq!(plan.start, [Units { id: TaskId(2), units: 1 }]);
    assert_eq!(plan.grow, [Units { id: TaskId(1), units: 5 }]);
    let plan = scheduler.step([TaskEvent::Ended(TaskId(2))], seconds(4.0));
    assert_eq!(plan.grow, [Units { id: TaskId(1), units: 8 }]);
    scheduler.audit();
}

#[test]
fn a_task_may_keep_all_its_units_and_gets_no_more() {
    let mut scheduler = scheduler("fcfs");
    submit(&mut scheduler, [compute(1, 1).units(1, 3), compute(2, 3), compute(3, 2)], 0.0);
    let shrunk = |units| TaskEvent::Shrunk { id: TaskId(1), units };
    assert_eq!(scheduler.step([shrunk(3)], seconds(1.0)).rejected, []);
    let plan = scheduler.step([shrunk(4)], seconds(2.0));
    assert_eq!(plan.rejected[0].error, SchedulerError::WrongUnits { id: TaskId(1), held: 3, found: 4 });
    assert_eq!(scheduler.machine().free("compute"), Some(0));
}

#[test]
fn a_policy_hears_of_what_a_task_holds_and_of_nothing_else() {
    let machine = ResourceManager::new([("compute", 8), ("memory", 16), ("accelerator", 0)]).expect("three resources");
    let notes = Notes::default();
    let mut scheduler = TaskScheduler::new(machine, Box::new(notes.clone()));
    submit(&mut scheduler, [compute(1, 2).units(1, 3)], 0.0);
    scheduler.step([TaskEvent::Shrunk { id: TaskId(1), units: 1 }, TaskEvent::Ended(TaskId(1))], seconds(1.0));
    let held: Vec<(usize, f64)> = notes
        .all()
        .iter()
        .filter_map(|one| match *one {
            Observation::Held { resource, share, .. } => Some((resource, share)),
            _ => None,
        })
        .collect();
    assert_eq!(held, [(0, 0.25), (0, 0.5), (0, -0.5), (0, -0.25)]);
}

#[test]
fn a_task_that_does_not_fit_is_passed_over_as_often_as_allowed() {
    let machine = || ResourceManager::new([("compute", 8)]).expect("a resource");
    for (times, started) in [(0, 0), (2, 2), (9, 4)] {
        let mut scheduler = TaskScheduler::new(machine(), policy("fcfs").expect("a policy")).with_lookahead(times);
        submit(&mut scheduler, [compute(0, 4)], 0.0);
        let plan = submit(&mut scheduler, [compute(1, 8)].into_iter().chain((2..9).map(|id| compute(id, 1))), 1.0);
        assert_eq!(plan.start.len(), started, "{times}");
        assert_eq!(plan.waiting[0].0, TaskId(1));
    }
}

#[test]
fn a_tenant_over_its_share_is_told_so() {
    let mut scheduler = scheduler("drf");
    scheduler.declare_tenant(TenantId(1), 1.0).expect("a good weight");
    submit(&mut scheduler, [compute(1, 6).tenant(TenantId(1))], 0.0);
    submit(&mut scheduler, [compute(2, 3), compute(3, 1).tenant(TenantId(1))], 1.0);
    let why = scheduler.why(TaskId(3)).expect("it waits").to_string();
    assert_eq!(why, "tenant 1 is over its share: it has had 0.750, tenant 0 0.000");
    assert!(scheduler.declare_tenant(TenantId(1), 0.0).is_err());
}

#[test]
fn the_policy_knows_what_each_tenant_holds() {
    let mut scheduler = scheduler("drf");
    scheduler.declare_tenant(TenantId(1), 1.0).expect("a good weight");
    let share = |scheduler: &TaskScheduler, tenant| scheduler.policy().tenant_rank(TenantId(tenant));
    // Of 8 and 16: one unit holds an eighth of the one and a quarter of the other.
    let task = Task::new(1, Demand::of("compute", 1).and("memory", 4)).tenant(TenantId(1)).units(1, 3);
    submit(&mut scheduler, [task], 0.0);
    assert_eq!(share(&scheduler, 1), 0.75, "it grew to three units");
    submit(&mut scheduler, [Task::new(2, Demand::of("memory", 8))], 1.0);
    scheduler.step([TaskEvent::Shrunk { id: TaskId(1), units: 1 }], seconds(2.0));
    assert_eq!(
        (share(&scheduler, 0), share(&scheduler, 1)),
        (0.5, 0.5),
        "of three units it keeps one, and gets one back"
    );
    scheduler.step([TaskEvent::Ended(TaskId(2))], seconds(3.0));
    assert_eq!((share(&scheduler, 0), share(&scheduler, 1)), (0.0, 0.75));
    scheduler.step([TaskEvent::Ended(TaskId(1))], seconds(4.0));
    assert_eq!((share(&scheduler, 0), share(&scheduler, 1)), (0.0, 0.0));
}

#[test]
fn the_counter_of_a_new_tenant_is_lifted_to_the_lowest_of_the_waiting_ones() {
    let mut scheduler = scheduler("vtc:input=1,output=0");
    for tenant in [1, 2] {
        scheduler.declare_tenant(TenantId(tenant), 1.0).expect("a good weight");
    }
    let task = |id, tenant, cost| compute(id, 8).tenant(TenantId(tenant)).cost(cost);
    submit(&mut scheduler, [task(1, 0, 10.0)], 0.0);
    // The second tenant has two that wait, the first one; the first's turn comes, since the counters are equal.
    submit(&mut scheduler, [task(2, 1, 4.0), task(3, 1, 4.0), task(4, 0, 1.0)], 1.0);
    let plan = scheduler.step([TaskEvent::Ended(TaskId(1))], seconds(2.0));
    assert_eq!(plan.start[0].id, TaskId(4));
    submit(&mut scheduler, [task(5, 2, 1.0)], 3.0);
    let counters = [0, 1, 2].map(|tenant| scheduler.policy().tenant_rank(TenantId(tenant)));
    assert_eq!(counters, [11.0, 10.0, 10.0]);
}

#[test]
fn tasks_of_the_same_time_go_in_order_of_submission() {
    let mut scheduler = scheduler("fcfs");
    submit(&mut scheduler, [compute(1, 4), compute(2, 4)], 0.0);
    let ended = [TaskEvent::Ended(TaskId(1)), TaskEvent::Ended(TaskId(2))];
    let submitted = (3..6).map(|id| TaskEvent::Submit(compute(id, 1)));
    let plan = scheduler.step(ended.into_iter().chain(submitted), seconds(1.0));
    assert_eq!(plan.start.iter().map(|start| start.id.0).collect::<Vec<u64>>(), [3, 4, 5]);
}

#[test]
fn no_more_units_are_asked_for_than_are_needed() {
    let machine = ResourceManager::new([("compute", 6)]).expect("a resource");
    let mut scheduler = TaskScheduler::new(machine, policy("fcfs").expect("a policy"));
    submit(&mut scheduler, [compute(1, 1).units(1, 3), compute(2, 1).units(1, 3)], 0.0);
    let plan = submit(&mut scheduler, [compute(3, 2)], 1.0);
    assert_eq!(plan.shrink, [Units { id: TaskId(2), units: 1 }], "the last started gives up two, which is enough");
    // The two that come back are not enough for three, so that the other is asked as well.
    let plan = scheduler.step([TaskEvent::Cancel(TaskId(3)), TaskEvent::Submit(compute(4, 3))], seconds(2.0));
    assert_eq!(plan.shrink, [Units { id: TaskId(1), units: 1 }]);
    // No task is asked twice, nor for a waiting task that needs no more.
    assert!(scheduler.step([], seconds(3.0)).shrink.is_empty());
    // Where three are needed at once, both are asked at once.
    let machine = ResourceManager::new([("compute", 6)]).expect("a resource");
    let mut scheduler = TaskScheduler::new(machine, policy("fcfs").expect("a policy"));
    submit(&mut scheduler, [compute(1, 1).units(1, 3), compute(2, 1).units(1, 3)], 0.0);
    let plan = submit(&mut scheduler, [compute(3, 3)], 1.0);
    assert_eq!(plan.shrink, [2, 1].map(|id| Units { id: TaskId(id), units: 1 }));
    // A task that is being stopped gives all its units back by itself.
    let machine = ResourceManager::new([("compute", 6)]).expect("a resource");
    let mut scheduler = TaskScheduler::new(machine, policy("fcfs").expect("a policy"));
    submit(&mut scheduler, [compute(1, 1).units(1, 3), compute(2, 1).units(1, 3)], 0.0);
    scheduler.step([TaskEvent::Cancel(TaskId(2))], seconds(1.0));
    let plan = submit(&mut scheduler, [compute(3, 2)], 2.0);
    assert_eq!(plan.shrink, [Units { id: TaskId(1), units: 1 }]);
}

#[test]
fn tasks_that_have_to_give_up_units_get_none() {
    let running = || {
        let mut scheduler = scheduler("fcfs");
        submit(&mut scheduler, [compute(3, 3)], 0.0);
        let plan = submit(&mut scheduler, [compute(1, 1).units(1, 8)], 0.0);
        assert_eq!(plan.start, [Units { id: TaskId(1), units: 5 }]);
        scheduler
    };
    // A task that is being stopped gets no freed units, and a task that goes on gets them.
    let mut stopped = running();
    stopped.step([TaskEvent::Cancel(TaskId(1))], seconds(1.0));
    assert_eq!(stopped.step([TaskEvent::Ended(TaskId(3))], seconds(2.0)).grow, []);
    let plan = running().step([TaskEvent::Ended(TaskId(3))], seconds(2.0));
    assert_eq!(plan.grow, [Units { id: TaskId(1), units: 8 }]);
    // Nor does a task that was asked to shrink, until it has shrunk.
    let mut shrinking = running();
    assert_eq!(submit(&mut shrinking, [compute(2, 4)], 1.0).shrink, [Units { id: TaskId(1), units: 1 }]);
    let plan = shrinking.step([TaskEvent::Ended(TaskId(3)), TaskEvent::Cancel(TaskId(2))], seconds(2.0));
    assert_eq!(plan.grow, []);
    let plan = shrinking.step([TaskEvent::Shrunk { id: TaskId(1), units: 1 }], seconds(3.0));
    assert_eq!(plan.grow, [Units { id: TaskId(1), units: 8 }]);
}

#[test]
fn a_few_tasks_are_looked_at_behind_a_task_that_does_not_fit() {
    let machine = ResourceManager::new([("compute", 8), ("memory", 4)]).expect("two resources");
    let mut scheduler = TaskScheduler::new(machine, policy("fcfs").expect("a policy")).with_lookahead(u32::MAX);
    submit(&mut scheduler, [compute(0, 8)], 0.0);
    let small = |id| Task::new(id, Demand::of("memory", 1));
    // The first that does not fit and sixteen more, so that the second small one is not seen.
    let tasks = (1..17).map(|id| compute(id, 1)).chain([small(17), compute(18, 1), small(19)]);
    let plan = submit(&mut scheduler, tasks, 1.0);
    assert_eq!(plan.start, [Units { id: TaskId(17), units: 1 }]);
    assert_eq!(plan.waiting.len(), 17);
    assert_eq!(scheduler.why(TaskId(19)), Some(Wait::Behind { first: 1, policy: "fcfs" }));
}

#[test]
fn others_are_ahead_by_the_policy_or_by_their_tenants_share() {
    let why = |name: &str, tenant| {
        let mut scheduler = scheduler(name);
        scheduler.declare_tenant(TenantId(1), 1.0).expect("a good weight");
        submit(&mut scheduler, [compute(0, 8)], 0.0);
        let tasks = [compute(1, 8).tenant(TenantId(tenant)), compute(2, 8)];
        submit(&mut scheduler, tasks, 1.0);
        scheduler.why(TaskId(2)).expect("it waits")
    };
    assert_eq!(why("fcfs", 1), Wait::Behind { first: 1, policy: "fcfs" });
    assert_eq!(why("drf", 0), Wait::Behind { first: 1, policy: "drf" });
    assert!(matches!(why("drf", 1), Wait::Share { tenant: TenantId(0), first: TenantId(1), .. }));
}

#[test]
fn a_resource_of_which_there_is_none_takes_part_in_no_share() {
    let machine = ResourceManager::new([("compute", 8), ("accelerator", 0)]).expect("two resources");
    let mut scheduler = TaskScheduler::new(machine, policy("drf").expect("a policy"));
    let plan = submit(&mut scheduler, [compute(1, 2), Task::new(2, Demand::of("accelerator", 1))], 0.0);
    assert!(matches!(plan.rejected[0].error, SchedulerError::NeverFits { capacity: 0, .. }));
    assert_eq!(scheduler.policy().tenant_rank(TenantId::DEFAULT), 0.25);
}

/// Random tasks come, end, shrink and are cancelled, under every policy; the books balance and all end.
#[test]
fn the_books_balance_whatever_happens() {
    for seed in 0..300u64 {
        let mut random = Random::new(seed);
        let name = POLICIES[seed as usize % POLICIES.len()].name;
        let machine = ResourceManager::new([("compute", 8), ("memory", 16)]).expect("two resources");
        let mut scheduler =
            TaskScheduler::new(machine, policy(name).expect("a policy")).with_lookahead(random.below(3) as u32);
        scheduler.declare_tenant(TenantId(1), 2.0).expect("a good weight");
        let mut running: Vec<Units> = Vec::new();
        let (mut next, mut now, mut steps) = (0, 0.0, 0);
        while next < 100 || scheduler.running() + scheduler.waiting() > 0 {
            steps += 1;
            assert!(steps < 10_000, "{name}, seed {seed}: nothing goes on");
            let mut events = Vec::new();
            if next < 100 && random.chance(0.6) {
                let demand = Demand::of("compute", random.below(10)).and("memory", random.below(12));
                let mut task = Task::new(next, demand).cost(0.1 + random.unit()).priority(random.below(3) as i32);
                task.tenant = TenantId(random.below(3) as u32);
                task.deadline = random.chance(0.2).then(|| seconds(now + random.unit() * 9.0));
                let least = random.between(0, 2) as u32;
                events.push(TaskEvent::Submit(task.units(least, least + random.below(3) as u32)));
                next += 1;
            }
            if !running.is_empty() && random.chance(0.5) {
                let units = running.swap_remove(random.below(running.len() as u64) as usize);
                events.push(TaskEvent::Ended(units.id));
            }
            if random.chance(0.1) {
                events.push(TaskEvent::Cancel(TaskId(random.below(next + 1))));
            }
            if random.chance(0.1) {
                events.push(TaskEvent::Shrunk { id: TaskId(random.below(next + 1)), units: random.below(4) as u32 });
            }
            now = if random.chance(0.02) { now - 3.0 } else { now + random.unit() };
            let plan = scheduler.step(events, seconds(now));
            scheduler.audit();
            running.extend(plan.start);
            for (id, _) in plan.waiting {
                assert!(scheduler.why(id).is_some());
            }
            for shrink in plan.shrink {
                scheduler.step([TaskEvent::Shrunk { id: shrink.id, units: shrink.units }], seconds(now));
            }
            let free = scheduler.machine().free("compute").expect("a resource");
            assert!(running.len() <= scheduler.running() && free <= 8, "{name}, seed {seed}");
            // What started in the step above is known by its own plan only; all that runs can be asked to end.
            if running.len() < scheduler.running() {
                running = (0..next)
                    .map(TaskId)
                    .filter(|&id| scheduler.is_running(id))
                    .map(|id| Units { id, units: 1 })
                    .collect();
            }
        }
        assert_eq!(scheduler.machine().free("memory"), Some(16));
        let held = (0..2).map(|tenant| scheduler.policy().tenant_rank(TenantId(tenant)));
        assert!(name != "drf" || held.sum::<f64>() == 0.0, "seed {seed}: who runs nothing holds nothing");
    }
}
