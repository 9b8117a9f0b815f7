//! The command as a user runs it: the built program, its standard output, its standard error and its exit code.
//! What the numbers should be is the libraries' matter; here the command must give what the library gives.

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
