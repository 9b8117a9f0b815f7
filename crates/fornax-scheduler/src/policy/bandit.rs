//! A contextual bandit that learns which policy serves the traffic at hand (UCB1: Auer, Cesa-Bianchi and Fischer, 2002,
//! <https://doi.org/10.1023/A:1013689704352>, one table a context).
//!
//! Time is cut into epochs. In each, one of the arms orders the tasks, and is rewarded at its end by the waiting that
//! happened in it. A task's slowdown is `1 + waited / cost`; what an epoch adds to the squares of the slowdowns of all who
//! wait in it, by a task that was taken on in it, is `J`, and the reward is `1 / √(1 + J)`: one over the root mean square of
//! slowdowns where all is steady, 1 where nobody waits, never below 0. Squares, because orders that are blind to size all
//! have the same mean: of those, first come first served has the least spread (Kingman, 1962), and among tasks that are
//! very unequal the shortest first makes even the squares smaller. And every second of waiting counts for the arm under
//! which it passed, not for the one under which it ended, so that no arm pays for what another has left behind, nor gains
//! by leaving it. It is reckoned with estimated costs while a task waits, and put right when the task ends and its cost is
//! known, so that an order that follows bad estimates does not find itself good.
//!
//! The context is what the queue looked like when the epoch began: how much work waits, and how unequal its parts are.
//!
//! There is no randomness in it: what is known least is tried next.

use super::aged_ratio::AgedRatio;
use super::fcfs::FirstCome;
use super::shortest::Shortest;
use super::{Bound, Candidate, Observation, Policy, PolicyEntry};
use crate::{SchedulerError, TenantId, Time};

/// The list's line.
pub const ENTRY: PolicyEntry = PolicyEntry {
    name: "bandit",
    summary: "learns which of fcfs, shortest and aged-ratio serves the traffic; `epoch` seconds each try",
    options: &[("epoch", 10.0), ("explore", 0.1)],
    make: |options| {
        let arms: Vec<Box<dyn Policy>> =
            vec![Box::new(FirstCome), Box::new(Shortest { ageing: 0.1 }), Box::new(AgedRatio { ageing: 0.1 })];
        Ok(Box::new(Bandit::new(arms, options.positive("epoch")?, options.not_negative("explore")?)?))
    },
};

/// How many contexts are told apart.
const CONTEXTS: usize = 6;

/// What one epoch was like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// When it ended.
    pub end: Time,
    /// The context it began in.
    pub context: usize,
    /// The arm that ordered.
    pub arm: &'static str,
    /// `1 / √(1 + J)`, with the mean square slowdown `J` that it added.
    pub reward: f64,
    /// How many tasks were taken on.
    pub served: u32,
}

/// What is known of an arm in a context.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    tries: f64,
    mean: f64,
}

/// Learns which of several policies serves best, by context.
#[derive(Clone, Debug)]
pub struct Bandit {
    arms: Vec<Box<dyn Policy>>,
    length: f64,
    explore: f64,
    table: Vec<[Record; CONTEXTS]>,
    current: usize,
    context: usize,
    began: Option<Time>,
    now: Time,
    queue: Waiting,
    served: u32,
    revision: u64,
    /// Of the tasks that wait: their number, the sum of their costs and of its squares.
    waiting: (f64, f64, f64),
    epochs: Vec<Epoch>,
}

/// Sums over the tasks that wait, by which squares of slowdowns are added up without looking at each.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    count: u64,
    /// Of `1 / cost`.
    inverse: f64,
    /// Of `1 / cost²`.
    inverse_square: f64,
    /// Of `waited / cost²`, up to `now`.
    waited: f64,
    /// What was added to the squares of slowdowns since the epoch began.
    added: f64,
}

/// The least cost in seconds that slowdowns are reckoned with.
const LEAST_COST: f64 = 1e-4;

impl Waiting {
    fn enter(&mut self, task: &Candidate, now: Time) {
        let inverse = 1.0 / task.cost.max(LEAST_COST);
        self.count += 1;
        self.inverse += inverse;
        self.inverse_square += inverse * inverse;
        self.waited += now.secs_since(task.arrival) * inverse * inverse;
    }

