//! What a scheduler would do to your traffic: the very same scheduler and router, with made-up requests and a model of time.
//!
//! A [`Workload`] brings requests, a [`CostModel`] says how long a step takes, a [`Fleet`] lets them meet and gives a
//! [`Report`]. The same seed gives the same report. What is simulated is time and text; nothing of the scheduler is.
//!
//! With the feature `simulate`, a `Scenario` is read from TOML, with several variants to compare, and reports come as JSON;
//! [`plot`] draws them as SVG.

mod balance;
mod cost;
mod fleet;
mod histogram;
pub mod plot;
mod report;
#[cfg(feature = "simulate")]
mod scenario;
mod trace;

pub use balance::Balance;
pub use cost::{CostModel, Fitted, Roofline, StepLoad, StepSample};
pub use fleet::{Fleet, FleetConfig};
pub use histogram::Histogram;
pub use report::{ClassReport, Report, comparison};
#[cfg(feature = "simulate")]
pub use scenario::{BUILT_IN, Outcome, Scenario, simulate};
pub use trace::{Arrivals, Class, Length, Prefix, TraceRequest, Turns, Workload, WorkloadIter};
