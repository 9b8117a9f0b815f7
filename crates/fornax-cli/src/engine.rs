//! The arguments that shape the engine, shared by `generate` and `chat`.

use clap::Args;
use fornax::nn::CacheType;
use fornax::prelude::{EngineConfig, SamplingParams};

/// Memory for keys and values.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Memory for keys and values")]
pub struct KvArgs {
    /// The most memory that keys and values may take, such as 2G or 512M (in steps of 1024); requests wait for room
    /// [default: half of the free memory, or less where that is enough]
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_negative_numbers = true)]
    kv_memory: Option<usize>,

    /// The type to keep keys and values in: f32, f16, bf16 or i8 (half of f16's memory, less exact) [default: what
    /// suits the model's weights]
    #[arg(long, value_name = "TYPE", value_parser = cache_type)]
    kv_type: Option<CacheType>,

    /// Compute every prompt from its beginning, even if an earlier prompt had the same one (the results are the same)
    #[arg(long)]
    no_prefix_cache: bool,
}

impl KvArgs {
    /// The engine's configuration with these arguments.
    pub fn config(&self) -> EngineConfig {
        EngineConfig {
            kv_memory: self.kv_memory,
            kv_type: self.kv_type,
            prefix_caching: !self.no_prefix_cache,
            ..EngineConfig::default()
        }
    }
}

/// The default of `--max-running`: the engine's default, or more if a request has more sequences.
pub fn default_max_running(params: &SamplingParams) -> usize {
    EngineConfig::default().max_running.max(sequences(params).1)
}

/// Checks that all sequences of a request can run at once.
pub fn check_sequences(params: &SamplingParams, max_running: usize) -> Result<(), String> {
    match sequences(params) {
        (name, count) if count > max_running => {
            Err(format!("{name}: found {count}, expected at most {max_running}; raise --max-running"))
        }
        _ => Ok(()),
    }
}

/// The number of a request's sequences, and the parameter that sets it.
fn sequences(params: &SamplingParams) -> (&'static str, usize) {
    match params.num_beams {
        1 => ("num_return_sequences", params.num_return_sequences),
        beams => ("num_beams", beams),
    }
}

/// A number that is not 0.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("found 0, expected at least 1".into()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("found {text:?}, expected a number of at least 1")),
    }
}

fn cache_type(text: &str) -> Result<CacheType, String> {
    let found = CacheType::ALL.into_iter().find(|cache_type| cache_type.to_string() == text);
    found
        .ok_or_else(|| format!("found {text:?}, expected {}", CacheType::ALL.map(|known| known.to_string()).join(", ")))
}

/// Reads `2G`, `1.5GiB`, `512M` or `4096`.
fn bytes(text: &str) -> Result<usize, String> {
    let wrong = || format!("found {text:?}, expected a number of bytes such as 2G, 512M or 1073741824");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * unit as f64;
    // Beyond 2⁵³ no memory is that large, and not every number is one of these.
    if bytes < (1u64 << 53) as f64 { Ok(bytes as usize) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, expected) in
            [("2G", 2 << 30), ("512m", 512 << 20), ("1.5 KiB", 1536), ("4096", 4096), ("0", 0), ("1TB", 1 << 40)]
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "G", "-1", "2X", "1e9", "1..2", "99999999T", "NaN"] {
            assert!(bytes(text).is_err_and(|error| error.contains("512M")), "{text}");
        }
    }

    #[test]
    fn cache_types_go_by_their_names() {
        assert_eq!(cache_type("bf16"), Ok(CacheType::BF16));
        assert!(cache_type("q8").is_err_and(|error| error.contains("f32, f16, bf16, i8")));
    }
}
