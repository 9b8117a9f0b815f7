//! From a model's name to local paths: what is on disk is taken, what is not is fetched. The parts live
//! elsewhere: names in `name`, the choice of files in `select`, the disk in `cache`, the protocol in `http`,
//! one file's transfer in `fetch`.

use crate::cache::RepoCache;
use crate::fetch::{Job, fetch};
use crate::http::{Client, Failure, Listing, Metadata};
use crate::name::{RepoRef, check_revision, is_commit, join, looks_like_path};
use crate::select::{Selection, Unselected, Weights, select, shards};
use crate::{Event, HubConfig, HubError, Progress};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Where a model's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder with `config.json`, weights and tokenizer.
    Folder(PathBuf),
    /// One checkpoint file, such as a GGUF file. Where it is the first part of a split one, the others lie beside it.
    File(PathBuf),
}

impl ModelSource {
    /// The path of the folder or file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::File(path) => path,
        }
    }
}

/// Finds models, in a cache and on a hub.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    client: Client,
}

impl Hub {
    /// A hub by its configuration. Makes no request.
    ///
    /// # Errors
    /// [`HubError::InvalidEndpoint`], [`HubError::InvalidName`] for the revision, and [`HubError::Io`] or
    /// [`HubError::NoCertificates`] for the file of certificates.
    pub fn new(config: HubConfig) -> Result<Self, HubError> {
        check_revision(&config.revision)?;
        let client = Client::new(&config)?;
        Ok(Self { config, client })
    }

    /// The configuration that it was made with.
    pub fn config(&self) -> &HubConfig {
        &self.config
    }

    /// As [`resolve`](crate::resolve), with this hub's configuration.
    ///
    /// # Errors
    /// As [`resolve`](crate::resolve).
    pub fn resolve(&self, model: &str, progress: &dyn Progress) -> Result<ModelSource, HubError> {
        match local(model)? {
            Some(source) => Ok(source),
            None => self.fetch(model, progress).map_err(|error| error.of_a_name(model)),
        }
    }

    /// As [`download`](crate::download), with this hub's configuration.
    ///
    /// # Errors
    /// As [`download`](crate::download).
    pub fn download(&self, repo: &str, progress: &dyn Progress) -> Result<PathBuf, HubError> {
        self.fetch(repo, progress).map(|source| source.path().to_owned())
    }

    fn fetch(&self, model: &str, progress: &dyn Progress) -> Result<ModelSource, HubError> {
        let RepoRef { id, revision, file } = RepoRef::parse(model)?;
        let revision = revision.unwrap_or_else(|| self.config.revision.clone());
        let chosen = file.as_deref();
        let cache = RepoCache::new(&self.config.cache_dir, &id);
        let cached = match cache.commit(&revision) {
            Some(commit) => cache.complete(&commit, chosen),
            None => Err(vec!["all of its files".into()]),
        };
        if self.config.offline {
            let cache_dir = self.config.cache_dir.clone();
            return cached.map_err(|missing| HubError::NotCached { repo: id, revision, cache_dir, missing });
        }

        // With a whole copy at hand there is no reason to keep asking a hub that does not answer.
        let retries = if cached.is_ok() { 0 } else { self.client.retries() };
        let listing = self.client.retry(&id, retries, progress, || self.client.listing(&id, &revision));
        let listing = match (listing, cached) {
            (Ok(listing), _) => listing,
            (Err(error), Ok(source)) if error.allows_cache() => {
                progress.event(&Event::UsingCache { repo: &id, reason: &error.to_string() });
                return Ok(source);
            }
            (Err(error), _) => return Err(error),
        };
        if is_commit(&revision) && listing.commit != revision {
            return Err(HubError::BadAnswer {
                url: format!("{}/{id}", self.config.endpoint),
                expected: "the commit that was asked for",
                found: listing.commit,
            });
        }
        let selection =
            select(&listing.files, chosen).map_err(|why| unselected(why, &id, &revision, chosen, &listing))?;
        self.fetch_selection(&cache, &listing, &selection, progress)?;
        cache.write_ref(&revision, &listing.commit)?;
        Ok(cache.source(&listing.commit, &selection))
    }

