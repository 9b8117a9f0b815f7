//! The arguments that say how tokens are chosen, shared by `generate` and `chat`.

use anyhow::Result;
use clap::Args;
use fornax::prelude::SamplingParams;

use crate::args::CommonArgs;

/// How to choose tokens and when to stop.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Choosing tokens")]
pub struct SamplingArgs {
    /// The most tokens to generate [default: 128, in a chat 512]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub max_new_tokens: Option<usize>,

    /// Do not end before this many tokens
    #[arg(long, value_name = "COUNT", default_value_t = 0, allow_negative_numbers = true)]
    pub min_new_tokens: usize,

    /// 0 takes the most likely token each time (greedy); above 0 tokens are drawn, the more evenly the higher
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f32,

    /// Draw from this many most likely tokens only; 0 for all; needs a temperature above 0
    #[arg(long, value_name = "COUNT", default_value_t = 0, allow_negative_numbers = true)]
    pub top_k: usize,

    /// Draw from the fewest tokens whose probabilities reach this sum; 1 for all; needs a temperature above 0
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,

    /// Draw from tokens at least this many times as likely as the likeliest; 0 for all; needs a temperature above 0
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, allow_negative_numbers = true)]
    pub min_p: f32,

    /// Above 1 makes tokens of the prompt and the text so far less likely; 1 leaves them
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repetition_penalty: f32,

    /// Makes a token less likely for each time it was generated; -2 to 2
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,

    /// Makes a token less likely once it was generated; -2 to 2
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,

    /// End before this text, which is left out (may be given several times)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,

    /// End at this token, beside those of the model (may be given several times)
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub stop_token_id: Vec<u32>,

    /// Go on past the model's end tokens
    #[arg(long)]
    pub ignore_eos: bool,
}

impl SamplingArgs {
    /// As the engine takes them, and in their ranges.
    pub fn params(&self, default_max_new_tokens: usize, common: &CommonArgs) -> Result<SamplingParams> {
        let params = SamplingParams::default()
            .max_new_tokens(self.max_new_tokens.unwrap_or(default_max_new_tokens))
            .min_new_tokens(self.min_new_tokens)
            .temperature(self.temperature)
            .top_k(self.top_k)
            .top_p(self.top_p)
            .min_p(self.min_p)
            .repetition_penalty(self.repetition_penalty)
            .frequency_penalty(self.frequency_penalty)
            .presence_penalty(self.presence_penalty)
            .stop(self.stop.iter().cloned())
            .stop_token_ids(self.stop_token_id.iter().copied())
            .ignore_eos(self.ignore_eos)
            .seed(common.seed);
        params.validate()?;
        Ok(params)
    }

    /// Says what changes nothing because no token is drawn.
    pub fn warn_of_unused(&self, common: &CommonArgs) {
        let narrowed = [("--top-k", self.top_k > 0), ("--top-p", self.top_p != 1.0), ("--min-p", self.min_p != 0.0)];
        if self.temperature == 0.0
            && let Some((name, _)) = narrowed.into_iter().find(|&(_, given)| given)
        {
            common
                .notices()
                .warn(format_args!("{name} changes nothing: without --temperature above 0 nothing is drawn"));
        }
    }
}
