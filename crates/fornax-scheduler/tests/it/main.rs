//! The integration tests: whole schedulers, driven from outside.

mod accounts;
mod batch;
mod boundaries;
mod chaos;
mod fleet;
mod outcomes;
mod plots;
mod policies;
#[cfg(feature = "simulate")]
mod scenarios;
mod simulation;
mod simulator;
mod tasks;
mod traffic;
mod truth;
