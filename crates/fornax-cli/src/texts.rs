//! Files of texts for `score` and `embed`: one text a line, or JSON objects with `text` or `token_ids`, and an `id`.

use std::path::Path;

use anyhow::{Result, bail};
use fornax::engine::EngineError;
use fornax::prelude::Prompt;

use crate::batch_output::Place;
use crate::lines::{Ahead, Line, Lines};
use crate::notices::Notices;
use crate::requests::{object, parsed};

/// The place of a line, and its text or an error message.
type Text = (Place, Result<Prompt, String>);

/// Reads the texts of a file, at most `count` ahead.
pub fn open(path: &Path, jsonl: bool, count: usize) -> Result<Ahead<Text>> {
    let is_json = jsonl || path.extension().is_some_and(|extension| extension == "jsonl");
    Ahead::new(Lines::open(path)?, count, move |line| if is_json { json(line) } else { plain(line) })
}

/// Refuses `--jsonl` without `--texts`. clap's `requires` does not, as `--texts` conflicts with other arguments.
pub fn check_jsonl(jsonl: bool, texts: Option<&Path>) -> Result<()> {
    if jsonl && texts.is_none() {
        bail!("--jsonl says what the file of --texts holds; give --texts, or leave it out");
    }
    Ok(())
}

/// The number of texts, if progress is shown and the file is a plain file.
pub fn count(path: &Path, notices: Notices) -> Option<u64> {
    if notices.shows_info() { Lines::count(path) } else { None }
}

/// Computes the texts, up to `together` at once, and writes the results in their order.
pub fn answer_each<T>(
    texts: &mut Ahead<Text>,
    together: usize,
    mut compute: impl FnMut(Vec<Prompt>) -> Result<Vec<Result<T, EngineError>>>,
    mut write: impl FnMut(&Place, Result<T, String>) -> Result<()>,
) -> Result<()> {
    loop {
        let some = texts.next_some(together)?;
        if some.is_empty() {
            return Ok(());
        }
        let prompts = some.iter().filter_map(|(_, text)| text.as_ref().ok().cloned()).collect();
        let mut results = compute(prompts)?.into_iter();
        for (place, text) in some {
            let result = text.and_then(|_| match results.next() {
                Some(result) => result.map_err(|error| error.to_string()),
                None => Err("there is no result".into()),
            });
            write(&place, result)?;
        }
    }
}

fn plain(line: Line) -> (Place, Result<Prompt, String>) {
    (Place { index: line.index, id: None }, line.text.map(Prompt::Text))
}

fn json(line: Line) -> (Place, Result<Prompt, String>) {
    let (place, object) = object(line);
    let prompt = object.and_then(|mut object| {
        let (text, token_ids) = (object.shift_remove("text"), object.shift_remove("token_ids"));
        if let Some(key) = object.keys().next() {
            return Err(format!("unknown key {key:?}; expected text or token_ids, and id"));
        }
        match (text, token_ids) {
            (Some(text), None) => Ok(Prompt::Text(parsed("text", text)?)),
            (None, Some(ids)) => Ok(Prompt::Tokens(parsed("token_ids", ids)?)),
            (Some(_), Some(_)) => Err("expected exactly one of text and token_ids, found both".into()),
            (None, None) => Err("expected exactly one of text and token_ids, found neither".into()),
        }
    });
    (place, prompt)
}
