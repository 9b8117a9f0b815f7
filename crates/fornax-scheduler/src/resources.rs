//! Named resources, and the manager that hands them out: it never gives more than there is, and loses none.
//!
//! Amounts are whole numbers in units of the caller's choice (bytes, millicores, slots), so that nothing is lost to
//! rounding. What order tasks come in is not decided here.

use std::collections::BTreeMap;

use crate::SchedulerError;

/// A resource of a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Its name, such as `compute`, `memory` or `storage`.
    pub name: String,
    /// How much there is, in units of the caller's choice.
    pub capacity: u64,
    /// The weight of this resource in a demand's single number ([`ResourceManager::weigh`]).
    pub weight: f64,
}

/// What a task asks for: amounts by name. A name that stands twice counts twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand(Vec<(String, u64)>);

impl Demand {
    /// Nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// `amount` of one resource.
    pub fn of(resource: impl Into<String>, amount: u64) -> Self {
        Self(vec![(resource.into(), amount)])
    }

    /// The same and `amount` of one resource more.
    #[must_use]
    pub fn and(mut self, resource: impl Into<String>, amount: u64) -> Self {
        self.0.push((resource.into(), amount));
        self
    }

    /// Names and amounts, as given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }
}

/// Amounts in the order of a manager's resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amounts(Vec<u64>);

impl Amounts {
    /// One amount a resource.
    pub fn as_slice(&self) -> &[u64] {
        &self.0
    }

    /// `units` times as much; saturates, which then fits nowhere.
    #[must_use]
    pub fn times(&self, units: u32) -> Self {
        Self(self.0.iter().map(|amount| amount.saturating_mul(u64::from(units))).collect())
    }
}

/// What is held, until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Allocation(u64);

/// Keeps account of a machine's resources.
///
/// ```
/// use fornax_scheduler::{Demand, ResourceManager};
///
/// let mut machine = ResourceManager::new([("compute", 4), ("memory", 16)])?;
/// let demand = machine.resolve(&Demand::of("compute", 3).and("memory", 4))?;
/// let held = machine.allocate(&demand)?;
/// assert_eq!(machine.free("compute"), Some(1));
/// assert!(machine.allocate(&demand).is_err()); // "3 of "compute" are needed and 1 are free"
/// machine.release(held)?;
/// assert!(machine.release(held).is_err()); // a second time is an error, and changes nothing
/// # Ok::<(), fornax_scheduler::SchedulerError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ResourceManager {
    resources: Vec<Resource>,
    free: Vec<u64>,
    held: BTreeMap<Allocation, Amounts>,
    next: u64,
}

impl ResourceManager {
    /// A machine with these capacities, each unit of weight 1.
    ///
    /// # Errors
    /// [`SchedulerError::DuplicateResource`].
    pub fn new<N: Into<String>>(capacities: impl IntoIterator<Item = (N, u64)>) -> Result<Self, SchedulerError> {
        Self::weighted(capacities.into_iter().map(|(name, capacity)| Resource {
            name: name.into(),
            capacity,
            weight: 1.0,
        }))
    }

    /// A machine with these resources.
    ///
    /// # Errors
    /// [`SchedulerError::DuplicateResource`], or [`SchedulerError::InvalidNumber`] for a weight that is negative or not finite.
    pub fn weighted(resources: impl IntoIterator<Item = Resource>) -> Result<Self, SchedulerError> {
        let mut all: Vec<Resource> = Vec::new();
        for resource in resources {
            if all.iter().any(|other| other.name == resource.name) {
                return Err(SchedulerError::DuplicateResource { name: resource.name });
            }
            if !resource.weight.is_finite() || resource.weight < 0.0 {
                return Err(SchedulerError::InvalidNumber {
                    what: "the weight of a resource",
                    found: resource.weight.to_string(),
                    expected: "a finite number that is not negative",
                });
            }
            all.push(resource);
        }
        let free = all.iter().map(|resource| resource.capacity).collect();
        Ok(Self { resources: all, free, held: BTreeMap::new(), next: 0 })
    }

    /// The resources, in the order of [`Amounts`].
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// How much of a resource is free; none if there is no such resource.
    pub fn free(&self, name: &str) -> Option<u64> {
        self.position(name).map(|at| self.free[at])
    }

    /// How many allocations are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// `demand` in this machine's order.
    ///
    /// # Errors
    /// [`SchedulerError::UnknownResource`].
    pub fn resolve(&self, demand: &Demand) -> Result<Amounts, SchedulerError> {
        let mut amounts = vec![0u64; self.resources.len()];
        for (name, amount) in demand.iter() {
            let Some(at) = self.position(name) else {
                let known = self.resources.iter().map(|resource| resource.name.clone()).collect();
                return Err(SchedulerError::UnknownResource { name: name.to_owned(), known });
            };
            amounts[at] = amounts[at].saturating_add(amount);
        }
        Ok(Amounts(amounts))
    }

