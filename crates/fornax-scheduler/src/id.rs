//! Names of tasks, requests, tenants, models and adapters: numbers that the caller chooses.

use std::fmt;

/// Declares a number with a name of its own.
macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// A task of the [`TaskScheduler`](crate::TaskScheduler).
    TaskId(u64);
    /// A request of the [`BatchScheduler`](crate::BatchScheduler): one prompt with one or more sequences.
    RequestId(u64);
    /// Whose work it is. Tenants are numbered from zero; [`TenantId::DEFAULT`] is always there.
    TenantId(u32);
    /// A model, by its place in [`BatchConfig::models`](crate::BatchConfig::models).
    ModelId(u16);
    /// An adapter (LoRA and its like) of a model.
    AdapterId(u32);
    /// A block of a model's KV memory.
    BlockId(u32);
    /// A plan, counted from one.
    PlanId(u64);
}

impl TenantId {
    /// The tenant of work that names none.
    pub const DEFAULT: Self = Self(0);
    /// The largest number of a tenant: tables are made for as many.
    pub const MOST: u32 = (1 << 20) - 1;
}

/// One sequence of a request: index 0 is the first, forks have others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId {
    /// The request.
    pub request: RequestId,
    /// Which of its sequences.
    pub index: u32,
}

impl SequenceId {
    /// The first sequence of `request`.
    pub const fn first(request: RequestId) -> Self {
        Self { request, index: 0 }
    }
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.request, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_their_numbers() {
        assert_eq!(SequenceId { request: RequestId(7), index: 2 }.to_string(), "7/2");
        assert_eq!(SequenceId::first(RequestId(9)).to_string(), "9/0");
        assert_eq!(format!("{:>4}|{:<3}|", TaskId(12), TenantId(3)), "  12|3  |");
    }
}