    fn leave(&mut self, task: &Candidate, now: Time) {
        let inverse = 1.0 / task.cost.max(LEAST_COST);
        self.count = self.count.saturating_sub(1);
        if self.count == 0 {
            // What rounding has left goes too.
            *self = Self { added: self.added, ..Self::default() };
            return;
        }
        self.inverse = (self.inverse - inverse).max(0.0);
        self.inverse_square = (self.inverse_square - inverse * inverse).max(0.0);
        self.waited = (self.waited - now.secs_since(task.arrival) * inverse * inverse).max(0.0);
    }

    /// Lets all who wait do so for `seconds` more: `(1 + (w + t) / c)² - (1 + w / c)²`, summed.
    fn pass(&mut self, seconds: f64) {
        self.added += seconds * (2.0 * self.inverse + 2.0 * self.waited + seconds * self.inverse_square);
        self.waited += seconds * self.inverse_square;
    }
}

impl Bandit {
    /// A bandit over `arms`, with epochs of `length` seconds. `explore` weighs what is not known well: 0 never looks back.
    ///
    /// # Errors
    /// [`SchedulerError::InvalidConfig`] without arms.
    pub fn new(arms: Vec<Box<dyn Policy>>, length: f64, explore: f64) -> Result<Self, SchedulerError> {
        if arms.is_empty() {
            return Err(SchedulerError::config("arms", "empty", "give the policies to choose from"));
        }
        let table = vec![[Record::default(); CONTEXTS]; arms.len()];
        Ok(Self {
            arms,
            length,
            explore,
            table,
            current: 0,
            context: 0,
            began: None,
            now: Time::ZERO,
            queue: Waiting::default(),
            served: 0,
            revision: 0,
            waiting: (0.0, 0.0, 0.0),
            epochs: Vec::new(),
        })
    }

    /// How much waits (nothing to speak of, some, much), and whether its parts are alike.
    fn context_now(&self) -> usize {
        let (count, sum, squares) = self.waiting;
        let load = if count < 2.0 {
            0
        } else if count < 64.0 {
            1
        } else {
            2
        };
        let mean = sum / count.max(1.0);
        // The square of the coefficient of variation: 1 for an exponential distribution.
        let uneven = squares / count.max(1.0) > 2.0 * mean * mean;
        load * 2 + usize::from(uneven)
    }

    /// The arm with the highest upper confidence bound; an untried one first.
    fn best(&self) -> usize {
        let context = self.context;
        let tries: f64 = self.table.iter().map(|records| records[context].tries).sum();
        let bound = |record: &Record| {
            if record.tries == 0.0 {
                f64::INFINITY
            } else {
                record.mean + self.explore * (2.0 * tries.ln() / record.tries).sqrt()
            }
        };
        let mut best = 0;
        for arm in 1..self.arms.len() {
            if bound(&self.table[arm][context]) > bound(&self.table[best][context]) {
                best = arm;
            }
        }
        best
    }

    fn close(&mut self, now: Time) {
        if self.served > 0 || self.queue.added > 0.0 {
            // Costs that were higher than estimated may take off more than this epoch added.
            let reward = (1.0 + self.queue.added.max(0.0) / f64::from(self.served.max(1))).sqrt().recip();
            let record = &mut self.table[self.current][self.context];
            record.tries += 1.0;
            record.mean += (reward - record.mean) / record.tries;
            let arm = self.arms[self.current].name();
            self.epochs.push(Epoch { end: now, context: self.context, arm, reward, served: self.served });
        }
        self.queue.added = 0.0;
        self.served = 0;
        self.context = self.context_now();
        let best = self.best();
        if best != self.current {
            self.current = best;
            self.revision += 1;
        }
        self.began = Some(now);
    }
}

impl Policy for Bandit {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn rank(&self, task: &Candidate, now: Time) -> f64 {
        self.arms[self.current].rank(task, now)
    }

