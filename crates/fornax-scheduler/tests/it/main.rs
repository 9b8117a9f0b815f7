//! The integration tests: whole schedulers, driven from outside.

mod batch;
mod chaos;
mod policies;
mod simulation;
mod simulator;
mod tasks;
