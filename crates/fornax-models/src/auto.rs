//! A model as a user holds it: network, tokenizer, configuration, and where they came from.

use std::path::{Path, PathBuf};

use burn::module::Module;
use fornax_backend::{Device, FloatDtype};
use fornax_checkpoint::{Checkpoint, RepackedCache};
use fornax_hub::{HubConfig, ModelSource, Progress, Silent};
use fornax_nn::{Decoder, Weights};
use fornax_text::Tokenizer;
use serde_json::Value;

use crate::families::bert::Bert;
use crate::gguf::GgufModel;
use crate::registry::{self, Family};
use crate::repacked::Repacked;
use crate::weights::WeightMap;
use crate::{ModelError, Network, NetworkConfig, WeightFormat, gguf, load};

/// How to load a model; the default is what [`AutoModel::load`] does.
#[derive(Clone)]
pub struct LoadOptions<'a> {
    /// The type to hold dense weights in and to compute in; the device's choice without.
    pub dtype: Option<FloatDtype>,
    /// The form to hold matrices in. A model that is to be trained must be dense, which a dtype asks for too.
    pub weights: WeightFormat,
    /// Where packed weights are kept from one start to the next.
    pub repacked: PackedCache,
    /// Where hub ids are fetched from and kept.
    pub hub: HubConfig,
    /// Receives the progress of downloads.
    pub progress: &'a dyn Progress,
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self {
            dtype: None,
            weights: WeightFormat::Auto,
            repacked: PackedCache::FromEnv,
            hub: HubConfig::from_env(),
            progress: &Silent,
        }
    }
}

/// Where packed weights are kept from one start to the next.
#[derive(Debug, Clone, Default)]
pub enum PackedCache {
    /// In the user's folder, or where `FORNAX_CACHE` says.
    #[default]
    FromEnv,
    /// Here.
    At(RepackedCache),
    /// Nowhere: they are packed at every start.
    Off,
}

/// Tokens that generation starts and ends with, from `generation_config.json` or else `config.json`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationDefaults {
    /// Any of them ends a sequence.
    pub eos_token_ids: Vec<u32>,
    /// Begins a sequence where there is no prompt.
    pub bos_token_id: Option<u32>,
    /// Fills up shorter sequences.
    pub pad_token_id: Option<u32>,
    /// The whole of `generation_config.json`, for its other settings (temperatures, penalties). It is kept when the
    /// model is saved; callers may apply it.
    pub raw: Option<Value>,
}

/// A loaded model of any known family.
///
/// ```no_run
/// use fornax_backend::Device;
/// use fornax_models::AutoModel;
///
/// # fn main() -> Result<(), fornax_models::ModelError> {
/// let model = AutoModel::load("path/to/model", &Device::cpu())?; // a folder, a .gguf file or a hub id
/// println!("{} with {} tokens", model.family().name, model.network().vocab_size());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AutoModel {
    network: Network,
    family: &'static Family,
    config: Value,
    tokenizer: Option<Tokenizer>,
    generation: GenerationDefaults,
    pooling: Option<&'static str>,
    device: Device,
    source: Option<PathBuf>,
    warnings: Vec<String>,
}

impl AutoModel {
    /// Loads a folder, a GGUF file, or a repository of the hub by its id (which is fetched once and kept).
    ///
    /// # Errors
    /// [`ModelError`]: what is missing, unknown, damaged or does not fit, by name.
    pub fn load(model: &str, device: &Device) -> Result<Self, ModelError> {
        Self::load_with(model, device, &LoadOptions::default())
    }

