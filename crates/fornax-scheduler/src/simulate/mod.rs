//! What the schedulers would do with your traffic: the very same scheduler and router, with made-up requests and a
//! model of time.
//!
//! A [`Workload`] makes requests, a [`CostModel`] says how long a step takes, and a [`Fleet`] serves the requests and
//! gives a [`Report`]. The same seed gives the same report. Time and texts are simulated; the scheduler and the router
//! are not.
//!
//! An [`Outcome`] holds the reports of several variants side by side: as tables, as plots in SVG ([`plot`]), and, with the
//! feature `simulate`, as JSON. With that feature a `Scenario` is read from TOML and a trace from JSON lines.

mod balance;
mod cost;
mod fleet;
mod fleet_config;
#[cfg(feature = "simulate")]
mod format;
mod histogram;
#[cfg(feature = "simulate")]
mod jsonl;
mod live;
mod outcome;
pub mod plot;
mod ranges;
mod report;
#[cfg(feature = "simulate")]
mod scenario;
mod table;
mod trace;

pub use balance::Balance;
pub use cost::{CostModel, Fitted, Roofline, StepLoad, StepSample};
pub use fleet::Fleet;
pub use fleet_config::FleetConfig;
#[cfg(feature = "simulate")]
pub use format::{Name, TimeUnit, TraceFormat};
pub use histogram::Histogram;
pub use outcome::{Distance, Outcome, Regret};
pub use report::{ClassReport, Report, TenantReport};
#[cfg(feature = "simulate")]
pub use scenario::{BUILT_IN, Prediction, Progress, Scenario, Variant, simulate, summary};
pub use table::Table;
pub use trace::{
    Arrivals, Class, Length, MOST_REQUESTS, MOST_TOKENS, Prefix, Trace, TraceRequest, Turns, Workload, WorkloadIter,
};
