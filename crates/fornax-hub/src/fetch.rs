//! One file: fetched into `<etag>.incomplete`, continued where an earlier attempt or run stopped, checked
//! against its length and hash, and only then renamed to the blob that snapshots link to.

use crate::cache::{RepoCache, create_parent};
use crate::http::{Answer, Client, Failure, Metadata};
use crate::{Event, HubError, Progress};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const BUFFER: usize = 256 << 10;

/// The file that is fetched, and for whom.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub client: &'a Client,
    pub cache: &'a RepoCache,
    pub commit: &'a str,
    pub progress: &'a dyn Progress,
    /// Set when another file has failed for good, so that this one need not go on.
    pub cancelled: &'a AtomicBool,
}

/// Whether a blob is already there, whole as far as its length tells.
pub(crate) fn has_blob(cache: &RepoCache, metadata: &Metadata) -> bool {
    fs::metadata(cache.blob(&metadata.etag))
        .is_ok_and(|blob| blob.is_file() && metadata.size.is_none_or(|size| size == blob.len()))
}

/// Brings a file into the snapshot, from the blobs or from the hub.
pub(crate) fn fetch(job: Job<'_>, metadata: &Metadata) -> Result<(), HubError> {
    let Metadata { file, etag, .. } = metadata;
    let lock = job.cache.lock(etag, file, job.progress)?;
    // Another process may have fetched it while this one waited.
    if !has_blob(job.cache, metadata) {
        transfer(job, metadata)?;
    }
    job.cache.link(job.commit, file, etag)?;
    drop(lock);
    Ok(())
}

fn transfer(job: Job<'_>, metadata: &Metadata) -> Result<(), HubError> {
    let Metadata { file, etag, .. } = metadata;
    let path = job.cache.partial(etag);
    create_parent(&path)?;
    let mut partial = Partial::open(&path, is_sha256(etag))?;
    let mut size = metadata.size;
    if size.is_some_and(|size| partial.len > size) {
        partial.restart()?;
    }
    job.progress.event(&Event::Started { file, total: size, resumed: partial.len });

    // An attempt has brought the file forward only if it came further than all before it; otherwise a server
    // that starts from zero each time and always breaks would be asked for ever.
    let mut furthest = partial.len;
    if size != Some(partial.len) {
        job.client.retry(file, job.client.retries(), job.progress, || {
            let result = attempt(job, file, &mut partial, &mut size);
            let further = partial.len > furthest;
            furthest = furthest.max(partial.len);
            result.map_err(|failure| match failure {
                Failure::Again { url, cause, pause, .. } => Failure::Again { url, cause, pause, progressed: further },
                other => other,
            })
        })?;
    }
    let len = partial.finish(job.cache, metadata, size)?;
    job.progress.event(&Event::Finished { file, bytes: len });
    Ok(())
}

/// One request, from where the partial file ends to the end of the file.
fn attempt(job: Job<'_>, file: &str, partial: &mut Partial, size: &mut Option<u64>) -> Result<(), Failure> {
    let mut answer = job.client.open(&job.cache.repo, job.commit, file, partial.len)?;
    let total = match (answer.status, answer.content_range()) {
        (206, Some((start, total))) if start == partial.len => total,
        (200, _) => {
            // Either nothing was asked to be skipped, or the server cannot skip.
            partial.restart()?;
            answer.body.content_length()
        }
        _ => {
            // The server does not have what the partial file would continue with.
            partial.restart()?;
            let reason = format!("status {} instead of the rest of the file", answer.status);
            return Err(Failure::network(&answer.url, reason, false));
        }
    };
    if let Some(total) = total {
        let expected = *size.get_or_insert(total);
        if expected != total {
            return Err(partial.wrong_size(&job.cache.repo, file, expected, total)?.into());
        }
    }
    copy(job, file, &mut answer, partial, *size)
}

fn copy(
    job: Job<'_>,
    file: &str,
    answer: &mut Answer,
    partial: &mut Partial,
    size: Option<u64>,
) -> Result<(), Failure> {
    let mut buffer = vec![0; BUFFER];
    let mut reader = answer.body.as_reader();
    loop {
        if job.cancelled.load(Ordering::Relaxed) {
            let reason = "stopped, because another file failed".to_owned();
            return Err(HubError::Network { url: answer.url.clone(), attempts: 1, reason }.into());
        }
        let count = match reader.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::network(&answer.url, error.to_string(), false)),
        };
        if count == 0 {
            break;
        }
        partial.write(&buffer[..count])?;
        if let Some(expected) = size.filter(|&size| partial.len > size) {
            let found = partial.len;
            return Err(partial.wrong_size(&job.cache.repo, file, expected, found)?.into());
        }
        job.progress.event(&Event::Advanced { file, bytes: partial.len });
    }
    match size {
        Some(size) if partial.len < size => {
            let reason = format!("the connection ended after {} of {size} bytes", partial.len);
            Err(Failure::network(&answer.url, reason, false))
        }
        _ => Ok(()),
    }
}

