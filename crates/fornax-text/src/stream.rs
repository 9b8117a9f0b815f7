//! [`StreamDecoder`]: text from tokens as they arrive.
//!
//! It looks at each token once. It does not compare decoded texts, so its cost and its memory do not grow with
//! the length of the text.

use crate::decode::{Plan, Running};
use crate::{Result, Tokenizer};

/// Decodes one token at a time; made by [`Tokenizer::stream_decoder`].
///
/// The pieces put together are exactly what [`Tokenizer::decode`] gives for all the ids. A piece never ends
/// within a character: the bytes of an unfinished one (at most three) wait for the next token.
///
/// For the few decoders that need all tokens at once (CTC, BPE with an end-of-word suffix) nothing comes before
/// [`finish`](Self::finish), and the ids are kept until then.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    skip_special_tokens: bool,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Running(Running),
    Kept(Vec<u32>),
}

impl StreamDecoder {
    pub(crate) fn new(tokenizer: Tokenizer, skip_special_tokens: bool) -> Self {
        let state = Self::start(&tokenizer);
        Self { tokenizer, skip_special_tokens, state }
    }

    fn start(tokenizer: &Tokenizer) -> State {
        match &tokenizer.inner.plan {
            Plan::Streaming(steps) => State::Running(Running::new(steps)),
            Plan::Whole => State::Kept(Vec::new()),
        }
    }

    /// Takes the next token and returns the text that it completes, `None` if it completes none.
    ///
    /// # Errors
    /// [`TextError::UnknownId`](crate::TextError::UnknownId) for an id that has no token; the decoder can go on
    /// with other ids.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        let token = self.tokenizer.piece(id)?;
        let mut out = String::new();
        if !(self.skip_special_tokens && self.tokenizer.is_special(id)) {
            match &mut self.state {
                State::Running(running) => running.push(&token, &mut out),
                State::Kept(ids) => ids.push(id),
            }
        }
        Ok((!out.is_empty()).then_some(out))
    }

    /// Ends the text and returns what was held back; afterwards the decoder stands at the start of a new text.
    ///
    /// # Errors
    /// [`TextError::Decode`](crate::TextError::Decode) from a decoder that needs all tokens at once.
    pub fn finish(&mut self) -> Result<Option<String>> {
        let mut out = String::new();
        match &mut self.state {
            State::Running(running) => running.finish(&mut out),
            State::Kept(ids) => out = self.tokenizer.decode_whole(ids, self.skip_special_tokens)?,
        }
        self.state = Self::start(&self.tokenizer);
        Ok((!out.is_empty()).then_some(out))
    }
}
