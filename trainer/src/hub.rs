//! Weights on the Hugging Face hub: which files a URI names, and copies of them on this machine.
//! Never looks into them, except into the index of weights in several files.

use std::path::{Path, PathBuf};

use hf_hub::api::tokio::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Repo, RepoType};

use crate::error::{Error, Result};
use crate::weights::{INDEX_SUFFIX, list_shard_files};
use cnclip_data::store;

/// How URIs of the hub begin.
pub const HUB_SCHEME: &str = "hf://";
/// Files that are fetched along with weights, where they are there.
const COMPANION_FILES: [&str; 2] = ["config.json", "vocab.txt"];
/// Parts of a file in flight.
const MAX_PARALLEL_DOWNLOADS: usize = 4;

/// A client of the hub, and where copies of its files are kept.
#[derive(Clone, Debug)]
pub struct HubClient {
    endpoint: String,
    token: Option<String>,
    cache: PathBuf,
}

/// Weights of the hub on this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchedWeights {
    /// What was fetched, with the commit for a revision.
    pub uri: String,
    /// The folder that holds it.
    pub folder: PathBuf,
    /// The file of the weights in it, or the index of several.
    pub file: String,
}

/// `hf://organisation/name[@revision][/file]`.
#[derive(Clone, Debug, PartialEq)]
struct HubUri {
    repository: String,
    revision: String,
    file: Option<String>,
}

impl HubClient {
    /// The hub of the environment: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`. Where neither `HF_HOME` nor
    /// the user's cache can be written to, copies are kept in the folder for temporary files.
    pub fn from_env() -> Self {
        // Manifests often set optional variables to an empty string, which means unset.
        let value = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let default_home = || {
            let home = value("HOME")?;
            Some(Path::new(&home).join(".cache/huggingface"))
        };

        let cache = value("HF_HOME")
            .map(PathBuf::from)
            .or_else(default_home)
            .map(|home| home.join("hub"))
            .filter(|cache| is_writable_dir(cache));

        Self {
            endpoint: value("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: value("HF_TOKEN"),
            cache: cache.unwrap_or_else(|| std::env::temp_dir().join("cnclip-hub")),
        }
    }

    /// Copies the weights that a URI names to this machine, unless they are there; `files` are the
    /// names to look for where it names a whole repository, in this order.
    ///
    /// # Errors
    /// If it is no URI of the hub, names nothing that is there, or the hub does not hand it out.
    pub fn fetch_weights(
        &self,
        uri: &str,
        files: &'static [&'static str],
    ) -> Result<FetchedWeights> {
        let hub = self.clone();
        let place = HubUri::parse(uri)?;
        let uri = uri.to_owned();
        store::block_on(async move { hub.fetch_files(&uri, place, files).await })?
    }

    async fn fetch_files(
        &self,
        uri: &str,
        place: HubUri,
        files: &[&str],
    ) -> Result<FetchedWeights> {
        let failed = |error| self.convert_api_error(uri, error);
        let api = self.build_api().map_err(failed)?;
        let HubUri {
            repository,
            revision,
            file,
        } = place;

        let repo = |revision: &str| {
            let revision = revision.to_owned();
            api.repo(Repo::with_revision(
                repository.clone(),
                RepoType::Model,
                revision,
            ))
        };

        // A branch is resolved to its commit once: files fetched one by one from a branch that moves meanwhile
        // would be of two models.
        let info = repo(&revision).info().await.map_err(failed)?;
        // The listing says which files exist, so optional ones are not asked for in vain.
        let held: Vec<&str> = info
            .siblings
            .iter()
            .map(|file| file.rfilename.as_str())
            .collect();

        let default = || Some((*files.iter().find(|file| held.contains(file))?).to_owned());
        let file = file
            .or_else(default)
            .filter(|file| held.contains(&file.as_str()))
            .ok_or_else(|| no_weights_error(uri, &held, files))?;

        let commit = repo(&info.sha);
        let path = commit.get(&file).await.map_err(failed)?;

        for companion in COMPANION_FILES {
            if held.contains(&companion) {
                commit.get(companion).await.map_err(failed)?;
            }
        }

        if file.ends_with(INDEX_SUFFIX) {
            self.fetch_shards(uri, &commit, &path, &held).await?;
        }

        // The root of the commit, where config.json is: the file may lie in folders below it.
        let folder = path
            .ancestors()
            .nth(file.split('/').count())
            .unwrap_or(&path)
            .to_owned();

        Ok(FetchedWeights {
            uri: format!("{HUB_SCHEME}{repository}@{}/{file}", info.sha),
            folder,
            file,
        })
    }