    fn bound(&self) -> Bound {
        // Every arm may order for any time, so that no more holds than holds for each; spans do not add up simply.
        Bound::Unbounded
    }

    fn changes(&self) -> bool {
        self.arms[self.current].changes()
    }

    fn crossing(&self, ahead: &Candidate, behind: &Candidate, now: Time) -> Option<Time> {
        self.arms[self.current].crossing(ahead, behind, now)
    }

    fn by_tenant(&self) -> bool {
        self.arms[self.current].by_tenant()
    }

    fn tenant_rank(&self, tenant: TenantId) -> f64 {
        self.arms[self.current].tenant_rank(tenant)
    }

    fn observe(&mut self, observation: &Observation) {
        for arm in &mut self.arms {
            arm.observe(observation);
        }
        match *observation {
            Observation::Step { now } => {
                self.queue.pass(now.secs_since(self.now));
                self.now = self.now.max(now);
                match self.began {
                    None => self.began = Some(now),
                    Some(began) if now.secs_since(began) >= self.length => self.close(now),
                    Some(_) => {}
                }
            }
            Observation::Queued { task, .. } => {
                self.queue.enter(&task, self.now);
                self.waiting.0 += 1.0;
                self.waiting.1 += task.cost;
                self.waiting.2 += task.cost * task.cost;
            }
            Observation::Unqueued { task } => {
                self.queue.leave(&task, self.now);
                self.waiting.0 = (self.waiting.0 - 1.0).max(0.0);
                self.waiting.1 = (self.waiting.1 - task.cost).max(0.0);
                self.waiting.2 = (self.waiting.2 - task.cost * task.cost).max(0.0);
            }
            Observation::Admitted { .. } => self.served += 1,
            Observation::Ended { task, cost, waited } => {
                let square = |cost: f64| (1.0 + waited / cost.max(LEAST_COST)).powi(2);
                self.queue.added += square(cost) - square(task.cost);
            }
            _ => {}
        }
    }

    fn wants_service(&self) -> bool {
        self.arms.iter().any(|arm| arm.wants_service())
    }

    fn wants_holdings(&self) -> bool {
        self.arms.iter().any(|arm| arm.wants_holdings())
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn learns_from(&self) -> Vec<&'static str> {
        self.arms.iter().map(|arm| arm.name()).collect()
    }

    fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(cost: f64) -> Candidate {
        Candidate {
            number: 0,
            tenant: TenantId::DEFAULT,
            arrival: Time::ZERO,
            priority: 0,
            demand: 1.0,
            cost,
            deadline: Time::NEVER,
        }
    }

    fn bandit() -> Bandit {
        Bandit::new(vec![Box::new(FirstCome), Box::new(Shortest { ageing: 0.0 })], 1.0, 0.2).expect("two arms")
    }

    /// Runs `epochs` in which the arm of the given name makes tasks wait for a tenth of a second, others for most of the epoch.
    fn teach(bandit: &mut Bandit, favourite: &str, from: u64, epochs: u64) {
        for second in from..from + epochs {
            let at = |micros: u64| Time::from_micros(second * 1_000_000 + micros);
            bandit.observe(&Observation::Step { now: at(0) });
            let task = Candidate { arrival: at(0), ..task(0.1) };
            bandit.observe(&Observation::Queued { task, front: None });
            let waited = if bandit.arms[bandit.current].name() == favourite { 100_000 } else { 900_000 };
            bandit.observe(&Observation::Step { now: at(waited) });
            bandit.observe(&Observation::Unqueued { task });
            bandit.observe(&Observation::Admitted { task, input: 1.0 });
        }
    }

    #[test]
    fn the_better_arm_is_found() {
        for favourite in ["fcfs", "shortest"] {
            let mut bandit = bandit();
            teach(&mut bandit, favourite, 0, 100);
            let late = &bandit.epochs()[50..];
            let right = late.iter().filter(|epoch| epoch.arm == favourite).count();
            assert!(right * 10 >= late.len() * 9, "{favourite}: {right} of {}", late.len());
            assert!(bandit.revision() > 0);
        }
    }

