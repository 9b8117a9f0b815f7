//! Writes a tokenizer as a folder that transformers' `AutoTokenizer` loads.
//!
//! Only the tokenizer's own files; weights and config.json are not its business.

use crate::load::token_text;
use crate::{Result, TextError, Tokenizer};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;

impl Tokenizer {
    /// Writes `tokenizer.json`, `tokenizer_config.json` and the chat templates to `folder`, which is made if it is
    /// not there. Each file is written under another name first and then renamed, so none is ever half there.
    ///
    /// A SentencePiece vocabulary from a GGUF file is written as the byte-fallback BPE that transformers uses for
    /// such models. It gives the same tokens, except where the vocabulary has equal scores or tokens with
    /// characters that are not tokens themselves.
    ///
    /// ```
    /// # use fornax_text::{BpeTrainerConfig, Tokenizer, train_bpe};
    /// # let tokenizer = train_bpe(["a few words".to_owned()], &BpeTrainerConfig::default())?;
    /// # let folder = std::env::temp_dir().join(format!("fornax-text-doc-{}", std::process::id()));
    /// tokenizer.save(&folder)?;
    /// let again = Tokenizer::from_folder(&folder)?;
    /// assert_eq!(again.encode("a few words", true)?, tokenizer.encode("a few words", true)?);
    /// # std::fs::remove_dir_all(folder).ok();
    /// # Ok::<(), fornax_text::TextError>(())
    /// ```
    ///
    /// # Errors
    /// [`TextError::Io`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        fs::create_dir_all(folder).map_err(TextError::io("create", folder))?;
        let invalid = |e: serde_json::Error| TextError::invalid("the tokenizer", e);
        let mut json = serde_json::to_value(&self.inner.hf).map_err(invalid)?;
        if let Some(spm) = &self.inner.spm {
            json["model"]["merges"] = serde_json::to_value(spm.merges()).map_err(invalid)?;
        }
        let json = serde_json::to_string_pretty(&json).map_err(invalid)?;
        write(&folder.join("tokenizer.json"), json.as_bytes())?;
        let config = serde_json::to_string_pretty(&self.config()).map_err(invalid)?;
        write(&folder.join("tokenizer_config.json"), config.as_bytes())?;
        for (name, source) in self.chat_template().into_iter().flat_map(|t| t.sources()) {
            if name == "default" {
                write(&folder.join("chat_template.jinja"), source.as_bytes())?;
            } else {
                let more = folder.join("additional_chat_templates");
                // The name comes from the model's files; it must not lead out of the folder.
                if name.is_empty()
                    || !name.chars().all(|c| c.is_alphanumeric() || "-_ .".contains(c))
                    || name.contains("..")
                {
                    return Err(TextError::invalid(format!("chat template {name:?}"), "its name cannot be a file's"));
                }
                fs::create_dir_all(&more).map_err(TextError::io("create", &more))?;
                write(&more.join(format!("{name}.jinja")), source.as_bytes())?;
            }
        }
        Ok(())
    }

    fn config(&self) -> Map<String, Value> {
        let mut config = self.inner.config.clone();
        let specials = &self.inner.specials;
        let roles = [
            ("bos_token", specials.bos),
            ("eos_token", specials.eos.first().copied()),
            ("pad_token", specials.pad),
            ("unk_token", specials.unk),
        ];
        for (role, id) in roles {
            let token = id.and_then(|id| self.id_to_token(id));
            let same = config.get(role).and_then(token_text) == token.as_deref();
            if let Some(token) = token.filter(|_| !same) {
                config.insert(role.into(), token.into());
            }
        }
        // tokenizer.json says it all; a class of one model family would build its own parts instead.
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        // These two would be put around the text a second time, or change what tokenizer.json says.
        config.remove("add_bos_token");
        config.remove("add_eos_token");
        config.entry("clean_up_tokenization_spaces").or_insert(json!(false));
        config
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    // A path that was joined from a folder and a name has that folder.
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(TextError::io("write", path))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(TextError::io("write", path))?;
    // A temporary file is readable by its owner alone; a saved one should have the usual permissions.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(mode).map_err(TextError::io("write", path))?;
    }
    file.persist(path).map_err(|e| TextError::io("write", path)(e.error))?;
    Ok(())
}