    /// As [`load`](Self::load), with options.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(model: &str, device: &Device, options: &LoadOptions) -> Result<Self, ModelError> {
        let path = match fornax_hub::resolve(model, &options.hub, options.progress)? {
            ModelSource::Folder(path) | ModelSource::File(path) => path,
        };
        let mut loaded = Self::from_path(&path, device, options)?;
        loaded.source = Some(path);
        Ok(loaded)
    }

    /// A model made here: a configuration as in `config.json`, the network made from it, and the tokenizer it was
    /// trained with.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`] when the configuration names no known family, [`ModelError::Config`] when the
    /// network was made from another,
    /// [`ModelError::Vocabulary`] when the tokenizer has more ids than the network.
    pub fn from_parts(
        config: Value,
        network: Network,
        tokenizer: Option<Tokenizer>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let family = registry::find(&config)?;
        let described = (family.network)(&config, &|_| false)?;
        let fits = match (&described, &network) {
            (NetworkConfig::Decoder(described), Network::Decoder(decoder)) => described == decoder.config(),
            (NetworkConfig::Bert(described), Network::Bert(bert)) => {
                described.hidden_size() == bert.config().hidden_size()
            }
            _ => false,
        };
        if !fits {
            return Err(ModelError::config("config", "the one that the network was made from", "another"));
        }
        Self::assembled(family, config, network, tokenizer, None, device)
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The network, to be trained further or changed.
    pub fn into_network(self) -> Network {
        self.network
    }

    /// The network of a causal language model.
    ///
    /// # Errors
    /// [`ModelError::WrongKind`] when it is something else.
    pub fn decoder(&self) -> Result<&Decoder, ModelError> {
        match &self.network {
            Network::Decoder(decoder) => Ok(decoder),
            other => Err(ModelError::WrongKind { expected: "a causal language model", found: other.kind() }),
        }
    }

    /// The network of an encoder.
    ///
    /// # Errors
    /// [`ModelError::WrongKind`] when it is something else.
    pub fn encoder(&self) -> Result<&Bert, ModelError> {
        match &self.network {
            Network::Bert(bert) => Ok(bert),
            other => Err(ModelError::WrongKind { expected: "an encoder", found: other.kind() }),
        }
    }

    /// How many numbers its weights are.
    pub fn num_parameters(&self) -> usize {
        let mut packed = 0;
        // Cloning shares the weights; only a walk that could change them shows the packed ones.
        self.network.clone().for_each_weight("", &mut |_, weight| {
            packed += weight.packed().map_or(0, |weight| weight.out_features() * weight.in_features());
        });
        self.network.num_params() + packed
    }

    /// Its family.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// Its configuration, as in `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Its tokenizer; models may come without.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The tokens that generation starts and ends with.
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        &self.generation
    }

    /// How sentence-transformers turns this model's states into one vector: `cls`, `mean` or `lasttoken`, from
    /// `1_Pooling/config.json`; `None` where there is no such file, or it asks for something else.
    pub fn pooling_mode(&self) -> Option<&'static str> {
        self.pooling
    }

    /// What went otherwise than a user may expect while it was loaded, and cost nothing but time.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The folder or file that it was loaded from.
    pub fn source(&self) -> Option<&Path> {
        self.source.as_deref()
    }

    fn from_path(path: &Path, device: &Device, options: &LoadOptions) -> Result<Self, ModelError> {
        let folder = if path.is_dir() {
            path
        } else {
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
        };
        let config_path = folder.join("config.json");
        let checkpoint = match Checkpoint::open(path) {
            // Without a configuration too, it is not so much weights that are missing: it is no model's folder.
            Err(_) if path.is_dir() && !config_path.exists() => return Err(no_config(folder)),
            other => other?,
        };
        if let Some(gguf) = GgufModel::new(&checkpoint) {
            return Self::from_gguf(&checkpoint, &gguf?, device, options);
        }
        if !config_path.exists() {
            return Err(no_config(folder));
        }
        let mut config = read_json(&config_path)?;
        if !config["quantization_config"].is_null() {
            let method = config["quantization_config"]["quant_method"].as_str().unwrap_or("unnamed").to_owned();
            return Err(ModelError::config(
                "quantization_config",
                "none; use an unquantized model or a GGUF file",
                method,
            ));
        }
        let generation_path = folder.join("generation_config.json");
        let generation = if generation_path.exists() { Some(read_json(&generation_path)?) } else { None };
        let family = registry::find(&config)?;
        let (network, warnings) = load_network(family, &family.weights, &mut config, &checkpoint, device, options)?;
        let tokenizer =
            if folder.join("tokenizer.json").exists() { Some(Tokenizer::from_folder(folder)?) } else { None };
        let mut model = Self::assembled(family, config, network, tokenizer, generation.as_ref(), device)?;
        model.pooling = pooling_mode(&folder.join("1_Pooling/config.json"))?;
        model.warnings = warnings;
        Ok(model)
    }

    fn from_gguf(
        checkpoint: &Checkpoint,
        gguf: &GgufModel,
        device: &Device,
        options: &LoadOptions,
    ) -> Result<Self, ModelError> {
        let (family, in_gguf) = registry::find_gguf(gguf.architecture())?;
        let mut config = (in_gguf.config)(gguf)?;
        if config.get("architectures").is_none() {
            config["architectures"] = vec![family.architectures[0]].into();
        }
        config["model_type"] = family.model_types[0].into();
        let (network, warnings) = load_network(family, &in_gguf.weights, &mut config, checkpoint, device, options)?;
        let vocab = match checkpoint.gguf() {
            Some(metadata) => gguf::vocab(metadata)?,
            None => None,
        };
        let tokenizer = vocab.as_ref().map(Tokenizer::from_gguf).transpose()?;
        let mut model = Self::assembled(family, config, network, tokenizer, None, device)?;
        model.warnings = warnings;
        Ok(model)
    }

    /// Puts a model together, once its tokenizer is found to fit its network.
    fn assembled(
        family: &'static Family,
        config: Value,
        network: Network,
        tokenizer: Option<Tokenizer>,
        generation: Option<&Value>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let vocab_size = network.vocab_size();
        let largest_id = tokenizer.as_ref().map(Tokenizer::max_id);
        if let Some(largest_id) = largest_id.filter(|&id| id as usize >= vocab_size) {
            return Err(ModelError::Vocabulary { largest_id, vocab_size });
        }
        let generation = generation_defaults(&config, generation, tokenizer.as_ref());
        let device = device.clone();
        Ok(Self {
            network,
            family,
            config,
            tokenizer,
            generation,
            pooling: None,
            device,
            source: None,
            warnings: Vec::new(),
        })
    }
}

