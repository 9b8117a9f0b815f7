//! Whole models of real shapes: prefill, decoding, decoding side by side, embedding, loading.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use fornax::backend::ops::Cost;
use fornax::burn::tensor::{Int, Tensor};
use fornax::cpu::WeightType;
use fornax::models::families::bert::BertConfig;
use fornax::models::families::llama::LlamaConfig;
use fornax::nn::{Batch, BatchSequence, KvPool, KvPoolConfig, Outputs};
use fornax::prelude::{AutoModel, Backend, Device, FloatDtype, LoadOptions, PackedCache, WeightFormat};
use fornax_cpu::Pool;
use fornax_cpu::limits::Arithmetic;
use serde_json::{Value, json};

use crate::case::{Case, Run};
use crate::checkpoint;

/// A causal language model's shape.
#[derive(Debug, Clone)]
struct Llama {
    name: &'static str,
    config: LlamaConfig,
    /// The ways in which its weights are held.
    held: &'static [Held],
    quick: bool,
}

/// Those that the columns of a small model allow.
const SMALL: &[Held] = &[Held::Dense, Held::Packed(WeightType::BF16), Held::Packed(WeightType::Q8_0)];
/// Those that people use.
const LARGE: &[Held] = &[
    Held::Packed(WeightType::BF16),
    Held::Packed(WeightType::Q8_0),
    Held::Packed(WeightType::Q4_0),
    Held::Packed(WeightType::Q4_K),
];

/// How a model's matrices are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// As f32, on every device.
    Dense,
    /// Packed, on the processor.
    Packed(WeightType),
}

impl Held {
    /// Bytes of so many weights.
    fn bytes(self, weights: usize) -> usize {
        match self {
            Self::Dense => 4 * weights,
            // Of whole blocks, which every row of these models is made of.
            Self::Packed(weight_type) => weight_type.row_bytes(weights.next_multiple_of(weight_type.block())),
        }
    }

    /// Bytes of a number of the kept keys and values.
    fn key_bytes(self) -> usize {
        match self {
            Self::Dense => 4,
            Self::Packed(_) => 2,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Dense => "f32".into(),
            Self::Packed(weight_type) => weight_type.to_string(),
        }
    }

    /// The case, on the devices that can hold weights like this, against the limit of what they are multiplied with.
    fn on(self, case: Case) -> Case {
        match self {
            Self::Dense => case,
            Self::Packed(weight_type) => {
                let arithmetic = if weight_type.is_float() { Arithmetic::Bf16 } else { Arithmetic::Int8 };
                case.arithmetic(arithmetic).only(Backend::Cpu)
            }
        }
    }
}

/// Every model's cases.
pub fn models() -> Vec<Case> {
    let llamas = [
        Llama {
            name: "smollm2-135m",
            config: LlamaConfig {
                vocab_size: 49_152,
                hidden_size: 576,
                intermediate_size: 1536,
                num_hidden_layers: 30,
                num_attention_heads: 9,
                num_key_value_heads: Some(3),
                tie_word_embeddings: true,
                ..LlamaConfig::default()
            },
            held: SMALL,
            quick: true,
        },
        Llama {
            name: "tinyllama-1.1b",
            config: LlamaConfig {
                vocab_size: 32_000,
                hidden_size: 2048,
                intermediate_size: 5632,
                num_hidden_layers: 22,
                num_attention_heads: 32,
                num_key_value_heads: Some(4),
                ..LlamaConfig::default()
            },
            held: LARGE,
            quick: false,
        },
    ];
    let mut list: Vec<Case> = llamas.into_iter().flat_map(Llama::cases).collect();
    list.extend([Held::Dense, Held::Packed(WeightType::BF16)].map(|held| embed(32, 32, held)));
    list
}

