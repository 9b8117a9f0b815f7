//! Tokenizers, chat templates and streaming detokenization for language models.
//!
//! * [`Tokenizer`] turns text into token ids and back. It is read from a Hugging Face folder or file, built from the
//!   metadata of a GGUF file ([`GgufVocab`]) or trained ([`train_bpe`]).
//! * [`StreamDecoder`] turns ids into text as they arrive, in whole characters.
//! * [`ChatTemplate`] turns a conversation of [`Message`]s into the text that a model was trained to continue.
//!
//! Everything from outside (files, metadata, templates, texts, ids) may be broken or hostile: it gives a
//! [`TextError`], never a panic. This crate knows no tensors, no models and no network.

mod chat;
mod check;
mod decode;
mod encoding;
mod error;
mod gguf;
mod load;
mod save;
mod stream;
mod tokenizer;
mod train;
mod utf8;

pub use chat::{ChatTemplate, Message, TemplateOptions};
pub use encoding::{BatchOptions, Encoding, Padding, PaddingSide};
pub use error::{Result, TextError};
pub use gguf::GgufVocab;
pub use stream::StreamDecoder;
pub use tokenizer::Tokenizer;
pub use train::{BpeTrainerConfig, train_bpe};
