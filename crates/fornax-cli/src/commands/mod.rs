//! The subcommands, one file each: its arguments, and what it writes. What several share lies beside this folder.

pub mod bench;
pub mod cache;
pub mod chat;
pub mod download;
pub mod embed;
pub mod generate;
pub mod inspect;
pub mod score;
pub mod simulate;
