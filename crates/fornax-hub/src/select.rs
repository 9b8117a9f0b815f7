//! Which files of a repository are fetched: what is needed to load and run the model, in one weight format.
//! The same rule reads the hub's listing and the cache's folder, so that both agree on what is complete.
//! It knows names only; it opens no file, save that [`shards`] reads an index that is given to it.

use crate::HubError;
use crate::name::check_file;
use std::collections::BTreeSet;

/// The files of a repository that make the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Configuration, tokenizer, templates and the small modules of sentence-transformers.
    pub files: Vec<String>,
    pub weights: Weights,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Weights {
    /// Files that lie in the model's folder.
    Files(Vec<String>),
    /// An index file, which names the shards.
    Index(String),
    /// One file that is the whole model, or its parts; the first one is opened.
    Single(Vec<String>),
}

/// Why nothing could be selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unselected {
    NoWeights,
    /// Several models and no choice; or a choice that fits several.
    Choose(Vec<String>),
    /// The file that was chosen is not there; these are.
    NoFile(Vec<String>),
}

const NAMED: [&str; 22] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tekken.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "bpe.codes",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];

/// Chooses from the names of a repository's files; `chosen` is the part of the model's name after the colon.
pub(crate) fn select(names: &BTreeSet<String>, chosen: Option<&str>) -> Result<Selection, Unselected> {
    if let Some(chosen) = chosen {
        return Ok(Selection { files: Vec::new(), weights: Weights::Single(choose(names, chosen)?) });
    }
    let weights = weights(names)?;
    let files = match weights {
        // A GGUF file carries its configuration and its tokenizer.
        Weights::Single(_) => Vec::new(),
        _ => names.iter().filter(|name| is_wanted(name, names)).cloned().collect(),
    };
    Ok(Selection { files, weights })
}

/// The shards that an index names, in order, each once.
pub(crate) fn shards(index: &[u8], repo: &str, index_name: &str) -> Result<Vec<String>, HubError> {
    let bad = |found: &str| HubError::BadAnswer {
        url: format!("{repo}/{index_name}"),
        expected: "an index with a weight_map from tensor to file name",
        found: found.to_owned(),
    };
    let json: serde_json::Value = serde_json::from_slice(index).map_err(|e| bad(&e.to_string()))?;
    let map = json.get("weight_map").and_then(|map| map.as_object()).ok_or_else(|| bad("no weight_map"))?;
    let mut shards = BTreeSet::new();
    for value in map.values() {
        let name = value.as_str().ok_or_else(|| bad("a file name that is no string"))?;
        check_file(name).map_err(|reason| HubError::UnsafeName { repo: repo.into(), name: name.into(), reason })?;
        shards.insert(name.to_owned());
    }
    if shards.is_empty() { Err(bad("an empty weight_map")) } else { Ok(shards.into_iter().collect()) }
}

fn weights(names: &BTreeSet<String>) -> Result<Weights, Unselected> {
    let has = |name: &str| names.contains(name);
    let one = |name: &str| Ok(Weights::Files(vec![name.to_owned()]));
    // The order in which transformers looks for them.
    for (single, index) in
        [("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json")]
    {
        if has(single) {
            return one(single);
        }
        if has(index) {
            return Ok(Weights::Index(index.to_owned()));
        }
        if single == "model.safetensors" {
            // A repository with one file of another name, such as consolidated.safetensors.
            let mut others = names.iter().filter(|name| !name.contains('/') && name.ends_with(".safetensors"));
            if let (Some(other), None) = (others.next(), others.next()) {
                return one(other);
            }
        }
    }
    let models = gguf_models(names);
    match models.as_slice() {
        [] => Err(Unselected::NoWeights),
        [model] => Ok(Weights::Single(parts(names, model))),
        _ => Err(Unselected::Choose(models)),
    }
}

