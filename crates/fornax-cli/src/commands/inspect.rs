//! `fornax inspect`: what is in a model's files, without loading weights and whatever the architecture is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use fornax::checkpoint::{Checkpoint, GgufArray, GgufValue};
use fornax::hub::{self, HubConfig, HubError, ModelSource};
use fornax::models::known_architectures;
use indicatif::{DecimalBytes, HumanCount};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::args::CommonArgs;
use crate::output::Output;
use crate::progress::Downloads;
use crate::table::{printable, short_count, shortened, table};

/// Longer arrays of GGUF metadata, such as vocabularies, are described by type and length.
const LONGEST_ARRAY: usize = 32;
/// Characters shown of a value.
const SHOWN: usize = 100;

/// Show what is in a model's files: configuration, metadata, tensors and sizes
///
/// No weights are loaded, so it is quick for models of any size, and it works for architectures that this version cannot
/// run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fornax inspect ./model
  fornax inspect model.gguf
  fornax inspect ./model/model.safetensors --json
  fornax inspect Qwen/Qwen2.5-0.5B-Instruct

With --json: {\"path\", \"format\", \"files\", \"config\", \"metadata\", \"parameters\", \"bytes\", \"dtypes\", \"tensors\"}. Arrays \
of metadata with more than 32 elements are given as {\"array_of\", \"length\"}. A model of the hub must have been \
downloaded before.")]
pub struct InspectArgs {
    /// A folder, a .safetensors, .gguf or PyTorch file, or the id of a model that was downloaded
    #[arg(value_name = "FILE")]
    model: String,

    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &InspectArgs, common: &CommonArgs) -> Result<()> {
    let path = locate(&args.model, common)?;
    let checkpoint = Checkpoint::open(&path)?;
    let report = Report::new(&path, &checkpoint)?;
    let mut out = Output::stdout();
    if args.json {
        out.pretty_json(&report)?
    } else {
        report.write(&mut out)?
    }
    out.flush()
}

/// The path of the model, which is not fetched.
fn locate(model: &str, common: &CommonArgs) -> Result<PathBuf> {
    let config = HubConfig { offline: true, ..common.hub_config() };
    match hub::resolve(model, &config, &Downloads::new(common.notices())) {
        Ok(ModelSource::Folder(path) | ModelSource::File(path)) => Ok(path),
        Err(HubError::NotCached { repo, missing, .. }) => Err(anyhow!(
            "there is no file or folder {model:?}, and {repo} is not whole on this machine (missing: {}); run `fornax download {model}` first",
            missing.join(", ")
        )),
        Err(error) => Err(error.into()),
    }
}

/// Everything that is shown; this is its JSON too.
#[derive(Serialize)]
struct Report {
    path: PathBuf,
    format: String,
    files: Vec<FileInfo>,
    config: Option<Value>,
    metadata: Map<String, Value>,
    parameters: u64,
    bytes: u64,
    dtypes: BTreeMap<String, DtypeInfo>,
    tensors: Vec<TensorRow>,
}

#[derive(Serialize)]
struct FileInfo {
    path: PathBuf,
    bytes: u64,
}

/// All tensors of one dtype together.
#[derive(Default, Serialize)]
struct DtypeInfo {
    tensors: usize,
    parameters: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct TensorRow {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    parameters: u64,
    bytes: u64,
}

impl Report {
    fn new(path: &Path, checkpoint: &Checkpoint) -> Result<Self> {
        let tensors: Vec<TensorRow> = checkpoint
            .tensors()
            .map(|info| TensorRow {
                name: info.name.clone(),
                dtype: info.dtype.to_string(),
                shape: info.shape.clone(),
                parameters: info.elements() as u64,
                bytes: info.nbytes() as u64,
            })
            .collect();
        let mut dtypes: BTreeMap<String, DtypeInfo> = BTreeMap::new();
        for tensor in &tensors {
            let dtype = dtypes.entry(tensor.dtype.clone()).or_default();
            dtype.tensors += 1;
            dtype.parameters = dtype.parameters.saturating_add(tensor.parameters);
            dtype.bytes = dtype.bytes.saturating_add(tensor.bytes);
        }
        let mut files = Vec::new();
        for file in checkpoint.files() {
            let bytes = fs::metadata(file).with_context(|| format!("cannot read {file:?}"))?.len();
            files.push(FileInfo { path: file.clone(), bytes });
        }
        Ok(Self {
            path: path.to_owned(),
            format: checkpoint.format().to_string(),
            files,
            config: config_beside(path, checkpoint)?,
            metadata: metadata(checkpoint),
            parameters: dtypes.values().fold(0, |sum, dtype| sum.saturating_add(dtype.parameters)),
            bytes: dtypes.values().fold(0, |sum, dtype| sum.saturating_add(dtype.bytes)),
            dtypes,
            tensors,
        })
    }