    /// A demand as one number: its dominant share. For each resource that is the demanded amount over the capacity,
    /// times the resource's weight; the largest counts. With weights of 1 it lies between 0 and 1, whatever the units
    /// of amounts.
    pub fn weigh(&self, amounts: &Amounts) -> f64 {
        let part = |(resource, &amount): (&Resource, &u64)| match amount {
            0 => 0.0,
            _ => resource.weight * amount as f64 / resource.capacity as f64,
        };
        self.resources.iter().zip(&amounts.0).map(part).fold(0.0, f64::max)
    }

    /// Whether `amounts` would fit an idle machine.
    ///
    /// # Errors
    /// [`SchedulerError::NeverFits`], naming the first resource that is too small.
    pub fn check_possible(&self, amounts: &Amounts) -> Result<(), SchedulerError> {
        match self.resources.iter().zip(&amounts.0).find(|(resource, amount)| **amount > resource.capacity) {
            None => Ok(()),
            Some((resource, &needed)) => {
                Err(SchedulerError::NeverFits { resource: resource.name.clone(), needed, capacity: resource.capacity })
            }
        }
    }

    /// Whether `amounts` are free now.
    ///
    /// # Errors
    /// [`SchedulerError::NotEnough`], naming the first resource of which there is not enough.
    pub fn check_free(&self, amounts: &Amounts) -> Result<(), SchedulerError> {
        match self.free.iter().zip(&amounts.0).position(|(free, amount)| amount > free) {
            None => Ok(()),
            Some(at) => Err(SchedulerError::NotEnough {
                resource: self.resources[at].name.clone(),
                needed: amounts.0[at],
                free: self.free[at],
            }),
        }
    }

    /// Takes `amounts`, all or nothing.
    ///
    /// # Errors
    /// [`SchedulerError::NotEnough`]; then nothing is taken.
    pub fn allocate(&mut self, amounts: &Amounts) -> Result<Allocation, SchedulerError> {
        self.check_free(amounts)?;
        for (free, amount) in self.free.iter_mut().zip(&amounts.0) {
            *free -= amount;
        }
        let allocation = Allocation(self.next);
        self.next += 1;
        self.held.insert(allocation, amounts.clone());
        Ok(allocation)
    }

    /// Changes what `allocation` holds to `amounts`, all or nothing.
    ///
    /// # Errors
    /// [`SchedulerError::NotHeld`], or [`SchedulerError::NotEnough`] if the additional amounts are not free. Then
    /// nothing changes.
    pub fn resize(&mut self, allocation: Allocation, amounts: &Amounts) -> Result<(), SchedulerError> {
        let held = self.held.get_mut(&allocation).ok_or(SchedulerError::NotHeld { id: allocation.0 })?;
        let short = (0..self.free.len()).find(|&at| amounts.0[at] > self.free[at] + held.0[at]);
        if let Some(at) = short {
            return Err(SchedulerError::NotEnough {
                resource: self.resources[at].name.clone(),
                needed: amounts.0[at] - held.0[at],
                free: self.free[at],
            });
        }
        for ((free, had), has) in self.free.iter_mut().zip(&held.0).zip(&amounts.0) {
            *free = *free + had - has;
        }
        *held = amounts.clone();
        Ok(())
    }

    /// Gives back what `allocation` holds.
    ///
    /// # Errors
    /// [`SchedulerError::NotHeld`] where it was given back before; then nothing changes.
    pub fn release(&mut self, allocation: Allocation) -> Result<(), SchedulerError> {
        let amounts = self.held.remove(&allocation).ok_or(SchedulerError::NotHeld { id: allocation.0 })?;
        for (free, amount) in self.free.iter_mut().zip(&amounts.0) {
            *free += amount;
        }
        Ok(())
    }

