//! Which tensor of a checkpoint is which parameter of a network, as data. Reading and writing tensors by it is done
//! elsewhere; a family writes down the names only.

/// The names of one checkpoint format of a family.
#[derive(Debug, Clone, Copy)]
pub struct WeightMap {
    /// One rule a layer or parameter. `{}` stands for the index of a repeated layer.
    pub rules: &'static [Rule],
    /// A prefix that checkpoints of the bare model leave out, such as `model.`.
    pub optional_prefix: &'static str,
    /// Tensors that may be there and are not needed, as patterns with `*` for anything.
    pub ignored: &'static [&'static str],
}

/// One rule: `module` and what is below it is found under `tensor`.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Path of a layer (`layers.{}.mlp.up`) or of a single parameter.
    pub module: &'static str,
    /// Its name in the checkpoint.
    pub tensor: &'static str,
    /// How its numbers lie there.
    pub layout: Layout,
}

/// How a checkpoint holds a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As the network does.
    Same,
    /// Matrices as `[in, out]` (GPT-2's `Conv1D`); vectors as they are.
    Transposed,
    /// As the network does, with several parameters one after the other along the first dimension.
    Part {
        /// Which of them.
        index: usize,
        /// How many there are.
        of: usize,
    },
    /// Matrices as `[in, out]`, with several parameters side by side along `out`.
    TransposedPart {
        /// Which of them.
        index: usize,
        /// How many there are.
        of: usize,
    },
    /// The rows of each head in pairs `(0, d/2), (1, d/2 + 1), …`, as llama.cpp turns neighbours where Hugging Face
    /// turns halves.
    PairedRows,
    /// With 1 added to each number, as llama.cpp keeps the norms of models that add it while they compute (Gemma).
    OneAdded,
}

/// A rule for a layer that is held as the network holds it.
pub const fn same(module: &'static str, tensor: &'static str) -> Rule {
    Rule { module, tensor, layout: Layout::Same }
}

/// A rule with a layout.
pub const fn laid_out(module: &'static str, tensor: &'static str, layout: Layout) -> Rule {
    Rule { module, tensor, layout }
}

impl WeightMap {
    /// The names under which a parameter may be found, the usual one first, and its layout.
    /// `None` when no rule speaks of the parameter, which is a fault of the family's table.
    pub fn names(&self, parameter: &str) -> Option<(Vec<String>, Layout)> {
        let (name, layout) = self.name(parameter)?;
        let mut names = vec![name];
        // Checkpoints of TensorFlow's time call a norm's weight gamma and its bias beta.
        for (new, old) in [(".weight", ".gamma"), (".bias", ".beta")] {
            if let Some(stem) = names[0].strip_suffix(new) {
                names.push(format!("{stem}{old}"));
            }
        }
        let bare: Vec<_> = names
            .iter()
            .filter_map(|name| name.strip_prefix(self.optional_prefix))
            .filter(|bare| names.iter().all(|name| name != bare))
            .map(str::to_owned)
            .collect();
        names.extend(bare);
        Some((names, layout))
    }

    /// The usual name of a parameter, and its layout.
    pub fn name(&self, parameter: &str) -> Option<(String, Layout)> {
        self.rules.iter().find_map(|rule| {
            let (index, rest) = strip_pattern(rule.module, parameter)?;
            Some((format!("{}{rest}", rule.tensor.replace("{}", index)), rule.layout))
        })
    }

    /// Whether a tensor that no parameter asked for may be left alone.
    pub fn ignores(&self, tensor: &str) -> bool {
        self.ignored.iter().any(|pattern| matches(pattern, tensor))
    }
}

/// Splits `path` into the index that stands for `{}` in `pattern` and what follows the pattern (empty, or from a dot on).
fn strip_pattern<'a>(pattern: &str, path: &'a str) -> Option<(&'a str, &'a str)> {
    let (index, rest) = match pattern.split_once("{}") {
        None => ("", path.strip_prefix(pattern)?),
        Some((before, after)) => {
            let tail = path.strip_prefix(before)?;
            let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
            if digits == 0 {
                return None;
            }
            (&tail[..digits], tail[digits..].strip_prefix(after)?)
        }
    };
    (rest.is_empty() || rest.starts_with('.')).then_some((index, rest))
}

/// Whether `name` has the shape of `pattern`, in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: WeightMap = WeightMap {
        rules: &[
            same("embedding", "model.embed"),
            same("layers.{}.mlp.up", "model.layers.{}.up_proj"),
            laid_out("head.bias", "cls.bias", Layout::Transposed),
        ],
        optional_prefix: "model.",
        ignored: &["*.inv_freq", "lm_head.weight", "h.*.attn.bias"],
    };

    #[test]
    fn rules_carry_the_layer_and_the_parameter() {
        let (names, layout) = MAP.names("layers.12.mlp.up.weight").expect("there is a rule");
        assert_eq!(names[0], "model.layers.12.up_proj.weight");
        assert!(names.contains(&"layers.12.up_proj.weight".to_owned()), "{names:?}");
        assert!(names.contains(&"model.layers.12.up_proj.gamma".to_owned()), "{names:?}");
        assert_eq!(layout, Layout::Same);
        assert_eq!(MAP.name("head.bias"), Some(("cls.bias".to_owned(), Layout::Transposed)));
    }

    #[test]
    fn a_rule_does_not_match_half_a_name() {
        assert_eq!(MAP.name("embeddings.weight"), None);
        assert_eq!(MAP.name("layers.x.mlp.up.weight"), None);
        assert_eq!(MAP.name("layers.1.mlp.upper.weight"), None);
    }

    #[test]
    fn patterns_of_ignored_tensors() {
        for ignored in ["model.layers.0.rotary.inv_freq", "lm_head.weight", "h.11.attn.bias"] {
            assert!(MAP.ignores(ignored), "{ignored}");
        }
        for kept in ["lm_head.weight.more", "h.11.attn.bias.x", "inv_freq.weight"] {
            assert!(!MAP.ignores(kept), "{kept}");
        }
    }
}
