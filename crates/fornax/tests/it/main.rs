//! The facade as a program outside sees it: one dependency, one prelude.

use fornax::prelude::*;

/// Loads a model by the prelude alone and asks it for everything.
#[test]
fn a_program_needs_the_prelude_alone() -> Result<(), Box<dyn std::error::Error>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fornax-models/tests/fixtures/llama");
    let model = AutoModel::load(folder, &"cpu".parse()?)?;
    let generations = model.generator().generate(vec![1, 2, 3], &SamplingParams::default().max_new_tokens(4))?;
    assert!(!generations[0].token_ids.is_empty());
    let score: Score = model.score(vec![1, 2, 3])?;
    assert!(score.perplexity().is_some_and(|perplexity| perplexity > 1.0));
    assert!(model.generator().generate("a text", &SamplingParams::default()).is_err(), "there is no tokenizer");
    Ok(())
}
