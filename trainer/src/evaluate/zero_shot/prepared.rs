//! A validated zero-shot data set: class names, templates and list of images. Validation needs neither model nor
//! image data, so that errors are reported before either is loaded.

use cnclip_crds::tasks::{
    DatasetDefaults, Metric, TaskKind, TemplateSet, TemplatesReport, ZeroShotConfig,
};
use sha2::{Digest, Sha256};

use super::class_folders::{ClassImage, TEST_FOLDER, list_class_images};
use super::dataset_errors::DatasetErrors;
use super::index_files::{LABELS_FILE, ORDER_FILE, parse_labels, parse_order};
use super::line_files::{parse_class_names, parse_templates};
use crate::error::{Error, Result};
use cnclip_compute::digest::{hex, sha256};
use cnclip_data::store::Store;

/// File with the names of the classes.
pub(super) const NAMES_FILE: &str = "label_cn.txt";

/// One classification, ready to be scored.
#[derive(Clone, Debug)]
pub struct PreparedZeroShot {
    /// Name of the task.
    pub name: String,
    /// Name of the data set in submissions.
    pub dataset_name: String,
    /// The data set.
    pub store: Store,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Prompt templates.
    pub templates: PromptTemplates,
    /// The images.
    pub files: Vec<ClassImage>,
    /// For each image all its classes.
    pub labels: Vec<Vec<usize>>,
    /// For each row of a submission, the index of its image; the order of the images if not given.
    pub order: Option<Vec<usize>>,
    /// The metric that the task is compared by.
    pub primary_metric: Metric,
    /// sha256 of what the scores depend on: the class names, the labels of images of several classes, and the
    /// names and sizes of the images. The order of a submission is not part of it.
    pub digest: String,
}

/// Prompt templates for class names.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptTemplates {
    /// Their origin.
    pub from: String,
    /// sha256 of that file.
    pub sha256: String,
    /// One or more templates, each with a placeholder for the name.
    pub texts: Vec<String>,
}

impl PreparedZeroShot {
    /// Reads and validates everything except the images themselves.
    ///
    /// # Errors
    /// If a store cannot be read or listed, or the data set is invalid; then with all its errors.
    pub fn from_config(name: &str, config: &ZeroShotConfig) -> Result<Self> {
        Self::from_store(name, config, Store::open(&config.dataset)?)
    }

    /// The same with the data set in this store.
    ///
    /// # Errors
    /// As [`PreparedZeroShot::from_config`].
    pub fn from_store(name: &str, config: &ZeroShotConfig, store: Store) -> Result<Self> {
        let defaults = config.preset.map(|preset| preset.defaults());
        let default_metric = defaults.map_or(Metric::Accuracy, |defaults| defaults.primary_metric);
        let primary_metric = config.metric.unwrap_or(default_metric);
        let mut mistakes = DatasetErrors::default();
        let templates = select_templates(config, defaults, &mut mistakes)?;
        let mut digest = Sha256::new();
        let classes = match store.get_if_exists(NAMES_FILE)? {
            Some(bytes) => {
                digest.update(sha256(&bytes));
                let repeats = defaults.is_some_and(|defaults| defaults.has_duplicate_names);
                parse_class_names(NAMES_FILE, &bytes, repeats, &mut mistakes)
            }
            None => {
                mistakes.push_error(format!(
                    "There is no {NAMES_FILE}: write the Chinese name of each class in it, one a line, in \
                     the order of the class folders."
                ));

                Vec::new()
            }
        };

        let files = list_images(&store, &classes, &mut digest, &mut mistakes)?;
        // Not part of the digest: the order permutes rows of a submission and changes no score.
        let found = store.get_if_exists(ORDER_FILE)?;
        let order = found.and_then(|bytes| parse_order(&bytes, files.len(), &mut mistakes));
        let found = store.get_if_exists(LABELS_FILE)?.unwrap_or_default();
        // An absent file counts as empty, so that the digest always covers the same parts.
        digest.update(sha256(&found));
        let labels = parse_labels(&found, &files, classes.len(), &mut mistakes);

        check_class_count(
            config,
            defaults,
            primary_metric,
            classes.len(),
            &mut mistakes,
        );
        mistakes.into_result(&format!("Task {name}: {}", store.uri()))?;
        // EvalAI knows ELEVATER's data sets by their own names, not by that of the task.
        let called = config
            .preset
            .map_or_else(|| name.to_owned(), |preset| preset.name());

        let name = name.to_owned();
        let digest = hex(&digest.finalize());
        Ok(Self {
            name,
            dataset_name: called,
            store,
            classes,
            templates,
            files,
            labels,
            order,
            primary_metric,
            digest,
        })
    }
}

