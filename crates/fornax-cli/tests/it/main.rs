//! The command as a user runs it: the built program, its standard output, its standard error and its exit code.
//! The libraries' tests check the results themselves; here the command must give the same results as the library.

mod chat;
mod embed;
mod errors;
mod fixtures;
mod generate;
mod hub;
mod inspect;
mod pipes;
mod prompts;
mod score;
mod simulate;
mod support;
mod texts;
mod weights;
