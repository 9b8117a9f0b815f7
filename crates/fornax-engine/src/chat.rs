//! A conversation with a model: it keeps the messages, renders them with the model's template, and streams the answers.

use fornax_models::AutoModel;
use fornax_text::{Message, TemplateOptions};

use crate::sampling::SamplingParams;
use crate::{EngineError, Generator, Prompt, Stream};

/// A conversation.
///
/// ```no_run
/// use fornax_engine::{Chat, SamplingParams};
///
/// # fn run(model: fornax_models::AutoModel) -> Result<(), fornax_engine::EngineError> {
/// let mut chat = Chat::new(&model).system("Answer in one sentence.");
/// let mut answer = String::new();
/// for piece in chat.ask("What is a fornax?", &SamplingParams::default())? {
///     answer.push_str(&piece?.text);
/// }
/// chat.answered(answer);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Chat<'a> {
    model: &'a AutoModel,
    messages: Vec<Message>,
}

impl<'a> Chat<'a> {
    /// An empty conversation with this model.
    pub fn new(model: &'a AutoModel) -> Self {
        Self { model, messages: Vec::new() }
    }

    /// Begins with a message that says how to answer.
    #[must_use]
    pub fn system(mut self, text: impl Into<String>) -> Self {
        self.messages.insert(0, Message::new("system", text));
        self
    }

    /// The messages so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Adds the user's message and streams the model's answer. The answer becomes part of the conversation by
    /// [`answered`](Self::answered), so that one which was broken off can be left out or kept as far as it went.
    ///
    /// # Errors
    /// [`EngineError::NoChatTemplate`], a template that fails, and what [`Generator::stream`] says. The message is then
    /// not kept.
    pub fn ask(&mut self, text: impl Into<String>, params: &SamplingParams) -> Result<Stream<'a>, EngineError> {
        self.messages.push(Message::new("user", text));
        let stream = self.prompt().and_then(|prompt| Generator::new(self.model).stream(prompt, params));
        if stream.is_err() {
            self.messages.pop();
        }
        stream
    }

    /// Adds the model's answer.
    pub fn answered(&mut self, text: impl Into<String>) {
        self.messages.push(Message::new("assistant", text));
    }

    /// Forgets everything but the system message.
    pub fn clear(&mut self) {
        self.messages.retain(|message| message.role == "system");
    }

    /// The conversation as the model's template writes it, up to where its answer begins.
    fn prompt(&self) -> Result<Prompt, EngineError> {
        let tokenizer = self.model.tokenizer().ok_or(EngineError::NoTokenizer)?;
        let template = tokenizer.chat_template().ok_or(EngineError::NoChatTemplate)?;
        let options = TemplateOptions { add_generation_prompt: true, ..TemplateOptions::default() };
        Ok(Prompt::Rendered(template.render(&self.messages, &options)?))
    }
}
