//! `fornax chat`, by lines through pipes.

use fornax::prelude::*;

use crate::support::{bare, bert, error_of, llama, load, run_with_input, stdout};

/// What the library answers, each answer on its line as the command writes it.
fn answers(system: Option<&str>, messages: &[&str], max_new_tokens: usize) -> Vec<String> {
    let model = load(&llama());
    let params = SamplingParams::default().max_new_tokens(max_new_tokens);
    let mut chat = Chat::new(&model);
    if let Some(system) = system {
        chat = chat.system(system);
    }
    messages
        .iter()
        .map(|message| {
            let stream = chat.ask(*message, &params).expect("asked");
            let answer: String = stream.map(|chunk| chunk.expect("a piece").text).collect();
            chat.answered(answer.clone());
            format!("{answer}\n")
        })
        .collect()
}

#[test]
fn the_conversation_is_kept() {
    let model = llama();
    let args = ["chat", &model, "--system", "be brief", "--max-new-tokens", "10"];
    let found = stdout(&run_with_input(&args, "the cat?\n\nthe sea?\n"));
    assert_eq!(found, answers(Some("be brief"), &["the cat?", "the sea?"], 10).concat());
}

#[test]
fn clear_forgets_the_conversation_and_exit_ends() {
    let model = llama();
    let args = ["chat", &model, "--max-new-tokens", "10"];
    let found = stdout(&run_with_input(&args, "the cat?\n/clear\nthe cat?\n/exit\nthe sea?\n"));
    let once = answers(None, &["the cat?"], 10).concat();
    assert_eq!(found, once.repeat(2));
}

#[test]
fn models_that_cannot_chat_say_so_before_anything_is_asked() {
    let error = error_of(&run_with_input(&["chat", &bare()], "hello\n"));
    assert!(error.contains("tokenizer"), "{error}");
    let error = error_of(&run_with_input(&["chat", &bert()], "hello\n"));
    assert!(error.contains("an encoder") && error.contains("causal language model"), "{error}");
}

#[test]
fn a_message_beyond_the_context_is_an_error() {
    let error = error_of(&run_with_input(&["chat", &llama()], &"zebra ".repeat(60)));
    assert!(error.contains("context"), "{error}");
}
