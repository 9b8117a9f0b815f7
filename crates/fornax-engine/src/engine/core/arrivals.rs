//! Requests that come while a step is computed: they wait for the end of the step, and that time counts.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use fornax_scheduler::{BatchConfig, BatchScheduler, ModelId, Plan, policy};

use super::mock::{Faults, Mock};
use super::schedules::model;
use crate::EngineError;
use crate::engine::{EngineHandle, Submit};
use crate::executor::{Executor, StepOutput, Work};
use crate::sampling::SamplingParams;

/// Says when a step begins, and computes it when it is told to.
struct Gated {
    mock: Mock,
    began: Sender<()>,
    go: Receiver<()>,
}

impl Executor for Gated {
    fn move_blocks(&mut self, plan: &Plan) -> Result<(), EngineError> {
        self.mock.move_blocks(plan)
    }

    fn compute(&mut self, model: ModelId, work: &[Work<'_>]) -> Result<StepOutput, EngineError> {
        self.began.send(()).expect("the test waits for it");
        // Once the test is done with gates, all are open.
        let _ = self.go.recv();
        self.mock.compute(model, work)
    }
}

#[test]
fn a_deadline_counts_from_the_call_and_not_from_the_step_that_takes_the_request_in() {
    let (began, begins) = channel();
    let (gate, go) = channel();
    let gated = Gated { mock: Mock::new(16, Faults::default(), 1), began, go };
    let config = BatchConfig::default();
    let scheduler = BatchScheduler::new(config, policy("fcfs").expect("known")).expect("valid");
    let engine = EngineHandle::start_with(vec![model()], scheduler, gated).expect("it starts");
    let params = SamplingParams::default().max_new_tokens(1).ignore_eos(true);
    let first = engine.stream(vec![7, 8, 9], &params).expect("valid");
    begins.recv().expect("the engine runs");
    // A step would be enough for it, but the step under way takes longer than it has.
    let submit = Submit { deadline: Some(Duration::from_millis(1)), ..Submit::default() };
    let second = engine.stream_with(vec![17, 18, 19], &params, submit).expect("valid");
    std::thread::sleep(Duration::from_millis(20));
    gate.send(()).expect("the engine runs");
    drop(gate);
    assert!(first.finish().is_ok());
    assert!(matches!(second.finish(), Err(EngineError::Deadline)));
}