    #[test]
    fn contexts_are_learned_apart() {
        let mut bandit = bandit();
        teach(&mut bandit, "fcfs", 0, 40);
        assert_eq!(bandit.context, 0);
        // Many unequal tasks: another context, of which nothing is known, so that both arms are tried there.
        let crowd = |index| Candidate { arrival: Time::NEVER, ..task(if index % 20 == 0 { 50_000.0 } else { 100.0 }) };
        (0..200).for_each(|index| bandit.observe(&Observation::Queued { task: crowd(index), front: None }));
        teach(&mut bandit, "shortest", 40, 40);
        assert_eq!(bandit.context, 5);
        assert_eq!(bandit.epochs().last().expect("epochs").arm, "shortest");
        (0..200).for_each(|index| bandit.observe(&Observation::Unqueued { task: crowd(index) }));
        teach(&mut bandit, "fcfs", 80, 5);
        assert_eq!(bandit.context, 0);
        assert_eq!(bandit.epochs().last().expect("epochs").arm, "fcfs");
    }

    #[test]
    fn rewards_are_those_of_the_slowdowns_that_an_epoch_added() {
        let mut bandit = bandit();
        let second = |at: f64| Time::from_secs_f64(at);
        bandit.observe(&Observation::Step { now: Time::ZERO });
        let tasks = [2.0, 1.0].map(task);
        for task in tasks {
            bandit.observe(&Observation::Queued { task, front: None });
        }
        bandit.observe(&Observation::Step { now: second(0.5) });
        bandit.observe(&Observation::Unqueued { task: tasks[1] });
        bandit.observe(&Observation::Admitted { task: tasks[1], input: 1.0 });
        bandit.observe(&Observation::Step { now: second(0.999_999) });
        assert!(bandit.epochs().is_empty());
        bandit.observe(&Observation::Step { now: second(1.0) });
        // Slowdowns went from 1 to 1.5 in both cases: 2 · (1.5² - 1) for the one task that was taken on.
        let [epoch] = bandit.epochs() else { panic!("one epoch") };
        assert!((epoch.reward - (1.0 + 2.5f64).sqrt().recip()).abs() < 1e-9, "{epoch:?}");
        assert_eq!(epoch.served, 1);
        // The next is charged with what it adds, from 1.5 to 2, even if it takes on nobody.
        bandit.observe(&Observation::Step { now: second(2.0) });
        let epoch = bandit.epochs()[1];
        assert!((epoch.reward - (1.0 + 1.75f64).sqrt().recip()).abs() < 1e-9, "{epoch:?}");
        bandit.observe(&Observation::Unqueued { task: tasks[0] });
        assert_eq!((bandit.queue.inverse, bandit.queue.waited), (0.0, 0.0));
        // Where nobody waits and nobody is served, there is nothing to learn; who need not wait is served perfectly.
        bandit.observe(&Observation::Step { now: second(3.0) });
        assert_eq!(bandit.epochs().len(), 2);
        bandit.observe(&Observation::Admitted { task: tasks[0], input: 1.0 });
        bandit.observe(&Observation::Step { now: second(4.0) });
        assert_eq!(bandit.epochs()[2].reward, 1.0);
        // What took twice as long as estimated had half the slowdown: (1 + 1/2)² instead of (1 + 1)².
        bandit.observe(&Observation::Ended { task: tasks[1], cost: 2.0, waited: 1.0 });
        assert_eq!(bandit.queue.added, 2.25 - 4.0);
        bandit.observe(&Observation::Admitted { task: tasks[0], input: 1.0 });
        bandit.observe(&Observation::Step { now: second(5.0) });
        assert_eq!(bandit.epochs()[3].reward, 1.0);
        assert!(Bandit::new(Vec::new(), 1.0, 0.0).is_err());
    }