fn load_network(
    family: &Family,
    weights: &WeightMap,
    config: &mut Value,
    checkpoint: &Checkpoint,
    device: &Device,
    options: &LoadOptions,
) -> Result<(Network, Vec<String>), ModelError> {
    let mut network = (family.network)(config, &|name| checkpoint.contains(name))?;
    if let NetworkConfig::Decoder(decoder) = &mut network
        && decoder.tie_embeddings
        && load::is_untied(checkpoint, weights)?
    {
        decoder.tie_embeddings = false;
        config["tie_word_embeddings"] = false.into();
    }
    // The head that tells whether two sentences belong together is not loaded, so it must not be promised when saving.
    if config["architectures"][0] == "BertForPreTraining" {
        config["architectures"] = vec!["BertForMaskedLM"].into();
    }
    let format = options.weights.on(device, options.dtype)?;
    let dtype = FloatDtype::for_device(device, options.dtype, load::stored_dtype(checkpoint))?;
    let mut repacked = match format {
        WeightFormat::Dense => Repacked::default(),
        _ => Repacked::open(&options.repacked, checkpoint, format),
    };
    let network = load::load_weights(network.init(device), checkpoint, weights, device, dtype, format, &mut repacked)?;
    repacked.finish();
    Ok((network, repacked.warnings))
}

/// Token ids from the generation configuration, else the model's, else the tokenizer.
fn generation_defaults(
    config: &Value,
    generation: Option<&Value>,
    tokenizer: Option<&Tokenizer>,
) -> GenerationDefaults {
    let ids = |key: &str| -> Vec<u32> {
        let of = |value: &Value| -> Vec<u32> {
            let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            list.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
        };
        [generation, Some(config)]
            .into_iter()
            .flatten()
            .map(|json| of(&json[key]))
            .find(|ids| !ids.is_empty())
            .unwrap_or_default()
    };
    let mut eos_token_ids = ids("eos_token_id");
    if eos_token_ids.is_empty() {
        eos_token_ids = tokenizer.map(|tokenizer| tokenizer.eos_ids().to_vec()).unwrap_or_default();
    }
    let one = |key: &str, otherwise: Option<u32>| ids(key).first().copied().or(otherwise);
    GenerationDefaults {
        eos_token_ids,
        bos_token_id: one("bos_token_id", tokenizer.and_then(Tokenizer::bos_id)),
        pad_token_id: one("pad_token_id", tokenizer.and_then(Tokenizer::pad_id)),
        raw: generation.cloned(),
    }
}

/// The one way of pooling that the file switches on.
fn pooling_mode(path: &Path) -> Result<Option<&'static str>, ModelError> {
    if !path.exists() {
        return Ok(None);
    }
    let config = read_json(path)?;
    let switches = [
        ("cls", "pooling_mode_cls_token"),
        ("mean", "pooling_mode_mean_tokens"),
        ("lasttoken", "pooling_mode_lasttoken"),
    ];
    Ok(switches
        .into_iter()
        .find(|&(mode, switch)| config[switch] == true || config["pooling_mode"] == mode)
        .map(|(mode, _)| mode))
}

pub(crate) fn read_json(path: &Path) -> Result<Value, ModelError> {
    let text = std::fs::read(path).map_err(ModelError::io("read", path))?;
    serde_json::from_slice(&text).map_err(|source| ModelError::Json { path: path.to_owned(), source })
}

fn no_config(folder: &Path) -> ModelError {
    const SHOWN: usize = 6;
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names.truncate(SHOWN);
    let found = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    ModelError::NoConfig { folder: folder.to_owned(), found }
}
