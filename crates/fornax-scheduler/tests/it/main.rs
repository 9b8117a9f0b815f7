//! The integration tests: whole schedulers, driven from outside.

mod accounts;
mod adversaries;
mod batch;
mod boundaries;
mod chaos;
mod engine;
mod fleet;
mod in_flight;
mod outcomes;
mod plots;
mod policies;
mod samples;
#[cfg(feature = "simulate")]
mod scenarios;
mod simulation;
mod simulator;
mod tasks;
mod traffic;
mod truth;
