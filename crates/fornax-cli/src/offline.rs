//! `fornax generate --prompts`: the prompts of a file, computed together and answered in the order of the file. A
//! thread of its own reads the lines and submits them. It is far enough ahead of the answers to keep the engine busy,
//! and no further.

use anyhow::Result;
use fornax::engine::{EngineHandle, Stream};
use fornax::prelude::*;

use crate::batch_output::BatchOutput;
use crate::engine::check_sequences;
use crate::lines::{Ahead, Lines};
use crate::notices::Notices;
use crate::progress::Inputs;
use crate::requests::{Request, RequestReader};
use crate::sequences::JsonSequence;

/// How many requests are read ahead, as a multiple of the sequences that run at once. So while a long request delays
/// the output of the requests behind it, these are computed.
const AHEAD: usize = 4;

/// A request that was submitted to the engine.
struct Submitted {
    stream: Stream,
    logprobs: bool,
}

/// Answers the requests of `lines`.
pub fn run(
    model: AutoModel,
    config: &EngineConfig,
    lines: Lines,
    reader: RequestReader,
    total: Option<u64>,
    notices: Notices,
) -> Result<()> {
    let engine = EngineHandle::start(model, config)?;
    let max_running = config.max_running;
    let ahead = max_running.saturating_mul(AHEAD);
    let mut submitted = Ahead::new(lines, ahead, move |line| {
        let (place, request) = reader.read(line);
        (place, request.and_then(|request| submit(&engine, request, max_running)))
    })?;
    let mut out = BatchOutput::stdout();
    let mut progress = Inputs::new(notices, total, "tokens");
    while let Some((place, submitted)) = submitted.next_one()? {
        let answer = submitted.and_then(|submitted| {
            let logprobs = submitted.logprobs;
            Ok((submitted.finish(&mut progress)?, logprobs))
        });
        let sequences = answer.as_ref().map(|(generations, logprobs)| JsonSequence::all(generations, *logprobs));
        progress.finished(|| out.write_all(&place, sequences))?;
    }
    progress.report();
    out.finish()
}

fn submit(engine: &EngineHandle, Request { prompt, params }: Request, max_running: usize) -> Result<Submitted, String> {
    check_sequences(&params, max_running)?;
    let stream = engine.stream(prompt, &params).map_err(|error| error.to_string())?;
    Ok(Submitted { stream, logprobs: params.logprobs.is_some() })
}

impl Submitted {
    fn finish(mut self, progress: &mut Inputs) -> Result<Vec<Generation>, String> {
        for chunk in self.stream.by_ref() {
            progress.advance(chunk.map_err(|error| error.to_string())?.token_ids.len());
        }
        Ok(self.stream.into_generations())
    }
}
