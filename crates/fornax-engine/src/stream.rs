//! The output of a generation: chunks as they are made, and at the end the whole sequences.

use std::collections::VecDeque;
use std::fmt;
use std::sync::mpsc::Receiver;

use fornax_scheduler::RequestId;

use crate::engine::{Answer, EngineHandle};
use crate::sampling::Sampled;
use crate::{EngineError, FinishReason, Generation};

/// A part of a sequence. It displays as its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// The index of the sequence.
    pub sequence: usize,
    /// The text that can be shown now: whole characters, possibly none.
    pub text: String,
    /// The tokens since the last chunk.
    pub token_ids: Vec<u32>,
    /// Their log-probabilities, if they were asked for.
    pub logprobs: Vec<Sampled>,
    /// Set on the last chunk of a sequence.
    pub finish_reason: Option<FinishReason>,
}

impl fmt::Display for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Chunks as they are generated, and at the end the whole sequences. Dropping it cancels the request.
///
/// The engine does not wait for readers: it keeps unread chunks, at most one for each new token. A stream keeps its
/// engine alive.
#[derive(Debug)]
pub struct Stream {
    engine: EngineHandle,
    request: RequestId,
    answers: Receiver<Answer>,
    ready: VecDeque<Chunk>,
    results: Vec<Generation>,
    /// Sequences that have not ended.
    running: usize,
}

impl Stream {
    pub(crate) fn new(engine: EngineHandle, request: RequestId, answers: Receiver<Answer>, count: usize) -> Self {
        let empty = Generation {
            text: String::new(),
            token_ids: Vec::new(),
            finish_reason: FinishReason::Length,
            logprobs: Vec::new(),
            beam_score: None,
        };
        Self { engine, request, answers, ready: VecDeque::new(), results: vec![empty; count], running: count }
    }

    /// The sequences so far; complete once the stream has ended.
    pub fn into_generations(mut self) -> Vec<Generation> {
        std::mem::take(&mut self.results)
    }

    /// Waits for the end and returns the sequences.
    ///
    /// # Errors
    /// The error of the generation, if it failed.
    pub fn finish(mut self) -> Result<Vec<Generation>, EngineError> {
        self.by_ref().try_for_each(|chunk| chunk.map(drop))?;
        Ok(self.into_generations())
    }
}

impl Iterator for Stream {
    type Item = Result<Chunk, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(chunk) = self.ready.pop_front() {
            return Some(Ok(chunk));
        }
        if self.running == 0 {
            return None;
        }
        match self.answers.recv() {
            Ok(Answer::Chunk(chunk)) => {
                let result = &mut self.results[chunk.sequence];
                result.text.push_str(&chunk.text);
                result.token_ids.extend(&chunk.token_ids);
                result.logprobs.extend(chunk.logprobs.iter().cloned());
                if let Some(reason) = chunk.finish_reason {
                    result.finish_reason = reason;
                    self.running -= 1;
                }
                Some(Ok(chunk))
            }
            Ok(Answer::Beams(generations)) => {
                self.running = 0;
                let chunk = |(sequence, generation): (usize, &Generation)| Chunk {
                    sequence,
                    text: generation.text.clone(),
                    token_ids: generation.token_ids.clone(),
                    logprobs: generation.logprobs.clone(),
                    finish_reason: Some(generation.finish_reason),
                };
                self.ready = generations.iter().enumerate().map(chunk).collect();
                self.results = generations;
                self.next()
            }
            Ok(Answer::Failed(error)) => {
                self.running = 0;
                Some(Err(error))
            }
            Ok(Answer::Values(_)) | Err(_) => {
                self.running = 0;
                Some(Err(EngineError::Ended))
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.running > 0 {
            self.engine.cancel(self.request);
        }
    }
}