    #[test]
    fn one_that_waits_again_goes_on_from_how_long_it_has_waited() {
        let mut bandit = bandit();
        bandit.observe(&Observation::Step { now: Time::from_secs_f64(1.0) });
        bandit.observe(&Observation::Queued { task: task(2.0), front: None });
        bandit.observe(&Observation::Step { now: Time::from_secs_f64(2.0) });
        // It came a second before, and costs two: its slowdown went from 1.5 to 2, as if it had not run in between.
        let [epoch] = bandit.epochs() else { panic!("one epoch") };
        assert!((epoch.reward - (1.0f64 + 4.0 - 2.25).sqrt().recip()).abs() < 1e-9, "{epoch:?}");
    }

    /// The context of a bandit with tasks of these costs in the queue.
    fn context(costs: &[f64]) -> usize {
        let mut bandit = bandit();
        for &cost in costs {
            bandit.observe(&Observation::Queued { task: task(cost), front: None });
        }
        bandit.context_now()
    }

    #[test]
    fn contexts_tell_loads_and_the_unequal() {
        let alike = |count| context(&vec![5.0; count]);
        assert_eq!([0, 1, 2, 63, 64, 500].map(alike), [0, 0, 2, 2, 4, 4]);
        // Costs whose deviation exceeds their mean are unequal, whatever their unit.
        for unit in [0.01, 1.0, 7.0, 100.0] {
            let uneven = |large: f64| context(&[unit, unit, unit, unit, unit, unit, unit, unit, unit, large * unit]);
            assert_eq!([1.0, 5.0, 10.0, 50.0].map(uneven), [2, 2, 3, 3], "{unit}");
            let two = |share: f64| context(&[vec![unit; 60], vec![share * unit; 5]].concat());
            assert_eq!([2.0, 5.0, 9.0].map(two), [4, 4, 5], "{unit}");
        }
    }

    #[test]
    fn those_who_left_the_queue_no_longer_count() {
        let mut bandit = bandit();
        let costs: Vec<f64> = (0..100).map(|index| if index % 10 == 0 { 90.0 } else { 1.0 }).collect();
        for &cost in &costs {
            bandit.observe(&Observation::Queued { task: task(cost), front: None });
        }
        assert_eq!(bandit.context_now(), 5);
        // The large tasks leave. The remaining tasks are many, and alike.
        for &cost in costs.iter().filter(|&&cost| cost > 1.0) {
            bandit.observe(&Observation::Unqueued { task: task(cost) });
        }
        assert_eq!(bandit.context_now(), 4);
        for _ in 0..89 {
            bandit.observe(&Observation::Unqueued { task: task(1.0) });
        }
        assert_eq!(bandit.context_now(), 0);
        // Rounding errors, or tasks that were never queued, do not make the sums negative.
        for _ in 0..3 {
            bandit.observe(&Observation::Unqueued { task: task(2.0) });
        }
        assert_eq!(bandit.waiting, (0.0, 0.0, 0.0));
    }

    /// The choices of UCB1, as its paper has them, where each arm always gives the same reward.
    fn upper_confidence(rewards: &[f64], explore: f64, epochs: usize) -> Vec<usize> {
        let mut tries = vec![0.0f64; rewards.len()];
        (0..epochs)
            .map(|epoch| {
                let total = epoch as f64;
                let bounds: Vec<f64> = (0..rewards.len())
                    .map(|arm| {
                        let unsure = (2.0 * total.ln() / tries[arm]).sqrt();
                        if tries[arm] == 0.0 { f64::INFINITY } else { rewards[arm] + explore * unsure }
                    })
                    .collect();
                let most = bounds.iter().copied().fold(f64::MIN, f64::max);
                let arm = bounds.iter().position(|&bound| bound == most).expect("there are arms");
                tries[arm] += 1.0;
                arm
            })
            .collect()
    }

