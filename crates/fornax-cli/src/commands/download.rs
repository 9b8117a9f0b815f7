//! `fornax download`: fetches a model of the hub into the cache, where every command finds it.

use anyhow::Result;
use clap::Args;
use fornax::hub;

use crate::args::CommonArgs;
use crate::output::Output;
use crate::progress::Downloads;

/// Fetch a model of the Hugging Face hub and write where it lies
///
/// A transfer that breaks off continues where it stopped when the command is run again. The cache is shared with
/// Python's huggingface_hub.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fornax download Qwen/Qwen2.5-0.5B-Instruct
  fornax download Qwen/Qwen2.5-0.5B-Instruct --revision main
  fornax download Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M
  fornax download Qwen/Qwen2.5-0.5B-Instruct --offline
  ls \"$(fornax download Qwen/Qwen2.5-0.5B-Instruct)\"

The environment may set HF_ENDPOINT (a mirror), HF_TOKEN (for models with conditions), HF_HOME or HF_HUB_CACHE (where \
the cache lies) and HF_HUB_OFFLINE.")]
pub struct DownloadArgs {
    /// org/name, org/name@revision, or org/name:file.gguf for one file
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs it.
pub fn run(args: &DownloadArgs, common: &CommonArgs) -> Result<()> {
    let downloads = Downloads::new(common.notices());
    let path = hub::download(&args.id, &common.hub_config(), &downloads)?;
    let mut out = Output::stdout();
    out.line(path.display())?;
    out.flush()
}
