//! The arguments that every command takes, and what they stand for: a device, a dtype, a hub, a loaded model.

use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::Args;
use fornax::backend::{Backend, DeviceError};
use fornax::hub::HubConfig;
use fornax::prelude::*;

use crate::notices::Notices;
use crate::progress::Downloads;
use crate::table::short_count;

/// Arguments of every command, before or after its name.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub struct CommonArgs {
    /// Where to compute: cpu, wgpu, vulkan, metal, cuda or rocm, with an index where there are several (cuda:1)
    /// [default: the fastest device there is]
    #[arg(long, global = true, value_name = "NAME")]
    pub device: Option<String>,

    /// The type to hold weights in and to compute in: f32, f16 or bf16 [default: f32 on the cpu, elsewhere the
    /// checkpoint's]
    #[arg(long, global = true, value_name = "TYPE")]
    pub dtype: Option<String>,

    /// How to hold matrices on the cpu: auto (what a file holds in 16 bits or fewer as it is), dense (numbers of the dtype),
    /// or packed as f16, bf16, q8_0, q4_0, q4_k or q6_k, rounding matrices of another type [default: auto]
    #[arg(long, global = true, value_name = "TYPE")]
    pub weights: Option<String>,

    /// Makes everything random repeatable [default: a new seed each time; for simulate the scenario's]
    #[arg(long, global = true, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// How many threads the cpu's operations share [default: one for each core]
    #[arg(long, global = true, value_name = "COUNT")]
    pub threads: Option<usize>,

    /// The instructions that the cpu's operations use: portable, avx2, avx512 or amx, to measure one or to
    /// reproduce what another machine computes [default: the best there is]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub isa: Option<String>,

    /// Use models that are on this machine already, and no network
    #[arg(long, global = true)]
    pub offline: bool,

    /// The branch, tag or commit of a model of the hub [default: main]
    #[arg(long, global = true, value_name = "NAME")]
    pub revision: Option<String>,

    /// Write nothing but results and errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Write progress and speed even where standard error is not a terminal
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

impl CommonArgs {
    /// Opens the device asked for, or the best there is. An error lists what there is.
    pub fn open_device(&self) -> Result<Device> {
        let opened = self.device.as_deref().map_or_else(Device::best, str::parse);
        opened.map_err(|error: DeviceError| {
            let compiled: Vec<_> =
                Backend::ALL.into_iter().filter(|backend| backend.is_compiled_in()).map(Backend::name).collect();
            let usable: Vec<_> = Device::available().iter().map(ToString::to_string).collect();
            let contains = match &error {
                // It lists them itself.
                DeviceError::NotCompiledIn { .. } => String::new(),
                _ => format!("; compiled in: {}", compiled.join(", ")),
            };
            let usable = if usable.is_empty() { "none".to_owned() } else { usable.join(", ") };
            anyhow!("{error}{contains}; usable on this machine: {usable}")
        })
    }

    /// The dtype asked for, if any.
    pub fn float_dtype(&self) -> Result<Option<FloatDtype>> {
        Ok(self.dtype.as_deref().map(str::parse).transpose()?)
    }

    /// The form of weights asked for.
    pub fn weight_format(&self) -> Result<WeightFormat> {
        Ok(self.weights.as_deref().map(str::parse).transpose()?.unwrap_or_default())
    }

    /// Where models of the hub come from: the environment's settings, changed by the arguments.
    pub fn hub_config(&self) -> HubConfig {
        let mut config = HubConfig::from_env();
        config.offline |= self.offline;
        if let Some(revision) = &self.revision {
            config.revision.clone_from(revision);
        }
        config
    }

    /// What may be said on standard error.
    pub fn notices(&self) -> Notices {
        Notices::new(self.quiet, self.verbose)
    }

    /// Loads a model onto the device, with bars for what has to be fetched.
    pub fn load(&self, model: &str) -> Result<AutoModel> {
        let start = Instant::now();
        let loaded = self.load_quietly(model)?;
        self.notices().info(format_args!(
            "{model}: {}, {} parameters, on {}, loaded in {:.1} s",
            loaded.family().name,
            short_count(loaded.num_parameters() as u64),
            loaded.device(),
            start.elapsed().as_secs_f64(),
        ));
        Ok(loaded)
    }

    /// As [`load`](Self::load), without saying so.
    pub fn load_quietly(&self, model: &str) -> Result<AutoModel> {
        let (dtype, weights) = (self.float_dtype()?, self.weight_format()?);
        let device = self.open_device()?;
        let downloads = Downloads::new(self.notices());
        let options =
            LoadOptions { dtype, weights, hub: self.hub_config(), progress: &downloads, ..LoadOptions::default() };
        let loaded = AutoModel::load_with(model, &device, &options)?;
        loaded.warnings().iter().for_each(|warning| self.notices().warn(warning));
        Ok(loaded)
    }
}
