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
    generator: Generator,
    messages: Vec<Message>,
    /// Asked and not answered yet.
    question: Option<Message>,
}

impl<'a> Chat<'a> {
    /// An empty conversation with this model.
    pub fn new(model: &'a AutoModel) -> Self {
        Self { model, generator: Generator::new(model), messages: Vec::new(), question: None }
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

    /// Streams the model's answer to the user's message. Both become part of the conversation by
    /// [`answered`](Self::answered), so that an answer which was broken off can be kept as far as it went, or forgotten
    /// with its question by asking another.
    ///
    /// # Errors
    /// [`EngineError::NoChatTemplate`], a template that fails, and what [`Generator::stream`] says.
    pub fn ask(&mut self, text: impl Into<String>, params: &SamplingParams) -> Result<Stream, EngineError> {
        self.question = None;
        let question = Message::new("user", text);
        let stream = self.generator.stream(self.prompt(&question)?, params)?;
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

    /// The conversation as the model's template writes it, up to where the answer to `question` begins.
    fn prompt(&self, question: &Message) -> Result<Prompt, EngineError> {
        let tokenizer = self.model.tokenizer().ok_or(EngineError::NoTokenizer)?;
        let template = tokenizer.chat_template().ok_or(EngineError::NoChatTemplate)?;
        let options = TemplateOptions { add_generation_prompt: true, ..TemplateOptions::default() };
        let messages: Vec<Message> = self.messages.iter().chain([question]).cloned().collect();
        Ok(Prompt::Rendered(template.render(&messages, &options)?))
    }
}