impl PromptTemplates {
    /// Their description in the report.
    pub(super) fn to_report(&self) -> TemplatesReport {
        let Self {
            from,
            sha256,
            texts,
        } = self;

        TemplatesReport {
            from: from.clone(),
            count: texts.len() as i64,
            digest: sha256.clone(),
        }
    }
}

/// Selects the user's templates, or those of the preset.
fn select_templates(
    config: &ZeroShotConfig,
    defaults: Option<DatasetDefaults>,
    mistakes: &mut DatasetErrors,
) -> Result<PromptTemplates> {
    if config.template_set.is_some() && config.templates.is_some() {
        mistakes.push_error("templates and templateSet are both given: leave one of them out.");
    }

    let set = config
        .template_set
        .or(defaults.map(|defaults| defaults.templates));

    let set = set.unwrap_or(TemplateSet::General);
    let (from, bytes) = match &config.templates {
        // The URI is that of the file itself, hence the empty name.
        Some(uri) => (uri.clone(), Store::open(uri)?.get("")?),
        None => (
            format!("cnclip: {set:?}"),
            super::builtin_templates(set).as_bytes().into(),
        ),
    };

    let texts = parse_templates(&from, &bytes, mistakes);
    Ok(PromptTemplates {
        sha256: sha256(&bytes),
        from,
        texts,
    })
}

/// Lists the images, and adds the listing to the digest.
fn list_images(
    store: &Store,
    names: &[String],
    digest: &mut Sha256,
    mistakes: &mut DatasetErrors,
) -> Result<Vec<ClassImage>> {
    let found = store
        .join_prefix(TEST_FOLDER)
        .list_objects()
        .map_err(|error| listing_error(store, error.into()))?;

    let mut entries = String::new();
    found
        .iter()
        .for_each(|entry| entries += &format!("{} {}\n", entry.bytes, entry.name));

    // Names and sizes: hashing contents would read the whole data set once more.
    digest.update(sha256(entries.as_bytes()));
    let found: Vec<_> = found.into_iter().map(|entry| entry.name).collect();
    Ok(list_class_images(&found, names, mistakes))
}

/// Explains a failed listing: most web servers serve files but do not list them.
fn listing_error(store: &Store, error: Error) -> Error {
    if !store.uri().starts_with("http") {
        return error;
    }

    Error::Config(format!(
        "{error}. The images must be listed, which a web server supports only with WebDAV (PROPFIND): copy \
         the data set to s3://, gs://, az:// or a folder, and use that."
    ))
}

fn check_class_count(
    config: &ZeroShotConfig,
    defaults: Option<DatasetDefaults>,
    primary_metric: Metric,
    classes: usize,
    mistakes: &mut DatasetErrors,
) {
    if let (Some(preset), Some(defaults)) = (config.preset, defaults)
        && classes > 0
        && defaults.classes != classes
    {
        let name = preset.name();
        let right = defaults.classes;
        mistakes.push_error(format!(
            "{NAMES_FILE} has {classes} names, and {name} {right} classes: correct the file, or leave the \
             preset out."
        ));
    }

    if primary_metric.task_kind() != TaskKind::ZeroShot {
        mistakes.push_error("The metric is one of retrieval: choose another.");
    }

    if primary_metric == Metric::RocAuc && classes > 0 && classes != 2 {
        mistakes.push_error(format!(
            "The metric rocAuc needs two classes, and there are {classes}: choose another."
        ));
    }
}

#[cfg(test)]
mod tests;