impl Llama {
    fn cases(self) -> Vec<Case> {
        let prompt = if self.quick { 128 } else { 512 };
        let mut cases = Vec::new();
        for &held in self.held {
            cases.extend([self.prefill(prompt, held), self.decode(1, 128, held), self.decode(8, 128, held)]);
            cases.push(self.load(held));
        }
        for case in &mut cases {
            case.quick = self.quick;
        }
        cases
    }

    fn heads(&self) -> (usize, usize, usize) {
        let heads = self.config.num_attention_heads;
        (heads, self.config.num_key_value_heads.unwrap_or(heads), self.config.hidden_size / heads)
    }

    /// The tensors of its checkpoint.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let config = &self.config;
        let (_, kv_heads, head_dim) = self.heads();
        let (hidden, inner, kv) = (config.hidden_size, config.intermediate_size, kv_heads * head_dim);
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        if !config.tie_word_embeddings {
            tensors.push(("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]));
        }
        for layer in 0..config.num_hidden_layers {
            let shapes = [
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
                ("input_layernorm", vec![hidden]),
                ("post_attention_layernorm", vec![hidden]),
            ];
            tensors.extend(shapes.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
        }
        tensors
    }

    /// Weights of the layers, and of the output layer.
    fn weights(&self) -> (usize, usize) {
        let all: usize = self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let table = self.config.vocab_size * self.config.hidden_size;
        let tables = if self.config.tie_word_embeddings { 1 } else { 2 };
        (all - tables * table, table)
    }

    fn folder(&self) -> anyhow::Result<PathBuf> {
        checkpoint::folder(self.name, &self.config.to_json(), &self.tensors())
    }

    fn shape(&self, held: Held) -> Value {
        json!({"config": self.config.to_json(), "weights": held.name()})
    }

    fn prefill(&self, tokens: usize, held: Held) -> Case {
        let (layers, output) = self.weights();
        let (heads, kv_heads, head_dim) = self.heads();
        let depth = self.config.num_hidden_layers;
        let cost = Cost {
            bytes: (held.bytes(layers + output) + held.key_bytes() * 2 * depth * kv_heads * head_dim * tokens) as u64,
            // Scores and their use are half of 4 × tokens², as no token sees later ones.
            flops: (2 * layers * tokens + 2 * output + 2 * depth * heads * head_dim * tokens * tokens) as u64,
        };
        let this = self.clone();
        let run = move |device: &Device| -> anyhow::Result<Run> {
            let model = load(&this.folder()?, device, held)?;
            let ids = token_ids(tokens, this.config.vocab_size);
            let (mut pool, blocks) = pool(&model, 1, tokens)?;
            Ok(Box::new(move || {
                let decoder = model.decoder()?;
                let batch = Batch::cached([BatchSequence {
                    tokens: &ids,
                    past: 0,
                    blocks: &blocks[0],
                    len: tokens,
                    outputs: Outputs::Last,
                }]);
                let hidden = decoder.forward(&batch, Some(&mut pool));
                read(decoder.logits(hidden))
            }))
        };
        let case = Case::new("prefill", format!("{} {} {tokens} tokens", self.name, held.name()), cost, run)
            .shape(merged(self.shape(held), json!({"tokens": tokens})))
            .yields("tokens", tokens);
        held.on(case)
    }

    fn decode(&self, batch: usize, context: usize, held: Held) -> Case {
        let (layers, output) = self.weights();
        let (heads, kv_heads, head_dim) = self.heads();
        let depth = self.config.num_hidden_layers;
        let cost = Cost {
            bytes: (held.bytes(layers + output) + held.key_bytes() * 2 * batch * depth * kv_heads * head_dim * context)
                as u64,
            flops: (batch * (2 * (layers + output) + 4 * depth * heads * head_dim * context)) as u64,
        };
        let this = self.clone();
        let run = move |device: &Device| -> anyhow::Result<Run> {
            let model = load(&this.folder()?, device, held)?;
            let ids = token_ids(batch * context, this.config.vocab_size);
            let (mut pool, blocks) = pool(&model, batch, context)?;
            // The tokens `from..to` of every sequence.
            let step = move |from: usize, to: usize, outputs: Outputs| {
                Batch::cached(ids.chunks(context).zip(&blocks).map(|(ids, blocks)| BatchSequence {
                    tokens: &ids[from..to],
                    past: from,
                    blocks,
                    len: to,
                    outputs,
                }))
            };
            model.decoder()?.forward(&step(0, context - 1, Outputs::None), Some(&mut pool));
            Ok(Box::new(move || {
                let decoder = model.decoder()?;
                let hidden = decoder.forward(&step(context - 1, context, Outputs::Last), Some(&mut pool));
                read(decoder.logits(hidden))
            }))
        };
        let together = if batch == 1 { String::new() } else { format!(" ×{batch}") };
        let case = Case::new("decode", format!("{} {}{together} at {context}", self.name, held.name()), cost, run)
            .shape(merged(self.shape(held), json!({"batch": batch, "context": context})))
            .yields("tokens", batch);
        held.on(case)
    }

    fn load(&self, held: Held) -> Case {
        let (layers, output) = self.weights();
        let table = if self.config.tie_word_embeddings { 0 } else { output };
        // The file has two bytes for each weight.
        let weights = layers + output + table;
        let cost = Cost { bytes: (2 * weights + held.bytes(weights)) as u64, flops: 0 };
        let this = self.clone();
        let run = move |device: &Device| -> anyhow::Result<Run> {
            let (folder, device) = (this.folder()?, device.clone());
            Ok(Box::new(move || load(&folder, &device, held).map(drop)))
        };
        let case =
            Case::new("load", format!("{} {} of bf16", self.name, held.name()), cost, run).shape(self.shape(held));
        held.on(case)
    }
}

/// The shape of all-MiniLM-L6-v2 on `batch` texts of `tokens` tokens each.
fn embed(batch: usize, tokens: usize, held: Held) -> Case {
    let config = BertConfig {
        vocab_size: 30_522,
        hidden_size: 384,
        num_hidden_layers: 6,
        num_attention_heads: 12,
        intermediate_size: 1536,
        ..BertConfig::default()
    };
    let (hidden, inner, depth) = (config.hidden_size, config.intermediate_size, config.num_hidden_layers);
    let layers = depth * (4 * hidden * hidden + 2 * hidden * inner);
    let cost = Cost {
        bytes: 4 * (layers + 2 * batch * tokens * hidden) as u64,
        flops: (batch * tokens * (2 * layers + 4 * depth * hidden * tokens)) as u64,
    };
    let shape = json!({"config": config.to_json(), "weights": held.name(), "batch": batch, "tokens": tokens});
    let run = move |device: &Device| -> anyhow::Result<Run> {
        let model = load(&checkpoint::folder("minilm-l6", &config.to_json(), &bert_tensors(&config))?, device, held)?;
        let ids = token_ids(batch * tokens, config.vocab_size);
        let texts = Batch::uncached(&ids.chunks(tokens).collect::<Vec<_>>());
        // As in the engine: on the processor, each thread takes some texts through all layers.
        let parts = if device.is_plain_cpu() { texts.split(160) } else { vec![texts] };
        let failed = AtomicBool::new(false);
        Ok(Box::new(move || {
            let encoder = model.encoder()?;
            let run = |part: usize| {
                let states = encoder.forward(&parts[part]);
                let mean = states.reshape([parts[part].sequences().len(), tokens, hidden]).mean_dim(1);
                failed.fetch_or(read(mean).is_err(), Ordering::Relaxed);
            };
            if parts.len() < Pool::global().threads() {
                (0..parts.len()).for_each(run);
            } else {
                Pool::global().run(parts.len(), run);
            }
            ensure!(!failed.load(Ordering::Relaxed), "the device failed");
            Ok(())
        }))
    };
    let name = format!("minilm-l6 {} {batch}×{tokens} tokens", held.name());
    held.on(Case::new("embed", name, cost, run).shape(shape).yields("texts", batch))
}

fn bert_tensors(config: &BertConfig) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let table = |name: &str, rows: usize| (format!("embeddings.{name}.weight"), vec![rows, hidden]);
    let mut tensors = vec![
        table("word_embeddings", config.vocab_size),
        table("position_embeddings", config.max_position_embeddings),
        table("token_type_embeddings", config.type_vocab_size),
    ];
    let norm = |tensors: &mut Vec<_>, name: String| {
        tensors.extend(["weight", "bias"].map(|kind| (format!("{name}.{kind}"), vec![hidden])));
    };
    norm(&mut tensors, "embeddings.LayerNorm".into());
    for layer in 0..config.num_hidden_layers {
        let layer = format!("encoder.layer.{layer}");
        let linears = [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ];
        for (name, out, input) in linears {
            tensors.push((format!("{layer}.{name}.weight"), vec![out, input]));
            tensors.push((format!("{layer}.{name}.bias"), vec![out]));
        }
        norm(&mut tensors, format!("{layer}.attention.output.LayerNorm"));
        norm(&mut tensors, format!("{layer}.output.LayerNorm"));
    }
    tensors
}

/// Loads a made-up model. Nothing is kept from one loading to the next.
fn load(folder: &std::path::Path, device: &Device, held: Held) -> anyhow::Result<Rc<AutoModel>> {
    let folder = folder.to_str().ok_or_else(|| anyhow::anyhow!("{} is not UTF-8", folder.display()))?;
    let (dtype, weights) = match held {
        Held::Dense => (Some(FloatDtype::F32), WeightFormat::Dense),
        Held::Packed(weight_type) => (None, WeightFormat::Packed(weight_type)),
    };
    let options = LoadOptions { dtype, weights, repacked: PackedCache::Off, ..LoadOptions::default() };
    Ok(Rc::new(AutoModel::load_with(folder, device, &options)?))
}

/// Some tokens below the vocabulary's size.
fn token_ids(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count).map(|index| ((index * 7 + 3) % vocabulary) as u32).collect()
}