/// A file that grows, and the hash of what it holds.
struct Partial {
    file: File,
    path: PathBuf,
    len: u64,
    /// Kept along the way where the whole file's sha256 is known; a git sha1 needs the length first, and is
    /// that of a small file, read once more in the end.
    sha256: Option<Sha256>,
}

impl Partial {
    /// Creates the file, or continues an existing one, whose bytes are hashed first.
    fn open(path: &Path, sha256: bool) -> Result<Self, HubError> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
        let file = file.map_err(HubError::io("open", path))?;
        let mut partial = Self { file, path: path.to_owned(), len: 0, sha256: sha256.then(Sha256::new) };
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = match partial.file.read(&mut buffer) {
                Ok(0) => return Ok(partial),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(HubError::io("read", path)(error)),
            };
            partial.len += count as u64;
            if let Some(hash) = &mut partial.sha256 {
                hash.update(&buffer[..count]);
            }
        }
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::io("write", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(HubError::io("write", &self.path))?;
        self.len = 0;
        if let Some(hash) = &mut self.sha256 {
            *hash = Sha256::new();
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::io("write", &self.path))?;
        self.len += bytes.len() as u64;
        if let Some(hash) = &mut self.sha256 {
            hash.update(bytes);
        }
        Ok(())
    }

    /// Removes the file; the error says why.
    fn wrong_size(&self, repo: &str, file: &str, expected: u64, found: u64) -> Result<HubError, HubError> {
        fs::remove_file(&self.path).map_err(HubError::io("remove", &self.path))?;
        Ok(HubError::SizeMismatch { repo: repo.into(), file: file.into(), expected, found })
    }

    /// Checks length and hash, and gives the file its name as a blob.
    fn finish(self, cache: &RepoCache, metadata: &Metadata, size: Option<u64>) -> Result<u64, HubError> {
        let Metadata { file, etag, .. } = metadata;
        let len = self.len;
        if let Some(expected) = size.filter(|&size| size != len) {
            return Err(self.wrong_size(&cache.repo, file, expected, len)?);
        }
        let (algorithm, found) = match self.sha256 {
            Some(hash) => ("sha256", hex(&hash.finalize())),
            None if is_sha1(etag) => ("git sha1", git_sha1(&self.path)?),
            // A mirror's etag that is no hash: the length is all there is to check.
            None => ("etag", etag.clone()),
        };
        if found != *etag {
            fs::remove_file(&self.path).map_err(HubError::io("remove", &self.path))?;
            let (repo, file, expected) = (cache.repo.clone(), file.clone(), etag.clone());
            return Err(HubError::HashMismatch { repo, file, algorithm, expected, found });
        }
        // On disk before it has its name: a blob that has its name is never looked into again.
        self.file.sync_all().map_err(HubError::io("write", &self.path))?;
        let blob = cache.blob(etag);
        fs::rename(&self.path, &blob).map_err(HubError::io("rename", &blob))?;
        Ok(len)
    }
}

fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && is_lower_hex(etag)
}

fn is_sha1(etag: &str) -> bool {
    etag.len() == 40 && is_lower_hex(etag)
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name that git gives to a file's content: the sha1 of a header with its length, then its bytes.
fn git_sha1(path: &Path) -> Result<String, HubError> {
    let bytes = fs::read(path).map_err(HubError::io("read", path))?;
    let hash = Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(&bytes);
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_names_blobs_as_git_does() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("f");
        // `git hash-object` of these two contents.
        for (bytes, name) in
            [("", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"), ("hello\n", "ce013625030ba8dba906f756967f9e9ca394464a")]
        {
            fs::write(&path, bytes).expect("written");
            assert_eq!(git_sha1(&path).expect("readable"), name);
        }
    }

    #[test]
    fn a_partial_file_is_continued_with_its_hash() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("f.incomplete");
        let mut partial = Partial::open(&path, true).expect("opened");
        partial.write(b"he").expect("written");
        drop(partial);
        let mut partial = Partial::open(&path, true).expect("opened");
        assert_eq!(partial.len, 2);
        partial.write(b"llo\n").expect("written");
        let hash = partial.sha256.clone().expect("asked for").finalize();
        assert_eq!(hex(&hash), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        partial.restart().expect("restarted");
        partial.write(b"x").expect("written");
        assert_eq!(fs::read(&path).expect("readable"), b"x");
    }
}