    /// Lets the epoch that begins at `second` have this reward: one task waits all of it, and is taken on.
    fn reward(bandit: &mut Bandit, second: u64, reward: f64) {
        let at = |second: u64| Time::from_micros(second * 1_000_000);
        let cost = 1.0 / (1.0 / reward - 1.0);
        let task = Candidate { arrival: at(second), ..task(cost) };
        bandit.observe(&Observation::Queued { task, front: None });
        bandit.observe(&Observation::Admitted { task, input: 1.0 });
        bandit.observe(&Observation::Step { now: at(second + 1) });
        bandit.observe(&Observation::Unqueued { task });
    }

    #[test]
    fn arms_are_tried_as_the_paper_has_it() {
        let names = ["fcfs", "shortest", "aged-ratio"];
        for (explore, rewards) in [(0.2, [0.3, 0.5, 0.45]), (1.0, [0.9, 0.1, 0.8]), (0.0, [0.2, 0.6, 0.5])] {
            let arms: Vec<Box<dyn Policy>> =
                vec![Box::new(FirstCome), Box::new(Shortest { ageing: 0.0 }), Box::new(AgedRatio { ageing: 0.1 })];
            let mut bandit = Bandit::new(arms, 1.0, explore).expect("three arms");
            bandit.observe(&Observation::Step { now: Time::ZERO });
            for second in 0..300 {
                let given = rewards[bandit.current];
                reward(&mut bandit, second, given);
            }
            let chosen: Vec<&str> = bandit.epochs().iter().map(|epoch| epoch.arm).collect();
            let expected: Vec<&str> = upper_confidence(&rewards, explore, 300).iter().map(|&arm| names[arm]).collect();
            assert_eq!(chosen, expected, "{explore}");
        }
    }

    #[test]
    fn the_mean_of_an_arm_is_that_of_its_rewards() {
        let mut bandit = Bandit::new(vec![Box::new(FirstCome)], 1.0, 0.0).expect("an arm");
        bandit.observe(&Observation::Step { now: Time::ZERO });
        for (second, given) in [(0, 0.9), (1, 0.6), (2, 0.25), (3, 0.25)] {
            reward(&mut bandit, second, given);
        }
        let Record { tries, mean } = bandit.table[0][0];
        assert!(tries == 4.0 && (mean - 0.5).abs() < 1e-9, "{mean} of {tries}");
        // The one arm there is stays, so that no rank changes at once.
        assert_eq!(bandit.revision(), 0);
    }

    #[test]
    fn it_orders_as_the_arm_at_work_does() {
        let arms = |first: &str| {
            let second = crate::policy("priority").expect("a policy");
            Bandit::new(vec![crate::policy(first).expect("a policy"), second], 1.0, 0.0).expect("two arms")
        };
        assert_eq!(arms("drf").learns_from(), ["drf", "priority"]);
        let (now, late) = (Time::from_secs_f64(4.0), Candidate { cost: 9.0, ..task(3.0) });
        for name in ["fcfs", "shortest", "ratio", "aged-ratio", "vtc", "drf"] {
            let (mut bandit, mut alone) = (arms(name), crate::policy(name).expect("a policy"));
            for observation in [
                Observation::Tenant { tenant: TenantId(1), weight: 2.0 },
                Observation::Admitted { task: Candidate { tenant: TenantId(1), ..late }, input: 8.0 },
                Observation::Held { tenant: TenantId(1), resource: 0, share: 0.5 },
            ] {
                bandit.observe(&observation);
                alone.observe(&observation);
            }
            for task in [task(1.0), late] {
                assert_eq!(bandit.rank(&task, now), alone.rank(&task, now), "{name}");
            }
            assert_eq!(bandit.crossing(&task(1.0), &late, now), alone.crossing(&task(1.0), &late, now), "{name}");
            assert_eq!((bandit.changes(), bandit.by_tenant()), (alone.changes(), alone.by_tenant()), "{name}");
            assert_eq!(bandit.tenant_rank(TenantId(1)), alone.tenant_rank(TenantId(1)), "{name}");
            assert_eq!(bandit.wants_service(), alone.wants_service(), "{name}");
            assert_eq!(bandit.wants_holdings(), alone.wants_holdings(), "{name}");
        }
    }
}
