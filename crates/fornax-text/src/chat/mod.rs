//! Chat templates: a conversation as the text that a model was trained to continue.
//!
//! Templates are Jinja as transformers runs it. They can only compute text: no file, no network, no clock but
//! `strftime_now`, and a limited number of steps.

mod environment;
mod time;
mod tojson;

use crate::load::{ROLES, token_text};
use crate::tokenizer::SpecialIds;
use crate::{Result, TextError};
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// The steps that a template may take where nothing else is set: some hundred times what the longest ordinary
/// conversation needs, and still over within a second.
const DEFAULT_FUEL: u64 = 5_000_000;
/// The longest text that a template may make, in bytes.
const MAX_OUTPUT: usize = 64 << 20;

/// One message of a conversation.
///
/// ```
/// use fornax_text::Message;
/// let message = Message::user("What is 2 + 2?").with("name", "Ada");
/// assert_eq!(serde_json::to_value(&message)?["name"], "Ada");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// What is said: a text, or for templates that know it a list of parts; null beside tool calls.
    #[serde(default)]
    pub content: Value,
    /// More fields, such as `tool_calls`, `name` or `reasoning_content`.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message with a role and a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Value::String(content.into()), extra: Map::new() }
    }

    /// Instructions that stand before the conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model says.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// What a tool answers.
    pub fn tool(content: impl Into<String>) -> Self {
        Self::new("tool", content)
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.extra.insert(name.into(), value.into());
        self
    }
}

/// What [`ChatTemplate::render`] gives a template besides the messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateOptions {
    /// Which of several templates; `None` takes `tool_use` where there are tools and such a template, else `default`.
    pub template: Option<String>,
    /// Whether the text ends with the start of an answer for the model to go on with.
    pub add_generation_prompt: bool,
    /// Whether the text ends within the last message, for the model to go on with that.
    pub continue_final_message: bool,
    /// The tools that the model may call, each as a JSON schema; `None` is null for the template.
    pub tools: Option<Vec<Value>>,
    /// Documents for retrieval; `None` is null for the template.
    pub documents: Option<Vec<Value>>,
    /// More variables, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// The time that `strftime_now` tells, in UTC; `None` is the time of the call.
    pub now: Option<SystemTime>,
}

impl TemplateOptions {
    /// The options for asking a model: the text ends with the start of its answer.
    pub fn generation() -> Self {
        Self { add_generation_prompt: true, ..Self::default() }
    }
}

/// The chat template of a model, or several by name. Cloning is cheap.
///
/// Steps and output are limited, but not memory: a template made to harm can double a string until there is none left.
/// Render templates of models that you would run.
///
/// ```
/// use fornax_text::{ChatTemplate, Message, TemplateOptions};
/// let template = ChatTemplate::new(
///     "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}\
///      {% if add_generation_prompt %}<|assistant|>{% endif %}",
/// );
/// let text = template.render(&[Message::user("Hello")], &TemplateOptions::generation())?;
/// assert_eq!(text, "<|user|>Hello\n<|assistant|>");
/// # Ok::<(), fornax_text::TextError>(())
/// ```
#[derive(Clone)]
pub struct ChatTemplate {
    sources: Arc<[(String, String)]>,
    /// Special tokens by the names that templates know, such as `bos_token`.
    tokens: Arc<Map<String, Value>>,
    fuel: u64,
}

impl ChatTemplate {
    /// A template from its source.
    pub fn new(source: impl Into<String>) -> Self {
        Self::named([("default".to_owned(), source.into())])
    }

    /// Templates by name; the usual one is called `default`. Of several with one name the last counts.
    pub fn named(sources: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut unique: Vec<(String, String)> = Vec::new();
        for (name, source) in sources {
            match unique.iter_mut().find(|(other, _)| *other == name) {
                Some(entry) => entry.1 = source,
                None => unique.push((name, source)),
            }
        }
        Self { sources: unique.into(), tokens: Arc::default(), fuel: DEFAULT_FUEL }
    }

