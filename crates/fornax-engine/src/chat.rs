//! A conversation with a model: it keeps the messages, renders them with the model's template, and streams the answers.

use fornax_models::AutoModel;
use fornax_text::Message;

use crate::sampling::SamplingParams;
use crate::{EngineConfig, EngineError, Generator, Prompt, Stream};

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
pub struct Chat {
    generator: Generator,
    messages: Vec<Message>,
    /// The question that is not answered yet.
    question: Option<Message>,
}

impl Chat {
    /// An empty conversation with this model.
    pub fn new(model: &AutoModel) -> Self {
        Self::with_config(model, EngineConfig::default())
    }

    /// An empty conversation with this model, on an engine with this configuration.
    pub fn with_config(model: &AutoModel, config: EngineConfig) -> Self {
        Self { generator: Generator::with_config(model.clone(), config), messages: Vec::new(), question: None }
    }

    /// Begins with a message that says how to answer.
    #[must_use]
    pub fn system(mut self, text: impl Into<String>) -> Self {
        self.messages.insert(0, Message::new("system", text));
        self
    }

    /// The messages so far, questions with their answers.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Streams the model's answer to the user's message. [`answered`](Self::answered) adds both to the conversation. So
    /// an answer that was interrupted can be kept as far as it went; asking another question forgets the question and
    /// its answer instead.
    ///
    /// # Errors
    /// [`EngineError::NoChatTemplate`], a template that fails, and the errors of [`Generator::stream`].
    pub fn ask(&mut self, text: impl Into<String>, params: &SamplingParams) -> Result<Stream, EngineError> {
        self.question = None;
        let question = Message::new("user", text);
        let conversation = self.messages.iter().chain([&question]).cloned().collect();
        let stream = self.generator.stream(Prompt::Messages(conversation), params)?;
        self.question = Some(question);
        Ok(stream)
    }

    /// Keeps the question and its answer.
    pub fn answered(&mut self, text: impl Into<String>) {
        self.messages.extend(self.question.take());
        self.messages.push(Message::new("assistant", text));
    }

    /// Forgets everything but the system message.
    pub fn clear(&mut self) {
        self.messages.retain(|message| message.role == "system");
        self.question = None;
    }
}
