//! `fornax cache`: what is kept of packed weights, and removing it.

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use fornax::checkpoint::{Removed, RepackedCache};
use indicatif::{DecimalBytes, HumanDuration};
use serde::Serialize;

use crate::output::Output;
use crate::table::{printable, table};

/// List or remove the packed weights that are kept so that models start faster
///
/// Weights of 16 bits and fewer are rearranged for the processor when a model is first loaded, and kept beside it on the
/// disk. Removing them costs nothing but the time to make them again. FORNAX_CACHE names the folder, FORNAX_CACHE_LIMIT
/// how large it may grow (20GiB without it); the file that was written last stays even if it is larger alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fornax cache list
  fornax cache clear
  FORNAX_CACHE_LIMIT=5GiB fornax cache trim")]
pub struct CacheArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what is kept, the most recently used first
    List {
        /// Write one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove all that no process uses
    Clear,
    /// Remove what was not used for longest, until the rest is within the limit
    Trim,
}

/// What is kept, as JSON.
#[derive(Serialize)]
struct Listing<'a> {
    folder: &'a str,
    limit_bytes: u64,
    files: Vec<File>,
}

#[derive(Serialize)]
struct File {
    path: String,
    bytes: u64,
    seconds_since_use: Option<u64>,
    variant: Option<String>,
    sources: Vec<String>,
}

/// Runs it.
pub fn run(args: &CacheArgs) -> Result<()> {
    let cache = RepackedCache::from_env()?;
    if cache.folder().is_file() {
        bail!("{}: expected a folder, found a file; let FORNAX_CACHE name a folder", cache.folder().display());
    }
    let mut out = Output::stdout();
    match args.action {
        Action::List { json } => list(&cache, json, &mut out)?,
        Action::Clear => {
            let removed = cache.clear()?;
            out.line(said(removed))?;
        }
        Action::Trim => {
            let removed = cache.trim()?;
            out.line(format_args!("{}; the limit is {}", said(removed), DecimalBytes(cache.limit())))?;
        }
    }
    out.flush()
}

fn said(removed: Removed) -> String {
    let in_use = match removed.in_use {
        0 => String::new(),
        count => format!("; {count} stayed, being in use"),
    };
    format!("{} file(s) removed, {}{in_use}", removed.files, DecimalBytes(removed.bytes))
}

fn list(cache: &RepackedCache, json: bool, out: &mut Output) -> Result<()> {
    let now = SystemTime::now();
    let files: Vec<File> = (cache.list()?.into_iter())
        .map(|file| File {
            path: file.path.display().to_string(),
            bytes: file.bytes,
            seconds_since_use: now.duration_since(file.last_used).ok().map(|since| since.as_secs()),
            variant: file.variant,
            sources: file.sources.iter().map(|source| source.display().to_string()).collect(),
        })
        .collect();
    let folder = cache.folder().display().to_string();
    if json {
        return out.json(&Listing { folder: &folder, limit_bytes: cache.limit(), files });
    }
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    let mut rows = vec![["size", "last used", "of"].map(str::to_owned).to_vec()];
    for file in &files {
        let used = file
            .seconds_since_use
            .map_or_else(String::new, |seconds| format!("{} ago", HumanDuration(Duration::from_secs(seconds))));
        let of = if file.variant.is_none() { "a file that cannot be used".to_owned() } else { file.sources.join(", ") };
        rows.push(vec![DecimalBytes(file.bytes).to_string(), used, printable(&of)]);
    }
    if !files.is_empty() {
        for line in table(&rows, &[true, false, false]) {
            out.line(line)?;
        }
    }
    out.line(format_args!(
        "{} file(s), {} of at most {}, in {}",
        files.len(),
        DecimalBytes(total),
        DecimalBytes(cache.limit()),
        printable(&folder)
    ))
}
