//! Packed weights kept from one start to the next: packing reads, rearranges and writes the whole model, which takes longer
//! than everything else between a command and its first token. Whatever is wrong with the cache costs time, never the
//! model: it is said as a warning.

use std::collections::HashMap;

use bytes::Bytes;
use fornax_checkpoint::{Checkpoint, CheckpointError, RepackedCache, RepackedFile, RepackedWriter};
use fornax_cpu::packed::LAYOUT_VERSION;
use fornax_cpu::{PackedWeight, WeightType};
use serde_json::{Value, json};

use crate::{PackedCache, WeightFormat};

/// Smaller checkpoints are packed faster than a file is looked up and checked.
const WORTH_KEEPING: u64 = 64 << 20;

/// The packed weights of one load, from the cache or on their way into it.
#[derive(Default)]
pub(crate) struct Repacked {
    found: HashMap<String, (Value, Bytes)>,
    writer: Option<RepackedWriter>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Repacked {
    /// Looks the checkpoint up. Without a cache, or with a small checkpoint, nothing is found and nothing kept.
    pub fn open(cache: &PackedCache, checkpoint: &Checkpoint, format: WeightFormat) -> Self {
        let mut repacked = Self::default();
        if !checkpoint.tensors().any(|info| format.of(info.dtype).is_some()) {
            return repacked;
        }
        let size = |file: &std::path::PathBuf| std::fs::metadata(file).map_or(0, |file| file.len());
        let bytes: u64 = checkpoint.files().iter().map(size).sum();
        if bytes < WORTH_KEEPING {
            return repacked;
        }
        let cache = match cache {
            PackedCache::FromEnv => RepackedCache::from_env(),
            PackedCache::At(cache) => Ok(cache.clone()),
            PackedCache::Off => return repacked,
        };
        let cache = match cache {
            Ok(cache) => cache,
            Err(error) => {
                repacked.warn("not used", &error);
                return repacked;
            }
        };
        // Names of parameters and orders of rows are this version's.
        let variant = format!("fornax {} layout {LAYOUT_VERSION} weights {format}", env!("CARGO_PKG_VERSION"));
        let key = match cache.key(checkpoint.files(), &variant) {
            Ok(key) => key,
            Err(error) => {
                repacked.warn("not used", &error);
                return repacked;
            }
        };
        match cache.open(&key).and_then(|file| file.as_ref().map(read).transpose()) {
            Ok(Some(found)) => {
                repacked.found = found;
                return repacked;
            }
            Ok(None) => {}
            Err(error) => repacked.warn("rewritten", &error),
        }
        match cache.writer(&key) {
            Ok(writer) => repacked.writer = Some(writer),
            Err(error) => repacked.warn("not written", &error),
        }
        repacked
    }

    /// A parameter's packed weight, if it was kept.
    pub fn take(&mut self, parameter: &str, [out_features, in_features]: [usize; 2]) -> Option<PackedWeight> {
        if self.found.is_empty() {
            return None;
        }
        let kept = self.found.get(parameter).and_then(|(metadata, bytes)| {
            let weight_type: WeightType = metadata["type"].as_str()?.parse().ok()?;
            PackedWeight::from_packed(weight_type, out_features, in_features, bytes.clone()).ok()
        });
        if kept.is_none() {
            // The same weights were packed for another configuration, with other parameters.
            self.warnings
                .push(format!("the cache of repacked weights has no {parameter}, which is packed at every start"));
        }
        kept
    }

    /// Keeps a packed weight for the next start.
    pub fn keep(&mut self, parameter: &str, weight: &PackedWeight) {
        let Some(writer) = &mut self.writer else { return };
        let metadata = json!({ "type": weight.weight_type().to_string() });
        if let Err(error) = writer.write(parameter, metadata, weight.bytes()) {
            self.writer = None;
            self.warn("not written", &error);
        }
    }

    /// Puts what was kept in its place.
    pub fn finish(&mut self) {
        if let Some(writer) = self.writer.take()
            && let Err(error) = writer.finish()
        {
            self.warn("not written", &error);
        }
    }

    fn warn(&mut self, consequence: &str, error: &CheckpointError) {
        self.warnings.push(format!("the cache of repacked weights is {consequence}: {error}"));
    }
}

/// All entries, as slices of the mapped file. Checking every byte brings the file into memory too, so that the first token
/// is as fast as the others.
fn read(file: &RepackedFile) -> Result<HashMap<String, (Value, Bytes)>, CheckpointError> {
    file.verify()?;
    file.entries().map(|entry| Ok((entry.name.clone(), (entry.metadata.clone(), file.entry(&entry.name)?)))).collect()
}
