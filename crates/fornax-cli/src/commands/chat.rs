//! `fornax chat`: a conversation in the terminal, or line by line through pipes.

use std::io::{BufRead, IsTerminal, stdin, stdout};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use fornax::engine::EngineError;
use fornax::prelude::*;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::args::CommonArgs;
use crate::engine::KvArgs;
use crate::interrupt::Interrupt;
use crate::notices::say;
use crate::output::Output;
use crate::report;
use crate::sampling::SamplingArgs;

/// New tokens an answer when nothing else is asked for; they end with the context at the latest.
const MAX_NEW_TOKENS: usize = 512;

const HELP: &str = "\
/clear  forget the conversation, but not the system message
/exit   end (so does Ctrl-D)
/help   this list
Ctrl-C  end an answer; what has come of it stays in the conversation
Everything else is said to the model.";

/// Talk with a model, which remembers the conversation
///
/// The model must come with a chat template, as those named Instruct or Chat do. Where standard input is not a terminal
/// each line of it is a message, and each answer is written to standard output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fornax chat Qwen/Qwen2.5-0.5B-Instruct
  fornax chat ./model --system \"Answer in one sentence.\" --temperature 0.7
  printf 'Hello!\\nAnd who are you?\\n' | fornax chat ./model

In the conversation: /clear, /exit, /help; Ctrl-C ends an answer, Ctrl-D the conversation.")]
pub struct ChatArgs {
    /// A folder, a .gguf file or a hub id
    #[arg(value_name = "MODEL")]
    model: String,

    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,

    #[command(flatten)]
    sampling: SamplingArgs,

    #[command(flatten)]
    kv: KvArgs,
}

/// Runs it.
pub fn run(args: &ChatArgs, common: &CommonArgs) -> Result<()> {
    let params = args.sampling.params(MAX_NEW_TOKENS, common)?;
    args.sampling.warn_of_unused(common);
    let model = common.load(&args.model)?;
    // Known now rather than after the first message was typed.
    model.decoder()?;
    model.tokenizer().ok_or(EngineError::NoTokenizer)?.chat_template().ok_or(EngineError::NoChatTemplate)?;

    let mut chat = Chat::with_config(&model, args.kv.config());
    if let Some(system) = &args.system {
        chat = chat.system(system);
    }
    let interrupt = Interrupt::install()?;
    let mut lines = Lines::new()?;
    if lines.is_terminal() {
        common.notices().info("/help lists the commands; Ctrl-D ends.");
    }
    while let Some(line) = lines.next()? {
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/clear" => chat.clear(),
            "/help" => say(HELP),
            message => {
                let before = chat.clone();
                let answered = answer(&mut chat, message, &params, &interrupt);
                interrupt.end();
                match answered {
                    // At a terminal, the user can shorten the message or clear the conversation and go on.
                    Err(error) if lines.is_terminal() && error.is::<EngineError>() => {
                        report::error(&error);
                        if matches!(error.downcast_ref(), Some(EngineError::PromptTooLong { .. })) {
                            say("/clear forgets the conversation so far.");
                        }
                        chat = before;
                    }
                    other => other?,
                }
            }
        }
    }
    Ok(())
}

/// Asks, writes the answer as it comes, and keeps it.
fn answer(chat: &mut Chat, message: &str, params: &SamplingParams, interrupt: &Interrupt) -> Result<()> {
    let mut out = Output::stdout();
    interrupt.begin();
    let mut answer = String::new();
    for chunk in chat.ask(message, params)? {
        let chunk = chunk?;
        out.piece(&chunk.text)?;
        answer.push_str(&chunk.text);
        if interrupt.is_interrupted() {
            break;
        }
    }
    out.line("")?;
    out.flush()?;
    chat.answered(answer);
    Ok(())
}

/// Where messages come from.
enum Lines {
    /// Someone who types, with editing and a history.
    Terminal(Box<DefaultEditor>),
    /// A pipe or a file.
    Plain,
}

impl Lines {
    fn new() -> Result<Self> {
        if stdin().is_terminal() && stdout().is_terminal() {
            let editor = DefaultEditor::new().context("cannot read from the terminal")?;
            return Ok(Self::Terminal(Box::new(editor)));
        }
        Ok(Self::Plain)
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next line; `None` when there are no more.
    fn next(&mut self) -> Result<Option<String>> {
        let editor = match self {
            Self::Terminal(editor) => editor,
            Self::Plain => {
                let mut line = String::new();
                let bytes = stdin().lock().read_line(&mut line).context("cannot read standard input as UTF-8 text")?;
                return Ok((bytes > 0).then_some(line));
            }
        };
        loop {
            match editor.readline("> ") {
                Ok(line) => {
                    if !line.trim().is_empty() {
                        // A history without this line is no reason to end the conversation.
                        let _ = editor.add_history_entry(&line);
                    }
                    return Ok(Some(line));
                }
                Err(ReadlineError::Interrupted) => say("Ctrl-D or /exit ends the conversation."),
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(anyhow!(error).context("cannot read from the terminal")),
            }
        }
    }
}