fn is_wanted(name: &str, names: &BTreeSet<String>) -> bool {
    let Some((folder, file)) = name.split_once('/') else { return NAMED.contains(&name) };
    if folder == "additional_chat_templates" {
        return file.ends_with(".jinja");
    }
    // The modules of sentence-transformers: 1_Pooling, 2_Dense, 3_Normalize …
    let module = folder.split_once('_').is_some_and(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    module
        && match file {
            "config.json" | "model.safetensors" => true,
            "pytorch_model.bin" => !names.contains(&format!("{folder}/model.safetensors")),
            _ => false,
        }
}

/// The GGUF models, each by its first part. Projectors for images are no models of their own.
fn gguf_models(names: &BTreeSet<String>) -> Vec<String> {
    let model = |name: &&String| {
        let lower = name.to_ascii_lowercase();
        let file = lower.rsplit('/').next().unwrap_or(&lower);
        file.ends_with(".gguf") && !file.starts_with("mmproj") && part_of(name).is_none_or(|(_, part, _)| part == 1)
    };
    names.iter().filter(model).cloned().collect()
}

fn choose(names: &BTreeSet<String>, chosen: &str) -> Result<Vec<String>, Unselected> {
    if names.contains(chosen) {
        return Ok(parts(names, chosen));
    }
    let models = gguf_models(names);
    let lower = chosen.to_ascii_lowercase();
    let fits = |name: &&String| {
        let name = name.to_ascii_lowercase();
        let stem = name.trim_end_matches(".gguf");
        // The word stands alone: q4_k is not found in q4_k_m, nor q8_0 in iq8_0x.
        stem.match_indices(&lower).any(|(at, word)| {
            let edge = |c: Option<char>, also_joins: &str| {
                c.is_none_or(|c| !c.is_ascii_alphanumeric() && !also_joins.contains(c))
            };
            edge(stem[..at].chars().next_back(), "") && edge(stem[at + word.len()..].chars().next(), "_")
        })
    };
    let found: Vec<String> = models.iter().filter(fits).cloned().collect();
    match found.as_slice() {
        [] => Err(Unselected::NoFile(models)),
        [model] => Ok(parts(names, model)),
        _ => Err(Unselected::Choose(found)),
    }
}

/// All parts of a split GGUF, `x-00001-of-00003.gguf` and on; otherwise the file alone.
fn parts(names: &BTreeSet<String>, first: &str) -> Vec<String> {
    let Some((stem, _, count)) = part_of(first) else { return vec![first.to_owned()] };
    let same = |name: &&String| part_of(name).is_some_and(|(s, _, c)| (s, c) == (stem, count));
    names.iter().filter(same).cloned().collect()
}

/// Stem, number and count of a part of a split GGUF.
fn part_of(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let number = |text: &str| if text.len() == 5 { text.parse().ok() } else { None };
    Some((stem, number(part)?, number(count)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn takes_one_weight_format_and_no_other_frameworks_files() {
        let repo = names(&[
            "README.md",
            "config.json",
            "flax_model.msgpack",
            "generation_config.json",
            "model.safetensors",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tf_model.h5",
            "tokenizer.json",
            "rust_model.ot",
            "merges.txt",
        ]);
        let selection = select(&repo, None).expect("a model");
        let small = ["config.json", "generation_config.json", "merges.txt", "tokenizer.json"];
        assert_eq!(selection.files, strings(&small));
        assert_eq!(selection.weights, Weights::Files(strings(&["model.safetensors"])));
    }

    #[test]
    fn weights_in_the_order_of_preference() {
        let weights = |list| select(&names(list), None).map(|s| s.weights);
        let index = "model.safetensors.index.json";
        let sharded = [index, "model-00001-of-00002.safetensors", "consolidated.safetensors", "pytorch_model.bin"];
        assert_eq!(weights(&sharded), Ok(Weights::Index(index.into())));
        assert_eq!(weights(&["pytorch_model.bin", "a.gguf"]), Ok(Weights::Files(strings(&["pytorch_model.bin"]))));
        assert_eq!(weights(&["consolidated.safetensors"]), Ok(Weights::Files(strings(&["consolidated.safetensors"]))));
        assert_eq!(weights(&["a.gguf", "mmproj-a.gguf"]), Ok(Weights::Single(strings(&["a.gguf"]))));
        assert_eq!(weights(&["config.json", "tf_model.h5"]), Err(Unselected::NoWeights));
        assert_eq!(weights(&["a.gguf", "b.gguf"]), Err(Unselected::Choose(strings(&["a.gguf", "b.gguf"]))));
    }

    #[test]
    fn takes_the_modules_of_sentence_transformers() {
        let repo = names(&[
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.safetensors",
            "2_Dense/pytorch_model.bin",
            "3_Dense/pytorch_model.bin",
            "config.json",
            "data/config.json",
            "model.safetensors",
            "modules.json",
        ]);
        let expected = [
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.safetensors",
            "3_Dense/pytorch_model.bin",
            "config.json",
            "modules.json",
        ];
        assert_eq!(select(&repo, None).expect("a model").files, strings(&expected));
    }

    #[test]
    fn a_word_chooses_one_gguf() {
        let repo = names(&[
            "m-q4_k_m.gguf",
            "m-Q4_K_S.gguf",
            "m-q8_0.gguf",
            "f16/m-f16-00001-of-00002.gguf",
            "f16/m-f16-00002-of-00002.gguf",
            "config.json",
        ]);
        let single = |word| {
            select(&repo, Some(word)).map(|s| match s.weights {
                Weights::Single(files) => files,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(single("Q4_K_M"), Ok(strings(&["m-q4_k_m.gguf"])));
        assert_eq!(single("m-Q4_K_S.gguf"), Ok(strings(&["m-Q4_K_S.gguf"])));
        let split = ["f16/m-f16-00001-of-00002.gguf", "f16/m-f16-00002-of-00002.gguf"];
        assert_eq!(single("f16"), Ok(strings(&split)));
        assert!(matches!(single("q4_k"), Err(Unselected::NoFile(_))));
        assert!(matches!(single("m"), Err(Unselected::Choose(_))));
        assert!(matches!(single("q5_0"), Err(Unselected::NoFile(options)) if options.len() == 4));
    }

    #[test]
    fn reads_the_shards_of_an_index() {
        let index = br#"{"weight_map": {"a": "x-2.safetensors", "b": "x-1.safetensors", "c": "x-2.safetensors"}}"#;
        let found = shards(index, "a/b", "i.json").expect("a valid index");
        assert_eq!(found, strings(&["x-1.safetensors", "x-2.safetensors"]));
        let unsafe_index = br#"{"weight_map": {"a": "../x"}}"#;
        assert!(matches!(shards(unsafe_index, "a/b", "i.json"), Err(HubError::UnsafeName { .. })));
        for bad in [&b"{}"[..], b"[]", b"{", br#"{"weight_map": {}}"#, br#"{"weight_map": {"a": 1}}"#] {
            assert!(matches!(shards(bad, "a/b", "i.json"), Err(HubError::BadAnswer { .. })));
        }
    }
}