    fn write(&self, out: &mut Output) -> Result<()> {
        let architecture = self.architecture();
        let mut rows =
            vec![vec!["path".into(), self.path.display().to_string()], vec!["format".into(), self.format.clone()]];
        if let Some(architecture) = architecture {
            rows.push(vec!["architecture".into(), architecture]);
        }
        let parameters = format!("{} ({})", HumanCount(self.parameters), short_count(self.parameters));
        rows.push(vec!["parameters".into(), parameters]);
        rows.push(vec!["size".into(), format!("{} in {} tensors", DecimalBytes(self.bytes), self.tensors.len())]);
        for (name, dtype) in &self.dtypes {
            let text = format!(
                "{} parameters in {} tensors, {}",
                short_count(dtype.parameters),
                dtype.tensors,
                DecimalBytes(dtype.bytes)
            );
            rows.push(vec![format!("  {name}"), text]);
        }
        section(out, "", &rows, &[false, false])?;

        if self.files.len() > 1 {
            let rows: Vec<_> = self
                .files
                .iter()
                .map(|file| vec![file_name(&file.path), DecimalBytes(file.bytes).to_string()])
                .collect();
            section(out, "files", &rows, &[false, true])?;
        }
        if let Some(Value::Object(config)) = &self.config {
            section(out, "config.json", &pairs(config), &[false, false])?;
        }
        if !self.metadata.is_empty() {
            section(out, "metadata", &pairs(&self.metadata), &[false, false])?;
        }
        let rows: Vec<_> = self
            .tensors
            .iter()
            .map(|tensor| {
                vec![
                    printable(&tensor.name),
                    tensor.dtype.clone(),
                    format!("{:?}", tensor.shape),
                    DecimalBytes(tensor.bytes).to_string(),
                ]
            })
            .collect();
        section(out, "tensors", &rows, &[false, false, false, true])
    }

    /// The names by which a family is chosen, and whether one is.
    fn architecture(&self) -> Option<String> {
        let names: Vec<&str> =
            self.config.as_ref()?.get("architectures")?.as_array()?.iter().filter_map(Value::as_str).collect();
        let known = known_architectures();
        let unknown = if names.iter().any(|name| known.contains(name)) { "" } else { " (unknown to this version)" };
        (!names.is_empty()).then(|| format!("{}{unknown}", printable(&names.join(", "))))
    }
}

/// A heading, where there is one, and a table.
fn section(out: &mut Output, heading: &str, rows: &[Vec<String>], right: &[bool]) -> Result<()> {
    if !heading.is_empty() {
        out.line(format_args!("\n{heading}"))?;
    }
    let indent = if heading.is_empty() { "" } else { "  " };
    for line in table(rows, right) {
        out.line(format_args!("{indent}{line}"))?;
    }
    Ok(())
}

fn pairs(map: &Map<String, Value>) -> Vec<Vec<String>> {
    map.iter()
        .map(|(key, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Object(object) if object.contains_key("array_of") => {
                    format!("{} × {}", object["length"], object["array_of"].as_str().unwrap_or_default())
                }
                other => other.to_string(),
            };
            vec![printable(key), shortened(&text, SHOWN)]
        })
        .collect()
}

/// The `config.json` that belongs to the weights; a GGUF file carries its own in its metadata.
fn config_beside(path: &Path, checkpoint: &Checkpoint) -> Result<Option<Value>> {
    if checkpoint.gguf().is_some() {
        return Ok(None);
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let file = folder.join("config.json");
    if !file.exists() {
        return Ok(None);
    }
    let bytes = fs::read(&file).with_context(|| format!("cannot read {file:?}"))?;
    let config = serde_json::from_slice(&bytes).with_context(|| format!("{file:?} is not valid JSON"))?;
    Ok(Some(config))
}

/// What the weights' files say about themselves.
fn metadata(checkpoint: &Checkpoint) -> Map<String, Value> {
    let strings = checkpoint.metadata().iter().map(|(key, value)| (key.clone(), Value::from(value.clone())));
    let gguf = checkpoint.gguf().into_iter().flat_map(|gguf| gguf.iter());
    strings.chain(gguf.map(|(key, value)| (key.to_owned(), gguf_json(value)))).collect()
}

fn gguf_json(value: &GgufValue) -> Value {
    match value {
        GgufValue::U8(value) => (*value).into(),
        GgufValue::I8(value) => (*value).into(),
        GgufValue::U16(value) => (*value).into(),
        GgufValue::I16(value) => (*value).into(),
        GgufValue::U32(value) => (*value).into(),
        GgufValue::I32(value) => (*value).into(),
        GgufValue::U64(value) => (*value).into(),
        GgufValue::I64(value) => (*value).into(),
        GgufValue::F32(value) => short_float(*value),
        GgufValue::F64(value) => (*value).into(),
        GgufValue::Bool(value) => (*value).into(),
        GgufValue::String(value) => value.clone().into(),
        GgufValue::Array(array) => gguf_array(array),
    }
}

fn gguf_array(array: &GgufArray) -> Value {
    if array.len() > LONGEST_ARRAY {
        return json!({"array_of": array.element_type().name(), "length": array.len()});
    }
    array.values().map(|value| gguf_json(&value)).collect()
}

/// As many digits as an `f32` has, and not those of the `f64` nearest to it.
fn short_float(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| printable(&name.to_string_lossy()))
}