    /// Fetches the files that an index names. `held` are those of the repository: another name could lead out of the
    /// folder of the cache.
    async fn fetch_shards(
        &self,
        uri: &str,
        commit: &ApiRepo,
        index: &Path,
        held: &[&str],
    ) -> Result<()> {
        let bytes = std::fs::read(index).map_err(Error::io_context("read", index))?;
        for shard in list_shard_files(uri, &bytes)? {
            if !held.contains(&shard.as_str()) {
                return Err(Error::Data(format!(
                    "the index {uri} names {shard:?}, which the repository does not hold"
                )));
            }

            commit
                .get(&shard)
                .await
                .map_err(|error| self.convert_api_error(uri, error))?;
        }

        Ok(())
    }

    fn build_api(&self) -> Result<Api, ApiError> {
        ApiBuilder::new()
            .with_endpoint(self.endpoint.trim_end_matches('/').to_owned())
            .with_token(self.token.clone())
            .with_cache_dir(self.cache.clone())
            .with_max_files(MAX_PARALLEL_DOWNLOADS)
            // The client's own bars would be written into the JSON log.
            .with_progress(false)
            .build()
    }

    /// The error of a request to the hub: its exit code decides whether the operator tries again.
    fn convert_api_error(&self, uri: &str, error: ApiError) -> Error {
        let endpoint = &self.endpoint;
        let status = match &error {
            ApiError::RequestError(error) => error.status().map(|status| status.as_u16()),
            _ => None,
        };

        // The hub answers 401 for what does not exist too, so as not to reveal private names. A 404 is final;
        // anything else may be an outage, which a later attempt survives.
        match (status, &self.token) {
            (Some(401 | 403), None) => Error::Config(format!(
                "{endpoint} does not hand out {uri}: it is private, gated or not there. Check the \
                 name, accept its terms on the hub and set HF_TOKEN."
            )),
            (Some(401 | 403), Some(_)) => Error::Config(format!(
                "{endpoint} does not hand out {uri} to this HF_TOKEN. Accept the terms of the \
                 repository on the hub, or use a token that may read it."
            )),
            (Some(404), _) => Error::Config(format!(
                "{endpoint} has no {uri}. Check organisation, name, revision and file."
            )),
            _ => {
                let text = format!("{endpoint} does not answer: {error}");
                let source = std::io::Error::new(std::io::ErrorKind::HostUnreachable, text);
                Error::File {
                    verb: "fetch",
                    path: uri.to_owned(),
                    source,
                }
            }
        }
    }
}

fn no_weights_error(uri: &str, held: &[&str], files: &[&str]) -> Error {
    Error::Config(format!(
        "{uri} holds no weights that are looked for ({}). It holds {}. Name one of these behind the \
         repository.",
        files.join(", "),
        held.join(", ")
    ))
}

/// Whether files can be kept in a folder, which is made if it is not there.
fn is_writable_dir(folder: &Path) -> bool {
    // By writing: permission bits do not show that a file system is mounted read-only, as the root
    // of a hardened container is.
    std::fs::create_dir_all(folder).is_ok() && tempfile::tempfile_in(folder).is_ok()
}

impl HubUri {
    fn parse(uri: &str) -> Result<Self> {
        let parts: Vec<&str> = uri
            .strip_prefix(HUB_SCHEME)
            .unwrap_or(uri)
            .split('/')
            .collect();
        let found = match parts.as_slice() {
            [organisation, name, file @ ..]
                // Empty parts and dots could lead out of the cache's folder.
                if !parts.iter().any(|p| ["", ".", ".."].contains(p)) =>
            {
                let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
                let file = Some(file.join("/")).filter(|file| !file.is_empty());
                // `refs/pr/1` is a revision, but a slash would begin the file: it comes percent-encoded.
                let revision = revision.replace("%2F", "/");
                Some(Self {
                    repository: format!("{organisation}/{name}"),
                    revision,
                    file,
                })
            }
            _ => None,
        };

        found.filter(|place| !place.revision.is_empty()).ok_or_else(|| {
            Error::Config(format!(
                "{uri:?} is no place on the hub. Expected hf://organisation/name, with @revision or \
                 a file of it behind if need be."
            ))
        })
    }
}

#[cfg(test)]
mod tests;
