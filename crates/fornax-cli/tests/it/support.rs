//! Running the command, and the models that it is run on: tiny ones with random weights, made through the library.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use fornax::models::Network;
use fornax::models::families::bert::BertConfig;
use fornax::models::families::llama::LlamaConfig;
use fornax::prelude::*;
use fornax::text::{BpeTrainerConfig, train_bpe};
use serde_json::{Value, json};

/// Tokens of the test models' context.
pub const CONTEXT: usize = 96;
/// Tokens of the test models: three special ones, the bytes, and a few that are learned.
pub const VOCAB: usize = 268;

/// The command, with nothing of the user's own settings and no network.
pub fn fornax() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fornax"));
    for name in ["RUST_BACKTRACE", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"]
    {
        command.env_remove(name);
    }
    command.env("HF_HOME", models().join("hf-home")).env("HF_HUB_OFFLINE", "1");
    command
}

/// Runs the command to its end.
pub fn run<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    fornax().args(args).stdin(Stdio::null()).output().expect("the command starts")
}

/// Runs the command with this standard input.
pub fn run_with_input(args: &[&str], input: &str) -> Output {
    let mut child = fornax()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    // The input is shorter than a pipe's buffer, so that writing it does not block. A command that ends early does not
    // read it.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

/// Standard output of a run that must succeed, and say nothing else.
pub fn stdout(output: &Output) -> String {
    let (text, errors) = (utf8(&output.stdout), utf8(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "stderr: {errors}");
    assert_eq!(errors, "", "nothing is said where standard error is no terminal");
    text
}

/// Runs the command, which must succeed.
pub fn ok<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> String {
    stdout(&run(args))
}

/// Runs the command, which must succeed and write a JSON object a line.
pub fn json_lines(args: &[&str]) -> Vec<Value> {
    ok(args).lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

/// The JSON objects of a run over a file of inputs of which `failed` of `inputs` must have failed.
pub fn partly(output: &Output, failed: usize, inputs: usize) -> Vec<Value> {
    let errors = utf8(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(failed > 0)), "stderr: {errors}");
    let summary =
        format!("error: {failed} of {inputs} inputs failed; the objects with \"error\" in the output say why\n");
    assert_eq!(errors, if failed > 0 { summary.as_str() } else { "" });
    utf8(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

/// A new file with this text, which is removed at the end.
pub fn file(suffix: &str, text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(suffix).tempfile().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

/// Standard error of a run that must fail with a plain error: exit code 1, nothing on standard output, no panic.
pub fn error_of(output: &Output) -> String {
    let errors = utf8(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "stderr: {errors}");
    assert_eq!(utf8(&output.stdout), "", "an error leaves standard output empty");
    assert!(errors.starts_with("error: "), "{errors}");
    assert!(!errors.contains("panicked") && !errors.contains("internal error"), "{errors}");
    errors
}

/// Runs the command, which must fail with an error that names all of `names`.
pub fn fails(args: &[&str], names: &[&str]) {
    let error = error_of(&run(args));
    for name in names {
        assert!(error.contains(name), "{args:?}: no {name:?} in: {error}");
    }
}

fn utf8(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the command writes UTF-8")
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("paths of the tests are UTF-8")
}

/// A Llama with tokenizer and chat template.
pub fn llama() -> String {
    arg(&models().join("llama")).to_owned()
}

/// The same network without tokenizer.
pub fn bare() -> String {
    arg(&models().join("bare")).to_owned()
}

/// A BERT with tokenizer, without chat template.
pub fn bert() -> String {
    arg(&models().join("bert")).to_owned()
}

/// The same model, loaded here.
pub fn load(path: &str) -> AutoModel {
    AutoModel::load(path, &Device::cpu()).expect("the test's model loads")
}

/// The folder of the test models, made once a run.
pub fn models() -> &'static Path {
    static MODELS: OnceLock<PathBuf> = OnceLock::new();
    MODELS.get_or_init(|| {
        // Under the build's own folder, because nothing in a static is ever dropped and so removed.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fornax-cli");
        make(&folder);
        folder
    })
}

fn make(folder: &Path) {
    let device = Device::cpu();
    device.seed(20);
    let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}<|assistant|>";
    let tokenizer = |chat_template: Option<String>| {
        let texts = ["the cat and the dog went to the sea", "the sea was there and the cat sat", "a tale of the sea"];
        let config = BpeTrainerConfig {
            vocab_size: VOCAB,
            pad_token: Some("<pad>".into()),
            chat_template,
            ..BpeTrainerConfig::default()
        };
        let tokenizer = train_bpe(texts.map(str::to_owned), &config).expect("a tokenizer");
        assert_eq!(tokenizer.vocab_size(), VOCAB, "every token that the model can choose has a text");
        tokenizer
    };
    let config = LlamaConfig {
        vocab_size: VOCAB,
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        max_position_embeddings: CONTEXT,
        // Wide, so that the model has opinions of its own.
        initializer_range: 0.6,
        ..LlamaConfig::tiny()
    };
    let network = Network::Decoder(config.decoder().expect("a valid configuration").init(&device));
    let save = |name: &str, json: Value, network: Network, tokenizer: Option<Tokenizer>| {
        let model = AutoModel::from_parts(json, network, tokenizer, &device).expect("parts that fit");
        model.save(folder.join(name)).expect("saved");
    };
    // Saved first, as weights are drawn when they are first read.
    save("llama", config.to_json(), network.clone(), Some(tokenizer(Some(template.into()))));
    save("bare", config.to_json(), network, None);

    let json = json!({
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": VOCAB, "hidden_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
    });
    let config: BertConfig = BertConfig {
        vocab_size: VOCAB,
        hidden_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 32,
        max_position_embeddings: CONTEXT,
        initializer_range: 0.3,
        ..BertConfig::default()
    };
    let network = config.network("BertModel", &|_| false).expect("a valid configuration").init(&device);
    save("bert", json, Network::Bert(network), Some(tokenizer(None)));
}

/// A file of the data that is not in the repository, if it is here.
#[allow(clippy::print_stderr, reason = "a test that could not run says so")]
pub fn data(name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("FORNAX_TEST_DATA") else {
        eprintln!("FORNAX_TEST_DATA is not set: nothing is tested with {name}");
        return None;
    };
    let path = Path::new(&folder).join("data").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("{path:?} is not there: nothing is tested with it");
    None
}
