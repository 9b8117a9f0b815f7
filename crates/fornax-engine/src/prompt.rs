//! Prompts: plain text, text with its special tokens, a conversation, or token ids.

use fornax_models::AutoModel;
use fornax_text::{Message, TemplateOptions, Tokenizer};

use crate::EngineError;

/// A prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Plain text. The tokenizer adds its special tokens, such as a begin-of-sequence token.
    Text(String),
    /// The output of a chat template, whose special tokens are written out in the text.
    Rendered(String),
    /// A conversation. The model's chat template renders it, up to where the next answer begins.
    Messages(Vec<Message>),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&String> for Prompt {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Self::Tokens(tokens)
    }
}

impl From<&[u32]> for Prompt {
    fn from(tokens: &[u32]) -> Self {
        Self::Tokens(tokens.to_vec())
    }
}

impl Prompt {
    /// Its token ids for `model`, each of them in the vocabulary. May be empty.
    pub(crate) fn token_ids(&self, model: &AutoModel) -> Result<Vec<u32>, EngineError> {
        let tokenizer = || model.tokenizer().ok_or(EngineError::NoTokenizer);
        let ids = match self {
            Self::Text(text) => tokenizer()?.encode(text, true)?.ids,
            Self::Rendered(text) => tokenizer()?.encode(text, false)?.ids,
            Self::Messages(messages) => tokenizer()?.encode(&rendered(messages, tokenizer()?)?, false)?.ids,
            Self::Tokens(ids) => ids.clone(),
        };
        check_vocabulary(&ids, model)?;
        Ok(ids)
    }

    /// As [`token_ids`](Self::token_ids), never empty and no longer than the model's context.
    pub(crate) fn fitting(&self, model: &AutoModel) -> Result<Vec<u32>, EngineError> {
        let ids = self.token_ids(model)?;
        let context = model.network().context_length();
        match ids.len() {
            0 => Err(EngineError::EmptyPrompt),
            found if found > context => Err(EngineError::PromptTooLong { found, context }),
            _ => Ok(ids),
        }
    }

    /// As [`token_ids`](Self::token_ids), with room left for an answer, and never empty: without tokens the model's
    /// begin-of-sequence token is the prompt.
    pub(crate) fn admitted(&self, model: &AutoModel) -> Result<Vec<u32>, EngineError> {
        let mut ids = self.token_ids(model)?;
        if ids.is_empty() {
            ids.push(model.generation_defaults().bos_token_id.ok_or(EngineError::EmptyPrompt)?);
            check_vocabulary(&ids, model)?;
        }
        let context = model.network().context_length();
        if ids.len() >= context {
            return Err(EngineError::PromptTooLong { found: ids.len(), context });
        }
        Ok(ids)
    }
}

/// A conversation as the model's template writes it.
fn rendered(messages: &[Message], tokenizer: &Tokenizer) -> Result<String, EngineError> {
    let template = tokenizer.chat_template().ok_or(EngineError::NoChatTemplate)?;
    Ok(template.render(messages, &TemplateOptions::generation())?)
}

/// Checks that the model has a vector for every id.
pub(crate) fn check_vocabulary(ids: &[u32], model: &AutoModel) -> Result<(), EngineError> {
    let vocab_size = model.network().vocab_size();
    match ids.iter().position(|&id| id as usize >= vocab_size) {
        Some(position) => Err(EngineError::TokenOutOfVocabulary { found: ids[position], position, vocab_size }),
        None => Ok(()),
    }
}