/// Memory for sequences of this many tokens, with the blocks of each.
fn pool(model: &AutoModel, sequences: usize, tokens: usize) -> anyhow::Result<(KvPool, Vec<Vec<u32>>)> {
    let own = tokens.div_ceil(KvPoolConfig::BLOCK_TOKENS);
    let pool = model.decoder()?.kv_config().init(sequences * own, model.device())?;
    let blocks =
        (0..sequences).map(|sequence| (sequence * own..(sequence + 1) * own).map(|block| block as u32).collect());
    Ok((pool, blocks.collect()))
}

/// Brings the place of each row's largest number to the host, as choosing a token does; so the call is done when it
/// returns.
fn read<const D: usize>(scores: Tensor<D>) -> anyhow::Result<()> {
    let chosen: Tensor<D, Int> = scores.argmax(D - 1);
    chosen.try_into_data().map(drop).map_err(|error| anyhow::anyhow!("the device failed: {error:?}"))
}

fn merged(mut shape: Value, more: Value) -> Value {
    if let (Some(shape), Value::Object(more)) = (shape.as_object_mut(), more) {
        shape.extend(more);
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_have_the_weights_that_their_names_say() {
        let bf16 = |case: &&Case| case.op == "load" && case.name.contains(" bf16 of bf16");
        let counts: Vec<u64> = models().iter().filter(bf16).map(|case| case.cost.bytes / 4).collect();
        assert_eq!(counts, [134_515_008, 1_100_048_384]);
    }

    #[test]
    fn quick_runs_have_every_kind_of_case() {
        let kinds = |quick: bool| {
            let ops = models().into_iter().filter(|case| !quick || case.quick).map(|case| case.op);
            ops.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(kinds(true), kinds(false));
    }
}