    /// Sets a variable for every call, such as `bos_token`. A tokenizer sets those of its special tokens itself.
    #[must_use]
    pub fn with_token(mut self, name: impl Into<String>, token: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.tokens).insert(name.into(), Value::String(token.into()));
        self
    }

    /// Sets the number of steps after which a template is stopped.
    #[must_use]
    pub fn with_fuel(mut self, fuel: u64) -> Self {
        self.fuel = fuel;
        self
    }

    /// Gives the template the special tokens of its tokenizer.
    pub(crate) fn with_tokens(
        self,
        hf: &tokenizers::Tokenizer,
        specials: &SpecialIds,
        config: &Map<String, Value>,
    ) -> Self {
        let ids = [
            ("bos_token", specials.bos),
            ("eos_token", specials.eos.first().copied()),
            ("pad_token", specials.pad),
            ("unk_token", specials.unk),
        ];
        let by_id = ids.into_iter().filter_map(|(role, id)| Some((role, hf.id_to_token(id?)?)));
        let by_name = ROLES.iter().filter_map(|role| Some((*role, token_text(config.get(*role)?)?.to_owned())));
        // Collected first because the names of the configuration take precedence over names found by id.
        let all: Vec<(&str, String)> = by_id.chain(by_name).collect();
        all.into_iter().fold(self, |template, (role, token)| template.with_token(role, token))
    }

    /// The names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|(name, _)| name.as_str())
    }

    /// The source of a template.
    pub fn source(&self, name: &str) -> Option<&str> {
        self.sources.iter().find(|(other, _)| other == name).map(|(_, source)| source.as_str())
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sources.iter().map(|(name, source)| (name.as_str(), source.as_str()))
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`TextError::NoTemplate`] for a name that is not there; [`TextError::Template`] where the template is not
    /// valid, refuses the conversation (`raise_exception`), fails, or does not end.
    pub fn render(&self, messages: &[Message], options: &TemplateOptions) -> Result<String> {
        let name = match &options.template {
            Some(name) => name,
            None if options.tools.is_some() && self.source("tool_use").is_some() => "tool_use",
            None => "default",
        };
        let source = self.source(name).ok_or_else(|| TextError::NoTemplate {
            name: name.to_owned(),
            known: self.names().map(str::to_owned).collect(),
        })?;
        let failed = |line, reason| TextError::Template { name: name.to_owned(), line, reason };
        let mut messages: Vec<Value> = messages.iter().map(|m| json!(m)).collect();
        let continued = if options.continue_final_message {
            if options.add_generation_prompt {
                let reason = "continue_final_message and add_generation_prompt exclude each other".to_owned();
                return Err(failed(None, reason));
            }
            let content = messages.last_mut().and_then(mark_final);
            Some(content.ok_or_else(|| failed(None, "there is no final message with a text to continue".to_owned()))?)
        } else {
            None
        };
        let mut variables = (*self.tokens).clone();
        variables.extend(options.variables.clone());
        variables.insert("messages".into(), Value::Array(messages));
        variables.insert("tools".into(), json!(options.tools));
        variables.insert("documents".into(), json!(options.documents));
        variables.insert("add_generation_prompt".into(), options.add_generation_prompt.into());

        let mut environment: Environment<'_> = environment::new(options.now.unwrap_or_else(SystemTime::now));
        // The engine counts down in a signed number.
        environment.set_fuel(Some(self.fuel.min(i64::MAX as u64)));
        let source = environment::without_generation_tags(source);
        let explain = |error: &minijinja::Error| failed(error.line(), explain(error, self.fuel));
        environment.add_template(name, &source).map_err(|e| explain(&e))?;
        let template = environment.get_template(name).map_err(|e| explain(&e))?;
        let mut out = Limited { bytes: Vec::new() };
        template.render_captured_to(Jinja::from(Serde(&variables)), &mut out).map_err(|e| explain(&e))?;
        // The engine writes whole strings, so cutting none of them leaves UTF-8.
        let mut text = String::from_utf8(out.bytes).map_err(|e| failed(None, e.to_string()))?;
        if let Some(content) = continued {
            let end = text.rfind(CONTINUE.trim_end());
            let end = end.ok_or_else(|| failed(None, "it does not show the final message as it is".to_owned()))?;
            // A template that trims messages trims the mark's last space too, and then the message's own end.
            let trimmed = !text[end..].starts_with(CONTINUE);
            text.truncate(end);
            if trimmed {
                text.truncate(text.trim_end().len());
            }
            if !text.ends_with(content.trim()) && !text.contains(content.trim()) {
                return Err(failed(None, "it does not show the final message as it is".to_owned()));
            }
        }
        Ok(text)
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("names", &self.names().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

/// Stands at the end of the final message while a template runs, to find that place in the text again.
const CONTINUE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Appends the mark to the text of a message and returns the text.
fn mark_final(message: &mut Value) -> Option<String> {
    let text = match message.get_mut("content")? {
        Value::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text"))?,
        content => content,
    };
    let content = text.as_str()?.to_owned();
    *text = Value::String(format!("{content}{CONTINUE}"));
    Some(content)
}

/// The reason of an error, in the words of the innermost cause that has any.
fn explain(error: &minijinja::Error, fuel: u64) -> String {
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("it did not end after {fuel} steps");
    }
    let mut reason = match error.detail() {
        Some(detail) if error.kind() == ErrorKind::InvalidOperation => detail.to_owned(),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        reason = format!("{reason}: {inner}");
        cause = inner.source();
    }
    reason
}

/// Takes a template's output up to a limit.
struct Limited {
    bytes: Vec<u8>,
}

impl std::io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT {
            return Err(std::io::Error::other(format!("the text is longer than {MAX_OUTPUT} bytes")));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
