//! Checkpoints of real shapes with made-up weights, in Hugging Face's layout. What is timed does not depend on the
//! weights' values, so these are small numbers from a counter, quickly made; nothing sensible comes out of such a model.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use fornax::checkpoint::{Dtype, SaveOptions, TensorInfo, save_safetensors};
use serde_json::Value;

/// Writes the checkpoint into a folder of its own, unless it is there already, and returns the folder.
///
/// `FORNAX_BENCH_MODELS` says where such folders are kept; they can be deleted at any time.
///
/// # Errors
/// When the disk is full or the folder cannot be written.
pub fn folder(name: &str, config: &Value, tensors: &[(String, Vec<usize>)]) -> anyhow::Result<PathBuf> {
    let root = match std::env::var_os("FORNAX_BENCH_MODELS") {
        Some(root) => PathBuf::from(root),
        None => std::env::temp_dir().join("fornax-bench-models"),
    };
    let folder = root.join(name);
    let config_path = folder.join("config.json");
    let config = serde_json::to_string_pretty(config)?;
    // The configuration is written last, so where it is the same the rest is too.
    if std::fs::read_to_string(&config_path).is_ok_and(|found| found == config) {
        return Ok(folder);
    }
    write(&folder, &config_path, &config, tensors)
        .with_context(|| format!("the made-up model {name} could not be written to {}", folder.display()))?;
    Ok(folder)
}

fn write(folder: &Path, config_path: &Path, config: &str, tensors: &[(String, Vec<usize>)]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let infos = tensors.iter().map(|(name, shape)| TensorInfo::new(name, Dtype::BF16, shape.clone()));
    save_safetensors(folder, infos, &SaveOptions::default(), |info| -> anyhow::Result<_> {
        let norm = info.shape.len() == 1;
        Ok((0..info.elements()).flat_map(|index| value(index, norm).to_le_bytes()).collect::<Vec<u8>>().into())
    })?;
    Ok(std::fs::write(config_path, config)?)
}

/// The bits of a bf16: 1 for a norm's weight, otherwise a number between −0.03 and 0.03.
fn value(index: usize, norm: bool) -> u16 {
    if norm {
        return 0x3f80;
    }
    let mixed = (index as u32).wrapping_mul(0x9e37_79b9) >> 16;
    // The sign, then exponents of 2⁻⁸ to 2⁻⁶, then the mantissa.
    let exponent = 127 - 8 + (mixed >> 7 & 0xff) % 3;
    ((mixed >> 15) << 15 | exponent << 7 | mixed & 0x7f) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_small_and_of_both_signs() {
        let values: Vec<f32> = (0..1000).map(|index| f32::from_bits(u32::from(value(index, false)) << 16)).collect();
        assert!(values.iter().all(|value| (1e-3..0.04).contains(&value.abs())), "{values:?}");
        let positive = values.iter().filter(|value| **value > 0.0).count();
        assert!((400..600).contains(&positive), "{positive}");
        assert_eq!(f32::from_bits(u32::from(value(5, true)) << 16), 1.0);
    }
}
