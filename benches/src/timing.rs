//! Times of calls, in samples long enough for the clock.

use std::time::{Duration, Instant};

use fornax::prelude::Device;

use crate::Run;

/// A sample covers calls of this long together: far above what the clock and waiting for a device cost.
const SAMPLE: Duration = Duration::from_millis(1);

/// More samples tell nothing more.
const MOST_SAMPLES: usize = 200;

/// What was measured in one go.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// Seconds of one call, a value for each sample.
    pub samples: Vec<f64>,
    /// Calls that a sample covers.
    pub calls: usize,
}

/// Times `run` for about `budget`, of which the first fifth is for getting warm and is not counted.
///
/// There is at least one sample, however long a call takes.
///
/// # Errors
/// When a call or the device fails.
pub fn time(run: &mut Run, device: &Device, budget: Duration) -> anyhow::Result<Timing> {
    let start = Instant::now();
    let mut once = |calls: usize| -> anyhow::Result<Duration> {
        let start = Instant::now();
        for _ in 0..calls {
            run()?;
        }
        device.sync().map_err(|error| anyhow::anyhow!("the device failed: {error:?}"))?;
        Ok(start.elapsed())
    };
    let mut calls = 1;
    let mut last = once(calls)?;
    if last >= budget {
        // Slow enough for the first call to be as warm as any.
        return Ok(Timing { samples: vec![last.as_secs_f64()], calls });
    }
    while start.elapsed() < budget / 5 || last < SAMPLE {
        last = once(calls)?;
        if last < SAMPLE {
            let wanted = SAMPLE.as_secs_f64() / last.as_secs_f64().max(1e-9) * calls as f64;
            calls = (wanted.ceil() as usize).clamp(calls + 1, 4 * calls);
        }
    }
    let mut samples = Vec::new();
    while samples.is_empty() || (start.elapsed() < budget && samples.len() < MOST_SAMPLES) {
        samples.push(once(calls)?.as_secs_f64() / calls as f64);
    }
    Ok(Timing { samples, calls })
}