    /// Checks that the free and the held amounts make up the machine.
    ///
    /// # Panics
    /// If they do not, which is a fault of this crate.
    pub fn audit(&self) {
        for (at, resource) in self.resources.iter().enumerate() {
            let held: u64 = self.held.values().map(|amounts| amounts.0[at]).sum();
            assert!(
                self.free[at] + held == resource.capacity,
                "{}: {} free and {held} held are not {}",
                resource.name,
                self.free[at],
                resource.capacity
            );
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.resources.iter().position(|resource| resource.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;

    fn machine() -> ResourceManager {
        ResourceManager::new([("compute", 4), ("memory", 10)]).expect("two names")
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let mut machine = machine();
        let large = machine.resolve(&Demand::of("compute", 3).and("memory", 9)).expect("known names");
        let held = machine.allocate(&large).expect("an idle machine");
        let small = machine.resolve(&Demand::of("memory", 2)).expect("known names");
        let error = machine.allocate(&small).expect_err("one is free");
        assert_eq!(error, SchedulerError::NotEnough { resource: "memory".into(), needed: 2, free: 1 });
        assert_eq!((machine.free("compute"), machine.free("memory"), machine.held()), (Some(1), Some(1), 1));
        machine.release(held).expect("it is held");
        assert_eq!(machine.release(held), Err(SchedulerError::NotHeld { id: 0 }));
        assert_eq!((machine.free("compute"), machine.free("memory"), machine.held()), (Some(4), Some(10), 0));
        machine.audit();
    }

    #[test]
    fn names_and_sizes_are_checked() {
        let machine = machine();
        let error = machine.resolve(&Demand::of("disk", 1)).expect_err("no disk");
        assert!(error.to_string().contains("compute, memory"), "{error}");
        let amounts = machine.resolve(&Demand::of("compute", 2).and("compute", 3)).expect("known names");
        assert_eq!(amounts.as_slice(), [5, 0]);
        let never = SchedulerError::NeverFits { resource: "compute".into(), needed: 5, capacity: 4 };
        assert_eq!(machine.check_possible(&amounts), Err(never));
        assert!(machine.check_possible(&amounts.times(0)).is_ok());
        let most = machine.resolve(&Demand::of("memory", u64::MAX).and("memory", 1)).expect("known names");
        assert!(machine.check_possible(&most.times(9)).is_err());
        assert!(ResourceManager::new([("a", 1), ("a", 2)]).is_err());
        let weightless = Resource { name: "a".into(), capacity: 1, weight: f64::NAN };
        assert!(ResourceManager::weighted([weightless]).is_err());
        let negative = Resource { name: "a".into(), capacity: 1, weight: -1.0 };
        assert!(ResourceManager::weighted([negative]).is_err());
        let free = Resource { name: "a".into(), capacity: 1, weight: 0.0 };
        assert!(ResourceManager::weighted([free]).is_ok(), "what counts nothing is a resource all the same");
        assert_eq!(machine.free("disk"), None);
    }

    #[test]
    fn a_demand_is_weighed() {
        let resource = |name: &str, weight| Resource { name: name.into(), capacity: 9, weight };
        let machine = ResourceManager::weighted([resource("a", 2.0), resource("b", 0.5)]).expect("two names");
        let weigh = |demand: &Demand| machine.weigh(&machine.resolve(demand).expect("known names"));
        assert_eq!(weigh(&Demand::of("a", 3).and("b", 4)), 2.0 / 3.0, "the larger of 2 · 3/9 and 0.5 · 4/9");
        assert_eq!(weigh(&Demand::of("b", 9)), 0.5);
        assert_eq!(weigh(&Demand::none()), 0.0);
        // In bytes or in gigabytes, it is the same part of the machine.
        for unit in [1, 1 << 30] {
            let machine = ResourceManager::new([("memory", 8 * unit), ("compute", 4)]).expect("two names");
            let demand = Demand::of("memory", 3 * unit).and("compute", 1);
            assert_eq!(machine.weigh(&machine.resolve(&demand).expect("known names")), 0.375);
        }
    }

    #[test]
    fn sizes_change_all_or_nothing() {
        let mut machine = machine();
        let unit = machine.resolve(&Demand::of("compute", 1).and("memory", 3)).expect("known names");
        let held = machine.allocate(&unit).expect("an idle machine");
        machine.resize(held, &unit.times(3)).expect("nine of ten");
        assert_eq!(machine.free("memory"), Some(1));
        let error = machine.resize(held, &unit.times(4)).expect_err("twelve of ten");
        assert_eq!(error, SchedulerError::NotEnough { resource: "memory".into(), needed: 3, free: 1 });
        machine.resize(held, &unit).expect("less");
        assert_eq!((machine.free("compute"), machine.free("memory")), (Some(3), Some(7)));
        machine.release(held).expect("it is held");
        assert!(machine.resize(held, &unit).is_err());
        machine.audit();
    }

    #[test]
    #[should_panic(expected = "memory: 10 free and 1 held are not 10")]
    fn an_audit_finds_what_was_given_twice() {
        let mut machine = machine();
        let unit = machine.resolve(&Demand::of("memory", 1)).expect("a known name");
        machine.allocate(&unit).expect("an idle machine");
        machine.free[1] = 10;
        machine.audit();
    }

    #[test]
    fn the_books_balance_whatever_happens() {
        let mut random = Random::new(11);
        let mut machine = machine();
        let mut held: Vec<Allocation> = Vec::new();
        for _ in 0..20_000 {
            let demand = Demand::of("compute", random.below(5)).and("memory", random.below(12));
            let amounts = machine.resolve(&demand).expect("known names");
            match random.below(4) {
                0 | 1 => held.extend(machine.allocate(&amounts).ok()),
                2 if !held.is_empty() => {
                    let at = random.below(held.len() as u64) as usize;
                    let _ = machine.resize(held[at], &amounts);
                }
                _ if !held.is_empty() => {
                    let allocation = held.swap_remove(random.below(held.len() as u64) as usize);
                    machine.release(allocation).expect("it is held");
                    assert!(machine.release(allocation).is_err());
                }
                _ => {}
            }
            machine.audit();
            assert_eq!(machine.held(), held.len());
        }
    }
}