    /// Small files first, weights last: where the weights are whole, so is the rest.
    fn fetch_selection(
        &self,
        cache: &RepoCache,
        listing: &Listing,
        selection: &Selection,
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        let commit = &listing.commit;
        let mut small = selection.files.clone();
        if let Weights::Index(index) = &selection.weights {
            small.push(index.clone());
        }
        self.fetch_all(cache, commit, &small, progress)?;
        let weights = match &selection.weights {
            Weights::Files(files) | Weights::Single(files) => files.clone(),
            Weights::Index(index) => {
                let path = join(&cache.snapshot(commit), index);
                let bytes = std::fs::read(&path).map_err(HubError::io("read", &path))?;
                shards(&bytes, &cache.repo, index)?
            }
        };
        if let Some(absent) = weights.iter().find(|name| !listing.files.contains(*name)) {
            let (repo, revision, file) = (cache.repo.clone(), commit.clone(), absent.clone());
            return Err(HubError::FileNotFound { repo, revision, file, found: Vec::new() });
        }
        self.fetch_all(cache, commit, &weights, progress)
    }

    /// Fetches those of the files that the snapshot lacks, several at a time.
    fn fetch_all(
        &self,
        cache: &RepoCache,
        commit: &str,
        files: &[String],
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        let snapshot = cache.snapshot(commit);
        let missing: Vec<&String> = files.iter().filter(|name| !join(&snapshot, name).is_file()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let cancelled = AtomicBool::new(false);
        let found = self.in_parallel(&missing, &cancelled, |file| {
            let ask = || self.client.metadata(&cache.repo, commit, file);
            self.client.retry(file, self.client.retries(), progress, || {
                if cancelled.load(Ordering::Relaxed) { Err(stopped(file)) } else { ask() }
            })
        })?;

        // Two names for the same bytes are one transfer.
        let mut seen = BTreeSet::new();
        let bytes = |metadata: &Metadata| if crate::fetch::has_blob(cache, metadata) { None } else { metadata.size };
        let new = found.iter().filter(|metadata| seen.insert(&metadata.etag));
        let bytes = new.filter_map(bytes).fold(0_u64, u64::saturating_add);
        progress.event(&Event::Plan { files: found.len(), bytes });
        let job = Job { client: &self.client, cache, commit, progress, cancelled: &cancelled };
        self.in_parallel(&found, &cancelled, |metadata| fetch(job, metadata))?;
        Ok(())
    }

    /// Works on all items, `parallel` at a time, and gives the results in the items' order. After a failure no
    /// item is begun, `cancelled` is set, and the first failure is the answer.
    fn in_parallel<I: Sync, T: Send>(
        &self,
        items: &[I],
        cancelled: &AtomicBool,
        work: impl Fn(&I) -> Result<T, HubError> + Sync,
    ) -> Result<Vec<T>, HubError> {
        let next = AtomicUsize::new(0);
        let results = Mutex::new((Vec::new(), None));
        let worker = || {
            while !cancelled.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(index) else { break };
                let result = work(item);
                // A panic in one thread ends the scope with that panic, so that no one reads a poisoned lock.
                let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                match result {
                    Ok(value) => results.0.push((index, value)),
                    // Later failures are only what the first one set off.
                    Err(error) => {
                        results.1.get_or_insert(error);
                        cancelled.store(true, Ordering::Relaxed);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.config.parallel.min(items.len()) {
                scope.spawn(worker);
            }
            worker();
        });
        let (mut values, error) = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(error) = error {
            return Err(error);
        }
        values.sort_by_key(|(index, _)| *index);
        Ok(values.into_iter().map(|(_, value)| value).collect())
    }
}

/// A path that exists, or `None` for what must be a hub id.
pub(crate) fn local(model: &str) -> Result<Option<ModelSource>, HubError> {
    let path = PathBuf::from(model);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(Some(ModelSource::Folder(path))),
        Ok(_) => Ok(Some(ModelSource::File(path))),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(HubError::io("read", path)(error)),
        Err(_) if looks_like_path(model) => Err(HubError::NoSuchPath { path }),
        Err(_) => Ok(None),
    }
}

fn stopped(file: &str) -> Failure {
    let reason = "stopped, because another file failed".to_owned();
    Failure::Final(HubError::Network { url: file.into(), attempts: 0, reason })
}

fn unselected(why: Unselected, repo: &str, revision: &str, chosen: Option<&str>, listing: &Listing) -> HubError {
    let repo = repo.to_owned();
    match why {
        Unselected::NoWeights => HubError::NoWeights { repo, found: listing.files.iter().cloned().collect() },
        Unselected::Choose(options) => HubError::ChooseFile { repo, options },
        Unselected::NoFile(found) => {
            let file = chosen.unwrap_or_default().to_owned();
            HubError::FileNotFound { repo, revision: revision.into(), file, found }
        }
    }
}
