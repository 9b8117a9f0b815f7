//! How a byte-level BPE vocabulary splits a text into words, by the name that GGUF gives it.
//!
//! Each pattern in turn splits what the ones before it left. They are the patterns of the models' own
//! tokenizer.json; names that need code of their own in llama.cpp (`kimi-k2`, `afmoe`, …) are not
//! here, nor are names whose pattern looks ahead over a whole number (`superbpe`, `tiny_aya`), which takes quadratic
//! time on long numbers.

use crate::{Result, TextError};

/// One way to split.
#[derive(Debug)]
pub(super) struct Pre {
    names: &'static [&'static str],
    pub patterns: &'static [&'static str],
    /// Whether a word that is a token as a whole is taken without looking at the merges.
    pub ignore_merges: bool,
    /// Whether BOS is added where the file does not say.
    pub add_bos: bool,
}

/// The entry for a name; no name means `default`.
pub(super) fn find(name: Option<&str>) -> Result<&'static Pre> {
    let name = name.filter(|name| !name.is_empty()).unwrap_or("default");
    PRE.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| TextError::UnknownPreTokenizer {
        found: name.to_owned(),
        known: PRE.iter().flat_map(|pre| pre.names).copied().collect(),
    })
}

/// English contractions in either case, without the letters that Unicode folds onto them.
macro_rules! contraction {
    () => {
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}

/// GPT-2's words: letters or numbers or other signs, each with the space before them.
macro_rules! gpt2 {
    () => {
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
    };
}

/// The words of cl100k and its successors, with a given pattern for numbers.
macro_rules! cl100k {
    ($numbers:literal) => {
        concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $numbers,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// The words of o200k, which end where a lower-case letter is followed by an upper-case one.
macro_rules! o200k {
    ($ending:expr, $numbers:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $ending,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $ending,
            "|",
            $numbers,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

const DEEPSEEK_V3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const PLAIN: Pre = Pre { names: &[], patterns: &[], ignore_merges: false, add_bos: false };

static PRE: [Pre; 18] = [
    Pre { names: &["default"], patterns: &[r"[\p{P}\$\+<=>\^~\|]+", gpt2!(), r"\p{N}+", "[0-9][0-9][0-9]"], ..PLAIN },
    Pre {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        patterns: &[cl100k!(r"\p{N}{1,3}")],
        ignore_merges: true,
        add_bos: true,
    },
    Pre { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], patterns: &[cl100k!(r"\p{N}{1,3}")], ..PLAIN },
    Pre { names: &["glm4", "glm5"], patterns: &[cl100k!(r"\p{N}{1,3}")], ignore_merges: true, ..PLAIN },
    Pre {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        patterns: &[cl100k!(r"\p{N}")],
        ..PLAIN
    },
    Pre {
        names: &["qwen35"],
        patterns: &[concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
        ..PLAIN
    },
    Pre {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        patterns: &[gpt2!()],
        ..PLAIN
    },
    Pre {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        patterns: &[r"\p{N}", gpt2!()],
        ..PLAIN
    },
    Pre { names: &["falcon"], patterns: &[r"[\p{P}\$\+<=>\^~\|`]+", gpt2!(), "[0-9][0-9][0-9]"], ..PLAIN },
    Pre {
        names: &["deepseek-coder"],
        patterns: &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        patterns: &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3],
        ..PLAIN
    },
    Pre { names: &["poro-chat", "bloom", "gpt3-finnish"], patterns: &[r" ?[^(\s|.,!?…。，、।۔،)]+"], ..PLAIN },
    Pre { names: &["viking"], patterns: &[r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"], ..PLAIN },
    Pre { names: &["tekken"], patterns: &[o200k!("", r"\p{N}")], ignore_merges: true, add_bos: true },
    Pre {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        patterns: &[o200k!(concat!(contraction!(), "?"), r"\p{N}{1,3}")],
        ..PLAIN
    },
    Pre {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        patterns: &[concat!(
            "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])",
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
        )],
        ..PLAIN
    },
    Pre {
        names: &["seed-coder"],
        patterns: &[concat!(
            contraction!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
        ..PLAIN
    },
    Pre { names: &["minicpm5"], patterns: &[r"\p{N}{1,3}", cl100k!(r"\p{N}+")], ignore_merges: true, ..PLAIN },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use tokenizers::utils::SysRegex;

    #[test]
    fn every_name_is_there_once_and_every_pattern_compiles() {
        let mut seen = HashSet::new();
        for pre in &PRE {
            assert!(!pre.names.is_empty() && !pre.patterns.is_empty());
            assert!(pre.names.iter().all(|name| seen.insert(name)), "{:?}", pre.names);
            for pattern in pre.patterns {
                SysRegex::new(pattern).unwrap_or_else(|e| panic!("{:?}: {e}", pre.names));
            }
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = find(Some("qwen99")).unwrap_err().to_string();
        assert!(error.contains("\"qwen99\"") && error.contains("llama-bpe, llama3"), "{error}");
        assert_eq!(find(None).unwrap().names, ["default"]);
    }

    #[test]
    fn words_of_the_main_families() {
        let words = |name: &str, text: &str| {
            let mut words = vec![text.to_owned()];
            for pattern in find(Some(name)).unwrap().patterns {
                let regex = SysRegex::new(pattern).unwrap();
                let split = |word: &String| {
                    let (mut out, mut end) = (Vec::new(), 0);
                    for (from, to) in regex.find_iter(word).chain([(word.len(), word.len())]) {
                        out.extend([&word[end..from], &word[from..to]].map(str::to_owned));
                        end = to;
                    }
                    out.retain(|w| !w.is_empty());
                    out
                };
                words = words.iter().flat_map(split).collect();
            }
            words.join("|")
        };
        assert_eq!(words("gpt-2", "It's 1234  dogs\n\n ok"), "It|'s| 1234| | dogs|\n\n| ok");
        assert_eq!(words("llama-bpe", "It'S 1234  dogs\n\n ok"), "It|'S| |123|4| | dogs|\n\n| ok");
        assert_eq!(words("qwen2", "a1234\n"), "a|1|2|3|4|\n");
        assert_eq!(words("smollm", "a 12"), "a| |1|2");
        assert_eq!(words("gpt-4o", "helloWorld's"), "hello|World's");
        assert_eq!(words("deepseek-v3", "a 你好12345"), "a| |你好|123|45");
    }
}
